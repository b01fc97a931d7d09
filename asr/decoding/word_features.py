"""What is known of a word when its segment ends: features for a model of confidence, and confidences without training.

Features are collected during the search and from the confusion network (as in arXiv 2105.00858, "On addressing practical
challenges for RNN-transducer"). What a search has not collected is 0, and an indicator beside it says so.

Without training there are two confidences in 0 … 1, both that of the least sure token of a word:
- the probability of the token given the tokens before it (`log_prob_confidence`);
- 1 - normalised entropy of the symbols where it was emitted (feature ``entropy_confidence``): 1 means that a single symbol could
  have been emitted, 0 that all were equally likely. Tsallis entropy of exponent 1/3, after Laptev and Ginsburg 2022,
  "Fast entropy-based methods of word-level confidence estimation for end-to-end automatic speech recognition"; but of the
  symbols without blank, since the share of blank at an emission says when, not what: on 1425 spoken digits the ROC area is
  0.805 without blank and 0.795 with it, the calibration error 0.03 and 0.12. Normalised linearly: their exponential form
  has the same order, but values far too small for a probability (calibration error 0.57).
They rank words; neither is the share of such words that is right. That is what
`asr.decoding.confidence.ConfidenceModel` is fitted to.

Shapes: W words, F features, T encoder frames of 40 ms, U tokens, D encoder width, V symbols including blank 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.decoding.confusion import (
    ConfusionNetwork,
    EmittedHypothesis,
    ScoredHypothesis,
    TokenWord,
    hypothesis_words,
)
from asr.errors import UserError

FAR = 50  # frames; no gap counts as longer
CERTAIN = 20.0  # nats; no margin counts as wider, no log-odds as larger
NEAR = 3  # frames on either side of a word in which blanks are looked at
INDICATORS = ("has_nbest", "has_statistics")
FEATURES = (
    "mean_log_prob", "min_log_prob", "log_odds", "tokens", "duration", "frames_per_token", "gap_before", "gap_after",
    "has_nbest", "margin", "agreement", "slot_posterior", "slot_entropy",
    "has_statistics", "mean_entropy", "max_entropy", "entropy_confidence", "symbol_odds", "blank_before", "blank_after",
)  # fmt: skip
FRAMES_A_BLOCK = 256  # of the joiner in `emission_statistics`; bounds its memory


@dataclass(frozen=True)
class WordFeatures:
    """The features of W words.

    Attributes:
        names: of the F columns.
        matrix: (W, F) float64.
        words: what they are.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    words: tuple[str, ...]

    @staticmethod
    def stack(parts: Sequence[WordFeatures]) -> WordFeatures:
        """One after the other; all must have the same names."""
        if any(part.names != parts[0].names for part in parts):
            raise ValueError("features of different names cannot be stacked")
        words = tuple(word for part in parts for word in part.words)
        return WordFeatures(parts[0].names, np.concatenate([part.matrix for part in parts]), words)

    def select(self, names: Sequence[str]) -> WordFeatures:
        """These columns only, in this order.

        Raises:
            UserError: there is no such feature.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise UserError(f"there is no feature {missing[0]!r} of words: there are {', '.join(self.names)}")
        columns = [self.names.index(name) for name in names]
        return WordFeatures(tuple(names), self.matrix[:, columns], self.words)

    def rows(self, which: np.ndarray) -> WordFeatures:
        """The words of a boolean mask or an index."""
        index = np.arange(len(self.words))[which]
        return WordFeatures(self.names, self.matrix[index], tuple(self.words[i] for i in index))

    def column(self, name: str) -> np.ndarray:
        """(W,) one feature."""
        return self.select([name]).matrix[:, 0]


@dataclass(frozen=True)
class EmissionStatistics:
    """What the output distributions of a search say beyond the log-probability of what was emitted.

    Attributes:
        entropies: of each token of the hypothesis: Shannon entropy where it was emitted, divided by log V (0 … 1).
        confidences: of each token: `entropy_confidence` of the symbols without blank.
        blanks: probability of blank in each frame from ``first_frame`` on, given the tokens before that frame.
        first_frame: encoder frame of the stream.
    """

    entropies: Sequence[float]
    confidences: Sequence[float]
    blanks: Sequence[float]
    first_frame: int = 0


def entropy_confidence(
    log_probs: Tensor, kind: str = "tsallis", alpha: float = 1 / 3, normalisation: str = "linear"
) -> Tensor:
    """1 - normalised entropy of distributions: 1 where one symbol has it all, 0 where all are equally likely.

    Args:
        log_probs: (..., V) logits or natural logarithms of probabilities, brought to a sum of 1 here: a part of the symbols
            will do.
        kind: "tsallis", (1 - sum p^alpha) / (alpha - 1), or "renyi", log(sum p^alpha) / (1 - alpha); both are Shannon's
            entropy at ``alpha`` 1. Exponents below 1 lift the small probabilities, in which a sure model says its doubts.
        alpha: > 0.
        normalisation: "linear", 1 - H / H_max, or "exponential", (e^-H - e^-H_max) / (1 - e^-H_max).

    Returns:
        (...) in 0 … 1.
    """
    if not alpha > 0:
        raise ValueError(f"the exponent of an entropy must be positive, not {alpha}")
    values = log_probs.double().log_softmax(-1)
    size = values.size(-1)
    if alpha == 1:
        entropy = -(values.exp() * values.clamp(min=-1e4)).sum(-1)
        most = math.log(size)
    elif kind == "tsallis":
        entropy = ((alpha * values).exp().sum(-1) - 1) / (1 - alpha)
        most = (size ** (1 - alpha) - 1) / (1 - alpha)
    elif kind == "renyi":
        entropy = (alpha * values).logsumexp(-1) / (1 - alpha)
        most = math.log(size)
    else:
        raise ValueError(f"unknown entropy {kind!r}: use tsallis, renyi")
    if normalisation == "linear":
        found = 1 - entropy / most
    elif normalisation == "exponential":
        found = ((-entropy).exp() - math.exp(-most)) / (1 - math.exp(-most))
    else:
        raise ValueError(f"unknown normalisation {normalisation!r}: use linear, exponential")
    return found.clamp(0, 1)


@torch.inference_mode()
def emission_statistics(
    model: Any, encoded: Tensor, hypothesis: EmittedHypothesis, first_frame: int = 0, state: Any = None
) -> EmissionStatistics:
    """The statistics of a hypothesis of any search, from one more pass of predictor and joiner along it.

    Args:
        model: a transducer: ``.predictor`` and ``.joiner``.
        encoded: (T, D) encoder output, of a whole recording or of a segment.
        hypothesis: what was said in it.
        first_frame: encoder frame of the stream of the first row.
        state: output (1, P) and state of the predictor after what was said before; None: nothing was.
    """
    device = encoded.device
    if state is None:
        tokens = torch.tensor([[0, *hypothesis.tokens]], dtype=torch.int64, device=device)
        out, _ = model.predictor(tokens, torch.tensor([tokens.size(1)], device=device))
        outputs = out[0]
    else:
        rows = [state[0]]
        for token in hypothesis.tokens:
            state = model.predictor.step(torch.tensor([token], device=device), state[1])
            rows.append(state[0])
        outputs = torch.cat(rows)
    predictor = model.joiner.project_predictor(outputs)  # (U + 1, J)
    encoder = model.joiner.project_encoder(encoded[None])[0]  # (T, J)
    frames = torch.tensor(list(hypothesis.frames), dtype=torch.int64, device=device) - first_frame
    before = torch.searchsorted(frames, torch.arange(len(encoder), device=device))  # tokens emitted before each frame
    blanks: list[float] = []
    for begin in range(0, len(encoder), FRAMES_A_BLOCK):
        part = slice(begin, begin + FRAMES_A_BLOCK)
        logits = model.joiner.join(encoder[part], predictor[before[part]])
        blanks += logits.float().softmax(-1)[:, 0].tolist()
    entropies: list[float] = []
    confidences: list[float] = []
    for begin in range(0, len(frames), FRAMES_A_BLOCK):
        part = slice(begin, begin + FRAMES_A_BLOCK)
        logits = model.joiner.join(encoder[frames[part]], predictor[:-1][part])
        log_probs = logits.float().log_softmax(-1)
        entropies += (1 - entropy_confidence(log_probs, alpha=1.0, normalisation="linear")).tolist()
        confidences += entropy_confidence(log_probs[:, 1:]).tolist()
    return EmissionStatistics(entropies, confidences, blanks, first_frame)


def word_features(
    hypothesis: EmittedHypothesis,
    tokenizer: Any,
    *,
    nbest: Sequence[ScoredHypothesis] = (),
    network: ConfusionNetwork | None = None,
    statistics: EmissionStatistics | None = None,
) -> WordFeatures:
    """Features of the words of a hypothesis, in their order (those of `hypothesis_words`).

    Args:
        hypothesis: of a segment or a recording.
        tokenizer: ``decode(ids)``, ``is_word_start(id)``, ``endpoint_id``.
        nbest: hypotheses of the same audio, the first being ``hypothesis``; empty: the search had none.
        network: their confusion network, if it is there already.
        statistics: see `EmissionStatistics`; None: not collected.

    Returns:
        Columns `FEATURES`:
        mean_log_prob, min_log_prob (over the tokens of the word), log_odds (of the geometric mean of their probabilities);
        tokens; duration (first emission to last, frames), frames_per_token; gap_before, gap_after (frames without an
        emission beside the word, at most `FAR`, which also stands for the ends of the hypothesis);
        has_nbest (1: the next four are known), margin (score of the best hypothesis less that of the best one that has not
        this word in its slot, nats, at most `CERTAIN`), agreement (share of hypotheses that have it), slot_posterior,
        slot_entropy (nats);
        has_statistics (1: the next six are known), mean_entropy, max_entropy (over the tokens), entropy_confidence (of the
        least sure token), symbol_odds (log-odds of the least sure token among the symbols without blank), blank_before,
        blank_after (mean probability of blank in up to `NEAR` frames beside the word without an emission; 1: there are none).
    """
    words = hypothesis_words(hypothesis, tokenizer)
    matrix = np.zeros((len(words), len(FEATURES)))
    found = WordFeatures(FEATURES, matrix, tuple(word.word for word in words))
    for i, word in enumerate(words):
        log_probs = np.asarray(hypothesis.log_probs[word.first : word.last], np.float64).clip(-CERTAIN, 0)
        before = FAR if i == 0 else min(FAR, word.start - words[i - 1].end)
        after = FAR if i == len(words) - 1 else min(FAR, words[i + 1].start - word.end)
        duration, count = word.end - word.start, len(log_probs)
        odds = _log_odds(float(log_probs.mean()))
        matrix[i, :8] = log_probs.mean(), log_probs.min(), odds, count, duration, duration / count, before, after
    if len(nbest):
        network = network or ConfusionNetwork.of(nbest, tokenizer)
        matrix[:, 8:13] = _network_features(network, nbest, len(words))
    if statistics is not None:
        ends = [0, *(word.end for word in words)]
        starts = [*(word.start for word in words[1:]), statistics.first_frame + len(statistics.blanks)]
        for i, word in enumerate(words):
            matrix[i, 13:] = _statistics_features(word, hypothesis, statistics, ends[i], starts[i])
    return found


def log_prob_confidence(features: WordFeatures) -> np.ndarray:
    """(W,) the zero-training confidence that every search can give: the probability of the least sure token."""
    found: np.ndarray = np.exp(features.column("min_log_prob"))
    return found


def _log_odds(log_prob: float) -> float:
    """log(p / (1 - p)) of p = exp(log_prob), within ± `CERTAIN`."""
    rest = -math.expm1(log_prob)
    return CERTAIN if rest <= 0 else max(-CERTAIN, min(CERTAIN, log_prob - math.log(rest)))


def _network_features(network: ConfusionNetwork, nbest: Sequence[ScoredHypothesis], words: int) -> np.ndarray:
    found = np.ones((words, 5))
    slots = network.slots_of(0)
    if len(slots) != words or len(network.paths) != len(nbest):
        raise ValueError("the n-best list and the confusion network are not those of the hypothesis")
    for i, k in enumerate(slots):
        word = network.paths[0][k]
        others = [h.score for h, path in zip(nbest, network.paths, strict=True) if path[k] != word]
        margin = min(CERTAIN, nbest[0].score - max(others)) if others else CERTAIN
        agreement = 1 - len(others) / len(nbest)
        found[i, 1:] = margin, agreement, network.slots[k].posterior(word), network.slots[k].entropy
    return found


def _statistics_features(
    word: TokenWord,
    hypothesis: EmittedHypothesis,
    statistics: EmissionStatistics,
    free_from: int,
    free_to: int,
) -> tuple[float, ...]:
    """Features of a word whose neighbours leave the frames ``free_from … free_to - 1`` to it."""
    tokens = slice(word.first, word.last)
    entropies = statistics.entropies[tokens]
    first, blanks = statistics.first_frame, statistics.blanks
    # P(symbol | not blank) = P(symbol) / (1 - P(blank)), both where it was emitted
    emitting = [max(1e-9, 1 - blanks[frame - first]) for frame in hypothesis.frames[tokens]]
    symbols = [
        min(0.0, value - math.log(rest))
        for value, rest in zip(hypothesis.log_probs[tokens], emitting, strict=True)
    ]
    before = blanks[max(0, free_from - first, word.start - NEAR - first) : max(0, word.start - first)]
    after = blanks[word.end - first : max(0, min(free_to, word.end + NEAR) - first)]
    return (
        1.0,
        float(np.mean(entropies)),
        max(entropies),
        min(statistics.confidences[tokens]),
        _log_odds(min(symbols)),
        float(np.mean(before)) if len(before) else 1.0,
        float(np.mean(after)) if len(after) else 1.0,
    )
