"""The templates that train part tokens: from images with masks, and from a word."""

from __future__ import annotations

from demo.training.parts import LAYERS, LEVELS, LOSS, RECIPE

from . import models
from .compose import Node, Note, Workflow
from .partedit import DEMO_PROMPT, DEMO_SAMPLING, blend, checkpoint, saved

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

- `noise low`, `noise high`: large parts do better with a middle range, 0.25 to 0.6.
- `loss`: `bce_dice` if the map spills over the rest of the object, as with small parts.
- `masks 2`, and two names in `part names`, separated by a comma: several parts in one token.
- `resume name`: lets a long training resume after a stop.
"""

DEMO_TURN = f"""
`layers` is set to the demo model's finest level. For SD 1.x, SD 2.x and SDXL, use the paper's preset `first-8`.
The pack's demo tokens were trained with the recipe `{RECIPE}`, the loss `{LOSS}` and noise from
{LEVELS["noise_low"]} to {LEVELS["noise_high"]}.
"""

WORD = """## A part token from a word, without painting

1. The checkpoint generates ten images from the prompt.
2. **SAM3 Detect** finds the part you name in *Part, by name* in each of them. It often knows parts ("head of the
   horse") that detectors of objects do not.
3. **Train Part Token** learns from them, **Save Part Token** saves the token, and the rest edits with it.

Check the masks before training: click *Masks: check them* and press the run button of the toolbar above it. Only what
that node needs runs; the images and masks are then kept for the whole run.
"""

GROUNDED = """### With Grounded SAM

**Grounded SAM Mask** works instead of SAM3 Detect: it needs a Segment Anything checkpoint in `models/sams`
(sam_vit_b_01ec64.pth) and a detector in the transformers format in `models/grounding/NAME`
(IDEA-Research/grounding-dino-tiny). Connect its `mask` to *Train Part Token*.
"""

PAINTED = """## A part token from masks you paint

1. Load an image in each **Load Image** (all of the same proportions), right-click it, *Open in MaskEditor*, and paint
   the part. Four are a start; ten to twenty are better: copy a Load Image, and connect it to the next free sockets of
   **Batch Images** and **Batch Masks**, in the same order.
2. **Train Part Token** learns the part. Plot and overlays show how well it finds it.
3. **Save Part Token** saves the token; the rest edits with it.

An image without a painted mask is refused: its mask is empty.
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
        blend(model, sampling, 5, part_token="load"),
        Node("source_image", "VAEDecode", 6, {}, {"samples": "edit.source", "vae": vae}),
        Node("edited_image", "VAEDecode", 6, {}, {"samples": "edit.edited", "vae": vae}),
        Node("show_source", "PreviewImage", 6, {}, {"images": "source_image"}, "Source"),
        saved("edited_image", 6, "token_edit"),
    )


DEMO = Workflow(
    "train_token",
    (Note(HOW, 0), Note(FILES, 1), Note(TRAIN_TURN + DEMO_TURN, 4)),
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

TRAINING = {"model": "checkpoint.MODEL", "vae": "checkpoint.VAE", "positive": "nothing"}
SDXL_SAMPLING: dict[str, object] = {
    "seed": 42,
    "steps": 50,
    "cfg": 7.5,
    "sampler_name": "ddim",
}

FROM_WORD = Workflow(
    "train_token_from_word",
    (Note(models.files_note(models.SDXL, models.SAM3), 0), Note(WORD, 1), Note(GROUNDED, 2), Note(TRAIN_TURN, 4)),
    (
        checkpoint(models.SDXL),
        Node("sam3", "CheckpointLoaderSimple", 0, {"ckpt_name": models.SAM3.name}, {}, "Load SAM 3"),
        Node(
            "about",
            "CLIPTextEncode",
            0,
            {"text": "a photo of a horse outdoors, whole body"},
            {"clip": "checkpoint.CLIP"},
            "Prompt for the images",
        ),
        Node("nothing", "CLIPTextEncode", 0, {"text": ""}, {"clip": "checkpoint.CLIP"}, "Empty prompt"),
        Node("ten", "EmptyLatentImage", 1, {"width": 1024, "height": 1024, "batch_size": 10}, {}, "Ten images"),
        Node(
            "draw",
            "KSampler",
            1,
            {"seed": 1, "steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            {"model": "checkpoint.MODEL", "positive": "about", "negative": "nothing", "latent_image": "ten"},
        ),
        Node("pictures", "VAEDecode", 1, {}, {"samples": "draw", "vae": "checkpoint.VAE"}),
        Node("part", "CLIPTextEncode", 1, {"text": "head of the horse"}, {"clip": "sam3.CLIP"}, "Part, by name"),
        Node("masks", "SAM3_Detect", 1, {}, {"model": "sam3.MODEL", "image": "pictures", "conditioning": "part"}),
        Node("mask_view", "MaskToImage", 2, {}, {"mask": "masks.masks"}),
        Node("masks_shown", "PreviewImage", 2, {}, {"images": "mask_view"}, "Masks: check them"),
        Node(
            "train",
            "TrainPartToken",
            2,
            {"part_names": "head"},
            {**TRAINING, "images": "pictures", "masks": "masks.masks"},
        ),
        *_keep_and_use(
            "checkpoint.MODEL",
            "checkpoint.CLIP",
            "checkpoint.VAE",
            "horse_head",
            1024,
            ("a photo of a horse on a meadow", "a photo of a zebra on a meadow"),
            SDXL_SAMPLING,
        ),
    ),
)

PICTURES = ("1", "2", "3", "4")

FROM_PAINTED = Workflow(
    "train_token_from_painted_masks",
    (Note(models.files_note(models.SDXL), 0), Note(PAINTED, 0), Note(TRAIN_TURN, 4)),
    (
        checkpoint(models.SDXL),
        Node("nothing", "CLIPTextEncode", 0, {"text": ""}, {"clip": "checkpoint.CLIP"}, "Empty prompt"),
        *(
            Node(f"loaded_{number}", "LoadImage", 1, {"image": "example.png"}, {}, f"Image {number}")
            for number in PICTURES
        ),
        Node(
            "all",
            "BatchImagesNode",
            2,
            {},
            {f"images.image{index}": f"loaded_{number}.IMAGE" for index, number in enumerate(PICTURES)},
        ),
        Node(
            "masks",
            "BatchMasksNode",
            2,
            {},
            {f"masks.mask{index}": f"loaded_{number}.MASK" for index, number in enumerate(PICTURES)},
        ),
        Node(
            "pictures",
            "ImageScale",
            2,
            {"upscale_method": "lanczos", "width": 1024, "height": 0, "crop": "disabled"},
            {"image": "all"},
        ),
        Node(
            "train", "TrainPartToken", 2, {"part_names": "head"}, {**TRAINING, "images": "pictures", "masks": "masks"}
        ),
        *_keep_and_use(
            "checkpoint.MODEL",
            "checkpoint.CLIP",
            "checkpoint.VAE",
            "my_part",
            1024,
            ("a photo of a horse on a meadow", "a photo of a zebra on a meadow"),
            SDXL_SAMPLING,
        ),
    ),
)

WORKFLOWS = (DEMO, FROM_WORD, FROM_PAINTED)
