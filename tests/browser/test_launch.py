"""Finding and starting the browser."""

from __future__ import annotations

import os
import sys

import pytest
from playwright.sync_api import Error

from support.editor import find_chromium, launch


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX script")
def test_it_is_started_without_its_sandbox_where_that_cannot_run(browser, tmp_path, monkeypatch):
    program, calls = tmp_path / "chromium", tmp_path / "calls"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> '{calls}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Error, match="has been closed"):
        launch(browser.browser_type, str(program))
    first, second = calls.read_text().splitlines()
    assert "--no-sandbox" not in first and "--no-sandbox" in second


def test_a_browser_that_is_named_comes_before_those_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "chromium").write_text("")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PARTEDIT_CHROMIUM", raising=False)
    assert find_chromium() == str(tmp_path / "chromium")
    monkeypatch.setenv("PARTEDIT_CHROMIUM", "/opt/chromium")
    assert find_chromium() == "/opt/chromium"
    monkeypatch.delenv("PARTEDIT_CHROMIUM")
    monkeypatch.setenv("PATH", "")
    assert find_chromium() is None
