"""The PartEdit templates for SDXL beyond one edit of one part: a real image, SAM 3 masks, several parts, few steps."""

from __future__ import annotations

from . import models
from .compose import Node, Note, Workflow
from .partedit import TURN, blend, checkpoint, results, token

MODEL, CLIP, VAE = "checkpoint.MODEL", "checkpoint.CLIP", "checkpoint.VAE"
# The paper's settings: 50 DDIM steps, guidance 7.5 for generated images and 12.5 for real ones (App. K).
PAPER: dict[str, object] = {"seed": 42, "steps": 50, "cfg": 7.5, "sampler_name": "ddim"}
REAL_CFG = 12.5

REAL = """## Edit part of your own image

1. Choose your image in *Your image*. **Upscale Image** crops it to 1024 × 1024, a size SDXL was trained on.
2. **Invert Latent** draws noise for every level; it takes no time and needs no prompt.
3. **PartEdit Prompt**: describe your image as it is in `source`, and write what changes in `edit`: `man -> robot`.
4. **Feature Blend Sampler** replays your image as its source and edits the part. Steps, sampler and size come from the
   trajectory; `cfg` is 12.5, the paper's for real images.
"""

REAL_TURN = """### Settings to try

- `cfg`: lower is closer to your image.
- `denoise` below 1: skip the noisiest steps. The edit stays closer to the image's shapes.
- `paste back`: restore the original outside the mask; `pixels` needs `vae`, and `image` for the exact original.
- `seed` of Invert Latent: other noise, another edit.
"""

WITH_SAM3 = """## Edit part of your own image, without a token

1. Choose your image in *Your image*.
2. **SAM3 Detect** finds what you write in *What to edit*: a part ("head"), a piece of clothing, a thing. Check *Mask*
   before you judge the edit. `head:2` finds up to two.
3. **PartEdit Prompt**: describe your image in `source`, and write what changes in `edit`: `man -> robot`.
4. **Feature Blend Sampler** confines the edit to the mask at every step.

Any other MASK works as well: painted in the mask editor, or from *Grounded SAM Mask*.
"""

SAM3_TURN = """### Settings to try

- `threshold` of SAM3 Detect: lower finds more.
- `edit steps` below 1: the edit may grow beyond the mask in the last steps.
- `cfg` 12.5 is the paper's for real images; lower is closer to yours.
"""

PARTS = """## Two parts, each with its own edit

1. **Combine Part Tokens** joins two tokens, so that the two parts compete for every point of the image.
2. Each part has its own **PartEdit Prompt**; `part` is the part's name in its token. The second one takes the first as
   `previous`, with `join` set to *same picture*: both edits go into one image.
3. **Feature Blend Sampler** samples source and edit together.

With `join` set to *new picture*, the two prompts would give two images.
"""

PART_NAMES = """### Names of parts

The parts of published tokens are called human head, human hair, human torso, biped head, quadruped head, car body, car
hood and chair seat, whatever the file's name. If `part` names something else, the error lists the names there are.
"""

FEW = """## Part edit in four steps

SDXL Turbo: 4 steps, `cfg` 1, `euler_ancestral`, `sgm_uniform`, 512 × 512. At `cfg` 1 the negative prompt has no effect.

`timing` is *clean, first step twice*: with so few steps, the first one needs a mask, too. It costs one more pass.

### Other few-step models

- **Lightning** (4 or 8 steps; the checkpoint or the LoRA): `euler`, `sgm_uniform`, `cfg` 1, 1024 × 1024, and as many
  steps as the file's name says.
- **LCM** LoRA: `lcm`, `sgm_uniform`, 4 to 8 steps, `cfg` 1 to 2.
"""


def _your_image(column: int) -> tuple[Node, ...]:
    """An image of the user's, at SDXL's size, encoded and inverted for editing."""
    return (
        Node("loaded", "LoadImage", column, {"image": "example.png"}, {}, "Your image"),
        Node(
            "picture",
            "ImageScale",
            column,
            {"upscale_method": "lanczos", "width": 1024, "height": 1024, "crop": "center"},
            {"image": "loaded"},
        ),
        *inverted(column),
    )


def inverted(column: int) -> tuple[Node, ...]:
    """The node ``picture``, encoded and inverted for editing."""
    return (
        Node("encode", "VAEEncode", column, {}, {"pixels": "picture", "vae": VAE}),
        Node(
            "invert",
            "InvertLatent",
            column,
            {"method": "edit_friendly_ddpm", "steps": 50, "seed": 1},
            {"model": MODEL, "latent_image": "encode"},
        ),
    )


def prompts(source: str, edit: str, column: int, **options: object) -> tuple[Node, ...]:
    return (
        Node("prompt", "PartEditPrompt", column, {"source": source, "edit": edit, **options}, {"clip": CLIP}),
        Node("negative", "CLIPTextEncode", column, {"text": ""}, {"clip": CLIP}, "Negative prompt"),
    )


REAL_SAMPLING = {**PAPER, "cfg": REAL_CFG}

REAL_IMAGE = Workflow(
    "partedit_sdxl_real_image",
    (Note(models.files_note(models.SDXL, models.HUMAN_HEAD), 0), Note(REAL, 2), Note(REAL_TURN, 4)),
    (
        checkpoint(models.SDXL),
        token(models.HUMAN_HEAD),
        *_your_image(1),
        *prompts("a closeup of a man outdoors", "man -> robot", 2),
        blend(MODEL, REAL_SAMPLING, 3, latent_image="", trajectory="invert.trajectory"),
        *results(VAE, 4, "Image, replayed", "partedit_real"),
    ),
)

SAM3_MASK = Workflow(
    "partedit_sdxl_sam3",
    (Note(models.files_note(models.SDXL, models.SAM3), 0), Note(WITH_SAM3, 2), Note(SAM3_TURN, 4)),
    (
        checkpoint(models.SDXL),
        Node("sam3", "CheckpointLoaderSimple", 0, {"ckpt_name": models.SAM3.name}, {}, "Load SAM 3"),
        *_your_image(1),
        Node("what", "CLIPTextEncode", 2, {"text": "head"}, {"clip": "sam3.CLIP"}, "What to edit"),
        Node("found", "SAM3_Detect", 2, {}, {"model": "sam3.MODEL", "image": "picture", "conditioning": "what"}),
        *prompts("a closeup of a man outdoors", "man -> robot", 3),
        blend(
            MODEL,
            REAL_SAMPLING,
            4,
            latent_image="",
            part_token="",
            trajectory="invert.trajectory",
            mask="found.masks",
        ),
        *results(VAE, 5, "Image, replayed", "partedit_sam3"),
    ),
)

SEVERAL_PARTS = Workflow(
    "partedit_sdxl_several_parts",
    (
        Note(models.files_note(models.SDXL, models.HUMAN_HEAD, models.HUMAN_TORSO), 0),
        Note(PARTS, 1),
        Note(PART_NAMES + "\n" + TURN, 3),
    ),
    (
        checkpoint(models.SDXL),
        token(models.HUMAN_HEAD, "head", "Head"),
        token(models.HUMAN_TORSO, "torso", "Torso"),
        Node("size", "EmptyLatentImage", 0, {"width": 1024, "height": 1024}),
        Node(
            "head_prompt",
            "PartEditPrompt",
            1,
            {
                "source": "a photo of a man on the street",
                "edit": "man -> robot",
                "part": "human head",
            },
            {"clip": CLIP},
            "Edit of the head",
        ),
        Node(
            "torso_prompt",
            "PartEditPrompt",
            1,
            {
                "source": "a photo of a man on the street",
                "edit": "man -> knight",
                "part": "human torso",
                "join": "same picture",
            },
            {"clip": CLIP, "previous": "head_prompt"},
            "Edit of the torso",
        ),
        Node("negative", "CLIPTextEncode", 2, {"text": ""}, {"clip": CLIP}, "Negative prompt"),
        Node("both", "CombinePartTokens", 2, {}, {"part_token_1": "head", "part_token_2": "torso"}),
        blend(MODEL, PAPER, edit_prompt="torso_prompt", part_token="both"),
        *results(VAE),
    ),
)

FEW_STEPS = Workflow(
    "partedit_sdxl_turbo",
    (Note(models.files_note(models.SDXL_TURBO, models.HUMAN_HEAD), 0), Note(FEW, 1), Note(TURN, 3)),
    (
        checkpoint(models.SDXL_TURBO),
        token(models.HUMAN_HEAD),
        Node("size", "EmptyLatentImage", 0, {"width": 512, "height": 512}),
        *prompts("a closeup of a man outdoors", "man -> robot", 1),
        blend(
            MODEL,
            {
                "seed": 42,
                "steps": 4,
                "cfg": 1.0,
                "sampler_name": "euler_ancestral",
                "scheduler": "sgm_uniform",
                "timing": "clean, first step twice",
            },
        ),
        *results(VAE, prefix="partedit_turbo"),
    ),
)

WORKFLOWS = (REAL_IMAGE, SAM3_MASK, SEVERAL_PARTS, FEW_STEPS)
