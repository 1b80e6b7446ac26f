"""How much an edit preserved and how well it matches its text: PSNR, SSIM, MS-SSIM, and CLIP scores by region.

SSIM is scikit-image's, with the Gaussian window and constants of Wang et al. 2004. MS-SSIM follows Wang et al. 2003:
the product of contrast-structure terms over five halvings, to their published exponents, times the luminance term of
the coarsest scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .mask_inputs import picture_masks

# Wang et al. 2003, section 3.2, from the finest scale to the coarsest.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SIGMA = 1.5
_WINDOW = 11
_K1, _K2 = 0.01, 0.03
# Value used for the infinite PSNR of identical images where a finite number is needed.
EQUAL_DB = 1000.0
# A pixel has changed by more than 8/255. In 8-bit images as float32, a difference of exactly 8/255 would be above or
# below that by rounding alone.
CHANGED = 8 / 255 + 1e-6


@dataclass(frozen=True)
class EditScores:
    """Scores of one edited image against its source; None where a score does not apply.

    Attributes:
        psnr, ssim, ms_ssim: of the whole image. PSNR in dB, inf for identical images.
        psnr_outside, ssim_outside: outside the mask. psnr_inside: inside it.
        ms_ssim_scales: scales used, fewer than five for small images.
        clip_edited_target, clip_edited_source: edited image's masked region against the target and source text.
        clip_before_target: the same region of the source image against the target text.
        clip_unedited: rest of the edited image against the source text; clip_unedited_before: that of the source.
        clip_unedited_regions: rest of the edited image against the rest of the source, image to image (αCLIP_BG of
            PartEdit's section 4.1, with the scorer at hand).
        changed_outside: fraction of the pixels outside the mask that changed by more than 8/255 in any channel.
    """

    psnr: float
    ssim: float
    ms_ssim: float
    ms_ssim_scales: int
    psnr_outside: float | None = None
    ssim_outside: float | None = None
    psnr_inside: float | None = None
    changed_outside: float | None = None
    clip_edited_target: float | None = None
    clip_edited_source: float | None = None
    clip_before_target: float | None = None
    clip_unedited: float | None = None
    clip_unedited_before: float | None = None
    clip_unedited_regions: float | None = None

    def finite(self) -> dict[str, float | None]:
        """The scores by name, for JSON, which has no infinity: `EQUAL_DB` for identical images."""
        values = dataclasses.asdict(self)
        return {name: EQUAL_DB if value is not None and math.isinf(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class MeanScore:
    """Mean of one score over a batch.

    Attributes:
        value: `EQUAL_DB` if all images are identical to their sources.
        images: images that have the score.
        identical: those of them with an infinite PSNR, which are left out of the mean.
    """

    value: float
    images: int
    identical: int = 0


def mean_scores(scores: Sequence[EditScores]) -> dict[str, MeanScore | None]:
    """Mean of each score over the images that have it; None if no image has it.

    PSNR is averaged in dB, as papers do. An identical image has none that could be averaged (it is infinite), so it is
    counted apart.
    """
    means: dict[str, MeanScore | None] = {}
    for name in (field.name for field in dataclasses.fields(EditScores) if field.name != "ms_ssim_scales"):
        known = [value for value in (getattr(score, name) for score in scores) if value is not None]
        finite = [value for value in known if not math.isinf(value)]
        value = fmean(finite) if finite else EQUAL_DB
        means[name] = MeanScore(value, len(known), len(known) - len(finite)) if known else None
    return means


def edit_scores(
    source: torch.Tensor,
    edited: torch.Tensor,
    mask: torch.Tensor | None = None,
    scorer: Any = None,
    source_text: str = "",
    target_text: str = "",
) -> EditScores:
    """All scores of one image.

    Args:
        source, edited: (H, W, 3), 0..1, of the same size.
        mask: (H, W), the edited region above 0.5; another size is resized. None: no regions.
        scorer: a ``ClipScorer``, or None for no CLIP scores.
        source_text, target_text: what the region shows before and should show after; empty ones are skipped.

    Raises:
        ValueError: sizes differ, values are not finite, or the images are too small for SSIM's window.
    """
    before, after = (_checked(picture, name) for picture, name in ((source, "source"), (edited, "edited")))
    if before.shape != after.shape:
        raise ValueError(
            f"edited: is {after.shape[1]} x {after.shape[0]} pixels, source {before.shape[1]} x {before.shape[0]}. "
            "Both must have the same size; scale one of them first."
        )
    if min(before.shape[:2]) < _WINDOW:
        raise ValueError(
            f"source: is {before.shape[1]} x {before.shape[0]} pixels; SSIM needs at least {_WINDOW} x {_WINDOW}. "
            "Scale the images up."
        )
    map_ssim = ssim_map(before, after)
    total, scales = ms_ssim(before, after)
    inside = None if mask is None else _region(mask, before.shape[:2])
    values: dict[str, float | None] = {}
    if inside is not None:
        outside = ~inside
        squared = (before - after) ** 2
        if outside.any():
            values["psnr_outside"] = _psnr(float(squared[outside].mean()))
            values["ssim_outside"] = float(map_ssim[outside].mean())
            values["changed_outside"] = float((np.abs(before - after).max(axis=-1)[outside] > CHANGED).mean())
        if inside.any():
            values["psnr_inside"] = _psnr(float(squared[inside].mean()))
    if scorer is not None:
        values |= _clip_scores(before, after, inside, scorer, source_text, target_text)
    return EditScores(psnr(before, after), float(map_ssim.mean()), total, scales, **values)


def psnr(source: np.ndarray, edited: np.ndarray) -> float:
    """10 · log10(1 / MSE) in dB for values in 0..1; inf for identical images."""
    return _psnr(float(((source - edited) ** 2).mean()))


def _psnr(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim_map(source: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """(H, W) local SSIM, mean over channels; its mean is the usual score up to scikit-image's cropped border."""
    from skimage.metrics import structural_similarity

    _, local = structural_similarity(
        source,
        edited,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return local.mean(axis=-1)


def ms_ssim(source: np.ndarray, edited: np.ndarray) -> tuple[float, int]:
    """Multi-scale SSIM and the number of scales.

    ∏ csⱼ^wⱼ · l_M^w_M with 2 x 2 mean pooling between scales. Images below 176 pixels do not have five scales of at
    least 11 pixels; the weights of the scales they have are then normalised to sum to 1.
    """
    scales = 1
    while scales < len(MS_SSIM_WEIGHTS) and min(source.shape[:2]) >> scales >= _WINDOW:
        scales += 1
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    x, y = (torch.from_numpy(np.ascontiguousarray(p)).double().movedim(-1, 0)[:, None] for p in (source, edited))
    score = 1.0
    for index, weight in enumerate(weights):
        luminance, contrast = _ssim_terms(x, y)
        value = float((luminance * contrast).mean() if index == scales - 1 else contrast.mean())
        # A negative mean has no real root of such an exponent; the original code's users clip it as well.
        score *= max(value, 0.0) ** float(weight)
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return score, scales


def _ssim_terms(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Luminance and contrast-structure maps of (C, 1, H, W) images, where the whole window is inside."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    line = line / line.sum()

    def blur(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    c1, c2 = _K1**2, _K2**2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def _clip_scores(
    before: np.ndarray, after: np.ndarray, inside: np.ndarray | None, scorer: Any, source_text: str, target_text: str
) -> dict[str, float | None]:
    old, new = (torch.from_numpy(picture).float() for picture in (before, after))
    region = None if inside is None else torch.from_numpy(inside).float()
    values: dict[str, float | None] = {}

    def fit(feature: torch.Tensor, text: str) -> float:
        return float(feature @ scorer.text_features(text).to(feature))

    if (region is None or region.any()) and (target_text.strip() or source_text.strip()):
        edited = scorer.image_features(new, region)
        if target_text.strip():
            values["clip_edited_target"] = fit(edited, target_text)
            values["clip_before_target"] = scorer.score(old, target_text, region)
        if source_text.strip():
            values["clip_edited_source"] = fit(edited, source_text)
    if region is not None and (region < 1).any():
        rest_before, rest_after = (scorer.image_features(picture, 1 - region) for picture in (old, new))
        if source_text.strip():
            values["clip_unedited"] = fit(rest_after, source_text)
            values["clip_unedited_before"] = fit(rest_before, source_text)
        values["clip_unedited_regions"] = float(rest_before @ rest_after)
    return values


def _checked(picture: torch.Tensor, name: str) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[-1] < 3:
        raise ValueError(f"{name}: expected an image of shape (H, W, 3), got {tuple(picture.shape)}.")
    if not torch.isfinite(picture).all():
        raise ValueError(f"{name}: contains NaN or infinite values. Check the node that made it.")
    return picture[..., :3].detach().cpu().double().clamp(0, 1).numpy()


def _region(mask: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    if mask.ndim != 2:
        raise ValueError(f"mask: expected a shape (H, W), got {tuple(mask.shape)}.")
    soft = picture_masks(mask, 1, size, "mask")[None]
    if tuple(soft.shape[-2:]) != tuple(size):
        soft = F.interpolate(soft, size=size, mode="bilinear", align_corners=False)
    return (soft[0, 0] > 0.5).numpy()
