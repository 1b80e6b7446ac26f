"""EditMetrics against formulas written out by hand and scikit-image's own numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.metrics import MS_SSIM_WEIGHTS, edit_scores, ms_ssim


def picture(size=(64, 96), seed=0):
    """Smooth, so that every scale has structure."""
    noise = torch.rand((1, 3, size[0] // 8, size[1] // 8), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=size, mode="bicubic").clamp(0, 1)[0].movedim(0, -1)


def test_equal_pictures():
    score = edit_scores(picture(), picture(), torch.ones(64, 96))
    assert math.isinf(score.psnr)
    assert score.ssim == pytest.approx(1) and score.ms_ssim == pytest.approx(1)
    assert score.psnr_outside is None and math.isinf(score.psnr_inside)


def test_psnr_by_hand_and_by_region():
    source = torch.full((32, 32, 3), 0.5)
    edited = source.clone()
    edited[:, :16] += 0.1
    mask = torch.zeros(32, 32)
    mask[:, :16] = 1
    score = edit_scores(source, edited, mask)
    assert score.psnr_inside == pytest.approx(20, abs=1e-4)
    assert score.psnr == pytest.approx(-10 * math.log10(0.005), abs=1e-4)
    assert math.isinf(score.psnr_outside) and score.changed_outside == 0
    swapped = edit_scores(source, edited, 1 - mask)
    assert swapped.psnr_outside == pytest.approx(20, abs=1e-4) and swapped.changed_outside == 1
    # A mask of another size, and values beyond white.
    assert edit_scores(source, edited, mask[::4, ::4]) == score
    assert math.isinf(edit_scores(torch.ones(32, 32, 3), torch.full((32, 32, 3), 1.2)).psnr)


def test_a_pixel_that_changed_by_8_of_255_has_not_changed_by_more():
    """Whether it counted once was decided by the rounding of float32, differently for each value."""
    levels = torch.arange(247.0).expand(16, -1)[..., None].expand(-1, -1, 3)
    mask = torch.zeros(16, 247)
    mask[:, 0] = 1
    for steps, share in ((8, 0.0), (9, 1.0)):
        edited = levels.clone()
        edited[..., 1] += steps  # in any channel
        assert edit_scores(levels / 255, edited / 255, mask).changed_outside == share


def test_ssim_is_scikit_images():
    from skimage.metrics import structural_similarity

    source, edited = picture(), (picture() + 0.1 * picture(seed=1)).clamp(0, 1)
    expected, local = structural_similarity(
        source.double().numpy(),
        edited.double().numpy(),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    mask = torch.zeros(64, 96)
    mask[:, :24] = 1
    score = edit_scores(source, edited, mask)
    assert score.ssim == pytest.approx(local.mean(), abs=1e-12)
    assert score.ssim_outside == pytest.approx(local[:, 24:].mean(), abs=1e-12) and score.ssim_outside != score.ssim
    assert score.ssim == pytest.approx(expected, abs=0.02)


def test_ms_ssim_from_scikit_images_terms():
    """Each scale's contrast-structure term, taken from scikit-image by removing the luminance of equal means."""
    from skimage.metrics import structural_similarity

    source, edited = picture((192, 192)), picture((192, 192))
    # Zero-mean detail on a flat ground keeps local means nearly equal, so that SSIM is its contrast-structure term.
    detail = torch.randn((192, 192, 3), generator=torch.Generator().manual_seed(2)) * 0.05
    source, edited = 0.5 + detail, 0.5 + detail * 0.6
    expected, x, y = 1.0, source.double().numpy(), edited.double().numpy()
    for weight in MS_SSIM_WEIGHTS:
        value = structural_similarity(
            x, y, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        expected *= value**weight
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2, 3).mean(axis=(1, 3)) for z in (x, y))
    value, scales = ms_ssim(source.double().numpy(), edited.double().numpy())
    assert scales == 5
    assert value == pytest.approx(expected, abs=2e-3)
    assert value < 0.99


def test_ms_ssim_of_small_pictures_says_its_scales():
    value, scales = ms_ssim(np.full((32, 32, 3), 0.5), np.full((32, 32, 3), 0.5))
    assert (value, scales) == (pytest.approx(1), 2)
    worse, _ = ms_ssim(picture().double().numpy(), 1 - picture().double().numpy())
    assert 0 <= worse < 0.5


def test_ms_ssim_of_one_scale_is_ssim_where_the_whole_window_is_inside():
    from skimage.metrics import structural_similarity

    x, y = (picture((16, 24), seed).double().numpy() for seed in (0, 1))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, local = structural_similarity(x, y, data_range=1.0, channel_axis=-1, **options)
    value, scales = ms_ssim(x, y)
    assert scales == 1 and 0.01 < value < 0.9
    assert value == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-9)


class Scorer:
    """Mean of the masked region's red, twice for a cat, to see which region and which text were asked for."""

    def score(self, image, text, mask=None, mode="masked"):
        red = float(image[..., 0].mean() if mask is None else image[..., 0][mask > 0.5].mean())
        return 2 * red if text == "a cat" else red

    def image_features(self, image, mask=None, mode="masked"):
        return torch.tensor([1.0, self.score(image, "", mask)])

    def text_features(self, text):
        return torch.tensor([0.0, 2.0 if text == "a cat" else 1.0])


def test_clip_scores_look_at_the_right_region():
    source, edited = torch.zeros(16, 16, 3), torch.zeros(16, 16, 3)
    edited[:, :8, 0], edited[:, 8:, 0], source[:, :8, 0] = 0.75, 0.25, 0.5
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    score = edit_scores(source, edited, mask, Scorer(), "a cat", "a dog")
    assert score.clip_edited_target == 0.75 and score.clip_before_target == 0.5
    assert score.clip_edited_source == 1.5
    assert score.clip_unedited == 0.5 and score.clip_unedited_before == 0
    # The other region of the two images with each other: 1 · 1 + 0 · 0.25.
    assert score.clip_unedited_regions == 1
    source[:, 8:, 0] = 1
    score = edit_scores(source, edited, mask, Scorer(), "a cat", "a dog")
    assert score.clip_unedited_regions == 1.25 and score.clip_unedited_before == 2


def test_only_what_was_given_has_clip_scores():
    source, edited, mask = torch.zeros(16, 16, 3), torch.full((16, 16, 3), 0.25), torch.zeros(16, 16)
    mask[:, :8] = 1

    def known(*inputs):
        found = vars(edit_scores(source, edited, *inputs))
        return {
            name.removeprefix("clip_"): value for name, value in found.items() if "clip" in name and value is not None
        }

    rest = {"unedited_regions": 1.0}
    assert known(mask, Scorer(), " ", "a dog") == {"edited_target": 0.25, "before_target": 0.0, **rest}
    assert known(mask, Scorer(), "a cat", "\n") == {
        "edited_source": 0.5,
        "unedited": 0.5,
        "unedited_before": 0.0,
        **rest,
    }
    assert known(mask, Scorer(), "", " ") == rest
    whole = {"edited_target": 0.25, "before_target": 0.0, "edited_source": 0.5}
    assert known(None, Scorer(), "a cat", "a dog") == known(torch.ones(16, 16), Scorer(), "a cat", "a dog") == whole
    assert known(torch.zeros(16, 16), Scorer(), "", "a dog") == rest
    assert known(mask, None, "a cat", "a dog") == {}


@pytest.mark.parametrize(
    "source, edited, mask, words",
    [
        (torch.zeros(32, 32, 3), torch.zeros(32, 16, 3), None, "edited: is 16 x 32"),
        (torch.zeros(8, 32, 3), torch.zeros(8, 32, 3), None, "source: is 32 x 8 pixels; SSIM needs at least 11 x 11"),
        (torch.zeros(32, 32, 3), torch.full((32, 32, 3), float("nan")), None, "edited: contains NaN"),
        (torch.zeros(32, 32, 3), torch.zeros(32, 32, 3), torch.zeros(1, 32, 32), "mask: expected a shape"),
    ],
)
def test_bad_input_is_named(source, edited, mask, words):
    with pytest.raises(ValueError, match=words):
        edit_scores(source, edited, mask)


def test_the_node_gives_means_text_and_valid_json():
    from partedit_oir.nodes.metrics import EditMetrics

    source = picture()[None]
    edited = torch.cat([source, (source + 0.1).clamp(0, 1)])
    text, report, psnr, outside, *_ = EditMetrics.execute(source, edited, torch.zeros(1, 64, 96)).result
    parsed = json.loads(report)
    assert len(parsed["pictures"]) == 2 and parsed["pictures"][0]["psnr"] == 1000
    assert outside == pytest.approx(psnr) and "PSNR outside the mask" in text
    assert parsed["mean"]["ssim"] == pytest.approx(np.mean([entry["ssim"] for entry in parsed["pictures"]]))
    with pytest.raises(ValueError, match="source: expected 1 or 2"):
        EditMetrics.execute(torch.cat([source] * 3), edited)


def test_identical_images_of_a_batch_do_not_lift_its_mean_psnr():
    """The mean was 505 dB for one identical image and one at 10 dB."""
    from partedit_oir.nodes.metrics import EditMetrics

    source = torch.full((1, 32, 32, 3), 0.5)
    edited = torch.cat([source, source + 0.1, source + 0.1 * math.sqrt(10)])  # identical, 20 dB, 10 dB
    text, report, psnr, outside, *_ = EditMetrics.execute(source, edited).result
    assert psnr == outside == pytest.approx(15, abs=1e-3)
    assert "PSNR (dB): 15 (1 identical left out)" in text.splitlines()
    parsed = json.loads(report)
    assert parsed["identical"] == {"psnr": 1} and parsed["images"]["psnr"] == 3
    text, _, psnr, *_ = EditMetrics.execute(source, torch.cat([source] * 2)).result
    assert psnr == 1000 and text.splitlines()[0] == "PSNR (dB): identical"


def test_an_image_without_a_score_leaves_those_of_the_batch(monkeypatch):
    """One all-covering or empty mask turned the batch's score into another one, or into 0."""
    from partedit_oir.nodes.metrics import EditMetrics

    source = torch.full((1, 32, 32, 3), 0.5)
    edited = torch.cat([source + 0.1, source + 0.1, source])
    edited[1, :16] = 1.0
    half = torch.zeros(32, 32)
    half[:16] = 1
    masks = torch.stack([torch.ones(32, 32), half, torch.zeros(32, 32)])
    text, report, _, psnr_outside, _, ssim_outside, _, clip_edited, clip_unedited = EditMetrics.execute(
        source, edited, masks, Scorer(), "a cat", "a dog"
    ).result
    # outside the mask: image 2 at 20 dB, image 3 identical; inside it: red of 0.6 and 1
    assert psnr_outside == pytest.approx(20, abs=1e-3) and clip_edited == pytest.approx(0.8)
    assert clip_unedited == pytest.approx(0.6 + 0.5)  # twice for the cat
    pictures = json.loads(report)["pictures"]
    assert ssim_outside == pytest.approx((pictures[1]["ssim_outside"] + pictures[2]["ssim_outside"]) / 2)
    assert "PSNR outside the mask (dB): 20 (2 of 3 images have it; 1 identical left out)" in text.splitlines()
    assert "CLIP, edited region and target text: 0.8 (2 of 3 images have it)" in text.splitlines()
    assert "Nothing lies outside" not in text and "is empty" not in text

    text, _, psnr, outside, *_ = EditMetrics.execute(source, edited[:1], masks[:1]).result
    assert psnr == outside and text.endswith(
        "Nothing lies outside the mask: the outputs for it are those of the whole image."
    )
    assert "The mask is empty" in EditMetrics.execute(source, edited[:1], masks[2:]).result[0]
