"""Feature blending with every sampler of the host: shared noise, and what is refused before sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfy.samplers import SAMPLER_NAMES

from support.tiny_edits import blend_guider, edit_prompt, plain, relative, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sd, tiny_sdxl


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def small(pack):
    return tiny_sd()


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_source_and_edit_get_the_noise_of_an_ordinary_run(small, sampler, caplog):
    caplog.set_level("DEBUG")
    # The same prompt under a mask of zeros: with shared noise the rows are equal, and equal to an ordinary run.
    prompt = edit_prompt(["source", "source"], width=768, pooled=0)
    options = {"sampler": sampler, "batch": 2, "size": (8, 8)}
    out = sample(blend_guider(small, prompt, mask=torch.zeros(1, 8, 8)), **options)
    assert "could not be tried out" not in caplog.text
    assert relative(out[2:4], out[:2]) < 1e-5 and relative(out[4:], out[:2]) < 1e-5
    assert relative(out[0], out[1]) > 1e-2
    if sampler != "dpm_adaptive":  # its step size follows the whole batch
        assert relative(out[:2], plain(small, text_conditioning("source", 768, pooled=0), **options)) < 1e-5


def refused(model, sampler, message, **settings):
    """A run that must end with this error before the UNet has run."""
    patch = pytest.MonkeyPatch()
    patch.setattr(model.model.diffusion_model, "_forward", None)
    try:
        with pytest.raises(ValueError, match=message):
            sample(blend_guider(model, edit_prompt(), token=token(), **settings), sampler=sampler)
    finally:
        patch.undo()


def own_noise(draw):
    """A sampler of another pack: Euler with noise that it draws by itself."""
    import comfy.samplers

    def sample_other_pack(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
        for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = model(x, sigma * x.new_ones(x.shape[0]), **extra_args)
            x = denoised + (x - denoised) * after / sigma + 0.3 * after * draw(x)
        return x

    return comfy.samplers.KSAMPLER(sample_other_pack)


SHARED = {
    "randn_like": lambda x: torch.randn_like(x),
    "a generator of its own": lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(3)),
    "sizes one by one": lambda x: torch.randn(*x.shape, generator=torch.Generator().manual_seed(3)),
    "in place": lambda x: torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(3)),
    "uniform": lambda x: torch.rand(size=x.shape, generator=torch.Generator().manual_seed(3)) - 0.5,
}


@pytest.mark.parametrize("how", SHARED)
def test_noise_that_other_packs_draw_is_shared(small, how):
    prompt = edit_prompt(["source"], width=768, pooled=0)
    options = {"sampler": own_noise(SHARED[how]), "batch": 2, "size": (8, 8)}
    torch.manual_seed(1)
    out = sample(blend_guider(small, prompt, mask=torch.ones(1, 64, 64)), **options)
    assert relative(out[2:], out[:2]) < 1e-5 and relative(out[0], out[1]) > 1e-2
    torch.manual_seed(1)
    assert relative(out[:2], plain(small, text_conditioning("source", 768, pooled=0), **options)) < 1e-5


def test_churn_is_shared(small):
    import comfy.samplers

    prompt = edit_prompt(["source"], width=768, pooled=0)
    options = {"sampler": comfy.samplers.ksampler("euler", {"s_churn": 1.0}), "size": (8, 8)}
    torch.manual_seed(1)
    out = sample(blend_guider(small, prompt, mask=torch.ones(1, 64, 64)), **options)
    torch.manual_seed(1)
    expected = plain(small, text_conditioning("source", 768, pooled=0), **options)
    assert relative(out[1:], out[:1]) < 1e-5 and relative(out[:1], expected) < 1e-5
    assert relative(out[:1], sample(blend_guider(small, prompt, mask=torch.ones(1, 64, 64)), size=(8, 8))[:1]) > 1e-3


def test_rows_that_cannot_be_kept_equal_are_refused(model):
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale

    numbers = np.random.default_rng(0)
    by_numpy = own_noise(lambda x: torch.from_numpy(numbers.standard_normal(tuple(x.shape), dtype=np.float32)))
    refused(model, by_numpy, r"sampler: 'sample_other_pack' treats rows that are equal differently")
    by_row = own_noise(lambda x: torch.arange(x.shape[0]).reshape(-1, 1, 1, 1).to(x).expand_as(x))
    refused(model, by_row, r"sampler: 'sample_other_pack' treats rows that are equal differently")
    refused(model, SamplerLCMUpscale.execute(1.5, -1, "bilinear").args[0], r"sampler: 'sample_lcm_upscale' changes the")


def particular(name, needs):
    """A sampler of another pack that asks the model for what only a real run has."""
    import comfy.samplers

    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = model(x, sigma * x.new_ones(x.shape[0]), **extra_args)
            needs(model, x)
            x = denoised + (x - denoised) * after / sigma
        return x

    euler.__name__ = name
    return comfy.samplers.KSAMPLER(euler)


def test_a_sampler_that_cannot_be_tried_out_is_named_once(small, caplog):
    def large(model, x):
        assert x.shape[-1] > 8, "too small for it"

    prompt, mask = edit_prompt(["source"], width=768, pooled=0), torch.ones(1, 64, 64)
    for _ in range(2):
        sample(blend_guider(small, prompt, mask=mask), sampler=particular("sample_large_only", large), steps=2)
    sample(blend_guider(small, prompt, mask=mask), sampler=particular("sample_larger", large), steps=2)
    told = [record.getMessage() for record in caplog.records if "could not be tried out" in record.getMessage()]
    assert len(told) == 2 and "'sample_large_only'" in told[0] and "'sample_larger'" in told[1]
    assert "too small for it" in told[0]


def test_functions_of_other_nodes_are_not_part_of_the_trial_run(small):
    """They may count their calls or keep what they saw last, and would be given noise of eight by eight."""
    seen = []

    def note(args):
        seen.append(tuple(args["denoised"].shape[-2:]))
        return args["denoised"]

    patched = small.clone()
    patched.set_model_sampler_post_cfg_function(note)
    prompt, mask = edit_prompt(["source"], width=768, pooled=0), torch.ones(1, 64, 64)
    for sampler in ("euler", "euler_cfg_pp"):  # the second one adds a function of its own
        seen.clear()
        sample(blend_guider(patched, prompt, mask=mask), sampler=sampler, steps=2)
        assert seen == [(16, 16)] * 2


def test_the_trial_run_leaves_the_random_numbers_alone(small):
    prompt = edit_prompt(["source"], width=768, pooled=0)
    plain(small, text_conditioning("source", 768, pooled=0), sampler="euler_ancestral", size=(8, 8))
    expected = torch.randn(3)
    sample(blend_guider(small, prompt, mask=torch.ones(1, 64, 64)), sampler="euler_ancestral", size=(8, 8))
    assert torch.equal(torch.randn(3), expected)


def test_the_hosts_sampler_nodes_share_their_noise_too(model):
    from comfy_extras.nodes_custom_sampler import SamplerDPMPP_2M_SDE, SamplerSASolver

    prompt = edit_prompt(["source"])
    for node, values in (
        (SamplerDPMPP_2M_SDE, ("midpoint", 0.7, 0.9, "cpu")),
        (SamplerSASolver, (model, 0.5, 0.1, 0.9, 1.0, 2, 2, False, False)),
    ):
        solver = node.execute(*values).args[0]
        out = sample(blend_guider(model, prompt, mask=torch.zeros(1, 8, 8), keep_pooled=True), sampler=solver)
        assert relative(out[1], out[0]) < 1e-5
        still = sample(blend_guider(model, prompt, mask=torch.zeros(1, 8, 8)), sampler="euler")
        assert relative(out[0], still[0]) > 1e-3


def test_a_single_step_needs_a_mask_from_somewhere(model):
    with pytest.raises(ValueError, match=r"timing: with a single step, 'clean' has no mask"):
        sample(blend_guider(model, edit_prompt(), token=token()), steps=1)
    half = torch.zeros(1, 16, 16)
    for mask in ({"token": token()}, {"mask": half}):
        with pytest.raises(ValueError, match=r"timing: with a single step, 'published' has no mask"):
            sample(blend_guider(model, edit_prompt(), timing="published", **mask), steps=1)
    for settings in ({"timing": "clean, first step twice"}, {"edit_steps": 0.0}):
        sample(blend_guider(model, edit_prompt(), token=token(), **settings), steps=1)
    out = sample(blend_guider(model, edit_prompt(), mask=half, keep_pooled=True), steps=1)
    assert torch.equal(out[1], out[0])


@pytest.mark.parametrize("timing", ["clean", "clean, first step twice", "published"])
@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("given", [True, False])
def test_it_is_said_when_no_step_blends(model, caplog, timing, share, given):
    """The warning says what is seen: an edit equal to one of its own."""
    mask = {"mask": torch.ones(1, 16, 16) * (torch.arange(16) < 8)} if given else {"token": token()}
    out = sample(blend_guider(model, edit_prompt(), timing=timing, edit_steps=share, **mask), steps=4)
    free = relative(out[1:], plain(model, text_conditioning("edit"), steps=4)) < 1e-5
    assert ("not confined to the part" in caplog.text) == free
    assert free == (share == 0.25 and (timing == "published" or (timing == "clean" and not given)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": "soft"}, "threshold: 'soft' is not one of adaptive"),
        ({"omega": 0.2}, "omega: 0.2 is below 0.5"),
        ({"omega": float("inf")}, "omega: expected a number"),
        ({"edit_steps": float("nan")}, "edit_steps: expected a number"),
        ({"edit_steps": -1.0}, "edit_steps: -1.0 is negative"),
        ({"timing": "late"}, "timing: 'late'"),
        ({"map_size": "huge"}, "map_size: 'huge'"),
        ({"layers": "output.9"}, "layers: this model has no layer 'output.9'"),
    ],
)
def test_settings_are_checked_before_sampling(model, settings, message):
    with pytest.raises(ValueError, match=message):
        blend_guider(model, edit_prompt(), token=token(), **settings)


def test_steps_are_told_by_their_place_where_levels_rise(pack):
    from partedit_oir.core.partedit.wrappers import step_at

    def walked(levels, sigmas):
        last, found = 0, []
        for sigma in sigmas:
            last = step_at(sigma, levels, last)
            found.append(last)
        return found

    down = [14.6, 8.0, 3.0, 1.0, 0.0]
    # Between levels, and a solver that tries a step again from where it was.
    assert walked(down, [14.6, 10.0, 8.0, 2.0, 3.0, 1.0, 0.5]) == [0, 0, 1, 2, 2, 3, 3]
    assert walked(down[::-1], [0.0, 0.5, 1.0, 3.0, 8.0]) == [0, 0, 1, 2, 3]
    again = [14.6, 8.0, 3.0, 1.0, 8.0, 3.0, 0.0]
    assert walked(again, [14.6, 8.0, 3.0, 1.0, 8.0, 5.0, 3.0, 1.0]) == [0, 1, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("levels", [[0.05, 1.0, 4.0, 10.0, 14.6], [14.6, 4.0, 1.0, 8.0, 2.0, 0.0]])
def test_rising_levels_have_a_mask_for_every_step(small, levels):
    """FlipSigmas, and a schedule that goes back up: each step has its own mask, and the edit ends where it should."""
    import comfy.samplers

    guider = blend_guider(small, edit_prompt(width=768, pooled=0), token=token(width=768), edit_steps=3, cfg=1.0)
    noise = drawn("noise", 1, 4, 8, 8)
    solver = comfy.samplers.sampler_object("euler")
    guider.sample(noise, torch.zeros_like(noise), solver, torch.tensor(levels), disable_pbar=True, seed=5)
    assert sorted(guider.last_masks.history) == list(range(len(levels) - 1))
    assert sorted(guider.last_masks.in_use) == [1, 2]
