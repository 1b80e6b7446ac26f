"""The parity command on cases it has not seen: every documented setting counts, others are errors."""

from __future__ import annotations

import json

import pytest
import torch

BASE = {
    "seed": 3,
    "scheduler": "ddim",
    "steps": 3,
    "cfg": 7.5,
    "edit_steps": 3,
    "omega": 1.5,
    "threshold": "PARTEDIT",
    "padding": "BG",
    "parts": 1,
    "source_prompt": "a closeup of a man outdoors",
    "edit_prompt": "a closeup of a robot outdoors",
    "p2p": {"edit_type": "replace", "n_self_replace": 0.0, "n_cross_replace": 0.5},
}
PARTS = ("source_latents", "edit_latents", "masks_64")


@pytest.fixture(scope="module")
def run(pack):
    """Runs a case on a shallow network of the same shapes."""
    from tools.parity import partedit as parity_partedit

    deep = parity_partedit.sdxl_shaped_model
    shallow = {
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
    }
    patch = pytest.MonkeyPatch()
    patch.setattr(parity_partedit, "sdxl_shaped_model", lambda seed: deep(seed, **shallow))
    kept = {}

    def compute(**changes):
        settings = {**BASE, **changes}
        key = json.dumps(settings)
        if key not in kept:
            inputs = parity_partedit.draw_inputs(settings["seed"], settings["parts"])
            kept[key] = parity_partedit.compute_case(settings, inputs)
        return kept[key]

    yield compute
    patch.undo()


def differing(a, b):
    return {name for name in PARTS if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])}


def p2p(**changes):
    return {"p2p": {**BASE["p2p"], **changes}}


WORDS = {"edit_type": "reweight", "equalizer_words": ["robot"], "equalizer_strengths": [3.0]}


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"seed": 4}, set(PARTS)),
        ({"steps": 4}, set(PARTS)),
        # The same levels, so the same maps: DDIM is Euler, up to scale and the last step.
        ({"scheduler": "euler"}, {"source_latents", "edit_latents"}),
        ({"cfg": 2.0}, set(PARTS)),
        ({"edit_steps": 2}, {"edit_latents"}),
        ({"omega": 1.0}, {"edit_latents", "masks_64"}),
        ({"threshold": "BINARY_OTSU"}, {"edit_latents", "masks_64"}),
        ({"threshold": "BINARY_0_5"}, {"edit_latents", "masks_64"}),
        ({"padding": "EOS"}, {"edit_latents", "masks_64"}),
        ({"padding": "ZERO"}, {"edit_latents", "masks_64"}),
        ({"padding": "SOT_E"}, set()),
        ({"edit_prompt": "a closeup of a triceratops outdoors"}, {"edit_latents"}),
        (p2p(n_cross_replace=0.0), {"edit_latents"}),
        (p2p(n_self_replace=0.8), {"edit_latents"}),
        (p2p(n_cross_replace={"default_": 0.5, "robot": 1.0}), {"edit_latents"}),
        # A phrase is lost, as in the published code.
        (p2p(n_cross_replace={"default_": 0.5, "a robot": 1.0}), set()),
        (p2p(**WORDS), {"edit_latents"}),
        ({"p2p": None}, {"edit_latents"}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_every_setting_has_its_effect(run, changes, changed):
    assert differing(run(**changes), run()) == changed


def test_parts_and_mixtures(run):
    two = run(parts=2, padding="EOS", threshold="BINARY_OTSU", scheduler="euler", edit_steps=9)
    assert set(two["masks_64"].unique().tolist()) > {0.0, 1.0}  # resized from hard masks
    assert differing(two, run(padding="EOS", threshold="BINARY_OTSU", scheduler="euler", edit_steps=9))
    # The type matters when a word is inserted; 'replace' cannot take that.
    inserted = {"edit_prompt": "a closeup of a smiling robot outdoors"}
    refined = run(**inserted, **p2p(edit_type="refine"))
    assert differing(refined, run(**inserted, **p2p(**WORDS))) == {"edit_latents"}
    with pytest.raises(ValueError, match="'replace' needs as many words"):
        run(**inserted)


def test_no_blending_is_zero_edit_steps(run):
    assert differing(run(edit_steps=0), run(edit_steps=1)) == set()
    assert differing(run(edit_steps=0), run()) == {"edit_latents"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 1}, "tau: unknown setting; known are seed"),
        ({"threshold": "OTSU"}, "threshold: 'OTSU' is not one of PARTEDIT"),
        ({"padding": None}, "padding: None is not one of BG"),
        ({"scheduler": "dpm"}, "scheduler: 'dpm' is not one of ddim, euler"),
        ({"parts": 39}, "parts: 39 is outside 1 to 38"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"cfg": "7"}, "cfg: expected a number, got '7'"),
        ({"omega": 0.2}, "omega: 0.2 is below 0.5"),
        ({"edit_prompt": 1}, "edit_prompt: expected a text"),
        (p2p(local_blend="man"), "local_blend: unknown p2p setting"),
        (p2p(edit_type="swap"), "p2p.edit_type: 'swap' is not one of replace"),
        (p2p(n_cross_replace={"robot": 2}), "p2p.n_cross_replace robot: 2 is outside 0 to 1"),
        (p2p(edit_type="reweight"), "p2p.equalizer_words: required for edit_type 'reweight'"),
        ({"p2p": "replace"}, "p2p: expected settings"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_is_not_known_is_an_error(run, changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        run(**changes)


def test_the_command_goes_on_after_a_case_that_cannot_be_run(run, tmp_path, capsys):
    from safetensors.torch import save_file

    from tools.parity import compare as parity

    def write(name, settings, tensors):
        (tmp_path / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
        save_file({key: value.contiguous() for key, value in tensors.items()}, str(tmp_path / f"{name}.safetensors"))

    good = run()
    write("a_good", BASE, good)
    assert parity.main(tmp_path) == 0
    write("b_unknown", {**BASE, "tau": 1}, good)
    write("c_neither", {"seed": 1}, good)
    write("d_short", BASE, {"source_latents": good["source_latents"], "edit_latents": good["edit_latents"]})
    write("e_other", {**BASE, "steps": 4}, good)
    write("f_off", BASE, {**good, "edit_latents": good["edit_latents"] * 1.01})
    write("g_broken", BASE, good)
    (tmp_path / "g_broken.json").write_text("{", encoding="utf-8")
    capsys.readouterr()
    assert parity.main(tmp_path) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["ok"] for line in lines] == [True] + [False] * 6
    assert "tau: unknown setting" in lines[1]["error"] and "neither a PartEdit case" in lines[2]["error"]
    assert "masks_64 or masks_16 is not recorded" in lines[3]["error"] and "shape" in lines[4]["error"]
    assert lines[5]["edit"] > 5e-3 and "error" in lines[6]
