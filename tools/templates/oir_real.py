"""The OIR templates for real checkpoints: several objects on SDXL and on SD 1.5, and one object."""

from __future__ import annotations

from . import models
from .compose import Node, Note, Workflow
from .oir import HOW, SINGLE, SINGLE_TURN, TURN, chosen, pair, reassembly, search
from .partedit import checkpoint

MODEL, CLIP, VAE = "checkpoint.MODEL", "checkpoint.CLIP", "checkpoint.VAE"
# As published: 50 steps of inversion, guidance 7.5 in the search and in the reassembly.
STEPS = 50
GUIDANCE: dict[str, object] = {"cfg": 7.5}

MASKS = """### Masks

**SAM3 Detect** finds each object by the words in the node before it; `cat:2` finds up to two cats. One detector per
pair. *Grounded SAM Mask* (with Load SAM Model and Load Grounding Model), *Part Attention Mask* or a mask painted in the
mask editor work as well; SAM 3 is then not needed.
"""

DESCRIBE = """### Describe the image

*Image description* must contain the `source phrase` of each pair word for word. *Upscale Image* brings the image to
{size} × {size}.
"""

SCORER_SDXL = """
CLIP Vision and the checkpoint's own text encoder are the two halves of one CLIP, which scores the candidates. The paper
searches with CLIP base: any whole CLIP works through *Load CLIP Scorer*, in place of the two nodes.
"""

WHOLE_CLIP = f"""
- A whole CLIP in `models/clip_scorers`, which the editor cannot offer: `model.safetensors` of
  [openai/clip-vit-large-patch14](https://huggingface.co/openai/clip-vit-large-patch14), saved as `{models.CLIP_FILE}`.
"""
WHOLE_CLIP_SCORER = Node("scorer", "LoadCLIPScorer", 0, {"model": models.CLIP_FILE})

SCORER_SD15 = f"""{WHOLE_CLIP}- The paper searches with CLIP base,
  [openai/clip-vit-base-patch32](https://huggingface.co/openai/clip-vit-base-patch32): put its files into a folder of
  that name in `models/clip_scorers` and choose the folder.
"""

SD15_HOW = """### The paper's setting

512 × 512, 50 steps, guidance 7.5. The paper uses SD 1.4; 1.5 has the same architecture.
"""


SAM_FILES = """- A Segment Anything checkpoint in `models/sams`, which the editor cannot offer:
  `sam_vit_h_4b8939.pth` from [segment-anything](https://github.com/facebookresearch/segment-anything#model-checkpoints).
- A detector in `models/grounding`, in a folder of that name: the files of
  [IDEA-Research/grounding-dino-base](https://huggingface.co/IDEA-Research/grounding-dino-base).
"""

SAM_MASKS = """### Masks

**Grounded SAM Mask** finds an object by its name: a detector gives the box, Segment Anything the outline. **SAM Point
Mask** takes what lies under a point, `x, y` in pixels; `reading` chooses between the part, the object and the group.
"""


def _shown(name: str) -> tuple[Node, ...]:
    """A preview of the node ``name_mask``."""
    return (
        Node(f"{name}_view", "MaskToImage", 3, {}, {"mask": f"{name}_mask.mask"}),
        Node(f"{name}_shown", "PreviewImage", 3, {}, {"images": f"{name}_view"}, f"Mask: {name}"),
    )


def scaled(size: int) -> tuple[Node, ...]:
    """The user's image at this size."""
    return (
        Node("loaded", "LoadImage", 1, {"image": "example.png"}, {}, "Your image"),
        Node(
            "picture",
            "ImageScale",
            1,
            {"upscale_method": "lanczos", "width": size, "height": size, "crop": "center"},
            {"image": "loaded"},
        ),
    )


def _image(size: int, description: str) -> tuple[Node, ...]:
    """The user's image, inverted."""
    return (*scaled(size), *inverted(description))


def inverted(
    description: str,
    model: str = MODEL,
    clip: str = CLIP,
    vae: str = VAE,
    settings: dict[str, object] | None = None,
) -> tuple[Node, ...]:
    """The node ``picture``, encoded and inverted with its description."""
    return (
        Node("encode", "VAEEncode", 1, {}, {"pixels": "picture", "vae": vae}),
        Node("source", "PrimitiveStringMultiline", 1, {"value": description}, {}, "Image description"),
        Node(
            "invert",
            "InvertLatent",
            1,
            settings or {"steps": STEPS},
            {"model": model, "latent_image": "encode", "clip": clip, "source_prompt": "source"},
        ),
    )


def found(name: str) -> tuple[Node, ...]:
    """The mask of an object by its name, with a preview."""
    return (
        Node(f"{name}_text", "CLIPTextEncode", 2, {"text": name}, {"clip": "sam3.CLIP"}, f"Find: {name}"),
        Node(
            f"{name}_mask",
            "SAM3_Detect",
            2,
            {},
            {"model": "sam3.MODEL", "image": "picture", "conditioning": f"{name}_text"},
            f"Mask: {name}",
        ),
        Node(f"{name}_view", "MaskToImage", 2, {}, {"mask": f"{name}_mask.masks"}),
        Node(f"{name}_shown", "PreviewImage", 2, {}, {"images": f"{name}_view"}, f"Mask: {name}"),
    )


SAM3_LOADER = Node("sam3", "CheckpointLoaderSimple", 0, {"ckpt_name": models.SAM3.name}, {}, "Load SAM 3")
SDXL_SCORER = (
    Node("vision", "CLIPVisionLoader", 0, {"clip_name": models.CLIP_VISION_G.name}),
    Node("scorer", "CLIPScorerFromModels", 0, {}, {"clip_vision": "vision", "clip": CLIP}),
)
SDXL_FILES = models.files_note(models.SDXL, models.CLIP_VISION_G, models.SAM3, more=SCORER_SDXL)
TWO = (
    *found("cat"),
    *found("chair"),
    pair("cat_pair", "cat", "corgi", "cat_mask.masks", CLIP),
    pair("chair_pair", "chair", "red armchair", "chair_mask.masks", CLIP, "cat_pair"),
    *search(MODEL, VAE, "scorer", "chair_pair", GUIDANCE),
    *reassembly(MODEL, VAE, CLIP, "picture", GUIDANCE),
)
TWO_DESCRIPTION = "a photo of a cat and a chair in a room"

SDXL = Workflow(
    "oir_sdxl",
    (Note(SDXL_FILES, 0), Note(HOW, 1), Note(DESCRIBE.format(size=1024) + "\n" + MASKS, 3), Note(TURN, 6)),
    (checkpoint(models.SDXL), SAM3_LOADER, *SDXL_SCORER, *_image(1024, TWO_DESCRIPTION), *TWO),
)

SD15 = Workflow(
    "oir_sd15",
    (
        Note(models.files_note(models.SD15, models.SAM3, more=SCORER_SD15), 0),
        Note(HOW, 1),
        Note(SD15_HOW + "\n" + DESCRIBE.format(size=512) + "\n" + MASKS, 3),
        Note(TURN, 6),
    ),
    (
        checkpoint(models.SD15),
        SAM3_LOADER,
        WHOLE_CLIP_SCORER,
        *_image(512, TWO_DESCRIPTION),
        *TWO,
    ),
)

SINGLE_OBJECT = Workflow(
    "oir_single_object",
    (Note(SDXL_FILES, 0), Note(SINGLE, 1), Note(DESCRIBE.format(size=1024) + "\n" + MASKS, 3), Note(SINGLE_TURN, 6)),
    (
        checkpoint(models.SDXL),
        SAM3_LOADER,
        *SDXL_SCORER,
        *_image(1024, "a photo of a cat in a room"),
        *found("cat"),
        pair("cat_pair", "cat", "corgi", "cat_mask.masks", CLIP),
        *search(MODEL, VAE, "scorer", "cat_pair", {**GUIDANCE, "keep_candidates": True}),
        *chosen(),
    ),
)

GROUNDED_SAM = Workflow(
    "oir_grounded_sam",
    (
        Note(models.files_note(models.SDXL, models.CLIP_VISION_G, more=SAM_FILES), 0),
        Note(HOW, 1),
        Note(DESCRIBE.format(size=1024) + "\n" + SAM_MASKS, 3),
        Note(TURN, 6),
    ),
    (
        checkpoint(models.SDXL),
        *SDXL_SCORER,
        Node("sam", "LoadSAMModel", 0, {"checkpoint": models.SAM_FILE}),
        Node("grounding", "LoadGroundingModel", 0, {"model": "grounding-dino-base"}),
        *_image(1024, TWO_DESCRIPTION),
        Node(
            "cat_mask",
            "GroundedSAMMask",
            2,
            {"text": "cat"},
            {"image": "picture", "sam_model": "sam", "grounding_model": "grounding"},
            "Mask: cat",
        ),
        Node(
            "chair_mask",
            "SAMPointMask",
            2,
            {"point": "700, 600", "reading": "largest"},
            {"image": "picture", "sam_model": "sam"},
            "Mask: under the point",
        ),
        *_shown("cat"),
        *_shown("chair"),
        pair("cat_pair", "cat", "corgi", "cat_mask.mask", CLIP),
        pair("chair_pair", "chair", "red armchair", "chair_mask.mask", CLIP, "cat_pair"),
        *search(MODEL, VAE, "scorer", "chair_pair", GUIDANCE),
        *reassembly(MODEL, VAE, CLIP, "picture", GUIDANCE),
    ),
)

WORKFLOWS = (SDXL, SD15, SINGLE_OBJECT, GROUNDED_SAM)
