"""The pack's model folders beside those that other packs and extra_model_paths.yaml have registered."""

from __future__ import annotations

import folder_paths
import pytest


@pytest.fixture
def register(pack, monkeypatch, tmp_path):
    """Registers the pack's folders anew, after ``entries`` that were there before."""

    def run(**entries):
        known = dict(folder_paths.folder_names_and_paths)
        for name in pack.MODEL_FOLDERS:
            known.pop(name, None)
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", {**known, **entries})
        pack._register_model_folders()
        return folder_paths.folder_names_and_paths

    return run


def test_a_new_folder_has_the_packs_extensions(register, pack):
    found = register()
    for name, extensions in pack.MODEL_FOLDERS.items():
        assert found[name][1] == extensions
        assert found[name][1] is not pack.MODEL_FOLDERS[name], "a later pack may change it"


def test_a_set_that_another_pack_shares_between_folders_stays_as_it_was(register):
    shared = {".pth", ".onnx"}
    found = register(sams=(["there"], shared), theirs=(["other"], shared))
    assert shared == {".pth", ".onnx"} and found["theirs"][1] is shared
    assert found["sams"][1] == {".pth", ".onnx", ".pt", ".safetensors"}
    assert found["sams"][0][0] == "there" and len(found["sams"][0]) == 2


def test_a_folder_that_lists_every_file_still_does_and_the_pack_picks_its_own(register, tmp_path):
    from partedit_oir.nodes.folders import loose_files, model_file

    for name in ("sam.pth", "model.onnx", "notes.txt", "HQ.SAFETENSORS"):
        (tmp_path / name).write_bytes(b"")
    found = register(sams=([str(tmp_path)], set()))
    assert found["sams"][1] == set()
    folder_paths.filename_list_cache.pop("sams", None)
    try:
        assert {"model.onnx", "notes.txt"} <= set(folder_paths.get_filename_list("sams"))
        assert sorted(loose_files("sams")) == ["HQ.SAFETENSORS", "sam.pth"]
        with pytest.raises(ValueError, match=r"checkpoint: no file 'model\.onnx'"):
            model_file("sams", "model.onnx", "Get one")
    finally:
        folder_paths.filename_list_cache.pop("sams", None)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("ComfyUI-PartEdit-OIR", True),
        ("partedit-oir", True),
        ("ComfyUI-PartEdit-OIR-0.1.0", True),
        ("ComfyUI-PartEdit-OIR-main (1)", False),  # a second download on Windows
        ("PartEdit für mich", False),
    ],
)
def test_a_folder_whose_files_the_server_would_not_find_is_warned_of(pack, caplog, name, served):
    pack._check_folder_name(f"/somewhere/custom_nodes/{name}")
    assert (name not in caplog.text) == served
