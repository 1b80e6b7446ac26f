"""Masks as users connect them: shapes, dtypes, values, empty ones, aspect, and which picture gets which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from support.tiny_models import drawn


@pytest.fixture(scope="module")
def inputs(pack):
    from partedit_oir.core import mask_inputs

    return mask_inputs


@pytest.fixture(scope="module")
def rows(pack):
    from partedit_oir.core import picture_rows

    return picture_rows


def batches(low=-0.2, high=1.3):
    """Masks (1 … 3, 1 … 9, 1 … 9)."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(low, high, width=32)))


@given(batches(-10, 10))
def test_values_are_clamped_and_the_rest_is_kept(inputs, values):
    mask = torch.from_numpy(values)
    found = inputs.mask_batch(mask, "mask")
    assert found.shape == mask.shape and found.dtype == torch.float32
    assert torch.equal(found, mask.clamp(0, 1))
    assert torch.equal(inputs.mask_batch(found, "mask"), found)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 4, 6), (2, 1, 4, 6)])
def test_every_dtype_and_shape_means_the_same(inputs, dtype, shape):
    mask = (drawn("mask", *shape) > 0).to(dtype)
    found = inputs.mask_batch(mask, "mask")
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    assert torch.equal(found, mask.float().reshape(-1, 4, 6))


@given(array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3))
def test_every_other_shape_is_refused_by_name(inputs, shape):
    mask = torch.ones(shape)
    usable = len(shape) in (2, 3) or (len(shape) == 4 and shape[1] == 1)
    if usable and mask.numel():
        assert inputs.mask_batch(mask, "region").ndim == 3
    else:
        with pytest.raises(ValueError, match=r"^region: (expected a MASK of shape|has no pixels)"):
            inputs.mask_batch(mask, "region")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[0.0, 1.0]], "mask: expected a MASK, got list"),
        (torch.ones(1, 4, 4, 3), r"got \(1, 4, 4, 3\). Convert images to masks with Convert Image to Mask"),
        (torch.full((1, 4, 4), float("nan")), "mask: contains NaN or infinite values"),
        (torch.tensor([[0.0, float("inf")]]), "mask: contains NaN or infinite values"),
        (torch.tensor([[0, 255]], dtype=torch.uint8), "mask: expected values from 0 to 1, got 0 to 255"),
        (torch.ones(1, 4, 4, dtype=torch.complex64), "mask: expected a MASK"),
    ],
)
def test_what_is_no_mask_is_refused(inputs, mask, message):
    with pytest.raises(ValueError, match=message):
        inputs.mask_batch(mask, "mask")


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_empty_masks_are_named(inputs, filled):
    masks = torch.zeros(len(filled), 64, 64)
    for mask, some in zip(masks, filled):
        mask[3, 5] = float(some)
    if all(filled):
        inputs.check_not_empty(masks, "region", "the part cannot be anywhere")
        return
    with pytest.raises(ValueError) as error:
        inputs.check_not_empty(masks, "region", "the part cannot be anywhere")
    text = str(error.value)
    numbers = ", ".join(str(n) for n, some in enumerate(filled, start=1) if not some)
    which = (
        "the mask is empty" if len(filled) == 1 else f"{numbers} {'is' if filled.count(False) == 1 else 'are'} empty"
    )
    assert text.startswith("region: ") and which in text and "so the part cannot be anywhere" in text
    assert "Load Image gives an empty 64×64 mask" in text and "disconnect this input" in text


@given(st.integers(1, 5), st.integers(1, 5))
def test_one_mask_or_one_for_each_picture(inputs, masks, pictures):
    given_masks = torch.rand(masks, 4, 6)
    if masks not in (1, pictures):
        with pytest.raises(ValueError, match=f"mask: has {masks} masks for {pictures} images"):
            inputs.picture_masks(given_masks, pictures, (32, 48), "mask")
        return
    found = inputs.picture_masks(given_masks, pictures, (32, 48), "mask")
    assert all(torch.equal(found[i], given_masks[i % masks]) for i in range(pictures))


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
def test_one_mask_for_each_edit(inputs, count, pictures, edits):
    masks = torch.rand(count, 4, 6)
    if count not in (1, pictures, pictures * edits):
        with pytest.raises(ValueError, match=f"mask: has {count} masks for {pictures} images"):
            inputs.one_per_edit(masks, pictures, edits, "mask")
        with pytest.raises(ValueError, match=f"mask: has {count} masks for {pictures} images"):
            inputs.picture_masks(masks, pictures, (32, 48), "mask", edits=edits)
        return
    found = inputs.one_per_edit(masks, pictures, edits, "mask")
    own = count not in (1, pictures)
    for edit in range(edits):
        for picture in range(pictures):
            expected = masks[edit * pictures + picture] if own else masks[picture % count]
            assert torch.equal(found[edit * pictures + picture], expected)


@given(st.integers(64, 2100), st.integers(64, 2100), st.integers(1, 8))
def test_a_mask_of_the_picture_fits_at_every_resolution(inputs, height, width, smaller):
    """Before encoding, after it, and scaled down to 64 pixels on the shorter side."""
    encoded = (height // 8 * 8, width // 8 * 8)
    shrink = min(float(smaller), min(height, width) / 64)
    for size in ((height, width), encoded, tuple(round(side / shrink) for side in (height, width))):
        inputs.check_shape(size, encoded, "mask")


@pytest.mark.parametrize("cell", [8, 16])
def test_no_more_is_cut_than_a_vae_cuts(inputs, cell):
    mask = torch.rand(64 + cell, 96)
    assert inputs.picture_masks(mask[1:], 1, (64, 96), "mask", cell=cell).shape == (1, 64, 96)
    with pytest.raises(ValueError, match=f"mask: the mask is 96×{64 + cell}"):
        inputs.picture_masks(mask, 1, (64, 96), "mask", cell=cell)


@given(st.integers(64, 1024), st.floats(1.2, 4.0), st.booleans())
def test_another_aspect_is_refused(inputs, side, stretch, upright):
    picture = (side // 8 * 8, side // 8 * 8)
    mask = (picture[0], round(picture[1] * stretch))
    words = r"mask: the mask is \d+×\d+ \(width × height\), but the image is \d+×\d+: another aspect ratio"
    with pytest.raises(ValueError, match=words):
        inputs.check_shape(mask[::-1] if upright else mask, picture, "mask")


def test_a_mask_of_one_value_fits_every_aspect(inputs):
    assert inputs.picture_masks(torch.ones(1, 64, 64), 2, (128, 192), "mask").shape == (2, 64, 64)
    half = torch.zeros(1, 64, 64)
    half[:, :32] = 1
    with pytest.raises(ValueError, match="mask: the mask is 64×64"):
        inputs.picture_masks(half, 2, (128, 192), "mask")


@given(st.integers(0, 7), st.integers(0, 7))
def test_a_mask_is_cut_as_the_vae_cuts_the_picture(inputs, down, right):
    from types import SimpleNamespace

    import comfy.sd

    mask = drawn("mask", 1, 24 + down, 32 + right)
    vae = SimpleNamespace(crop_input=True, spacial_compression_encode=lambda: 8, output_channels=1)
    kept = comfy.sd.VAE.vae_encode_crop_pixels(vae, mask[..., None])[..., 0]
    assert torch.equal(inputs.crop_as_encoded(mask, (24, 32)), kept)
    small = mask[:, :12, :16]
    assert inputs.crop_as_encoded(small, (24, 32)) is small


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_noise_masks_belong_to_pictures(rows, masks, pictures, edits):
    """Every edit has its picture's noise mask, and that is the one of an ordinary run."""
    import comfy.sampler_helpers

    given_masks = torch.rand(masks, 1, 16, 24)
    found = rows.noise_mask_rows(given_masks, pictures, 1 + edits)
    ordinary = comfy.sampler_helpers.prepare_mask(given_masks, (pictures, 4, 8, 12), "cpu")
    seen = comfy.sampler_helpers.prepare_mask(found, ((1 + edits) * pictures, 4, 8, 12), "cpu")
    for row in range(1 + edits):
        assert torch.equal(seen[row * pictures : (row + 1) * pictures], ordinary)


def test_noise_masks_are_clamped_counted_and_checked(rows, caplog):
    found = rows.noise_mask_rows(torch.tensor([[-0.12, 1.23]]), 2, 2)
    assert found.shape == (4, 1, 1, 2) and found[3, 0].tolist() == [[0.0, 1.0]]
    assert rows.noise_mask_rows(torch.ones(2, 4, 8, 8), 8, 1).shape == (8, 1, 8, 8)
    assert not caplog.records
    rows.noise_mask_rows(torch.ones(2, 1, 8, 8), 3, 2)
    assert "latent_image has 2 noise masks for 3 images" in caplog.text
    with pytest.raises(ValueError, match="latent_image: noise_mask: contains NaN or infinite values"):
        rows.noise_mask_rows(torch.full((1, 8, 8), float("nan")), 1, 2)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_masks_of_a_conditioning_belong_to_pictures(rows, masks, pictures, edits):
    """What the host multiplies an edit's prediction with is what it multiplies its picture's with alone."""
    from comfy.samplers import get_area_and_mult

    mask = torch.rand(masks, 8, 8)

    def weights(mask, count):
        entry = {"mask": mask, "model_conds": {}, "uuid": None}
        return get_area_and_mult(entry, torch.zeros(count, 4, 8, 8), torch.zeros(1)).mult

    kept = min(masks, pictures)
    if pictures % kept:
        with pytest.raises(ValueError, match=f"negative: an entry has {masks} masks for {pictures} images"):
            rows.option_rows({"mask": mask}, pictures, 1 + edits, "negative")
        return
    alone = weights(mask, pictures)
    options = {"mask": mask, "strength": 0.5}
    together = weights(rows.option_rows(options, pictures, 1 + edits, "negative")["mask"], (1 + edits) * pictures)
    assert options["mask"] is mask
    for row in range(1 + edits):
        assert torch.equal(together[row * pictures : (row + 1) * pictures], alone)


@pytest.mark.parametrize("key", ["concat_latent_image", "concat_mask"])
@pytest.mark.parametrize("given_count", [1, 2, 3])
def test_latents_of_an_inpainting_model_belong_to_pictures(rows, key, given_count):
    import comfy.utils

    tensor = drawn("concat", given_count, 4, 8, 8)
    found = comfy.utils.resize_to_batch_size(rows.option_rows({key: tensor}, 2, 3, "positive")[key], 6)
    alone = comfy.utils.resize_to_batch_size(tensor, 2)
    assert torch.equal(found, alone.repeat(3, 1, 1, 1))


def test_hints_of_a_controlnet_belong_to_pictures(rows):
    from types import SimpleNamespace

    from comfy.controlnet import broadcast_image_to

    first = SimpleNamespace(cond_hint_original=drawn("hint", 3, 3, 8, 8), cond_hint=None, previous_controlnet=None)
    second = SimpleNamespace(cond_hint_original=drawn("one", 1, 3, 8, 8), cond_hint=None, previous_controlnet=first)
    for pictures in (1, 2):
        found = rows.option_rows({"control": second}, pictures, 2, "positive")["control"]
        assert found is not second and found.cond_hint_original is second.cond_hint_original
        hints = broadcast_image_to(found.previous_controlnet.cond_hint_original, 2 * 2 * pictures, 2)
        alone = broadcast_image_to(first.cond_hint_original, pictures, 1)
        assert all(torch.equal(hints[i % hints.shape[0]], alone[i % pictures]) for i in range(4 * pictures))
    assert first.cond_hint_original.shape[0] == 3 and second.previous_controlnet is first
    assert rows.option_rows({"control": second}, 3, 2, "positive")["control"] is second
