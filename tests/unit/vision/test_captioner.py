"""Captioning with a small BLIP model that the test saves."""

from __future__ import annotations

import json

import pytest
import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "cat", "chair", "red", "and"]


@pytest.fixture(scope="module")
def folder(pack, tmp_path_factory):
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    root = tmp_path_factory.mktemp("captioners")
    path = root / "tiny-blip"
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(
        text_config={**size, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config={**size, "image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    # the untrained decoder shall prefer words to special tokens
    predictions = model.text_decoder.cls.predictions
    with torch.no_grad():
        # one tensor in some releases of transformers, two in others
        for bias in (predictions.bias, predictions.decoder.bias):
            bias[:7] = -50.0
    model.save_pretrained(path)
    tokenizer = BertTokenizerFast.from_pretrained(path, local_files_only=True)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(path)
    other = root / "no-blip"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "clip"}), encoding="utf-8")
    return path


def test_a_picture_is_described_in_known_words(folder):
    from partedit_oir.core.vision.captioner import caption

    text = caption(folder, torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)), max_new_tokens=6)
    assert text and set(text.split()) <= set(WORDS[7:])


def test_only_blip_folders_are_offered(folder):
    from partedit_oir.core.vision.captioner import captioner_folders

    assert captioner_folders([str(folder.parent), "/does/not/exist"]) == ["tiny-blip"]


def test_other_models_and_missing_files_are_named(folder, tmp_path):
    from partedit_oir.core.vision.captioner import caption

    picture = torch.zeros(32, 32, 3)
    with pytest.raises(ValueError, match="model of type 'clip'"):
        caption(folder.parent / "no-blip", picture)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        caption(tmp_path, picture)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="could not be loaded"):
        caption(tmp_path, picture)


def test_the_inversion_node_describes_a_picture_without_a_prompt(folder, monkeypatch):
    import folder_paths

    from partedit_oir.nodes.inversion import InvertLatent
    from support.stand_ins import FakeClip, latent, sd1_shaped_model

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "captioners", ([str(folder.parent)], set()))
    clip, picture = FakeClip(), torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    inputs = (
        sd1_shaped_model(3),
        {"samples": latent()},
        "",
        "ddim_next_timestep",
        2,
        1.0,
        0,
        "leading",
        1,
        "tiny-blip",
    )
    trajectory, prompt = InvertLatent.execute(*inputs, clip=clip, image=picture).args
    assert set(prompt.split()) <= set(WORDS[7:]) and trajectory.source_prompt == prompt and clip.encoded == [prompt]
