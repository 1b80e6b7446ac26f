"""InversionStepSearch: finds the inversion step from which each object is edited best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..core.decoding import PictureDecoder, picture_decoder
from ..core.oir.candidates import STRATEGIES, parse_steps
from ..core.oir.memory import SearchMemory
from ..core.oir.report import Thumbnails, contact_sheet, curves, score_plot, summary
from ..core.oir.search import search_steps
from ..core.oir.search_settings import SearchSettings
from ..core.oir.types import SCORE_TEXTS, Pair, StepSearch
from ..core.vision.clip_scorer import MASK_MODES
from . import io_types
from .checks import checked
from .common import advanced, aliases, shows_results
from .search_board import SearchBoard

STANDARD = SearchSettings()
NOT_KEPT = "candidates: turn on keep_candidates in Inversion Step Search, which keeps them at full size."
# Changing an override, the range or the weight looks at known candidates without making them again.
MEMORY = SearchMemory()


class InversionStepSearch(io.ComfyNode):
    """Trajectory and editing pairs → STEP_SEARCH, contact sheet, plot, scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="InversionStepSearch",
            display_name="Inversion Step Search",
            category="OIR",
            **aliases("OIR", "optimal inversion step", "edit object", "object edit"),
            description="Edits each object from several inversion steps, scores the results, and picks the step that "
            "best matches the target phrase while preserving the rest of the image.",
            inputs=[
                io.Model.Input("model", tooltip="The model the trajectory was made with."),
                io.Vae.Input("vae", tooltip="Decodes the candidates, one at a time."),
                io_types.Trajectory.Input(
                    "trajectory",
                    tooltip="From Invert Latent: one image, inverted with a ddim, euler or rf_solver method.",
                ),
                io_types.EditingPairs.Input("pairs", tooltip="One Editing Pair, or the last of a chain."),
                io_types.ClipScorer.Input(
                    "clip_scorer",
                    tooltip="Scores how well an object matches its target phrase. The paper searches with CLIP base. "
                    "From Load CLIP Scorer, CLIP Scorer from Models or Load Demo Model.",
                ),
                io.Float.Input(
                    "cfg",
                    default=STANDARD.cfg,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance scale for the candidates; 7.5 as published. The source prompt serves as the "
                    "negative prompt. Flow models: their usual one; 1 for guidance-distilled models such as Flux dev.",
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default=STANDARD.strategy,
                    tooltip="coarse-to-fine: tries both ends and two steps in between, then only steps likely to score "
                    "higher. About a third of the work with 25 steps, half with 10. short-to-full: looks at many steps "
                    "in short runs, then runs only the most promising in full. About a sixth of the work, but misses "
                    "the best step more often. exhaustive: tries every step.",
                ),
                advanced(
                    io.Int.Input(
                        "first_step",
                        display_name="first step",
                        default=STANDARD.first,
                        min=1,
                        max=999,
                        tooltip="First inversion step to try.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "last_step",
                        display_name="last step",
                        default=STANDARD.last,
                        min=0,
                        max=999,
                        tooltip="Last inversion step to try. 0: the last step of the trajectory.",
                    )
                ),
                advanced(
                    io.Int.Input("stride", default=STANDARD.stride, min=1, max=100, tooltip="Try only every n-th step.")
                ),
                advanced(
                    io.Int.Input(
                        "batch_size",
                        display_name="batch size",
                        default=STANDARD.batch_size,
                        min=0,
                        max=256,
                        tooltip="Batch size: candidates per UNet call. 0: as many as fit into free memory. Does not "
                        "affect the result.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "mask_mode",
                        display_name="mask mode",
                        options=list(MASK_MODES),
                        default=STANDARD.mask_mode,
                        tooltip="masked: the scorer sees only the object, as the paper describes. published_bias: as "
                        "in the published code, which favours the object but hides nothing.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "published_first",
                        display_name="published first",
                        default=STANDARD.published_first,
                        tooltip="Use the unchanged image as the candidate of step 1, as in the published results.",
                    )
                ),
                io.String.Input(
                    "overrides",
                    default="",
                    tooltip="Steps set by hand, one per pair, separated by commas: '24, auto'. Pairs with a number "
                    "are not searched. Empty: search all.",
                ),
                io.Float.Input(
                    "edit_weight",
                    display_name="edit weight",
                    default=STANDARD.edit_weight,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    tooltip="Weight of S_e, the match with the target phrase, in S = edit weight · S_e + S_ne. Raise "
                    "it if the edit hardly shows, lower it if the rest changes too much. The paper uses 1.",
                ),
                advanced(
                    io.Combo.Input(
                        "score_text",
                        display_name="score text",
                        options=list(SCORE_TEXTS),
                        default=STANDARD.score_text,
                        optional=True,
                        tooltip="Text that S_e compares the object with. target phrase: the object's own words, as in "
                        "the published code. guided prompt: the whole prompt with this object replaced, as in the "
                        "paper.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "keep_candidates",
                        display_name="keep candidates",
                        default=False,
                        optional=True,
                        tooltip="Output every candidate at full size as candidates. Off by default: 50 images of 1024 "
                        "x 1024 take 630 MB.",
                    )
                ),
                *_more_pairs(),
            ],
            outputs=[
                io_types.StepSearch.Output(
                    display_name="search",
                    tooltip="The step chosen for each pair. Connect to OIR Reassemble.",
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="All candidates with step and score; the chosen ones are framed. ~ marks short runs, whose "
                    "score is an estimate.",
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip="S, S_e and S_ne against the inversion step, one panel per pair. Hollow points are "
                    "estimates from short runs.",
                ),
                io.String.Output(
                    display_name="scores",
                    tooltip="All scores as JSON, with the number of UNet rows the search used.",
                ),
                io.Image.Output(
                    display_name="image",
                    tooltip="The chosen candidates at full size, one per pair: the edit of each object alone.",
                ),
                io.Latent.Output(display_name="latent", tooltip="The latents of the chosen candidates, one per pair."),
                io.Image.Output(
                    display_name="candidates",
                    tooltip="Every candidate run in full, at full size, pair by pair, steps ascending. Needs "
                    "keep candidates.",
                ),
            ],
        )
        return shows_results(schema)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        trajectory: Any,
        pairs: Any,
        clip_scorer: Any,
        cfg: float,
        strategy: str,
        first_step: int,
        last_step: int,
        stride: int,
        batch_size: int,
        mask_mode: str,
        published_first: bool,
        overrides: str,
        edit_weight: float = STANDARD.edit_weight,
        score_text: str = STANDARD.score_text,
        keep_candidates: bool = False,
        more_pairs: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        pairs = all_pairs(pairs, more_pairs)
        settings = SearchSettings(
            cfg=cfg,
            strategy=strategy,
            first=first_step,
            last=last_step,
            stride=stride,
            batch_size=batch_size,
            mask_mode=mask_mode,
            published_first=published_first,
            overrides=parse_steps(overrides, len(pairs)),
            edit_weight=edit_weight,
            score_text=score_text,
        )
        thumbnails, decode = Thumbnails(keep=keep_candidates), picture_decoder(vae, model)
        shown = SearchBoard(pairs, trajectory.steps, edit_weight, thumbnails)
        search = search_steps(
            model,
            trajectory,
            pairs,
            decode,
            clip_scorer,
            settings,
            on_candidate=shown.add,
            on_remembered=shown.recall,
            on_scored=shown.scored,
            memory=MEMORY,
        )
        image, latent = chosen_candidates(search, decode, thumbnails)
        return io.NodeOutput(
            search,
            contact_sheet(search, thumbnails),
            score_plot(search),
            json.dumps(search.to_dict(), indent=1),
            image,
            {"samples": latent},
            thumbnails.all_full() if keep_candidates else ExecutionBlocker(NOT_KEPT),
            ui={"curve": curves(search), "text": [summary(search)], "partedit_board": shown.output(search)},
        )


def chosen_candidates(
    search: StepSearch, decode: PictureDecoder, thumbnails: Thumbnails
) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates of the chosen steps: pictures (pairs, H, W, 3) and LATENT samples (pairs, C, h, w)."""
    pictures, latents = [], []
    for position, entry in enumerate(search.pairs):
        assert entry.latent is not None
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture = thumbnails.full(position, entry.chosen)
        pictures.append(decode(entry.latent) if picture is None else picture)
        latents.append(entry.latent)
    return torch.stack(pictures), torch.cat(latents)


def _more_pairs() -> list[Any]:
    """Sockets that grow as they are used. ComfyUI versions without them only have Editing Pair's chain."""
    if not hasattr(io, "Autogrow"):
        return []
    pairs = io_types.EditingPairs.Input("pairs", tooltip="Another Editing Pair, or the last of another chain.")
    return [
        io.Autogrow.Input(
            "more_pairs",
            optional=True,
            tooltip="Further pairs, added after those of the first input.",
            template=io.Autogrow.TemplatePrefix(pairs, prefix="pairs_", min=0, max=100),
        )
    ]


def all_pairs(pairs: Sequence[Pair], more: dict[str, Any] | None) -> tuple[Pair, ...]:
    """The pairs of the first input, then of the growing sockets in order."""
    connected = {name: group for name, group in (more or {}).items() if group is not None}
    ordered = sorted(connected, key=lambda name: int(name.rpartition("_")[2]))
    return (*pairs, *(pair for name in ordered for pair in connected[name]))
