"""What the tests of OIR share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_is_remembered(pack, monkeypatch):
    """Every test's search begins anew, though tests share their pairs."""
    from partedit_oir.core.oir.memory import SearchMemory
    from partedit_oir.nodes import step_search

    monkeypatch.setattr(step_search, "MEMORY", SearchMemory())
