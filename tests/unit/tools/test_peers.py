"""The peers by diffusers: on the very weights that ComfyUI loads, and each of them honest about what it keeps."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from demo.training.pictures import draw_scene, plain_scene
from demo.world import Look
from tools.evaluate.cases import Case, Pair
from tools.evaluate.config import BY_NAME
from tools.evaluate.methods.settings import Settings
from tools.evaluate.peers.client import PeerGone, PeerProcess
from tools.evaluate.peers.process import Peers

SIZE = 128


@pytest.fixture(scope="module")
def model(pack):
    pytest.importorskip("diffusers")
    from tools.evaluate.peers.weights import HostModel

    return HostModel("demo", SIZE)


@pytest.fixture(scope="module")
def scene():
    """A picture, its head's mask, and its caption."""
    drawn = plain_scene("robot", Look("red"), "snow", 40_000_123)
    picture = draw_scene(drawn)
    mask = Image.fromarray(picture.part_mask("head", ("robot",)).astype(np.uint8) * 255)
    return Image.fromarray(picture.image).resize((SIZE, SIZE)), mask.resize((SIZE, SIZE)), drawn.caption


@pytest.fixture(scope="module")
def kept(model, scene):
    """The picture through the VAE: what an edit that changes nothing should give."""
    x = torch.from_numpy(np.asarray(scene[0], dtype=np.float32) / 127.5 - 1).movedim(-1, 0)[None]
    out = model.vae.decode(model.vae.encode(x).latent_dist.mode()).sample[0]
    return ((out.movedim(0, -1) + 1) / 2).clamp(0, 1).numpy()


def edited(model, scene, kind, edit=None, steps=4, pairs=(), **settings):
    """An edit as a request of `run.py evaluate` asks for it, (H, W, 3) in 0 … 1."""
    from tools.evaluate.peers.edits import EDITS

    picture, mask, caption = scene
    case = Case("d", "n", caption, edit or caption, "p.png", "m.png", pairs, seed=3, size=SIZE)
    method = BY_NAME[kind].model_validate({"method": kind, **settings})
    request = {**method.request(case, Settings(steps=steps)), "seed": case.seed}
    made = EDITS[kind](model, picture, mask if method.told_mask else None, request)
    assert made.size == (SIZE, SIZE)
    return np.asarray(made, dtype=np.float32) / 255


def psnr(a, b, where=None):
    squared = (a - b) ** 2
    return float(-10 * np.log10(squared.mean() if where is None else squared[where].mean()))


def test_the_converted_unet_predicts_what_comfyui_predicts(model):
    import comfy.model_management

    from partedit_oir.demo.loader import load_demo_model
    from tools.evaluate.peers.weights import added_conditions

    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    (first, pooled), (second, other) = (model.encoded(text) for text in ("a red robot", ""))
    context, pools = torch.cat((first, second)), torch.cat((pooled, other))
    patcher = load_demo_model()[0]
    comfy.model_management.load_models_gpu([patcher])
    host = patcher.model
    sigma = host.model_sampling.sigmas[500]
    with torch.no_grad():
        found = model.unet(
            x, torch.tensor(500), encoder_hidden_states=context, added_cond_kwargs=added_conditions(pools, SIZE)
        ).sample
        scaled = x * (sigma**2 + 1) ** 0.5
        y = torch.cat([host.encode_adm(pooled_output=p[None], width=SIZE, height=SIZE, device="cpu") for p in pools])
        expected = (scaled - host.apply_model(scaled, sigma.expand(2), c_crossattn=context, y=y)) / sigma
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


class SmallVae:
    """Means of 8 × 8 pixels, and a fourth channel of their brightness."""

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8) * 2 - 1
        return torch.cat((small, small.mean(1, keepdim=True)), 1)

    def decode(self, latents):
        return torch.nn.functional.interpolate((latents[:, :3] + 1) / 2, scale_factor=8).movedim(1, -1)


@pytest.fixture(params=["sd1", "sd2", "sdxl, v prediction"])
def drawn_model(pack, monkeypatch, request):
    """A small checkpoint of each family, with drawn weights."""
    pytest.importorskip("diffusers")
    from support.tiny_models import WordClip, tiny_sd, tiny_sdxl
    from tools.evaluate.peers import weights

    xl = request.param.startswith("sdxl")
    model = tiny_sdxl(v_prediction=True) if xl else tiny_sd(request.param)
    clip = WordClip() if xl else WordClip(width={"sd1": 768, "sd2": 1024}[request.param])

    def encode_from_tokens(tokens, return_pooled=False):
        ((context, more),) = clip.encode_from_tokens_scheduled(tokens)
        return context, more["pooled_output"]

    clip.encode_from_tokens = encode_from_tokens
    monkeypatch.setattr(weights, "load_host_model", lambda name: (model, clip, SmallVae()))
    return model, weights.HostModel("x", 64)


def test_every_family_is_converted(drawn_model):
    import comfy.model_management

    from tools.evaluate.peers.weights import added_conditions

    patcher, model = drawn_model
    comfy.model_management.load_models_gpu([patcher])
    host, x = patcher.model, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    context, pooled = model.encoded("a red cat")
    sigma = host.model_sampling.sigmas[300]
    more, own = {}, {}
    if model.xl:
        more = {"added_cond_kwargs": added_conditions(pooled, 64)}
        own = {"y": host.encode_adm(pooled_output=pooled, width=64, height=64, device="cpu")}
    with torch.no_grad():
        found = model.unet(x, torch.tensor(300), encoder_hidden_states=context, **more).sample
        scaled = x * (sigma**2 + 1) ** 0.5
        denoised = host.apply_model(scaled, sigma.view(1), c_crossattn=context, **own)
    if model.prediction == "v_prediction":
        expected = (scaled / (sigma**2 + 1) - denoised) * (sigma**2 + 1) ** 0.5 / sigma
    else:
        expected = (scaled - denoised) / sigma
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["ledits_pp", "diffedit", "inpaint_pipeline", "virtual_inversion"])
def test_every_pipeline_takes_every_family(drawn_model, kind):
    """With drawn weights nothing is to be seen; but each pipeline has its own ways with texts, masks and UNets."""
    from tools.evaluate.peers.edits import EDITS

    _, model = drawn_model
    gradient = Image.fromarray(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    pairs = (Pair("a red cat", "a blue dog"),)
    case = Case("d", "n", "a red cat", "a blue dog", "p.png", "m.png", pairs, seed=1, size=64)
    method = BY_NAME[kind].model_validate({"method": kind})
    asked = {**method.request(case, Settings(steps=4)), "seed": 1}
    made = [np.asarray(EDITS[kind](model, gradient, mask, asked)) for _ in range(2)]
    assert made[0].shape == (64, 64, 3) and (made[0] == made[1]).all(), "the seed decides"
    if kind == "inpaint_pipeline":
        assert np.abs(made[0].astype(int) - made[0][0, 0])[:8].max() < 80


def test_the_schedule_and_the_texts_are_the_models_own(model):
    from diffusers import DDIMScheduler

    scheduler = model.scheduler(DDIMScheduler)
    expected = 1 / (model.sampling.sigmas**2 + 1)
    torch.testing.assert_close(scheduler.alphas_cumprod, expected, atol=2e-6, rtol=1e-4)
    assert model.length("a red robot") == 5 and model.length("") == 2
    parts = model.xl_parts()
    ids = parts["tokenizer"](["a red robot"]).input_ids
    both = torch.cat([parts[name](ids).hidden_states[-2] for name in ("text_encoder", "text_encoder_2")], -1)
    context, pooled = model.encoded("a red robot")
    assert torch.equal(both, context) and torch.equal(parts["text_encoder_2"](ids)[0], pooled)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (  # Stable Diffusion 1.x, as ComfyUI detects it
            {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4, "context_dim": 768,
             "transformer_depth": [1] * 6 + [0, 0], "num_heads": 8, "num_head_channels": -1,
             "use_linear_in_transformer": False},
            {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "use_linear_projection": False},
        ),
        (  # SDXL
            {"model_channels": 320, "channel_mult": [1, 2, 4], "num_res_blocks": [2] * 3, "context_dim": 2048,
             "transformer_depth": [0, 0, 2, 2, 10, 10], "num_heads": -1, "num_head_channels": 64,
             "use_linear_in_transformer": True, "adm_in_channels": 2816},
            {"block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
             "transformer_layers_per_block": (1, 2, 10), "projection_class_embeddings_input_dim": 2816,
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")},
        ),
    ],
)  # fmt: skip
def test_arguments_are_those_of_the_published_models(config, expected):
    from tools.evaluate.peers.weights import unet_arguments

    found = unet_arguments({"in_channels": 4, "out_channels": 4, **config})
    assert {key: found[key] for key in expected} == expected


def test_virtual_inversion_without_new_words_is_the_picture(model, scene, kept):
    same = edited(model, scene, "virtual_inversion")
    assert psnr(same, kept) > 45
    other = edited(model, scene, "virtual_inversion", scene[2].replace("red", "blue"))
    assert psnr(other, kept) < 30


def test_ledits_without_new_words_comes_back_and_with_them_changes_a_part(model, scene, kept):
    same = edited(model, scene, "ledits_pp", steps=6)
    # DPM-Solver++ is inverted up to its last step.
    assert psnr(same, kept) > 22
    pair = (Pair("a red robot", "a blue robot"),)
    other = edited(model, scene, "ledits_pp", scene[2].replace("red", "blue"), steps=6, pairs=pair, edit_guidance=10.0)
    changed = np.abs(other - same).max(-1) > 0.1
    assert 0.005 < changed.mean() < 0.4, "its masks leave most of the picture alone"


def test_inpainting_keeps_what_is_outside_its_mask(model, scene, kept):
    other = edited(model, scene, "inpaint_pipeline", scene[2].replace("red", "blue"))
    inside = np.asarray(scene[1]) > 127
    # Four latent cells around the mask see it through the VAE.
    from scipy.ndimage import binary_dilation

    far = ~binary_dilation(inside, iterations=24)
    assert psnr(other, kept, far) > 38 > 15 > psnr(other, kept, inside)


def test_diffedit_keeps_most_of_the_picture(model, scene, kept):
    other = edited(model, scene, "diffedit", scene[2].replace("red", "blue"), steps=5, maps=3)
    changed = np.abs(other - kept).max(-1) > 0.25
    assert 0.005 < changed.mean() < 0.35


def request(**changes):
    data = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(data, format="PNG")
    values = {"method": "instruct_pix2pix", "model": "demo", "size": SIZE, "seed": 0, "mask": b"", "folder": "none"}
    return {**values, "picture": data.getvalue(), **changes}


def test_what_is_missing_is_said_and_nothing_falls(pack, monkeypatch):
    pytest.importorskip("diffusers")
    peers = Peers()
    asked = {**request(), "picture": "", "mask": ""}
    assert "no InstructPix2Pix in none" in peers.answer(asked)["missing"]
    asked["method"], asked["model"] = "diffedit", "no_such.safetensors"
    assert "no_such.safetensors is not in models/checkpoints" in peers.answer(asked)["missing"]
    monkeypatch.setitem(sys.modules, "diffusers", None)
    peers.model, peers.loaded = object(), ("demo", SIZE)
    asked |= {"model": "demo"}
    assert "package diffusers" in peers.answer(asked)["missing"]


@pytest.mark.slow
def test_the_process_answers_and_comes_back_after_it_was_killed(pack):
    peers = PeerProcess(cpu=True, threads=1)
    try:
        assert "no InstructPix2Pix" in peers.ask(request())["missing"]
        peers.process.kill()
        peers.process.wait()
        assert "no InstructPix2Pix" in peers.ask(request())["missing"]
        peers.limit = 0.01
        with pytest.raises(PeerGone, match="ended"):
            peers.ask(request(method="diffedit"))
        log = peers.log
    finally:
        peers.close()
    assert log is None and peers.process is None


@pytest.mark.parametrize("kind", ["ledits_pp", "diffedit", "inpaint_pipeline", "virtual_inversion", "instruct_pix2pix"])
def test_requests_hold_everything_that_an_edit_depends_on(kind):
    more = {"folder": "x"} if kind == "instruct_pix2pix" else {}
    method = BY_NAME[kind].model_validate({"method": kind, **more})
    case = Case("d", "n", "a cat", "a dog", "p.png", "m.png", (Pair("cat", "dog"),))
    asked = method.request(case, Settings(steps=7, cfg=3.0))
    assert (asked["steps"], asked["cfg"], asked["source"], asked["edit"]) == (7, 3.0, "a cat", "a dog")
    assert method.rows(case, Settings(steps=7, cfg=3.0)) > 7
    assert kind != "instruct_pix2pix" or asked["instruction"] == "turn cat into dog"
