"""What every runtime looks like to the ladder, and the ways audio is sent through it: alone, live, ragged, with a reset.

Nothing here imports torch: the memory of a runtime is measured in a process that holds that runtime only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

BLOCK = 2560  # samples handed over at once where nothing else is said: 160 ms


@dataclass
class Result:
    """Symbols of one stream.

    Attributes:
        tokens: symbol ids without blanks.
        frames: encoder frame (40 ms) of each, from the start of the stream.
        decoded: encoder frames that went through the model.
    """

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    decoded: int = 0

    def until(self, frame: int) -> Result:
        """The part before an encoder frame."""
        kept = [i for i, at in enumerate(self.frames) if at < frame]
        return Result(
            [self.tokens[i] for i in kept], [self.frames[i] for i in kept], min(self.decoded, frame)
        )

    def same(self, other: Result) -> bool:
        """Whether tokens and frames agree."""
        return self.tokens == other.tokens and self.frames == other.frames


class Stream(Protocol):
    """One stream of audio in a runtime."""

    @property
    def ready(self) -> bool:
        """Whether a chunk can be decoded."""

    @property
    def decoded(self) -> int:
        """Encoder frames (40 ms) decoded so far."""

    def accept(self, pcm: np.ndarray) -> None:
        """Take (S,) float32 samples at 16 kHz; nothing is decoded."""

    def finish(self) -> None:
        """No more audio comes; what the runtime needs to reach the last word is appended."""

    def reset(self) -> None:
        """An endpoint: the next segment begins here."""

    def result(self) -> Result:
        """Everything decoded so far, over all segments."""


class Runtime(Protocol):
    """A loaded model; ``resets``: whether an endpoint changes anything in it."""

    resets: bool

    def open(self, batched: bool = False) -> Any:
        """A new `Stream`; ``batched``: one that is stepped together with others."""

    def step(self, streams: list[Any]) -> None:
        """Decode one chunk of each stream, all `ready`, as one batch."""


def drain(runtime: Runtime, streams: list[Stream]) -> None:
    """Decode everything that is there."""
    while ready := [stream for stream in streams if stream.ready]:
        runtime.step(ready)


@dataclass
class Clock:
    """Times of streams.

    Attributes:
        chunks: seconds from the arrival of a block to its symbols, of the blocks in which something was decoded.
        busy: seconds of all calls, the end of the audio included.
        audio: seconds of audio they were for.
    """

    chunks: list[float] = field(default_factory=list)
    busy: float = 0.0
    audio: float = 0.0


def alone(runtime: Runtime, audio: np.ndarray, blocks: list[int], clock: Clock | None = None) -> Result:
    """One stream.

    Args:
        audio: (S,) samples at 16 kHz.
        blocks: sizes of the blocks, used again and again.
        clock: collects the times.
    """
    clock = clock or Clock()
    stream: Stream = runtime.open()
    at = turn = 0
    while at < len(audio):
        size = blocks[turn % len(blocks)]
        before = stream.decoded
        began = time.perf_counter()
        stream.accept(audio[at : at + size])
        drain(runtime, [stream])
        seconds = time.perf_counter() - began
        clock.busy += seconds
        if stream.decoded > before:
            clock.chunks.append(seconds)
        at, turn = at + size, turn + 1
    began = time.perf_counter()
    stream.finish()
    drain(runtime, [stream])
    result = stream.result()
    clock.busy += time.perf_counter() - began
    clock.audio += len(audio) / 16000
    return result


def live(runtime: Runtime, audio: np.ndarray, block: int, waits: list[float]) -> Result:
    """One stream fed in real time.

    Args:
        audio: (S,) samples at 16 kHz.
        block: samples of a block; each is handed over when its last sample would have been spoken.
        waits: gets the seconds from the last block's being done with to the final symbols.
    """
    stream: Stream = runtime.open()
    began = time.perf_counter()
    for at in range(0, len(audio), block):
        part = audio[at : at + block]
        time.sleep(max(0.0, began + (at + len(part)) / 16000 - time.perf_counter()))
        stream.accept(part)
        drain(runtime, [stream])
    ended = time.perf_counter()
    stream.finish()
    drain(runtime, [stream])
    result = stream.result()
    waits.append(time.perf_counter() - ended)
    return result


def ragged(runtime: Runtime, audios: list[np.ndarray], lag: int) -> list[Result]:
    """Several streams as one batch, each starting ``lag`` blocks after the one before, ending when its audio does."""
    streams: list[Stream] = [runtime.open(batched=True) for _ in audios]
    ended = [False] * len(audios)
    turn = 0
    while not all(ended):
        for i, (stream, audio) in enumerate(zip(streams, audios, strict=True)):
            at = (turn - i * lag) * BLOCK
            if at < 0 or ended[i]:
                continue
            if at < len(audio):
                stream.accept(audio[at : at + BLOCK])
            else:
                stream.finish()
                ended[i] = True
        drain(runtime, streams)
        turn += 1
    return [stream.result() for stream in streams]


def interrupted(runtime: Runtime, audio: np.ndarray, at: int) -> Result:
    """One stream with an endpoint's reset at the first block that begins at ``at`` samples or later."""
    stream: Stream = runtime.open()
    for begin in range(0, len(audio), BLOCK):
        if begin >= at > begin - BLOCK:
            stream.reset()
        stream.accept(audio[begin : begin + BLOCK])
        drain(runtime, [stream])
    stream.finish()
    drain(runtime, [stream])
    return stream.result()
