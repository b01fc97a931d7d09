"""What `transcribe` takes: files, standard input, arrays in memory, and parts of files, behind one small interface."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from asr.audio import StreamResampler, audio_blocks, channels_of, load_audio
from asr.errors import UserError
from asr.features import SAMPLE_RATE

READ_AHEAD = 8  # batches of recordings read before they are sorted by length
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """One recording.

    Attributes:
        name: how results and errors call it.
        audio: a path, ``-`` for standard input, an open binary file, samples, or a function that gives samples.
        rate: samples a second, of samples in memory only; a file knows its own.
        start, duration: the part of a file to recognise, in seconds; None: to its end. Of a function, its length.
    """

    name: str
    audio: Any
    rate: int = SAMPLE_RATE
    start: float = 0.0
    duration: float | None = None

    def seconds(self) -> float | None:
        """Length if it can be known without reading the audio, else None."""
        if self.duration is not None:
            return self.duration
        if not self._named():
            known = (
                len(getattr(self.audio, "shape", ())) > 0 and self.rate > 0
            )  # else reading it says what is wrong
            return len(self.audio) / self.rate if known else None
        if str(self.audio) == "-":
            return None
        if not Path(self.audio).is_file():
            return None  # a pipe can be opened only once
        import soundfile

        try:
            name = os.fspath(self.audio) if os.name == "nt" else os.fsencode(self.audio)  # not all are UTF-8
            return max(0.0, float(soundfile.info(name).duration) - self.start)
        except (OSError, RuntimeError, ValueError):
            return None  # reading it will say what is wrong

    def load(self) -> np.ndarray:
        """All samples, (S,) float32 at 16 kHz.

        Raises:
            UserError: as `asr.audio.load_audio`.
        """
        if self._partial():
            return np.concatenate([np.zeros(0, np.float32), *self.blocks(30.0)])
        if self._in_memory():
            return self._samples()
        return load_audio(self.audio)

    def blocks(self, block_seconds: float = 0.5) -> Iterator[np.ndarray]:
        """The samples of `load` block by block."""
        if self._in_memory():
            samples = self._samples()
            size = max(1, round(block_seconds * SAMPLE_RATE))
            yield from (samples[i : i + size] for i in range(0, len(samples), size))
            return
        if not self._partial():
            yield from audio_blocks(self.audio, block_seconds)
            return
        begin = round(self.start * SAMPLE_RATE)
        left = None if self.duration is None else round(self.duration * SAMPLE_RATE)
        found = False
        for block in audio_blocks(self.audio, block_seconds, first=begin):
            part = block[:left]
            if len(part):
                found = True
                yield part
            if left is not None:
                left -= len(part)
                if left <= 0:
                    break
        if not found:
            raise UserError(f"{self.name}: no audio from second {self.start:g} on in {self.audio}")

    def _named(self) -> bool:
        return isinstance(self.audio, (str, os.PathLike))

    def _in_memory(self) -> bool:
        return hasattr(self.audio, "shape") or callable(self.audio)

    def _partial(self) -> bool:
        return not self._in_memory() and (self.start > 0 or self.duration is not None)

    def _samples(self) -> np.ndarray:
        audio = self.audio() if callable(self.audio) else self.audio
        resampler = StreamResampler(self.rate, channels=channels_of(audio, self.name), name=self.name)
        return np.concatenate([resampler.accept(audio), resampler.finish()])


def as_sources(inputs: Any) -> list[Source]:
    """One input or a list of them as sources: paths, ``-``, binary files, arrays at 16 kHz, or (array, rate) pairs.

    Raises:
        UserError: something else.
    """
    single = (
        isinstance(inputs, (str, os.PathLike, Source)) or hasattr(inputs, "shape") or hasattr(inputs, "read")
    )
    pair = (
        isinstance(inputs, tuple) and len(inputs) == 2 and hasattr(inputs[0], "shape") and _is_rate(inputs[1])
    )
    if not single and not pair and not isinstance(inputs, Iterable):
        raise UserError(f"cannot transcribe an object of type {type(inputs).__name__}")
    return [_source(item, i) for i, item in enumerate([inputs] if single or pair else list(inputs))]


def like_lengths(recordings: Iterable[tuple[T, np.ndarray]], batch_seconds: float) -> Iterator[list[tuple[T, np.ndarray]]]:
    """Batches of recordings of like length, so that little of a batch is padding; a few batches are read ahead and sorted.

    Args:
        recordings: anything that says which one it is, and its samples, (S,) at 16 kHz.
        batch_seconds: audio in a batch, padding included; a longer recording is a batch of its own.
    """
    group: list[tuple[T, np.ndarray]] = []
    samples = 0
    for recording in recordings:
        group.append(recording)
        samples += len(recording[1])
        if samples >= READ_AHEAD * batch_seconds * SAMPLE_RATE:
            yield from _by_length(group, batch_seconds)
            group, samples = [], 0
    yield from _by_length(group, batch_seconds)


def _by_length(group: list[tuple[T, np.ndarray]], batch_seconds: float) -> Iterator[list[tuple[T, np.ndarray]]]:
    batch: list[tuple[T, np.ndarray]] = []
    for recording in sorted(group, key=lambda entry: len(entry[1])):
        if batch and (len(batch) + 1) * len(recording[1]) > batch_seconds * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(recording)
    if batch:
        yield batch


def _is_rate(value: Any) -> bool:
    """A number of samples a second, numpy's numbers included."""
    return isinstance(value, (int, float, np.integer, np.floating)) and float(value).is_integer()


def _source(item: Any, index: int) -> Source:
    if isinstance(item, Source):
        return item
    if isinstance(item, (str, os.PathLike)):
        return Source(os.fspath(item), os.fspath(item) if str(item) == "-" else Path(item))
    if hasattr(item, "read"):
        return Source(str(getattr(item, "name", f"audio-{index}")), item)
    if hasattr(item, "shape"):
        return Source(f"audio-{index}", item)
    if isinstance(item, tuple) and len(item) == 2 and hasattr(item[0], "shape") and _is_rate(item[1]):
        return Source(f"audio-{index}", item[0], rate=int(item[1]))
    raise UserError(
        f"cannot transcribe an object of type {type(item).__name__}: give a path, an array or (array, rate)"
    )
