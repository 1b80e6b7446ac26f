"""The templates that train part tokens: from images with masks, and from a word."""

from __future__ import annotations

from demo.training.parts import LAYERS, LEVELS, LOSS

from .compose import Node, Note, Workflow
from .partedit import DEMO_PROMPT, DEMO_SAMPLING, blend

HOW = """## Train a part token

1. **Train Part Token** learns the part from images and masks; ten to twenty are enough. Plot and overlays show how well
   it finds the part in images it was not trained on.
2. **Save Part Token** saves it to `models/part_tokens` with the part's name, the model family and its scores.
3. **Load Part Token** loads it, and the rest of the workflow edits with it.
"""

FILES = """### Before you run it: two files

The images and masks come with the pack as two animated files, which *Load Image* loads as batches. Drag
`workflows/input/robot_pictures.webp` onto *Images*, and `workflows/input/robot_head_masks.webp` onto *Masks*
(folder `custom_nodes/ComfyUI-PartEdit-OIR`).

### Your own images

Use any IMAGE batch and a MASK batch in the same order, all of the same size: painted in the mask editor, or from a
segmentation node (template `train_token_from_word`). White is the part.
"""

TRAIN_TURN = """### Settings to try

- `noise_low`, `noise_high`: large parts do better with a middle range, 0.25 to 0.6.
- `loss`: `bce_dice` if the map spills over the rest of the object, as with small parts.
- `masks_2`, and two names in `part_names`, separated by a comma: several parts in one token.
- `resume_name`: lets a long training resume after a stop.
"""

DEMO_TURN = f"""
`layers` is set to the demo model's finest level. For SD 1.x, SD 2.x and SDXL, use the paper's preset `first-8`.
The pack's demo tokens were trained with the loss `{LOSS}` and noise from {LEVELS["noise_low"]} to
{LEVELS["noise_high"]}.
"""

WORD = """## A part token from a word, without painting

1. The checkpoint generates ten images from the prompt.
2. **Grounded SAM Mask** finds the part in each by name (`text`). Check the masks before training.
3. **Train Part Token** learns from them, **Save Part Token** saves the token, and the rest edits with it.

### Models

An SDXL checkpoint; a Segment Anything checkpoint in `models/sams` (sam_vit_b_01ec64.pth); a detector in
the transformers format in `models/grounding/NAME` (IDEA-Research/grounding-dino-tiny). Nothing is downloaded
automatically.
"""

SAM3 = """### With SAM 3

Newer ComfyUI versions have **SAM3 Detect**. Load the SAM 3 checkpoint with *Load Checkpoint*, encode the part's name
with its CLIP in *CLIP Text Encode*, and connect both and the images. Then connect its `masks` to **Train Part Token**
instead of the mask of *Grounded SAM Mask*. It often knows parts ("head of the horse") that object detectors do not.
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
    """Saves, loads and edits with the token of the node ``train``."""
    return (
        Node("plot", "PreviewImage", 3, {}, {"images": "train.plot"}, "Loss and IoU"),
        Node("overlays", "PreviewImage", 3, {}, {"images": "train.overlays"}, "Held-out images"),
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
        Node("pictures", "LoadImage", 1, {"image": "robot_pictures.webp"}, {}, "Images"),
        Node("mask_pictures", "LoadImage", 1, {"image": "robot_head_masks.webp"}, {}, "Masks"),
        Node("masks", "ImageToMask", 2, {"channel": "red"}, {"image": "mask_pictures"}),
        Node(
            "train",
            "TrainPartToken",
            2,
            {"part_names": "robot head", "steps": 600, "layers": LAYERS},
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
            "Prompt for the images",
        ),
        Node("nothing", "CLIPTextEncode", 1, {"text": ""}, {"clip": "checkpoint.CLIP"}, "Empty prompt"),
        Node("ten", "EmptyLatentImage", 1, {"width": 1024, "height": 1024, "batch_size": 10}, {}, "Ten images"),
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
            "Part, by name",
        ),
        Node("mask_view", "MaskToImage", 2, {}, {"mask": "masks.mask"}),
        Node("masks_shown", "PreviewImage", 2, {}, {"images": "mask_view"}, "Masks: check them"),
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
            {"seed": 42, "steps": 50, "cfg": 7.5, "sampler_name": "ddim"},
        ),
    ),
)

WORKFLOWS = (DEMO, FROM_WORD)
