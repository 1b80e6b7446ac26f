"""The search metric against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def metric(pack):
    from partedit_oir.core.oir import metric

    return metric


def test_keep_score_by_hand(metric):
    source = torch.zeros(2, 2, 3)
    candidate = source.clone()
    candidate[0, 0] = torch.tensor([0.3, 0.0, 0.6])  # outside: (0.09 + 0 + 0.36) / 3 = 0.15
    candidate[1, 1] = 1.0  # inside the mask: must not count
    mask = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    # 0.15 over the three pixels outside
    assert metric.keep_score(candidate, source, mask) == pytest.approx(-0.05)


def test_a_soft_mask_weighs_the_error(metric):
    source, candidate = torch.zeros(1, 2, 1), torch.tensor([[[1.0], [0.5]]])
    mask = torch.tensor([[0.75, 0.5]])
    # (1 · 0.25 + 0.25 · 0.5) / (0.25 + 0.5)
    assert metric.keep_score(candidate, source, mask) == pytest.approx(-0.5)


def test_nothing_outside_scores_zero(metric):
    assert metric.keep_score(torch.ones(2, 2, 3), torch.zeros(2, 2, 3), torch.ones(2, 2)) == 0.0


def test_combine_by_hand(metric):
    result = metric.combine([0.20, 0.25, 0.30, 0.28], [-0.00, -0.01, -0.03, -0.04])
    assert result.edit_norm == pytest.approx([0.0, 0.5, 1.0, 0.8])
    assert result.keep_norm == pytest.approx([1.0, 0.75, 0.25, 0.0])
    assert result.total == pytest.approx([1.0, 1.25, 1.25, 0.8])
    assert result.best == 1, "of equal totals the one with fewer steps wins"


def test_the_weight_decides_between_the_edit_and_the_rest(metric):
    edit, keep = [0.20, 0.25, 0.30, 0.28], [-0.00, -0.01, -0.03, -0.04]
    assert metric.combine(edit, keep, edit_weight=1.0) == metric.combine(edit, keep), "1 is the paper's plain sum"
    heavy = metric.combine(edit, keep, edit_weight=2.0)
    assert heavy.total == pytest.approx([1.0, 1.75, 2.25, 1.6]) and heavy.best == 2
    assert heavy.edit_norm == pytest.approx([0.0, 0.5, 1.0, 0.8]), "the halves stay in 0 … 1"
    assert metric.combine(edit, keep, edit_weight=100.0).best == 2, "the best S_e"
    assert metric.combine(edit, keep, edit_weight=0.01).best == 0, "the best S_ne"


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_named_with_its_value(metric, weight):
    with pytest.raises(ValueError, match=rf"^edit_weight: expected a number above 0 .*got {weight}"):
        metric.combine([0.1, 0.2], [0.0, -0.1], edit_weight=weight)


def test_scores_that_are_all_alike_decide_nothing(metric):
    result = metric.combine([0.3, 0.3, 0.3], [-0.2, -0.1, -0.3])
    assert result.edit_norm == (0.0, 0.0, 0.0)
    assert result.best == 1
    assert metric.combine([0.5], [-1.0]).total == (0.0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(metric, bad):
    with pytest.raises(ValueError, match="finite"):
        metric.combine([0.1, bad], [0.0, 0.0])


def test_no_candidates_are_refused(metric):
    with pytest.raises(ValueError, match=r"edit, keep: expected scores .*got 0 and 0"):
        metric.combine([], [])
