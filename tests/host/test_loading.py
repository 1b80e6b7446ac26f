"""The pack in a real server: nodes, web folder, help pages, templates, translations."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse

import pytest


def test_every_node_of_the_pack_is_there(pack, object_info):
    from partedit_oir.nodes import NODE_CLASSES

    missing = [node.GET_SCHEMA().node_id for node in NODE_CLASSES if node.GET_SCHEMA().node_id not in object_info]
    assert NODE_CLASSES and not missing


def test_nodes_say_which_pack_they_come_from(object_info, pack_name):
    from partedit_oir.nodes import NODE_CLASSES

    modules = {object_info[node.GET_SCHEMA().node_id]["python_module"] for node in NODE_CLASSES}
    assert modules == {f"custom_nodes.{pack_name}"}


def test_the_log_has_no_complaint_about_the_pack(server, client, pack_name):
    log = server.log.read_text(encoding="utf-8", errors="replace")
    bad = [
        line for line in log.splitlines() if "IMPORT FAILED" in line or ("Cannot import" in line and pack_name in line)
    ]
    assert not bad, bad
    assert f"{pack_name}" in log


def test_javascript_and_help_pages_are_served(client, pack_name, repository):
    assert f"/extensions/{pack_name}/extension.js" in client.get_json("/extensions")
    files = [path for path in (repository / "js").rglob("*") if path.suffix in (".js", ".md")]
    assert files
    for path in files:
        address = f"/extensions/{pack_name}/{urllib.parse.quote(path.relative_to(repository / 'js').as_posix())}"
        assert client.request(address) == path.read_bytes(), address


def test_templates_are_listed_and_served_with_thumbnails(client, pack_name, repository):
    workflows = sorted((repository / "workflows").glob("*.json"))
    listed = client.get_json("/workflow_templates").get(pack_name, [])
    assert workflows and sorted(listed) == [path.stem for path in workflows]
    for path in workflows:
        address = f"/api/workflow_templates/{pack_name}/{urllib.parse.quote(path.stem)}"
        assert json.loads(client.request(f"{address}.json")) == json.loads(path.read_text(encoding="utf-8"))
        assert client.request(f"{address}.jpg")[:2] == b"\xff\xd8", f"{path.stem} has no thumbnail"


def test_translations_are_served(client, repository):
    served = client.get_json("/i18n")
    for folder in (repository / "locales").iterdir():
        for file in folder.glob("*.json"):
            own = json.loads(file.read_text(encoding="utf-8"))
            part = served[folder.name] if file.stem == "main" else served[folder.name][file.stem]
            for key, value in own.items():
                assert key in part
                if isinstance(value, dict):
                    assert set(value) <= set(part[key])


def test_model_folders_are_registered(pack, client):
    folders = {entry["name"] if isinstance(entry, dict) else entry for entry in client.get_json("/models")}
    assert set(pack.MODEL_FOLDERS) <= folders


def test_files_outside_the_web_folder_are_not_served(client, pack_name):
    for path in ("../pyproject.toml", "%2e%2e/pyproject.toml", "..%2fpyproject.toml"):
        with pytest.raises(urllib.error.HTTPError):
            client.request(f"/extensions/{pack_name}/{path}")
