"""What benchmarks compare token training with: the published way sees the maps that the query cache sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
from bench.published_training import PublishedRecipe, PublishedTraining
from partedit_oir.core.training.maps import cached_part_maps
from partedit_oir.core.training.query_cache import _noises, build_query_cache, noise_levels
from support.tiny_models import WIDTH, text_conditioning, tiny_sdxl
from tools.parity.drawn_weights import standard_normal

RECIPE = PublishedRecipe(steps=20, pictures=2, levels=1, learning_rate=3.0)


@pytest.fixture(scope="module")
def setting():
    model, cond = tiny_sdxl(), text_conditioning("a picture")
    latents = torch.from_numpy(standard_normal(5, 2, 4, 16, 16))
    masks = torch.zeros(2, 1, 64, 64)
    masks[:, :, 16:40, 16:40] = 1
    layers = (("output", 1, 0), ("output", 3, 0))
    sigmas = noise_levels(model, 0.2, 0.6, 1)
    return model, latents, masks, cond, build_query_cache(model, latents, cond, layers, sigmas, seed=2)


def made(setting, recipe=RECIPE):
    model, latents, masks, cond, cache = setting
    return PublishedTraining(model, latents, masks, cond, cache.layers, cache.sigmas, recipe)


def seen(setting, training, rows):
    """Maps of both pictures through the UNet, with the noise that the cache was made with."""
    model, latents, _, _, cache = setting
    sigma = torch.tensor(cache.sigmas).expand(2)
    clean = model.model.process_latent_in(latents)
    noisy = model.get_model_object("model_sampling").noise_scaling(sigma[:1], _noises(latents, 1, 2)[0], clean, False)
    with torch.no_grad():
        training.rows.copy_(rows)
        return training.maps(noisy, sigma)


def test_the_pictures_own_queries_give_the_maps_of_the_cache(setting):
    rows = torch.from_numpy(standard_normal(9, 2, WIDTH)) * 3
    expected = cached_part_maps(setting[4], rows, [0, 1])
    assert expected.std() > 1e-3  # maps that say something
    assert torch.allclose(seen(setting, made(setting), rows), expected, atol=1e-3)


def test_the_tokens_values_change_its_own_queries(setting):
    rows = torch.from_numpy(standard_normal(9, 2, WIDTH)) * 3
    token = made(setting, dataclasses.replace(RECIPE, queries="token"))
    assert not torch.allclose(seen(setting, token, rows), cached_part_maps(setting[4], rows, [0, 1]), atol=1e-2)


@pytest.mark.parametrize("queries", ["picture", "token"])
def test_both_learn(setting, queries):
    training = made(setting, dataclasses.replace(RECIPE, queries=queries, learning_rate=0.3))
    rows = training.run()
    assert rows.shape == (2, WIDTH) and torch.isfinite(rows).all()
    assert min(training.losses[-5:]) < 0.9 * training.losses[0]


def test_an_unknown_choice_is_named(setting):
    with pytest.raises(ValueError, match="queries: expected one of picture, token, got 'both'"):
        made(setting, dataclasses.replace(RECIPE, queries="both"))
