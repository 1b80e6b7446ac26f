"""The metrics of an edit: Edit Metrics on the server for pictures and CLIP, the part's colour on the demo."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from PIL import Image

from .. import decibels
from .cases import Case, Pictures
from .methods.base import Wanted
from .methods.loaded import Loaded
from .methods.settings import Scorer
from .networks import Measures


@dataclass(frozen=True)
class Column:
    """A metric: its key in the results, its head in tables, its format, and what it is."""

    key: str
    head: str
    digits: int
    about: str
    better: str = "↑"

    def shown(self, value: float) -> str:
        """A value as text."""
        return decibels.shown(value, self.digits) if self.key == "psnr" else f"{value:.{self.digits}f}"


# From here on a background counts as kept: below it, other objects and places are seen to change.
KEPT_DB = 20

COLUMNS = (
    Column("success", "success %", 0, "every object or part has its new colour where it should (demo only)"),
    Column(
        "kept",
        f"success, bg ≥ {KEPT_DB} dB %",
        0,
        f"success with a PSNR of {KEPT_DB} dB or more outside the mask (demo only)",
    ),
    Column("alpha_fg", "αCLIP fg", 2, "100 × cosine of the edited region and the phrase it should show, Alpha-CLIP"),
    Column("alpha_bg", "αCLIP bg", 2, "100 × cosine of the other region in the edit and in the source, Alpha-CLIP"),
    Column("alpha_avg", "αCLIP avg", 2, "mean of αCLIP fg and αCLIP bg"),
    Column("clip_fg", "masked CLIP fg", 2, "100 × cosine of the edited region and the phrase it should show"),
    Column("clip_bg", "masked CLIP bg", 2, "100 × cosine of the other region in the edit and in the source"),
    Column("clip_avg", "masked CLIP avg", 2, "mean of masked CLIP fg and masked CLIP bg"),
    Column("clip", "CLIP", 2, "100 × cosine of the whole picture and the edited prompt"),
    Column(
        "psnr",
        "PSNR bg",
        1,
        "dB, outside the mask, against the source; pictures that are equal there have none and are left out of means",
    ),
    Column("ssim", "SSIM bg", 3, "outside the mask, against the source (scikit-image)"),
    Column("ms_ssim", "MS-SSIM", 3, "of the whole picture, against the source"),
    Column("changed", "changed %", 1, "of the pixels outside the mask, by more than 8/255", "↓"),
    Column("lpips", "LPIPS", 3, "perceptual distance of the whole picture to the source (AlexNet, version 0.1)", "↓"),
    Column("dino", "DINO", 3, "1 − cosine of the class tokens of picture and source", "↓"),
)
NO_CLIP = "The columns of CLIP are empty: no CLIP is named. Set 'score_scorer' in the file."
MASKED_CLIP = (
    "Masked CLIP stands for Alpha-CLIP: {why} Compare its columns within a table, not with the paper's numbers."
)


def build_scores(loaded: Loaded, case: Case, edited: str, scorer: Scorer | None) -> Wanted:
    """Add the metrics of an edited picture (an uploaded file)."""
    graph = loaded.graph
    source, after = (graph.add("LoadImage", image=name)[0] for name in (case.picture, edited))
    clip = loaded.scorer(scorer)
    texts = {"source_text": case.source, "target_text": case.target} if clip is not None else {}
    mask = loaded.mask(case.mask) if case.mask else None
    by_region = graph.add("EditMetrics", source=source, edited=after, mask=mask, clip_scorer=clip, **texts)
    wanted = {"scores": loaded.told(by_region["json"])}
    if clip is not None:
        whole = graph.add("EditMetrics", source=source, edited=after, clip_scorer=clip, target_text=case.edit)
        wanted["whole"] = loaded.told(whole["json"])
    return Wanted({}, wanted)


def read_scores(
    texts: dict[str, str], picture: bytes, case: Case, pictures: Pictures, measures: Measures
) -> dict[str, float | None]:
    """{key of a column: value}; None where a metric does not apply."""
    found: dict[str, float | None] = json.loads(texts["scores"])["mean"]
    whole: dict[str, float | None] = json.loads(texts["whole"])["mean"] if "whole" in texts else {}
    values = {
        "psnr": found.get("psnr_outside"),
        "ssim": found.get("ssim_outside"),
        "ms_ssim": found.get("ms_ssim"),
        "changed": _hundred(found.get("changed_outside")),
        "clip": _hundred(whole.get("clip_edited_target")),
        "clip_fg": _hundred(found.get("clip_edited_target")) if case.mask else None,
        "clip_bg": _hundred(found.get("clip_unedited_regions")),
        "success": None,
    }
    with Image.open(io.BytesIO(picture)) as image:
        mask = pictures.open(case.mask) if case.mask else None
        values |= measures(pictures.open(case.picture), image, mask, case.target)
        if any(pair.colour for pair in case.pairs):
            from .demo_world import success
            from .judge import JudgeError

            with contextlib.suppress(JudgeError):  # said once, in the report
                values["success"] = _hundred(success(image, case, pictures))
    for name in ("clip", "alpha"):
        fg, bg = values[f"{name}_fg"], values[f"{name}_bg"]
        values[f"{name}_avg"] = (fg + bg) / 2 if fg is not None and bg is not None else None
    return values


def with_kept(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores with the success that left the background as it was: either alone is easy."""
    success, psnr = scores.get("success"), scores.get("psnr")
    if success is None or psnr is None:
        return scores
    return scores | {"kept": success if psnr >= KEPT_DB else 0.0}


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def means(each: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """Mean of every column over the edits that have it; see `averaged`."""
    rows = list(each)
    known = {column.key: averaged(rows, column.key) for column in COLUMNS}
    return {key: fmean(values) if values else None for key, values in known.items()}


def averaged(rows: Iterable[dict[str, Any]], key: str) -> list[float]:
    """The values of a column that go into its mean; of PSNRs see `decibels.averaged`."""
    known = [row[key] for row in rows if row.get(key) is not None]
    return decibels.averaged(known) if key == "psnr" else known
