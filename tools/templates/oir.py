"""The OIR templates: on the demo checkpoint, on a real SDXL one, and with part tokens in place of a segmenter."""

from __future__ import annotations

from demo.training.defaults import CFG

from .compose import Node, Note, Workflow

HOW = """## Several objects at once (OIR)

1. **Invert Latent** finds the noisy latents that lead to the image, one per step.
2. An **Editing Pair** names one object, what to turn it into, and its mask. Pairs are chained through `previous_pairs`.
3. **Inversion Step Search** edits each object from several steps and scores the results: S_e, how well the object
   matches its new words, and S_ne, how well the rest is preserved. The contact sheet frames the best step.
4. **OIR Reassemble** takes each object from its own best step, puts them together, and blends the seams.
"""

TURN = """### Settings to try

- `strategy`: `coarse-to-fine` only tries steps that may score higher, `exhaustive` tries all.
- `first_step`, `last_step`, `stride`: which steps to try at all.
- `overrides`: steps set by hand, one per pair, such as `12, auto`.
- `edit_weight`: raise it if the edit hardly shows, lower it if the rest changes too much.
- `reinversion`: higher blends seams better and changes the image more.
- `paste_back`, `pixel_composite`: restore the original latent or pixels outside the masks.
"""

DEMO_NOTE = """This workflow needs no download. It generates its own image; to use yours, replace the nodes that make it
with **Load Image** and describe the image in *Image description*.

Write phrases with their article, as the demo's scorer learned them: `a red cat`, not `red cat`.

`cfg` and `edit_weight` of the search are set for the demo model; the paper uses an `edit_weight` of 1.

The masks are plain boxes around the objects, made with core nodes. Painted masks, a segmentation node or
*Part Attention Mask* work as well (templates `oir_sdxl` and `oir_part_token`).
"""

PART_NOTE = """## Part tokens as OIR masks

No segmentation model, no painting: **Part Attention Mask** finds each part in the image with its token,
**Adaptive Otsu Threshold** turns the soft map into a mask, and an **Editing Pair** uses it. Each part is
edited from its own best inversion step: the cat's head becomes green, the robot's torso yellow.

`noise_level` of *Part Attention Mask*: low finds fine parts, high the layout. `samples` averages several noise draws.
"""

REAL_NOTE = """## Models this workflow needs

- an SDXL checkpoint in `models/checkpoints`
- a CLIP model in the transformers format in `models/clip_scorers/NAME` (openai/clip-vit-large-patch14)
- a Segment Anything checkpoint in `models/sams` (sam_vit_b_01ec64.pth)
- a detector in the transformers format in `models/grounding/NAME` (IDEA-Research/grounding-dino-tiny)

Choose them in the four loaders. Nothing is downloaded automatically. Any other MASK works as well: painted in the mask
editor, from ComfyUI's SAM 3 nodes, or from *Part Attention Mask*; the last two models are then not needed.
"""

REAL_HOW = """### Describe the image

*Image description* must contain each pair's `source_phrase` word for word. *Upscale Image* brings the image to a size
the checkpoint was trained on (about 1024 × 1024).
"""

DEMO_EDIT_WEIGHT = 3.0
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


def _pair(key: str, before: str, after: str, mask: str, clip: str, previous: str = "") -> Node:
    links = {"clip": clip, "source_prompt": "source", "mask": mask}
    if previous:
        links["previous_pairs"] = previous
    return Node(key, "EditingPair", 3, {"source_phrase": before, "target_phrase": after}, links, f"{before} → {after}")


def _search(
    model: str, vae: str, clip: str, scorer: str, image: str, pairs: str, demo: bool = False
) -> tuple[Node, ...]:
    """Search and reassembly, with previews."""
    trajectory = "invert.trajectory"
    # The demo checkpoint changes objects only near the noisiest steps, which the plain sum rarely chooses.
    guidance: dict[str, object] = {"cfg": CFG} if demo else {}
    choice: dict[str, object] = {**guidance, "edit_weight": DEMO_EDIT_WEIGHT} if demo else {}
    return (
        Node(
            "search",
            "InversionStepSearch",
            4,
            choice,
            {"model": model, "vae": vae, "trajectory": trajectory, "pairs": pairs, "clip_scorer": scorer},
        ),
        Node("sheet", "PreviewImage", 5, {}, {"images": "search.contact_sheet"}, "Candidates"),
        Node("curve", "PreviewImage", 5, {}, {"images": "search.plot"}, "Scores per step"),
        Node(
            "reassemble",
            "OIRReassemble",
            4,
            guidance,
            {
                "model": model,
                "vae": vae,
                "trajectory": trajectory,
                "search": "search.search",
                "clip": clip,
                "image": image,
            },
        ),
        Node("save", "SaveImage", 6, {"filename_prefix": "oir"}, {"images": "reassemble.image"}, "Edit"),
    )


DEMO = Workflow(
    "oir_demo",
    (Note(HOW, 0), Note(DEMO_NOTE, 2), Note(TURN, 4)),
    (
        *_picture(SOURCE, 3),
        Node("nothing", "SolidMask", 2, {"value": 0.0, "width": 256, "height": 256}, {}, "Empty mask"),
        *_box_mask("left", 4, 72, 120, 180),
        *_box_mask("right", 132, 72, 120, 180),
        _pair("left_pair", "a red cat", "a green dog", "left_mask", "demo.CLIP"),
        _pair("right_pair", "a blue chair", "a yellow chair", "right_mask", "demo.CLIP", "left_pair"),
        *_search("demo.MODEL", "demo.VAE", "demo.CLIP", "demo.CLIP_SCORER", "picture", "right_pair", True),
    ),
    "save",
)

PART_TOKEN = Workflow(
    "oir_part_token",
    (Note(PART_NOTE, 0), Note(HOW, 3), Note(TURN, 4)),
    (
        *_picture(PART_SOURCE, 2),
        *_part_mask("head", "demo_animal_head.safetensors"),
        *_part_mask("torso", "demo_robot_torso.safetensors"),
        _pair("head_pair", "a red cat", "a green cat", "head_mask", "demo.CLIP"),
        _pair("torso_pair", "a blue robot", "a yellow robot", "torso_mask", "demo.CLIP", "head_pair"),
        *_search("demo.MODEL", "demo.VAE", "demo.CLIP", "demo.CLIP_SCORER", "picture", "torso_pair", True),
    ),
    "save",
)


def _named_mask(name: str, text: str) -> tuple[Node, ...]:
    """A mask from an object's name, with a preview."""
    return (
        Node(
            f"{name}_mask",
            "GroundedSAMMask",
            2,
            {"text": text},
            {"image": "picture", "sam_model": "sam", "grounding_model": "grounding"},
            f"Mask: {text}",
        ),
        Node(f"{name}_view", "MaskToImage", 2, {}, {"mask": f"{name}_mask.mask"}),
        Node(f"{name}_shown", "PreviewImage", 2, {}, {"images": f"{name}_view"}, f"Mask: {text}"),
    )


SDXL = Workflow(
    "oir_sdxl",
    (Note(HOW, 0), Note(REAL_NOTE, 1), Note(REAL_HOW, 3), Note(TURN, 4)),
    (
        Node("checkpoint", "CheckpointLoaderSimple", 0, {"ckpt_name": "sd_xl_base_1.0.safetensors"}),
        Node("scorer", "LoadCLIPScorer", 0, {"model": "clip-vit-large-patch14"}),
        Node("sam", "LoadSAMModel", 0, {"checkpoint": "sam_vit_b_01ec64.pth"}),
        Node("grounding", "LoadGroundingModel", 0, {"model": "grounding-dino-tiny"}),
        Node("loaded", "LoadImage", 1, {"image": "example.png"}, {}, "Your image"),
        Node(
            "picture",
            "ImageScale",
            1,
            {"upscale_method": "lanczos", "width": 1024, "height": 1024, "crop": "center"},
            {"image": "loaded"},
        ),
        Node("encode", "VAEEncode", 1, {}, {"pixels": "picture", "vae": "checkpoint.VAE"}),
        Node(
            "source",
            "PrimitiveStringMultiline",
            1,
            {"value": "a photo of a cat and a chair in a room"},
            {},
            "Image description",
        ),
        Node(
            "invert",
            "InvertLatent",
            1,
            {"steps": 50},
            {
                "model": "checkpoint.MODEL",
                "latent_image": "encode",
                "clip": "checkpoint.CLIP",
                "source_prompt": "source",
            },
        ),
        *_named_mask("cat", "cat"),
        *_named_mask("chair", "chair"),
        _pair("cat_pair", "cat", "corgi", "cat_mask.mask", "checkpoint.CLIP"),
        _pair("chair_pair", "chair", "red armchair", "chair_mask.mask", "checkpoint.CLIP", "cat_pair"),
        *_search("checkpoint.MODEL", "checkpoint.VAE", "checkpoint.CLIP", "scorer", "picture", "chair_pair"),
    ),
)

WORKFLOWS = (DEMO, PART_TOKEN, SDXL)
