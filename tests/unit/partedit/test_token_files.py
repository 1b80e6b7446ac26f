"""Token files that mean harm or are broken: refused with a clear message, nothing run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from tools.bootstrap import load_pack

load_pack()
from partedit_oir.core.partedit.token_facts import token_facts
from partedit_oir.core.partedit.token_files import MAX_FILE_BYTES, load_token, save_token
from partedit_oir.core.partedit.tokens import PartToken


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def token(width=16, names=("head",)):
    rows = torch.randn((1 + len(names), width), generator=torch.Generator().manual_seed(0))
    return PartToken(rows, tuple(range(1, 1 + len(names))), tuple(names), "demo", {"steps": "20"})


def test_the_bomb_would_go_off_without_care(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Bomb(marker))).close()
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".PTH", ".ckpt", ".safetensors", ".sft"])
@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"embedding": torch.zeros(2, 4), "x": bomb}])
def test_pickles_with_code_do_not_run(tmp_path, wrap, suffix):
    marker, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    for write in (lambda value: torch.save(value, path), lambda value: path.write_bytes(pickle.dumps(value))):
        write(wrap(Bomb(marker)))
        with pytest.raises(ValueError, match=r"evil\.\w+: .* contains more than plain tensors") as info:
            load_token(path)
        assert "weights_only" not in str(info.value)
        assert not marker.exists()


def test_truncated_and_lying_safetensors(tmp_path):
    path = tmp_path / "t.safetensors"
    save_token(token(), path)
    whole = path.read_bytes()
    for cut in (3, 20, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"t\.safetensors: is damaged"):
            load_token(path)
    header = json.dumps({"embedding": {"dtype": "F32", "shape": [2, 10**12], "data_offsets": [0, 8 * 10**12]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    with pytest.raises(ValueError, match="is damaged"):
        load_token(path)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_token(path)


def test_oversized_and_empty_files_are_not_read(tmp_path):
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room on the disk
    with pytest.raises(ValueError, match=r"big\.safetensors: has 64 MB"):
        load_token(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        load_token(path)


def test_a_small_archive_that_unfolds_to_a_large_one_is_not_read(tmp_path, monkeypatch):
    plain, path = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save(torch.zeros(MAX_FILE_BYTES // 4 + 8)[:32].view(2, 16), plain)  # keeps the storage behind the view
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    plain.unlink()
    assert path.stat().st_size < MAX_FILE_BYTES // 100
    assert torch.load(path, weights_only=True).shape == (2, 16)  # it would be taken for a token
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ValueError, match=r"bomb\.pt: has 64 MB"):
        load_token(path)


def test_a_cut_archive_is_named(tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(torch.zeros(2, 16), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut\.pt: is damaged"):
        load_token(path)


def test_a_view_of_terabytes_in_a_small_file(tmp_path):
    path = tmp_path / "view.pt"
    torch.save(torch.zeros(1).expand(2, 10**12), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="shape"):
        load_token(path)


@pytest.mark.parametrize(
    "value, words",
    [
        (torch.zeros(16), "shape"),
        (torch.zeros(1, 16), "shape"),
        (torch.zeros(78, 16), "shape"),
        (torch.zeros(2, 16, 2), "shape"),
        (torch.zeros(2, 0), "shape"),
        (torch.zeros(2, 16, dtype=torch.int64), "int64"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), "NaN"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]), "infinite"),
        (torch.zeros(2, 16).to_sparse(), "sparse"),
        ([1, 2, 3], "no tensor"),
        ({}, "no tensor"),
    ],
)
def test_wrong_contents_are_named(tmp_path, value, words):
    path = tmp_path / "wrong.pt"
    torch.save(value, path)
    with pytest.raises(ValueError, match=words) as info:
        load_token(path)
    assert "wrong.pt" in str(info.value)


def test_wrong_shapes_in_safetensors_too(tmp_path):
    path = tmp_path / "w.safetensors"
    two = {"a": torch.zeros(2, 4), "b": torch.zeros(2)}
    for tensors, words in (({"embedding": torch.zeros(3)}, "shape"), (two, "no tensor")):
        save_file(tensors, str(path))
        with pytest.raises(ValueError, match=words):
            load_token(path)


def test_published_files_load(tmp_path):
    rows = torch.randn(2, 2048, dtype=torch.float16)
    torch.save(torch.nn.Parameter(rows), tmp_path / "human_head.pt")
    found = load_token(tmp_path / "human_head.pt")
    assert torch.equal(found.embedding, rows.float()) and found.part_rows == (1,) and found.names == ("human_head",)
    assert found.model_family == "sdxl"
    save_file({"some_key": rows}, str(tmp_path / "human_hair.safetensors"))
    assert torch.equal(load_token(tmp_path / "human_hair.safetensors").embedding, rows.float())
    for saved in ({"embedding": rows}, {"step": torch.zeros(1), "embedding": rows}, {"other": rows}):
        torch.save(saved, tmp_path / "human_torso.pt")
        assert torch.equal(load_token(tmp_path / "human_torso.pt").embedding, rows.float())


@pytest.mark.parametrize("width, family", [(2048, "sdxl"), (1024, "sd2"), (768, ""), (640, "")])
def test_a_width_tells_the_family_unless_two_share_it(tmp_path, width, family):
    path = tmp_path / "plain.safetensors"
    save_file({"embedding": torch.ones(2, width)}, str(path))
    assert load_token(path).model_family == token_facts(path).family == family


def test_a_token_survives_saving(tmp_path):
    before = token(names=("head", "tail"))
    save_token(before, tmp_path / "t.safetensors")
    after = load_token(tmp_path / "t.safetensors")
    assert torch.equal(after.embedding, before.embedding)
    assert (after.names, after.part_rows, after.model_family) == (before.names, before.part_rows, "demo")
    assert after.metadata == before.metadata, "what the file says of itself is no note of the token"
    assert os.listdir(tmp_path) == ["t.safetensors"]


def test_hostile_metadata_is_harmless(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {"embedding": torch.zeros(2, 4)}
    for parts in ('["\\u0007\\u001b[2Jhead"]', "[" * 5000, '{"a": 1}', '["a", "b", "c"]', "[1]", "null"):
        save_file(tensors, str(path), {"parts": parts, "part_rows": "[1]", "note": "x\x1b[31m\x00" + "y" * 10**5})
        found = load_token(path)
        assert found.names[0].isprintable() and len(found.names) == 1
        assert "\x1b" not in found.metadata["note"] and len(found.metadata["note"]) <= 20_000
    save_file({"embedding": torch.zeros(4, 4)}, str(path), {"parts": '[" left ear\\n", "tail"]'})
    assert load_token(path).names == ("left ear", "tail")
    for parts in ('["ear", "ear"]', '["ear", " ear"]', '["", "ear"]', '["ear"]'):
        save_file({"embedding": torch.zeros(4, 4)}, str(path), {"parts": parts})
        assert load_token(path).names == ("t 1", "t 2"), "parts without names of their own are counted"
    for rows in ("[0]", "[5]", "[-1]"):
        save_file(tensors, str(path), {"part_rows": rows})
        with pytest.raises(ValueError, match="part rows"):
            load_token(path)
