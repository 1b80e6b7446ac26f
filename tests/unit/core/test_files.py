"""Files are written whole or not at all: by what ships, and by the tools, which have the same code of their own."""

from __future__ import annotations

import pytest

from tools.bootstrap import load_pack
from tools.host import layout

load_pack()
from partedit_oir.core import files

BOTH = pytest.mark.parametrize("whole_file", [files.whole_file, layout.whole_file], ids=["core", "tools"])


@BOTH
def test_a_file_takes_its_place_at_the_end(tmp_path, whole_file):
    path = tmp_path / "token.safetensors"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@BOTH
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_broken_write_changes_nothing(tmp_path, whole_file, error):
    path = tmp_path / "token.safetensors"
    path.write_text("old")
    with pytest.raises(type(error)), whole_file(path) as temporary:
        temporary.write_text("half of")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
