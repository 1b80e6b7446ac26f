"""Feature blending beside other things: other patches, LoRA, ControlNet, samplers, guiders, regions, real images."""

from __future__ import annotations

import pytest
import torch

from support.tiny_edits import SIZE, blend_guider, edit_prompt, plain, relative, sample, token
from support.tiny_models import drawn, text_conditioning, tiny_sd, tiny_sdxl


@pytest.fixture(scope="module")
def model(pack):
    return tiny_sdxl()


@pytest.fixture(scope="module")
def words(pack):
    """An alignment that follows the source for most of the steps."""
    from partedit_oir.core.partedit.alignment import FollowSettings, align
    from partedit_oir.core.partedit.prompt import prompt_reader
    from support.tiny_models import WordClip

    clip = WordClip()
    texts = (prompt_reader(clip)(text) for text in ("a man outdoors", "a robot outdoors"))
    return align(*texts, FollowSettings(self_replace=0.5))


def adapter(strength=0.7):
    """Like IPAdapter: the ordinary attention plus attention to image tokens of its own."""
    from comfy.ldm.modules.attention import optimized_attention

    def patch(q, k, v, extra_options):
        heads = extra_options["n_heads"]
        image = drawn(f"image {q.shape[-1]}", 1, 4, q.shape[-1]).expand(q.shape[0], -1, -1).to(q)
        return optimized_attention(q, k, v, heads) + strength * optimized_attention(q, image, image, heads)

    return patch


def occupy(patcher, patch):
    for block, number in (("input", 4), ("middle", 0), ("output", 0), ("output", 5)):
        patcher.set_model_attn2_replace(patch, block, number)
    patcher.set_model_attn2_replace(patch, "input", 8, 1)


def test_an_occupant_before_or_after_gives_the_same(model, words):
    def guider(patcher):
        return blend_guider(patcher, edit_prompt(alignment=words), token=token())

    before = model.clone()
    occupy(before, adapter())
    first = sample(guider(before))
    after = guider(model.clone())
    occupy(after.model_patcher, adapter())
    assert torch.equal(sample(after), first)
    assert relative(sample(guider(model)), first) > 1e-3  # the occupant does something
    # Its source row is what the occupant alone makes of the source.
    assert relative(first[:1], plain(before, text_conditioning("source"))) < 1e-5


def test_an_occupant_that_adds_nothing_changes_nothing(model, words):
    occupied = model.clone()
    occupy(occupied, adapter(0.0))
    with_occupant = sample(blend_guider(occupied, edit_prompt(alignment=words), token=token()))
    assert relative(with_occupant, sample(blend_guider(model, edit_prompt(alignment=words), token=token()))) < 1e-5


def test_prompt_to_prompt_changes_the_edit_and_not_the_source(model, words):
    ones = torch.ones(1, 8, 8)
    with_words = sample(blend_guider(model, edit_prompt(alignment=words), mask=ones))
    without = sample(blend_guider(model, edit_prompt(), mask=ones))
    assert torch.equal(with_words[0], without[0]) and relative(with_words[1], without[1]) > 1e-3


def test_following_everything_makes_the_edit_attend_like_the_source(model):
    from partedit_oir.core.partedit.alignment import Alignment

    same = Alignment(torch.eye(77), torch.zeros(77), torch.ones(77), torch.ones(77, dtype=torch.float64), 1.0, "")
    # Equal text, other pooled embedding: attention that is taken over equals the edit's own.
    prompt = edit_prompt(["source"], alignment=same)
    out = sample(blend_guider(model, prompt, mask=torch.ones(1, 8, 8)))
    assert relative(out[1], out[0]) < 1e-5


def free_u(patcher):
    from comfy_extras.nodes_freelunch import FreeU_V2

    settings = (1.3, 1.4, 0.9, 0.2)
    # The oldest supported ComfyUI has it as a node of the older kind.
    old = not hasattr(FreeU_V2, "execute")
    return FreeU_V2().patch(patcher, *settings)[0] if old else FreeU_V2.execute(patcher, *settings).args[0]


def pag(patcher):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(patcher, 2.0).args[0]


def nag(patcher):
    module = pytest.importorskip("comfy_extras.nodes_nag", reason="this ComfyUI has no NAGuidance")
    return module.NAGuidance.execute(patcher, 3.0, 0.5, 2.5).args[0]


def sag(patcher):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(patcher, 0.5, 2.0).args[0]


def hyper_tile(patcher):
    from comfy_extras.nodes_hypertile import HyperTile

    # One tiling only, so that two runs cut alike: rows of 8 × 8 queries become four tiles of 16.
    result = HyperTile.execute(patcher, 32, 1, 1, False)
    return result[0] if isinstance(result, tuple) else result.args[0]


def merged_tokens(patcher):
    from comfy_extras.nodes_tomesd import TomePatchModel

    old = not hasattr(TomePatchModel, "execute")
    return TomePatchModel().patch(patcher, 0.4)[0] if old else TomePatchModel.execute(patcher, 0.4).args[0]


def deep_shrink(patcher):
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale as Node

    settings = (2, 2.0, 0.0, 0.6, True, "bicubic", "bicubic")
    return Node().patch(patcher, *settings)[0] if not hasattr(Node, "execute") else Node.execute(patcher, *settings)[0]


def easy_cache(patcher, threshold=0.0):
    module = pytest.importorskip("comfy_extras.nodes_easycache", reason="this ComfyUI has no EasyCache")
    return module.EasyCacheNode.execute(patcher, threshold, 0.15, 0.95, False).args[0]


def test_merged_tokens_are_the_source_s_own(model):
    # It merges tokens in self-attention by chance; the same chance for an ordinary run of the source.
    other = merged_tokens(model)
    torch.manual_seed(3)
    out = sample(blend_guider(other, edit_prompt(), token=token()))
    torch.manual_seed(3)
    assert relative(out[:1], plain(other, text_conditioning("source"))) < 1e-5
    assert relative(out[1], out[0]) > 1e-3


def test_deep_shrink_blends_at_the_shrunk_size(model):
    other = deep_shrink(model)
    out = sample(blend_guider(other, edit_prompt(), token=token()), size=(32, 32))
    assert relative(out[:1], plain(other, text_conditioning("source"), size=(32, 32))) < 1e-5
    closed = sample(blend_guider(other, edit_prompt(["source"]), mask=torch.ones(1, 64, 64)), size=(32, 32))
    assert relative(closed[1], closed[0]) < 1e-5


def test_a_cache_of_steps_is_exact_when_it_skips_none_and_bounded_when_it_does(model):
    exact = sample(blend_guider(model, edit_prompt(), token=token()), steps=6)
    assert relative(sample(blend_guider(easy_cache(model), edit_prompt(), token=token()), steps=6), exact) < 1e-5
    skipping = sample(blend_guider(easy_cache(model, 0.5), edit_prompt(), token=token()), steps=6)
    assert 0 < relative(skipping, exact) < 0.5


@pytest.mark.parametrize("patched", [free_u, pag, nag, sag, hyper_tile])
def test_beside_other_patches_the_source_is_theirs(model, words, patched):
    other = patched(model)
    out = sample(blend_guider(other, edit_prompt(alignment=words), token=token()))
    assert relative(out[:1], plain(other, text_conditioning("source"))) < 1e-5
    assert relative(out[:1], plain(model, text_conditioning("source"))) > 1e-4
    assert relative(out[1], out[0]) > 1e-3


def test_a_perturbed_pass_does_not_change_the_mask_of_a_step(model):
    plainly, perturbed = (blend_guider(m, edit_prompt(), token=token()) for m in (model, pag(model)))
    sample(plainly)
    sample(perturbed)
    assert torch.equal(plainly.last_masks.history[0], perturbed.last_masks.history[0])


@pytest.mark.parametrize("patched", [pag, sag])
def test_maps_and_queries_are_those_of_the_model_and_not_of_a_second_pass(model, patched):
    from partedit_oir.core.partedit.part_maps import part_maps
    from partedit_oir.core.training.query_cache import build_query_cache
    from partedit_oir.core.unet import all_cross_layers

    text, latent = text_conditioning("source"), drawn("latent", 2, 4, *SIZE)
    assert relative(part_maps(patched(model), token(), latent, text), part_maps(model, token(), latent, text)) < 1e-5
    layers = [layer.key for layer in all_cross_layers(model)]
    own, beside = (build_query_cache(m, latent, text, layers, (3.0, 1.0), rows=2) for m in (model, patched(model)))
    assert max(relative(beside.queries[layer], own.queries[layer]) for layer in layers) < 1e-3  # half precision


def lora(patcher):
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    weight = patcher.model.state_dict()[name]
    return {name: (drawn("lora", *weight.shape) * 0.3,)}


def test_lora_reaches_source_edit_and_mask(model):
    changed = model.clone()
    changed.add_patches({key: ("diff", value) for key, value in lora(model).items()}, 1.0)
    guider, before = (blend_guider(m, edit_prompt(), token=token()) for m in (changed, model))
    out = sample(guider)
    assert relative(out[:1], plain(changed, text_conditioning("source"))) < 1e-5
    sample(before)
    assert not torch.equal(guider.last_masks.history[0], before.last_masks.history[0])
    changed.detach()


def test_lora_as_a_hook(model):
    import comfy.hooks

    hooked = model.clone()
    hooks = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    hook.weights = {key: ("diff", value) for key, value in lora(model).items()}
    hook.need_weight_init = False
    hooks.add(hook)
    extras = [[None, {"hooks": hooks}]]
    source = text_conditioning("source")
    source[0][1]["hooks"] = hooks
    expected = plain(hooked, source)
    out = sample(blend_guider(hooked, edit_prompt(), token=token(), extras=extras))
    assert relative(out[:1], expected) < 1e-5
    assert relative(expected, plain(model, text_conditioning("source"))) > 1e-5


def tiny_control(*hints):
    """The least of a ControlNet: residuals that follow each row's text and, by the host's own rule, its hint.

    ``hints``: a number for each image of the hint.
    """
    from comfy.controlnet import ControlBase, broadcast_image_to

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            rows = x_noisy.shape[0]
            hint = broadcast_image_to(self.cond_hint_original, rows, batched_number).mean(dim=(1, 2, 3))
            text = cond["c_crossattn"][:, :8].mean(dim=(1, 2))  # drawn: no two texts have the same
            factor = (hint + 3 * text).reshape(-1, 1, 1, 1)
            # As the host's own do it, both have a row for each row of the UNet, and None where nothing is added.
            middle = factor * drawn("control", 1, 64, 4, 4)
            output = factor * drawn("control out", 1, 64, 4, 4)
            return {"input": [], "middle": [middle], "output": [None, output]}

        def get_models(self):
            return []

    control = Control()
    control.set_cond_hint(torch.tensor(hints).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    return control


def untouched(patcher):
    """A patch that changes nothing."""
    other = patcher.clone()
    other.set_model_output_block_patch(lambda h, hsp, transformer_options: (h, hsp))
    return other


def from_noise(guider, noise):
    """A short run of a guider from this noise."""
    import comfy.samplers

    sigmas = comfy.samplers.KSampler(guider.model_patcher, 2, torch.device("cpu"), "euler", "normal", 1.0).sigmas
    solver = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), solver, sigmas, disable_pbar=True, seed=5)


@pytest.mark.parametrize(
    ("patched", "hints"),
    [
        (lambda patcher: patcher, (0.5, -0.5, 1.0)),
        (untouched, (0.5,)),
        (untouched, (0.5, -0.5, 1.0)),
        (free_u, (0.5, -0.5)),
        (pag, (0.5, -0.5)),
    ],
)
def test_controlnet_on_all_rows_of_two_images(model, patched, hints):
    """Each row gets residuals for its own text and its image's hint, also beside another patch."""
    import comfy.samplers

    other, noise = patched(model), drawn("noise", 2, 4, *SIZE)

    def options(control):
        return {"control": control, "control_apply_to_uncond": True}

    def run(noise, *hints):
        extras = [[None, options(tiny_control(*hints))]]
        return from_noise(blend_guider(other, edit_prompt(("edit", "more")), token=token(), extras=extras), noise)

    def ordinary(noise, *hints):
        source = text_conditioning("source")
        source[0][1].update(options(tiny_control(*hints)) if hints else {})
        guider = comfy.samplers.CFGGuider(other)
        guider.set_conds(source, text_conditioning("negative"))
        guider.set_cfg(4.0)
        return from_noise(guider, noise)

    out = run(noise, *hints)
    expected = ordinary(noise, *hints)
    assert relative(out[:2], expected) < 1e-5
    assert relative(expected, ordinary(noise)) > 1e-3
    for image in range(2):
        own, another = hints[image % len(hints)], hints[(image + 1) % len(hints)]
        assert relative(out[image::2], run(noise[image : image + 1], own)) < 1e-5
    assert own == another or relative(out[image::2], run(noise[image : image + 1], another)) > 1e-3


def test_a_region_of_the_prompt(model):
    region = {"area": (8, 16, 8, 0), "strength": 1.0}
    source = text_conditioning("source") + [
        [text_conditioning("sky")[0][0], {**text_conditioning("sky")[0][1], **region}]
    ]
    from dataclasses import replace

    prompt = edit_prompt()
    part = prompt.edits[0].prompts[0]
    edit = text_conditioning("edit") + [[text_conditioning("sea")[0][0], {**text_conditioning("sea")[0][1], **region}]]
    prompt = replace(
        prompt, source=source, edits=(replace(prompt.edits[0], prompts=(replace(part, conditioning=edit),)),)
    )
    out = sample(blend_guider(model, prompt, mask=torch.zeros(1, 16, 16), keep_pooled=True))
    assert relative(out[:1], plain(model, source)) < 1e-5
    assert torch.equal(out[1], out[0])


def test_denoise_below_one_and_a_noise_mask(model):
    latent = drawn("latent", 1, 4, *SIZE)
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 8:] = 1.0
    options = {"latent": latent, "denoise": 0.5, "denoise_mask": mask}
    out = sample(blend_guider(model, edit_prompt(), token=token()), **options)
    assert relative(out[:1], plain(model, text_conditioning("source"), **options)) < 1e-5
    assert torch.allclose(out[:, :, :, :7], latent[:, :, :, :7].expand(2, -1, -1, -1), atol=1e-4)
    assert relative(out[1, :, :, 8:], out[0, :, :, 8:]) > 1e-3


def test_a_guider_with_three_conditionings(model):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    def dual():
        guider = Guider_DualCFG(model)
        guider.set_conds(text_conditioning("source"), text_conditioning("middle"), text_conditioning("negative"))
        guider.set_cfg(3.0, 2.0)
        return guider

    out = sample(blend_guider(model, edit_prompt(), token=token(), base=dual(), timing="published"), steps=4)
    assert relative(out[:1], sample(dual(), steps=4)) < 1e-5
    assert relative(out[1], out[0]) > 1e-3


def test_v_prediction_and_sd_families(pack):
    for family, width in (("sd1", 768), ("sd2", 1024)):
        small = tiny_sd(family)
        prompt = edit_prompt(width=width, pooled=0)
        out = sample(blend_guider(small, prompt, token=token(width=width)))
        assert relative(out[:1], plain(small, text_conditioning("source", width, pooled=0))) < 1e-5
        assert relative(out[1], out[0]) > 1e-3
    predicting = tiny_sdxl(v_prediction=True)
    out = sample(blend_guider(predicting, edit_prompt(), token=token()))
    assert relative(out[:1], plain(predicting, text_conditioning("source"))) < 1e-5


def parts_prompt(texts):
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt

    parts = tuple(PartPrompt(text, text_conditioning(text), None, (name,)) for name, text in texts.items())
    return EditPrompt("source", text_conditioning("source"), (Edit(parts),))


def test_parts_with_prompts_of_their_own_share_a_picture(model):
    both = token(parts=2)
    first, second = both.names
    guider = blend_guider(model, parts_prompt({first: "robotic", second: "wooden"}), token=both)
    out = sample(guider)
    assert out.shape[0] == 2 and torch.isfinite(out).all()
    same = blend_guider(model, parts_prompt({first: "robotic", second: "robotic"}), token=both)
    apart = sample(same)
    mask = same.last_masks.edit_masks(0)
    one = blend_guider(model, parts_prompt({first: "robotic"}), token=both)
    sample(one)
    # The picture's mask holds each part's own (up to rounding: contexts of two prompts are longer).
    assert (mask >= one.last_masks.edit_masks(0) - 1e-3).float().mean() > 0.99
    assert mask.mean() > one.last_masks.edit_masks(0).mean() + 0.01
    assert relative(apart[1], out[1]) > 1e-3


def test_prompts_of_parts_are_exact_where_one_part_is_alone(model):
    """Weights that are all on one prompt give that prompt's attention."""
    from partedit_oir.core.attention import EditStep, PromptStep

    q, v = drawn("q", 1, 16, 64), drawn("v", 1, 154, 64)
    k = drawn("k", 1, 154, 64)
    step = EditStep((PromptStep((0, 77), 77), PromptStep((77, 154), 77)))
    weights = torch.zeros(2, 1, 16, 1)
    weights[1] = 1.0
    found = step.attend(q, k, q, k, v, 2, weights)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.reshape(1, -1, 2, 32).transpose(1, 2) for t in (q, k[:, 77:], v[:, 77:]))
    )
    assert torch.allclose(found, expected.transpose(1, 2).flatten(2), atol=1e-5)


def test_a_source_that_the_host_repeats_is_followed_once():
    """The host repeats a shorter prompt's keys to the longer one's length; the map must be taken from one copy."""
    from partedit_oir.core.attention import EditStep, PromptStep

    q, k, v = drawn("q", 1, 16, 64), drawn("k", 1, 154, 64), drawn("v", 1, 154, 64)
    source = drawn("ks", 1, 77, 64)
    mapper = drawn("map", 77, 154).softmax(dim=1)
    every = torch.ones(154)
    step = EditStep((PromptStep((0, 154), 77, mapper, torch.zeros(154), every, every),))
    found = step.attend(q, source.repeat(1, 2, 1), q, k, v, 2, None)
    heads = [t.reshape(1, -1, 2, 32).transpose(1, 2) for t in (q, source, v)]
    attention = (heads[0] @ heads[1].transpose(-1, -2) * 32**-0.5).softmax(dim=-1) @ mapper
    assert torch.allclose(found, (attention @ heads[2]).transpose(1, 2).flatten(2), atol=1e-5)


def test_given_mask_cannot_be_shared_by_parts(model):
    both = token(parts=2)
    with pytest.raises(ValueError, match="mask: a given mask"):  # by the guider's own node, not by the sampler's
        blend_guider(model, parts_prompt(dict(zip(both.names, "ab"))), mask=torch.ones(1, 8, 8))


def test_a_guider_that_cannot_know_where_to_edit_is_not_made(model):
    with pytest.raises(ValueError, match="part_token: not connected"):
        blend_guider(model, edit_prompt())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "part_token: not connected"),
        ({"mask": torch.full((1, 8, 8), 255.0)}, "mask: expected values from 0 to 1, got 255 to 255"),
        ({"mask": torch.ones(3, 8, 8)}, "mask: has 3 masks for 1 images"),
        ({"region": torch.ones(2, 8, 8), "token": 0}, "region: has 2 masks"),
    ],
)
def test_inputs_that_do_not_fit(model, inputs, message):
    if "token" in inputs:
        inputs = {**inputs, "token": token()}
    calls = []
    with pytest.raises(ValueError, match=message):
        sample(blend_guider(model, edit_prompt(), **inputs), callback=lambda *a: calls.append(a))
    assert not calls


def test_guidance_that_counts_its_calls_is_called_once_a_step(model):
    """Of the first of two evaluations only the maps are wanted: the momentum of APG must not see it."""
    from comfy_extras.nodes_apg import APG

    result = APG.execute(model, 1.0, 5.0, -0.5)
    other = result.args[0]
    out = sample(blend_guider(other, edit_prompt(), token=token(), timing="clean, first step twice"))
    assert relative(out[:1], plain(other, text_conditioning("source"))) < 1e-5
    assert relative(out[:1], plain(model, text_conditioning("source"))) > 1e-4


def single_image_guidance(patcher):
    """Like TemporalScoreRescaling: a condition on the level, which several rows have one each of."""
    other = patcher.clone()
    other.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] if args["sigma"] < 1 else 0.9 * args["denoised"] + 0.1 * args["uncond_denoised"]
    )
    # The same, of all predictions.
    other.set_model_sampler_pre_cfg_function(
        lambda args: args["conds_out"] if args["sigma"] < 1 else [args["conds_out"][0] * 1.01, *args["conds_out"][1:]]
    )
    return other


def test_guidance_for_single_images_is_called_for_each_row(model):
    other = single_image_guidance(model)
    out = sample(blend_guider(other, edit_prompt(), token=token()), steps=2)
    assert relative(out[:1], plain(other, text_conditioning("source"), steps=2)) < 1e-5
    assert relative(out[:1], plain(model, text_conditioning("source"), steps=2)) > 1e-3
    # For two images ComfyUI's own sampling fails; each is what it is alone.
    noise = drawn("noise", 2, 4, *SIZE)
    both = from_noise(blend_guider(other, edit_prompt(), token=token()), noise)
    for image in range(2):
        alone = from_noise(blend_guider(other, edit_prompt(), token=token()), noise[image : image + 1])
        assert relative(both[image::2], alone) < 1e-5


def test_an_error_of_a_guidance_function_stays_its_own(model):
    other = model.clone()
    other.set_model_sampler_post_cfg_function(lambda args: args["denoised"].reshape(7))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        sample(blend_guider(other, edit_prompt(), token=token()))


@pytest.mark.parametrize("where", ["negative", "positive", "base"])
def test_hooks_exchange_a_model_with_dynamic_memory_once(model, where, monkeypatch):
    """ComfyUI loads such a model's counterpart from the file and keeps it with the object that was asked."""
    import comfy.hooks
    import comfy.model_patcher
    import comfy.samplers

    asked, used = [], []

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

        def get_non_dynamic_delegate(self):
            asked.append(self)
            return model.clone()

    dynamic = Dynamic(model.model, model.load_device, model.offload_device)
    hooks = comfy.hooks.HookGroup()

    def inner_sample(self, noise, latent_image, *_):
        used.append(self.model_patcher)
        return torch.zeros_like(noise)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", inner_sample)
    plainly, hooked = (text_conditioning("negative") for _ in range(2))
    hooked[0][1]["hooks"] = hooks
    options = {"negative": hooked} if where == "negative" else {}
    if where == "positive":
        options["extras"] = [[None, {"hooks": hooks}]]
    if where == "base":
        options["base"] = comfy.samplers.CFGGuider(model)
        options["base"].set_conds(plainly, hooked)
    noise = torch.zeros(1, 4, *SIZE)
    for _ in range(2):
        blend_guider(dynamic, edit_prompt(), mask=torch.ones(1, 8, 8), **options).sample(
            noise, noise, comfy.samplers.sampler_object("euler"), torch.tensor([14.6, 1.0, 0.0])
        )
    assert len(asked) == 2 and all(one is dynamic for one in asked)
    assert not any(one.is_dynamic() for one in used)
    blend_guider(dynamic, edit_prompt(), mask=torch.ones(1, 8, 8)).sample(
        noise, noise, comfy.samplers.sampler_object("euler"), torch.tensor([14.6, 1.0, 0.0])
    )
    assert used[-1].is_dynamic()
