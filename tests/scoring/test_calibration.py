"""Scores of confidences: closed forms, brute force, and properties."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import UserError
from asr.scoring.calibration import (
    bootstrap_interval,
    calibration,
    expected_calibration_error,
    normalised_cross_entropy,
    plot_calibration,
    reliability,
    roc_auc,
    roc_curve,
)

WORDS = st.lists(st.tuples(st.sampled_from([k / 16 for k in range(17)]), st.booleans()), min_size=1, max_size=60)


def split(words):
    return np.array([p for p, _ in words]), np.array([right for _, right in words])


@pytest.mark.parametrize("n", [1, 30, 99])
def test_nce_of_the_base_rate_is_0_and_of_the_truth_is_1(n):
    right = np.arange(100) < n
    assert normalised_cross_entropy(np.full(100, n / 100), right) == pytest.approx(0.0, abs=1e-12)
    assert normalised_cross_entropy(right.astype(float), right) == pytest.approx(1.0, abs=1e-4)


def test_nce_by_hand():
    # 3 of 4 right: H_max = 3 log2(4/3) + log2(4); the confidences cost 2 log2(1/0.9) + log2(1/0.5) + log2(1/0.8) bits
    most = 3 * math.log2(4 / 3) + 2
    cost = -2 * math.log2(0.9) - math.log2(0.5) - math.log2(0.8)
    found = normalised_cross_entropy([0.9, 0.9, 0.5, 0.2], [True, True, True, False])
    assert found == pytest.approx((most - cost) / most)


def test_nce_punishes_a_certain_error_but_stays_finite():
    value = normalised_cross_entropy([1.0, 1.0, 1.0, 0.0], [True, False, True, False])
    assert -10 < value < -4


def test_undefined_where_nothing_is_wrong():
    found = calibration([0.5, 0.9], [True, True])
    assert math.isnan(found.nce) and math.isnan(found.auc)
    assert found.ece == pytest.approx(0.3)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["nce"] is None
    with pytest.raises(ValueError, match="ROC"):
        roc_curve([0.5], [True])


@given(WORDS)
def test_auc_is_the_share_of_ordered_pairs(words):
    p, right = split(words)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[right] for b in p[~right]]
    if not pairs:
        assert math.isnan(roc_auc(p, right))
    else:
        assert roc_auc(p, right) == pytest.approx(np.mean(pairs))
        alarms, hits = roc_curve(p, right)
        assert alarms[0] == hits[0] == 0 and alarms[-1] == hits[-1] == 1
        assert (np.diff(alarms) >= 0).all() and (np.diff(hits) >= 0).all()


@given(WORDS, st.integers(1, 12), st.randoms())
def test_bins_hold_every_word_once_and_no_order_matters(words, bins, random):
    p, right = split(words)
    rows = reliability(p, right, bins)
    assert sum(row.words for row in rows) == len(p) and len(rows) <= bins
    assert sum(row.words * row.accuracy for row in rows) == pytest.approx(right.sum())
    assert sum(row.words * row.confidence for row in rows) == pytest.approx(p.sum())
    assert all(a.high < b.low for a, b in zip(rows, rows[1:], strict=False))
    random.shuffle(words)
    shuffled = reliability(*split(words), bins)
    for a, b in zip(rows, shuffled, strict=True):
        assert (a.low, a.high, a.words) == (b.low, b.high, b.words) and a.accuracy == pytest.approx(b.accuracy)


def test_bins_of_different_confidences_have_equal_mass():
    rows = reliability(np.linspace(0, 1, 95), np.ones(95, bool), 10)
    assert len(rows) == 10 and {row.words for row in rows} <= {9, 10}


def test_ece_closed_forms():
    right = np.arange(10) < 7
    assert expected_calibration_error(np.full(10, 0.7), right) == pytest.approx(0.0)
    assert expected_calibration_error(np.full(10, 0.9), right) == pytest.approx(0.2)
    # two bins of 5: confidence 0.2 of which 1 is right, 0.9 of which 3 are right
    p, right = np.repeat([0.2, 0.9], 5), np.array([1, 0, 0, 0, 0, 1, 1, 1, 0, 0], bool)
    assert expected_calibration_error(p, right, 2) == pytest.approx(0.5 * 0.0 + 0.5 * 0.3)


def test_calibrated_draws_have_small_ece_and_positive_nce():
    rng = np.random.default_rng(1)
    p = rng.beta(5, 1, size=20000)
    right = rng.random(20000) < p
    found = calibration(p, right)
    assert found.ece < 0.01 and found.nce > 0.05 and found.auc > 0.6
    assert found.nce > calibration(p**3, right).nce  # the same order, no longer probabilities
    assert found.auc == pytest.approx(calibration(p**3, right).auc)
    assert found.table().count("\n") == 10


@settings(max_examples=20)
@given(st.integers(0, 5))
def test_bootstrap_interval_holds_the_value_and_is_repeatable(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(400)
    right = rng.random(400) < p
    low, high = bootstrap_interval(roc_auc, p, right, rounds=100)
    assert low < roc_auc(p, right) < high
    assert (low, high) == bootstrap_interval(roc_auc, p, right, rounds=100)
    groups = [f"speaker {k // 40}" for k in range(400)]
    wide = bootstrap_interval(roc_auc, p, right, groups, rounds=100)
    assert wide[0] < roc_auc(p, right) < wide[1]


def test_bootstrap_of_what_is_never_defined():
    assert all(map(math.isnan, bootstrap_interval(roc_auc, [0.5, 0.6], [True, True], rounds=5)))


@pytest.mark.parametrize(
    ("confidences", "correct"),
    [([], []), ([0.5], [True, False]), ([1.5], [True]), ([math.nan], [True]), ([[0.5]], [[True]])],
)
def test_what_is_no_confidence_is_refused(confidences, correct):
    with pytest.raises(ValueError):
        calibration(confidences, correct)


def test_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")
    rng = np.random.default_rng(0)
    p = rng.random(200)
    right = rng.random(200) < p
    path = tmp_path / "reliability.png"
    assert plot_calibration(path, {"model": (p, right), "all right": (p, np.ones(200, bool))})
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="cannot write the picture"):
        plot_calibration(tmp_path / "nowhere" / "a.png", {"model": (p, right)})
    with pytest.raises(UserError, match="cannot write the picture"):
        plot_calibration(tmp_path / "a.xyz", {"model": (p, right)})


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot_calibration(tmp_path / "a.png", {"model": ([0.5, 0.4], [True, False])}) is False
    assert not list(tmp_path.iterdir())
