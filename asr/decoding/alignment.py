"""Forced alignment: when each word of a known text was said, by Viterbi over the symbols of an alignment branch.

Two topologies, one search. With a ``blank`` (a CTC head) a symbol may be followed by blanks, and equal neighbours need one
between them. Without (`asr.models.branch`), a frame always belongs to a symbol, and the silence between words is a
symbol of its own, the ``boundary``, which may be left out: then a word lasts from its first to its last frame, not from
peak to peak.

Where the text does not cover the audio, a wildcard does: before and after the text (``skip_ends``, as in CTC-segmentation,
arXiv 2007.09127), and for words that cannot be spelled. It takes any frame at the price of the best symbol there times
exp(-WILDCARD_PENALTY). (CTC-segmentation charges nothing; with probabilities that are not all near 1 that would
pull every word towards the middle.)

Memory is linear in the audio: only a band of ``width`` states around the best one is searched, scores are kept at the start
of each block, and back-pointers (int8) of one block at a time are computed again on the way back.

Shapes: T frames, V symbols, S states. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.decoding.results import Word
from asr.decoding.viterbi import BLOCK, FLOOR, NONE, WIDTH, AlignmentError, build_graph, viterbi
from asr.decoding.words import FRAME_SECONDS
from asr.models.branch import BOUNDARY, AlignmentBranch, has_branch, load_branch, speller

WILDCARD_PENALTY = 1.0  # nats a frame that a wildcard costs more than the best symbol
MISSING_PRICE = 4.0  # nats a frame for the sound of a word that was not recognised
FRAMES_AT_ONCE = 3000  # encoder frames
SCORE_SECONDS = 0.3  # window of the confidence
TAIL_SECONDS = 0.8  # after the last emission, where its word may still sound

Spell = Callable[[str], list[int]]


class AlignedWord(NamedTuple):
    """A word, its start and end in seconds, and its score: natural logarithm, the least mean log-probability of any
    `SCORE_SECONDS` of the word (arXiv 2007.09127); minus infinity marks a word that could not be spelled."""

    word: str
    start: float
    end: float
    score: float

    @property
    def guessed(self) -> bool:
        """Whether the times follow from the neighbours alone."""
        return self.score == -math.inf


# ---------------------------------------------------------------- words


def align_words(
    log_probs: Any,
    words: Sequence[str],
    spell: Spell,
    *,
    frame_seconds: float = FRAME_SECONDS,
    blank: int | None = 0,
    boundary: int | None = None,
    skip_ends: bool = False,
    missing_price: float = math.inf,
    start_bias: float = 0.0,
    end_bias: float = 0.0,
    width: int = WIDTH,
    block: int = BLOCK,
) -> list[AlignedWord]:
    """Times of the words of a text.

    Args:
        log_probs: (T, V) natural logarithms, tensor or array.
        words: the text. A word that `spell` gives nothing for takes what its neighbours leave, shared out evenly if there
            are several, and its score is minus infinity.
        spell: symbols of a word.
        frame_seconds: of a row.
        blank: symbol between symbols (CTC), or None for a branch without one.
        boundary: symbol of the silence between words, or None.
        skip_ends: the audio may begin and end with something else.
        missing_price: nats a frame more than the best symbol for which a boundary takes any sound: for a text that may lack
            words.
        start_bias, end_bias: seconds by which starts and ends are known to be late; taken off as far as the neighbours
            and the word's own middle allow.
        width, block: see `viterbi`.

    Returns:
        One entry a word, in order, with 0 <= start < end <= start of the next word.

    Raises:
        AlignmentError: no word can be spelled, or the audio is too short for the text.
    """
    lp = _as_array(log_probs)
    spelled = [spell(word) for word in words]
    if not any(spelled):
        raise AlignmentError("no word of the text can be spelled" if words else "the text has no words")
    if len(lp) == 0:
        raise AlignmentError("there is no audio to align the text with")
    best = lp.max(axis=1, keepdims=True)
    if boundary is not None and missing_price < math.inf:
        lp = lp.copy()
        lp[:, boundary] = np.maximum(lp[:, boundary], best[:, 0] - missing_price)
    graph = build_graph(spelled, lp.shape[1], blank, boundary, skip_ends)
    lp = np.concatenate([lp, best - WILDCARD_PENALTY], axis=1)
    path = viterbi(lp, graph, width, block)
    owner = graph.words[path]
    chosen = lp[np.arange(len(lp)), graph.symbols[path]]
    at = np.nonzero(owner != NONE)[0]
    spoken = owner[at]
    first = at[np.searchsorted(spoken, np.arange(len(words)), "left").clip(max=len(at) - 1)]
    last = at[np.searchsorted(spoken, np.arange(len(words)), "right") - 1] + 1
    known = np.array([bool(ids) for ids in spelled])
    starts, ends = first * frame_seconds, last * frame_seconds
    window = max(1, round(SCORE_SECONDS / frame_seconds))
    sums = np.concatenate([[0.0], np.cumsum(chosen, dtype=np.float64)])
    scores = [_least_mean(sums, int(a), int(b), window) if ok else -math.inf for a, b, ok in zip(first, last, known)]
    starts[known], ends[known] = _unbiased(
        starts[known], ends[known], start_bias, end_bias, len(lp) * frame_seconds, frame_seconds
    )
    _interpolate(starts, ends, known, len(lp) * frame_seconds)
    return [
        AlignedWord(word, round(float(s), 3), round(float(e), 3), score)
        for word, s, e, score in zip(words, starts, ends, scores)
    ]


def _as_array(log_probs: Any) -> np.ndarray:
    if isinstance(log_probs, Tensor):
        log_probs = log_probs.detach().cpu().float().numpy()
    lp = np.asarray(log_probs, dtype=np.float32)
    if lp.ndim != 2:
        raise ValueError(f"log_probs must be (T, V), not of {lp.ndim} dimensions")
    return np.maximum(np.nan_to_num(lp, nan=FLOOR, neginf=FLOOR), FLOOR)


def _least_mean(sums: np.ndarray, first: int, last: int, window: int) -> float:
    """Least mean of any ``window`` values of ``first … last - 1``, from their running sums; of all if they are fewer."""
    n = min(window, last - first)
    parts = sums[first + n : last + 1] - sums[first : last + 1 - n]
    return float(parts.min()) / n


def _unbiased(
    starts: np.ndarray, ends: np.ndarray, start_bias: float, end_bias: float, total: float, frame: float
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends moved by the biases, never past the middle of the word or of the silence beside it."""
    middle = (starts + ends) / 2
    gaps = (np.append(starts[1:], 2 * total - ends[-1]) + ends) / 2  # after each word; the last may go to the end
    before = np.append(-starts[0], ends[:-1])
    earliest = np.maximum((before + starts) / 2, 0.0)
    new_starts = np.clip(starts - start_bias, earliest, middle - frame / 4)
    new_ends = np.clip(ends - end_bias, middle + frame / 4, np.minimum(gaps, total))
    return new_starts, new_ends


def _interpolate(starts: np.ndarray, ends: np.ndarray, known: np.ndarray, total: float) -> None:
    """Words that are not known share the time between their neighbours; where there is none, the next neighbour's half."""
    i, count = 0, len(known)
    while i < count:
        if known[i]:
            i += 1
            continue
        j = i
        while j < count and not known[j]:
            j += 1
        low = ends[i - 1] if i else 0.0
        high = starts[j] if j < count else total
        if high - low < 0.01 * (j - i):  # no room: the word before, or after, gives half of its time
            if i:
                low = ends[i - 1] = (starts[i - 1] + ends[i - 1]) / 2
            else:
                high = starts[j] = (starts[j] + ends[j]) / 2
        edges = np.linspace(low, high, j - i + 1)
        starts[i:j], ends[i:j] = edges[:-1], edges[1:]
        i = j


# ---------------------------------------------------------------- with a model


@dataclass(frozen=True)
class Aligner:
    """A branch, and how it spells: what a recogniser holds for the times of its words."""

    branch: AlignmentBranch
    spell: Spell

    @classmethod
    def load(cls, folder: Any, model: Any, tokenizer: Any) -> Aligner | None:
        """The aligner of a model folder, or None if it has no branch.

        Raises:
            UserError: the branch is damaged or made for another encoder.
        """
        if not has_branch(folder):
            return None
        branch = load_branch(folder, model.encoder)
        return cls(branch, speller(branch.config, tokenizer))

    @property
    def layer(self) -> int:
        """Encoder layer whose output `log_probs` wants; 0: the encoder's output."""
        return self.branch.config.layer

    @torch.inference_mode()
    def log_probs(self, encoded: Tensor) -> np.ndarray:
        """(T', D) of the layer for a whole segment or recording -> (split * T', V) float32."""
        context, found = self.branch.config.context, []
        for first in range(0, len(encoded), FRAMES_AT_ONCE):  # the same numbers with less memory
            low, last = max(0, first - context), min(len(encoded), first + FRAMES_AT_ONCE)
            y = self.branch(encoded[None, low : last + context].float())[0].cpu()
            split = self.branch.config.split
            found.append(y[(first - low) * split : (last - low) * split])
        return torch.cat(found).numpy() if found else np.zeros((0, self.branch.config.vocab_size), np.float32)

    def align(
        self, log_probs: Any, words: Sequence[str], skip_ends: bool = False, missing_price: float = math.inf
    ) -> list[AlignedWord]:
        """`align_words` with what the branch knows of itself."""
        config = self.branch.config
        return align_words(
            log_probs, words, self.spell, frame_seconds=self.branch.frame_seconds, blank=None, boundary=BOUNDARY,
            skip_ends=skip_ends, missing_price=missing_price, start_bias=config.start_bias,
            end_bias=config.end_bias,
        )  # fmt: skip

    def correct_times(self, words: Sequence[Word], log_probs: Any, first_frame: int) -> tuple[Word, ...]:
        """See `correct_times`."""
        return correct_times(words, log_probs, first_frame, self)

    def correct_segment(self, words: Sequence[Word], encoded: Tensor, first_frame: int) -> tuple[Word, ...]:
        """`correct_times` from the layer's output (T', D), from encoder frame ``first_frame`` of the stream (the end of the
        last word of the segment before, as emitted) to the frame at which the segment ended.

        What is not looked at is cut off before anything is computed, so a stream and a whole recording agree.
        """
        if not words:
            return ()
        last = math.ceil((words[-1].end + TAIL_SECONDS) / FRAME_SECONDS) - first_frame
        return correct_times(words, self.log_probs(encoded[: max(0, last)]), first_frame, self)


def correct_times(words: Sequence[Word], log_probs: Any, first_frame: int, aligner: Aligner | None) -> tuple[Word, ...]:
    """The words of a finished segment with aligned times; texts and confidences stay.

    Args:
        words: as emitted.
        log_probs: (T, V) of `Aligner.log_probs` for the audio of the segment, from the end of the segment before it (or
            a little before). What lies more than `TAIL_SECONDS` behind the last emission is not looked at: it may be the
            beginning of the next word.
        first_frame: encoder frame (40 ms) of the stream of the first row.
        aligner: None: the words come back as they are, as they do if the alignment fails or a word cannot be
            spelled.
    """
    if aligner is None or not words or not all(aligner.spell(word.word) for word in words):
        return tuple(words)
    tail = words[-1].end + TAIL_SECONDS - first_frame * FRAME_SECONDS
    rows = _as_array(log_probs)[: max(0, math.ceil(tail / aligner.branch.frame_seconds))]
    try:
        found = aligner.align(rows, [word.word for word in words], missing_price=MISSING_PRICE)
    except AlignmentError:
        return tuple(words)
    offset = first_frame * FRAME_SECONDS
    return tuple(
        replace(word, start=round(offset + new.start, 3), end=round(offset + new.end, 3))
        for word, new in zip(words, found)
    )
