"""ComfyUI's folders of part tokens: what is listed and found there, and names that would leave them."""

from __future__ import annotations

import os
import re
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.bootstrap import load_pack

load_pack()
import folder_paths

from partedit_oir.core.files import safe_file_name
from partedit_oir.core.partedit.published import published_names, published_tokens
from partedit_oir.core.partedit.token_files import load_token, save_token
from partedit_oir.core.partedit.token_names import SUFFIXES, token_stem
from partedit_oir.core.partedit.token_pictures import small_picture
from partedit_oir.core.partedit.tokens import PartToken
from partedit_oir.nodes.part_token import LoadPartToken
from partedit_oir.nodes.token_folder import FOLDER, described_tokens, find_token, keep_token, list_tokens


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only registered token folder."""
    made = tmp_path / "part_tokens"
    made.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(made)], set(SUFFIXES)))
    folder_paths.filename_list_cache.pop(FOLDER, None)
    yield made
    folder_paths.filename_list_cache.pop(FOLDER, None)


def token():
    return PartToken(torch.ones(2, 16), (1,), ("head",), "demo")


HOSTILE_NAMES = [
    "../evil",
    "..\\evil",
    "a/b",
    "/etc/passwd",
    "C:\\x",
    "C:x",
    "\\\\server\\share",
    "a\x00b",
    "a\nb",
    "a\x1b[2J",
    ".hidden",
    "..",
    ".",
    "",
    "  ",
    "a..b",
    "~/x",
    "con",
    "NUL.txt",
    "com1",
    "COM¹",
    "x" * 300,
    "a|b",
    "a%2e%2e",
    "name.",
    "\u202etxt",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names_are_refused(name, folder):
    with pytest.raises(ValueError, match="file_name") as info:
        safe_file_name(name)
    assert str(info.value).isprintable()
    (folder.parent / "evil").write_bytes(b"x")
    for inside in ("evil", "passwd", "x", "b", "share", "hidden"):
        save_token(token(), folder / f"{inside}.safetensors")
    if name != "a/b":  # a name in another folder is looked for in this one
        with pytest.raises(ValueError, match="part_token"):
            find_token(name)


@pytest.mark.parametrize("name", ["cat_head", "Kopf eines Hundes", "tête-2", "猫の頭", "head (new) 1.5"])
def test_plain_names_are_taken(name):
    assert safe_file_name(f" {name} ") == name


def test_a_file_outside_the_folder_cannot_be_named(folder):
    save_token(token(), folder.parent / "outside.safetensors")
    for name in ("../outside.safetensors", str(folder.parent / "outside.safetensors")):
        with pytest.raises(ValueError, match="not among the token files"):
            find_token(name)


def test_the_list_refreshes_without_a_restart(folder):
    assert list_tokens() == []
    save_token(token(), folder / "new.safetensors")
    os.utime(folder, (1, folder.stat().st_mtime + 5))  # file systems with whole seconds
    assert list_tokens() == ["new.safetensors"]
    assert find_token("new.safetensors") == folder / "new.safetensors"
    (folder / "new.safetensors").unlink()
    os.utime(folder, (1, folder.stat().st_mtime + 10))
    assert list_tokens() == []


def test_folders_of_extra_model_paths_are_searched(folder, tmp_path):
    from utils.extra_config import load_extra_path_config

    (tmp_path / "shared" / "my tokens").mkdir(parents=True)
    save_token(token(), tmp_path / "shared" / "my tokens" / "ear.safetensors")
    assert list_tokens() == []
    paths = tmp_path / "extra_model_paths.yaml"
    paths.write_text(f"mine:\n  base_path: {tmp_path / 'shared'}\n  {FOLDER}: my tokens\n")
    load_extra_path_config(str(paths))
    folder_paths.filename_list_cache.pop(FOLDER, None)
    assert list_tokens() == ["ear.safetensors"]
    assert load_token(find_token("ear.safetensors")).names == ("head",)


# Names and addresses as the authors' demo has them, and the name of each part here.
PUBLISHED = {
    "torso_custom": "human torso",
    "chair_custom": "chair seat",
    "carhood_custom": "car hood",
    "partimage_biped_head": "biped head",
    "partimage_quadruped_head": "quadruped head",
    "partimage_carbody": "car body",
    "partimage_human_hair": "human hair",
    "partimage_human_head": "human head",
    "partimage_human_torso": "human torso",
}
ADDRESS = "https://huggingface.co/datasets/Aleksandar/PartEdit-extra/resolve/main/pt/{}.pt"


def test_the_nine_published_files_are_in_the_index():
    tokens = published_tokens()
    assert {token.stem: (token.file, token.part, token.url) for token in tokens} == {
        stem: (f"{stem}.pt", part, ADDRESS.format(stem)) for stem, part in PUBLISHED.items()
    }
    names = [name for token in tokens for name in (token.stem, *token.also)]
    assert len(set(names)) == len(names) and names == [token_stem(name) for name in names]
    remarks = {token.stem: token.remark for token in tokens}
    assert remarks["partimage_biped_head"] == "in essence monkeys"
    assert remarks["partimage_quadruped_head"] == "animals on four legs"
    assert remarks["partimage_human_torso"] == "the custom one is to be preferred"


def test_a_published_token_that_is_missing_says_where_to_get_it(folder):
    entries = published_names([])
    assert entries == [f"{stem}.pt (published, not installed)" for stem in PUBLISHED]
    for stem, entry in zip(PUBLISHED, entries):
        with pytest.raises(ValueError) as info:
            find_token(entry)
        message = str(info.value)
        assert message.startswith(f"part_token: {stem}.pt (") and ADDRESS.format(stem) in message
        assert f"save it as {stem}.pt in {folder};" in message and "Licence: cc-by-nc-sa-4.0" in message
        assert LoadPartToken.validate_inputs(part_token=entry) == message
        with pytest.raises(ValueError, match=re.escape(message)):
            LoadPartToken.execute(entry)
    folder.rmdir()  # as in a new ComfyUI; the host's list of an earlier folder would not bear it
    folder_paths.filename_list_cache.pop(FOLDER, None)
    with pytest.raises(ValueError, match=r"part_tokens \(create this folder\);"):
        find_token(entries[0])
    folder.mkdir()
    torch.save(torch.ones(2, 2048), folder / "torso_custom.pt")
    assert find_token(entries[0]) == folder / "torso_custom.pt"
    assert published_names(["sub/Partimage_Human_Head.safetensors"]) == [e for e in entries if "human_head" not in e]
    # The demo's list has these two the wrong way round; here a name means the file of that name.
    for other, mine in (("biped", "quadruped"), ("quadruped", "biped")):
        with pytest.raises(ValueError, match=rf"there, {other}_head loads this file") as info:
            find_token(f"{mine}_head.pt")
        assert ADDRESS.format(f"partimage_{mine}_head") in str(info.value)


def test_a_token_that_another_one_has_replaced_is_read_again(folder):
    states = []
    for number in (1, 2):
        other = folder / "other.txt"
        save_file({"embedding": torch.full((2, 16), float(number))}, str(other))
        os.utime(other, ns=(10**18, 10**18))  # as unpacked from an archive: same size, same time
        time.sleep(0.02)
        other.replace(folder / "head.safetensors")
        states.append(LoadPartToken.fingerprint_inputs("head.safetensors"))
    assert len(set(states)) == 2
    os.utime(folder / "head.safetensors")  # the same token, on which a backup has left its mark
    assert LoadPartToken.fingerprint_inputs("head.safetensors") == states[-1]


@pytest.mark.parametrize("name", [[], ["head.safetensors"], {}, 5, True])
def test_a_name_of_another_type_is_refused(folder, name):
    assert "part_token: expected the name of a token file" in LoadPartToken.validate_inputs(name)
    LoadPartToken.fingerprint_inputs(name)


@pytest.mark.parametrize("stem", PUBLISHED)
def test_a_token_saved_as_the_message_says_is_found_by_the_same_workflow(folder, stem):
    entry = f"{stem}.pt (published, not installed)"
    before = LoadPartToken.fingerprint_inputs(part_token=entry)
    message = LoadPartToken.validate_inputs(part_token=entry)
    name, place = re.search(r"save it as (\S+) in (.+?);", message).groups()
    torch.save(torch.full((2, 2048), 0.5), os.path.join(place, name))
    assert LoadPartToken.validate_inputs(part_token=entry) is True
    assert LoadPartToken.fingerprint_inputs(part_token=entry) != before
    loaded = LoadPartToken.execute(entry).result[0]
    assert loaded.names == (PUBLISHED[stem],) and loaded.model_family == "sdxl"
    assert loaded.metadata["source"] == ADDRESS.format(stem) and "cc-by-nc-sa" in loaded.metadata["licence"]
    options = LoadPartToken.define_schema().inputs[0].options
    assert name in options and entry not in options


@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".PT", ".Safetensors"])
@pytest.mark.parametrize("content", ["safetensors", "torch", "old torch"])
def test_a_token_is_found_and_read_whatever_its_suffix(folder, suffix, content):
    rows = torch.randn(2, 16)
    path = folder / f"Cat Head v1.5{suffix}"
    if content == "safetensors":
        save_file({"embedding": rows}, str(path))
    else:
        torch.save(rows, path, _use_new_zipfile_serialization=content == "torch")
    for name in (
        "cat head v1.5.pt",
        "CAT HEAD V1.5.safetensors",
        "Cat Head v1.5",
        path.name,
        "cats\\Cat Head v1.5.bin",
    ):
        assert find_token(name) == path, name
        assert torch.equal(LoadPartToken.execute(name).result[0].embedding, rows)
    with pytest.raises(ValueError, match="'Cat Head v1' is not among the token files"):
        find_token("Cat Head v1")


def test_of_files_that_fit_the_nearest_is_taken_and_none_at_random(folder):
    (folder / "dogs").mkdir()
    for name in ("head.pt", "head.safetensors", "dogs/head.pt", "dogs/ear.pt", "Tail.pt", "TAIL.pt", "te\u0302te.pt"):
        save_file({"embedding": torch.ones(2, 16)}, str(folder / name))
    for name, file in (
        ("head.pt", "head.pt"),
        ("head.bin", "head.safetensors"),
        ("Dogs/Head.safetensors", "dogs/head.pt"),
        ("ear.safetensors", "dogs/ear.pt"),
        ("Tail.pt", "Tail.pt"),
        ("t\u00eate.bin", "te\u0302te.pt"),
    ):
        assert find_token(name) == folder / file, name
    for name, fits in (("tail.pt", "'TAIL.pt', 'Tail.pt'"), ("cats/head.pt", "'dogs/head.pt', 'head.pt'")):
        with pytest.raises(ValueError, match=f"part_token: '{name}' may be {fits}"):
            find_token(name)


def test_a_token_of_one_s_own_is_not_taken_for_a_published_one(folder):
    save_file({"embedding": torch.ones(2, 2048)}, str(folder / "human_head.safetensors"))
    save_file({"embedding": torch.ones(2, 768)}, str(folder / "chair_custom.safetensors"))
    assert load_token(find_token("human_head.pt")).names == ("human_head",)
    assert load_token(find_token("chair_custom.pt")).names == ("chair_custom",)  # another width
    with pytest.raises(ValueError, match=r"resolve/main/pt/partimage_human_head\.pt"):
        find_token("partimage_human_head.pt (published, not installed)")
    torch.save(torch.ones(2, 2048), folder / "partimage_human_head.pt")
    assert find_token("human_head.pt").name == "human_head.safetensors"
    (folder / "human_head.safetensors").unlink()
    folder_paths.filename_list_cache.pop(FOLDER, None)
    assert find_token("human_head.pt").name == "partimage_human_head.pt"  # as a template of an earlier version has it


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n<html>", b"version https://git-lfs.github.com/spec/v1\noid"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_page_in_place_of_the_file_is_named(folder, page, suffix):
    (folder / f"torso_custom{suffix}").write_bytes(page)
    with pytest.raises(ValueError, match=r"torso_custom\S+: is a web page or a pointer to a file"):
        LoadPartToken.execute("torso_custom.pt (published, not installed)")


@pytest.mark.parametrize("name", ["head.pt", "head.bin", "head.CKPT", "head.safetensors", "head"])
def test_a_token_is_saved_without_the_suffix_of_another_kind(folder, name):
    assert keep_token(token(), name).name == "head.safetensors"


def test_what_the_picker_shows_of_tokens_and_of_published_ones(folder):
    """Read from the headers; a file is read again when it has changed, and never loaded."""
    trained = {"iou": "head 0.803, left ear 0.7", "iou_measured_on": "held-out pictures"}
    path = folder / "sub" / "two.safetensors"
    path.parent.mkdir()
    save_token(PartToken(torch.ones(3, 768), (1, 2), ("head", "left ear"), "demo", trained), path)
    path.with_suffix(".png").write_bytes(b"x")
    save_file({"embedding": torch.ones(2, 2048)}, str(folder / "plain.safetensors"))
    save_file({"embedding": torch.ones(2, 2048)}, str(folder / "torso_custom.safetensors"))
    (folder / "mine.pt").write_bytes(b"not read")
    (folder / "carhood_custom.pt").write_bytes(b"not read")
    (folder / "damaged.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{")
    (folder / "odd[1].safetensors").write_bytes(b"")
    (folder / "odd[1].webp").write_bytes(b"")  # ComfyUI would not find it
    folder_paths.filename_list_cache.pop(FOLDER, None)
    shown = LoadPartToken.define_schema().inputs[0].as_dict()["partedit_tokens"]
    assert shown[os.path.join("sub", "two.safetensors")] == {
        "parts": ["head", "left ear"],
        "family": "demo",
        "iou": [0.803, 0.7],
        "held_out": True,
        "preview": 0,
    }
    assert shown["plain.safetensors"] == {"family": "sdxl"}
    assert shown["torso_custom.safetensors"] == {"parts": ["human torso"], "family": "sdxl"}
    assert shown["carhood_custom.pt"] == {"parts": ["car hood"], "family": "sdxl"}
    assert shown["mine.pt"] == shown["damaged.safetensors"] == shown["odd[1].safetensors"] == {}
    hair = shown["partimage_human_hair.pt (published, not installed)"]
    assert hair["file"] == "partimage_human_hair.pt" and hair["folder"] == "models/part_tokens"
    assert hair["url"].startswith("https://") and hair["licence"].startswith("cc-by-nc-sa-4.0")
    assert {name for name in shown if "file" in shown[name]} == set(published_names(list_tokens()))
    assert not {"torso_custom.pt (published, not installed)", "carhood_custom.pt (published, not installed)"} & set(
        shown
    )
    assert set(shown) == set(LoadPartToken.define_schema().inputs[0].options)
    save_token(PartToken(torch.ones(2, 1024), (1,), ("tail",), "sd2"), path)
    os.utime(path, ns=(1, 1))
    assert described_tokens(list_tokens())[os.path.join("sub", "two.safetensors")] == {
        "parts": ["tail"],
        "family": "sd2",
        "preview": 0,
    }


@pytest.mark.parametrize(
    "metadata",
    [
        {"parts": "[" * 50_000},
        {"parts": '{"a": 1}', "iou": "a 0.5"},
        {"parts": '["a"]', "iou": "a 7.0"},
        {"parts": '["a"]', "iou": "b 0.500"},
        {"parts": '["a"]', "iou": "a 1.500"},
        {"parts": '["a.*"]', "iou": "abc 0.500"},
        {"parts": '["a", 3, "' + "b" * 500 + '", ""]', "iou": "a\nb"},
        {"parts": '["a\\u0000\\u001b"]', "model_family": "x" * 10_000},
    ],
)
def test_hostile_headers_have_no_facts_that_are_wrong(folder, metadata):
    save_file({"embedding": torch.ones(2, 64)}, str(folder / "odd.safetensors"), metadata)
    shown = described_tokens(list_tokens())["odd.safetensors"]
    assert "iou" not in shown and "held_out" not in shown
    assert all(len(part) <= 100 and part.isprintable() for part in shown.get("parts", []))
    assert len(shown.get("family", "")) <= 100


def test_the_packs_own_tokens_have_pictures_and_facts():
    shown = described_tokens(list_tokens())
    own = {name: known for name, known in shown.items() if name.startswith("demo_")}
    assert len(own) >= 5
    for name, known in own.items():
        assert len(known["parts"]) == len(known["iou"]) == 1 and known["family"] == "demo" and "preview" in known, name


# --- the picture beside a saved token --------------------------------------------------------------------------


def seen(shade):
    picture = small_picture(torch.full((300, 400, 3), shade))
    return PartToken(torch.full((2, 16), 1 + shade), (1,), ("head",), "demo", picture=picture)


def shade_of(path):
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.size == (192, 144)
        return image.convert("L").getpixel((90, 70)) / 255


def test_a_picture_is_saved_beside_its_token_and_shown_by_the_picker(folder):
    path = keep_token(seen(0.25), "mine")
    assert shade_of(path.with_suffix(".webp")) == pytest.approx(0.25, abs=0.03)
    assert described_tokens(list_tokens())["mine.safetensors"]["preview"] == 0
    assert sorted(os.listdir(folder)) == ["mine.safetensors", "mine.webp"]
    second = keep_token(seen(0.75), "mine")
    assert second.stem == "mine_2" and shade_of(second.with_suffix(".webp")) == pytest.approx(0.75, abs=0.03)


def test_a_replaced_token_does_not_keep_the_picture_of_the_one_before(folder):
    picture = keep_token(seen(0.25), "mine").with_suffix(".webp")
    keep_token(seen(0.75), "mine", replace=True)
    assert shade_of(picture) == pytest.approx(0.75, abs=0.03)
    # The same token once more, loaded from its file and so without a picture: still the right one.
    keep_token(load_token(folder / "mine.safetensors"), "mine", replace=True, note="for horses")
    assert shade_of(picture) == pytest.approx(0.75, abs=0.03)
    keep_token(token(), "mine", replace=True)
    assert not picture.exists()
    # A token deleted by hand leaves its picture behind; a new one of that name does not get it.
    keep_token(seen(0.25), "other").unlink()
    assert keep_token(token(), "other").stem == "other" and not (folder / "other.webp").exists()


@pytest.mark.parametrize("ending", [".webp", ".png", ".jpg"])
def test_somebody_s_own_picture_stays(folder, ending):
    own = folder / f"mine{ending}"
    Image.new("RGB", (8, 8), "green").save(own)
    before = own.read_bytes()
    for one in (seen(0.25), token()):
        keep_token(one, "mine", replace=True)
        assert own.read_bytes() == before and len(os.listdir(folder)) == 2


def test_a_token_is_saved_even_if_its_picture_cannot_be(folder, caplog):
    (folder / "mine.webp.part").mkdir()  # where it would be written
    path = keep_token(seen(0.25), "mine")
    assert load_token(path).names == ("head",) and not (folder / "mine.webp").exists()
    assert "the picture of mine.safetensors was not saved" in caplog.text
    (folder / "odd.webp").write_bytes(b"RIFF nonsense")
    assert keep_token(seen(0.25), "odd").is_file() and (folder / "odd.webp").read_bytes() == b"RIFF nonsense"
