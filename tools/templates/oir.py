"""The OIR templates on the demo checkpoint: two objects, one, and part tokens in place of a segmenter."""

from __future__ import annotations

from demo.training.defaults import CFG

from .compose import Node, Note, Workflow
from .partedit import LARGE, saved

HOW = """## Several objects at once (OIR)

1. **Invert Latent** finds the noisy latents that lead to the image, one per step.
2. An **Editing Pair** names one object, what to turn it into, and its mask. Pairs are chained through `previous pairs`.
3. **Inversion Step Search** edits each object from several steps and scores the results: S_e, how well the object
   matches its new words, and S_ne, how well the rest is preserved. The contact sheet frames the best step.
4. **OIR Reassemble** takes each object from its own best step, puts them together, and blends the seams.
"""

TURN = """### Settings to try

- `strategy`: `short-to-full` is faster and misses the best step more often, `exhaustive` tries all.
- `first step`, `last step`, `stride`: which steps to try at all.
- `overrides`: steps set by hand, one per pair, such as `12, auto`.
- `edit weight`: raise it if the edit hardly shows, lower it if the rest changes too much.
- `reinversion`: higher blends seams better and changes the image more.
- `paste back`, `pixel composite`: restore the original latent or pixels outside the masks.
"""

DEMO_NOTE = """This workflow needs no download. It generates its own image; to use yours, replace the nodes that make it
with **Load Image** and describe the image in *Image description*.

Write phrases with their article, as the demo's scorer learned them: `a red cat`, not `red cat`.

`cfg` and `edit weight` of the search are set for the demo model; the paper uses an `edit weight` of 1.

The masks are plain boxes around the objects, made with core nodes. Painted masks, a segmentation node or
*Part Attention Mask* work as well (templates `oir_sdxl` and `oir_part_token`).
"""

PART_NOTE = """## Part tokens as OIR masks

No segmentation model, no painting: **Part Attention Mask** finds each part in the image with its token,
**Adaptive Otsu Threshold** turns the soft map into a mask, and an **Editing Pair** uses it. Each part is
edited from its own best inversion step: the cat's head becomes green, the robot's torso yellow.

`paste back` of *OIR Reassemble* is on: the phrases describe the whole cat and the whole robot, and without it the
rest of both would change colour, too.

`noise level` of *Part Attention Mask*: low finds fine parts, high the layout. `samples` averages several noise draws.
"""

SINGLE = """## One object (OIR)

1. **Invert Latent** finds the noisy latents that lead to the image, one per step.
2. The **Editing Pair** names the object, what to turn it into, and its mask.
3. **Inversion Step Search** edits the object from several steps and scores the results. The best one is the result:
   `image` and `latent` are the chosen candidate at full size.

### Choose by hand

The node shows every step that was tried, with its scores. Click on one to choose it, or write its step into
`overrides`, and run again: a step that was tried is there at once.

`keep candidates` is on, so `candidates` has every one of them at full size, steps ascending.
"""

SINGLE_TURN = """### Settings to try

- `strategy`: `short-to-full` is faster and misses the best step more often, `exhaustive` tries all.
- `edit weight`: raise it if the edit hardly shows, lower it if the rest changes too much.
- `first step`, `last step`, `stride`: which steps to try at all.
- `latent` can go on to an upscaler or a second pass.
"""

DEMO_EDIT_WEIGHT = 3.0
SINGLE_SOURCE = "a red cat in the snow"
SOURCE = "a red cat on the left and a blue chair on the right, in the snow"
PART_SOURCE = "a red cat on the left and a blue robot on the right, in the snow"


def _picture(source: str, seed: int) -> tuple[Node, ...]:
    """The demo checkpoint and an image it generates, inverted."""
    return (
        Node("demo", "LoadDemoModel", 0),
        Node("source", "PrimitiveStringMultiline", 0, {"value": source}, {}, "Image description"),
        Node("positive", "CLIPTextEncode", 0, {}, {"clip": "demo.CLIP", "text": "source"}, "Prompt"),
        Node("negative", "CLIPTextEncode", 0, {"text": ""}, {"clip": "demo.CLIP"}, "Negative prompt"),
        Node("size", "EmptyLatentImage", 0, {"width": 256, "height": 256}),
        Node(
            "draw",
            "KSampler",
            1,
            {"seed": seed, "steps": 25, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
            {"model": "demo.MODEL", "positive": "positive", "negative": "negative", "latent_image": "size"},
            "Image to edit",
        ),
        Node("picture", "VAEDecode", 1, {}, {"samples": "draw", "vae": "demo.VAE"}, "Image to edit"),
        Node("show_picture", "PreviewImage", 1, {}, {"images": "picture"}, "Image"),
        Node("encode", "VAEEncode", 1, {}, {"pixels": "picture", "vae": "demo.VAE"}),
        Node(
            "invert",
            "InvertLatent",
            1,
            {"steps": 20},
            {"model": "demo.MODEL", "latent_image": "encode", "clip": "demo.CLIP", "source_prompt": "source"},
        ),
    )


def _box_mask(name: str, x: int, y: int, width: int, height: int) -> tuple[Node, ...]:
    """A box of ones in a 256 × 256 mask of zeros, by core nodes."""
    return (
        Node(f"{name}_box", "SolidMask", 2, {"value": 1.0, "width": width, "height": height}, {}, f"Box: {name}"),
        Node(
            f"{name}_mask",
            "MaskComposite",
            2,
            {"x": x, "y": y, "operation": "add"},
            {"destination": "nothing", "source": f"{name}_box"},
            f"Mask: {name}",
        ),
    )


def _part_mask(name: str, token: str) -> tuple[Node, ...]:
    """A mask of one part, found by its token."""
    return (
        Node(f"{name}_token", "LoadPartToken", 2, {"part_token": token}),
        Node(
            f"{name}_map",
            "PartAttentionMask",
            2,
            {"samples": 4},
            {
                "model": "demo.MODEL",
                "part_token": f"{name}_token",
                "positive": "positive",
                "latent_image": "encode",
            },
            f"Where is the {name}?",
        ),
        Node(f"{name}_mask", "AdaptiveOtsuThreshold", 2, {"method": "otsu"}, {"mask": f"{name}_map"}, f"Mask: {name}"),
        Node(f"{name}_view", "MaskToImage", 2, {}, {"mask": f"{name}_mask"}),
        Node(f"{name}_shown", "PreviewImage", 2, {}, {"images": f"{name}_view"}, f"Mask: {name}"),
    )


def pair(key: str, before: str, after: str, mask: str, clip: str, previous: str = "", guidance: float = 0.0) -> Node:
    """One object, what to turn it into, and its mask."""
    values: dict[str, object] = {"source_phrase": before, "target_phrase": after}
    if guidance:
        values["guidance"] = guidance
    links = {"clip": clip, "source_prompt": "source", "mask": mask}
    if previous:
        links["previous_pairs"] = previous
    return Node(key, "EditingPair", 3, values, links, f"{before} → {after}")


def search(model: str, vae: str, scorer: str, pairs: str, settings: dict[str, object]) -> tuple[Node, ...]:
    """The search, with its contact sheet and plot; ``settings`` are the node's."""
    links = {"model": model, "vae": vae, "trajectory": "invert.trajectory", "pairs": pairs, "clip_scorer": scorer}
    return (
        Node("search", "InversionStepSearch", 4, settings, links),
        Node("sheet", "PreviewImage", 5, {}, {"images": "search.contact_sheet"}, "Candidates", LARGE),
        Node("curve", "PreviewImage", 5, {}, {"images": "search.plot"}, "Scores per step", LARGE),
    )


def reassembly(model: str, vae: str, clip: str, image: str, settings: dict[str, object]) -> tuple[Node, ...]:
    """All edits put together, and the result."""
    links = {"model": model, "vae": vae, "trajectory": "invert.trajectory", "search": "search.search"}
    return (
        Node("reassemble", "OIRReassemble", 6, settings, {**links, "clip": clip, "image": image}),
        saved("reassemble.image", 7, "oir"),
    )


def chosen() -> tuple[Node, ...]:
    """What one object's search gives: the chosen candidate, saved, and every one that was kept."""
    return (
        Node("candidates", "PreviewImage", 6, {}, {"images": "search.candidates"}, "Every candidate", LARGE),
        saved("search.image", 7, "oir_single"),
    )


# The demo checkpoint changes objects only near the noisiest steps, which the plain sum rarely chooses.
DEMO_GUIDANCE: dict[str, object] = {"cfg": CFG}
DEMO_SEARCH: dict[str, object] = {**DEMO_GUIDANCE, "edit_weight": DEMO_EDIT_WEIGHT}


def _demo_search(pairs: str, **more: object) -> tuple[Node, ...]:
    return search("demo.MODEL", "demo.VAE", "demo.CLIP_SCORER", pairs, {**DEMO_SEARCH, **more})


def _demo_reassembly(**more: object) -> tuple[Node, ...]:
    return reassembly("demo.MODEL", "demo.VAE", "demo.CLIP", "picture", {**DEMO_GUIDANCE, **more})


DEMO = Workflow(
    "oir_demo",
    (Note(HOW, 0), Note(DEMO_NOTE, 3), Note(TURN, 6)),
    (
        *_picture(SOURCE, 3),
        Node("nothing", "SolidMask", 2, {"value": 0.0, "width": 256, "height": 256}, {}, "Empty mask"),
        *_box_mask("left", 4, 72, 120, 180),
        *_box_mask("right", 132, 72, 120, 180),
        pair("left_pair", "a red cat", "a blue dog", "left_mask", "demo.CLIP"),
        pair("right_pair", "a blue chair", "a green chair", "right_mask", "demo.CLIP", "left_pair"),
        *_demo_search("right_pair"),
        *_demo_reassembly(),
    ),
    "save",
)

PART_TOKEN = Workflow(
    "oir_part_token",
    (Note(PART_NOTE, 0), Note(HOW, 3), Note(TURN, 6)),
    (
        *_picture(PART_SOURCE, 7),
        *_part_mask("head", "demo_animal_head.safetensors"),
        *_part_mask("torso", "demo_robot_torso.safetensors"),
        pair("head_pair", "a red cat", "a green cat", "head_mask", "demo.CLIP"),
        pair("torso_pair", "a blue robot", "a yellow robot", "torso_mask", "demo.CLIP", "head_pair"),
        *_demo_search("torso_pair"),
        *_demo_reassembly(paste_back=True),
    ),
    "save",
)


SINGLE_OBJECT = Workflow(
    "oir_single_object_demo",
    (Note(SINGLE, 0), Note(DEMO_NOTE, 3), Note(SINGLE_TURN, 6)),
    (
        *_picture(SINGLE_SOURCE, 3),
        Node("nothing", "SolidMask", 2, {"value": 0.0, "width": 256, "height": 256}, {}, "Empty mask"),
        *_box_mask("object", 48, 48, 160, 190),
        pair("pair", "a red cat", "a green dog", "object_mask", "demo.CLIP"),
        *_demo_search("pair", keep_candidates=True),
        *chosen(),
    ),
    "save",
)

WORKFLOWS = (DEMO, PART_TOKEN, SINGLE_OBJECT)
