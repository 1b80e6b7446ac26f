"""Originals restored outside the masks, for latents and images, edit by edit."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def paste_back(pack):
    from partedit_oir.core import paste_back

    return paste_back


def halves(count, height, width):
    """Masks of half the width, of one half of its height a half."""
    masks = torch.zeros(count, height, width)
    masks[..., : width // 2] = 1.0
    masks[:, : height // 2, : width // 2] = 0.5
    return masks


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 1, 8, 6)])
def test_latents_edit_by_edit(paste_back, shape):
    """Two edits of two images, one with a time axis; each with its own image's original."""
    edited, sources = torch.full((4, *shape), 10.0), torch.arange(2.0).reshape(-1, *[1] * len(shape)).expand(2, *shape)
    masks = halves(4, 8, 6)
    masks[3] = 0.0
    found = paste_back.paste_latents(edited, sources, masks)
    assert found.shape == edited.shape and found.dtype == edited.dtype
    for number, (edit, half, outside) in enumerate([(10, 5, 0), (10, 5.5, 1), (10, 5, 0), (1, 1, 1)]):
        assert (found[number, ..., 4:, :3] == edit).all()
        assert (found[number, ..., :4, :3] == half).all() and (found[number, ..., 3:] == outside).all()


def test_pixels_of_an_image_with_transparency(paste_back):
    edited, masks = torch.rand(2, 8, 6, 3).half(), halves(2, 8, 6)
    originals = torch.rand(1, 8, 6, 4, dtype=torch.float64)
    found = paste_back.paste_pixels(edited, originals, masks)
    assert found.shape == edited.shape and found.dtype == torch.float16
    assert torch.equal(found[:, 4:, :3], edited[:, 4:, :3])
    assert torch.equal(found[:, :, 3:], originals[..., :3].half().expand(2, -1, -1, -1)[:, :, 3:])


def test_what_cannot_be_pasted_is_named(paste_back):
    of = paste_back.PasteBack.of
    assert [(of(name).latent, of(name).pixels) for name in paste_back.CHOICES] == [(0, 0), (1, 0), (0, 1)]
    with pytest.raises(ValueError, match=r"^paste_back: 'both' is not one of off, latent, pixels\.$"):
        of("both")
    paste_back.check_originals(torch.zeros(2, 8, 6, 3), 2, (8, 6))
    for images, words in (
        (torch.zeros(8, 6, 3), r"expected 2 image\(s\)"),
        (torch.zeros(1, 8, 6, 3), r"expected 2 image\(s\), one per source image, got a batch of 1"),
        (torch.zeros(2, 6, 8, 3), "the original is 8×6, but the edit is 6×8"),
        (torch.zeros(2, 8, 7, 3), "the original is 7×8, but the edit is 6×8"),
    ):
        with pytest.raises(ValueError, match=f"^image: {words}"):
            paste_back.check_originals(images, 2, (8, 6))
