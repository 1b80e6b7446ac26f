"""The pack's two blueprints: a part edit and an OIR edit of one's own image, each as one node, on SDXL."""

from __future__ import annotations

from . import models, oir_real, partedit_sdxl
from .blueprint import Blueprint, Shown
from .compose import Node
from .oir import pair, reassembly, search
from .oir_real import GUIDANCE, SAM3_LOADER, SDXL_SCORER, TWO_DESCRIPTION
from .partedit import blend, checkpoint, token
from .partedit_sdxl import REAL_SAMPLING

MODEL, CLIP, VAE = "checkpoint.MODEL", "checkpoint.CLIP", "checkpoint.VAE"
# The image comes from outside; SDXL was trained on a million pixels.
PICTURE = Node("picture", "ImageScaleToTotalPixels", 1, {"upscale_method": "lanczos", "megapixels": 1.0})

PART = Blueprint(
    "Edit a part",
    "Edits one part of your image by text. A part token finds the part; the rest of the image stays.",
    (
        checkpoint(models.SDXL),
        token(models.HUMAN_HEAD),
        PICTURE,
        *partedit_sdxl.inverted(1),
        *partedit_sdxl.prompts("a closeup of a man outdoors", "man -> robot", 2),
        blend(
            MODEL,
            {**REAL_SAMPLING, "paste_back": "latent"},
            3,
            latent_image="",
            trajectory="invert.trajectory",
        ),
        Node("edited", "VAEDecode", 4, {}, {"samples": "edit.edited", "vae": VAE}),
    ),
    (
        Shown("image", "image", "picture.image"),
        Shown("source", "what the image shows", "prompt.source"),
        Shown("edit", "what changes", "prompt.edit"),
        Shown("part_token", "part", "token.part_token"),
        Shown("denoise", "strength", "edit.denoise"),
        Shown("omega", "mask softness", "edit.omega"),
        Shown("cfg", "guidance", "edit.cfg"),
        Shown("seed", "seed", "invert.seed"),
        Shown("ckpt_name", "checkpoint", "checkpoint.ckpt_name"),
    ),
    (("IMAGE", "edited"), ("MASK", "edit.mask")),
)


def _object(number: int, name: str, target: str, previous: str = "") -> tuple[Node, ...]:
    """One object: its name, which both the mask and the pair need, the mask, and the pair."""
    made = pair(f"pair{number}", name, target, f"mask{number}.masks", CLIP, previous)
    links = {**made.links, "source_phrase": f"name{number}"}
    return (
        Node(f"name{number}", "PrimitiveString", 2, {"value": name}, {}, f"Object {number}"),
        Node(f"text{number}", "CLIPTextEncode", 2, {}, {"clip": "sam3.CLIP", "text": f"name{number}"}),
        Node(
            f"mask{number}",
            "SAM3_Detect",
            2,
            {},
            {"model": "sam3.MODEL", "image": "picture", "conditioning": f"text{number}"},
        ),
        Node(made.key, made.kind, 3, {"target_phrase": target}, links, f"Pair {number}"),
    )


OBJECTS = Blueprint(
    "Edit objects",
    "Turns two objects of your image into others (OIR). SAM 3 finds them; each is edited from its own best inversion "
    "step. The description must contain both objects word for word.",
    (
        checkpoint(models.SDXL),
        SAM3_LOADER,
        *SDXL_SCORER,
        PICTURE,
        *oir_real.inverted(TWO_DESCRIPTION),
        *_object(1, "cat", "corgi"),
        *_object(2, "chair", "red armchair", "pair1"),
        # Without their previews: what they show comes out of the blueprint.
        search(MODEL, VAE, "scorer", "pair2", GUIDANCE)[0],
        reassembly(MODEL, VAE, CLIP, "picture", GUIDANCE)[0],
    ),
    (
        Shown("image", "image", "picture.image"),
        Shown("description", "what the image shows", "source.value"),
        Shown("object_1", "object 1", "name1.value"),
        Shown("becomes_1", "becomes", "pair1.target_phrase"),
        Shown("object_2", "object 2", "name2.value"),
        Shown("becomes_2", "becomes", "pair2.target_phrase"),
        Shown("edit_weight", "strength", "search.edit_weight"),
        Shown("cfg", "guidance", "search.cfg"),
        Shown("ckpt_name", "checkpoint", "checkpoint.ckpt_name"),
    ),
    (("IMAGE", "reassemble.image"), ("candidates", "search.contact_sheet"), ("scores", "search.plot")),
)

BLUEPRINTS = (PART, OBJECTS)
