"""Part tokens: context, files, combination; and the layers and masks they work with."""

from __future__ import annotations

import math

import pytest
import torch

from support.tiny_edits import blend_guider, edit_prompt, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sd, tiny_sdxl

PADDED = ("background", "start_of_text", "end_of_text", "context", "zero")


def all_rows(one, padding, text):
    """(77, D) context of a token, row by row, as appendix D of the paper lists the paddings."""
    left = 77 - one.embedding.shape[0]
    fill = {
        "background": [one.embedding[0]] * left,
        "start_of_text": [text[0]] * left,
        "end_of_text": [text[-1]] * left,
        "context": [text[position] for position in range(77 - left, 77)],
        "zero": [torch.zeros(one.width)] * left,
    }[padding]
    return torch.stack([*one.embedding, *fill])


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("parts", [1, 2])
def test_few_weighted_keys_equal_the_softmax_over_all_77(pack, padding, parts):
    one, text = token(parts=parts), drawn("text", 77, 64)
    full = all_rows(one, padding, text)
    query = drawn("query", 5, 64)
    expected = (query @ full.T / 8).softmax(dim=-1)[:, list(one.part_rows)]
    rows, log_counts = one.context(padding, text)
    assert rows.shape[0] == {"background": 2 * parts, "context": 77}.get(padding, 2 * parts + 1)
    found = (query @ rows.T / 8 + log_counts).softmax(dim=-1)[:, list(one.part_rows)]
    assert torch.allclose(found, expected, atol=1e-6)
    same, _ = one.context(padding, text[None])
    assert torch.equal(same, rows)


def test_without_padding_the_softmax_runs_over_the_tokens_own_rows(pack):
    one, query = token(parts=2), drawn("query", 5, 64)
    rows, log_counts = one.context("none")
    assert torch.equal(rows, one.embedding) and torch.equal(log_counts, torch.zeros(4))
    background, part = (query @ token().embedding.T / 8).T
    rows, log_counts = token().context("none")
    assert torch.allclose((query @ rows.T / 8 + log_counts).softmax(-1)[:, 1], torch.sigmoid(part - background))


def test_context_padding_of_long_and_short_prompts(pack):
    one = token()
    assert torch.equal(one.context("context", drawn("long", 154, 64))[0][2:], drawn("long", 154, 64)[2:77])
    assert torch.equal(one.context("context", drawn("short", 20, 64))[0][2:], drawn("short", 20, 64)[2:])


def test_a_padding_that_needs_the_prompt_says_so(pack):
    with pytest.raises(ValueError, match="padding: 'context' needs the embedding of the prompt"):
        token().context("context")
    with pytest.raises(ValueError, match="padding: 'sot' is not one of auto, background"):
        token().context("sot")


@pytest.mark.parametrize("padding", PADDED)
def test_edits_and_maps_read_a_token_over_its_whole_context(pack, padding):
    """The same as a token that writes out all 77 rows, in the sampler and in Part Attention Mask."""
    from partedit_oir.core.partedit.part_maps import part_maps
    from partedit_oir.core.partedit.tokens import PartToken

    model, prompt = tiny_sdxl(), edit_prompt()
    text = text_conditioning("source")
    whole = PartToken(all_rows(token(), padding, text[0][0][0]), (1,), ("head",))
    latent, found = drawn("latent", 1, 4, 16, 16), []
    for one, name in ((token(), padding), (whole, "none")):
        guider = blend_guider(model, prompt, token=one, padding=name)
        sample(guider, steps=2)
        maps = part_maps(model, one, latent, text, padding=name)
        found.append((guider.last_masks.edit_masks(0), maps))
    for mine, wanted in zip(*found, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-4) and float(wanted.std()) > 1e-3


@pytest.mark.parametrize("padding", ["start_of_text", "context"])
def test_every_picture_of_a_batch_has_its_own_prompt(pack, padding):
    from partedit_oir.core.partedit.part_maps import part_maps

    model = tiny_sdxl()
    latents = drawn("latents", 2, 4, 16, 16)

    def read(*texts):
        each = [text_conditioning(text)[0] for text in texts]
        pooled = torch.cat([options["pooled_output"] for _, options in each])
        joined = [[torch.cat([text for text, _ in each]), {"pooled_output": pooled}]]
        return part_maps(model, token(), latents, joined, padding=padding)

    both, man, dog = read("a man", "a dog"), read("a man", "a man"), read("a dog", "a dog")
    assert torch.allclose(both[0], man[0], atol=1e-5) and torch.allclose(both[1], dog[1], atol=1e-5)
    assert not torch.allclose(man[0], dog[0], atol=1e-2)


def test_auto_reads_a_token_as_its_file_says(pack, tmp_path):
    from dataclasses import replace

    from safetensors.torch import save_file

    from partedit_oir.core.partedit.token_files import load_token, save_token
    from partedit_oir.core.partedit.tokens import combine

    def same(one, padding):
        return all(torch.equal(a, b) for a, b in zip(one.context("auto"), one.context(padding), strict=True))

    for padding in ("none", "zero", "background"):
        save_token(replace(token("ear"), paddings=(padding,)), tmp_path / "ear.safetensors")
        back = load_token(tmp_path / "ear.safetensors")
        assert back.paddings == (padding,) and same(back, padding) and "padding" not in back.metadata
    # Files from before it was recorded, and the published ones, which say nothing.
    for softmax, padding in (("two_way", "none"), ("full", "background"), ("", "background")):
        notes = {"softmax": softmax} if softmax else {}
        save_file({"embedding": drawn("bare", 2, 64)}, str(tmp_path / "old.safetensors"), notes)
        assert same(load_token(tmp_path / "old.safetensors"), padding)
    save_file({"embedding": drawn("bare", 2, 64)}, str(tmp_path / "new.safetensors"), {"padding": "mirrored"})
    with pytest.raises(ValueError, match=r"new\.safetensors: part token: was trained with the padding 'mirrored'"):
        load_token(tmp_path / "new.safetensors")
    ear, eye = replace(token("ear"), paddings=("none",)), token("eye")
    save_token(combine([ear, replace(eye, paddings=("none",))]), tmp_path / "both.safetensors")
    assert same(load_token(tmp_path / "both.safetensors"), "none")
    save_token(combine([ear, eye]), tmp_path / "both.safetensors")
    mixed = load_token(tmp_path / "both.safetensors")
    assert mixed.paddings == ("none", "") and same(combine([eye, token("nose")]), "background")
    with pytest.raises(ValueError, match=r"different paddings \(ear with none, eye with background\) and cannot share"):
        mixed.context("auto")
    assert torch.equal(mixed.context("none")[0], mixed.embedding)


def test_the_probe_is_a_sigmoid(pack):
    one, query = token(), drawn("query", 5, 64)
    rows, log_counts = one.context()
    background, part = (query @ rows.T / 8).T
    found = ((query @ rows.T / 8) + log_counts).softmax(dim=-1)[:, 1]
    assert torch.allclose(found, torch.sigmoid(part - background - math.log(76)), atol=1e-6)


def test_save_and_load(pack, tmp_path):
    from partedit_oir.core.partedit.token_files import load_token, save_token

    one = token("ear", parts=2)
    save_token(one, tmp_path / "ear.safetensors")
    back = load_token(tmp_path / "ear.safetensors")
    assert torch.equal(back.embedding, one.embedding)
    assert back.part_rows == (1, 3) and back.names == one.names
    assert [p.name for p in tmp_path.iterdir()] == ["ear.safetensors"]


def test_published_tensors_and_files_without_notes(pack, tmp_path):
    from safetensors.torch import save_file

    from partedit_oir.core.partedit.token_files import load_token

    torch.save(drawn("published", 2, 2048), tmp_path / "head.pt")
    published = load_token(tmp_path / "head.pt")
    assert (published.part_rows, published.names, published.model_family) == ((1,), ("head",), "sdxl")
    save_file({"embedding": drawn("bare", 4, 768)}, str(tmp_path / "bare.safetensors"))
    assert load_token(tmp_path / "bare.safetensors").part_rows == (1, 3)


def test_combining(pack):
    from dataclasses import replace

    from partedit_oir.core.partedit.tokens import combine

    both = combine([token("head"), token("torso")])
    assert both.names == ("head", "torso") and both.part_rows == (1, 3) and both.embedding.shape == (4, 64)
    assert both.part_indices(("torso",)) == (1,) and both.layers == both.paddings == ()
    sdxl, sd1 = (replace(token(name), model_family=name) for name in ("sdxl", "sd1"))
    assert combine([sdxl, replace(sd1, model_family="sdxl")]).model_family == "sdxl"
    assert combine([sdxl, sd1]).model_family == ""
    with pytest.raises(ValueError, match="part: tail is not in the part token, which has: head, torso"):
        both.part_indices(("tail",))
    with pytest.raises(ValueError, match="more than once"):
        combine([token("head"), token("head")])
    with pytest.raises(ValueError, match="widths differ"):
        combine([token("head"), token("torso", width=32)])


def test_a_parts_name_may_be_in_another_case_and_order_and_leave_out_words(pack):
    from partedit_oir.core.partedit.tokens import combine

    both = combine([token("animal head"), token("left_ear")])
    for name, part in (("Head Animal", 0), ("animal-head", 0), ("HEAD", 0), ("ear left", 1), ("ear", 1)):
        assert both.part_indices((name,)) == (part,), name
    for name in ("-", "animal ear", "heads"):
        with pytest.raises(ValueError, match=f"part: {name} is not in the part token"):
            both.part_indices((name,))


@pytest.mark.parametrize(
    ("rows", "others", "words"),
    [
        (torch.ones(64), {}, r"expected an embedding of shape \(rows, width\), got \(64,\)"),
        (torch.ones(2, 64, dtype=torch.int64), {}, r"got \(2, 64\) torch.int64"),
        (torch.ones(1, 64), {}, "has 1 rows; expected 2"),
        (torch.ones(78, 64), {}, "has 78 rows; expected 2"),
        (torch.tensor([[0.0], [float("nan")]]), {}, "contains NaN or infinite values"),
        (torch.tensor([[0.0], [float("-inf")]]), {}, "contains NaN or infinite values"),
        (torch.ones(2, 4), {"part_rows": (0,)}, r"part rows \(0,\) do not fit 2 rows"),
        (torch.ones(2, 4), {"part_rows": (2,)}, r"part rows \(2,\) do not fit 2 rows"),
        (torch.ones(3, 4), {"part_rows": (1, 1), "names": ("a", "b")}, r"part rows \(1, 1\) do not fit"),
        (torch.ones(2, 4), {"part_rows": (), "names": ()}, r"part rows \(\) do not fit"),
        (torch.ones(2, 4), {"names": ("a", "b")}, r"2 names \('a', 'b'\) for 1 parts"),
        (torch.ones(2, 4), {"layers": ("middle", "all")}, "layers .* for 1 parts"),
        (torch.ones(2, 4), {"paddings": ("none", "none")}, "paddings .* for 1 parts"),
        (torch.ones(2, 4), {"paddings": ("auto",)}, "was trained with the padding 'auto'"),
    ],
)
def test_what_is_no_token_is_refused(pack, rows, others, words):
    from partedit_oir.core.partedit.tokens import PartToken

    with pytest.raises(ValueError, match=f"^part token: .*{words}"):
        PartToken(rows, **{"part_rows": (1,), "names": ("a",), **others})


def test_a_token_of_the_wrong_width_is_refused_before_sampling(pack):
    from support.tiny_edits import blend_guider, edit_prompt

    for family, width in (("sd1", 768), ("sd2", 1024)):
        prompt = edit_prompt(width=width, pooled=0)
        with pytest.raises(ValueError, match=rf"part_token: head has rows 2048 wide \(SDXL\).*{width} wide"):
            blend_guider(tiny_sd(family), prompt, token=token(width=2048))
        with pytest.raises(ValueError, match=rf"edit_prompt: .* 64 wide, but the model takes {width}"):
            blend_guider(tiny_sd(family), edit_prompt(), token=token(width=width))
        with pytest.raises(ValueError, match=rf"negative: .* 64 wide, but the model takes {width}"):
            blend_guider(tiny_sd(family), prompt, token=token(width=width), negative=text_conditioning("negative"))


def test_layer_presets(pack):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init

    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.unet import cross_layers
    from tools.parity.partedit import UNET_CONFIG

    config = {**UNET_CONFIG, "num_heads": -1, "num_head_channels": 32}
    unet = UNetModel(**{**config, "dtype": torch.float32}, device="meta", operations=disable_weight_init)
    layers = cross_layers(unet)
    order = [layer.key for layer in layers]
    assert len(order) == 70
    published = choose_layers(layers, "published")
    assert sorted(order.index(key) for key in published) == [*range(4), *range(24, 60)]
    assert [order.index(k) for k in choose_layers(layers, "first-8")] == list(range(34, 42))
    # The other reading of the paper's indices, as the help pages give it.
    assert [order.index(k) for k in choose_layers(layers, "middle:0-7")] == list(range(24, 32))
    assert len(choose_layers(layers, "decoder")) == 36 and len(choose_layers(layers, "all")) == 70
    assert [str(k) for k in choose_layers(layers, "output.3, middle:0-1")] == [
        "middle.0.0",
        "middle.0.1",
        "output.3.0",
        "output.3.1",
    ]
    for bad in ("output.9", "bottom", "middle:12"):
        with pytest.raises(ValueError, match=r"layers: .*output.5"):
            choose_layers(layers, bad)


def test_layers_of_other_depths(pack):
    from partedit_oir.core.partedit.layers import choose_layers
    from partedit_oir.core.unet import all_cross_layers

    small = choose_layers(all_cross_layers(tiny_sd()), "published")
    assert {key.block for key in small} == {"input", "middle", "output"}


def test_a_model_without_a_unet_is_refused(pack):
    from partedit_oir.core.unet import unet_of

    class Other:
        model = type("Flux", (), {"diffusion_model": torch.nn.Identity()})()

    with pytest.raises(ValueError, match="model: Flux is not a UNet"):
        unet_of(Other())


def test_thresholds(pack):
    from skimage.filters import threshold_otsu

    from partedit_oir.core.partedit.masks import threshold

    values = torch.cat([drawn("low", 500) * 0.05 + 0.2, drawn("high", 200) * 0.05 + 0.7]).clamp(0, 1).reshape(1, 20, 35)
    soft, (k,) = threshold(values, "adaptive", 1.5)
    assert abs(k - threshold_otsu(values.numpy(), nbins=256)) < 1e-3
    assert bool((soft[values < k / 2] == 0).all()) and bool((soft[values >= 1.5 * k] == 1).all())
    between = (values >= k / 2) & (values < 1.5 * k)
    assert bool(between.any()) and torch.equal(soft[between], values[between])
    assert torch.equal(threshold(values, "otsu")[0], (values >= k).float())
    assert torch.equal(threshold(values, "fixed", fixed=0.6)[0], (values >= 0.6).float())
    assert torch.equal(threshold(values, "none")[0], values)
    with pytest.raises(ValueError, match=r"omega: 0.2"):
        threshold(values, "adaptive", 0.2)


def test_a_value_at_the_threshold_belongs_to_the_part(pack):
    """As in the paper's equation 5; but 0 never does, not even at a threshold of 0."""
    from partedit_oir.core.partedit.masks import otsu, threshold

    steps = torch.arange(9.0).div(8).reshape(1, 3, 3)
    assert torch.equal(threshold(steps, "fixed", fixed=0.5)[0], (steps >= 0.5).float())
    level = torch.full((1, 3, 3), 0.5)
    level[0, 0] = torch.tensor([0.0, 1.0, otsu(torch.tensor([0.0, 1.0] + [0.5] * 7))])
    mask, (k,) = threshold(level, "otsu")
    assert level[0, 0, 2] == k and mask[0, 0].tolist() == [0.0, 1.0, 1.0]
    assert torch.equal(threshold(steps, "fixed", fixed=0.0)[0], (steps > 0).float())


def test_summing_maps_first_equals_resizing_every_layer(pack):
    from partedit_oir.core.partedit.masks import MapSum, resize

    maps = [drawn(f"map {n}", 1, 1, s, s).abs() for n, s in enumerate((8, 8, 16))]
    total = MapSum(1)
    for one in maps:
        total.add(one, (0,))
    expected = sum(resize(one, (64, 64)) for one in maps) / 3
    assert torch.allclose(total.mean((64, 64)), expected, atol=1e-6)


def test_parts_are_normalised_together_in_each_layer_and_averaged_over_their_own_layers(pack):
    """A part's own minimum is 0, and the largest value of the parts that a layer reads is 1."""
    from partedit_oir.core.partedit.masks import MapSum

    def layer(*maps):
        return torch.tensor(maps)[None]

    strong, weak, alone, again = (
        [[1.0, 3.0], [5.0, 4.0]],
        [[2.0, 2.0], [3.0, 2.0]],
        [[0.0, 2.0], [4.0, 8.0]],
        [[1.0] * 2, [3.0] * 2],
    )
    total = MapSum(3)
    total.add(layer(strong, weak), (0, 2))
    assert not total.complete
    total.add(layer(alone), (1,))
    total.add(layer(again), (0,))
    assert total.complete
    own = [[0.0, 0.5], [1.0, 0.75]], [[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [1 / 3, 0.0]]
    expected = layer(*own)
    expected[:, 0] = (expected[:, 0] + torch.tensor([[0.0, 0.0], [1.0, 1.0]])) / 2
    assert torch.allclose(total.mean((2, 2)), expected, atol=1e-5)


def test_the_published_size_of_masks_keeps_the_shape_of_the_picture(pack):
    from partedit_oir.core.partedit.masks import map_size

    sizes = {(128, 128): (1024, 1024), (128, 96): (1024, 768), (64, 96): (683, 1024), (1, 4000): (1, 1024)}
    assert {latent: map_size(latent, True) for latent in sizes} == sizes
    assert {latent: map_size(latent, False) for latent in sizes} == {latent: latent for latent in sizes}


def test_part_maps_follow_the_token_and_not_the_sampler(pack):
    from partedit_oir.core.partedit.part_maps import part_maps

    model, latent = tiny_sdxl(), drawn("latent", 2, 4, 16, 24)
    maps = part_maps(model, token(parts=2), latent, text_conditioning("a man"), 0.4, 2, 7)
    assert maps.shape == (2, 2, 16, 24) and maps.min() >= 0 and maps.max() <= 1
    again = part_maps(model, token(parts=2), latent, text_conditioning("a man"), 0.4, 2, 7)
    assert torch.equal(maps, again) and not model.wrappers
    assert not torch.equal(
        maps, part_maps(model, token("foot", parts=2), latent, text_conditioning("a man"), 0.4, 2, 7)
    )
    with pytest.raises(ValueError, match=r"noise_level: 1.5"):
        part_maps(model, token(), latent, text_conditioning("a man"), 1.5)
    with pytest.raises(ValueError, match="positive: its text embedding is 8 wide, but the model takes 64"):
        part_maps(model, token(), latent, text_conditioning("a man", width=8))


def test_combined_tokens_with_different_paddings_are_each_read_with_their_own(pack):
    """The map of each part is that of its own token alone, but for the scale of each layer's map."""
    from dataclasses import replace

    from partedit_oir.core.partedit.part_maps import part_maps
    from partedit_oir.core.partedit.tokens import combine

    model, text, latent = tiny_sdxl(), text_conditioning("source"), drawn("latent", 1, 4, 16, 16)
    ear, eye = replace(token("ear"), paddings=("none",)), token("eye")
    layers = "output.0:0"  # one layer, so that scaling each layer's map does not hide what it is
    both = part_maps(model, combine([ear, eye]), latent, text, layers=layers)

    def stretched(one):
        return (one - one.min()) / (one.max() - one.min())

    for number, (one, padding) in enumerate([(ear, "none"), (eye, "background")]):
        alone = part_maps(model, one, latent, text, layers=layers, padding=padding)[0, 0]
        assert torch.allclose(stretched(both[0, number]), stretched(alone), atol=1e-3)
