"""The PartEdit templates with one part: the same graph on the demo checkpoint and on a real SDXL one."""

from __future__ import annotations

from demo.training.defaults import CFG, CHANGED_WORDS, SCHEDULER, STEPS

from . import models
from .compose import Node, Note, Workflow

# Width of the node with the result.
LARGE = 520

HOW = """## Part edit

1. **PartEdit Prompt**: `source` describes the image, `edit` is the same prompt with the part changed.
   The two should differ only in the words for the part. Or write only the change: `man -> robot`.
2. **Load Part Token** chooses the part: the token finds it inside the model during sampling.
3. **Feature Blend Sampler** samples source and edit together and blends the edit in under the token's mask.

Run it: the images on the right are source, mask and edit.
"""

TURN = """### Settings to try

- `omega`: softness of the mask. Larger is softer.
- `edit steps`: how long the edit is confined to the mask (1 = all steps).
- More lines in `edit` give more edits of the same source in one run.
"""

DEMO_NOTE = """This workflow needs no download: the demo model and its tokens come with the pack. `omega`, `cfg` and
`scheduler` of the sampler and `changed words` of the prompt are set for them. For a real checkpoint, use the template
`partedit_sdxl`.

"""

# Settings for the demo checkpoint, measured by `run.py evaluate --demo`. An omega of 0.5 changes a few more parts and
# goes with paste_back; without it, 0.7 preserves more of the rest.
DEMO_SAMPLING: dict[str, object] = {
    "seed": 5,
    "steps": STEPS,
    "cfg": CFG,
    "sampler_name": "dpmpp_2m",
    "scheduler": SCHEDULER,
    "omega": 0.7,
}
DEMO_PROMPT: dict[str, object] = {"changed_words": CHANGED_WORDS}


def blend(model: str, sampling: dict[str, object], column: int = 2, **links: str) -> Node:
    """The sampler of a part edit; ``links`` override or add to its usual inputs, an empty string removes one."""
    usual = {
        "model": model,
        "edit_prompt": "prompt",
        "negative": "negative",
        "latent_image": "size",
        "part_token": "token",
    }
    joined = {name: origin for name, origin in {**usual, **links}.items() if origin}
    return Node("edit", "FeatureBlendSampler", column, dict(sampling), joined)


def results(vae: str, column: int = 3, source: str = "Source", prefix: str = "partedit") -> tuple[Node, ...]:
    """Source, mask and edit of `blend` as images; the edit is saved."""
    return (
        Node("source_image", "VAEDecode", column, {}, {"samples": "edit.source", "vae": vae}),
        Node("mask_image", "MaskToImage", column, {}, {"mask": "edit.mask"}),
        Node("edited_image", "VAEDecode", column, {}, {"samples": "edit.edited", "vae": vae}),
        Node("show_source", "PreviewImage", column + 1, {}, {"images": "source_image"}, source),
        Node("show_mask", "PreviewImage", column + 1, {}, {"images": "mask_image"}, "Mask"),
        saved("edited_image", column + 2, prefix),
    )


def saved(images: str, column: int, prefix: str) -> Node:
    """The result, saved and shown large."""
    return Node("save", "SaveImage", column, {"filename_prefix": prefix}, {"images": images}, "Edit", LARGE)


def checkpoint(file: models.ModelFile) -> Node:
    """A real checkpoint."""
    return Node("checkpoint", "CheckpointLoaderSimple", 0, {"ckpt_name": file.name})


def token(file: models.ModelFile, key: str = "token", title: str = "") -> Node:
    """A published part token."""
    return Node(key, "LoadPartToken", 0, {"part_token": file.name}, {}, title)


def _graph(
    first: tuple[Node, ...],
    model: str,
    clip: str,
    vae: str,
    size: tuple[int, int],
    texts: dict[str, str],
    token: str,
    sampling: dict[str, object],
    follow: dict[str, object] | None = None,
    decoded: bool = False,
) -> tuple[Node, ...]:
    """``decoded``: the sampler gets the VAE, to show masks over decoded images; one more decode of the source."""
    width, height = size
    prompt = {"source": texts["source"], "edit": texts["edit"], **(follow or {})}
    token_values = {"part_token": token} if token else {}
    return (
        *first,
        Node("token", "LoadPartToken", 0, token_values),
        Node("size", "EmptyLatentImage", 0, {"width": width, "height": height}),
        Node("prompt", "PartEditPrompt", 1, prompt, {"clip": clip}),
        Node("negative", "CLIPTextEncode", 1, {"text": texts.get("negative", "")}, {"clip": clip}, "Negative prompt"),
        blend(model, sampling, vae=vae if decoded else ""),
        *results(vae),
    )


DEMO = Workflow(
    "partedit_demo",
    (Note(HOW, 0), Note(DEMO_NOTE + TURN, 3)),
    _graph(
        (Node("demo", "LoadDemoModel", 0),),
        "demo.MODEL",
        "demo.CLIP",
        "demo.VAE",
        (256, 256),
        {"source": "a red robot in the snow", "edit": "a blue robot in the snow"},
        "demo_robot_head.safetensors",
        DEMO_SAMPLING,
        DEMO_PROMPT,
        decoded=True,
    ),
    "save",
)

SDXL = Workflow(
    "partedit_sdxl",
    (Note(models.files_note(models.SDXL, models.HUMAN_HEAD), 0), Note(HOW, 1), Note(TURN, 3)),
    _graph(
        (checkpoint(models.SDXL),),
        "checkpoint.MODEL",
        "checkpoint.CLIP",
        "checkpoint.VAE",
        (1024, 1024),
        {"source": "a closeup of a man outdoors", "edit": "man -> robot"},
        models.HUMAN_HEAD.name,
        {"seed": 42, "steps": 50, "cfg": 7.5, "sampler_name": "ddim"},
    ),
)

WORKFLOWS = (DEMO, SDXL)
