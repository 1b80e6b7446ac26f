"""The paper's training loss (equation 3) and the pack's: what is summed, over which softmax, what stays as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.training.losses import masks_by_grid, token_loss
from partedit_oir.core.training.maps import cached_part_maps
from partedit_oir.core.training.query_cache import build_query_cache, noise_levels
from partedit_oir.core.training.settings import TrainingSettings
from partedit_oir.core.training.training import train_part_token
from partedit_oir.nodes.train_part_token import TrainPartToken
from support.trained_tokens import WIDTH, conditioning, small_model, squares
from tools.parity.drawn_weights import standard_normal

LAYERS = (("output", 0, 0), ("output", 2, 0), ("output", 3, 0))  # 8 x 8, 16 x 16 and 16 x 16
CHOSEN = [2, 0]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def cache(model):
    return build_query_cache(model, squares(3)[0], conditioning(), LAYERS, noise_levels(model, 0.0, 0.6, 2))


@pytest.fixture(scope="module")
def masks():
    return squares(3)[1]


@pytest.fixture(scope="module")
def rows():
    return torch.from_numpy(standard_normal(9, 2, WIDTH)) * 2


def loss(cache, masks, rows, **settings):
    return token_loss(cache, rows, masks_by_grid(cache, masks), CHOSEN, TrainingSettings(**settings))


def by_hand(cache, rows, repeats):
    """{(layer, level, picture): (h, w) part map}, head mean of a softmax over the part and ``repeats`` backgrounds."""
    maps = {}
    context = torch.cat([rows[1:], rows[:1].expand(repeats, -1)])  # the part first
    for layer in cache.layers:
        keys = (context @ cache.key_weights[layer]).unflatten(-1, (cache.heads[layer], -1))
        for picture in CHOSEN:
            for level in range(len(cache.sigmas)):
                query = cache.queries[layer][picture, level].float().unflatten(-1, (cache.heads[layer], -1))
                logits = torch.einsum("qhd,khd->hqk", query, keys) * keys.shape[-1] ** -0.5
                maps[layer, level, picture] = logits.softmax(-1)[..., 0].mean(0).view(cache.grids[layer])
    return maps


@pytest.mark.parametrize("softmax, repeats", [("auto", 1), ("full", 76)])
def test_equation_3_sums_every_level_and_layer_at_its_own_size(cache, masks, rows, softmax, repeats):
    """Averaged over the pixels of a map, then over pictures; two context rows unless 77 are asked for."""
    assert set(cache.grids.values()) == {(8, 8), (16, 16)}
    each = [torch.tensor(0.0, dtype=torch.float64) for _ in CHOSEN]
    for (layer, _, picture), found in by_hand(cache, rows, repeats).items():
        target = F.adaptive_avg_pool2d(masks[picture], cache.grids[layer])[0].double()
        each[CHOSEN.index(picture)] += F.binary_cross_entropy(found.double(), target)
    expected = float(sum(each) / len(each))
    assert float(loss(cache, masks, rows, recipe="paper", softmax=softmax)) == pytest.approx(expected, rel=1e-4)


def test_the_pack_s_loss_is_one_of_the_mean_map(cache, masks, rows):
    total = {picture: torch.zeros(16, 16) for picture in CHOSEN}
    for (_, _, picture), found in by_hand(cache, rows, 76).items():
        wide = F.interpolate(found[None, None], (16, 16), mode="bilinear")[0, 0]
        total[picture] += wide / (len(cache.layers) * len(cache.sigmas))
    target = {picture: F.adaptive_avg_pool2d(masks[picture], (16, 16))[0] for picture in CHOSEN}
    expected = sum(float(F.binary_cross_entropy(total[picture], target[picture])) for picture in CHOSEN) / len(CHOSEN)
    found = loss(cache, masks, rows, recipe="pack")
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(found, loss(cache, masks, rows, recipe="pack", loss="bce", softmax="full"))


@pytest.mark.parametrize("kind", ["l2", "bce_dice"])
def test_other_losses_are_summed_alike(cache, masks, rows, kind):
    """A sum of six: more than any one of the mean map, and its gradient reaches both rows."""
    trained = rows.clone().requires_grad_()
    summed = loss(cache, masks, trained, recipe="paper", loss=kind, softmax="full")
    (gradient,) = torch.autograd.grad(summed, [trained])
    assert float(summed.detach()) > 4 * float(loss(cache, masks, rows, recipe="pack", loss=kind)) > 0
    assert torch.isfinite(gradient).all() and (gradient.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("padding", ["start_of_text", "end_of_text", "context", "zero", "none"])
def test_training_runs_over_the_whole_context(cache, masks, rows, padding):
    """The loss equals that of maps whose context is written out row by row."""
    text = torch.from_numpy(standard_normal(11, 77, WIDTH))
    fill = {"start_of_text": text[:1], "end_of_text": text[-1:], "context": text[2:], "zero": torch.zeros(1, WIDTH)}
    fill = torch.zeros(0, WIDTH) if padding == "none" else fill[padding].expand(75, -1)
    expected = 0.0
    for found in by_hand(cache, torch.cat([rows, fill]), 1).items():
        (layer, _, picture), one = found
        target = F.adaptive_avg_pool2d(masks[picture], cache.grids[layer])[0].double()
        expected += float(F.binary_cross_entropy(one.double(), target)) / len(CHOSEN)
    settings = TrainingSettings(recipe="paper", padding=padding)
    found = token_loss(cache, rows, masks_by_grid(cache, masks), CHOSEN, settings, text)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("recipe", ["paper", "pack"])
def test_a_token_learns_and_is_judged_with_the_padding_that_its_file_records(model, recipe):
    latents, masks = squares(8)
    settings = TrainingSettings(
        steps=60, noise_count=2, held_out=0.25, layers="output.3", seed=1, recipe=recipe, padding="context"
    )
    token, report = train_part_token(model, latents, masks, conditioning(), settings)
    assert token.paddings == ("context",) and token.metadata["softmax"] == "full"
    assert report.losses[-1] < 0.9 * report.losses[0]
    cache = build_query_cache(
        model, latents, conditioning(), (("output", 3, 0),), noise_levels(model, 0, 0.25, 2), seed=1
    )
    text = conditioning()[0][0][0]
    read = [cached_part_maps(cache, token.embedding, report.held_out, name, text=text) for name in ("context", "none")]
    assert torch.allclose(report.maps, read[0], atol=1e-3) and not torch.allclose(report.maps, read[1], atol=0.05)


def test_padding_and_softmax_may_not_contradict_each_other():
    for softmax, padding in (("two_way", "zero"), ("full", "none")):
        with pytest.raises(ValueError, match=f"padding: '{padding}' contradicts softmax '{softmax}'"):
            TrainingSettings(softmax=softmax, padding=padding)
    assert TrainingSettings(softmax="two_way", padding="none").trained_padding == "none"
    assert TrainingSettings(recipe="paper", padding="background").trained_padding == "background"
    with pytest.raises(ValueError, match="padding: expected one of auto, background"):
        TrainingSettings(padding="sot")


def test_auto_takes_the_softmax_of_the_recipe():
    chosen = {
        (recipe, softmax): TrainingSettings(recipe=recipe, softmax=softmax).trained_softmax
        for recipe in ("paper", "pack")
        for softmax in ("auto", "full", "two_way")
    }
    assert chosen["paper", "auto"] == chosen["paper", "two_way"] == chosen["pack", "two_way"] == "two_way"
    assert chosen["pack", "auto"] == chosen["pack", "full"] == chosen["paper", "full"] == "full"
    with pytest.raises(ValueError, match="recipe: expected one of paper, pack, got 'papers'"):
        TrainingSettings(recipe="papers")


def test_the_paper_s_recipe_learns_and_is_judged_as_it_is_read(model):
    """Trained and judged over two rows; the file says so, for the padding ``auto``."""
    latents, masks = squares(8)
    settings = TrainingSettings(
        steps=120,
        noise_count=2,
        held_out=0.25,
        evaluate_every=40,
        layers="output.2, output.3",
        seed=1,
        recipe="paper",
    )
    token, report = train_part_token(model, latents, masks, conditioning(), settings)
    start = dataclasses.replace(settings, steps=1, learning_rate=1e-6)
    _, before = train_part_token(model, latents, masks, conditioning(), start)
    assert report.losses[-1] < 0.9 * report.losses[0]
    assert report.part_iou["part"] > before.part_iou["part"] + 0.2
    assert token.metadata["recipe"] == "paper" and token.metadata["softmax"] == "two_way"
    assert token.paddings == ("none",)
    layers = (("output", 2, 0), ("output", 3, 0))
    cache = build_query_cache(model, latents, conditioning(), layers, noise_levels(model, 0.0, 0.25, 2), seed=1)
    full, two_rows = (
        cached_part_maps(cache, token.embedding, report.held_out, name) for name in ("background", "none")
    )
    assert torch.allclose(report.maps, two_rows, atol=1e-3) and not torch.allclose(report.maps, full, atol=0.1)


def test_old_workflows_keep_their_values():
    """Saved widget values are taken in order: what is new comes last, and its default is what there was before."""
    schema = {entry.id: entry for entry in TrainPartToken.define_schema().inputs}
    assert list(schema)[-2:] == ["recipe", "padding"] and schema["padding"].default == "auto"
    assert schema["softmax"].options[:2] == ["full", "two_way"] and schema["loss"].default == "bce"


def test_the_recipe_that_measured_better_is_the_default():
    """On the demo's five parts, see bench/results/token_recipes.json; nodes and files of tokens show it."""
    means = json.loads((Path(__file__).parents[3] / "bench" / "results" / "token_recipes.json").read_text("utf-8"))[
        "mean"
    ]
    recipe = {entry.id: entry for entry in TrainPartToken.define_schema().inputs}["recipe"].default
    assert recipe == TrainingSettings().recipe
    for threshold in ("adaptive", "otsu"):
        mean = {name: sum(scores[name][threshold] for scores in means.values()) for name in ("paper", "pack")}
        assert recipe == max(mean, key=mean.__getitem__), threshold
