"""Layers ``auto``: each token is read on the layers it was trained on, alone or joined with others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.tiny_edits import blend_guider, edit_prompt, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sd, tiny_sdxl
from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.partedit.layers import choose_layers, reading_layers
from partedit_oir.core.partedit.masks import normalise
from partedit_oir.core.partedit.part_maps import part_maps
from partedit_oir.core.partedit.settings import BlendSettings
from partedit_oir.core.partedit.token_files import load_token, save_token
from partedit_oir.core.partedit.tokens import PartToken, combine
from partedit_oir.core.unet import all_cross_layers

# Single layers of the small model: one of the middle block, and a finer one of the encoder.
COARSE, FINE = "middle:0", "input.4:0"


@pytest.fixture(scope="module")
def model():
    return tiny_sdxl()


def on(layers: str, name: str, parts: int = 1) -> PartToken:
    return replace(token(name, parts=parts), layers=(layers,) * parts)


def maps(model, token, layers="auto"):
    return part_maps(model, token, drawn("latent", 2, 4, 16, 24), text_conditioning("a man"), 0.4, 1, 7, layers)


def test_auto_is_the_default_everywhere_a_token_is_read():
    from partedit_oir.nodes import NODE_CLASSES

    assert BlendSettings().layers == "auto"
    inputs = {
        schema.node_id: entry
        for schema in (node.define_schema() for node in NODE_CLASSES)
        for entry in schema.inputs
        if entry.id == "layers"
    }
    assert inputs.keys() == {"TrainPartToken", "PartAttentionMask", "FeatureBlendSampler", "FeatureBlendGuider"}
    assert inputs.pop("TrainPartToken").default == "first-8"
    assert {entry.default for entry in inputs.values()} == {"auto"}
    assert all("not settled" in entry.tooltip for entry in inputs.values())


def test_a_token_is_read_on_its_own_layers_and_on_published_ones_if_they_are_not_recorded(model):
    known = all_cross_layers(model)
    for recorded, read in ((COARSE, COARSE), ("", "published"), ("decoder", "decoder"), (" first-8 ", "first-8")):
        one = on(recorded, "head")
        assert tuple(reading_layers(known, "auto", one)) == choose_layers(known, read)
        assert torch.equal(maps(model, one), maps(model, one, read))
    assert torch.equal(maps(model, token()), maps(model, token(), "published"))
    # A choice of one's own, as older workflows have saved it, wins over the record.
    assert torch.equal(maps(model, on(COARSE, "head"), "published"), maps(model, token(), "published"))
    assert not torch.allclose(maps(model, on(COARSE, "head")), maps(model, token(), "published"))


def test_tokens_of_different_layers_are_read_as_if_each_were_alone(model):
    head, torso = on(COARSE, "head"), on(FINE, "torso")
    for both in (combine([head, torso]), combine([torso, head])):
        found = maps(model, both)
        for place, name in enumerate(both.names):
            # One layer each, and one grid: normalised layer by layer, as the maps of several parts are.
            alone = maps(model, {"head": head, "torso": torso}[name])
            assert torch.allclose(normalise(found[:, place]), normalise(alone[:, 0]), atol=1e-5)


def test_tokens_of_equal_layers_are_read_together(model):
    both = combine([on(COARSE, "head"), on(COARSE, "torso")])
    assert torch.equal(maps(model, both), maps(model, both, COARSE))
    three = combine([on(COARSE, "head"), on(COARSE, "torso"), on(FINE, "foot")])
    assert torch.allclose(maps(model, three)[:, :2], maps(model, both), atol=1e-6)


def test_a_layer_that_only_some_tokens_share(model):
    known = all_cross_layers(model)
    both = combine([on(f"{COARSE}, {FINE}", "head"), on(FINE, "torso", parts=2)])
    reading = reading_layers(known, "auto", both)
    assert {str(key).rpartition(".")[0]: parts for key, parts in reading.items()} == {
        "input.4": (0, 1, 2),
        "middle.0": (0,),
    }
    assert list(reading) == [layer.key for layer in known if layer.key in reading]


def test_the_rows_of_some_parts_keep_the_background_they_were_trained_with():
    # Two tokens of one part, one of two parts that share a background row, and a background row at the end.
    rows = drawn("rows", 8, 16)
    records = {"layers": ("w", "x", "y", "z"), "paddings": ("none", "zero", "", "context")}
    whole = PartToken(rows, (1, 3, 5, 6), ("a", "b", "c", "d"), "demo", **records)
    assert whole.only((0, 1, 2, 3)) is whole
    for parts, kept, part_rows in (
        ((0,), [0, 1], (1,)),
        ((1,), [2, 3], (1,)),
        ((3,), [4, 6], (1,)),
        ((2, 3), [4, 5, 6], (1, 2)),
        ((0, 3), [0, 1, 4, 6], (1, 3)),
    ):
        some = whole.only(parts)
        assert torch.equal(some.embedding, rows[kept]) and some.part_rows == part_rows
        assert some.names == tuple(whole.names[part] for part in parts)
        assert some.layers == tuple(whole.layers[part] for part in parts)
        assert some.paddings == tuple(whole.paddings[part] for part in parts)
    two = PartToken(rows[:4], (2, 3), ("a", "b"))
    assert torch.equal(two.only((1,)).embedding, rows[[0, 1, 3]])


@pytest.mark.parametrize("layers", [(), (FINE,), (COARSE, FINE), ("", FINE)])
def test_files_keep_the_layers(tmp_path, layers):
    parts = max(1, len(layers))
    one = replace(token(parts=parts), layers=layers)
    save_token(one, tmp_path / "one.safetensors")
    assert load_token(tmp_path / "one.safetensors").layers == layers


def test_combining_keeps_the_layers(tmp_path):
    both = combine([on(COARSE, "head"), token("torso"), on(FINE, "foot", parts=2)])
    assert both.layers == (COARSE, "", FINE, FINE)
    assert combine([token("head"), token("torso")]).layers == ()
    save_token(both, tmp_path / "both.safetensors")
    assert combine([load_token(tmp_path / "both.safetensors"), token("tail")]).layers == (*both.layers, "")


@pytest.mark.parametrize(
    "recorded", ["output.99", "first-7", "auto", '["middle"', "output." + "9" * 5000, "x" * 5000, "🤖", '["a", "b"]']
)
def test_a_record_that_does_not_fit_the_model_is_named_before_sampling(model, tmp_path, recorded):
    from safetensors.torch import save_file

    save_file({"embedding": token().embedding}, str(tmp_path / "head.safetensors"), {"layers": recorded})
    loaded = load_token(tmp_path / "head.safetensors")
    if recorded.endswith("]"):  # a list for two parts, in a file of one
        assert loaded.layers == ()
        return
    for read in (
        lambda: maps(model, loaded),
        lambda: blend_guider(model, edit_prompt(), token=loaded),
        lambda: blend_guider(model, edit_prompt(), token=combine([token("torso"), loaded])),
    ):
        with pytest.raises(ValueError, match="layers: with 'auto', the part token for 'head'") as info:
            read()
        assert "set layers to published, decoder, first-8, all or block names" in str(info.value)
        assert "It has: input.4" in str(info.value) and len(str(info.value)) < 600
    # With a mask the token is not read, and another choice is free.
    blend_guider(model, edit_prompt(), token=loaded, mask=torch.ones(1, 16, 16))
    blend_guider(model, edit_prompt(), token=loaded, layers="published")


def test_a_wrong_name_is_an_error_with_a_mask_too(model):
    with pytest.raises(ValueError, match=r"layers: this model has no layer 'output\.99'"):
        blend_guider(model, edit_prompt(), mask=torch.ones(1, 16, 16), layers="output.99")


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd])
def test_an_edit_reads_each_token_on_its_own_layers(make):
    """Two edits of one source, each of another part, whose tokens were trained on different layers."""
    model = make()
    width, pooled = (64, 64) if make is tiny_sdxl else (768, 0)
    shape = {} if make is tiny_sdxl else {"width": width, "pooled": pooled}
    prompt = edit_prompt(("one", "two"), **shape)
    parts = [
        replace(edit, prompts=(replace(edit.prompts[0], parts=(name,)),)) for edit, name in zip(prompt.edits, "ab")
    ]
    first, second = (replace(token(name, width), layers=(layer,)) for name, layer in zip("ab", ("middle:0", "decoder")))

    def masks(edits, token):
        guider = blend_guider(model, replace(prompt, edits=tuple(edits)), token=token, threshold="none")
        sample(guider)
        return guider.last_masks.edit_masks(0)[:, 0]

    both = masks(parts, combine([first, second]))
    # After the first step the source is the same in all runs, so the maps of a single layer are, too.
    assert torch.allclose(both[0], masks(parts[:1], first)[0], atol=1e-5)
    alone = blend_guider(model, replace(prompt, edits=(parts[1],)), token=second, threshold="none")
    assert both[1].shape == both[0].shape and not torch.allclose(both[0], both[1])
    assert list(alone.reading) == list(choose_layers(all_cross_layers(model), "decoder"))


def test_a_trained_token_knows_its_layers_without_being_saved():
    from partedit_oir.core.training.settings import TrainingSettings
    from partedit_oir.core.training.training import train_part_token
    from support.trained_tokens import small_model

    model = small_model()
    latents = drawn("pictures", 4, 4, 16, 16)
    masks = torch.zeros(4, 2, 16, 16)
    masks[:, 0, :8], masks[:, 1, 8:] = 1, 1
    settings = TrainingSettings(
        part_names=("up", "down"), steps=2, noise_count=1, held_out=0, layers="output.3", evaluate_every=2
    )
    made, _ = train_part_token(model, latents, masks, [[drawn("context", 1, 77, 48), {}]], settings)
    assert made.layers == ("output.3", "output.3") and "layers" not in made.metadata
    assert list(reading_layers(all_cross_layers(model), "auto", made)) == list(
        choose_layers(all_cross_layers(model), "output.3")
    )


def test_the_demo_s_animal_head_is_found_without_setting_layers():
    """The figures that a workflow gets when nobody has touched ``layers``: intersection over union with exact masks."""
    from demo.training.parts import DEMO_PARTS, LAYERS, part_masks, single_scenes
    from demo.training.studio import Studio
    from partedit_oir.core.partedit.masks import resize, threshold

    studio = Studio()
    part = next(part for part in DEMO_PARTS if part.label == "animal head")
    own = studio.token(part)
    pictures = single_scenes(part.names, 9_100_000, 12)
    latents = studio.encode(np.stack([picture.image for picture in pictures]))
    true = part_masks(pictures, part)[:, 0] > 0.5

    def found(token, layers):
        return part_maps(studio.model, token, latents, studio.text(""), 0.5, seed=1, layers=layers)

    def score(maps):
        soft = normalise(resize(maps, true.shape[-2:])[:, 0])
        mask = threshold(soft, "adaptive")[0] >= 0.5
        return float(((mask & true).flatten(1).sum(1) / (mask | true).flatten(1).sum(1)).mean())

    assert own.layers == (LAYERS,)
    auto = found(own, "auto")
    assert torch.equal(auto, found(own, LAYERS))
    assert score(auto) > 0.65 > 0.4 > score(found(own, "published"))
    # Beside a token that says nothing, it is still read on its own layers.
    joined = combine([own, replace(studio.token(DEMO_PARTS[-1]), layers=())])
    assert score(found(joined, "auto")[:, :1]) > 0.6
