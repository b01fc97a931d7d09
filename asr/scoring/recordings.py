"""Long recordings made of real utterances and real pauses, so that the true end of every utterance is known.

Utterances of a manifest are trimmed to their speech by energy (`asr.activity`) and follow each other with pauses of the
recordings' own room noise, drawn with a seed.

S: samples, mono.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.activity import SILENT, speech_bounds
from asr.audio import load_audio
from asr.errors import UserError
from asr.features import SAMPLE_RATE
from asr.scoring.manifest import read_manifest
from asr.streaming.sources import Source

MARGIN = 0.05  # seconds kept on either side of the speech: energy misses the faintest sounds
CROSSFADE = 0.02  # seconds in which one piece of noise becomes the next
LEAST_ROOM = 0.15  # seconds of an utterance's own edges that make its room noise; with less it borrows another's


@dataclass(frozen=True)
class Spoken:
    """One utterance of a long recording: text, true start and end of its speech in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class LongRecording:
    """Audio (S,) float32 at 16 kHz, and what is said in it, in order and without overlap."""

    name: str
    audio: np.ndarray = field(repr=False)
    spoken: tuple[Spoken, ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.audio) / SAMPLE_RATE


def make_recordings(
    manifest: str | Path,
    *,
    split: str | None = None,
    utterances: int = 25,
    limit: int | None = None,
    pauses: tuple[float, float] = (1.0, 4.0),
    noise: str | Path | None = None,
    snr_db: float = 25.0,
    seed: int = 0,
) -> list[LongRecording]:
    """Long recordings of all utterances of a manifest, in random order, with pauses before, between and after them.

    A pause is room noise from the edges of the utterances beside it: the first half sounds like the one before it, the
    second like the one after it. An utterance cut to its speech borrows the edges of another.

    Args:
        manifest: see `asr.scoring.manifest.read_manifest`; of ``split`` only, the first ``limit`` utterances only.
        utterances: in a recording.
        pauses: shortest and longest, seconds of the truth from the end of one speech to the start of the next; uniform.
        noise: recordings of noise (a folder, its manifest.jsonl, an audio file) that lie under the whole recording, at
            ``snr_db`` below the speech. Needed where no utterance has edges.
        seed: of order, pauses and noise; the same gives the same recordings.

    Raises:
        UserError: a manifest or noise that cannot be used, impossible numbers, no noise to be had.
    """
    low, high = pauses
    if not 2 * MARGIN <= low <= high < math.inf:
        raise UserError(f"pauses must be from {2 * MARGIN:g} s up, the shorter first, not {low:g} and {high:g}")
    if utterances < 1 or limit is not None and limit < 1:
        raise UserError("a recording needs at least 1 utterance")
    if not math.isfinite(snr_db):
        raise UserError(f"the signal-to-noise ratio must be a number of dB, not {snr_db}")
    rng = np.random.default_rng(seed)
    pieces = [
        piece
        for item in read_manifest(manifest, split)[:limit]
        if (piece := _piece(item.source, item.text))
    ]
    if not pieces:
        raise UserError(f"{manifest}: no utterance has any sound")
    rooms = [piece.room for piece in pieces if len(piece.room) >= LEAST_ROOM * SAMPLE_RATE]
    noises = _read_noise(noise) if noise is not None else []
    if not rooms and not noises:
        raise UserError(f"{manifest}: the utterances have no edges to take room noise from: give a folder of noise")
    order = [pieces[i] for i in rng.permutation(len(pieces))]
    stem = Path(manifest).stem if Path(manifest).is_file() else Path(manifest).name
    return [
        _assemble(f"{stem}-{number}", order[first : first + utterances], rooms, noises, pauses, snr_db, rng)
        for number, first in enumerate(range(0, len(order), utterances))
    ]


@dataclass(frozen=True)
class _Piece:
    """An utterance: speech with a margin around it, where in it the speech lies (samples), and its room noise."""

    text: str
    audio: np.ndarray
    begin: int
    end: int
    room: np.ndarray


def _piece(source: Source, text: str) -> _Piece | None:
    samples = source.load()
    bounds = speech_bounds(samples, SAMPLE_RATE)
    if bounds is None:
        return None
    margin = round(MARGIN * SAMPLE_RATE)
    first, last = max(0, bounds[0] - margin), min(len(samples), bounds[1] + margin)
    room = _without_gaps(np.concatenate([samples[:first], samples[last:]]))
    return _Piece(text, samples[first:last], bounds[0] - first, bounds[1] - first, room)


def _without_gaps(room: np.ndarray) -> np.ndarray:
    """Room noise without the digital silence that codecs put at the start of a file, if anything else is left."""
    hop = SAMPLE_RATE // 100
    frames = room[: len(room) // hop * hop].reshape(-1, hop)
    sounding = frames[np.einsum("ij,ij->i", frames, frames) / hop > SILENT].reshape(-1)
    return sounding if len(sounding) >= LEAST_ROOM * SAMPLE_RATE else room


def _assemble(
    name: str,
    pieces: list[_Piece],
    rooms: list[np.ndarray],
    noises: list[np.ndarray],
    pauses: tuple[float, float],
    snr_db: float,
    rng: np.random.Generator,
) -> LongRecording:
    parts: list[np.ndarray] = []
    spoken: list[Spoken] = []
    at = tail = 0  # samples so far; those behind the last speech that belong to the pause
    before: np.ndarray | None = None
    for piece in pieces:
        here = piece.room
        if rooms and len(here) < LEAST_ROOM * SAMPLE_RATE:
            here = rooms[int(rng.integers(len(rooms)))]
        pause = round(rng.uniform(*pauses) * SAMPLE_RATE)  # from speech to speech
        parts += [_pause(before, here, pause - tail - piece.begin, rng), piece.audio]
        at += len(parts[-2])
        spoken.append(Spoken(piece.text, (at + piece.begin) / SAMPLE_RATE, (at + piece.end) / SAMPLE_RATE))
        at += len(piece.audio)
        before, tail = here, len(piece.audio) - piece.end
    parts.append(_pause(before, None, round(pauses[1] * SAMPLE_RATE) - tail, rng))
    audio = np.concatenate(parts)
    if noises:
        speech = np.concatenate([piece.audio[piece.begin : piece.end] for piece in pieces])
        under = np.concatenate([np.zeros(0, np.float32), *_clips(noises, len(audio), rng)])[: len(audio)]
        power = float(np.mean(under**2))
        if power > 0:
            gain = math.sqrt(float(np.mean(speech**2)) / power) * 10 ** (-snr_db / 20)
            audio = audio + np.float32(gain) * under
    return LongRecording(name, np.clip(audio, -1.0, 1.0).astype(np.float32), tuple(spoken))


def _pause(
    before: np.ndarray | None, after: np.ndarray | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Room noise (count,): the first half sounds like one room, the second like the other; None: there is only one."""
    if before is None or after is None:
        only = after if before is None else before
        return _stretch(np.zeros(0, np.float32) if only is None else only, count, rng)
    fade = min(round(CROSSFADE * SAMPLE_RATE), count // 2)
    half = count // 2
    return _crossfade(_stretch(before, half + fade, rng), _stretch(after, count - half, rng), fade)


def _stretch(noise: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """As much noise as wanted, (count,), from random pieces of a short recording that fade into each other."""
    if len(noise) == 0:
        return np.zeros(count, dtype=np.float32)
    if len(noise) >= count:
        first = int(rng.integers(len(noise) - count + 1))
        return noise[first : first + count]
    fade = min(round(CROSSFADE * SAMPLE_RATE), len(noise) // 4)
    made = noise
    while len(made) < count:
        first = int(rng.integers(len(noise) // 2))
        made = _crossfade(made, noise[first:], fade)
    return made[:count]


def _crossfade(first: np.ndarray, second: np.ndarray, fade: int) -> np.ndarray:
    """One after the other with ``fade`` samples in common, at constant power, as they are different noise."""
    ramp = np.sin(0.5 * np.pi * (np.arange(fade, dtype=np.float32) + 0.5) / max(fade, 1)).astype(np.float32)
    common = first[len(first) - fade :] * ramp[::-1] + second[:fade] * ramp
    return np.concatenate([first[: len(first) - fade], common, second[fade:]])


def _clips(noises: list[np.ndarray], count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Noise recordings in random order, together at least ``count`` samples, each at the same power."""
    clips, total = [], 0
    while total < count:
        clip = noises[int(rng.integers(len(noises)))]
        clips.append(clip)
        total += len(clip)
    return clips


def _read_noise(path: str | Path) -> list[np.ndarray]:
    """Noise recordings at unit power; those that are silent are left out."""
    place = Path(path)
    manifest = place / "manifest.jsonl" if place.is_dir() else place
    if not manifest.is_file():
        raise UserError(f"no noise at {path}: give a folder with a manifest.jsonl, that file, or a recording")
    files = [manifest]
    if manifest.suffix == ".jsonl":
        try:
            lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
            files = [manifest.parent / line["audio"] for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest}: not a manifest of noise recordings ({error})") from None
    noises = []
    for file in files:
        samples = load_audio(file)
        power = float(np.mean(samples**2)) if len(samples) else 0.0
        if power > SILENT:
            noises.append((samples / np.float32(math.sqrt(power))).astype(np.float32))
    if not noises:
        raise UserError(f"{path}: the noise is silent")
    return noises
