"""Masked CLIP scoring on a tiny random CLIP: what is blocked cannot matter, what is allowed does."""

from __future__ import annotations

import json

import pytest
import torch

from support.tiny_segmenters import save_clip
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.vision.clip_scorer import ClipScorer, attention_bias, fit_to_square


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    folder.mkdir()
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip_model(clip_folder):
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(clip_folder, local_files_only=True, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def scorer(clip_folder):
    return ClipScorer.from_folder(clip_folder)


def left_half(height: int = 32, width: int = 32) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask


def test_blocked_patches_cannot_change_the_score(scorer):
    image, other = torch.rand(32, 32, 3), torch.rand(32, 32, 3)
    mask = left_half()
    changed = torch.where(mask[..., None] > 0, image, other)
    assert scorer.score(image, "a red cat", mask) == scorer.score(changed, "a red cat", mask)
    # The same change moves the score when nothing is blocked, and when the published code's bias is used.
    assert scorer.score(image, "a red cat") != scorer.score(changed, "a red cat")
    assert scorer.score(image, "a red cat", mask, "published_bias") != scorer.score(
        changed, "a red cat", mask, "published_bias"
    )


def test_allowed_patches_do_change_the_score(scorer):
    image = torch.rand(32, 32, 3)
    mask = left_half()
    changed = torch.where(mask[..., None] > 0, 1 - image, image)
    assert abs(scorer.score(image, "a cat", mask) - scorer.score(changed, "a cat", mask)) > 1e-4


def test_full_mask_is_the_plain_clip_score(scorer, clip_model):
    image = torch.rand(32, 32, 3)
    pixels = ((image - 0.5) / 0.25).movedim(-1, 0)[None]
    with torch.no_grad():
        pooled = clip_model.vision_model(pixel_values=pixels)[1]
        feature = clip_model.visual_projection(pooled)
        text = clip_model.text_projection(clip_model.text_model(**scorer.tokenize(["a cat"]))[1])
    expected = torch.cosine_similarity(feature, text).item()
    assert scorer.score(image, "a cat") == pytest.approx(expected, abs=1e-6)
    assert scorer.score(image, "a cat", torch.ones(32, 32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("height, width", [(64, 32), (24, 96), (50, 37)])
def test_non_square_pictures_stay_aligned(scorer, height, width):
    """The mask of the far end still selects the far end: no centre crop."""
    image = torch.rand(height, width, 3)
    mask = torch.zeros(height, width)
    if height > width:
        mask[-height // 4 :] = 1
        away = (slice(0, height // 3), slice(None))
    else:
        mask[:, -width // 4 :] = 1
        away = (slice(None), slice(0, width // 3))
    far, near = image.clone(), image.clone()
    far[away] = 1 - far[away]
    near[mask > 0] = 1 - near[mask > 0]
    base = scorer.score(image, "a cat", mask)
    assert scorer.score(far, "a cat", mask) == base
    assert abs(scorer.score(near, "a cat", mask) - base) > 1e-4


def test_padding_is_outside():
    pixels, inside = fit_to_square(torch.ones(10, 20, 3), 32, "pad")
    assert pixels.shape == (1, 3, 32, 32)
    assert inside[0, 0].sum() == 16 * 32
    assert pixels[0, :, inside[0, 0] == 0].abs().sum() == 0


@pytest.fixture
def regions(monkeypatch):
    """The patches that scores were looked at with."""
    from partedit_oir.core.vision import clip_scorer

    seen, bias = [], clip_scorer.attention_bias
    monkeypatch.setattr(clip_scorer, "attention_bias", lambda region, mode: seen.append(region) or bias(region, mode))
    return seen


def test_patches_count_by_what_lies_in_them(scorer, regions):
    """A picture by more than half, a mask by a tenth; of a thin picture or a small object what there is."""
    assert (scorer.image_size, scorer.grid) == (32, 4)
    few = torch.zeros(32, 32)
    few[8:16, :16], few[0, 16:20], few[0:2, 24:32] = 1.0, 1.0, 1.0  # two whole patches, 4 and 16 of 64 pixels
    dot = torch.zeros(512, 512)
    dot[300, 100] = 1.0
    for size, mask, expected in (
        ((18, 32), None, [[0] * 4, [1] * 4, [1] * 4, [0] * 4]),
        ((32, 24), None, [[0, 1, 1, 0]] * 4),
        ((2, 32), None, [[0] * 4, [1] * 4, [1] * 4, [0] * 4]),
        ((32, 32), few, [[0, 0, 0, 1], [1, 1, 0, 0], [0] * 4, [0] * 4]),
        ((512, 512), dot, [[0] * 4, [0] * 4, [1, 0, 0, 0], [0] * 4]),
    ):
        scorer.image_features(torch.rand(*size, 3), mask)
        assert regions.pop().int().tolist() == expected, size


def test_object_smaller_than_a_patch_survives(scorer):
    mask = torch.zeros(512, 512)
    mask[300, 100] = 1
    assert -1 <= scorer.score(torch.rand(512, 512, 3), "cat", mask) <= 1


def test_bias_values():
    region = torch.tensor([[True, False]])
    assert attention_bias(region, "masked")[0, 0, 2].tolist() == [0, 0, float("-inf")]
    # As published: 1 where query and key both lie in the region, the class token with it; other queries get nothing.
    assert attention_bias(region, "published_bias")[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_the_published_bias_leaves_queries_outside_alone():
    """A 14 x 14 grid with 36 patches inside: 160 of the 197 rows get no bias."""
    region = torch.zeros(14, 14, dtype=torch.bool)
    region[4:10, 4:10] = True
    bias = attention_bias(region, "published_bias")[0, 0]
    assert bias.shape == (197, 197) and torch.equal(bias, bias.T)
    assert int((bias == 0).all(dim=1).sum()) == 160 and float(bias.sum()) == 37 * 37


def test_from_parts_takes_a_plain_tokenizer(clip_model, scorer):
    def tokenizer(texts):
        return {"input_ids": torch.tensor([[0, 3, 4, 1] for _ in texts])}

    made = ClipScorer.from_parts(clip_model.train(), tokenizer, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
    assert not clip_model.training
    image = torch.rand(32, 32, 3)
    with torch.no_grad():
        text = clip_model.text_projection(clip_model.text_model(torch.tensor([[0, 3, 4, 1]]))[1])[0]
    expected = torch.cosine_similarity(scorer.image_features(image), text, dim=0)
    assert made.score(image, "red cat") == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a (red cat:1.4)", "a red cat"),
        ("((red)) cat", "red cat"),
        ("a \\(red\\) cat", "a (red) cat"),
        ("a red cat, embedding:style", "a red cat"),
        ("a (embedding:style:1.2) red cat", "a red cat"),
    ],
)
def test_a_prompts_syntax_does_not_reach_the_scorer(clip_model, written, read):
    seen: list[str] = []

    def tokenizer(texts):
        seen.extend(texts)
        return {"input_ids": torch.tensor([[0, 2, 3, 1]])}

    ClipScorer.from_parts(clip_model, tokenizer).score(torch.rand(32, 32, 3), written)
    assert seen == [read]


def test_the_model_is_brought_onto_its_device_for_what_is_not_remembered(clip_folder, monkeypatch):
    from partedit_oir.core.vision import clip_scorer

    monkeypatch.setattr(clip_scorer, "TEXT_CACHE_SIZE", 2)
    moved = []
    scorer = ClipScorer.from_folder(clip_folder, manage=lambda model: lambda: moved.append(model))
    scorer.image_features(torch.rand(32, 32, 3), left_half()[None])
    assert moved == [scorer.model]
    cat = scorer.text_features("a cat")
    for text, uses in (("a dog", 3), ("a cat", 3), ("a bird", 4), ("a dog", 4), ("a cat", 5)):
        found = scorer.text_features(text)
        assert len(moved) == uses and len(scorer._texts) <= 2, text
    assert torch.equal(found, cat), "forgotten when two newer ones came, and read again"


def test_a_text_without_words_is_refused(scorer):
    with pytest.raises(ValueError, match="'embedding:style' holds no words"):
        scorer.score(torch.rand(32, 32, 3), "embedding:style")


def test_edit_metrics_scores_the_words_of_a_prompt(scorer):
    from partedit_oir.core.metrics import edit_scores

    before, after = torch.rand(32, 32, 3), torch.rand(32, 32, 3)
    plain = edit_scores(before, after, left_half(), scorer, "a cat", "a red cat")
    assert edit_scores(before, after, left_half(), scorer, "a (cat:1.3)", "a (red:1.4) cat") == plain


def test_a_text_beyond_the_context_is_cut_to_its_beginning(scorer, clip_model, caplog):
    """16 tokens: both marks and 14 of the text. A tokenizer that cannot cut is refused in words."""
    image = torch.rand(32, 32, 3)
    long, cut = "a red cat " * 9, "a red cat " * 4 + "a red"
    assert scorer.tokenize([long])["input_ids"].shape == (1, 16)
    assert "only its beginning counts" in caplog.text
    caplog.clear()
    assert scorer.score(image, long) == scorer.score(image, cut) != scorer.score(image, "a red cat")
    assert caplog.text.count("only its beginning counts") == 1

    def endless(texts):
        return {"input_ids": torch.tensor([[0, *[4] * 20, 1] for _ in texts])}

    with pytest.raises(ValueError, match="tokenizer: gave 22 tokens, but the text tower takes 16"):
        ClipScorer.from_parts(clip_model, endless).score(image, "red cat")


@pytest.mark.parametrize(
    "image, mask, words",
    [
        (torch.rand(3, 32, 32, 2), None, "image: expected a shape"),
        (torch.full((32, 32, 3), float("nan")), None, "NaN"),
        (torch.rand(32, 32, 3), torch.zeros(32, 32), "mask: is empty"),
        (torch.rand(32, 32, 3), torch.ones(2, 3, 32), "mask: expected a shape"),
    ],
)
def test_bad_input_is_named(scorer, image, mask, words):
    with pytest.raises(ValueError, match=words):
        scorer.score(image, "cat", mask)


def test_missing_files_say_where_they_come_from(tmp_path, clip_folder):
    with pytest.raises(FileNotFoundError, match="openai/clip-vit-large-patch14"):
        ClipScorer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="llama"):
        ClipScorer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="weights"):
        ClipScorer.from_folder(tmp_path)


def test_weights_of_another_size_give_a_short_message(tmp_path, clip_folder):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_size"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"could not be loaded: .*clip-vit-large-patch14") as error:
        ClipScorer.from_folder(tmp_path)
    assert len(str(error.value)) < 900 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "could not be read as JSON"), ("[]", "no JSON object"), ('{"image_std": ["a", 1, 1]}', "three values each")],
)
def test_a_damaged_preprocessor_is_named(tmp_path, clip_folder, content, said):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json'.*{said}"):
        ClipScorer.from_folder(tmp_path)


def test_a_folder_with_one_tower_only_is_refused(tmp_path, clip_folder):
    """transformers would draw the other tower at random, and the scores would mean nothing."""
    import shutil

    from safetensors.torch import load_file, save_file

    half = shutil.copytree(clip_folder, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    text = {name: value for name, value in weights.items() if not name.startswith("vision_model.")}
    save_file(text, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"half' are not complete: \d+ are missing, .*vision_model.*clip-vit-large"):
        ClipScorer.from_folder(half)
