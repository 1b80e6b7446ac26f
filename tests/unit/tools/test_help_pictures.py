"""Help pictures are made by the pack: a recipe for each, and the runner that the recipes lean on."""

from __future__ import annotations

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tools.help_pictures import make, panels
from tools.help_pictures.recipes import RECIPES
from tools.help_pictures.results import Results
from tools.templates.compose import ComposeError, Node

DOCS = Path(__file__).resolve().parents[3] / "js" / "docs"


def test_every_help_picture_has_a_recipe_and_every_node_a_picture(pack):
    nodes = [node.__name__ for node in importlib.import_module("partedit_oir.nodes").NODE_CLASSES]
    assert set(RECIPES) == set(nodes)
    pictures = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.webp")}
    assert pictures == {f"{name}/example.webp" for name in RECIPES}


@pytest.mark.parametrize("name", ["LoadSAMModel", "GroundedSAMMask", "SAMPointMask", "LoadGroundingModel"])
def test_a_recipe_makes_the_picture_that_the_page_shows(name):
    """Those that need no model run."""
    made = Image.open(io.BytesIO(make.encoded(RECIPES[name]()))).convert("RGB")
    with Image.open(DOCS / name / "example.webp") as file:
        shown = file.convert("RGB")
    assert made.size == shown.size
    assert np.abs(np.asarray(made, dtype=float) - np.asarray(shown, dtype=float)).mean() < 2


def test_make_writes_the_pictures_that_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    monkeypatch.setattr(make, "RECIPES", {"One": lambda: Image.new("RGB", (8, 8)), "Two": None})
    (tmp_path / "One").mkdir()
    assert make.main(["One"]) == 0
    with Image.open(tmp_path / "One" / "example.webp") as file:
        assert file.format == "WEBP" and file.size == (8, 8)
    with pytest.raises(SystemExit):
        make.main(["Three"])
    assert "no recipe for Three" in capsys.readouterr().err


def test_results_run_a_description_on_the_host_s_and_the_pack_s_nodes(pack):
    """Defaults, values, changes and links; each node once, and only when it is asked for."""
    results = Results(
        (
            Node("nothing", "SolidMask", 0, {"value": 0.0, "width": 8, "height": 8}),
            Node("box", "SolidMask", 0, {"width": 4, "height": 4}),
            Node("soft", "MaskComposite", 0, {"x": 2, "y": 2}, {"destination": "nothing", "source": "box"}),
            Node("mask", "AdaptiveOtsuThreshold", 0, {"method": "otsu"}, {"mask": "soft"}),
            Node("unasked", "LoadImage", 0, {"image": "none.png"}),
        ),
        {"soft": {"operation": "add"}},
    )
    mask = results["mask"]
    assert mask.shape == (1, 8, 8) and mask.sum() == 16 and mask[0, 2:6, 2:6].min() == 1
    assert results["mask.mask"] is mask and 0 < results["mask.threshold"] < 1
    with pytest.raises(ComposeError, match="no output 'wrong'"):
        results["mask.wrong"]
    with pytest.raises(KeyError):
        results["missing"]


def test_panels():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    image = panels.picture(torch.full((1, 16, 16, 3), 0.5))
    tinted = np.asarray(panels.tinted(image, mask, dim=0.5)).astype(int)
    assert abs(tinted[15, 0] - 64).max() <= 1 and tinted[0, 0, 0] > 180 and tinted[0, 0, 1] < 60
    row = panels.row([("a", image), ("b", panels.picture(mask))], 100)
    assert row.size == (3 * panels.GAP + 200, panels.HEAD + 100 + panels.GAP)
    assert row.getpixel((panels.GAP + 50, panels.HEAD + 50))[0] in (127, 128) and row.getpixel((2, 60)) == panels.GROUND


def test_a_panel_of_text_shows_every_line_or_is_refused():
    """The last of Edit Metrics' thirteen lines was below the edge, and the picture did not show it."""
    made = np.asarray(panels.lines([*["one"] * 12, "last"], (120, 256)))
    assert (made[256 - 25 :] != panels.GROUND).any()
    for texts, size in ((["one"] * 20, (120, 256)), (["a long line of text"], (60, 256))):
        with pytest.raises(ValueError, match="does not hold"):
            panels.lines(texts, size)
