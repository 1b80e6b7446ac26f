"""The PartEdit templates beyond one edit of one part: two parts, several edits, and a real picture."""

from __future__ import annotations

from .compose import Node, Note, Workflow
from .partedit import DEMO_PROMPT, DEMO_SAMPLING, blend, results

TO_REAL = """### With an SDXL checkpoint

Put **Load Checkpoint** in the place of *Load Demo Model*, choose tokens made for SDXL, set the size to 1024 × 1024, in
the prompt `changed_words` back to 0.4, and in the sampler `layers` back to `published` and `omega` to 1.5; 50 steps,
cfg 7.5, `ddim`, `normal` are the paper's values.
"""

PARTS = """## Two parts, each with an edit of its own

1. **Combine Part Tokens** joins two tokens; the two parts are then told from each other at every point of the picture.
2. Each part has its own **PartEdit Prompt**. `part` names the part as its token calls it. The second one takes the
   first as `previous`, with `join` set to *same picture*: both edits go into one picture.
3. **Feature Blend Sampler** makes source and edit together: a blue head, a green torso, the rest stays red.

With `join` on *new picture* the two prompts would give two pictures instead.
"""

EDITS = """## Several edits at once

Every line of `edit` is an edit of its own. All of them share one source, so N edits cost N + 1 pictures instead
of 2 N, and they are comparable: same seed, same source, same mask.

When memory is short, set `edits_per_pass` of the sampler to 1 or 2: the pictures stay the same.
"""

REAL = """## Edit a part of a real picture

1. The picture goes through **VAE Encode** into **Invert Latent**, with a prompt that describes it as it is.
   `edit_friendly_ddpm` keeps noise maps, with which the source row of the edit gives the picture back exactly
   (as exactly as the VAE does).
2. **Feature Blend Sampler** takes the *trajectory*: it replays the picture as its source and edits the part.
   Steps, sampler and size are those of the trajectory.

### Your own picture

This graph makes its picture itself, so that it runs at once. Put **Load Image** in the place of the nodes titled
*A picture to edit*, and describe your picture in `source_prompt` of Invert Latent and `source` of PartEdit Prompt.
"""

REAL_TURN = """### What to turn

- `denoise` below 1: skip the noisiest steps. The edit stays closer to the picture's shapes.
- `cfg` of Invert Latent: 3.5 is published; 1 needs no negative prompt.
- `method`: `ledits_pp` also gives the picture back exactly and works with fewer steps; the `ddim` ones need no noise
  maps and give it back approximately.
- `paste_back`: the picture's own latent outside the mask.
"""


def _demo(key: str, token: str) -> Node:
    return Node(key, "LoadPartToken", 0, {"part_token": token})


TWO_PARTS = Workflow(
    "partedit_two_parts",
    (Note(PARTS, 0), Note(TO_REAL, 2)),
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
        blend("demo.MODEL", DEMO_SAMPLING, edit_prompt="torso_prompt", part_token="both"),
        *results("demo.VAE"),
    ),
    "save",
)

SEVERAL_EDITS = Workflow(
    "partedit_several_edits",
    (Note(EDITS, 0), Note(TO_REAL, 2)),
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
                "edit": "a blue robot in the snow\na yellow robot in the snow\n"
                "a black robot in the snow\na striped green robot in the snow",
                **DEMO_PROMPT,
            },
            {"clip": "demo.CLIP"},
            "Four edits",
        ),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        blend("demo.MODEL", DEMO_SAMPLING),
        *results("demo.VAE"),
    ),
    "save",
)

REAL_IMAGE = Workflow(
    "partedit_real_image",
    (Note(REAL, 0), Note(REAL_TURN, 3), Note(TO_REAL, 4)),
    (
        Node("demo", "LoadDemoModel", 0),
        _demo("token", "demo_robot_head.safetensors"),
        Node("drawn", "CLIPTextEncode", 1, {"text": "a yellow robot on the beach"}, {"clip": "demo.CLIP"}, "A picture"),
        Node("negative", "CLIPTextEncode", 1, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        Node("size", "EmptyLatentImage", 1, {"width": 256, "height": 256}),
        Node(
            "draw",
            "KSampler",
            1,
            {"seed": 3, "steps": 25, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            {"model": "demo.MODEL", "positive": "drawn", "negative": "negative", "latent_image": "size"},
            "A picture to edit",
        ),
        Node("picture", "VAEDecode", 1, {}, {"samples": "draw", "vae": "demo.VAE"}, "A picture to edit"),
        Node("show_picture", "PreviewImage", 2, {}, {"images": "picture"}, "Picture"),
        Node("encode", "VAEEncode", 2, {}, {"pixels": "picture", "vae": "demo.VAE"}),
        Node(
            "invert",
            "InvertLatent",
            2,
            {
                "source_prompt": "a yellow robot on the beach",
                "method": "edit_friendly_ddpm",
                "steps": 25,
                "cfg": 3.5,
                "seed": 1,
            },
            {"model": "demo.MODEL", "latent_image": "encode", "clip": "demo.CLIP", "negative": "negative"},
        ),
        Node(
            "prompt",
            "PartEditPrompt",
            2,
            {"source": "a yellow robot on the beach", "edit": "a purple robot on the beach", **DEMO_PROMPT},
            {"clip": "demo.CLIP"},
        ),
        blend("demo.MODEL", DEMO_SAMPLING, 3, latent_image="", trajectory="invert.trajectory"),
        *results("demo.VAE", 4, "The picture, replayed", "partedit_real"),
        Node(
            "metrics",
            "EditMetrics",
            6,
            {},
            {"source": "picture", "edited": "edited_image", "mask": "edit.mask"},
            "What the edit kept",
        ),
    ),
    "save",
)

WORKFLOWS = (REAL_IMAGE, TWO_PARTS, SEVERAL_EDITS)
