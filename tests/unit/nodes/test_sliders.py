"""A slider shows the useful part of a range; a node takes what older workflows and other nodes give beyond it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["FeatureBlendSampler", "FeatureBlendGuider"])
def test_steps_as_a_number_and_a_large_omega_are_taken(pack, name):
    from partedit_oir.nodes import NODE_CLASSES
    from partedit_oir.nodes.checks import check_inputs

    (node,) = [one for one in NODE_CLASSES if one.__name__ == name]
    schema = node.define_schema()
    assert check_inputs(schema, {"edit_steps": 20.0, "omega": 5.0}, node.validate_inputs) == {}
    for given in ({"edit_steps": -1.0}, {"omega": 11.0}, {"omega": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(given))):
            check_inputs(schema, given, node.validate_inputs)
    with pytest.raises(ValueError, match=r"cfg: -1\.0 is outside"):
        check_inputs(schema, {"cfg": -1.0}, node.validate_inputs)
