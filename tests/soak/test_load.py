"""Hundreds of jobs on one server: nothing grows once caches are full. Run by ``python3 run.py test --soak``."""

from __future__ import annotations

from bench.load import growth, run_load


def test_three_hundred_edits_and_fifty_searches_hold_their_memory(server, client):
    found = run_load(server, client, 300, 50)
    for kind, records in found.items():
        # The allocator keeps some free memory of its own; a leak of one 128 x 128 picture a job would be more.
        assert growth(records, "megabytes") < 1.05, kind
        assert growth(records, "threads") <= 1.1 and growth(records, "files") <= 1.1, kind
