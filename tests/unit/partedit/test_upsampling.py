"""Guided upsampling of part maps: the published filter, and what the node makes of it."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from support.tiny_edits import token
from support.tiny_models import WordClip, drawn, tiny_sdxl


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def upsampling(pack):
    return importlib.import_module("partedit_oir.core.partedit.upsampling")


def window_means(values: np.ndarray, radius: int) -> np.ndarray:
    """Means over (2r + 1)² windows of (H, W, ...) values whose edge is repeated."""
    pad = [(radius, radius), (radius, radius)] + [(0, 0)] * (values.ndim - 2)
    wide = np.pad(values, pad, mode="edge")
    out = np.zeros_like(values)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            out[y, x] = wide[y : y + 2 * radius + 1, x : x + 2 * radius + 1].mean(axis=(0, 1))
    return out


def plain_guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """He et al. 2013, Eq. 5, 6 and 8 with a colour guide (Eq. 14 to 16), pixel by pixel."""
    channels = guide.shape[-1]
    mean, mean_p = window_means(guide, radius), window_means(values, radius)
    products = window_means(guide[..., :, None] * guide[..., None, :], radius)
    cross = window_means(guide * values[..., None], radius)
    a, b = np.zeros_like(guide), np.zeros_like(values)
    for place in np.ndindex(values.shape):
        sigma = products[place] - np.outer(mean[place], mean[place]) + eps * np.eye(channels)
        a[place] = np.linalg.solve(sigma, cross[place] - mean[place] * mean_p[place])
        b[place] = mean_p[place] - a[place] @ mean[place]
    return (window_means(a, radius) * guide).sum(-1) + window_means(b, radius)


def test_it_is_the_published_filter(upsampling):
    guide = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    maps = torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(2))
    found = upsampling.guided_upsampling(maps, guide, 2.0)
    scaled = ((maps - maps.min()) / (maps.max() - maps.min() + 1e-6))[0, 0].double().numpy()
    expected = plain_guided_filter(guide[0].movedim(0, -1).double().numpy(), scaled, 2, upsampling.EDGE)
    assert np.abs(found[0, 0].numpy() - expected.clip(0, 1)).max() < 1e-3


def test_a_border_moves_to_the_edge_of_the_picture(upsampling):
    from partedit_oir.core.partedit.masks import normalise, resize

    true = torch.zeros(1, 1, 64, 64)
    true[..., 13:45, 22:51] = 1.0
    guide = (0.2 + 0.5 * true).repeat(1, 3, 1, 1)
    coarse = torch.nn.functional.avg_pool2d(true, 4)
    fine = upsampling.guided_upsampling(coarse, guide, 1.0)
    assert fine.shape == true.shape
    assert ((normalise(fine) > 0.5) == (true > 0.5)).all()
    assert ((resize(coarse, (64, 64)) > 0.5) != (true > 0.5)).any()


def test_each_picture_and_part_by_itself(upsampling):
    guide, maps = torch.rand(2, 4, 16, 24), torch.rand(2, 3, 8, 12)
    both = upsampling.guided_upsampling(maps, guide, 1.0)
    for picture in range(2):
        for part in range(3):
            one = upsampling.guided_upsampling(maps[picture, part][None, None], guide[picture][None], 1.0)
            assert torch.allclose(both[picture, part], one[0, 0], atol=1e-5)


def test_cells_follow_the_layers_that_are_read(model):
    from partedit_oir.core.partedit.part_maps import map_cell

    # Levels of the small model: its encoder's and decoder's transformers sit one and two halvings down.
    one = token()
    assert map_cell(model, one, "input.4") == 2.0 and map_cell(model, one, "middle") == 4.0
    assert map_cell(model, one, "input.4, input.7:0") == 3.0
    assert map_cell(model, replace(one, layers=("input.4",))) == 2.0


def test_pictures_that_do_not_fit_are_named(upsampling):
    with pytest.raises(ValueError, match="image: expected 1 or 2 images"):
        upsampling.picture_guide(torch.rand(3, 64, 64, 3), 2, (8, 8))
    with pytest.raises(ValueError, match="image: is 128 x 64 pixels"):
        upsampling.picture_guide(torch.rand(2, 64, 128, 3), 2, (8, 8))
    # One picture serves the batch, and a border that encoding crops is no other shape.
    assert upsampling.picture_guide(torch.rand(1, 67, 64, 4), 2, (8, 8)).shape == (2, 3, 16, 16)


def test_guides_are_smooth_and_finite(upsampling):
    stripes = torch.arange(64).remainder(4).div(2, rounding_mode="floor").float()
    guide = upsampling.picture_guide(stripes[:, None].expand(1, 64, 64, 3), 1, (8, 8))
    assert float(guide.min()) > 0.4 and float(guide.max()) < 0.6, "stripes of two pixels are grey at a quarter"
    assert torch.equal(upsampling.latent_guide(torch.full((2, 4, 8, 8), 3.0)), torch.zeros(2, 4, 8, 8))


def test_the_node_takes_the_latent_or_the_picture_as_guide(pack, model, monkeypatch):
    nodes = {node.__name__: node for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}
    execute = nodes["PartAttentionMask"].execute
    clip = WordClip()
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a man"))
    latent = {"samples": drawn("picture", 2, 4, 16, 24)}
    inputs = (model, token(parts=2), positive, latent, 0.3, 1)
    picture = torch.rand(1, 128, 192, 3)
    region = torch.zeros(1, 128, 192)
    region[:, :64] = 1.0
    plain, plain_parts = execute(*inputs).args
    for extra in ({}, {"image": picture}):
        mask, parts = execute(*inputs, upsampling="guided", region=region, **extra).args
        assert mask.shape == plain.shape == (2, 128, 192) and parts.shape == plain_parts.shape == (4, 128, 192)
        assert mask.min() >= 0 and mask.max() <= 1 and mask[:, 80:].max() == 0
        assert (mask[:, :56] - plain[:, :56]).abs().max() > 0.05
    monkeypatch.setattr(model.model.diffusion_model, "_forward", None)  # an error must come before any pass
    with pytest.raises(ValueError, match="image: is 64 x 64"):
        execute(*inputs, upsampling="guided", image=torch.rand(1, 64, 64, 3))
