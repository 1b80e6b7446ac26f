"""The pack's one route on a real server: who it answers, and that it does nothing but set a flag of a running node."""

from __future__ import annotations

import json
import urllib.error

import pytest

IDS = {"prompt_id": "00000000-0000-0000-0000-000000000000", "node": "7"}


def ask(client, body=b"", path="/partedit/stop", **headers):
    """Status and content of the answer; a GET without a body."""
    try:
        return 200, json.loads(client.request(path, body, headers))
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


@pytest.mark.parametrize("path", ["/partedit/stop", "/api/partedit/stop"])
def test_a_node_that_is_not_running_cannot_be_stopped(client, path):
    status, answer = ask(client, json.dumps(IDS).encode(), path=path)
    assert status == 404 and "not running" in answer["error"]


def test_what_names_no_node_is_refused(client):
    bodies = (b"", b"null", b"{}", b'{"node": "../../etc/passwd"}', b'{"prompt_id": {}, "node": []}', b"\xff")
    assert [ask(client, body)[0] for body in bodies] == [400] * len(bodies)
    assert ask(client, b" " * 3000)[0] == 413
    assert ask(client, json.dumps({**IDS, "node": "x" * 3000}).encode())[0] == 413


def test_only_a_post_from_the_same_origin_is_taken(client):
    assert ask(client, None)[0] in (404, 405)
    status, _ = ask(client, json.dumps(IDS).encode(), Origin="http://elsewhere.example")
    assert status == 403
