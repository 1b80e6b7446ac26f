"""Captioning with small BLIP and BLIP-2 models that the tests save."""

from __future__ import annotations

import json

import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
import comfy.model_management
import folder_paths

from partedit_oir.core.vision.captioner import Captioner, captioner_folders
from partedit_oir.nodes import inversion
from partedit_oir.nodes.folders import KeptModel, managed
from partedit_oir.nodes.inversion import InvertLatent
from support.stand_ins import FakeClip, latent, sd1_shaped_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "cat", "chair", "red", "and"]
IMAGE = len(WORDS)
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_tokenizer(path):
    from transformers import BertTokenizerFast

    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return BertTokenizerFast.from_pretrained(path, local_files_only=True)


def save_blip(path):
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = save_tokenizer(path)
    ids = {"bos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(
        text_config={**SIZE, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config={**SIZE, "image_size": 32, "patch_size": 16},
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
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(path)


def save_blip2(path, image_token_index: int | None = IMAGE):
    """A BLIP-2 with an OPT decoder; without ``image_token_index`` as the folders of before 2025 are."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = save_tokenizer(path)
    ids = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    opt = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**SIZE, "image_size": 32, "patch_size": 16},
        qformer_config={**SIZE, "encoder_hidden_size": 16, "vocab_size": 8},
        text_config={
            "model_type": "opt",
            **opt,
            **ids,
            "vocab_size": len(WORDS) + 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
        },
        num_query_tokens=4,
        image_token_index=image_token_index,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        # the head is tied to the embedding: special and unused tokens get one that is never preferred
        embedding = model.language_model.get_input_embeddings().weight
        embedding[:7] *= 1e-3
        embedding[len(WORDS) :] *= 1e-3
    model.save_pretrained(path)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    tokenizer.save_pretrained(path)
    if image_token_index is not None:
        images = BlipImageProcessor(size={"height": 32, "width": 32})
        Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("captioners")
    save_blip(path / "tiny-blip")
    save_blip2(path / "tiny-blip2")
    save_blip2(path / "old-blip2", None)
    (path / "no-blip").mkdir()
    (path / "no-blip" / "config.json").write_text(json.dumps({"model_type": "clip"}), encoding="utf-8")
    return path


@pytest.fixture
def picture():
    return torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-blip2", "old-blip2"])
def test_a_picture_is_described_in_known_words(root, picture, name):
    text = Captioner.from_folder(root / name).caption(picture, max_new_tokens=6)
    assert text and set(text.split()) <= set(WORDS[7:])


def test_only_blip_folders_are_offered(root):
    assert captioner_folders([str(root), "/does/not/exist"]) == ["old-blip2", "tiny-blip", "tiny-blip2"]


def test_other_models_and_missing_files_are_named(root, tmp_path):
    with pytest.raises(ValueError, match="model of type 'clip'"):
        Captioner.from_folder(root / "no-blip")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        Captioner.from_folder(tmp_path)
    config = (root / "tiny-blip" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ValueError, match="could not be loaded"):
        Captioner.from_folder(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny-blip", "tiny-blip2"])
def test_the_weights_come_in_the_asked_precision(root, picture, name, dtype):
    captioner = Captioner.from_folder(root / name, dtype=dtype)
    assert {w.dtype for w in captioner.model.vision_model.parameters()} == {dtype}
    if name == "tiny-blip2" and dtype == torch.float16:  # which the Q-Former has never been used in
        assert {w.dtype for w in captioner.model.qformer.parameters()} == {torch.float32}
    assert captioner.caption(picture, max_new_tokens=3)


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-blip2"])
def test_an_interrupt_stops_it_at_the_next_token(root, picture, name):
    captioner, calls = Captioner.from_folder(root / name), []
    decoder = captioner.model.text_decoder if name == "tiny-blip" else captioner.model.language_model

    def press(*_):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()

    hook = decoder.register_forward_hook(press)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            captioner.caption(picture, max_new_tokens=30)
    finally:
        hook.remove()
        comfy.model_management.interrupt_current_processing(False)
    assert len(calls) == 2
    assert captioner.caption(picture, max_new_tokens=3)


def inputs(captioner):
    return (sd1_shaped_model(3), {"samples": latent()}, "", "ddim_next_timestep", 2, 1.0, 0, "leading", 1, captioner)


@pytest.fixture
def registered(root, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "captioners", ([str(root)], set()))
    monkeypatch.setattr(inversion, "CAPTIONER", KeptModel())
    loads = []
    load = Captioner.from_folder.__func__

    def counted(cls, path, **options):
        loads.append(path.name)
        return load(cls, path, **options)

    monkeypatch.setattr(Captioner, "from_folder", classmethod(counted))
    yield loads
    comfy.model_management.unload_all_models()


def test_the_inversion_node_describes_a_picture_without_a_prompt(registered, picture):
    clip = FakeClip()
    trajectory, prompt = InvertLatent.execute(*inputs("tiny-blip"), clip=clip, image=picture[None]).args
    assert set(prompt.split()) <= set(WORDS[7:]) and trajectory.source_prompt == prompt and clip.encoded == [prompt]


def test_a_caption_is_of_one_picture(registered, picture):
    two = torch.stack([picture, 1 - picture])
    with pytest.raises(ValueError, match=r"image: holds 2 images, but a caption describes one\. Invert them one at"):
        InvertLatent.execute(*inputs("tiny-blip"), clip=FakeClip(), image=two)
    # A prompt that was typed is used for all, whatever the image is.
    typed = ("a red cat" if value == "" else value for value in inputs("tiny-blip"))
    assert InvertLatent.execute(*typed, clip=FakeClip(), image=two).args[1] == "a red cat"
    assert registered == []


def test_a_captioner_is_read_once_until_it_is_unloaded(registered, root, picture):
    """It is held by ComfyUI's memory management: freeing the models lets go of it, and a changed file is read anew."""
    import gc
    import os
    import weakref

    def describe(name):
        return InvertLatent.execute(*inputs(name), clip=FakeClip(), image=picture[None]).args[1]

    first = describe("tiny-blip")
    held = weakref.ref(inversion.CAPTIONER._model.model)
    assert describe("tiny-blip") == first and registered == ["tiny-blip"]
    assert any(held() is getattr(patcher.model, "inner", None) for patcher in comfy.model_management.loaded_models())
    comfy.model_management.unload_all_models()
    gc.collect()
    assert held() is None
    assert describe("tiny-blip") == first and registered == ["tiny-blip"] * 2
    os.utime(root / "tiny-blip" / "config.json", (1, 1))
    assert describe("tiny-blip") == first and registered == ["tiny-blip"] * 3
    describe("tiny-blip2")
    assert registered == ["tiny-blip"] * 3 + ["tiny-blip2"]


def test_an_earlier_model_that_is_unloaded_leaves_the_present_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept, prepares = KeptModel(), []

    def load(folder, *, manage):
        module = torch.nn.Linear(2, 2)
        prepares.append(manage(module))
        prepares[-1]()
        return module

    first = kept.get(tmp_path / "a", load)
    prepares[0]()  # asked for again: detached and kept
    assert kept.get(tmp_path / "a", load) is first
    second = kept.get(tmp_path / "b", load)
    patchers = comfy.model_management.loaded_models()
    next(p for p in patchers if getattr(p.model, "inner", None) is first).detach()
    assert kept.get(tmp_path / "b", load) is second and len(prepares) == 2
    comfy.model_management.unload_all_models()
    assert kept.get(tmp_path / "b", load) is not second


def test_managed_models_are_told_of_their_unloading():
    told = []
    prepare = managed(torch.nn.Linear(2, 2), lambda: told.append(1))
    prepare()
    prepare()
    assert not told
    comfy.model_management.unload_all_models()
    assert told == [1]
