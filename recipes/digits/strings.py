"""Digit strings from single recorded digits: one speaker or several, random pauses, pace and vocal tract."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from augment import RATE, change_speed, change_tempo
from sources import DIGITS

Label = tuple[
    str, float, float
]  # (name, start, end) in seconds: a phone, or a word where no phones are known
UNKNOWN = "?"  # name of a label for sound that nobody has aligned


@dataclass(frozen=True)
class Take:
    """One recording of something said, float32 (S,) at 16 kHz, and what lies where in it; no labels: not known."""

    audio: np.ndarray
    labels: tuple[Label, ...] = ()

    def cut(self, first: int, last: int) -> Take:
        """Samples ``first`` to ``last``; labels keep their place in the sound."""
        a, b = first / RATE, last / RATE
        inside = ((n, max(s, a) - a, min(e, b) - a) for n, s, e in self.labels if e > a and s < b)
        return Take(self.audio[first:last], tuple(inside))

    def warped(self, speed: float, tempo: float) -> Take:
        """Played ``speed`` times as fast with its pitch, then ``tempo`` times as fast without."""
        audio = change_tempo(change_speed(self.audio, speed), tempo)
        factor = len(audio) / max(1, len(self.audio))
        return Take(audio, tuple((n, s * factor, e * factor) for n, s, e in self.labels))


@dataclass
class Bank:
    """Recorded digits by speaker and word: ``words[speaker][word]`` is a list of takes."""

    words: dict[str, dict[str, list[Take]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, speaker: str, word: str, audio: np.ndarray, labels: tuple[Label, ...] = ()) -> None:
        """Keeps a recording at a peak of 0.5; without ``labels`` all of it is the word."""
        peak = float(np.max(np.abs(audio))) if len(audio) else 0.0
        if peak > 1e-4:
            labels = labels or ((word, 0.0, len(audio) / RATE),)
            self.words[speaker][word].append(Take((audio / peak * 0.5).astype(np.float32), tuple(labels)))

    def speakers(self, least_words: int = 1) -> list[str]:
        """Speakers of at least so many different digits, sorted."""
        return sorted(s for s, table in self.words.items() if len(table) >= least_words)

    def count(self) -> int:
        return sum(len(takes) for table in self.words.values() for takes in table.values())

    def draw(self, rng: np.random.Generator, speaker: str | None, word: str) -> Take:
        """One take of ``word``: by ``speaker`` if that one has any, else by anybody who does."""
        if speaker is None or not self.words[speaker].get(word):
            having = [s for s in sorted(self.words) if self.words[s].get(word)]
            speaker = having[int(rng.integers(len(having)))]
        takes = self.words[speaker][word]
        return takes[int(rng.integers(len(takes)))]


def trim(take: Take, floor_db: float = -32.0, keep_s: float = 0.02) -> Take:
    """Cuts quiet ends: what lies ``floor_db`` under the loudest 10 ms, but for ``keep_s`` seconds."""
    audio = take.audio
    frames = audio[: len(audio) // 160 * 160].reshape(-1, 160)
    if len(frames) < 5:
        return take
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-9)
    loud = np.flatnonzero(level > level.max() + floor_db)
    keep = int(keep_s * RATE)
    return take.cut(max(0, int(loud[0]) * 160 - keep), min(len(audio), (int(loud[-1]) + 1) * 160 + keep))


def join(
    pieces: list[np.ndarray], gaps: list[float], fade_s: float = 0.008
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Puts ``pieces`` one after another with ``gaps`` seconds between (negative: they overlap); short fades at the cuts.

    Returns the audio and where each piece lies in it (first and last sample + 1).
    """
    fade = int(fade_s * RATE)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    starts, at = [], 0
    for piece, gap in zip(pieces, [*gaps, 0.0], strict=True):
        starts.append(max(0, at))
        at = max(0, at) + len(piece) + int(gap * RATE)
    out = np.zeros(max(s + len(p) for s, p in zip(starts, pieces, strict=True)), np.float32)
    for start, piece in zip(starts, pieces, strict=True):
        piece = piece.copy()
        if len(piece) > 2 * fade:
            piece[:fade] *= ramp
            piece[-fade:] *= ramp[::-1]
        out[start : start + len(piece)] += piece
    return out, [(start, start + len(piece)) for start, piece in zip(starts, pieces, strict=True)]


def join_takes(takes: list[Take], gaps: list[float]) -> tuple[Take, list[tuple[int, int]]]:
    """``join`` with the labels of every take at its new place."""
    audio, spans = join([take.audio for take in takes], gaps)
    labels = tuple(
        (n, s + first / RATE, e + first / RATE)
        for take, (first, _) in zip(takes, spans, strict=True)
        for n, s, e in take.labels
    )
    return Take(audio, labels), spans


def random_string(
    rng: np.random.Generator,
    bank: Bank,
    lengths: tuple[int, ...],
    speaker: str | None,
    mixed: bool = False,
    easy: bool = False,
) -> tuple[list[str], Take, list[tuple[int, int]]]:
    """Random digits of one speaker (``mixed``: a new one for each digit) -> words, the string, where each word lies.

    ``easy``: no more repeats than chance, and nobody hurries.
    """
    count = int(rng.choice(lengths))
    words = [DIGITS[int(k)] for k in rng.integers(0, 10, count)]
    # Repeated digits are common in numbers and the hardest for a transducer: what it said last tells it, where repeats are
    # rare, that more of the same sound is the same digit. In half of the strings they are not rare.
    repeat = 0.1 if rng.random() < 0.5 else 0.5
    for k in range(1, count):
        if rng.random() < repeat and not easy:
            words[k] = words[k - 1]
    tract = float(rng.uniform(0.85, 1.2))  # the whole string: pitch and formants
    pace = float(rng.uniform(0.75, 1.3)) if rng.random() < 0.6 and not easy else 1.0
    close = rng.random() < 0.5 and not easy  # run together, or word by word
    pieces = []
    for word in words:
        take = bank.draw(rng, None if mixed else speaker, word)
        if count > 1 or rng.random() < 0.5:
            take = trim(take)
        take = take.warped(tract, pace * float(rng.uniform(0.92, 1.08)))
        pieces.append(Take(take.audio * np.float32(10 ** (rng.uniform(-4, 4) / 20)), take.labels))
    gaps = []
    for k in range(1, count):
        boundary = rng.random() < 0.25 or (count == 10 and k in (3, 6))
        if boundary:
            gaps.append(float(rng.uniform(0.1, 0.7)))
        else:
            gaps.append(float(rng.uniform(-0.05, 0.06) if close else rng.uniform(0.0, 0.45)))
    return words, *join_takes(pieces, gaps)


def surround(rng: np.random.Generator, take: Take, tight: float = 0.3) -> Take:
    """Silence before and after (0.05 to 0.9 s); with probability ``tight`` nearly none, or the very edges cut off."""
    if rng.random() < tight:
        before, after = rng.uniform(-0.02, 0.03, 2)
        take = take.cut(int(max(0.0, -before) * RATE), len(take.audio) - int(max(0.0, -after) * RATE))
        before, after = max(0.0, before), max(0.0, after)
    else:
        before, after = rng.uniform(0.05, 0.9), rng.uniform(0.05, 0.6)
    silence = [np.zeros(int(seconds * RATE), np.float32) for seconds in (before, after)]
    shift = len(silence[0]) / RATE
    labels = tuple((n, s + shift, e + shift) for n, s, e in take.labels)
    return Take(np.concatenate([silence[0], take.audio, silence[1]]), labels)
