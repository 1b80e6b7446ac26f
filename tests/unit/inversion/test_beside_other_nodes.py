"""Inversion and OIR beside other nodes: scheduled LoRA hooks, step caches, attention guidance, inpainting models."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from support.stand_ins import latent, prompt_conditioning, relative_error, sd1_shaped_model, two_objects
from tools.parity.oir import UNET_CONFIG

LEVELS = (12.0, 8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1)


@pytest.fixture(scope="module")
def code(pack):
    from partedit_oir.core.inversion import engine, invert, schedule

    return SimpleNamespace(engine=engine, invert=invert, schedule=schedule)


def hooked(keyframes):
    """A model and conditioning with a weight that changes along (start, strength) keyframes."""
    import comfy.hooks

    model = sd1_shaped_model(1).clone()
    weight = model.model.diffusion_model.time_embed[0].weight
    change = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    group, hook = comfy.hooks.HookGroup(), comfy.hooks.WeightHook()
    group.add(hook)
    hook.need_weight_init = False
    for start, strength in keyframes:
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
    patches = {"diffusion_model.time_embed.0.weight": ("diff", (change,))}
    model.add_hook_patches(hook=hook, patches=patches, strength_patch=1.0)
    return model, [[text, {**options, "hooks": group}] for text, options in prompt_conditioning("a cat")]


@pytest.mark.parametrize(
    "keyframes",
    [
        [(0.0, 1.0), (0.5, 0.0)],
        [(0.0, 1.0), (0.3, 0.5), (0.7, 0.0)],
        [(0.2, 1.0), (0.7, 0.0)],  # the first is guaranteed a step
    ],
)
def test_a_scheduled_lora_is_the_same_upward_and_downward(code, keyframes):
    def visited(levels):
        model, conditioning = hooked(keyframes)
        before = model.model.diffusion_model.time_embed[0].weight.clone()
        results, _ = code.engine.run_loop(
            model,
            lambda denoise: [denoise(0.2 * latent(), sigma) for sigma in levels],
            positive=conditioning,
            negative=None,
            cfg=1.0,
            latent_image=latent(),
            rows=1,
            sigmas=torch.tensor(LEVELS),
        )
        assert torch.equal(model.model.diffusion_model.time_embed[0].weight, before) and not model.cached_hook_patches
        return results

    down, up = visited(LEVELS), visited(LEVELS[::-1])[::-1]
    for sigma, one, other in zip(LEVELS, down, up, strict=True):
        assert relative_error(other, one) < 1e-5, sigma
    plain, _ = code.engine.run_loop(
        sd1_shaped_model(1),
        lambda denoise: [denoise(0.2 * latent(), sigma) for sigma in LEVELS],
        positive=prompt_conditioning("a cat"),
        negative=None,
        cfg=1.0,
        latent_image=latent(),
        rows=1,
        sigmas=torch.tensor(LEVELS),
    )
    assert relative_error(down[0], plain[0]) > 1e-3, "the hook was not active"
    assert relative_error(down[-1], plain[-1]) < 1e-5, "the hook was not over at the end"


def cached(name, model):
    module = pytest.importorskip("comfy_extras.nodes_easycache", reason="this ComfyUI has no step caches")
    return getattr(module, name).execute(model, 0.2, 0.15, 0.95, False).args[0]


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
def test_a_step_cache_of_the_model_changes_nothing(code, name):
    from partedit_oir.core.oir.making import make_candidates

    model, trajectory, pairs = two_objects(10)
    other = cached(name, model)
    held = {kind: {key: list(found) for key, found in keys.items()} for kind, keys in other.wrappers.items()}
    again = code.invert.invert(other, trajectory.latent_image, trajectory.conditioning, sigmas=trajectory.sigmas)
    assert relative_error(again.latents, trajectory.latents) < 1e-5
    for batch_size in (1, 3):
        expected, got = (
            make_candidates(m, trajectory, pairs[0], [2, 5, 8], cfg=7.5, batch_size=batch_size)[0]
            for m in (model, other)
        )
        assert all(relative_error(got[n], expected[n]) < 1e-4 for n in expected)
    assert other.wrappers == held, "the model was changed"


def recorded(code, model, conditioning, latents, rows, monkeypatch):
    monkeypatch.setattr(code.invert, "auto_batch_size", lambda *_: rows)
    return code.invert.invert(
        model,
        latents,
        conditioning,
        sigmas=code.schedule.spaced_sigmas(code.schedule.model_sampling_of(model), 4),
        method="edit_friendly_ddpm",
        record_noise_maps=True,
    ).noise_maps


def test_an_inpainting_model_sees_each_image_s_own_in_every_row(code, monkeypatch):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    class Shape(comfy.supported_models.SD15):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

    base = comfy.model_base.BaseModel(Shape({**UNET_CONFIG, "in_channels": 9}), device=torch.device("cpu"))
    base.set_inpaint()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in base.diffusion_model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, :, :32] = 1.0
    around = {"concat_latent_image": latent(batch=2, seed=9), "concat_mask": masks}
    conditioning = [[text, {**options, **around}] for text, options in prompt_conditioning("a cat")]
    expected = recorded(code, model, conditioning, latent(batch=2), 2, monkeypatch)
    swapped = {name: value.flip(0) for name, value in around.items()}
    wrong = recorded(
        code, model, [[text, swapped] for text, _ in prompt_conditioning("a cat")], latent(batch=2), 2, monkeypatch
    )
    assert relative_error(wrong, expected) > 1e-3
    for rows in (4, 5, 8):
        maps = recorded(code, model, conditioning, latent(batch=2), rows, monkeypatch)
        assert relative_error(maps, expected) < 1e-5, rows


def guided(name):
    if name == "SAG":
        module = pytest.importorskip("comfy_extras.nodes_sag")
        return module.SelfAttentionGuidance.execute(sd1_shaped_model(4), 0.5, 2.0).args[0]
    module = pytest.importorskip("comfy_extras.nodes_nag")
    return module.NAGuidance.execute(sd1_shaped_model(4), 5.0, 0.5, 1.5).args[0]


@pytest.mark.parametrize("name", ["SAG", "NAG"])
def test_guidance_that_needs_the_negative_prompt_even_at_cfg_1(code, name):
    model = guided(name)
    sigmas = code.schedule.spaced_sigmas(code.schedule.model_sampling_of(model), 4)

    def inverted(negative):
        return code.invert.invert(
            model, latent(16, 16), prompt_conditioning("a cat"), sigmas=sigmas, negative=negative
        ).latents

    without = inverted(None)
    assert torch.equal(without, inverted(prompt_conditioning("a cat"))), "the source prompt stands in"
    assert relative_error(inverted(prompt_conditioning("a dog")), without) > 1e-5, "the negative prompt was ignored"


def test_candidates_at_cfg_1_beside_such_guidance(code):
    from partedit_oir.core.oir.making import make_candidates

    _, trajectory, pairs = two_objects(4)
    made, _, _ = make_candidates(guided("SAG"), trajectory, pairs[0], [2, 3], cfg=1.0, batch_size=2)
    assert all(bool(torch.isfinite(one).all()) for one in made.values())


def test_rows_share_a_sigma_where_other_nodes_have_put_wrappers_into_the_model(code):
    from comfy.patcher_extension import WrappersMP

    def mixed(model):
        return code.engine.run_loop(
            model,
            lambda denoise: (denoise(latent(), 1.0), denoise.mixed_sigmas)[1],
            positive=prompt_conditioning("a cat"),
            negative=None,
            cfg=1.0,
            latent_image=latent(),
            rows=1,
            sigmas=torch.tensor([1.0, 0.1]),
        )[0]

    assert mixed(sd1_shaped_model(1))
    for kind in (WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL, WrappersMP.CALC_COND_BATCH):
        model = sd1_shaped_model(1).clone()
        model.add_wrapper_with_key(kind, "other", lambda executor, *args, **kwargs: executor(*args, **kwargs))
        assert not mixed(model), kind


def within(conditioning, start, end):
    return [[text, {**options, "start_percent": start, "end_percent": end}] for text, options in conditioning]


def limited(**options):
    """A prompt with these settings, of a latent 12 wide and 8 high."""
    return lambda conditioning: [[text, {**given, **options}] for text, given in conditioning]


NO_LEVEL, NO_PLACE = "no entry is active at sigma", "areas and masks leave {} of the image without a prompt at sigma"
LEFT = torch.zeros(1, 64, 96)
LEFT[..., :48] = 1.0
QUARTER = ("percentage", 0.5, 0.5, 0.0, 0.0)
LIMITS = {
    "late": (lambda c: within(c, 0.5, 1.0), NO_LEVEL),
    "early": (lambda c: within(c, 0.0, 0.5), NO_LEVEL),
    "always": (lambda c: within(c, 0.0, 1.0), ""),
    "an area": (limited(area=QUARTER), NO_PLACE.format("75%")),
    "a mask": (limited(mask=LEFT, mask_strength=1.0), NO_PLACE.format("50%")),
    "its bounds": (limited(mask=LEFT, set_area_to_bounds=True), NO_PLACE.format("50%")),
    "no strength": (limited(strength=0.0), NO_PLACE.format("100%")),
    "two halves": (lambda c: [*limited(mask=LEFT)(c), *limited(area=(8, 6, 0, 6))(c)], ""),
    "halves in turn": (
        lambda c: [*limited(mask=LEFT)(c), *within(limited(mask=1 - LEFT)(c), 0.0, 0.5)],
        NO_PLACE.format("50%"),
    ),
    "an area beside all": (lambda c: [*limited(area=QUARTER)(c), *c], ""),
}


@pytest.mark.parametrize("limit, words", LIMITS.values(), ids=LIMITS)
def test_a_prompt_that_leaves_out_a_level_or_part_of_the_image_is_refused(code, limit, words):
    """ComfyUI takes 0 for the prediction there, and the inversion goes astray without a word."""
    from partedit_oir.core.inversion.masked_replay import MaskedReplaySettings, masked_replay
    from partedit_oir.core.oir.checks import check_inputs

    model, trajectory, pairs = two_objects(4)
    prompt = prompt_conditioning("a cat")
    both = [*limit(prompt), *within(prompt, 0.0, 0.5), *within(prompt, 0.5, 1.0)]
    code.invert.invert(model, trajectory.latent_image, both, sigmas=trajectory.sigmas)
    tries = {
        "positive": lambda part: code.invert.invert(model, trajectory.latent_image, part, sigmas=trajectory.sigmas),
        "negative": lambda part: code.invert.invert(
            model, trajectory.latent_image, prompt, negative=part, cfg=2.0, sigmas=trajectory.sigmas
        ),
        "edit": lambda part: masked_replay(
            model, trajectory, part, torch.ones(64, 96), MaskedReplaySettings(strength=1.0), negative=prompt
        ),
        "pairs": lambda part: check_inputs(model, trajectory, [replace(pairs[0], conditioning=part)]),
    }
    for name, attempt in tries.items():
        if not words:
            attempt(limit(prompt))
            continue
        with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
            attempt(limit(prompt))


def test_masks_of_a_batch_count_for_their_own_image(code):
    model, prompt = sd1_shaped_model(1), prompt_conditioning("a cat")
    turned = torch.cat([LEFT, 1 - LEFT])
    image, sigmas = latent(8, 12, batch=2), torch.tensor(LEVELS)
    code.invert.invert(model, image, [*limited(mask=turned)(prompt), *limited(mask=1 - turned)(prompt)], sigmas=sigmas)
    with pytest.raises(ValueError, match="leave 50% of image 1 without"):
        code.invert.invert(model, image, [*limited(mask=turned)(prompt), *limited(mask=LEFT)(prompt)], sigmas=sigmas)


def test_a_schedule_of_the_text_encoder_counts_as_a_range(code):
    from partedit_oir.core.conditioning import is_active

    sampling = code.schedule.model_sampling_of(sd1_shaped_model(1))
    early = {"clip_start_percent": 0.0, "clip_end_percent": 0.4}
    assert is_active(early, sampling, float(sampling.sigma_max)) and not is_active(early, sampling, 0.1)


def test_guidance_for_single_images_takes_several_rows(code):
    """TemporalScoreRescaling asks `if sigma == 0`, which a batch cannot answer; each row is asked alone."""
    model = sd1_shaped_model(1).clone()
    model.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] if args["sigma"] < 1 else 0.9 * args["denoised"]
    )
    rows = torch.cat([latent(), 0.5 * latent(seed=6)])

    def denoised(x):
        result, _ = code.engine.run_loop(
            model,
            lambda denoise: denoise(x, 2.0),
            positive=prompt_conditioning("a cat"),
            negative=None,
            cfg=1.0,
            latent_image=latent(),
            rows=len(x),
            sigmas=torch.tensor(LEVELS),
        )
        return result

    both = denoised(rows)
    for row in range(2):
        assert relative_error(both[row], denoised(rows[row : row + 1])[0]) < 1e-5
