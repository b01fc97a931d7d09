"""The training mixture of the digits recipe: which recordings, how many of each kind, through which channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import augment
import numpy as np
import soundfile
from sources import DIGITS, Utterance, digit_words
from strings import Bank, Take, join_takes, random_string, surround, trim
from synth import Voice, random_groups, speak

# of random numbers
STREAMS = {
    "tight": 0,
    "mixed": 2,
    "natural": 3,
    "synthetic": 4,
    "negative": 5,
    "easy": 6,
    "cut": 7,
    "speech": 8,
}
SMOKE_LENGTHS = (1, 1, 2, 3, 4)
LENGTHS = (1, 1, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 10, 10, 12)


@dataclass(frozen=True)
class Amounts:
    """How many utterances of each kind."""

    tight: int = 1700  # strings of one FSDD speaker (cut tight, 8 kHz)
    cut: int = 1300  # strings of one speaker, words cut out of other corpora
    mixed: int = 1300  # a new speaker for each digit, from all of these
    natural: int = 2500  # whole digit strings as spoken (copies through different channels)
    synthetic: int = 1000  # synthetic voices
    negative: int = 300  # speech without digits: empty transcript
    easy: int = 0  # short strings of FSDD digits, quiet channel: for the smoke run only

    def scaled(self, factor: float) -> Amounts:
        return Amounts(**{k: round(v * factor) for k, v in self.__dict__.items()})

    @staticmethod
    def smoke() -> Amounts:
        """A few minutes of easy strings, on which a short run gets clearly better than chance."""
        return Amounts(tight=0, cut=0, mixed=0, natural=0, synthetic=0, negative=0, easy=1600)


@dataclass
class Sample:
    id: str
    words: list[str]
    speaker: str
    take: Take  # labels: phones (or digits, where no phones are known); empty where not known
    kind: str


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
    words: Bank,
    natural: list[tuple[Utterance, Take]],
    voices: list[Voice],
    negatives: list[Utterance],
    speech: list[tuple[Utterance, tuple]],
    noises: list[np.ndarray],
) -> Sample | None:
    """Utterance ``number`` of ``kind``: depends on ``seed``, the kind and the number only, so a run can resume anywhere.

    ``tight``: digits of FSDD; ``words``: those and digits cut out of other corpora; ``natural``: whole strings;
    ``speech``: any aligned utterance with its labels. Returns None where its material is missing (no synthesiser, say).
    """
    rng = np.random.default_rng([seed, STREAMS[kind], number])
    speaker = "mixed"
    if kind in ("tight", "easy", "cut"):
        bank = words if kind == "cut" else tight
        # a speaker with few digits borrows the others from anybody
        speakers = [s for s in bank.speakers(4) if s not in tight.words] if kind == "cut" else bank.speakers()
        if not speakers:
            return None
        speaker = speakers[int(rng.integers(len(speakers)))]
        said, take, _ = random_string(
            rng, bank, SMOKE_LENGTHS if kind == "easy" else LENGTHS, speaker, easy=kind == "easy"
        )
    elif kind == "mixed":
        if not words.words:
            return None
        said, take, _ = random_string(rng, words, LENGTHS, None, mixed=True)
    elif kind == "natural":
        if not natural:
            return None
        said, take, speaker = _natural(rng, natural)
    elif kind == "synthetic":
        if not voices:
            return None
        voice = voices[int(rng.integers(len(voices)))]
        count = int(rng.choice((1, 2, 3, 4, 4, 5, 7, 10, 10)))
        said = [str(w) for w in rng.choice(np.array(DIGITS), count)]
        audio = augment.change_speed(
            speak(voice, said, random_groups(rng, count), rng), float(rng.uniform(0.9, 1.12))
        )
        take, speaker = Take(audio), voice.speaker
    elif kind == "speech":
        if number >= len(speech):
            return None
        source, labels = speech[number]
        take = Take(load(source), labels).warped(float(rng.uniform(0.85, 1.2)), 1.0)
        said, speaker = [], source.speaker
    else:
        if not negatives:
            return None
        source = negatives[int(rng.integers(len(negatives)))]
        audio = load(source)
        length = int(rng.uniform(0.5, 3.0) * augment.RATE)
        start = int(rng.integers(max(1, len(audio) - length)))
        said, take, speaker = [], Take(audio[start : start + length]), source.speaker
    if kind != "speech":
        take = surround(rng, take, tight=0.5 if len(said) == 1 else 0.35)
    audio = augment.channel(rng, take.audio, noises, strength={"speech": 0.7, "easy": 0.0}.get(kind, 0.8))
    return Sample(f"{kind}-{number:05d}", said, speaker, Take(audio, take.labels), kind)


def _natural(rng: np.random.Generator, natural: list[tuple[Utterance, Take]]) -> tuple[list[str], Take, str]:
    """One spoken string, or two or three of the same speaker in a row (as in long numbers)."""
    first, take = natural[int(rng.integers(len(natural)))]
    chosen = [(first, take)]
    if rng.random() < 0.5:
        same = [pair for pair in natural if pair[0].speaker == first.speaker]
        chosen += [same[int(k)] for k in rng.integers(0, len(same), int(rng.integers(1, 3)))]
    words = [w for u, _ in chosen for w in digit_words(u.text) or []]
    tract, pace = float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.9, 1.3))
    pieces = [trim(t).warped(tract, pace) for _, t in chosen]
    joined, _ = join_takes(pieces, [float(rng.uniform(0.0, 0.5)) for _ in pieces[1:]])
    # one piece without labels makes the labels of the whole incomplete
    return words, joined if all(p.labels for p in pieces) else Take(joined.audio), first.speaker


def schedule(amounts: Amounts) -> Iterator[tuple[str, int]]:
    """(kind, number) of every utterance, kinds in turn, so that a half-made set is balanced too."""
    left = {k: v for k, v in amounts.__dict__.items()}
    total = max(left.values())
    for step in range(total):
        for kind, count in left.items():
            # evenly spread: the kind's share of its count is reached step by step
            before, after = step * count // total, (step + 1) * count // total
            yield from ((kind, k) for k in range(before, after))
