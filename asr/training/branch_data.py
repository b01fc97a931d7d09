"""What the alignment branch learns from: encoder outputs of recordings, with votes of their loudness.

Short recordings are joined, with noise or the background of other recordings between them, so that a recording of one
word teaches what comes before and after a word. Copies with another pitch and tone make up for few speakers.

Shapes: S samples at 16 kHz, T' encoder frames of 40 ms, D encoder width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from asr.audio import load_audio
from asr.errors import UserError
from asr.features import SAMPLE_RATE, Fbank
from asr.models.branch import BranchConfig, layer_outputs

SILENCE_VOTE = 4.0  # nats for or against the boundary in a frame of 20 ms
SILENCE_DB = 35.0  # below the loudest frame: silence
LEAST_RANGE_DB = 20.0  # between loud and quiet; recordings with less have no silence that can be told
LONGEST = 30.0  # seconds; longer recordings are left out


@dataclass
class Example:
    """A recording for training.

    Attributes:
        encoded: (T', D) float16, output of the layer.
        words: its words.
        votes: (split * T',) added to the boundary's log-probability in training alignments.
        edges: (word, "start" | "end", seconds) where the loudness shows the begin or the end of a word.
    """

    encoded: Tensor
    words: list[str]
    votes: np.ndarray
    edges: list[tuple[int, str, float]]


def loudness(samples: np.ndarray, hop: int = 80, window: int = 160) -> np.ndarray:
    """Power in dB of windows of 10 ms every 5 ms (of 16 kHz audio)."""
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    at = np.arange(0, len(samples) - window + 1, hop)
    return 10 * np.log10((power[at + window] - power[at]) / window + 1e-12)


def speech_edges(samples: np.ndarray, down: float = SILENCE_DB) -> tuple[int, int]:
    """First and last sample (exclusive) of the windows at most ``down`` dB below the loudest one."""
    level = loudness(samples)
    loud = np.nonzero(level > level.max() - down)[0]
    return int(loud[0]) * 80, min(len(samples), int(loud[-1]) * 80 + 160)


def silence_votes(samples: np.ndarray) -> np.ndarray:
    """(S,) samples of a recording -> votes from -1 (loud) to 1 (quiet) for windows of 10 ms every 5 ms.

    Zeros where loud and quiet windows are less than `LEAST_RANGE_DB` apart.
    """
    level = loudness(samples)
    high, low = float(level.max()), float(np.quantile(level, 0.05))
    if high - low < LEAST_RANGE_DB:
        # no pause in it, as a word cut out to its sound: loud throughout
        return np.where(level > high - LEAST_RANGE_DB, -1.0, 0.0)
    threshold = max(high - SILENCE_DB, low + 4.0)
    return np.clip((threshold - level) / 5, -1, 1)


def quiet_stretches(samples: np.ndarray) -> list[np.ndarray]:
    """What lies before and after the speech of a recording, where it lasts a quarter of a second, over the speech's RMS."""
    first, last = speech_edges(samples, 30.0)
    speech = float(np.sqrt(np.mean(samples[first:last] ** 2)))
    margin = SAMPLE_RATE // 20
    found = (samples[: max(0, first - margin)], samples[last + margin :])
    return [quiet / speech for quiet in found if len(quiet) >= SAMPLE_RATE // 4 and quiet.any()]


def pause(count: int, level: float, quiet: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(count,) samples of a pause beside speech of RMS ``level``: a stretch of real background, or noise of a random colour."""
    if quiet and rng.random() < 0.5:
        stretch = quiet[int(rng.integers(len(quiet)))]
        stretch = np.concatenate([stretch, stretch[::-1]])  # and back, so that it repeats without a step
        first = int(rng.integers(len(stretch)))
        return np.take(stretch, np.arange(first, first + count), mode="wrap") * level
    kernel = rng.standard_normal(32)
    if rng.random() < 0.8:  # as most rooms and microphones: dark; bright noise is near to a weak s or f
        kernel = np.cumsum(kernel)
    noise = np.convolve(rng.standard_normal(count + len(kernel) - 1), kernel / np.linalg.norm(kernel), "valid")
    return noise * level * 10 ** (rng.uniform(-60, -28) / 20)


def vary(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another vocal tract and microphone: pitch and pace by 0.85 to 1.2, the spectrum tilted."""
    samples = soxr.resample(samples, SAMPLE_RATE, round(SAMPLE_RATE / rng.uniform(0.85, 1.2)))
    tilt = rng.uniform(-0.5, 0.5)
    samples[1:] -= np.float32(tilt) * samples[:-1]
    return samples


def join(
    parts: Sequence[np.ndarray], quiet: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Recordings with pauses of 0.03 to 0.6 s around them.

    Args:
        parts: samples of each.
        quiet: real background to choose from, over the RMS of its speech.

    Returns:
        Samples; votes as of `silence_votes`, every 5 ms, 1 in the pauses; and the sample in which each recording begins.
    """
    level = float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
    counts = [80 * round(rng.uniform(0.03, 0.6) * SAMPLE_RATE / 80) for _ in range(len(parts) + 1)]
    background = pause(sum(counts), level, quiet, rng)  # one room for all
    pieces, votes, begins, at, used = [], [], [], 0, 0
    for i, count in enumerate(counts):
        pieces.append(background[used : used + count])
        votes.append(np.ones(count // 80))
        at, used = at + count, used + count
        if i < len(parts):
            part = parts[i][: len(parts[i]) // 80 * 80]  # the grid of the votes
            begins.append(at)
            pieces.append(part)
            found = silence_votes(part)
            votes.append(np.pad(found, (0, max(0, len(part) // 80 - len(found))), mode="edge")[: len(part) // 80])
            at += len(part)
    return np.concatenate(pieces).astype(np.float32), np.concatenate(votes), begins


def read_recordings(manifests: Sequence[str], split: str | None, tokenizer: Any | None) -> list[tuple[Any, list[str]]]:
    """(item, words) of the manifests; with a tokenizer only what its tokens can write.

    Raises:
        UserError: as `asr.scoring.manifest.read_manifest`; nothing is left.
    """
    from asr.scoring.manifest import read_manifest

    found, seen = [], 0
    for manifest in manifests:
        for item in read_manifest(manifest, split):
            seen += 1
            words = item.text.lower().split()
            if words and (tokenizer is None or _writes(tokenizer, item.text)):
                found.append((item, words))
    if not found:
        raise UserError(f"the model's tokens can write none of the {seen} transcripts (--any-text takes them all)")
    return found


def _writes(tokenizer: Any, text: str) -> bool:
    try:
        return bool(tokenizer.encode(text, strict=True))
    except UserError:
        return False


def prepare(
    loaded: Any,
    recordings: Sequence[tuple[Any, list[str]]],
    config: BranchConfig,
    spell: Any,
    join_seconds: float,
    seed: int = 0,
    copies: int = 1,
    progress: Any = None,
) -> list[Example]:
    """Encoder outputs of all recordings, short ones joined to about ``join_seconds``; all but the first of ``copies``
    are varied.

    Raises:
        UserError: audio that cannot be read; nothing is left.
    """
    rng = np.random.default_rng(seed)
    fbank = Fbank(loaded.features)
    examples: list[Example] = []
    order = np.concatenate([rng.permutation(len(recordings)) for _ in range(copies)])
    group: list[tuple[np.ndarray, list[str]]] = []
    quiet: list[np.ndarray] = []  # what lies around the speech of the recordings so far
    seconds, left_out = 0.0, 0
    for n, index in enumerate(order):
        item, words = recordings[index]
        samples = item.audio() if callable(item.audio) else load_audio(item.audio)
        if item.duration is not None and not callable(item.audio):
            first = round(item.start * SAMPLE_RATE)
            samples = samples[first : first + round(item.duration * SAMPLE_RATE)]
        samples = np.asarray(samples, dtype=np.float32).reshape(-1)
        if len(samples) > LONGEST * SAMPLE_RATE or not all(spell(word) for word in words) or not samples.any():
            left_out += 1
        else:
            if n < len(recordings):
                quiet += quiet_stretches(samples)
            else:
                samples = vary(samples, rng)
            group.append((samples, words))
            seconds += len(samples) / SAMPLE_RATE
        if group and (seconds >= rng.uniform(0, join_seconds) or n == len(order) - 1):
            example = _example(loaded.model.encoder, fbank, group, quiet, config, rng)
            if example.encoded.size(0) * config.split >= 2 * sum(len(spell(word)) + 1 for word in example.words):
                examples.append(example)
            else:
                left_out += len(group)
            group, seconds = [], 0.0
        if progress:
            progress(n + 1, len(order))
    if left_out:
        print(
            f"{left_out} recordings left out: too long, too short for their text, silent, or not spellable",
            file=sys.stderr,
        )
    if not examples:
        raise UserError("no recording is left to train on")
    return examples


@torch.inference_mode()
def _example(
    encoder: Any,
    fbank: Fbank,
    group: Sequence[tuple[np.ndarray, list[str]]],
    quiet: Sequence[np.ndarray],
    config: BranchConfig,
    rng: np.random.Generator,
) -> Example:
    samples, votes, begins = join([part for part, _ in group], quiet, rng)
    words: list[str] = []
    edges: list[tuple[int, str, float]] = []
    for (part, said), begin in zip(group, begins):
        first, last = speech_edges(part)
        edges.append((len(words), "start", (begin + first) / SAMPLE_RATE))
        words += said
        edges.append((len(words) - 1, "end", (begin + last) / SAMPLE_RATE))
    features, lengths = fbank(torch.from_numpy(samples)[None])
    encoded, _ = layer_outputs(encoder, features, lengths, config.layer)
    per_frame = 8 // config.split  # votes in a frame of the branch
    count = per_frame * config.split * encoded.size(1)
    votes = np.append(votes, np.ones(max(0, count - len(votes))))[:count]
    votes = votes.reshape(-1, per_frame).mean(1) * SILENCE_VOTE * 2 / config.split
    return Example(encoded[0].half(), words, votes.astype(np.float32), edges)
