"""The templates that make part tokens: from pictures with masks, and from a word."""

from __future__ import annotations

from demo.training.parts import LEVELS, LOSS

from .compose import Node, Note, Workflow
from .partedit import DEMO_LAYERS, DEMO_PROMPT, DEMO_SAMPLING, blend

HOW = """## Make a part token

1. **Train Part Token** learns the part from pictures and masks: ten to twenty are enough. Plot and overlays show how
   well it finds the part in pictures it was not trained on.
2. **Save Part Token** keeps it in `models/part_tokens`, with its part's name, its model's family and its scores.
3. **Load Part Token** reads it back, and the graph below edits with it at once.
"""

FILES = """### Before you run it: two files

The pictures and masks come with the pack as two short picture series, which *Load Image* loads as batches. Drag
`workflows/input/robot_pictures.webp` onto *Pictures*, and `workflows/input/robot_head_masks.webp` onto *Masks*
(folder `custom_nodes/ComfyUI-PartEdit-OIR`).

### Your own

Any IMAGE batch does, and a MASK batch in the same order, all of one size: painted in the mask editor, or from a
segmenter (template `train_token_from_word`). White is the part.
"""

TRAIN_TURN = """### What to turn

- `noise_high`: big parts gain from a middle stretch, `noise_low` 0.25 and `noise_high` 0.6.
- `loss`: `bce_dice` when the map spills over the rest of the object, as with small parts.
- `part_names` with a comma, and `masks_2`: several parts in one token.
- `resume_name`: a name, so that a long training goes on after a stop.
"""

DEMO_TURN = f"""
`layers` is here the demo model's finest level; for SD 1.x, SD 2.x and SDXL the preset `first-8` (the paper's) is right.
The demo tokens of the pack were trained with the loss `{LOSS}` and noise from {LEVELS["noise_low"]} to
{LEVELS["noise_high"]}.
"""

WORD = """## A part token from a word: nobody paints anything

1. The checkpoint makes ten pictures from the prompt.
2. **Grounded SAM Mask** finds the part in each by its name (`text`). Look through the masks before training.
3. **Train Part Token** learns from them, **Save Part Token** keeps the token, and the graph edits with it.

### Models

An SDXL checkpoint; a Segment Anything checkpoint in `models/sams` (sam_vit_b_01ec64.pth); a detector in
the transformers format in `models/grounding/NAME` (IDEA-Research/grounding-dino-tiny). Nothing is downloaded by itself.
"""

SAM3 = """### With SAM 3

A newer ComfyUI brings **SAM3 Detect**. Load the SAM 3 checkpoint with *Load Checkpoint*, encode the part's name with
its CLIP in *CLIP Text Encode*, connect both and the pictures, and its `masks` to **Train Part Token** in place of the
mask of *Grounded SAM Mask*. It often knows parts ("head of the horse") that a detector of objects does not.
"""


def _keep_and_use(
    model: str,
    clip: str,
    vae: str,
    name: str,
    size: int,
    texts: tuple[str, str],
    sampling: dict[str, object],
    follow: dict[str, object] | None = None,
) -> tuple[Node, ...]:
    """Save, load and edit with the token of the node ``train``."""
    return (
        Node("plot", "PreviewImage", 3, {}, {"images": "train.plot"}, "Loss and IoU"),
        Node("overlays", "PreviewImage", 3, {}, {"images": "train.overlays"}, "Held-out pictures"),
        Node(
            "keep",
            "SavePartToken",
            3,
            {"file_name": name, "if_it_exists": "replace it"},
            {"part_token": "train.PART_TOKEN"},
        ),
        Node(
            "load",
            "LoadPartToken",
            3,
            {"part_token": f"{name}.safetensors"},
            {"part_token": "keep.file_name"},
            "Load the saved token",
        ),
        Node("size", "EmptyLatentImage", 4, {"width": size, "height": size}),
        Node("prompt", "PartEditPrompt", 4, {"source": texts[0], "edit": texts[1], **(follow or {})}, {"clip": clip}),
        Node("negative", "CLIPTextEncode", 4, {"text": ""}, {"clip": clip}, "Negative prompt"),
        blend(model, sampling, 4, part_token="load"),
        Node("source_image", "VAEDecode", 5, {}, {"samples": "edit.source", "vae": vae}),
        Node("edited_image", "VAEDecode", 5, {}, {"samples": "edit.edited", "vae": vae}),
        Node("show_source", "PreviewImage", 5, {}, {"images": "source_image"}, "Source"),
        Node("save", "SaveImage", 5, {"filename_prefix": "token_edit"}, {"images": "edited_image"}, "Edit"),
    )


DEMO = Workflow(
    "train_token",
    (Note(HOW, 0), Note(FILES, 1), Note(TRAIN_TURN + DEMO_TURN, 2)),
    (
        Node("demo", "LoadDemoModel", 0),
        Node("nothing", "CLIPTextEncode", 0, {"text": ""}, {"clip": "demo.CLIP"}, "Empty prompt"),
        Node("pictures", "LoadImage", 1, {"image": "robot_pictures.webp"}, {}, "Pictures"),
        Node("mask_pictures", "LoadImage", 1, {"image": "robot_head_masks.webp"}, {}, "Masks"),
        Node("masks", "ImageToMask", 2, {"channel": "red"}, {"image": "mask_pictures"}),
        Node(
            "train",
            "TrainPartToken",
            2,
            {"part_names": "robot head", "steps": 600, "layers": DEMO_LAYERS},
            {
                "model": "demo.MODEL",
                "vae": "demo.VAE",
                "positive": "nothing",
                "images": "pictures",
                "masks": "masks",
            },
        ),
        *_keep_and_use(
            "demo.MODEL",
            "demo.CLIP",
            "demo.VAE",
            "my_robot_head",
            256,
            ("a red robot in the snow", "a blue robot in the snow"),
            DEMO_SAMPLING,
            DEMO_PROMPT,
        ),
    ),
    "overlays",
)

FROM_WORD = Workflow(
    "train_token_from_word",
    (Note(WORD, 0), Note(SAM3, 2), Note(TRAIN_TURN, 3)),
    (
        Node("checkpoint", "CheckpointLoaderSimple", 0, {"ckpt_name": "sd_xl_base_1.0.safetensors"}),
        Node("sam", "LoadSAMModel", 0, {"checkpoint": "sam_vit_b_01ec64.pth"}),
        Node("grounding", "LoadGroundingModel", 0, {"model": "grounding-dino-tiny"}),
        Node(
            "about",
            "CLIPTextEncode",
            1,
            {"text": "a photo of a horse outdoors, whole body"},
            {"clip": "checkpoint.CLIP"},
            "What has the part",
        ),
        Node("nothing", "CLIPTextEncode", 1, {"text": ""}, {"clip": "checkpoint.CLIP"}, "Empty prompt"),
        Node("ten", "EmptyLatentImage", 1, {"width": 1024, "height": 1024, "batch_size": 10}, {}, "Ten pictures"),
        Node(
            "draw",
            "KSampler",
            1,
            {"seed": 1, "steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            {"model": "checkpoint.MODEL", "positive": "about", "negative": "nothing", "latent_image": "ten"},
        ),
        Node("pictures", "VAEDecode", 1, {}, {"samples": "draw", "vae": "checkpoint.VAE"}),
        Node(
            "masks",
            "GroundedSAMMask",
            2,
            {"text": "head"},
            {"image": "pictures", "sam_model": "sam", "grounding_model": "grounding"},
            "The word",
        ),
        Node("mask_view", "MaskToImage", 2, {}, {"mask": "masks.mask"}),
        Node("masks_shown", "PreviewImage", 2, {}, {"images": "mask_view"}, "Masks: look through them"),
        Node(
            "train",
            "TrainPartToken",
            2,
            {"part_names": "head"},
            {
                "model": "checkpoint.MODEL",
                "vae": "checkpoint.VAE",
                "positive": "nothing",
                "images": "pictures",
                "masks": "masks.mask",
            },
        ),
        *_keep_and_use(
            "checkpoint.MODEL",
            "checkpoint.CLIP",
            "checkpoint.VAE",
            "horse_head",
            1024,
            ("a photo of a horse on a meadow", "a photo of a zebra on a meadow"),
            {"seed": 42, "steps": 50, "cfg": 7.5, "sampler_name": "ddim", "layers": "first-8"},
        ),
    ),
)

WORKFLOWS = (DEMO, FROM_WORD)
