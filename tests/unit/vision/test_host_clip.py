"""A CLIP scorer from ComfyUI's own models gives the scores that transformers gives with the same weights."""

from __future__ import annotations

import pytest
import torch

from support.tiny_clips import drawn_clip, host_clip, host_clip_vision, reference_score
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.vision.clip_scorer import attention_bias
from partedit_oir.core.vision.host_clip import HostClipScorer
from partedit_oir.nodes.clip_scorer import CLIPScorerFromModels


@pytest.fixture(scope="module")
def reference():
    return drawn_clip(act="gelu")


@pytest.fixture(scope="module")
def scorer(reference):
    return CLIPScorerFromModels.execute(host_clip_vision(reference), host_clip(reference)).result[0]


@pytest.fixture
def picture():
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


def top_left() -> tuple[torch.Tensor, torch.Tensor]:
    """A mask (64, 64) and the patches (4, 4) that it covers."""
    mask, region = torch.zeros(64, 64), torch.zeros(4, 4, dtype=torch.bool)
    mask[:32, :48], region[:2, :3] = 1, True
    return mask, region


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a red cat", "a red cat"),
        ("(a green dog:1.4), sitting", "a green dog, sitting"),
        ("a cat \\(felis\\)", "a cat (felis)"),
    ],
)
def test_the_score_is_that_of_transformers(scorer, reference, picture, text, read):
    expected = reference_score(reference, picture, read)
    assert scorer.score(picture, text) == pytest.approx(expected, abs=1e-5)
    assert scorer.score(picture, text, torch.ones(64, 64)) == pytest.approx(expected, abs=1e-5)


def test_a_text_beyond_the_context_is_named(scorer, picture, caplog):
    begun = "a red cat " * 25
    assert scorer.score(picture, begun) != scorer.score(picture, "a red cat") and not caplog.text
    assert scorer.score(picture, begun + "and a green dog") == pytest.approx(scorer.score(picture, begun), abs=1e-5)
    assert "CLIP reads 77 tokens" in caplog.text


@pytest.mark.parametrize("mode", ["masked", "published_bias"])
def test_a_mask_is_what_transformers_makes_of_it(scorer, reference, picture, mode):
    mask, region = top_left()
    expected = reference_score(reference, picture, "a red cat", attention_bias(region, mode))
    assert abs(expected - reference_score(reference, picture, "a red cat")) > 1e-3
    assert scorer.score(picture, "a red cat", mask, mode) == pytest.approx(expected, abs=1e-5)


def test_blocked_patches_cannot_change_the_score(scorer, picture):
    mask, _ = top_left()
    changed = torch.where(mask[..., None] > 0, picture, 1 - picture)
    assert scorer.score(changed, "a cat", mask) == scorer.score(picture, "a cat", mask)
    assert scorer.score(changed, "a cat") != scorer.score(picture, "a cat")


def test_another_shape_and_a_long_text_are_read(scorer, reference):
    wide = torch.rand(40, 100, 3, generator=torch.Generator().manual_seed(2))
    assert -1 <= scorer.score(wide, "a red cat") <= 1
    # 77 tokens: both marks and 75 of the text
    assert scorer.score(wide, "cat " * 100) == pytest.approx(scorer.score(wide, "cat " * 75), abs=1e-6)


def test_the_host_loads_and_unloads_both(reference, picture):
    import comfy.model_management

    clip_vision, clip = host_clip_vision(reference), host_clip(reference)
    scorer = HostClipScorer.from_models(clip_vision, clip)
    before = scorer.score(picture, "a cat")
    loaded = comfy.model_management.loaded_models()
    assert clip_vision.patcher in loaded and clip.patcher in loaded
    comfy.model_management.unload_all_models()
    assert scorer.score(picture, "a cat") == before
    assert clip_vision.patcher in comfy.model_management.loaded_models()


def test_what_does_not_belong_together_names_what_to_load(reference):
    tower, text = host_clip_vision(reference), host_clip(reference)
    other = drawn_clip(projection=32)
    cases = [
        (host_clip_vision(other), text, "clip_vision: gives features of 32 values, the text encoder of clip 64"),
        (tower, host_clip(reference, copies=2), "clip_vision: gives features of 64 values, .* 128"),
        (tower, host_clip(reference, projected=False), r"clip: its text encoder has no projection \(SD1\.x"),
        (None, text, "clip_vision: is empty"),
        (tower, None, "clip: is empty"),
    ]
    for clip_vision, clip, words in cases:
        with pytest.raises(ValueError, match=rf"{words}.*clip_vision_g\.safetensors.*SDXL"):
            HostClipScorer.from_models(clip_vision, clip)
    with pytest.raises(ValueError, match="clip_vision: expected a CLIP_VISION, got CLIP"):
        CLIPScorerFromModels.execute(text, text)


def test_a_tower_that_is_no_clip_is_refused(reference):
    tower, text = host_clip_vision(reference), host_clip(reference)
    tower.model_type = "siglip_vision_model"
    with pytest.raises(ValueError, match=r"clip_vision: is of the kind 'siglip_vision_model'.*clip_vision_g"):
        HostClipScorer.from_models(tower, text)


def test_a_projection_without_weights_is_refused(reference):
    clip = host_clip(reference)
    clip.cond_stage_model.clip_g.transformer.text_projection.weight.zero_()
    with pytest.raises(ValueError, match=r"clip: the projection of its text encoder has no weights.*SDXL"):
        HostClipScorer.from_models(host_clip_vision(reference), clip)
