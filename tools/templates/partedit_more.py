"""The PartEdit templates beyond one edit of one part: two parts, several edits, and a real image."""

from __future__ import annotations

from demo.training.defaults import CFG, SCHEDULER, STEPS

from .compose import Node, Note, Workflow
from .partedit import DEMO_PROMPT, DEMO_SAMPLING, blend, results

TO_REAL = """### With an SDXL checkpoint

See the templates `partedit_sdxl`, `partedit_sdxl_real_image` and `partedit_sdxl_several_parts`, which have its
settings. Several edits at once: more lines in `edit`.
"""

PARTS = """## Two parts, each with its own edit

1. **Combine Part Tokens** joins two tokens, so that the two parts compete for every point of the image.
2. Each part has its own **PartEdit Prompt**; `part` is the part's name in its token. The second one takes the first as
   `previous`, with `join` set to *same picture*: both edits go into one image.
3. **Feature Blend Sampler** samples source and edit together: a blue head, a green torso, the rest stays red.

With `join` set to *new picture*, the two prompts would give two images.
"""

EDITS = """## Several edits at once

Each line of `edit` is a separate edit. They share one source, so N edits cost N + 1 images instead of 2 N, and they
are comparable: same seed, same source, same mask.

If memory is short, set `edits per pass` of the sampler to 1 or 2. The images stay the same.
"""

REAL = """## Edit part of a real image

1. The image goes through **VAE Encode** into **Invert Latent**. `edit_friendly_ddpm` draws noise for every level, so
   this takes no time and needs no prompt.
2. **Feature Blend Sampler** takes the *trajectory*: it replays the image as its source and edits the part. The source
   comes back exactly (up to the VAE) at any `cfg`. Steps, sampler and size come from the trajectory.

### Your own image

This workflow generates its own image, so that it runs as it is. Replace the nodes titled *Image to edit* with
**Load Image**, and describe your image as it is in `source` of PartEdit Prompt.
"""

REAL_TURN = """### Settings to try

- `denoise` below 1: skip the noisiest steps. The edit stays closer to the image's shapes.
- `method`: `ledits_pp` needs fewer steps. The `ddim` methods run the model to invert, and need `source prompt` and
  `clip` for it.
- `seed` of Invert Latent: other noise, another edit.
- `paste back`: restore the original latent outside the mask.
"""


CUSTOM = """## Part edit with any sampler and sigmas

**Feature Blend Guider** is the edit of Feature Blend Sampler for ComfyUI's custom sampling: connect it to
**SamplerCustomAdvanced**, with any noise, sampler and sigmas. `output rows` chooses whether the source comes out
with its edits.
"""

CUSTOM_TURN = """### Settings to try

- `guider`: another guider underneath, such as *Dual CFG Guider*. Its positive prompt is replaced by the edit prompt.
- Sigmas from *SplitSigmas* start later: the edit stays closer to `latent image`.
"""


def _demo(key: str, token: str) -> Node:
    return Node(key, "LoadPartToken", 0, {"part_token": token})


TWO_PARTS = Workflow(
    "partedit_two_parts",
    (Note(PARTS, 0), Note(TO_REAL, 3)),
    (
        Node("demo", "LoadDemoModel", 0),
        _demo("head", "demo_robot_head.safetensors"),
        _demo("torso", "demo_robot_torso.safetensors"),
        Node("size", "EmptyLatentImage", 0, {"width": 256, "height": 256}),
        Node(
            "head_prompt",
            "PartEditPrompt",
            1,
            {
                "source": "a red robot in the snow",
                "edit": "a blue robot in the snow",
                "part": "robot head",
                **DEMO_PROMPT,
            },
            {"clip": "demo.CLIP"},
            "Edit of the head",
        ),
        Node(
            "torso_prompt",
            "PartEditPrompt",
            1,
            {
                "source": "a red robot in the snow",
                "edit": "a green robot in the snow",
                "part": "robot torso",
                "join": "same picture",
                **DEMO_PROMPT,
            },
            {"clip": "demo.CLIP", "previous": "head_prompt"},
            "Edit of the torso",
        ),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        Node("both", "CombinePartTokens", 2, {}, {"part_token_1": "head", "part_token_2": "torso"}),
        blend("demo.MODEL", DEMO_SAMPLING, edit_prompt="torso_prompt", part_token="both", vae="demo.VAE"),
        *results("demo.VAE"),
    ),
    "save",
)

SEVERAL_EDITS = Workflow(
    "partedit_several_edits",
    (Note(EDITS, 0), Note(TO_REAL, 3)),
    (
        Node("demo", "LoadDemoModel", 0),
        _demo("token", "demo_robot_head.safetensors"),
        Node("size", "EmptyLatentImage", 0, {"width": 256, "height": 256}),
        Node(
            "prompt",
            "PartEditPrompt",
            1,
            {
                "source": "a red robot in the snow",
                "edit": "a blue robot in the snow\na pink robot in the snow\n"
                "a black robot in the snow\na striped green robot in the snow",
                **DEMO_PROMPT,
            },
            {"clip": "demo.CLIP"},
            "Four edits",
        ),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        blend("demo.MODEL", DEMO_SAMPLING, vae="demo.VAE"),
        *results("demo.VAE"),
    ),
    "save",
)

REAL_IMAGE = Workflow(
    "partedit_real_image",
    (Note(REAL, 0), Note(REAL_TURN, 4), Note(TO_REAL, 4)),
    (
        Node("demo", "LoadDemoModel", 0),
        _demo("token", "demo_robot_head.safetensors"),
        Node("drawn", "CLIPTextEncode", 1, {"text": "a yellow robot on the beach"}, {"clip": "demo.CLIP"}, "Prompt"),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        Node("size", "EmptyLatentImage", 1, {"width": 256, "height": 256}),
        Node(
            "draw",
            "KSampler",
            1,
            {"seed": 3, "steps": 25, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            {"model": "demo.MODEL", "positive": "drawn", "negative": "negative", "latent_image": "size"},
            "Image to edit",
        ),
        Node("picture", "VAEDecode", 1, {}, {"samples": "draw", "vae": "demo.VAE"}, "Image to edit"),
        Node("show_picture", "PreviewImage", 2, {}, {"images": "picture"}, "Image"),
        Node("encode", "VAEEncode", 2, {}, {"pixels": "picture", "vae": "demo.VAE"}),
        Node(
            "invert",
            "InvertLatent",
            2,
            {"method": "edit_friendly_ddpm", "steps": 25, "seed": 1},
            {"model": "demo.MODEL", "latent_image": "encode"},
        ),
        Node(
            "prompt",
            "PartEditPrompt",
            2,
            {"source": "a yellow robot on the beach", "edit": "a pink robot on the beach", **DEMO_PROMPT},
            {"clip": "demo.CLIP"},
        ),
        blend("demo.MODEL", DEMO_SAMPLING, 3, latent_image="", trajectory="invert.trajectory", vae="demo.VAE"),
        *results("demo.VAE", 4, "Image, replayed", "partedit_real"),
        Node(
            "metrics",
            "EditMetrics",
            6,
            {},
            {"source": "picture", "edited": "edited_image", "mask": "edit.mask"},
            "What was preserved",
        ),
    ),
    "save",
)

GUIDER = Workflow(
    "partedit_guider",
    (Note(CUSTOM, 0), Note(CUSTOM_TURN, 3)),
    (
        Node("demo", "LoadDemoModel", 0),
        _demo("token", "demo_animal_head.safetensors"),
        Node("size", "EmptyLatentImage", 0, {"width": 256, "height": 256}),
        Node(
            "prompt",
            "PartEditPrompt",
            1,
            {"source": "an orange cat on a meadow", "edit": "an orange cat -> a white cat", **DEMO_PROMPT},
            {"clip": "demo.CLIP"},
        ),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        Node(
            "guider",
            "FeatureBlendGuider",
            2,
            {"cfg": CFG, "omega": DEMO_SAMPLING["omega"]},
            {"model": "demo.MODEL", "edit_prompt": "prompt", "negative": "negative", "part_token": "token"},
        ),
        Node("noise", "RandomNoise", 3, {"noise_seed": 1}),
        Node("sampler", "KSamplerSelect", 3, {"sampler_name": "dpmpp_2m"}),
        Node("sigmas", "BasicScheduler", 3, {"scheduler": SCHEDULER, "steps": STEPS}, {"model": "demo.MODEL"}),
        Node(
            "run",
            "SamplerCustomAdvanced",
            3,
            {},
            {
                "noise": "noise",
                "guider": "guider",
                "sampler": "sampler",
                "sigmas": "sigmas",
                "latent_image": "size",
            },
        ),
        Node("decode", "VAEDecode", 4, {}, {"samples": "run", "vae": "demo.VAE"}),
        Node("save", "SaveImage", 4, {"filename_prefix": "partedit"}, {"images": "decode"}, "Edit"),
    ),
    "save",
)

WORKFLOWS = (REAL_IMAGE, TWO_PARTS, SEVERAL_EDITS, GUIDER)
