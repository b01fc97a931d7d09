"""A small calibrated model of word confidence: features of words in, the probability that each is right out.

`asr.decoding.word_features` collects the features (arXiv 2105.00858, "On addressing practical challenges for
RNN-transducer") and has the confidences that need no training. ``asr train-confidence`` makes the model: two small files,
in the folder of the recogniser's model or in one of its own.

Shapes: W or N words, F features.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from asr.config import dump_yaml, load_yaml
from asr.decoding.word_features import FEATURES, INDICATORS, WordFeatures, log_prob_confidence
from asr.errors import UserError

WEIGHTS_FILE, CONFIG_FILE = "confidence.safetensors", "confidence.yaml"
FORMAT_VERSION = 1
DECAYS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # penalties on squared weights that `ConfidenceModel.fit` tries
WHAT = {"has_nbest": "n-best lists (of a beam search)", "has_statistics": "statistics of the output distributions"}


@dataclass(frozen=True)
class ConfidenceModel:
    """Probability that a word is right: logistic regression over standardised features, then Platt's sigmoid.

    A hidden layer was tried (8 tanh units: NCE 0.17 where logistic regression had 0.20, on 1425 spoken digits of which 78
    were wrong). The calibration is Platt's (two numbers) and not isotonic: what is held out has hundreds of words, a few
    dozen of them wrong, and of so few isotonic regression makes steps that are 0 or 1 at the ends, where a single word
    costs all of the normalised cross entropy. It is fitted to outputs for words whose speaker the weights had not seen.

    Attributes:
        names: features, in the order of the weights.
        known: of `INDICATORS`, those that were 1 in training: the search must collect these features.
        mean, deviation: (F,) of the training words.
        weight, bias: (F,) and a number.
        slope, offset: the sigmoid takes slope * output + offset.
    """

    names: tuple[str, ...]
    known: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray
    bias: float
    slope: float = 1.0
    offset: float = 0.0

    @staticmethod
    def fit(
        features: WordFeatures,
        correct: Any,
        groups: Sequence[Any] | None = None,
        *,
        decays: Sequence[float] = DECAYS,
        folds: int = 5,
    ) -> ConfidenceModel:
        """Train on words that are known to be right or wrong; deterministic.

        The penalty is the one with the best held-out likelihood, and the sigmoid is fitted to the held-out outputs: each of
        ``folds`` parts of the groups from weights of the others. The weights that are kept have seen all words.

        Args:
            features: of N words.
            correct: (N,) bool.
            groups: a label a word, e.g. its speaker; words of one are never on both sides. None: every word its own.
            decays: penalties on squared weights to choose among.

        Raises:
            UserError: fewer than two right or two wrong words.
        """
        right = np.asarray(correct, bool)
        if right.shape != (len(features.words),):
            raise ValueError(f"{len(features.words)} words and labels of shape {right.shape}")
        if min(right.sum(), (~right).sum()) < 2:
            raise UserError(
                f"a confidence model needs right and wrong words to learn from: {right.sum()} of {len(right)} are right"
            )
        fold = split_groups(range(len(right)) if groups is None else groups, folds)
        if fold.max() == 0:  # a single group: its words are all there is to hold out
            fold = split_groups(range(len(right)), folds)
        best: tuple[float, float, np.ndarray] | None = None
        for decay in decays:
            outputs = np.zeros(len(right))
            for k in range(fold.max() + 1):
                part = _train(features.rows(fold != k), right[fold != k], decay)
                outputs[fold == k] = part.log_odds(features.rows(fold == k))
            loss = float(np.logaddexp(0, np.where(right, -outputs, outputs)).mean())
            if best is None or loss < best[0]:
                best = loss, decay, outputs
        assert best is not None
        slope, offset = _platt(best[2], right)
        return replace(_train(features, right, best[1]), slope=slope, offset=offset)

    def log_odds(self, features: WordFeatures) -> np.ndarray:
        """(W,) log(p / (1 - p)) of each word.

        Raises:
            UserError: a feature of the model is missing, or was not collected.
        """
        chosen = features.select(self.names)
        for name in self.known:
            if len(features.words) and not features.column(name).all():
                raise UserError(f"the confidence model was trained with {WHAT[name]}, which this search has not")
        x = (chosen.matrix - self.mean) / self.deviation
        found: np.ndarray = self.slope * (x @ self.weight + self.bias) + self.offset
        return found

    def confidences(self, features: WordFeatures) -> np.ndarray:
        """(W,) probability that each word is right; raises as `log_odds`."""
        found: np.ndarray = np.exp(-np.logaddexp(0, -self.log_odds(features)))
        return found

    def save(self, folder: str | os.PathLike[str], notes: Mapping[str, Any] | None = None) -> Path:
        """Write ``confidence.safetensors`` and ``confidence.yaml`` into a new or existing folder, a model's for instance.

        Args:
            notes: plain values kept in the YAML file: what it was trained on, how good it is.

        Returns:
            The path of the former.

        Raises:
            UserError: the folder cannot be written.
        """
        target = Path(folder)
        arrays = {
            "mean": self.mean,
            "deviation": self.deviation,
            "weight": self.weight,
            "bias": np.array([self.bias]),
            "calibration": np.array([self.slope, self.offset]),
        }
        config = {
            "format_version": FORMAT_VERSION,
            "features": list(self.names),
            "known": list(self.known),
            "calibration": "platt",
            "notes": dict(notes or {}),
        }
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{WEIGHTS_FILE}.", suffix=".tmp", dir=target) as temporary:
                weights, described = Path(temporary) / WEIGHTS_FILE, Path(temporary) / CONFIG_FILE
                save_file({name: np.ascontiguousarray(value, np.float64) for name, value in arrays.items()}, weights)
                weights.chmod(0o644)  # safetensors makes it private to the user
                dump_yaml(config, described)
                weights.replace(target / WEIGHTS_FILE)
                described.replace(target / CONFIG_FILE)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"cannot save the confidence model in {target}: {getattr(error, 'strerror', None) or error}"
            ) from None
        return target / WEIGHTS_FILE

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> ConfidenceModel:
        """Read what `save` wrote.

        Raises:
            UserError: no such files, another version, an unknown feature, weights that do not fit them.
        """
        path = Path(folder)
        config = load_yaml(path / CONFIG_FILE)
        version = config.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path / CONFIG_FILE} has format version {version}, this program reads version {FORMAT_VERSION}"
            )
        names, known = (_names(config, key, path / CONFIG_FILE) for key in ("features", "known"))
        unknown = [n for n in names if n not in FEATURES] + [n for n in known if n not in INDICATORS]
        if unknown:
            raise UserError(f"{path / CONFIG_FILE}: this program knows no feature {unknown[0]!r} of words")
        try:
            arrays = load_file(path / WEIGHTS_FILE)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"cannot read {path / WEIGHTS_FILE}: {error}") from None
        shapes = {"mean": len(names), "deviation": len(names), "weight": len(names), "bias": 1, "calibration": 2}
        for name in sorted(shapes.keys() | arrays.keys()):
            value = arrays.get(name)
            if value is None or name not in shapes or value.shape != (shapes[name],) or not np.isfinite(value).all():
                raise UserError(f"{path / WEIGHTS_FILE} does not fit {CONFIG_FILE}: its {name!r} is wrong")
        if not (arrays["deviation"] > 0).all():
            raise UserError(f"{path / WEIGHTS_FILE}: a deviation is not positive")
        return ConfidenceModel(
            names, known, arrays["mean"], arrays["deviation"], arrays["weight"],
            float(arrays["bias"][0]), *map(float, arrays["calibration"]),
        )  # fmt: skip


def word_confidences(features: WordFeatures, model: ConfidenceModel | None = None) -> np.ndarray:
    """(W,) the best confidence there is, in 0 … 1: the model's probability of being right; without a model that of the
    entropy, if the search has collected it, else the probability of the least sure token.

    Raises:
        UserError: the search has not collected what the model needs.
    """
    if model is not None:
        return model.confidences(features)
    if len(features.words) and features.column("has_statistics").all():
        return features.column("entropy_confidence")
    return log_prob_confidence(features)


def split_groups(groups: Sequence[Any], folds: int) -> np.ndarray:
    """(N,) the fold of each item, 0 … folds - 1; no more folds than groups. Groups stay whole, folds are of about equal
    size, and the order of the items does not matter."""
    counts: dict[Any, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    sizes = [0] * max(1, min(folds, len(counts)))
    fold: dict[Any, int] = {}
    for group in sorted(counts, key=lambda g: (-counts[g], str(g))):
        fold[group] = smallest = sizes.index(min(sizes))
        sizes[smallest] += counts[group]
    return np.array([fold[group] for group in groups], np.int64)


def _names(config: Mapping[str, Any], key: str, file: Path) -> tuple[str, ...]:
    value = config.get(key)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{file}: {key} must be a list of names")
    return tuple(value)


def _train(features: WordFeatures, right: np.ndarray, decay: float) -> ConfidenceModel:
    """Weights without calibration."""
    mean, deviation = features.matrix.mean(0), features.matrix.std(0)
    deviation[deviation < 1e-8] = 1.0  # a constant says nothing, and its weight stays 0
    known = tuple(name for name in INDICATORS if name in features.names and features.column(name).all())
    weight, bias = _logistic((features.matrix - mean) / deviation, right.astype(np.float64), decay)
    return ConfidenceModel(features.names, known, mean, deviation, weight, bias)


def _logistic(x: np.ndarray, targets: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """Weights (F,) and bias that minimise the sum of cross entropies + decay / 2 * squared weights, by Newton's method."""
    design = np.concatenate([x, np.ones((len(x), 1))], 1)
    # where all words are right the best bias is infinite: a trace of a penalty keeps it finite
    penalty = np.append(np.full(x.shape[1], decay), 1e-3)

    def cost(theta: np.ndarray) -> float:
        z = design @ theta
        return float((np.logaddexp(0, z) - targets * z).sum() + 0.5 * (penalty * theta**2).sum())

    theta = np.zeros(design.shape[1])
    current = cost(theta)
    for _ in range(100):
        p = np.exp(-np.logaddexp(0, -design @ theta))
        gradient = design.T @ (p - targets) + penalty * theta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        direction = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and cost(theta - size * direction) > current:
            size /= 2
        lower = cost(theta - size * direction)
        if not lower < current - 1e-10 * max(1.0, abs(current)):
            break
        theta, current = theta - size * direction, lower
    return theta[:-1], float(theta[-1])


def _platt(outputs: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the sigmoid over held-out outputs; targets a little inside 0 and 1, as Platt (1999) has them."""
    high, low = (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2)
    targets = np.where(right, high, low)
    weight, bias = _logistic(outputs[:, None], targets, 1e-3)
    if weight[0] > 0:
        return float(weight[0]), bias
    share = float(targets.mean())  # the outputs rank held-out words backwards: they say nothing
    return 0.0, math.log(share / (1 - share))
