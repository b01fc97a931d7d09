"""The training mixture of the digits recipe: which recordings, how many of each kind, through which channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import augment
import numpy as np
import soundfile
from sources import Utterance, digit_words
from strings import Bank, join, random_string, surround, trim
from synth import Voice, random_groups, speak

STREAMS = {
    "tight": 0,
    "mixed": 2,
    "natural": 3,
    "synthetic": 4,
    "negative": 5,
    "easy": 6,
}  # of random numbers
SMOKE_LENGTHS = (1, 1, 2, 3, 5)
LENGTHS = (1, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 10, 10, 10, 12)


@dataclass(frozen=True)
class Amounts:
    """How many utterances of each kind."""

    tight: int = 2400  # strings of FSDD digits (cut tight, 8 kHz)
    mixed: int = 800  # a new speaker for each digit
    natural: int = 1200  # whole digit strings as spoken (copies through different channels)
    synthetic: int = 1400  # synthetic voices
    negative: int = 200  # speech without digits: empty transcript
    easy: int = 0  # short strings of FSDD digits, quiet channel: for the smoke run only

    def scaled(self, factor: float) -> Amounts:
        return Amounts(**{k: round(v * factor) for k, v in self.__dict__.items()})

    @staticmethod
    def smoke() -> Amounts:
        """A few minutes of easy strings, on which a short run gets clearly better than chance."""
        return Amounts(tight=0, mixed=0, natural=0, synthetic=0, negative=0, easy=1600)


@dataclass
class Sample:
    id: str
    words: list[str]
    speaker: str
    audio: np.ndarray  # float32 (S,), 16 kHz
    kind: str
    spans: list[tuple[float, float]]  # seconds of each word, where known by construction; else empty


def load(utterance: Utterance) -> np.ndarray:
    """Audio of an utterance as float32 mono 16 kHz."""
    audio, rate = soundfile.read(utterance.audio, dtype="float32", always_2d=True)
    audio = audio.mean(1)
    return (
        audio if rate == augment.RATE else augment.soxr.resample(audio, rate, augment.RATE).astype(np.float32)
    )


def one(
    kind: str,
    number: int,
    seed: int,
    *,
    tight: Bank,
    natural: list[tuple[Utterance, np.ndarray]],
    voices: list[Voice],
    negatives: list[Utterance],
    noises: list[np.ndarray],
) -> Sample | None:
    """Utterance ``number`` of ``kind``: depends on ``seed``, the kind and the number only, so a run can resume anywhere.

    Returns None where its material is missing (no synthesiser, say).
    """
    rng = np.random.default_rng([seed, STREAMS[kind], number])
    speaker = "mixed"
    spans: list[tuple[int, int]] = []
    if kind in ("tight", "easy"):
        speakers = tight.speakers()
        if not speakers:
            return None
        speaker = speakers[int(rng.integers(len(speakers)))]
        words, audio, spans = random_string(
            rng, tight, LENGTHS if kind == "tight" else SMOKE_LENGTHS, speaker
        )
    elif kind == "mixed":
        if not tight.words:
            return None
        words, audio, spans = random_string(rng, tight, LENGTHS, None, mixed=True)
    elif kind == "natural":
        if not natural:
            return None
        words, audio, speaker = _natural(rng, natural)
    elif kind == "synthetic":
        if not voices:
            return None
        voice = voices[int(rng.integers(len(voices)))]
        count = int(rng.choice((1, 2, 3, 4, 4, 5, 7, 10, 10)))
        words = [str(w) for w in rng.choice(np.array(_DIGITS), count)]
        audio = augment.change_speed(
            speak(voice, words, random_groups(rng, count), rng), float(rng.uniform(0.9, 1.12))
        )
        speaker = voice.speaker
    else:
        if not negatives:
            return None
        source = negatives[int(rng.integers(len(negatives)))]
        audio = load(source)
        length = int(rng.uniform(0.5, 3.0) * augment.RATE)
        start = int(rng.integers(max(1, len(audio) - length)))
        words, audio, speaker = [], audio[start : start + length], source.speaker
    audio, shift = surround(rng, audio, tight=0.5 if len(words) == 1 else 0.15)
    audio = augment.channel(rng, audio, noises, strength={"natural": 0.8, "easy": 0.0}.get(kind, 1.0))
    seconds = [((a + shift) / augment.RATE, (b + shift) / augment.RATE) for a, b in spans]
    return Sample(f"{kind}-{number:05d}", words, speaker, audio, kind, seconds)


def _natural(
    rng: np.random.Generator, natural: list[tuple[Utterance, np.ndarray]]
) -> tuple[list[str], np.ndarray, str]:
    """One spoken string, or two or three of the same speaker in a row (as in long numbers)."""
    first, audio = natural[int(rng.integers(len(natural)))]
    chosen = [(first, audio)]
    if rng.random() < 0.5:
        same = [pair for pair in natural if pair[0].speaker == first.speaker]
        chosen += [same[int(k)] for k in rng.integers(0, len(same), int(rng.integers(1, 3)))]
    words = [w for u, _ in chosen for w in digit_words(u.text) or []]
    tract, pace = float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.9, 1.3))
    pieces = [augment.change_tempo(augment.change_speed(trim(a), tract), pace) for _, a in chosen]
    return words, join(pieces, [float(rng.uniform(0.0, 0.5)) for _ in pieces[1:]])[0], first.speaker


_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def schedule(amounts: Amounts) -> Iterator[tuple[str, int]]:
    """(kind, number) of every utterance, kinds in turn, so that a half-made set is balanced too."""
    left = {k: v for k, v in amounts.__dict__.items()}
    total = max(left.values())
    for step in range(total):
        for kind, count in left.items():
            # evenly spread: the kind's share of its count is reached step by step
            before, after = step * count // total, (step + 1) * count // total
            yield from ((kind, k) for k in range(before, after))
