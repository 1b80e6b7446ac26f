"""The demo checkpoint beside core features: samplers, LoRA, ControlNet, low-memory loading; and its own rules."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.demo import loader

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = (16, 16)


@pytest.fixture(scope="module")
def demo():
    return loader.load_demo_model()


@pytest.fixture(scope="module")
def text(demo):
    def encode(words: str):
        return demo[1].encode_from_tokens_scheduled(demo[1].tokenize(words))

    return encode


def sample(model, positive, negative, steps=2, sampler="euler", scheduler="normal", seed=3):
    import comfy.sample

    latent = torch.zeros(1, 4, *SIZE)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model, noise, steps, 4.0, sampler, scheduler, positive, negative, latent, disable_pbar=True, seed=seed
    )


@pytest.fixture(scope="module")
def robot(demo, text):
    """An ordinary picture: what the changed runs are compared with."""
    return sample(demo[0], text("a red robot"), text(""))


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_it_is_made_of_the_host_s_own_classes(demo, text):
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd

    model, clip, vae = demo
    assert isinstance(model, comfy.model_patcher.ModelPatcher) and type(model.model) is comfy.model_base.SDXL
    assert type(model.model.latent_format) is comfy.latent_formats.SDXL
    assert type(clip) is comfy.sd.CLIP and type(vae) is comfy.sd.VAE
    [[embedding, extra]] = text("a red robot in the snow")
    assert embedding.shape == (1, 77, 768) and extra["pooled_output"].shape == (1, 512)
    picture = torch.rand(1, 64, 48, 3)
    latent = vae.encode(picture)
    assert latent.shape == (1, 4, 8, 6) and vae.decode(latent).shape == picture.shape


def test_prompt_pooled_embedding_and_picture_size_reach_the_model(demo, text, robot):
    assert relative(sample(demo[0], text("a blue car"), text("")), robot) > 1e-2
    unpooled, sized = text("a red robot"), text("a red robot")
    unpooled[0][1]["pooled_output"] = torch.zeros(1, 512)
    assert relative(sample(demo[0], unpooled, text("")), robot) > 1e-3
    # Trained at one size only, it hardly minds; but it is told.
    sized[0][1].update(width=512, height=64)
    assert not torch.equal(sample(demo[0], sized, text("")), robot)
    assert torch.equal(sample(demo[0], text("a red robot"), text("")), robot)


@pytest.mark.parametrize(
    "sampler, scheduler", [("dpmpp_2m_sde", "karras"), ("uni_pc", "simple"), ("lcm", "sgm_uniform")]
)
def test_core_samplers_run_on_it(demo, text, sampler, scheduler):
    out = sample(demo[0], text("a red robot"), text(""), 3, sampler, scheduler)
    assert out.shape == (1, 4, *SIZE) and torch.isfinite(out).all()


def low_rank(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((rows, 4), (4, columns)))
    return up, down


def lora_file() -> dict[str, torch.Tensor]:
    """A LoRA as trainers save it for SDXL: attention of the UNet and of both text encoders."""
    unet = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2"
    shapes = {
        f"{unet}_to_k": (128, 768),
        f"{unet}_to_v": (128, 768),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (256, 256),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": (512, 512),
    }
    file: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        file[f"{name}.lora_up.weight"], file[f"{name}.lora_down.weight"] = low_rank(*shape)
        file[f"{name}.alpha"] = torch.tensor(4.0)
    return file


def test_a_lora_changes_model_and_text_encoders_and_leaves_the_originals_alone(demo, text, robot, caplog):
    import comfy.sd

    model, clip, _ = demo
    with caplog.at_level(logging.WARNING):
        changed, changed_clip = comfy.sd.load_lora_for_models(model, clip, lora_file(), 1.0, 1.0)
    assert "not loaded" not in caplog.text.lower()
    words = changed_clip.encode_from_tokens_scheduled(changed_clip.tokenize("a red robot"))
    assert relative(words[0][0], text("a red robot")[0][0]) > 1e-3
    assert relative(words[0][1]["pooled_output"], text("a red robot")[0][1]["pooled_output"]) > 1e-3
    assert relative(sample(changed, text("a red robot"), text("")), robot) > 1e-3
    assert torch.equal(sample(model, text("a red robot"), text("")), robot)


@pytest.fixture
def low_memory(monkeypatch):
    """Every model is loaded as with --novram: nothing stays on the device, LoRA is applied while layers run."""
    import comfy.model_management as mm

    load = mm.LoadedModel.model_load
    mm.unload_all_models()
    monkeypatch.setattr(mm.LoadedModel, "model_load", lambda self, _=0, **more: load(self, 0.1, **more))
    yield
    mm.unload_all_models()


def part_edit(model, text):
    """Rows [source, edit] of a part edit with the demo's own token and layers."""
    import comfy.samplers

    from partedit_oir.core.partedit.guider import BlendGuider
    from partedit_oir.core.partedit.prompt import Edit, EditPrompt, PartPrompt
    from partedit_oir.core.partedit.settings import BlendInputs, BlendSettings
    from partedit_oir.core.partedit.token_files import load_token

    token = load_token(REPOSITORY / "tokens" / "demo_robot_head.safetensors")
    edit = Edit((PartPrompt("a blue robot", text("a blue robot"), None),))
    prompt = EditPrompt("a red robot", text("a red robot"), (edit,))
    settings = BlendSettings(layers="output.2, output.3")
    guider = BlendGuider(model, BlendInputs(prompt, token=token, settings=settings), None, True, False)
    guider.set_negative(text(""))
    guider.set_cfg(4.0)
    plan = comfy.samplers.KSampler(model, 3, torch.device("cpu"), "euler", "normal", 1.0)
    noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    return guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), plan.sigmas, disable_pbar=True, seed=3
    )


def test_low_memory_loading_changes_nothing_but_the_memory(demo, text, request):
    import comfy.sd

    of_unet = {key: value for key, value in lora_file().items() if key.startswith("lora_unet")}
    model = comfy.sd.load_lora_for_models(demo[0], None, of_unet, 1.0, 0.0)[0]
    words = {key: text(key) for key in ("a red robot", "a blue robot", "")}
    whole, edit = sample(model, words["a red robot"], words[""]), part_edit(model, words.__getitem__)
    assert not model.model.model_lowvram
    request.getfixturevalue("low_memory")
    assert relative(sample(model, words["a red robot"], words[""]), whole) < 1e-5
    assert model.model.model_lowvram
    assert relative(part_edit(model, words.__getitem__), edit) < 1e-5
    assert relative(edit[1:], edit[:1]) > 1e-3


def control_net(device: str = "cpu"):
    """A ControlNet in the demo UNet's shape, in the host's own classes; weights drawn, so it says something at once."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    from partedit_oir.demo.config import UNET, UNET_EXTRA

    shape = {k: v for k, v in UNET.items() if k not in ("out_channels", "transformer_depth_output")}
    torch.manual_seed(5)
    network = comfy.cldm.cldm.ControlNet(
        **{**shape, **UNET_EXTRA}, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return comfy.controlnet.ControlNet(network, load_device=torch.device(device))


def test_a_controlnet_steers_it(demo, text, robot):
    from nodes import ControlNetApplyAdvanced

    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))

    def steered(strength):
        apply = ControlNetApplyAdvanced().apply_controlnet
        return sample(demo[0], *apply(text("a red robot"), text(""), control_net(), hint, strength, 0.0, 1.0))

    assert relative(steered(1.0), robot) > 1e-3
    assert torch.equal(steered(0.0), robot)


def test_a_word_it_does_not_know_is_named_in_the_log(text, caplog):
    with caplog.at_level(logging.WARNING):
        text("a red (robot:1.2) in the snow")
        assert not caplog.text
        text("a red zeppelin")
    assert "zeppelin" in caplog.text and "robot" in caplog.text


def test_the_help_page_tells_the_words_it_knows(pack):
    from partedit_oir.demo.world import BACKGROUNDS, COLOURS, OBJECTS, PARTS, PATTERNS

    page = (REPOSITORY / "js" / "docs" / "LoadDemoModel" / "en.md").read_text(encoding="utf-8")
    words = {
        *OBJECTS,
        *COLOURS,
        *PATTERNS,
        *BACKGROUNDS.values(),
        *(part for parts in PARTS.values() for part in parts),
    }
    assert not [word for word in words if word not in page]


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"image_model\.safetensors is missing from .*git checkout"):
        loader.load_demo_model()


def header(path: Path) -> dict:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def test_the_weights_are_small_and_half_precision_and_the_card_names_them():
    files = sorted((REPOSITORY / "demo" / "weights").iterdir())
    card = (REPOSITORY / "demo" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert {path.name for path in files} == {loader.IMAGE_MODEL, loader.VAE_FILE, loader.SCORER_FILE}
    assert sum(path.stat().st_size for path in files) <= 40e6
    for path in files:
        kinds = {entry["dtype"] for name, entry in header(path).items() if name != "__metadata__"}
        assert "F16" in kinds and kinds <= {"F16", "I64"}, f"{path.name}: {kinds}"
        assert path.name in card


def test_nodes_that_need_a_model_without_dynamic_memory_get_one(demo, monkeypatch):
    """TorchCompileModel, LoRA hooks and Set CLIP Hooks ask for a clone that ComfyUI loads anew."""
    import inspect

    import comfy.model_patcher

    if "disable_dynamic" not in inspect.signature(comfy.model_patcher.ModelPatcher.clone).parameters:
        pytest.skip("this ComfyUI has no dynamic VRAM")

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    model, clip, vae = loader.load_demo_model()
    assert model.is_dynamic() and clip.patcher.is_dynamic()
    for static, own in ((model.clone(disable_dynamic=True), demo[0]), (clip.clone(True).patcher, demo[1].patcher)):
        assert not static.is_dynamic()
        weights, expected = static.model.state_dict(), own.model.state_dict()
        assert weights.keys() == expected.keys()
        # Not in the file, and not used: any value.
        names = [name for name in expected if not name.startswith("clip_l.") or "text_projection" not in name]
        assert len(names) > 20 and all(torch.equal(weights[name], expected[name]) for name in names)
    make, args = vae.patcher.cached_patcher_init
    weights, expected = make(*args).model.state_dict(), vae.first_stage_model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
