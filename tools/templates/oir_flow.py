"""The templates for flow models: several objects on Z-Image and on Flux, and a masked region."""

from __future__ import annotations

from . import models
from .compose import Node, Note, Workflow
from .oir import HOW, TURN, pair, reassembly, search
from .oir_real import (
    DESCRIBE,
    MASKS,
    SAM3_LOADER,
    TWO_DESCRIPTION,
    WHOLE_CLIP,
    WHOLE_CLIP_SCORER,
    found,
    inverted,
    scaled,
)
from .partedit import checkpoint, saved

SCORER = f"""{WHOLE_CLIP}  It scores the candidates; the model's own text encoder has no image half.
"""

INVERSION = """### Flow models

`euler_fixed_point` of *Invert Latent* reverses Euler's steps; `rf_solver` is of second order and takes two model calls
per step. Levels and shift are the model's own.
"""

Z_IMAGE_HOW = f"""{INVERSION}
25 steps, shift 3 and guidance 4 are what ComfyUI's own template for Z-Image uses. The source prompt is the negative
prompt of the edits.
"""

FLUX_HOW = f"""{INVERSION}
Flux dev takes its guidance with the prompt: `guidance` is 1 in *Invert Latent*, as in published inversions of Flux, and
3.5 in the edits. `cfg` stays at 1, so there is no negative prompt, and a step costs half.
"""


def _inversion(steps: int, **more: object) -> dict[str, object]:
    return {"method": "euler_fixed_point", "steps": steps, "spacing": "trailing", **more}


def _two(model: str, clip: str, vae: str, cfg: float, guidance: float = 0.0) -> tuple[Node, ...]:
    """Search and reassembly of two objects."""
    settings: dict[str, object] = {"cfg": cfg}
    pairs = (
        pair("cat_pair", "cat", "corgi", "cat_mask.masks", clip, guidance=guidance),
        pair("chair_pair", "chair", "red armchair", "chair_mask.masks", clip, "cat_pair", guidance=guidance),
    )
    return (
        *found("cat"),
        *found("chair"),
        *pairs,
        *search(model, vae, "scorer", "chair_pair", settings),
        *reassembly(model, vae, clip, "picture", {**settings, **({"guidance": guidance} if guidance else {})}),
    )


Z_IMAGE_LOADERS = (
    Node("unet", "UNETLoader", 0, {"unet_name": models.Z_IMAGE.name}),
    Node("shifted", "ModelSamplingAuraFlow", 0, {"shift": 3.0}, {"model": "unet"}),
    Node("clip", "CLIPLoader", 0, {"clip_name": models.QWEN_3_4B.name, "type": "lumina2"}),
    Node("vae", "VAELoader", 0, {"vae_name": models.FLUX_VAE.name}),
)

Z_IMAGE = Workflow(
    "oir_z_image",
    (
        Note(
            models.files_note(models.Z_IMAGE, models.QWEN_3_4B, models.FLUX_VAE, models.SAM3, more=SCORER),
            0,
        ),
        Note(HOW, 1),
        Note(Z_IMAGE_HOW + "\n" + DESCRIBE.format(size=1024) + "\n" + MASKS, 3),
        Note(TURN, 6),
    ),
    (
        *Z_IMAGE_LOADERS,
        SAM3_LOADER,
        WHOLE_CLIP_SCORER,
        *scaled(1024),
        *inverted(TWO_DESCRIPTION, "shifted", "clip", "vae", _inversion(25)),
        *_two("shifted", "clip", "vae", 4.0),
    ),
)

FLUX = Workflow(
    "oir_flux",
    (
        Note(models.files_note(models.FLUX_DEV, models.SAM3, more=SCORER), 0),
        Note(HOW, 1),
        Note(FLUX_HOW + "\n" + DESCRIBE.format(size=1024) + "\n" + MASKS, 3),
        Note(TURN, 6),
    ),
    (
        checkpoint(models.FLUX_DEV),
        SAM3_LOADER,
        WHOLE_CLIP_SCORER,
        *scaled(1024),
        *inverted(TWO_DESCRIPTION, settings=_inversion(20, guidance=1.0)),
        *_two("checkpoint.MODEL", "checkpoint.CLIP", "checkpoint.VAE", 1.0, 3.5),
    ),
)

BLEND_HOW = """## One region, on a flow model

**Latent Blend Sampler** edits what lies in the mask with the edit prompt and holds the rest at the image's own latent
at every step. It blends latents, not features, so it works on any model, without a part token.

**Invert Latent** only draws noise here (`edit_friendly_ddpm`); the sampler asks the model about the image as it
edits.
"""

BLEND_TURN = """### Settings to try

- `negative`: the source prompt, as in OIR, which moves the edit away from it; or a negative prompt of your own.
- `strength`: how much may change; lower keeps more of the object.
- `blend until`: below 1, the last steps blend the seams and may change the rest a little.
"""

BLEND = Workflow(
    "latent_blend_z_image",
    (
        Note(models.files_note(models.Z_IMAGE, models.QWEN_3_4B, models.FLUX_VAE, models.SAM3), 0),
        Note(BLEND_HOW, 1),
        Note(BLEND_TURN, 3),
    ),
    (
        *Z_IMAGE_LOADERS,
        SAM3_LOADER,
        *scaled(1024),
        Node("encode", "VAEEncode", 1, {}, {"pixels": "picture", "vae": "vae"}),
        Node(
            "invert",
            "InvertLatent",
            2,
            {"method": "edit_friendly_ddpm", "steps": 25, "spacing": "trailing"},
            {"model": "shifted", "latent_image": "encode"},
        ),
        Node("source", "CLIPTextEncode", 2, {"text": "a photo of a cat in a room"}, {"clip": "clip"}, "Source prompt"),
        Node("edit", "CLIPTextEncode", 2, {"text": "a photo of a corgi in a room"}, {"clip": "clip"}, "Edit prompt"),
        *found("cat"),
        Node(
            "blend",
            "LatentBlendSampler",
            3,
            {"cfg": 4.0},
            {
                "model": "shifted",
                "trajectory": "invert.trajectory",
                "edit": "edit",
                "mask": "cat_mask.masks",
                "negative": "source",
                "source": "source",
                "vae": "vae",
            },
        ),
        saved("blend.image", 4, "latent_blend"),
    ),
)

WORKFLOWS = (Z_IMAGE, FLUX, BLEND)
