"""The PartEdit nodes from prompt to pictures, on small models: outputs, passes, trajectories, part prompts."""

from __future__ import annotations

import functools
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
        outputs = settings.pop("outputs", slice(OUTPUTS))
        negative = WordClip().encode_from_tokens_scheduled(WordClip().tokenize("ugly"))
        return nodes["FeatureBlendSampler"].execute(model, prompt, negative, **settings).args[outputs]

    return run


def test_the_prompt_node_shows_its_alignment(prompts):
    from partedit_oir.nodes.prompt import STANDARD

    out = prompts("a robot outdoors")
    prompt, source, text = out.args
    assert "man -> robot" in text and out.ui["text"] == (text,)
    (edit,) = out.ui["partedit_threads"]
    assert edit["source"] == [["a", False], ["man", False], ["outdoors", False]]
    assert [(word["text"], word["share"], word["sources"]) for word in edit["words"]] == [
        ("a", 1.0, (0,)),
        ("robot", STANDARD.changed_words, (1,)),
        ("outdoors", 1.0, (2,)),
    ]
    assert source is prompt.source and source[0][0].shape == (1, 77, 64)


def test_every_widget_reaches_its_setting(nodes, prompts):
    from partedit_oir.core.partedit.settings import BlendSettings
    from partedit_oir.nodes.blend_inputs import blend_inputs, make_inputs

    follow = {"cross_replace": 0.7, "changed_words": 0.3, "self_replace": 0.2}
    words = {
        "word_fractions": "outdoors=0.5",
        "word_weights": "robot=2",
        "part": " head, torso",
        "prompt_to_prompt": "refine",
    }
    prompt = prompts("a robot outdoors", **follow, **words).args[0]
    (part,) = prompt.edits[0].prompts
    found = part.alignment
    assert found.cross_replace[:5].tolist() == pytest.approx([0.7, 0.7, 0.3, 0.5, 0.7]) and found.self_replace == 0.2
    assert found.weights[:5].tolist() == [1, 1, 2, 1, 1] and part.parts == ("head", "torso")
    assert found.keep[2] == 1, "refine: a new word keeps its attention"

    widgets = {
        "threshold": "fixed",
        "fixed_threshold": 0.3,
        "layers": "first-8",
        "timing": "published",
        "padding": "zero",
        "map_size": "published",
        "keep_pooled": True,
    }
    known = {entry.id for entry in blend_inputs(("off", "latent"))}
    assert known == {*widgets, "mask", "region", "positive", "paste_back"}
    links = {"mask": torch.rand(1, 4, 6), "region": torch.rand(2, 4, 6), "positive": [["text", {}]]}
    made = make_inputs(prompt, token(), 3.0, 2.0, {**widgets, **links, "paste_back": "latent"})
    assert made.settings == BlendSettings(3.0, "fixed", 2.0, 0.3, "first-8", "published", "zero", "published", True)
    assert torch.equal(made.mask, links["mask"]) and torch.equal(made.region, links["region"])
    assert made.prompt is prompt and made.extras is links["positive"]
    assert make_inputs(prompt, None, 1.0, 1.5, {}).settings == BlendSettings()


def test_the_threads_are_those_of_the_node_s_own_edits(prompts):
    first = prompts("a robot outdoors", word_fractions="robot=0.7").args[0]
    out = prompts("a big robot, outdoors\na clown outdoors", previous=first, word_weights="clown=2")
    one, other = out.ui["partedit_threads"]
    assert [(word["text"], word["glued"], word["sources"]) for word in one["words"]][1:4] == [
        ("big", False, (1,)),
        ("robot", False, (1,)),
        (",", True, (1,)),
    ]
    assert [word["weight"] for word in other["words"]] == [1.0, 2.0, 1.0]
    (off,) = prompts("a robot outdoors", prompt_to_prompt="off").ui["partedit_threads"]
    assert off["text"] == "a robot outdoors" and not off["words"]
    assert prompts("a tall man outdoors").ui["partedit_threads"][0]["words"][1]["sources"] == ()


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


def test_the_mean_mask_is_the_last_output(prompts, blend):
    prompt = prompts("a robot outdoors\na statue outdoors").args[0]
    for per_pass in (0, 1):
        *_, last, steps, _, mean = blend(prompt, outputs=slice(None), edits_per_pass=per_pass)
        assert mean.shape == last.shape and mean.dtype == last.dtype
        # Steps 1 and 2 blend with the masks of steps 0 and 1.
        wanted = steps[:2, ..., 0].mean(dim=0).unflatten(-1, (2, -1)).transpose(0, 1)
        assert torch.allclose(mean, wanted, atol=1e-5) and not torch.allclose(mean, last, atol=1e-2)


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
    assert [[one.parts for one in edit.prompts] for edit in same.edits] == [[(name,) for name in both.names]]
    assert [[one.parts for one in edit.prompts] for edit in new.edits] == [[(name,)] for name in both.names]
    edited, *_ = blend(same, part_token=both)
    assert edited["samples"].shape[0] == 1
    edited, _, mask, _ = blend(new, part_token=both)
    assert edited["samples"].shape[0] == 2 and not torch.equal(mask[0], mask[1])
    with pytest.raises(ValueError, match="part: wing is not in the part token"):
        blend(prompts("a robot outdoors", part="wing").args[0])


METHODS = ["ddim_next_timestep", "ddim_current_timestep", "ddim_fixed_point", "edit_friendly_ddpm", "ledits_pp"]


@pytest.fixture(scope="module")
def invert(nodes, model):
    """InvertLatent on pictures of 8 × 8, with the widgets a workflow of the first release holds."""

    @functools.cache
    def run(method, batch=1, cfg=1.0, **options):
        latent = {"samples": drawn("picture", batch, 4, 8, 8)}
        inputs = (model, latent, "a man outdoors", method, 4, cfg, 0, "leading", 3, "none")
        return nodes["InvertLatent"].execute(*inputs, clip=WordClip(), **options).args[0]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_real_picture_comes_back_and_is_edited(prompts, blend, invert, method):
    trajectory = invert(method, batch=2)
    prompt = prompts("a robot outdoors\na man outdoors").args[0]
    edited, back, mask, steps = blend(prompt, trajectory=trajectory, latent_image=None)
    assert edited["samples"].shape == (4, 4, 8, 8) and steps.shape[0] == 4 and mask.shape[0] == 4
    latent = trajectory.latent_image
    assert relative(back["samples"], latent) < 1e-5
    assert relative(edited["samples"][:2], latent) > 1e-2
    assert relative(edited["samples"][2:], latent) < 1e-5, "the second edit changes no word"
    apart = blend(prompt, trajectory=trajectory, latent_image=None, edits_per_pass=1)
    assert relative(apart[0]["samples"], edited["samples"]) < 1e-4
    shorter = blend(prompt, trajectory=trajectory, latent_image=None, denoise=0.5)
    assert shorter[3].shape[0] == 2 and relative(shorter[0]["samples"][2:], latent) < 1e-5


@pytest.mark.parametrize("cfg", [1.0, 3.5, 7.5, 12.5])
@pytest.mark.parametrize("method", METHODS)
def test_an_edit_that_changes_nothing_leaves_the_picture_as_it_is(prompts, blend, invert, method, cfg):
    trajectory = invert(method)
    same = prompts("a man outdoors").args[0]
    real = {"trajectory": trajectory, "latent_image": None, "cfg": cfg}
    assert relative(blend(same, **real)[0]["samples"], trajectory.latent_image) < 1e-5
    if cfg == 7.5:
        real["trajectory"] = invert(method, record_noise_maps=True)
        edited, *_ = blend(same, **real, noise_maps="as recorded")
        assert relative(edited["samples"], trajectory.latent_image) > 1e-3, "the inversion knew guidance 1 only"


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_under_an_empty_mask_leaves_the_picture_as_it_is(model, prompts, invert, method):
    """The nodes refuse such a mask; what lies outside a mask behaves alike."""
    from partedit_oir.core.partedit.feature_blend import SampleSettings, feature_blend
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings

    trajectory, clip = invert(method), WordClip()
    settings = BlendSettings(keep_pooled=True)  # the pooled embedding is not blended
    inputs = BlendInputs(prompts("a robot outdoors").args[0], mask=torch.zeros(1, 64, 64), settings=settings)
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    result = feature_blend(model, inputs, negative, None, SampleSettings(cfg=12.5), trajectory)
    assert relative(result.edited, trajectory.latent_image) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_does_so_in_half_precision(pack, nodes, prompts, dtype):
    """Blending and prompt-to-prompt must not leave an unchanged edit a rounding away from its source."""
    model = half_precision(tiny_sdxl(), dtype)
    clip, latent = WordClip(), drawn("picture", 1, 4, 8, 8)
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    inputs = (model, {"samples": latent}, "", "ledits_pp", 3, 1.0, 0, "leading", 3, "none")
    trajectory = nodes["InvertLatent"].execute(*inputs).args[0]
    half = torch.zeros(1, 64, 64)
    half[..., 10:30] = 0.7
    for options in ({"part_token": token()}, {"mask": half}):
        settings = (3, 3, 7.5, "euler", "normal", 1.0, 1.5, None)
        run = nodes["FeatureBlendSampler"].execute(
            model, prompts("a man outdoors").args[0], negative, *settings, trajectory=trajectory, **options
        )
        assert relative(run.args[0]["samples"], latent) < 1e-5


def half_precision(model, dtype):
    model.model.diffusion_model.to(dtype)
    model.model.diffusion_model.dtype = dtype
    model.model.get_dtype = model.model.get_dtype_inference = lambda: dtype
    return model


@pytest.mark.parametrize("method", ["edit_friendly_ddpm", "ledits_pp"])
def test_noise_maps_are_recorded_only_when_asked_for(prompts, blend, invert, nodes, model, method, monkeypatch):
    import comfy.samplers

    recorded = invert(method, record_noise_maps=True)
    with monkeypatch.context() as no_model:
        no_model.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("the model was called"))
        lazy = invert(method, cfg=3.5)  # a guidance that recording would need a negative prompt for
        inputs = (model, {"samples": lazy.latent_image}, " ", method, 4, 3.5, 0, "leading", 3, "none")
        wordless, text = nodes["InvertLatent"].execute(*inputs).args
    assert lazy.noise_maps is None and recorded.noise_maps is not None and text == ""
    assert torch.equal(lazy.latents, recorded.latents) and torch.equal(wordless.latents, recorded.latents)
    prompt = prompts("a robot outdoors").args[0]
    edits = {
        name: blend(prompt, trajectory=trajectory, latent_image=None, **options)[0]["samples"]
        for name, trajectory, options in (
            ("lazy", lazy, {}),
            ("recorded", recorded, {}),
            ("published", recorded, {"noise_maps": "as recorded"}),
        )
    }
    assert torch.equal(edits["lazy"], edits["recorded"]) and relative(edits["published"], edits["lazy"]) > 1e-3
    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *a, **k: pytest.fail("sampling started"))
    with pytest.raises(
        ValueError, match=r"^noise_maps: is 'as recorded', .* turn on record_noise_maps in Invert Latent"
    ):
        blend(prompt, trajectory=lazy, latent_image=None, noise_maps="as recorded")
    with pytest.raises(ValueError, match=r"negative: cfg is 3\.5"):
        invert(method, cfg=3.5, record_noise_maps=True)


def test_the_guider_replays_real_pictures_through_the_hosts_advanced_sampler(nodes, model, prompts, blend, invert):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, SamplerCustomAdvanced

    from partedit_oir.core.inversion.replay import TrajectorySampler

    trajectory = invert("edit_friendly_ddpm", batch=2)
    prompt = prompts("a robot outdoors\na statue outdoors").args[0]
    clip = WordClip()
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    guider = nodes["FeatureBlendGuider"].execute(model, prompt, negative, 4.0, 1.0, 1.5, "edits", part_token=token())
    sampler = comfy.samplers.KSAMPLER(TrajectorySampler(trajectory))
    latent = {"samples": trajectory.latent_image}
    run = SamplerCustomAdvanced.execute(Noise_EmptyNoise(), guider.args[0], sampler, trajectory.sigmas, latent)
    expected = blend(prompt, trajectory=trajectory, latent_image=None)
    assert relative(run.args[0]["samples"], expected[0]["samples"]) < 1e-5


def test_a_trajectory_brings_its_own_size(model, prompts, blend):
    from partedit_oir.core.inversion.invert import invert
    from partedit_oir.core.inversion.schedule import spaced_sigmas

    sigmas = spaced_sigmas(model.get_model_object("model_sampling"), 3)
    trajectory = invert(model, drawn("picture", 1, 4, 8, 8), prompts("x").args[1], sigmas=sigmas)
    with pytest.raises(ValueError, match="latent_image: has shape"):
        blend(prompts("a robot outdoors").args[0], trajectory=trajectory)
    with pytest.raises(ValueError, match="latent_image: not connected"):
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


@pytest.fixture
def overflowing(model, monkeypatch):
    """The model as it is when half precision overflows from its second call on."""
    unet, calls = model.model.diffusion_model, []
    embed = unet.time_embed.forward

    def broken(x):
        calls.append(1)
        return embed(x) * (float("nan") if len(calls) > 1 else 1.0)

    monkeypatch.setattr(unet.time_embed, "forward", broken)
    return calls


@pytest.mark.parametrize("kind", ["token", "mask"])
def test_a_model_that_gives_nan_is_named_by_the_sampler(prompts, blend, overflowing, kind):
    given = {"part_token": None, "mask": torch.ones(1, 128, 192)} if kind == "mask" else {}
    with pytest.raises(ValueError, match=r"^model: .* holds NaN or infinite values"):
        blend(prompts("a robot outdoors").args[0], **given)
    # A token's maps show it at once, and the rest of the run is saved.
    assert len(overflowing) == (3 if kind == "mask" else 2)


@pytest.mark.parametrize("kind", ["token", "mask"])
def test_a_model_that_gives_nan_is_named_by_the_guider(nodes, model, prompts, overflowing, kind):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import BasicScheduler, Noise_RandomNoise, SamplerCustomAdvanced

    given = {"mask": torch.ones(1, 128, 192)} if kind == "mask" else {"part_token": token()}
    clip = WordClip()
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("ugly"))
    run = nodes["FeatureBlendGuider"].execute(
        model, prompts("a robot outdoors").args[0], negative, 4.0, 1.0, 1.5, "edits", paste_back="latent", **given
    )
    sigmas = BasicScheduler.execute(model, "normal", 3, 1.0).args[0]
    latent = {"samples": torch.zeros(1, 4, 16, 24)}
    with pytest.raises(ValueError, match=r"^model: .* holds NaN or infinite values"):
        SamplerCustomAdvanced.execute(
            Noise_RandomNoise(3), run.args[0], comfy.samplers.sampler_object("euler"), sigmas, latent
        )


def test_a_model_that_gives_nan_is_named_by_the_part_mask(nodes, model, overflowing):
    clip = WordClip()
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a man"))
    latent = {"samples": drawn("picture", 1, 4, 16, 24)}
    with pytest.raises(ValueError, match=r"^model: .* holds NaN or infinite values"):
        nodes["PartAttentionMask"].execute(model, token(), positive, latent, 0.3, seed=1, samples=2)


def test_the_preview_shows_edits_and_not_the_source(prompts, blend, model, monkeypatch):
    """ComfyUI draws the first row of what it is given."""
    import latent_preview

    from partedit_oir.core.latents import process_latent_out

    steps = []

    def prepare(*args):
        return lambda step, x0, x, total: steps.append((step, total, x0.clone(), x.shape))

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare)
    prompt = prompts("a robot outdoors\na clown outdoors").args[0]
    latent = {"samples": torch.zeros(2, 4, 16, 24)}
    edited = blend(prompt, latent_image=latent)[0]["samples"]
    assert [(step, total) for step, total, *_ in steps] == [(0, 3), (1, 3), (2, 3)]
    assert all(x0.shape == shape == edited.shape for *_, x0, shape in steps)
    assert relative(process_latent_out(model, steps[-1][2]), edited) < 1e-5
    steps.clear()
    blend(prompt, latent_image=latent, edits_per_pass=1)
    assert [(step, total) for step, total, *_ in steps] == [(step, 6) for step in range(6)]
    assert relative(process_latent_out(model, steps[2][2]), edited[:2]) < 1e-4
    assert relative(process_latent_out(model, steps[5][2]), edited[2:]) < 1e-4


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
        return nodes["FeatureBlendSampler"].execute(*inputs, mask=half, **options).args[:5]

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
    for wrong in (real[:1], real.repeat(2, 1, 1, 1)):  # each source has one original, whatever the number of its edits
        with pytest.raises(ValueError, match=r"image: expected 2 image\(s\), one per source image"):
            run(vae=vae, paste_back="pixels", image=wrong)


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


def test_a_vae_that_cannot_decode_is_refused_before_sampling(prompts, blend, monkeypatch):
    """One of another family, and what Load Checkpoint gives for a checkpoint without a VAE."""

    class Other(FakeVae):
        latent_channels = 16

    class Empty(FakeVae):
        first_stage_model = None

    monkeypatch.setattr("comfy.samplers.CFGGuider.sample", lambda *_: pytest.fail("it has sampled"))
    with pytest.raises(ValueError, match="vae: decodes latents with 16 channels, but this model makes 4"):
        blend(prompts("a robot outdoors").args[0], vae=Other())
    with pytest.raises(ValueError, match="vae: is empty"):
        blend(prompts("a robot outdoors").args[0], vae=Empty())


def test_an_empty_latent_of_another_scale_is_resized_as_in_the_host(prompts, blend, model):
    """Empty latents say how many pixels a latent pixel has; of 16, SD's need twice the size."""
    import comfy.sample

    latent = {"samples": torch.zeros(1, 64, 8, 8), "downscale_ratio_spacial": 16}
    if "downscale_ratio_spacial" not in comfy.sample.fix_empty_latent_channels.__code__.co_varnames:
        pytest.skip("this ComfyUI does not resize empty latents")
    edited = blend(prompts("a robot outdoors").args[0], latent_image=latent, steps=2)[0]
    assert edited["samples"].shape == (1, 4, 16, 16)


def test_a_second_pass_finds_noise_mask_and_batch_places_as_after_ksampler(prompts, blend, model):
    """Both stay in the latent, so a later sampler edits the same region, with the noise of the same images."""
    import comfy.sample

    mask = torch.zeros(2, 128, 192)
    mask[0, :, 96:], mask[1, :, :96] = 1.0, 1.0
    latent = {"samples": torch.zeros(2, 4, 16, 24), "noise_mask": mask, "batch_index": [3, 5]}
    both = prompts("a robot outdoors\na dog outdoors").args[0]
    edited, source = blend(both, latent_image=latent, mask=torch.ones(1, 128, 192), steps=1)[:2]
    assert edited["samples"].shape[0] == 4 and torch.equal(edited["noise_mask"], mask)
    assert source["batch_index"] == [3, 5] and edited["batch_index"] == [3, 5, 3, 5]
    noise = comfy.sample.prepare_noise(edited["samples"], 1, edited["batch_index"])
    assert torch.equal(noise[:2], noise[2:]) and not torch.equal(noise[0], noise[1])
