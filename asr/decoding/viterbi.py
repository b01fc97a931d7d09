"""Viterbi over the symbols of a text, in memory linear in the audio; asr/decoding/alignment.py says what it is for.

Shapes: T frames, V symbols, S states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 4096  # states of the band: some 500 words
BLOCK = 1024  # frames whose back-pointers are held at a time
MOST_SHIFT = 8  # states by which the band may move from a frame to the next
NONE = -1  # word of a state that belongs to none
FLOOR = -1e30  # a state that cannot be reached; minus infinity would give NaN
TIE = 2e-3  # nats a frame that every other word is worth more: where a boundary may lie in any of several frames, the noise of sums must not
# decide, or a stream would differ from the whole recording


class AlignmentError(ValueError):
    """The text cannot be aligned with the audio; one sentence."""


@dataclass(frozen=True)
class Graph:
    """States in order; a path stays, moves on by one, or by two into a state with ``skip``.

    Attributes:
        symbols: (S,) column of the log-probabilities; V is the wildcard.
        words: (S,) index of the word of a state, or NONE.
        skip: (S,) whether the state before it may be left out.
        starts, ends: how many states from the front a path may begin in, and from the back end in.
        least: frames the shortest path has.
    """

    symbols: np.ndarray
    words: np.ndarray
    skip: np.ndarray
    starts: int
    ends: int
    least: int


def build_graph(
    spelled: Sequence[Sequence[int]], wildcard: int, blank: int | None, boundary: int | None, skip_ends: bool
) -> Graph:
    """The states of a text.

    Args:
        spelled: symbols of each word; an empty one stands for any sound.
        wildcard: V.
        blank: symbol between symbols, or None.
        boundary: symbol between words, or None.
        skip_ends: let the audio begin and end with something else.
    """
    if blank is not None:
        return _ctc_graph(spelled, wildcard, blank, boundary, skip_ends)
    symbols: list[int] = []
    words: list[int] = []
    optional: list[bool] = []

    def add(symbol: int, word: int, leave_out: bool = False) -> None:
        symbols.append(symbol)
        words.append(word)
        optional.append(leave_out)

    if skip_ends:
        add(wildcard, NONE, True)
    if boundary is not None:
        add(boundary, NONE, True)
    for i, ids in enumerate(spelled):
        if not ids:
            if symbols and symbols[-1] == boundary:
                symbols.pop(), words.pop(), optional.pop()  # silence is any sound, too
            if not symbols or symbols[-1] != wildcard:
                add(wildcard, NONE, True)
            continue
        for symbol in ids:
            add(symbol, i)
        if boundary is not None:
            add(boundary, NONE, True)
    if skip_ends and symbols[-1] != wildcard:
        add(wildcard, NONE, True)
    S = len(symbols)
    skip = np.zeros(S, dtype=bool)
    for s in range(2, S):
        skip[s] = optional[s - 1] and symbols[s] != symbols[s - 2]
    # how many leading (trailing) states may be left out, and how few frames the rest takes
    front = next((s for s in range(S) if not optional[s]), S - 1)
    back = next((s for s in range(S) if not optional[S - 1 - s]), S - 1)
    return Graph(np.array(symbols), np.array(words), skip, front + 1, back + 1, _least(skip, front, S - 1 - back))


def _ctc_graph(
    spelled: Sequence[Sequence[int]], wildcard: int, blank: int, boundary: int | None, skip_ends: bool
) -> Graph:
    labels: list[tuple[int, int]] = [(wildcard, NONE)] if skip_ends else []
    for i, ids in enumerate(spelled):
        if i and boundary is not None:
            labels.append((boundary, NONE))
        if ids:
            labels += [(symbol, i) for symbol in ids]
        elif not labels or labels[-1][0] != wildcard:
            labels.append((wildcard, NONE))
    if skip_ends and labels[-1][0] != wildcard:
        labels.append((wildcard, NONE))
    S = 2 * len(labels) + 1
    symbols = np.full(S, blank)
    words = np.full(S, NONE)
    symbols[1::2] = [symbol for symbol, _ in labels]
    words[1::2] = [word for _, word in labels]
    inside = words[1:-2:2] == words[3::2]  # blanks between two symbols of a word are the word's
    words[2:-1:2] = np.where(inside, words[1:-2:2], NONE)
    skip = np.zeros(S, dtype=bool)
    skip[3::2] = symbols[3::2] != symbols[1:-2:2]
    starts = 4 if skip_ends else 2
    ends = 4 if skip_ends else 2
    starts, ends = min(starts, S), min(ends, S)
    front = 3 if skip_ends and S > 3 else 1
    return Graph(symbols, words, skip, starts, ends, _least(skip, front, max(front, S - 1 - front)))


def _least(skip: np.ndarray, first: int, last: int) -> int:
    """Frames of the shortest path from state ``first`` to ``last``."""
    frames, s = 1, last
    while s > first:
        s -= 2 if skip[s] and s - 2 >= first else 1
        frames += 1
    return frames


# ---------------------------------------------------------------- search


class _Band:
    """Scores of the states ``low … low + width - 1`` at one frame, and the step to the next."""

    def __init__(self, log_probs: np.ndarray, graph: Graph, width: int) -> None:
        self.log_probs, self.symbols = log_probs, graph.symbols
        self.width = min(width, len(graph.symbols))
        self.total = len(graph.symbols)
        self.skip = np.where(graph.skip, 0.0, FLOOR).astype(np.float32)
        self.bias = np.where((graph.words != NONE) & (graph.words % 2 == 1), TIE, 0.0).astype(np.float32)
        self.buffer = np.full(self.width + 2 + MOST_SHIFT, FLOOR, dtype=np.float32)
        self.scores = self.buffer[2 : 2 + self.width]  # a view: what lies beside it stays unreachable
        self.low = 0

    def begin(self, starts: int) -> None:
        self.scores[:] = FLOOR
        starts = min(starts, self.width)
        self.scores[:starts] = self.log_probs[0, self.symbols[:starts]] + self.bias[:starts]

    def step(self, t: int, low: int, pointers: np.ndarray) -> None:
        """Frame t, with the band at ``low``; fills ``pointers`` (width,) with 0, 1 or 2: states moved."""
        d, w = low - self.low, self.width
        self.low = low
        best = self.buffer[2 + d : 2 + d + w].copy()
        one = self.buffer[1 + d : 1 + d + w]
        two = self.buffer[d : d + w] + self.skip[low : low + w]
        moved = one > best
        np.maximum(best, one, out=best)
        skipped = two > best
        np.maximum(best, two, out=best)
        np.copyto(pointers, moved)
        pointers[skipped] = 2
        best += self.log_probs[t, self.symbols[low : low + w]]
        best += self.bias[low : low + w]
        np.maximum(best, FLOOR, out=best)
        self.scores[:] = best

    def follow(self, t: int, frames: int) -> int:
        """Where the band should lie at frame t: the best state in its middle, and the end within reach."""
        if self.width == self.total:
            return 0
        goal = self.low + int(self.scores.argmax()) - self.width // 2
        goal = max(goal, self.total - self.width - (frames - 1 - t))
        return min(max(goal, self.low), self.low + MOST_SHIFT, self.total - self.width)


def viterbi(log_probs: np.ndarray, graph: Graph, width: int = WIDTH, block: int = BLOCK) -> np.ndarray:
    """The best path: (T,) state of each frame.

    Args:
        log_probs: (T, V + 1) float32, the wildcard's column included.
        graph: the states.
        width: states searched at a frame; with at least S the path is the best of all, with fewer the best of those
            that stay near the best beginning. A band that loses the end is widened.
        block: frames whose back-pointers are in memory; the path does not depend on it.

    Raises:
        AlignmentError: fewer frames than the text needs.
    """
    frames, S = len(log_probs), len(graph.symbols)
    if frames < graph.least:
        raise AlignmentError(f"the text needs at least {graph.least} frames and the audio has {frames}")
    while True:
        path = _search(log_probs, graph, width, block)
        if path is not None:
            return path
        if width >= S:
            raise AlignmentError("no path through the text is possible: a probability is zero or not a number")
        width *= 4


def _search(log_probs: np.ndarray, graph: Graph, width: int, block: int) -> np.ndarray | None:
    """The path, or None if the band has lost the end."""
    frames = len(log_probs)
    band = _Band(log_probs, graph, width)
    lows = np.zeros(frames, dtype=np.int32)
    kept: list[np.ndarray] = []  # scores before each block
    pointers = np.zeros((min(block, frames), band.width), dtype=np.int8)  # row (t - 1) % block leads from t to t - 1
    band.begin(graph.starts)
    for t in range(1, frames):
        if (t - 1) % block == 0:
            kept.append(band.scores.copy())
        lows[t] = band.follow(t, frames) if t % 4 == 0 else band.low
        band.step(t, int(lows[t]), pointers[(t - 1) % block])
    ends = min(graph.ends, band.width)
    if band.low + band.width < band.total:
        return None
    state = band.width - ends + int(band.scores[band.width - ends :].argmax())
    if not band.scores[state] > FLOOR / 2:
        return None
    state += band.low
    path = np.full(frames, state, dtype=np.int32)
    for k in range(len(kept) - 1, -1, -1):
        first, last = k * block, min((k + 1) * block, frames - 1)
        if k < len(kept) - 1:  # the last block's pointers are still there
            band.low = int(lows[first])
            band.scores[:] = kept[k]
            for t in range(first + 1, last + 1):
                band.step(t, int(lows[t]), pointers[(t - 1) % block])
        for t in range(last, first, -1):
            state -= int(pointers[(t - 1) % block, state - lows[t]])
            path[t - 1] = state
    return path
