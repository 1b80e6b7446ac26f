"""What other nodes put into CONDITIONING: areas, several entries, timestep ranges, data for each picture."""

from __future__ import annotations

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, plain, relative, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sdxl
from support.trained_tokens import conditioning, small_model, squares
from tools.bootstrap import load_pack

load_pack()
import comfy.samplers

from partedit_oir.core.conditioning import check_conditioning, is_active, partial_area
from partedit_oir.core.partedit.part_maps import part_maps
from partedit_oir.core.training.settings import TrainingSettings
from partedit_oir.core.training.training import train_part_token

WHOLE = {"area": ("percentage", 1.0, 1.0, 0.0, 0.0), "strength": 1.0}
LEFT = {"area": ("percentage", 1.0, 0.5, 0.0, 0.0), "strength": 1.0}
RIGHT = {"area": ("percentage", 1.0, 0.5, 0.0, 0.5), "strength": 1.0}
LATE = {"start_percent": 0.9, "end_percent": 1.0}


@pytest.fixture(scope="module")
def model():
    return tiny_sdxl()


@pytest.mark.parametrize("timing", ["clean", "published"])
def test_an_area_that_covers_the_picture_changes_nothing(model, timing):
    expected = sample(blend_guider(model, edit_prompt(), token=token(), timing=timing))
    out = sample(blend_guider(model, edit_prompt(), token=token(), timing=timing, extras=[[None, WHOLE]]))
    assert relative(out, expected) < 1e-6


@pytest.mark.parametrize("options, words", [(LEFT, "covers only part of the image"), (LATE, "is not active at")])
def test_a_token_that_could_not_be_read_is_refused_before_sampling(model, options, words):
    calls = []
    guider = blend_guider(model, edit_prompt(), token=token(), extras=[[None, options]])
    with pytest.raises(ValueError, match=f"positive: {words}"):
        sample(guider, sampler=lambda *a, **k: calls.append(1))
    assert not calls


@pytest.mark.parametrize("given", [True, False])
def test_a_gap_between_ranges_is_refused_where_no_mask_is_read_either(model, given):
    """ComfyUI takes 0 for the prediction there."""
    mask = {"mask": torch.ones(1, 64, 64)} if given else {"token": token(), "edit_steps": 0.5}
    early = {"start_percent": 0.0, "end_percent": 0.6}
    guider = blend_guider(model, edit_prompt(), extras=[[None, early]], **mask)
    with pytest.raises(ValueError, match=r"positive: no entry is active at sigma .* are 0 to 0.6\. Remove the range"):
        sample(guider, steps=4, sampler=lambda *a, **k: pytest.fail("sampling started"))


def test_an_area_with_a_given_mask_works_as_in_the_host(model):
    source = text_conditioning("source")
    source[0][1].update(LEFT)
    out = sample(blend_guider(model, edit_prompt(), mask=torch.ones(1, 64, 64), extras=[[None, LEFT]]))
    assert relative(out[:1], plain(model, source)) < 1e-5


@pytest.fixture
def one_entry_per_call(monkeypatch):
    """``one_entry_per_call()``: from now on ComfyUI has no memory for two entries in a call of the UNet."""
    import comfy.model_base

    def begin():
        monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)

    return begin


def calls_of(model, monkeypatch):
    """Numbers of rows of the UNet's calls, noted as they are made."""
    rows, forward = [], model.model.diffusion_model._forward

    def noted(x, *args, **kwargs):
        rows.append(x.shape[0])
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(model.model.diffusion_model, "_forward", noted)
    return rows


# All but the right half, with room for the soft edge of the mask on the coarsest layers.
HALF = torch.cat([torch.ones(1, 128, 32), torch.zeros(1, 128, 96)], dim=2)
TWO_HALVES = torch.cat([HALF, HALF, 1 - HALF, HALF * 0.5])  # for two edits of two images


@pytest.mark.parametrize("timing", ["clean", "published"])
@pytest.mark.parametrize("what", ["mask", "masks", "token", "parts"])
def test_regions_of_the_same_size_keep_their_own_place_in_one_call(
    model, what, timing, one_entry_per_call, monkeypatch
):
    two_parts = token(parts=2)
    prompt = edit_prompt(("edit", "other")) if what == "masks" else edit_prompt()
    if what == "parts":
        prompt = shared_picture(two_parts.names)
    masks = {"mask": HALF, "masks": TWO_HALVES}
    given = {"mask": masks[what]} if what in masks else {"token": two_parts if what == "parts" else token()}
    regions = [LEFT, RIGHT] if "mask" in given else [WHOLE, LEFT, RIGHT]
    batch = 2 if what == "masks" else 1

    def run():
        guider = blend_guider(model, prompt, timing=timing, extras=[[None, each] for each in regions], **given)
        return sample(guider, batch=batch), guider.last_masks.edit_masks(), guider.last_masks.mean_masks(SIZE)

    rows = calls_of(model, monkeypatch)
    together = run()
    members = (1 + len(prompt.edits)) * batch
    assert max(rows) == 4 * members  # both regions, for both prompts
    one_entry_per_call()
    rows.clear()
    apart = run()
    assert set(rows) == {members}
    for found, expected in zip(together, apart, strict=True):
        assert relative(found, expected) < 1e-5
    assert relative(together[0][batch:], together[0][:batch].repeat(len(prompt.edits), 1, 1, 1)) > 1e-3


def shared_picture(names):
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt

    parts = tuple(PartPrompt(name, text_conditioning(name), None, (name,)) for name in names)
    return EditPrompt("source", text_conditioning("source"), (Edit(parts),))


@pytest.mark.parametrize("timing", ["clean", "published"])
def test_several_whole_entries_give_the_same_masks_in_one_call_and_one_by_one(model, timing, one_entry_per_call):
    sizes = [{"width": 256, "height": 256}, {"width": 4096, "height": 512}]  # these change the queries of SDXL

    def run():
        guider = blend_guider(model, edit_prompt(), token=token(), timing=timing, extras=[[None, s] for s in sizes])
        return sample(guider, steps=4), guider.last_masks.edit_masks()

    together = run()
    one_entry_per_call()
    apart = run()
    assert relative(apart[0], together[0]) < 1e-5 and relative(apart[1], together[1]) < 1e-5


def test_a_mask_in_one_of_two_regions_leaves_the_other_to_the_source(model):
    """One step, and cross-attention of a region sees nothing beyond it: the region without a mask is the source's."""
    extras = [[None, LEFT], [None, RIGHT]]
    guider = blend_guider(model, edit_prompt(), mask=HALF, keep_pooled=True, extras=extras)
    out = sample(guider, steps=1)
    left, right = out[..., :8], out[..., 8:]
    assert torch.equal(right[1], right[0]) and relative(left[1], left[0]) > 1e-3


@pytest.mark.parametrize("timing", ["clean", "published"])
def test_the_order_of_entries_does_not_matter(model, timing):
    def run(*regions):
        extras = [[None, each] for each in regions]
        return sample(blend_guider(model, edit_prompt(), token=token(), timing=timing, extras=extras), steps=4)

    assert relative(run(LEFT, WHOLE), run(WHOLE, LEFT)) < 1e-5


@pytest.mark.parametrize("beyond", [{"area": (16, 16, 8, 0)}, {"area": (8, 64, 8, 8)}])
def test_an_area_that_reaches_beyond_the_picture_is_cut_as_in_the_host(model, beyond):
    source = text_conditioning("source")
    source[0][1].update(beyond)
    out = sample(blend_guider(model, edit_prompt(), mask=HALF, extras=[[None, beyond]]))
    assert relative(out[:1], plain(model, source)) < 1e-5


def test_every_entry_of_positive_is_used(model):
    halves = [{"start_percent": 0.0, "end_percent": 0.5}, {"start_percent": 0.5, "end_percent": 1.0, "strength": 1.0}]
    regions = [{**WHOLE}, {"area": ("percentage", 0.5, 1.0, 0.5, 0.0), "strength": 3.0}]
    for options in (halves, regions):
        # Entries without a text of their own: the prompts' text with each entry's settings.
        positive = [[entry[0], {**entry[1], **each}] for each in options for entry in text_conditioning("source")]
        out = sample(blend_guider(model, edit_prompt(), token=token(), extras=[[None, each] for each in options]))
        assert relative(out[:1], plain(model, positive)) < 1e-5


def test_ranges_without_a_common_step_are_refused(model):
    prompt = edit_prompt()
    prompt.source[0][1].update(start_percent=0.0, end_percent=0.3)
    with pytest.raises(ValueError, match="positive: its timestep ranges and those of edit_prompt"):
        sample(blend_guider(model, prompt, token=token(), extras=[[None, LATE]]))


def test_an_empty_positive_or_negative_is_named(model):
    with pytest.raises(ValueError, match="positive: is empty"):
        blend_guider(model, edit_prompt(), token=token(), extras=[])
    with pytest.raises(ValueError, match="negative: is empty"):
        blend_guider(model, edit_prompt(), token=token()).set_negative([])


@pytest.mark.parametrize("options, words", [(LEFT, "covers only part"), (LATE, "is not active at sigma")])
def test_part_maps_and_training_refuse_what_hides_the_picture(model, options, words):
    text = text_conditioning("a man")
    text[0][1].update(options)
    with pytest.raises(ValueError, match=f"positive: {words}"):
        part_maps(model, token(), drawn("latent", 1, 4, *SIZE), text, noise_level=0.5)
    latents, masks = squares(2)
    hidden = conditioning()
    hidden[0][1].update(options)
    settings = TrainingSettings(part_names=("square",), steps=2, noise_low=0.4, noise_high=0.6, held_out=0.0)
    with pytest.raises(ValueError, match=f"positive: {words}"):
        train_part_token(small_model(), latents, masks, hidden, settings)


def test_part_maps_and_training_refuse_no_prompt(model):
    with pytest.raises(ValueError, match="positive: is empty"):
        part_maps(model, token(), drawn("latent", 1, 4, *SIZE), [])
    latents, masks = squares(2)
    settings = TrainingSettings(part_names=("square",), steps=2, held_out=0.0)
    with pytest.raises(ValueError, match="positive: is empty"):
        train_part_token(small_model(), latents, masks, [], settings)
    with pytest.raises(ValueError, match="positive: has 2 entries"):
        train_part_token(small_model(), latents, masks, conditioning() * 2, settings)


def test_an_area_beside_the_whole_prompt_leaves_the_maps_alone(model):
    text, latent = text_conditioning("a man"), drawn("latent", 1, 4, *SIZE)
    region = [[entry[0], {**entry[1], **LEFT}] for entry in text_conditioning("a hat")]
    assert relative(part_maps(model, token(), latent, text + region), part_maps(model, token(), latent, text)) < 1e-5


def per_picture(model, spread):
    """A clone with an addition for each picture to one layer's cross-attention, spread over the rows by ``spread``."""
    clone = model.clone()
    values = torch.tensor([0.0, 3.0])

    def occupant(q, k, v, extra_options):
        from partedit_oir.core.attention import plain_attention

        rows = q.shape[0] // len(extra_options["cond_or_uncond"])
        each = spread(values, rows).repeat(len(extra_options["cond_or_uncond"]))
        return plain_attention(q, k, v, extra_options) + each.reshape(-1, 1, 1).to(q)

    clone.set_model_attn2_replace(occupant, "middle", 0)
    return clone


def tiled(values, rows):
    return values.repeat(-(-rows // len(values)))[:rows]


def padded(values, rows):
    return torch.cat([values, values[-1:].expand(max(0, rows - len(values)))])[:rows]


def solver():
    return comfy.samplers.sampler_object("euler")


def plan(model):
    return comfy.samplers.KSampler(model, 3, torch.device("cpu"), "euler", "normal", 1.0).sigmas


def test_data_for_each_picture_reaches_its_own_edits(model):
    start = drawn("noise", 2, 4, *SIZE)
    guider = blend_guider(per_picture(model, tiled), edit_prompt(), token=token())
    out = guider.sample(start, torch.zeros_like(start), solver(), plan(model), disable_pbar=True, seed=5)
    for picture in range(2):

        def own(values, rows, picture=picture):
            return values[picture].expand(rows)

        guider = blend_guider(per_picture(model, own), edit_prompt(), token=token())
        noise = start[picture : picture + 1]
        alone = guider.sample(noise, torch.zeros_like(noise), solver(), plan(model), disable_pbar=True, seed=5)
        assert relative(out[[picture, 2 + picture]], alone) < 1e-5


@pytest.mark.parametrize("edits", [1, 2])
def test_data_that_edits_would_get_from_another_picture_is_refused(model, edits):
    names = tuple(f"edit {n}" for n in range(edits))
    with pytest.raises(ValueError, match=r"model: an earlier node .* batch size 2"):
        sample(blend_guider(per_picture(model, padded), edit_prompt(names), token=token()), batch=2)
    # With one picture there is nothing to mix up.
    sample(blend_guider(per_picture(model, padded), edit_prompt(names), token=token()), batch=1)


def test_areas_and_ranges_are_read_as_the_host_reads_them(model):
    sampling = model.get_model_object("model_sampling")
    assert partial_area(WHOLE, (16, 16)) == () and partial_area({}, (16, 16)) == ()
    assert partial_area(LEFT, (16, 24)) == (16, 12, 0, 0) and partial_area({"area": (8, 8, 0, 8)}, (16, 16))
    bounds = torch.zeros(1, 128, 128)
    bounds[:, 64:] = 1
    assert partial_area({"mask": bounds, "set_area_to_bounds": True}, (16, 16))[:1] == (8,)
    assert partial_area({"mask": bounds}, (16, 16)) == ()
    assert is_active({}, sampling, 1.0) and not is_active(LATE, sampling, 14.0) and is_active(LATE, sampling, 0.05)
    with pytest.raises(ValueError, match="positive: expected CONDITIONING"):
        check_conditioning("positive", ["text"], 64)
