"""The settings of the template for few-step models: its noise levels, and the mask that its first step needs."""

from __future__ import annotations

import pytest
import torch
from comfy.samplers import calculate_sigmas

from support.tiny_models import tiny_sdxl
from tools.templates.partedit_sdxl import FEW_STEPS

SETTINGS = next(node.values for node in FEW_STEPS.nodes if node.kind == "FeatureBlendSampler")


def test_the_steps_are_those_the_model_was_trained_on(pack):
    sampling = tiny_sdxl().get_model_object("model_sampling")
    sigmas = calculate_sigmas(sampling, SETTINGS["scheduler"], SETTINGS["steps"])
    timesteps = [float(sampling.timestep(sigma)) for sigma in sigmas[:-1]]
    assert timesteps == pytest.approx([999, 749, 500, 250], abs=1) and sigmas[-1] == 0


@pytest.mark.slow
def test_the_first_step_s_mask_keeps_the_background(pack):
    """On the demo model, which is none for few steps: the edit is in the part, the rest closer to the source."""
    import nodes

    from partedit_oir.nodes.demo_model import LoadDemoModel
    from partedit_oir.nodes.feature_blend import FeatureBlendSampler
    from partedit_oir.nodes.part_token import LoadPartToken
    from partedit_oir.nodes.prompt import PartEditPrompt

    model, clip, *_ = LoadDemoModel.execute().args
    token = LoadPartToken.execute("demo_robot_head.safetensors").args[0]
    prompt = PartEditPrompt.execute(clip, "a red robot in the snow", "red -> blue").args[0]
    negative, latent = nodes.CLIPTextEncode().encode(clip, "")[0], nodes.EmptyLatentImage().generate(256, 256, 1)[0]

    def rest(seed: int, timing: str) -> float:
        """Mean square of what an edit changes outside its mask."""
        settings = {**SETTINGS, "seed": seed, "timing": timing, "edit_steps": 1.0, "omega": 0.7}
        output = FeatureBlendSampler.execute(
            model, prompt, negative, latent_image=latent, part_token=token, **settings
        ).args
        edited, source, mask = output[0]["samples"], output[1]["samples"], output[2]
        change = (edited - source).square().mean(dim=1)[0]
        weight = torch.nn.functional.interpolate(mask[None], change.shape, mode="area")[0, 0]
        assert change[weight > 0.9].mean() > 5 * change[weight < 0.02].mean()
        return float(change[weight < 0.02].mean())

    seeds = range(6)
    twice, once = (sum(rest(seed, timing) for seed in seeds) for timing in (SETTINGS["timing"], "clean"))
    assert twice < 0.9 * once
