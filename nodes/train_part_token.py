"""TrainPartToken: learns a part token from a few images and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..core.files import safe_file_name
from ..core.partedit.token_pictures import small_picture
from ..core.training import inputs as training_inputs
from ..core.training.augment import augmented_views
from ..core.training.maps import best_seen
from ..core.training.plots import overlays, plot
from ..core.training.settings import TrainingSettings
from ..core.training.training import checked_inputs, train_part_token
from . import io_types
from .checks import checked
from .common import advanced, aliases, shows_results
from .training_board import TrainingBoard
from .training_inputs import STANDARD, recipe_inputs

MAX_PARTS = 4


class TrainPartToken(io.ComfyNode):
    """MODEL, VAE, images and masks → PART_TOKEN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="TrainPartToken",
            display_name="Train Part Token",
            category="PartEdit/tokens",
            **aliases("learn part", "part embedding", "textual inversion", "token optimization"),
            description="Learns a part token from images (10 to 20 are enough) and masks of the part. The model "
            "itself is not changed.",
            inputs=[
                io.Model.Input("model", tooltip="The model to learn for. The token only works with its family."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt the images are encoded with, from CLIP Text Encode. May be empty."
                ),
                io.Image.Input("images", tooltip="Images that show the part, all of the same size."),
                io.Mask.Input("masks", tooltip="Masks of the part, one per image, in the same order."),
                io.String.Input(
                    "part_names",
                    display_name="part names",
                    default="head",
                    tooltip="Name of the part. For several parts, one name each: head, tail.",
                ),
                io.Int.Input(
                    "steps",
                    default=STANDARD.steps,
                    min=1,
                    max=100000,
                    tooltip="Optimiser steps. The paper uses 1000 to 2000.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Seed for the training. The same seed gives the same token.",
                ),
                *(
                    io.Mask.Input(
                        f"masks_{number}",
                        optional=True,
                        tooltip=f"Masks of part {number}, learned together with part 1.",
                    )
                    for number in range(2, MAX_PARTS + 1)
                ),
                io.Clip.Input("clip", optional=True, tooltip="Needed for init words."),
                io.String.Input(
                    "init_words",
                    display_name="init words",
                    default="",
                    optional=True,
                    tooltip="Word to start from, one per part, such as head. Needs clip. Empty: random start.",
                ),
                *(advanced(entry) for entry in recipe_inputs()),
            ],
            outputs=[
                io_types.PartToken.Output(
                    "PART_TOKEN",
                    display_name="part_token",
                    tooltip="The token. Use it directly, or save it with Save Part Token.",
                ),
                io.Image.Output(display_name="plot", tooltip="Loss and IoU against the step."),
                io.Image.Output(
                    display_name="overlays",
                    tooltip="Held-out images (or training images) with the learned map in colour and the given mask in "
                    "white.",
                ),
                io.String.Output(display_name="report", tooltip="Scores, times and memory use, as JSON."),
            ],
        )
        return shows_results(schema)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        positive: Any,
        images: torch.Tensor,
        masks: torch.Tensor,
        part_names: str,
        steps: int,
        seed: int,
        clip: Any = None,
        init_words: str = "",
        flip: bool = True,
        crops: int = 0,
        resume_name: str = "",
        **more: Any,
    ) -> io.NodeOutput:
        further = sorted(key for key, value in more.items() if key.startswith("masks_") and value is not None)
        all_masks = [masks, *(more[key] for key in further)]
        recipe = {key: value for key, value in more.items() if not key.startswith("masks_")}
        names, init = _parts(part_names, init_words, clip, len(all_masks))
        pictures, targets = training_inputs.paired(images, all_masks, ["masks", *further])
        settings = TrainingSettings(part_names=names, steps=steps, seed=seed, init=init, **recipe)
        state_file = _state_file(resume_name)
        checked_inputs(model, targets, len(pictures), positive, settings)  # before images are encoded
        views, view_masks, sources = augmented_views(pictures, targets, flip, crops, seed)
        latents = training_inputs.encode_pictures(vae, views, _progress())
        with TrainingBoard(names, pictures, targets) as board:
            token, report = train_part_token(
                model,
                latents,
                view_masks,
                positive,
                settings,
                sources=sources,
                state_file=state_file,
                progress=_progress(),
                watch=board.watch,
                stop=board.stop,
            )
        if state_file is not None and report.stopped_by != "hand":
            state_file.unlink(missing_ok=True)
        judged = report.held_out or sorted(set(sources))
        shown = overlays([pictures[index] for index in judged], report.maps, targets[judged])
        text = report.as_json()
        best = best_seen(report.maps, targets[judged])
        token = replace(token, picture=small_picture(shown[best]))
        shows = {"text": (text,), "partedit_training": board.output(report, shown)}
        return io.NodeOutput(token, plot(report), shown, text, ui=shows)


def _parts(text: str, words: str, clip: Any, count: int) -> tuple[tuple[str, ...], torch.Tensor | None]:
    """Part names, and the embedding rows to start from."""
    names = training_inputs.part_names(text, count)
    if not words.strip():
        return names, None
    if clip is None:
        raise ValueError(
            f"clip: not connected, but init_words is {words!r}. Connect the model's CLIP, or leave init_words empty."
        )
    starts = tuple(word.strip() for word in words.split(",") if word.strip())
    if len(starts) != count:
        raise ValueError(f"init_words: {words!r} gives {len(starts)} words for {count} parts. Write one per part.")
    return names, training_inputs.word_rows(clip, starts)


def _state_file(name: str) -> Path | None:
    if not name.strip():
        return None
    file = safe_file_name(name, "resume_name") + ".training.safetensors"
    return Path(folder_paths.get_output_directory()) / "part_token_training" / file


def _progress() -> Any:
    """A callback that shows progress and stops when the user cancels."""
    bar: list[Any] = []

    def report(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not bar:
            bar.append(comfy.utils.ProgressBar(total))
        bar[0].update_absolute(done, total)

    return report
