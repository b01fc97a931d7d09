"""How good confidences are: normalised cross entropy, calibration error, area under the ROC, reliability.

Shapes: N words. ``confidences`` (N,) in 0 … 1 are meant as the probability that the word is right, ``correct`` (N,) bool
says whether it is. A correct word is the positive of the ROC.

- NCE (NIST, as sclite reports it): by how much of its entropy a confidence reduces the uncertainty about what is right,
  against giving every word the share of correct ones. 1: perfect, 0: no better than that share, below 0: misleading.
- ECE: mean over bins of equal mass of |mean confidence - share correct|, weighted by their words. Bins of equal mass,
  because most words of a usable recogniser lie near 1, where bins of equal width put nearly all of them into one.
- AUC: probability that a correct word has a higher confidence than a wrong one, ties counting half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.scoring.picture import new_figure, save_figure

BINS = 10
FLOOR = 1e-7  # confidences of 0 and 1 count as this far from them: a single certain error must not cost infinity


@dataclass(frozen=True)
class Bin:
    """A row of the reliability table: words whose confidences lie in ``low … high``."""

    low: float
    high: float
    confidence: float  # mean
    accuracy: float  # share of correct words
    words: int


@dataclass(frozen=True)
class Calibration:
    """All figures of one kind of confidence; NCE and AUC are NaN where all words are right, or all wrong."""

    words: int
    accuracy: float  # share of correct words
    nce: float
    ece: float
    auc: float
    bins: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """``{words, accuracy, nce, ece, auc, bins: [{low, high, confidence, accuracy, words}]}``; NaN is null."""
        figures = {name: getattr(self, name) for name in ("accuracy", "nce", "ece", "auc")}
        bins = [{name: _plain(value) for name, value in vars(row).items()} for row in self.bins]
        return {"words": self.words, **{k: _plain(v) for k, v in figures.items()}, "bins": bins}

    def table(self) -> str:
        """The reliability table as text, a line a bin."""
        lines = ["confidence      mean   correct    words"]
        lines += [
            f"{row.low:.3f} … {row.high:.3f} {row.confidence:7.3f} {row.accuracy:9.3f} {row.words:8d}"
            for row in self.bins
        ]
        return "\n".join(lines)


def calibration(confidences: Any, correct: Any, bins: int = BINS) -> Calibration:
    """Every figure at once.

    Raises:
        ValueError: no words, lengths that differ, a confidence that is no number in 0 … 1.
    """
    p, right = _checked(confidences, correct)
    rows = reliability(p, right, bins)
    return Calibration(
        len(p), float(right.mean()), normalised_cross_entropy(p, right), _ece(rows), roc_auc(p, right), rows
    )


def normalised_cross_entropy(confidences: Any, correct: Any, floor: float = FLOOR) -> float:
    """NCE = (H_max + sum over correct log2 c + sum over wrong log2(1 - c)) / H_max,
    H_max = -n log2(n / N) - (N - n) log2(1 - n / N) for n correct of N words (NIST's sclite).

    Args:
        floor: confidences are kept this far from 0 and 1.

    Returns:
        1 perfect … 0 the base rate … negative; NaN if no word is wrong, or none is right.
    """
    p, right = _checked(confidences, correct)
    total, n = len(p), int(right.sum())
    if n in (0, total):
        return math.nan
    p = np.clip(p, floor, 1.0 - floor)
    most = -n * math.log2(n / total) - (total - n) * math.log2(1 - n / total)
    return float((most + np.log2(p[right]).sum() + np.log2(1.0 - p[~right]).sum()) / most)


def expected_calibration_error(confidences: Any, correct: Any, bins: int = BINS) -> float:
    """ECE over ``bins`` bins of equal mass; see `reliability` for how they are made."""
    return _ece(reliability(confidences, correct, bins))


def reliability(confidences: Any, correct: Any, bins: int = BINS) -> tuple[Bin, ...]:
    """At most ``bins`` bins of equal mass, from low to high confidence. Equal confidences stay in one bin, so the table
    depends on no order and a constant confidence has a single row."""
    p, right = _checked(confidences, correct)
    if bins < 1:
        raise ValueError(f"{bins} bins")
    order = np.argsort(p, kind="stable")
    p, right = p[order], right[order]
    ends = sorted({int(np.searchsorted(p, p[-(-len(p) * k // bins) - 1], side="right")) for k in range(1, bins + 1)})
    rows, begin = [], 0
    for end in ends:
        part = slice(begin, end)
        rows.append(
            Bin(float(p[begin]), float(p[end - 1]), float(p[part].mean()), float(right[part].mean()), end - begin)
        )
        begin = end
    return tuple(rows)


def roc_curve(confidences: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    """(false alarms, hits): share of wrong and of correct words accepted at each threshold, from (0, 0) to (1, 1).

    Raises:
        ValueError: all words are right, or all wrong.
    """
    p, right = _checked(confidences, correct)
    if right.all() or not right.any():
        raise ValueError("a ROC needs correct and wrong words")
    order = np.argsort(-p, kind="stable")
    p, right = p[order], right[order]
    last = np.append(np.diff(p) != 0, True)  # thresholds lie between different confidences
    hits, alarms = np.cumsum(right)[last], np.cumsum(~right)[last]
    return np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])


def roc_auc(confidences: Any, correct: Any) -> float:
    """Area under `roc_curve`; NaN if no word is wrong, or none is right."""
    p, right = _checked(confidences, correct)
    if right.all() or not right.any():
        return math.nan
    alarms, hits = roc_curve(p, right)
    return float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1])) / 2)


def bootstrap_interval(
    metric: Callable[[Any, Any], float],
    confidences: Any,
    correct: Any,
    groups: Sequence[Any] | None = None,
    *,
    rounds: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a metric by resampling whole groups (speakers: their words share a voice and a microphone).

    Args:
        metric: a function of confidences and correct, e.g. `normalised_cross_entropy`.
        groups: a label a word; None: every word is its own.
        level: share of the resampled values inside the interval.

    Returns:
        (low, high); NaN if the metric is defined for no resampled set.
    """
    p, right = _checked(confidences, correct)
    labels = np.arange(len(p)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(labels == k) for k in range(int(labels.max()) + 1)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        value = metric(p[rows], right[rows])
        if not math.isnan(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def plot_calibration(path: str | Path, kinds: Mapping[str, tuple[Any, Any]], bins: int = BINS) -> bool:
    """Draw reliability and ROC side by side.

    Args:
        path: of the picture; the ending says the format (png, svg, pdf).
        kinds: name -> (confidences, correct), one line each.

    Returns:
        Whether there is a picture: False if matplotlib is not installed.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(9.0, 4.2)
    if figure is None:
        return False
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    for name, (confidences, correct) in kinds.items():
        found = calibration(confidences, correct, bins)
        x, y = [row.confidence for row in found.bins], [row.accuracy for row in found.bins]
        left.plot(x, y, marker="o", markersize=4, label=f"{name}: NCE {found.nce:.3f}, ECE {found.ece:.3f}")
        if not math.isnan(found.auc):
            right.plot(*roc_curve(confidences, correct), label=f"{name}: AUC {found.auc:.3f}")
    left.set(xlabel="mean confidence", ylabel="share of correct words", title=f"reliability, {bins} bins of equal mass")
    right.set(xlabel="wrong words accepted", ylabel="correct words accepted", title="ROC")
    left.legend(fontsize=8, loc="lower right")
    right.legend(fontsize=8, loc="lower right")
    save_figure(figure, path)
    return True


def _ece(rows: Sequence[Bin]) -> float:
    words = sum(row.words for row in rows)
    return sum(row.words * abs(row.confidence - row.accuracy) for row in rows) / words


def _checked(confidences: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    p, right = np.asarray(confidences, np.float64), np.asarray(correct, bool)
    if p.ndim != 1 or p.shape != right.shape or not len(p):
        raise ValueError(f"confidences of shape {p.shape} for words of shape {right.shape}")
    if not ((p >= 0) & (p <= 1)).all():  # NaN fails, too
        raise ValueError("a confidence outside 0 … 1")
    return p, right


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(float(value), 6)
