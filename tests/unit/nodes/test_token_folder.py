"""ComfyUI's folders of part tokens: what is listed and found there, and names that would leave them."""

from __future__ import annotations

import os

import pytest
import torch

from tools.bootstrap import load_pack

load_pack()
import folder_paths

from partedit_oir.core.files import safe_file_name
from partedit_oir.core.partedit.published import published_names, published_tokens
from partedit_oir.core.partedit.token_files import load_token, save_token
from partedit_oir.core.partedit.tokens import PartToken
from partedit_oir.nodes.token_folder import FOLDER, find_token, list_tokens


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only registered token folder."""
    made = tmp_path / "part_tokens"
    made.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(made)], {".safetensors", ".pt"}))
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


def test_a_published_token_that_is_missing_says_where_to_get_it(folder):
    assert len(published_tokens()) >= 7
    for name in published_names([]):
        with pytest.raises(ValueError, match="Aleksandar/PartEdit-extra") as info:
            find_token(name)
        assert str(folder) in str(info.value) and "Licence" in str(info.value)
    assert not any(entry.startswith("human_head ") for entry in published_names(["human_head.pt"]))
    with pytest.raises(ValueError, match="unverified"):
        find_token("quadruped_head.pt")
