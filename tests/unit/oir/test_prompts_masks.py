"""Editing pairs: phrases in prompts, masks on latents, and who owns which pixel."""

from __future__ import annotations

import pytest
import torch

from support.stand_ins import SOURCE, FakeClip, make_pair


@pytest.fixture(scope="module")
def prompts(pack):
    from partedit_oir.core.oir import prompts

    return prompts


@pytest.fixture(scope="module")
def masks(pack):
    from partedit_oir.core.oir import masks

    return masks


@pytest.fixture(scope="module")
def node(pack):
    from partedit_oir.nodes.editing_pair import EditingPair

    return EditingPair


def box(height=16, width=16, left=0, right=8):
    mask = torch.zeros(height, width)
    mask[:, left:right] = 1.0
    return mask


def test_a_phrase_is_found_as_whole_words_in_any_case(prompts):
    assert prompts.find_phrase("Category of a Cat", "cat") == (14, 17)
    assert prompts.find_phrase("a red\n cat", "red cat") == (2, 10)
    assert prompts.find_phrase("a (cat:1.2) sits", "cat") == (3, 6)
    assert prompts.find_phrase("a cat and a cat", "cat", occurrence=2) == (12, 15)


@pytest.mark.parametrize(
    ("prompt", "phrase", "found"),
    [
        ("一个男人在海滩上", "男人", ["男人"]),
        ("浜辺の女の子と、女の子の帽子", "女の子", ["女の子", "女の子"]),
        ("ผู้ชายบนชายหาด", "ชายหาด", ["ชายหาด"]),
        ("一只cat在椅子上", "cat", ["cat"]),
        ("ｶﾞﾗｽの靴", "ガラス", ["ｶﾞﾗｽ"]),
        ("un cafe\u0301 noir", "caf\u00e9", ["cafe\u0301"]),
        ("un caf\u00e9 noir", "CAFE\u0301 noir", ["caf\u00e9 noir"]),
        ("eine STRASSE", "straße", ["STRASSE"]),
        ("한 남자가 있다", "\u1112\u1161\u11ab", ["한"]),
        # Korean particles stay where they are; another noun that begins alike is another word
        ("남자가 해변에 있다", "남자", ["남자"]),
        ("두 남자들에게는 고양이와 개가 있다", "남자", ["남자"]),
        ("두 남자들에게는 고양이와 개가 있다", "고양이", ["고양이"]),
        ("\u1102\u1161\u11b7\u110c\u1161\u1100\u1161 있다", "남자", ["\u1102\u1161\u11b7\u110c\u1161"]),
        ("빨간 cat이 의자에서 잔다", "의자", ["의자"]),
        ("빨간 cat이 의자에서 잔다", "빨간 CAT", ["빨간 cat"]),
        ("남자친구와 남자, 남자는", "남자", ["남자", "남자"]),
        ("어떤남자가 있다", "남자", []),
        # what is only a piece of a word or of a character is none
        ("category of a cat", "cat", ["cat"]),
        ("हिन्दी", "हिन", []),
        ("cafe\u0301", "cafe", []),
        ("㍿", "会社", []),
    ],
)
def test_a_phrase_is_found_in_any_script_and_normal_form(prompts, prompt, phrase, found):
    for number, words in enumerate(found, start=1):
        start, end = prompts.find_phrase(prompt, phrase, number)
        assert prompt[start:end] == words
    with pytest.raises(ValueError, match=f"occurs {len(found)} time|does not occur"):
        prompts.find_phrase(prompt, phrase, len(found) + 1)


def test_a_pair_in_chinese_gets_its_guided_prompt(node):
    result = node.execute(FakeClip(), "一个男人在海滩上", "男人", "机器人", box()[None], 1, "")
    assert result[1] == "一个机器人在海滩上"


def test_accents_in_either_form_are_one_source_prompt(node, prompts):
    decomposed, composed = "un cafe\u0301 et un chat", "un caf\u00e9 et un chat"
    first = node.execute(FakeClip(), decomposed, "caf\u00e9", "the", box()[None], 1, "")
    pairs = node.execute(FakeClip(), composed, "chat", "tigre", box()[None], 1, "", first[0])[0]
    assert prompts.target_prompt(pairs) == "un the et un tigre"
    prompts.check_source_prompt(pairs, decomposed)
    with pytest.raises(ValueError, match="inverted with 'un chat'"):
        prompts.check_source_prompt(pairs, "un chat")


def test_a_missing_phrase_shows_the_prompt(prompts):
    with pytest.raises(ValueError, match=r"'dog' does not occur in the source prompt 'a cat and a chair'"):
        prompts.find_phrase(SOURCE, "dog")
    with pytest.raises(ValueError, match="occurs 1 time"):
        prompts.find_phrase(SOURCE, "cat", occurrence=2)
    with pytest.raises(ValueError, match="empty"):
        prompts.find_phrase(SOURCE, "  ")


def test_target_prompt_exchanges_every_phrase(prompts):
    pairs = [make_pair("chair", "golden throne", box()), make_pair("cat", "tiger", box())]
    assert [p.guided_prompt for p in pairs] == ["a cat and a golden throne", "a tiger and a chair"]
    assert prompts.target_prompt(pairs) == "a tiger and a golden throne"


def test_the_same_phrase_twice_is_two_pairs(prompts):
    pairs = [make_pair("cat", "tiger", box(right=8)), make_pair("cat", "dog", box(left=8, right=16))]
    assert pairs[0] != pairs[1]
    assert prompts.target_prompt(pairs) == "a tiger and dog and a chair"
    same = [make_pair("cat", "tiger", box()), make_pair("cat", "tiger", box())]
    assert same[0] != same[1]
    assert prompts.target_prompt(same) == "a tiger and a chair"


def test_the_second_of_two_alike_words_is_chosen_by_its_occurrence(node, prompts):
    clip, text = FakeClip(), "a cat beside a cat"
    pairs = node.execute(clip, text, "cat", "tiger", box(right=8)[None], 1, "")[0]
    pairs, guided = node.execute(clip, text, "cat", "dog", box(left=8, right=16)[None], 2, "", pairs)[:2]
    assert guided == "a cat beside a dog" and prompts.target_prompt(pairs) == "a tiger beside a dog"


def test_phrases_that_share_words_are_refused(prompts):
    with pytest.raises(ValueError, match="overlap in the source"):
        prompts.target_prompt([make_pair("a cat", "a dog", box()), make_pair("cat and", "tree or", box())])


def test_pairs_of_different_prompts_are_refused(prompts, node):
    first = node.execute(FakeClip(), "a cat", "cat", "dog", box()[None], 1, "")
    with pytest.raises(ValueError, match="'a cat' and 'a cat, oil'"):
        node.execute(FakeClip(), "a cat, oil", "cat", "dog", box()[None], 1, "", first[0])


def test_white_space_around_the_prompt_moves_no_phrase(node, prompts):
    """One pair connected to InvertLatent's trimmed prompt, the other to the text as it was typed."""
    first = node.execute(FakeClip(), f"  {SOURCE}\n", "cat", "tiger", box()[None], 1, "")
    second = node.execute(FakeClip(), SOURCE, "chair", "throne", box()[None], 1, "", first[0])
    assert first[1] == "a tiger and a chair"
    assert prompts.target_prompt(second[0]) == prompts.target_prompt(second[0][::-1]) == "a tiger and a throne"


def test_node_chains_pairs_and_encodes_the_guided_prompt(node):
    clip = FakeClip()
    first = node.execute(clip, SOURCE, "cat", "tiger", box()[None], 1, "")
    second = node.execute(clip, SOURCE, "chair", "throne", box()[None], 1, "", first[0])
    assert second[1] == "a cat and a throne"
    assert clip.encoded == ["a tiger and a chair", "a cat and a throne"]
    assert [pair.target_phrase for pair in second[0]] == ["tiger", "throne"]
    assert all(torch.equal(pair.mask, box()) for pair in second[0])
    assert second[0][0] is first[0][0]


def test_a_guided_prompt_written_by_hand_needs_no_phrase(node, prompts):
    pairs = node.execute(FakeClip(), SOURCE, "the pet", "tiger", box()[None], 1, "a huge tiger and a chair")[0]
    assert pairs[0].guided_prompt == "a huge tiger and a chair"
    with pytest.raises(ValueError, match="written by hand"):
        prompts.target_prompt(pairs)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 8, 8), "empty"),
        (torch.ones(2, 8, 8), r"one mask of shape \(1, height, width\), got \(2, 8, 8\)"),
        (torch.full((1, 8, 8), float("nan")), "contains NaN"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(node, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        node.execute(FakeClip(), SOURCE, "cat", "tiger", mask, 1, "")
    # What no node could use is named by its input, what this pair cannot use by the pair.
    assert str(error.value).startswith("mask: " if "NaN" in message else "mask of 'cat' → 'tiger'")
    assert "disconnect" not in str(error.value), "the node needs a mask"


def test_a_weighted_phrase_is_encoded_with_its_weight_and_shown_without(node):
    clip = FakeClip()
    pairs = node.execute(clip, "a (cat:1.2) sits", "cat", "(green dog:1.4)", box()[None], 1, "")[0]
    assert clip.encoded == ["a ((green dog:1.4):1.2) sits"] and pairs[0].target_phrase == "(green dog:1.4)"
    assert pairs[0].label == "'cat' → 'green dog'"


def test_a_missing_clip_or_target_is_named(node):
    with pytest.raises(ValueError, match=r"^clip"):
        node.execute(None, SOURCE, "cat", "tiger", box()[None], 1, "")
    with pytest.raises(ValueError, match=r"^target_phrase: is empty"):
        node.execute(FakeClip(), SOURCE, "cat", " ", box()[None], 1, "")


def test_resizing_keeps_binary_masks_binary(masks):
    resized = masks.resize_mask(box(128, 192, 64, 128), 16, 24, "mask")
    assert resized.shape == (16, 24)
    assert torch.equal(resized, box(16, 24, 8, 16))
    soft = masks.resize_mask(0.5 * box(128, 128, 0, 60), 16, 16, "mask")
    assert float(soft.max()) == pytest.approx(0.5)
    assert 0.0 < float(soft[0, 7]) < 0.5
    thin = torch.zeros(128, 128)
    thin[3] = 0.5
    assert 0.01 < float(masks.resize_mask(thin, 16, 16, "mask").max()) < 0.1, "an eighth of it, wherever it lies"


def test_masks_of_another_shape_or_size_are_refused(masks):
    with pytest.raises(ValueError, match=r"the mask is 64×128 \(width × height\)"):
        masks.resize_mask(box(128, 64), 16, 16, "mask")
    tiny = torch.zeros(128, 128)
    tiny[3, 3] = 1.0
    with pytest.raises(ValueError, match="nothing is left of the mask at 16×16"):
        masks.resize_mask(tiny, 16, 16, "mask")


def test_messages_of_latent_masks_give_the_pictures_size(masks):
    with pytest.raises(ValueError, match=r"mask: the mask is 100×100 .* the image is 192×128"):
        masks.resize_mask(box(100, 100), 16, 24, "mask", scale=8)
    tiny = torch.zeros(128, 192)
    tiny[3, 3] = 1.0
    with pytest.raises(ValueError, match="nothing is left of the mask at 24×16, the latent of a 192×128 image"):
        masks.resize_mask(tiny, 16, 24, "mask", scale=8)


def test_a_mask_made_before_the_picture_was_encoded_is_cut_alike(masks):
    """A VAE cuts 100×71 pixels to 96×64, at the centre."""
    mask = torch.zeros(71, 100)
    mask[3:67, 2:50] = 1.0
    assert torch.equal(masks.resize_mask(mask, 64, 96, "mask"), box(64, 96, 0, 48))
    assert torch.equal(masks.resize_mask(mask, 8, 12, "mask", scale=8), box(8, 12, 0, 6))
    for size, scale in (((64, 96), 1), ((8, 12), 8)):
        with pytest.raises(ValueError, match="the mask is 96×73"):  # it would have cut eight rows more
            masks.resize_mask(torch.ones(73, 96), *size, "mask", scale=scale)


@pytest.mark.parametrize("overlap", ["first", "last", "blend"])
def test_no_pixel_is_owned_twice(masks, overlap):
    generator = torch.Generator().manual_seed(0)
    for claims in (torch.stack([box(), box(left=4, right=12)]), torch.rand(3, 16, 16, generator=generator)):
        weights, background = masks.ownership(claims, overlap)
        assert torch.allclose(weights.sum(0) + background, torch.ones(16, 16), atol=1e-6)
        assert float(weights.min()) >= 0.0 and float(background.min()) >= 0.0


def test_overlap_follows_its_name(masks):
    claims = torch.stack([box(), box(left=4, right=12)])
    assert masks.ownership(claims, "first")[0][:, 0, 6].tolist() == [1.0, 0.0]
    assert masks.ownership(claims, "last")[0][:, 0, 6].tolist() == [0.0, 1.0]
    assert masks.ownership(claims, "blend")[0][:, 0, 6].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="overlap: 'both'"):
        masks.ownership(claims, "both")


def test_feather_grows_outward_only(masks):
    mask = box(32, 32, 8, 16)
    soft = masks.feather(mask, 4.0)
    assert torch.equal(soft[mask == 1], mask[mask == 1])
    assert float(soft[16, 18]) > 0.3 and float(soft[16, 26]) == 0.0
    assert torch.equal(masks.feather(mask, 0.0), mask)


@pytest.mark.parametrize("radius", [0.4, 3.0, 5.6])
def test_a_feathers_edge_is_gaussian(masks, radius):
    """The grown mask, blurred with half of the radius as σ, by scipy."""
    from scipy import ndimage

    mask = box(32, 48, 0, 16) * torch.rand((32, 48), generator=torch.Generator().manual_seed(0))
    mask[20:] = 0.0
    reach = max(1, round(radius))
    grown = ndimage.grey_dilation(mask.numpy(), size=(2 * reach + 1,) * 2)
    soft = ndimage.gaussian_filter(grown, radius / 2, mode="nearest", radius=reach)
    expected = torch.maximum(torch.from_numpy(soft), mask)
    assert torch.allclose(masks.feather(mask, radius), expected, atol=1e-5)


def test_a_wide_feather_takes_no_minutes(masks, monkeypatch):
    """The work a pixel grew with the square of the radius: 28 s for 64 pixels on an image of 512 x 512."""
    visited = []
    whole = torch.nn.functional.max_pool2d

    def counted(x, size, *args, **kwargs):
        rows, columns = (size, size) if isinstance(size, int) else size
        visited.append(rows * columns)
        return whole(x, size, *args, **kwargs)

    mask = box(32, 32, 8, 16) * torch.rand((32, 32), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(masks.F, "max_pool2d", counted)
    soft = masks.feather(mask, 12.0)
    assert sum(visited) <= 2 * 25
    monkeypatch.undo()
    # A square's largest value, by the definition.
    square = lambda x, size, **_: whole(x, 25, stride=1, padding=12) if size[0] == 1 else x  # noqa: E731
    monkeypatch.setattr(masks.F, "max_pool2d", square)
    assert torch.equal(soft, masks.feather(mask, 12.0))


@pytest.mark.parametrize(
    "prompt, phrase, expected",
    [
        ("embedding:cat and cat", "cat", "embedding:cat and dog"),
        ("a cat, (embedding:cat:1.2)", "cat", "a dog, (embedding:cat:1.2)"),
        ("embedding:old-cat, a cat", "cat", "embedding:old-cat, a dog"),
        ("a embedding:cat on a mat", "embedding:cat", "a dog on a mat"),
        ("a embedding:cat on a mat", "a embedding:cat", "dog on a mat"),
    ],
)
def test_the_name_of_an_embedding_is_no_word_of_the_prompt(prompts, prompt, phrase, expected):
    """Its name was replaced, and the encoder then dropped an embedding that is not there."""
    assert prompts.guided_prompt(prompt, prompts.find_phrase(prompt, phrase), "dog") == expected


def test_a_phrase_that_only_an_embedding_is_named_after_is_refused(prompts):
    with pytest.raises(ValueError, match="does not occur"):
        prompts.find_phrase("embedding:cat on a mat", "cat")
