"""One ``.safetensors`` of a whole CLIP, without its folder of small files, gives transformers' scores."""

from __future__ import annotations

import pytest
import torch

from support.tiny_clips import drawn_clip, reference_score, to_openclip
from tools.bootstrap import load_pack

load_pack()
import folder_paths
from safetensors.torch import save_file

from partedit_oir.core.vision.clip_file import clip_config, scorer_from_file
from partedit_oir.core.vision.clip_scorer import attention_bias
from partedit_oir.nodes.clip_scorer import LoadCLIPScorer


@pytest.fixture(scope="module")
def reference():
    return drawn_clip()


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """Files of the same weights: transformers' names in both precisions, and OpenCLIP's."""
    root = tmp_path_factory.mktemp("clip_scorers")
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    # what older releases of transformers saved along
    ids = {f"{tower}.embeddings.position_ids": torch.arange(17)[None] for tower in ("text_model", "vision_model")}
    save_file({**state, **ids}, root / "whole.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, root / "half.safetensors")
    save_file(to_openclip(state), root / "opened.safetensors")
    return root


@pytest.fixture
def picture():
    return torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["whole", "half", "opened"])
@pytest.mark.parametrize("mode", [None, "masked", "published_bias"])
def test_the_score_is_that_of_transformers(folder, reference, picture, name, mode):
    scorer = scorer_from_file(folder / f"{name}.safetensors", activation="quick_gelu" if name == "opened" else "auto")
    mask, region = torch.zeros(64, 64), torch.zeros(4, 4, dtype=torch.bool)
    mask[:32, :48], region[:2, :3] = 1, True
    if mode is None:
        expected = reference_score(reference, picture, "a Red cat, sitting")
        found = scorer.score(picture, "a Red cat, sitting")
    else:
        expected = reference_score(reference, picture, "a Red cat, sitting", attention_bias(region, mode))
        found = scorer.score(picture, "a Red cat, sitting", mask, mode)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_activation_follows_format_and_size(folder):
    def act(model):
        config = model.config
        assert config.text_config.hidden_act == config.vision_config.hidden_act
        return config.text_config.hidden_act

    assert act(scorer_from_file(folder / "whole.safetensors").model) == "quick_gelu"
    assert act(scorer_from_file(folder / "opened.safetensors").model) == "gelu"
    assert act(scorer_from_file(folder / "whole.safetensors", activation="gelu").model) == "gelu"
    with pytest.raises(ValueError, match="activation: 'relu' is not one of auto, quick_gelu, gelu"):
        scorer_from_file(folder / "whole.safetensors", activation="relu")


PUBLISHED = {
    # text width, layers and heads; vision width, layers, heads, patch, positions; projection
    "openai/clip-vit-base-patch32": ((512, 12, 8), (768, 12, 12, 32, 50), 512),
    "openai/clip-vit-base-patch16": ((512, 12, 8), (768, 12, 12, 16, 197), 512),
    "openai/clip-vit-large-patch14": ((768, 12, 12), (1024, 24, 16, 14, 257), 768),
    "openai/clip-vit-large-patch14-336": ((768, 12, 12), (1024, 24, 16, 14, 577), 768),
    "laion/CLIP-ViT-H-14": ((1024, 24, 16), (1280, 32, 16, 14, 257), 1024),
    "laion/CLIP-ViT-g-14": ((1024, 24, 16), (1408, 40, 16, 14, 257), 1024),
    "laion/CLIP-ViT-bigG-14": ((1280, 32, 20), (1664, 48, 16, 14, 257), 1280),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_told_by_their_shapes(name):
    (text, text_layers, text_heads), (vision, vision_layers, vision_heads, patch, places), width = PUBLISHED[name]

    def shape(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device="meta")

    state = {
        "text_model.embeddings.token_embedding.weight": shape(49408, text),
        "text_model.embeddings.position_embedding.weight": shape(77, text),
        "vision_model.embeddings.patch_embedding.weight": shape(vision, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": shape(places, vision),
        "text_projection.weight": shape(width, text),
        "visual_projection.weight": shape(width, vision),
    }
    state |= {f"text_model.encoder.layers.{k}.mlp.fc1.weight": shape(4 * text, text) for k in range(text_layers)}
    state |= {f"vision_model.encoder.layers.{k}.mlp.fc1.weight": shape(4096, vision) for k in range(vision_layers)}
    config = clip_config(state, name, "gelu")
    assert (config.text_config.num_hidden_layers, config.text_config.num_attention_heads) == (text_layers, text_heads)
    assert config.vision_config.num_hidden_layers == vision_layers
    assert config.vision_config.num_attention_heads == vision_heads and config.projection_dim == width
    assert config.vision_config.image_size == (336 if places == 577 else 224)


def test_what_is_no_whole_clip_says_what_it_is(folder, tmp_path):
    from safetensors.torch import load_file

    state = load_file(folder / "whole.safetensors")
    text = {name: tensor for name, tensor in state.items() if name.startswith("text")}
    vision = {name: tensor for name, tensor in state.items() if name.startswith("vis")}
    layer = "vision_model.encoder.layers.1.mlp.fc2.weight"
    cases = {
        "text.safetensors": (text, "holds the text tower alone"),
        "vision.safetensors": (vision, "holds the vision tower alone.*CLIP Scorer from Models"),
        "other.safetensors": ({"a": torch.zeros(1)}, "is no CLIP with a vision transformer"),
        "bare.safetensors": (
            {name: tensor for name, tensor in state.items() if "projection" not in name},
            "has no projection",
        ),
        "gap.safetensors": (
            {name: tensor for name, tensor in state.items() if name != layer},
            "is not complete: 1 tensors are missing, the first is 'vision_model.encoder.layers.1.mlp.fc2.weight'",
        ),
        "words.safetensors": (
            {**state, "text_model.embeddings.token_embedding.weight": torch.zeros(100, 64)},
            "a vocabulary of 100 tokens",
        ),
        "narrow.safetensors": (
            {**state, "vision_model.embeddings.patch_embedding.weight": torch.zeros(40, 3, 16, 16)},
            "number of attention heads is unknown",
        ),
    }
    for name, (tensors, words) in cases.items():
        save_file(tensors, tmp_path / name)
        with pytest.raises(ValueError, match=rf"'{name}'.*{words}"):
            scorer_from_file(tmp_path / name)
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match=r"'broken\.safetensors' could not be read as safetensors"):
        scorer_from_file(tmp_path / "broken.safetensors")
    # The file it names for a loose file is one that exists: CLIP base has none of that name.
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors of 'openai/clip-vit-large-patch14'"):
        scorer_from_file(tmp_path / "none.safetensors")


def test_the_loader_lists_files_and_folders(reference, folder, tmp_path, monkeypatch, picture):
    """A file inside a transformers folder belongs to that folder; one in a plain folder stands for itself."""
    import shutil

    from support.tiny_segmenters import save_clip

    (tmp_path / "tiny").mkdir()
    save_clip(tmp_path / "tiny")
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "whole.safetensors", tmp_path / "base.safetensors")
    shutil.copy(folder / "whole.safetensors", tmp_path / "more" / "base.safetensors")
    (tmp_path / "notes.txt").write_text("")
    entry = ([str(tmp_path)], set(folder_paths.folder_names_and_paths["clip_scorers"][1]))
    assert entry[1] == {".safetensors"}
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_scorers", entry)
    folder_paths.filename_list_cache.pop("clip_scorers", None)
    try:
        names = LoadCLIPScorer.define_schema().inputs[0].options
        assert names == ["tiny", "base.safetensors", "more/base.safetensors"]
        for name in names:
            assert LoadCLIPScorer.validate_inputs(name) is True
        for name in ("tiny/model.safetensors", "../base.safetensors", str(tmp_path / "base.safetensors")):
            with pytest.raises(ValueError, match=r"^model: no file or folder"):
                LoadCLIPScorer.execute(name)
        expected = reference_score(reference, picture, "a cat")
        for name in names[1:]:
            assert LoadCLIPScorer.execute(name).result[0].score(picture, "a cat") == pytest.approx(expected, abs=1e-5)
        assert LoadCLIPScorer.execute("tiny", "auto").result[0].name == "tiny"
    finally:
        folder_paths.filename_list_cache.pop("clip_scorers", None)
