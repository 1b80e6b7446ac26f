"""One recipe for each help page's picture: its node's example on the demo model, or a drawn scene where weights that
the pack does not bring would be needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from demo.training.pictures import Look, Picture, draw_scene, plain_pair, random_scene
from tools.templates import oir, partedit, partedit_more, tokens
from tools.templates.compose import Node

from . import panels
from .panels import BLUE, GREEN, picture, row, tinted
from .results import Results

HEAD, TORSO, ANIMAL = (f"demo_{name}.safetensors" for name in ("robot_head", "robot_torso", "animal_head"))
ROBOT, BLUE_ROBOT = "a red robot in the snow", "a blue robot in the snow"
# Drawn images that no token was trained on and no benchmark uses.
UNSEEN_SEED = 4_700_000


# --- what several pictures show --------------------------------------------------------------------------------


@cache
def part_edit() -> Results:
    measured = Node(
        "metrics",
        "EditMetrics",
        0,
        {"source_text": ROBOT, "target_text": BLUE_ROBOT},
        {"source": "source_image", "edited": "edited_image", "mask": "edit.mask", "clip_scorer": "demo.CLIP_SCORER"},
    )
    return Results((*partedit.DEMO.nodes, measured))


@cache
def two_objects() -> Results:
    return Results(oir.DEMO.nodes)


@cache
def head_maps() -> Results:
    """The head of the source of `part_edit`, as Part Attention Mask sees it."""
    seen = {"model": "demo.MODEL", "part_token": "token", "positive": "positive", "latent_image": "encode"}
    more = (
        Node("encode", "VAEEncode", 0, {}, {"pixels": "source_image", "vae": "demo.VAE"}),
        Node("positive", "CLIPTextEncode", 0, {"text": ROBOT}, {"clip": "demo.CLIP"}),
        Node("coarse", "PartAttentionMask", 0, {"samples": 4}, seen),
        Node("fine", "PartAttentionMask", 0, {"samples": 4, "upsampling": "guided"}, {**seen, "image": "source_image"}),
        Node("mask", "AdaptiveOtsuThreshold", 0, {}, {"mask": "fine"}),
        Node("soft", "AdaptiveOtsuThreshold", 0, {"omega": 1.5}, {"mask": "coarse"}),
        Node("otsu", "AdaptiveOtsuThreshold", 0, {"method": "otsu"}, {"mask": "coarse"}),
        Node("fixed", "AdaptiveOtsuThreshold", 0, {"method": "fixed", "fixed_threshold": 0.8}, {"mask": "coarse"}),
    )
    return Results((*partedit.DEMO.nodes, *more))


def edited(results: Results, source: str = "source", mask: str = "mask", edit: str = "edit") -> Image.Image:
    """Source, mask and edit of a template with the nodes of `partedit.results`."""
    image = picture(results["source_image"])
    shown = [(source, image), (mask, tinted(image, results["edit.mask"])), (edit, picture(results["edited_image"]))]
    return row(shown, 256)


def unseen(name: str, count: int) -> list[Picture]:
    """Drawn scenes with one object of a kind."""
    found: list[Picture] = []
    seed = UNSEEN_SEED
    while len(found) < count:
        scene = random_scene(seed, pairs=0.0)
        if scene.things[0].name == name:
            found.append(draw_scene(scene))
        seed += 1
    return found


def found_parts(token: str, drawn: list[Picture]) -> list[Image.Image]:
    """Drawn images, darkened where a token does not see its part."""
    return [found_part(token, one) for one in drawn]


def found_part(token: str, drawn: Picture) -> Image.Image:
    image = torch.from_numpy(drawn.image.copy())[None] / 255
    results = Results(
        (
            Node("demo", "LoadDemoModel", 0),
            Node("token", "LoadPartToken", 0, {"part_token": token}),
            Node("positive", "CLIPTextEncode", 0, {"text": drawn.scene.caption}, {"clip": "demo.CLIP"}),
            Node("encode", "VAEEncode", 0, {"pixels": image}, {"vae": "demo.VAE"}),
            Node(
                "map",
                "PartAttentionMask",
                0,
                {"samples": 4, "upsampling": "guided", "image": image},
                {"model": "demo.MODEL", "part_token": "token", "positive": "positive", "latent_image": "encode"},
            ),
            Node("mask", "AdaptiveOtsuThreshold", 0, {}, {"mask": "map"}),
        )
    )
    return tinted(picture(drawn.image), results["mask"], dim=0.45)


def object_mask(drawn: Picture, number: int) -> np.ndarray:
    """(H, W) of the scene's object ``number``, from 1."""
    return drawn.owner == number


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()) - 3, int(rows.min()) - 3, int(columns.max()) + 3, int(rows.max()) + 3


@cache
def dog_and_car() -> Picture:
    return draw_scene(plain_pair(("dog", "car"), (Look("yellow"), Look("blue")), "meadow", 3))


# --- one picture a node ----------------------------------------------------------------------------------------


def combine_part_tokens() -> Image.Image:
    return edited(Results(partedit_more.TWO_PARTS.nodes), "source", "masks of both parts", "head blue, torso green")


def feature_blend_guider() -> Image.Image:
    """The template's graph on another prompt, with the source row shown as well."""
    results = Results(
        (
            *partedit_more.GUIDER.nodes,
            Node(
                "finder",
                "PartAttentionMask",
                0,
                {"samples": 4},
                {"model": "demo.MODEL", "part_token": "token", "positive": "positive", "latent_image": "encode"},
            ),
            Node("positive", "CLIPTextEncode", 0, {"text": "a yellow dog on the beach"}, {"clip": "demo.CLIP"}),
            Node("first", "LatentFromBatch", 0, {"batch_index": 0, "length": 1}, {"samples": "run"}),
            Node("source_image", "VAEDecode", 0, {}, {"samples": "first", "vae": "demo.VAE"}),
            Node("encode", "VAEEncode", 0, {}, {"pixels": "source_image", "vae": "demo.VAE"}),
            Node("mask", "AdaptiveOtsuThreshold", 0, {}, {"mask": "finder"}),
        ),
        {
            "prompt": {"source": "a yellow dog on the beach", "edit": "a striped red dog on the beach"},
            "guider": {"output_rows": "source and edits"},
        },
    )
    both = results["decode"]
    source = picture(both[:1])
    shown = [
        ("source: a yellow dog …", source),
        ("mask", tinted(source, results["mask"])),
        ("edit: a striped red dog …", picture(both[1:])),
    ]
    return row(shown, 256)


def feature_blend_sampler() -> Image.Image:
    return edited(part_edit(), "source: a red robot …", "mask", "edit: a blue robot …")


def part_edit_prompt() -> Image.Image:
    results = Results(partedit_more.SEVERAL_EDITS.nodes)
    names = ("a blue robot", "a pink robot", "a black robot", "a striped green robot")
    edits = results["edited_image"]
    source = (f"{ROBOT[:11]} …", picture(results["source_image"]))
    return row([source, *((name, picture(edits[n : n + 1])) for n, name in enumerate(names))], 200)


def edit_metrics() -> Image.Image:
    results = part_edit()
    image = picture(results["source_image"])
    said = panels.lines(str(results["metrics.text"]).splitlines(), (360, 256))
    shown = [
        ("source", image),
        ("mask", tinted(image, results["edit.mask"])),
        ("edited", picture(results["edited_image"])),
        ("text", said),
    ]
    return row(shown, 256)


def part_attention_mask() -> Image.Image:
    results = head_maps()
    image = picture(results["source_image"])
    shown = [
        ("image", image),
        ("bilinear", picture(results["coarse"])),
        ("guided", picture(results["fine"])),
        ("guided, thresholded", tinted(image, results["mask"])),
    ]
    return row(shown, 200)


def adaptive_otsu_threshold() -> Image.Image:
    results = head_maps()
    names = {"coarse": "soft mask", "soft": "adaptive, omega 1.5", "otsu": "otsu", "fixed": "fixed, 0.8"}
    return row([(text, picture(results[key])) for key, text in names.items()], 200)


def load_demo_model() -> Image.Image:
    prompts = (
        "a purple robot in the desert",
        "an orange cat on a meadow",
        "a white chair in a room",
        "a blue car at night",
    )
    shown = []
    for number, text in enumerate(prompts):
        drawing = {"model": "demo.MODEL", "positive": "text", "negative": "nothing", "latent_image": "size"}
        results = Results(
            (
                Node("demo", "LoadDemoModel", 0),
                Node("text", "CLIPTextEncode", 0, {"text": text}, {"clip": "demo.CLIP"}),
                Node("nothing", "CLIPTextEncode", 0, {"text": ""}, {"clip": "demo.CLIP"}),
                Node("size", "EmptyLatentImage", 0, {"width": 256, "height": 256}),
                Node("draw", "KSampler", 0, {**KSAMPLER, "seed": 1 + number}, drawing),
                Node("image", "VAEDecode", 0, {}, {"samples": "draw", "vae": "demo.VAE"}),
            )
        )
        shown.append((text, picture(results["image"])))
    return row(shown, 200)


KSAMPLER: dict[str, Any] = {"steps": 25, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def load_part_token() -> Image.Image:
    robots = found_parts(HEAD, unseen("robot", 2))
    animals = [found_part(ANIMAL, unseen(name, 1)[0]) for name in ("dog", "rabbit")]
    names = ("demo_robot_head", "", "demo_animal_head", "")
    return row(list(zip(names, [*robots, *animals])), 200)


def save_part_token() -> Image.Image:
    shown = [("", one) for one in found_parts(TORSO, unseen("robot", 4))]
    return row(shown, 200, title="demo_robot_torso, on images it was not trained on")


def train_part_token() -> Image.Image:
    from demo.training.example_input import robots

    drawn = robots(12)
    images = torch.stack([torch.from_numpy(one.image.copy()) for one in drawn]).float() / 255
    masks = torch.stack([torch.from_numpy(one.part_mask("head", ("robot",))) for one in drawn]).float()
    changed = {"pictures", "mask_pictures", "masks", "train"}
    (train,) = (node for node in tokens.DEMO.nodes if node.key == "train")
    links = {name: origin for name, origin in train.links.items() if name not in ("images", "masks")}
    own = Node("train", "TrainPartToken", 0, {**train.values, "images": images, "masks": masks}, links)
    results = Results((*(node for node in tokens.DEMO.nodes if node.key not in changed), own))
    shown = [
        ("an image", picture(images[:1])),
        ("its mask", picture(masks[:1])),
        ("learned map, held-out image", picture(results["train.overlays"])),
    ]
    return row(shown, 256)


def latent_blend_sampler() -> Image.Image:
    edit = oir.SOURCE.replace("a red cat", "a green dog")
    results = Results(
        (
            *oir.DEMO.nodes,
            Node(
                "drawn",
                "InvertLatent",
                0,
                {"method": "edit_friendly_ddpm", "steps": 25, "spacing": "trailing"},
                {"model": "demo.MODEL", "latent_image": "encode"},
            ),
            Node("edit", "CLIPTextEncode", 0, {"text": edit}, {"clip": "demo.CLIP"}),
            Node(
                "blend",
                "LatentBlendSampler",
                0,
                {},
                {
                    "model": "demo.MODEL",
                    "trajectory": "drawn.trajectory",
                    "edit": "edit",
                    "mask": "left_mask",
                    "negative": "negative",
                    "source": "positive",
                    "vae": "demo.VAE",
                },
            ),
        )
    )
    image = picture(results["picture"])
    shown = [("source", image), ("mask", tinted(image, results["left_mask"]))]
    return row([*shown, ("a green dog", picture(results["blend.image"]))], 256)


def editing_pair() -> Image.Image:
    results = two_objects()
    image = picture(results["picture"])
    shown = [
        ("a red cat … and a blue chair …", image),
        ("pair 1: a red cat > a blue dog", tinted(image, results["left_mask"])),
        ("pair 2: a blue chair > a green chair", tinted(image, results["right_mask"], BLUE)),
    ]
    return row(shown, 256)


def inversion_step_search() -> Image.Image:
    sheet = picture(two_objects()["search.contact_sheet"])
    return sheet.resize((1000, round(sheet.height * 1000 / sheet.width)), Image.Resampling.LANCZOS)


def clip_scorer_from_models() -> Image.Image:
    """The plot's first pair."""
    plot = picture(two_objects()["search.plot"])
    half = plot.crop((0, 0, plot.width, plot.height // 2))
    return half.resize((720, round(half.height * 720 / half.width)), Image.Resampling.LANCZOS)


def invert_latent() -> Image.Image:
    nodes = partedit_more.REAL_IMAGE.nodes
    method = {"steps": 20, "method": "ddim_next_timestep", "source_prompt": "a yellow robot on the beach"}
    (inverted,) = (node for node in nodes if node.key == "invert")
    own = Node("invert", inverted.kind, 0, method, {**inverted.links, "clip": "demo.CLIP"})
    results = Results((*(node for node in nodes if node.key != "invert"), own))
    trajectory, vae = results["invert.trajectory"], results["demo.VAE"]
    shown = [("the image", picture(results["picture"]))]
    for step in (5, 10, 15, 20):
        # As the model sees a latent of that level: scaled to unit variance.
        place = len(trajectory.sigmas) - 1 - step
        level = trajectory.latents[place] / (1 + trajectory.sigmas[place] ** 2) ** 0.5
        shown.append((f"after {step} steps" if step == 5 else str(step), decoded(results, level, vae)))
    return row(shown, 170)


def decoded(results: Results, latent: torch.Tensor, vae: Any) -> Image.Image:
    """A latent in the samplers' space as a picture."""
    with torch.inference_mode():
        return picture(vae.decode(results["demo.MODEL"].get_model_object("latent_format").process_out(latent)))


def oir_reassemble() -> Image.Image:
    results = two_objects()
    best = [pair.best for pair in results["search"].pairs]
    single = [picture(candidate(results, number)) for number in range(2)]
    shown = [
        ("original", picture(results["picture"])),
        (f"the dog, from step {best[0]}", single[0]),
        (f"the chair, from step {best[1]}", single[1]),
        ("reassembled", picture(results["reassemble.image"])),
    ]
    return row(shown, 220)


def candidate(results: Results, number: int) -> torch.Tensor:
    """The chosen candidate of a pair, as the search's image output gives it pair by pair."""
    return results["search.image"][number : number + 1]


def load_clip_scorer() -> Image.Image:
    results = two_objects()
    scorer, image = results["demo.CLIP_SCORER"], results["picture"]
    texts = ("a red cat", "a blue dog", "a blue chair", "a green chair")
    masks = {"pink region": results["left_mask"], "blue region": results["right_mask"]}
    with torch.inference_mode():
        scores = {name: {text: scorer.score(image[0], text, mask[0]) for text in texts} for name, mask in masks.items()}
    both = tinted(tinted(picture(image), masks["pink region"]), masks["blue region"], BLUE)
    shown = [("image and two masks", both), ("scores by the demo model's CLIP", panels.bars(scores, (420, 256)))]
    return row(shown, 256)


def load_grounding_model() -> Image.Image:
    drawn = dog_and_car()
    boxes = {name: box_of(object_mask(drawn, number)) for number, name in ((1, "dog"), (2, "car"))}
    return row(
        [(f"text: {name}", panels.marked(picture(drawn.image), {name: box})) for name, box in boxes.items()], 220
    )


def load_sam_model() -> Image.Image:
    drawn = dog_and_car()
    car = object_mask(drawn, 2)
    boxed = panels.marked(picture(drawn.image), {"": box_of(car)})
    return row([("a box", boxed), ("its mask", tinted(picture(drawn.image), car))], 220)


def grounded_sam_mask() -> Image.Image:
    drawn = dog_and_car()
    dog, car = object_mask(drawn, 1), object_mask(drawn, 2)
    boxes = panels.marked(picture(drawn.image), {"dog": box_of(dog), "car": box_of(car)})
    names = {"mask": dog | car, "object mask 1": dog, "object mask 2": car}
    return row([('boxes for "dog, car"', boxes), *((text, picture(mask)) for text, mask in names.items())], 200)


def sam_point_mask() -> Image.Image:
    drawn = draw_scene(plain_pair(("cat", "cat"), (Look("orange"), Look("white")), "meadow", 2))
    image, cat = picture(drawn.image), object_mask(drawn, 1)
    head = drawn.part_mask("head", ("cat",)) & cat
    x0, y0, x1, y1 = box_of(head)
    pointed, x, y = image.copy(), (x0 + x1) // 2, (y0 + y1) // 2
    ImageDraw.Draw(pointed).ellipse((x - 5, y - 5, x + 5, y + 5), fill=GREEN, outline=(0, 0, 0), width=2)
    readings = {"smallest": head, "middle": cat, "largest": drawn.owner > 0}
    return row([("a point", pointed), *((text, tinted(image, mask)) for text, mask in readings.items())], 200)


RECIPES: dict[str, Callable[[], Image.Image]] = {
    "LoadPartToken": load_part_token,
    "CombinePartTokens": combine_part_tokens,
    "TrainPartToken": train_part_token,
    "SavePartToken": save_part_token,
    "PartEditPrompt": part_edit_prompt,
    "PartAttentionMask": part_attention_mask,
    "AdaptiveOtsuThreshold": adaptive_otsu_threshold,
    "FeatureBlendSampler": feature_blend_sampler,
    "FeatureBlendGuider": feature_blend_guider,
    "LatentBlendSampler": latent_blend_sampler,
    "InvertLatent": invert_latent,
    "EditingPair": editing_pair,
    "InversionStepSearch": inversion_step_search,
    "OIRReassemble": oir_reassemble,
    "LoadCLIPScorer": load_clip_scorer,
    "CLIPScorerFromModels": clip_scorer_from_models,
    "LoadSAMModel": load_sam_model,
    "LoadGroundingModel": load_grounding_model,
    "GroundedSAMMask": grounded_sam_mask,
    "SAMPointMask": sam_point_mask,
    "EditMetrics": edit_metrics,
    "LoadDemoModel": load_demo_model,
}
