"""One stream cut into windows of features, for runtimes whose doors lie behind the features."""

from __future__ import annotations

import numpy as np
import torch

from asr.features import NUM_MEL_BINS, SUBSAMPLING, Fbank, StreamingFbank
from export.runtime import Result


class WindowStream:
    """PCM to windows, as `asr.streaming.session` cuts them, and the symbols found in them.

    Args:
        fbank: may be shared by streams.
        chunk: feature frames (10 ms) from one window to the next.
        window: feature frames of a window.
    """

    def __init__(self, fbank: Fbank, chunk: int, window: int):
        self.chunk, self.window = chunk, window
        self.fbank = StreamingFbank(fbank)
        self.features = torch.zeros(0, NUM_MEL_BINS)
        self.found = Result()
        self.ended = False

    @property
    def ready(self) -> bool:
        """Whether a whole window is there, or the end."""
        return self.features.size(0) >= (1 if self.ended else self.window)

    @property
    def decoded(self) -> int:
        """Encoder frames decoded so far."""
        return self.found.decoded

    def accept(self, pcm: np.ndarray) -> None:
        """(S,) samples."""
        self.features = torch.cat([self.features, self.fbank.accept(torch.from_numpy(pcm))])

    def finish(self) -> None:
        """No more samples."""
        self.features = torch.cat([self.features, self.fbank.finish()])
        self.ended = True

    def reset(self) -> None:
        """The state lives on."""

    def result(self) -> Result:
        """All symbols so far."""
        return self.found

    def take_window(self) -> tuple[torch.Tensor, int]:
        """The next window (W, 80), zeros after the end, and how many of its encoder frames exist."""
        window = self.features[: self.window]
        count = min(self.chunk, window.size(0))
        window = torch.nn.functional.pad(window, (0, 0, 0, self.window - window.size(0)))
        self.features = self.features[self.chunk :]
        return window, -(-count // SUBSAMPLING)

    def take_symbols(self, tokens: list[int]) -> None:
        """What the search found in the frames of one window, 0 where there is nothing."""
        self.found.frames += [self.found.decoded + i for i, token in enumerate(tokens) if token]
        self.found.tokens += [token for token in tokens if token]
        self.found.decoded += len(tokens)
