"""What the sampling loop knows about the conditioning, and how many rows fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from support.stand_ins import sd1_shaped_model


@pytest.fixture(scope="module")
def engine(pack):
    from partedit_oir.core.inversion import engine

    return engine


def denoiser(engine, *conds, call=None, options=None):
    guider = SimpleNamespace(conds={"positive": list(conds), "negative": None})
    owner = call or (lambda x, sigma, **kwargs: x)

    class Guider(SimpleNamespace):
        def __call__(self, *args, **kwargs):
            return owner(*args, **kwargs)

    return engine.Denoiser(
        Guider(**vars(guider)), {"model_options": options or {}, "denoise_mask": None}, torch.device("cpu")
    )


def hooks_with(keyframes):
    import comfy.hooks

    hook = comfy.hooks.WeightHook()
    for percent in keyframes:
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(1.0, start_percent=percent))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return group, hook


def test_rows_may_differ_only_when_nothing_follows_the_progress(engine):
    control = SimpleNamespace(timestep_percent_range=(0.0, 1.0), previous_controlnet=None)
    ranged = SimpleNamespace(timestep_percent_range=(0.0, 0.5), previous_controlnet=None)
    chained = SimpleNamespace(timestep_percent_range=(0.0, 1.0), previous_controlnet=ranged)
    assert denoiser(engine, {}, {"control": control}, {"hooks": hooks_with([])[0]}).mixed_sigmas
    for cond in (
        {"timestep_start": 5.0},
        {"timestep_end": 0.5},
        {"control": ranged},
        {"control": chained},
        {"hooks": hooks_with([0.0, 0.5])[0]},
    ):
        assert not denoiser(engine, {}, cond).mixed_sigmas


def test_rows_share_a_sigma_where_other_nodes_have_put_functions_into_the_model(engine):
    model = sd1_shaped_model(1)
    assert denoiser(engine, {}, options=model.model_options).mixed_sigmas
    sets = {
        "set_model_unet_function_wrapper": (),
        "set_model_sampler_cfg_function": (),
        "set_model_sampler_pre_cfg_function": (),
        "set_model_sampler_post_cfg_function": (),
        "set_model_attn1_patch": (),
        "set_model_attn2_replace": ("middle", 0),
        "set_model_input_block_patch": (),
    }
    for name, place in sets.items():
        patched = model.clone()
        getattr(patched, name)(lambda *args, **kwargs: None, *place)
        assert not denoiser(engine, {}, options=patched.model_options).mixed_sigmas, name


def test_hook_keyframes_start_again_when_the_noise_rises(engine):
    group, hook = hooks_with([0.0, 0.5])
    resets = []
    hook.reset = lambda: resets.append(1)
    denoise = denoiser(engine, {"hooks": group})
    x = torch.zeros(2, 4, 2, 2)
    for sigma, expected in ((1.0, 1), (2.0, 2), (1.5, 2), (1.0, 2), (1.2, 3)):
        denoise(x, sigma)
        assert len(resets) == expected


def test_every_row_gets_its_sigma(engine):
    seen = []
    denoise = denoiser(engine, call=lambda x, sigma, **kwargs: seen.append((sigma.tolist(), kwargs)) or x)
    denoise(torch.zeros(2, 4, 2, 2), 3.0)
    denoise(torch.zeros(2, 4, 2, 2), torch.tensor([2.0, 1.0]))
    assert [sigma for sigma, _ in seen] == [[3.0, 3.0], [2.0, 1.0]]
    assert seen[0][1] == {"model_options": {}}


def test_batch_size_follows_the_free_memory(pack, monkeypatch):
    import comfy.model_management

    from partedit_oir.core.inversion import memory

    model = sd1_shaped_model(1)
    shape = (1, 4, 64, 64)
    per_row = model.model.memory_required([2, 4, 64, 64]) * 1.5

    def rows(free):
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)
        return memory.auto_batch_size(model, shape)

    assert rows(0) == 1, "one row is always tried"
    assert rows(per_row * 3.5) == 3
    assert rows(per_row * 1000) == memory.MAX_ROWS_CPU
    # On a GPU, weights that are not there yet take their room first.
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
    size = model.model_size()
    for loaded in (0, size // 2, size, size + 1000):
        monkeypatch.setattr(model, "loaded_size", lambda loaded=loaded: loaded)
        missing = max(0, size - loaded)
        assert rows(per_row * 3.5 + missing) == 3 and rows(per_row * 1000 + missing) == memory.MAX_ROWS
