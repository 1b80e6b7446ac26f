"""Thresholds and resizing of masks: flat maps, bounds, order, batches, and what a GPU is asked to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

METHODS = ("adaptive", "otsu", "fixed")


@pytest.fixture(scope="module")
def masks(pack):
    from partedit_oir.core.partedit import masks

    return masks


@pytest.fixture(scope="module")
def node(pack):
    from partedit_oir.nodes.mask import AdaptiveOtsuThreshold

    return AdaptiveOtsuThreshold


def maps():
    """One map of 2 … 8 by 2 … 8 in 0 … 1."""
    shapes = st.tuples(st.integers(2, 8), st.integers(2, 8))
    values = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    return values.map(torch.from_numpy)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("omega", [0.5, 1.0, 1.5, 10.0])
@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
def test_empty_stays_empty_and_full_stays_full(node, method, omega, fixed, normalize):
    """LoadImage gives a picture without transparency a mask of zeros; it must not become the whole picture."""
    empty, full, half = torch.zeros(64, 64), torch.ones(64, 64), torch.zeros(64, 64)
    half[:, :32] = 1
    batch = torch.stack([empty, half, full, empty])
    result, _ = node.execute(batch, method, omega, fixed, normalize).args
    assert torch.equal(result[0], empty) and torch.equal(result[2], full) and torch.equal(result[3], empty)
    alone, _ = node.execute(half[None], method, omega, fixed, normalize).args
    assert torch.equal(result[1], alone[0])
    if fixed < 1 or method != "fixed":
        assert torch.equal(result[1], half)


@pytest.mark.parametrize(("value", "rounded"), [(0.3, 0.0), (0.7, 1.0)])
def test_a_flat_mask_has_no_threshold(node, value, rounded):
    mask = torch.full((1, 8, 8), value)
    for result, expected, k in (
        (node.execute(mask, "adaptive", 1.5).args, value, value),
        (node.execute(mask, "adaptive", 0.5).args, value, value),
        (node.execute(mask, "otsu", 1.5).args, rounded, 0.5),
        (node.execute(mask, "fixed", 1.5, 0.2).args, 1.0, 0.2),
        (node.execute(mask, "fixed", 1.5, 0.8).args, 0.0, 0.8),
    ):
        assert torch.allclose(result[0], torch.full_like(mask, expected)) and result[1] == pytest.approx(k)


def test_rounding_noise_is_no_contrast(node):
    """A full mask that was resized: 0.9999999 … 1.0000001."""
    noise = 1e-7 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    for method in METHODS:
        assert torch.equal(node.execute(1 + noise, method, 1.5).args[0], torch.ones(1, 16, 16))
        assert torch.equal(node.execute(noise, method, 1.5).args[0], torch.zeros(1, 16, 16))


@given(maps(), maps(), st.sampled_from(METHODS), st.floats(0.5, 5), st.floats(0, 1), st.booleans())
def test_each_mask_of_a_batch_by_itself(node, one, other, method, omega, fixed, normalize):
    other = torch.nn.functional.interpolate(other[None, None], size=one.shape)[0, 0]
    together, _ = node.execute(torch.stack([one, other]), method, omega, fixed, normalize).args
    for number, mask in enumerate((one, other)):
        assert torch.equal(together[number], node.execute(mask, method, omega, fixed, normalize).args[0][0])


@given(maps(), st.sampled_from(METHODS), st.floats(0.5, 5), st.floats(0, 1))
def test_a_threshold_keeps_bounds_and_order(masks, values, method, omega, fixed):
    found, (k,) = masks.threshold(values[None], method, omega, fixed)
    assert found.min() >= 0 and found.max() <= 1 and 0 <= k <= 1
    order = values.flatten().argsort()
    # A value below half of k may lie above ω·k only where ω is 0.5, and then both are k / 2.
    assert (found[0].flatten()[order].diff() >= 0).all()
    if method != "adaptive":
        assert set(found.unique().tolist()) <= {0.0, 1.0}


@given(maps(), st.floats(0.5, 4), st.floats(0, 3))
def test_a_larger_omega_never_adds(masks, values, omega, more):
    strict, _ = masks.threshold(values[None], "adaptive", omega + more)
    loose, _ = masks.threshold(values[None], "adaptive", omega)
    assert (strict <= loose).all()


@given(maps(), st.integers(1, 12), st.integers(1, 12))
def test_fitted_masks_keep_their_bounds(masks, values, height, width):
    found = masks.fit_mask(values, 2, (height, width), "mask")
    assert found.shape == (2, 1, height, width) and torch.equal(found[0], found[1])
    assert found.min() >= values.min() - 1e-6 and found.max() <= values.max() + 1e-6
    opposite = masks.fit_mask(1 - values, 1, (height, width), "mask")
    assert torch.allclose(found[:1] + opposite, torch.ones(1), atol=1e-5)


@given(maps())
def test_stretching_again_changes_nothing(masks, values):
    once = masks.stretch(values[None])
    assert once.min() >= 0 and once.max() <= 1
    assert torch.allclose(masks.stretch(once), once, atol=3e-3)
    if masks.flat(values):
        assert torch.equal(once[0], values)


def test_antialiasing_never_runs_on_another_device(masks, monkeypatch):
    """Apple's GPUs have no antialiased resizing; "meta" stands for a device that is not the CPU."""
    seen = []

    def recorded(maps, antialias=False, **options):
        seen.append((maps.device.type, antialias))
        return torch.zeros(*maps.shape[:2], *options["size"], device=maps.device)

    monkeypatch.setattr(masks.F, "interpolate", recorded)
    host = torch.device("cpu")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape, device=host))
    assert masks.resize(torch.zeros(1, 1, 8, 8, device="meta"), (4, 4), antialias=True).device.type == "meta"
    assert masks.resize(torch.zeros(1, 1, 8, 8, device="meta"), (16, 16)).device.type == "meta"
    assert seen == [("cpu", True), ("meta", False)]
