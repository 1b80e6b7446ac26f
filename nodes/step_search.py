"""InversionStepSearch: from which inversion step is each object edited best?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..core.oir.candidates import STRATEGIES, parse_steps
from ..core.oir.report import Thumbnails, contact_sheet, curves, score_plot, summary
from ..core.oir.search import SearchSettings, picture_decoder, search_steps
from ..core.oir.types import SCORE_TEXTS, EditingPair
from . import io_types
from .common import advanced


class InversionStepSearch(io.ComfyNode):
    """Trajectory and editing pairs → STEP_SEARCH, contact sheet, plot, scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InversionStepSearch",
            display_name="Inversion Step Search",
            category="OIR",
            description="Edits each object from several inversion steps, scores the results, and finds the step that "
            "changes the object as asked and the rest of the picture least.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the trajectory was made with."),
                io.Vae.Input("vae", tooltip="Decodes the candidates, one at a time."),
                io_types.Trajectory.Input(
                    "trajectory",
                    tooltip="From InvertLatent, with one of the ddim methods, of one picture.",
                ),
                io_types.EditingPairs.Input("pairs", tooltip="One EditingPair, or the last one of a chain."),
                io_types.ClipScorer.Input(
                    "clip_scorer",
                    tooltip="Judges how well an object fits its target phrase. From LoadCLIPScorer or LoadDemoModel.",
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance scale of the candidates. The source prompt takes the place of the negative.",
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default=STRATEGIES[0],
                    tooltip="coarse-to-fine tries both ends and two between, then only what promises more than it "
                    "costs: about a third of the work, less with many steps. exhaustive tries every candidate.",
                ),
                io.Int.Input("first_step", default=1, min=1, max=999, tooltip="Smallest inversion step to try."),
                io.Int.Input(
                    "last_step",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Largest inversion step to try; 0 means all steps of the trajectory.",
                ),
                io.Int.Input("stride", default=1, min=1, max=100, tooltip="Try every n-th step only."),
                advanced(
                    io.Int.Input(
                        "batch_size",
                        default=0,
                        min=0,
                        max=256,
                        tooltip="Candidates a UNet call; 0 takes what fits into the free memory. The result does not "
                        "depend on it.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "mask_mode",
                        options=["masked", "published_bias"],
                        default="masked",
                        tooltip="masked: the scorer sees the object alone, as the paper describes. published_bias: the "
                        "published code's way, which favours it and hides nothing.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "published_first",
                        default=False,
                        tooltip="Let the unchanged picture stand in for step 1, as in the published results.",
                    )
                ),
                io.String.Input(
                    "overrides",
                    default="",
                    tooltip="Steps set by hand, one a pair, separated by commas: '24, auto'. Pairs with a number are"
                    " not searched. Empty: search all.",
                ),
                io.Float.Input(
                    "edit_weight",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    tooltip="How much S_e, the fit to the target phrase, counts in S = edit_weight · S_e + S_ne. Raise "
                    "it if the edit hardly shows, lower it if the rest changes too much. 1 is the paper's plain sum.",
                ),
                advanced(
                    io.Combo.Input(
                        "score_text",
                        options=list(SCORE_TEXTS),
                        default=SCORE_TEXTS[0],
                        optional=True,
                        tooltip="What S_e compares the object with. target phrase: the object's own words, as in the "
                        "published code. guided prompt: the whole prompt with the object exchanged, as in the paper.",
                    )
                ),
                *_more_pairs(),
            ],
            outputs=[
                io_types.StepSearch.Output(
                    display_name="search",
                    tooltip="The step of every pair. Connect it to OIRReassemble.",
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="The candidates with their steps and scores; the chosen ones are framed.",
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip="S, S_e and S_ne over the inversion step, one panel a pair.",
                ),
                io.String.Output(
                    display_name="scores",
                    tooltip="Everything as JSON, with the UNet rows that the search took.",
                ),
            ],
        )

    @classmethod
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
        edit_weight: float = 1.0,
        score_text: str = SCORE_TEXTS[0],
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
        thumbnails = Thumbnails()
        search = search_steps(
            model, trajectory, pairs, picture_decoder(vae), clip_scorer, settings, on_candidate=thumbnails.add
        )
        return io.NodeOutput(
            search,
            contact_sheet(search, thumbnails),
            score_plot(search),
            json.dumps(search.to_dict(), indent=1),
            ui={"curve": curves(search), "text": [summary(search)]},
        )


def _more_pairs() -> list[Any]:
    """Sockets that grow as they are used; ComfyUI versions without them have EditingPair's chain alone."""
    if not hasattr(io, "Autogrow"):
        return []
    pairs = io_types.EditingPairs.Input("pairs", tooltip="Another EditingPair, or the last one of another chain.")
    return [
        io.Autogrow.Input(
            "more_pairs",
            optional=True,
            tooltip="More pairs, behind those of the first input: as many as there are objects.",
            template=io.Autogrow.TemplatePrefix(pairs, prefix="pairs_", min=0, max=100),
        )
    ]


def all_pairs(pairs: Sequence[EditingPair], more: dict[str, Any] | None) -> tuple[EditingPair, ...]:
    """The pairs of the first input and of the growing ones, in the order of their sockets."""
    connected = {name: group for name, group in (more or {}).items() if group is not None}
    ordered = sorted(connected, key=lambda name: int(name.rpartition("_")[2]))
    return (*pairs, *(pair for name in ordered for pair in connected[name]))
