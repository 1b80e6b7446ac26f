"""The PartEdit nodes from prompt to pictures, on small models: outputs, passes, trajectories, part prompts."""

from __future__ import annotations

import importlib

import pytest
import torch

from support.stand_ins import FakeVae
from support.tiny_edits import relative, token
from support.tiny_models import WordClip, drawn, tiny_sdxl

# Outputs without the decoded pictures, which need a VAE.
OUTPUTS = 4


@pytest.fixture(scope="module")
def nodes(pack):
    return {node.__name__: node for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def prompts(nodes):
    def build(edit, **options):
        return nodes["PartEditPrompt"].execute(WordClip(), "a man outdoors", edit, **options)

    return build


@pytest.fixture(scope="module")
def blend(nodes, model):
    def run(prompt, **options):
        settings = {
            "seed": 3,
            "steps": 3,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "edit_steps": 1.0,
            "omega": 1.5,
            "part_token": token(),
            "latent_image": {"samples": torch.zeros(1, 4, 16, 24)},
            **options,
        }
        negative = WordClip().encode_from_tokens_scheduled(WordClip().tokenize("ugly"))
        return nodes["FeatureBlendSampler"].execute(model, prompt, negative, **settings).args[:OUTPUTS]

    return run


def test_the_prompt_node_shows_its_alignment(prompts):
    out = prompts("a robot outdoors")
    prompt, source, text = out.args
    assert "man -> robot" in text and out.ui.as_dict() == {"text": (text,)}
    assert source is prompt.source and source[0][0].shape == (1, 77, 64)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1e"])
def test_only_line_breaks_separate_edits(prompts, separator):
    """What an editor shows as one line is one edit; a pasted separator that nobody sees is a space."""
    prompt = prompts(f"a robot{separator}outdoors\r\na statue outdoors\ra clown outdoors\n").args[0]
    assert [edit.text for edit in prompt.edits] == ["a robot outdoors", "a statue outdoors", "a clown outdoors"]


def test_outputs_of_the_sampler(prompts, blend):
    edited, source, mask, steps = blend(prompts("a robot outdoors\na statue outdoors").args[0])
    assert edited["samples"].shape == (2, 4, 16, 24) and source["samples"].shape == (1, 4, 16, 24)
    assert mask.shape == (2, 128, 192) and steps.shape == (3, 128, 2 * 192, 3)
    assert mask.min() >= 0 and mask.max() <= 1
    assert torch.equal(mask[0], mask[1])  # one token, one source: both edits see the same part
    assert relative(edited["samples"][0], edited["samples"][1]) > 1e-3


@pytest.mark.parametrize("per_pass", [1, 2])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_fewer_edits_a_pass_give_the_same(prompts, blend, per_pass, sampler):
    prompt = prompts("a robot outdoors\na statue outdoors\na clown outdoors").args[0]
    together = blend(prompt, sampler_name=sampler)
    apart = blend(prompt, sampler_name=sampler, edits_per_pass=per_pass)
    for a, b in zip(together[:2], apart[:2]):
        assert relative(b["samples"], a["samples"]) <= 1e-5
    assert torch.allclose(together[2], apart[2], atol=1e-4) and together[3].shape == apart[3].shape


def test_chained_prompts(prompts, blend):
    both = token(parts=2)
    first = prompts("a robot outdoors", part=both.names[0]).args[0]
    same = prompts("a wooden man outdoors", part=both.names[1], previous=first, join="same picture").args[0]
    new = prompts("a wooden man outdoors", part=both.names[1], previous=first).args[0]
    edited, *_ = blend(same, part_token=both)
    assert edited["samples"].shape[0] == 1
    edited, _, mask, _ = blend(new, part_token=both)
    assert edited["samples"].shape[0] == 2 and not torch.equal(mask[0], mask[1])
    with pytest.raises(ValueError, match="part: wing is not in the part token"):
        blend(prompts("a robot outdoors", part="wing").args[0])


@pytest.mark.parametrize("method", ["ddim_next_timestep", "ddim_fixed_point", "edit_friendly_ddpm", "ledits_pp"])
def test_a_real_picture_comes_back_and_is_edited(model, prompts, blend, method):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import spaced_sigmas

    latent = drawn("picture", 2, 4, 16, 24)
    prompt, source, _ = prompts("a robot outdoors\na statue outdoors").args
    sigmas = spaced_sigmas(model.get_model_object("model_sampling"), 5)
    trajectory = invert(model, latent, source, sigmas=sigmas, method=method)
    edited, back, mask, steps = blend(prompt, trajectory=trajectory, latent_image=None)
    assert edited["samples"].shape == (4, 4, 16, 24) and steps.shape[0] == 5 and mask.shape[0] == 4
    assert relative(back["samples"], latent) < 1e-4
    assert relative(edited["samples"][:2], latent) > 1e-2
    # Without a change of the prompt the edit follows the source: it gets the same noise maps.
    if method in ("edit_friendly_ddpm", "ledits_pp"):
        same = prompts("a man outdoors").args[0]
        edited, *_ = blend(same, trajectory=trajectory, latent_image=None, cfg=1.0, part_token=token())
        assert relative(edited["samples"], latent) < 1e-3
    shorter = blend(prompt, trajectory=trajectory, latent_image=None, denoise=0.4)
    assert shorter[3].shape[0] == 2


def test_a_trajectory_brings_its_own_size(model, prompts, blend):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import spaced_sigmas

    sigmas = spaced_sigmas(model.get_model_object("model_sampling"), 3)
    trajectory = invert(model, drawn("picture", 1, 4, 8, 8), prompts("x").args[1], sigmas=sigmas)
    with pytest.raises(ValueError, match="latent_image: has shape"):
        blend(prompts("a robot outdoors").args[0], trajectory=trajectory)
    with pytest.raises(ValueError, match="latent_image: nothing connected"):
        blend(prompts("a robot outdoors").args[0], latent_image=None)


def test_the_guider_node_with_the_hosts_advanced_sampler(nodes, model, prompts, blend):
    from comfy_extras.nodes_custom_sampler import BasicScheduler, Noise_RandomNoise, SamplerCustomAdvanced

    prompt = prompts("a robot outdoors").args[0]
    clip = WordClip()
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    import comfy.samplers

    sigmas = BasicScheduler.execute(model, "normal", 3, 1.0).args[0]
    latent = {"samples": torch.zeros(1, 4, 16, 24)}
    expected = blend(prompt)
    for rows, count in (("edits", 1), ("source and edits", 2)):
        guider = (
            nodes["FeatureBlendGuider"]
            .execute(model, prompt, negative, 4.0, 1.0, 1.5, rows, part_token=token())
            .args[0]
        )
        sampler = comfy.samplers.sampler_object("euler")
        out, denoised = SamplerCustomAdvanced.execute(Noise_RandomNoise(3), guider, sampler, sigmas, latent).args
        assert out["samples"].shape[0] == denoised["samples"].shape[0] == count
        assert relative(out["samples"][-1:], expected[0]["samples"]) < 1e-5


def test_pixels_outside_the_mask_are_the_sources(nodes, model, prompts):
    from comfy_execution.graph_utils import ExecutionBlocker

    prompt = prompts("a robot outdoors\na statue outdoors").args[0]
    clip, vae = WordClip(), FakeVae()
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    half = torch.zeros(1, 128, 192)
    half[..., 96:] = 1.0

    def run(**options):
        latent = {"samples": torch.zeros(2, 4, 16, 24)}
        inputs = (model, prompt, negative, 3, 2, 4.0, "euler", "normal", 1.0, 1.5, latent)
        return nodes["FeatureBlendSampler"].execute(*inputs, mask=half, **options).args

    edited, source, _, _, pictures = run(vae=vae)
    assert pictures.shape == (4, 128, 192, 3) and torch.equal(pictures, vae.decode(edited["samples"]))
    *_, pasted = run(vae=vae, paste_back="pixels")
    originals = vae.decode(source["samples"])
    assert torch.equal(pasted[:, :, :80], originals[:, :, :80].repeat(2, 1, 1, 1))
    assert torch.equal(pasted[:, :, 112:], pictures[:, :, 112:])
    assert not torch.equal(pictures[:, :, :80], originals[:, :, :80].repeat(2, 1, 1, 1))
    real = torch.rand(2, 128, 192, 3)
    *_, pasted = run(vae=vae, paste_back="pixels", image=real)
    assert torch.equal(pasted[3, :, :80], real[1, :, :80])
    assert isinstance(run()[-1], ExecutionBlocker)
    with pytest.raises(ValueError, match="vae: not connected, but paste_back is 'pixels'"):
        run(paste_back="pixels")
    with pytest.raises(ValueError, match="image: expected 2 picture"):
        run(vae=vae, paste_back="pixels", image=real[:1])


def test_a_latent_noise_mask_keeps_its_outside(prompts, blend):
    picture, mask = drawn("picture", 2, 4, 16, 24), torch.zeros(2, 128, 192)
    mask[:, :, 96:] = 1.0
    latent = {"samples": picture, "noise_mask": mask}
    edited, source, *_ = blend(prompts("a robot outdoors\na statue outdoors").args[0], latent_image=latent, denoise=0.6)
    for rows in (edited["samples"][:2], edited["samples"][2:], source["samples"]):
        assert torch.allclose(rows[..., :11], picture[..., :11], atol=1e-4)
        assert relative(rows[..., 13:], picture[..., 13:]) > 1e-2


def test_prompts_beyond_77_tokens_follow_the_source(prompts, blend, model):
    """A long edit of a short source, and of a long one: the words are found in whatever section they stand."""
    long = "a robot outdoors " + "in the rain " * 40
    ones = {"mask": torch.ones(1, 8, 8), "part_token": None}
    short = prompts(long).args[0]
    assert short.source[0][0].shape[1] == 77 and short.edits[0].prompts[0].conditioning[0][0].shape[1] > 77
    free = blend(prompts(long, prompt_to_prompt="off").args[0], **ones)
    followed = blend(short, **ones)
    assert relative(followed[1]["samples"], free[1]["samples"]) < 1e-5
    assert relative(followed[0]["samples"], free[0]["samples"]) > 1e-4
    # The same long prompt on both sides, followed to the end, is the source.
    clip = WordClip()
    from partedit_oir.core.partedit.alignment import FollowSettings
    from partedit_oir.core.partedit.prompt import build_edit_prompt

    same = build_edit_prompt(clip, long, [long], FollowSettings(cross_replace=1.0, changed_words=1.0, self_replace=1.0))
    edited, source, *_ = blend(same, **ones)
    assert relative(edited["samples"], source["samples"]) < 1e-5


def test_part_mask_and_threshold_nodes(nodes, model):
    clip = WordClip()
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a man"))
    latent = {"samples": drawn("picture", 2, 4, 16, 24)}
    region = torch.zeros(1, 128, 192)
    region[:, :64] = 1.0
    mask, parts = (
        nodes["PartAttentionMask"].execute(model, token(parts=2), positive, latent, 0.3, 1, region=region).args
    )
    assert mask.shape == (2, 128, 192) and parts.shape == (4, 128, 192)
    assert mask[:, 80:].max() == 0 and mask.max() <= 1
    hard, k = nodes["AdaptiveOtsuThreshold"].execute(mask, "otsu", 1.5).args
    assert set(hard.unique().tolist()) == {0.0, 1.0} and 0 < k < 1
    soft, _ = nodes["AdaptiveOtsuThreshold"].execute(mask[0], "adaptive", 1.5).args
    assert soft.shape == (1, 128, 192)


def test_loading_a_token_by_name(nodes, tmp_path, monkeypatch):
    import folder_paths

    from partedit_oir.core.partedit.token_files import save_token

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "part_tokens", ([str(tmp_path)], {".safetensors", ".pt"}))
    folder_paths.filename_list_cache.pop("part_tokens", None)
    save_token(token("ear"), tmp_path / "ear.safetensors")
    load = nodes["LoadPartToken"]
    assert load.validate_inputs("ear.safetensors") is True
    assert "not among" in load.validate_inputs("../ear.safetensors")
    assert load.execute("ear.safetensors").args[0].names == ("ear",)
    both = nodes["CombinePartTokens"].execute(part_token_1=token("ear"), part_token_3=token("tail")).args[0]
    assert both.names == ("ear", "tail")
    folder_paths.filename_list_cache.pop("part_tokens", None)
