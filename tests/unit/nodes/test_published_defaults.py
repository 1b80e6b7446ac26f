"""What an artist gets who turns nothing: the papers' values."""

from __future__ import annotations

import importlib

import pytest

# node → input → the published value
PUBLISHED = {
    "FeatureBlendSampler": {"cfg": 7.5, "edit_steps": 1.0, "omega": 1.5, "threshold": "adaptive"},
    "FeatureBlendGuider": {"cfg": 7.5, "edit_steps": 1.0, "omega": 1.5, "threshold": "adaptive"},
    "InversionStepSearch": {"cfg": 7.5, "edit_weight": 1.0, "stride": 1, "first_step": 1, "last_step": 0},
    "OIRReassemble": {"cfg": 7.5, "reassembly": 0.2, "reinversion": 0.2},
    "TrainPartToken": {"learning_rate": 30.0, "noise_low": 0.0, "noise_high": 0.25, "loss": "bce", "layers": "first-8"},
}


@pytest.mark.parametrize("node", PUBLISHED)
def test_defaults_are_the_published_values(pack, node):
    classes = {one.__name__: one for one in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}
    inputs = {entry.id: entry for entry in classes[node].define_schema().inputs}
    assert {name: inputs[name].default for name in PUBLISHED[node]} == PUBLISHED[node]


def test_the_core_has_the_same(pack):
    from partedit_oir.core.oir.reassembly import ReassemblySettings
    from partedit_oir.core.oir.search_settings import SearchSettings
    from partedit_oir.core.partedit.feature_blend import SampleSettings

    assert SampleSettings().cfg == SearchSettings().cfg == ReassemblySettings().cfg == 7.5


@pytest.mark.parametrize("node", ["FeatureBlendSampler", "FeatureBlendGuider", "AdaptiveOtsuThreshold"])
def test_sliders_end_where_values_are_useful_and_the_node_takes_more(pack, node):
    """A number of steps and a wide ω, as older workflows, API calls and connected numbers give them."""
    classes = {one.__name__: one for one in importlib.import_module("partedit_oir.nodes").NODE_CLASSES}
    inputs = {entry.id: entry.as_dict() for entry in classes[node].define_schema().inputs}
    asked = {"omega": (3.0, 8.0, 11.0), "edit_steps": (1.0, 50.0, -1.0)}
    for name in asked if "edit_steps" in inputs else ("omega",):
        end, more, too_much = asked[name]
        assert inputs[name]["max"] == end and inputs[name]["display"] == "slider"
        for value in (None, end, more):
            assert classes[node].validate_inputs(**{name: value}) is True
        for value in (too_much, float("nan")):
            assert classes[node].validate_inputs(**{name: value}).startswith(f"{name}: {value:g} is not between")
