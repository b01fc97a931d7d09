"""A TorchScript export, driven as an application drives it: its PCM door for one stream, its feature door for a batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.decoding.state import concatenate, leaves, select
from asr.features import Fbank
from export.bundle import read_features
from export.runtime import Result
from export.torchscript import file_name, use_engine
from export.windows import WindowStream


class TorchScriptRuntime:
    """Streams through a ``model*.pt``.

    Args:
        folder: the export.
        precision: "fp32" or "int8".
        blank_penalty: None: what the file holds.
        engine: torch's int8 engine; None: the machine's own.
        threads: of torch in this process.
    """

    resets = False  # an endpoint is the application's affair: the state lives on

    def __init__(
        self,
        folder: Path,
        precision: str,
        blank_penalty: float | None = None,
        engine: str | None = None,
        threads: int = 1,
    ):
        torch.set_num_threads(threads)
        if precision == "int8":
            use_engine(engine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that torch.export will replace it
            self.program: Any = torch.jit.load(str(folder / file_name(precision)))
        if blank_penalty is not None:
            self.program.blank_penalty = blank_penalty
        self.fbank = Fbank(read_features(folder))
        with torch.inference_mode():
            one, two = (leaves(self.program.initial_model_state(n)) for n in (2, 3))
        self.axes = [
            next(axis for axis, (a, b) in enumerate(zip(x.shape, y.shape)) if a != b)
            for x, y in zip(one, two)
        ]

    def open(self, batched: bool = False) -> PcmStream | FeatureStream:
        """A new stream, by the PCM door or as a row of a batch."""
        return FeatureStream(self) if batched else PcmStream(self)

    @torch.inference_mode()
    def step(self, streams: list[FeatureStream]) -> None:
        """One chunk of each `FeatureStream` as one batch."""
        windows, counts = zip(*(stream.take_window() for stream in streams), strict=True)
        state = concatenate([stream.state for stream in streams], self.axes)
        tokens, _, state = self.program.step(torch.stack(windows), torch.tensor(counts), state)
        for row, stream in enumerate(streams):
            stream.state = select(state, torch.tensor([row]), self.axes)
            stream.take_symbols(tokens[row, : counts[row]].tolist())


class PcmStream:
    """A stream by `accept` and `finish` of the program, which decode at once."""

    ready = False

    def __init__(self, runtime: TorchScriptRuntime):
        self.program = runtime.program
        self.state = self.program.initial_state(1)
        self.found = Result()

    @property
    def decoded(self) -> int:
        """Encoder frames decoded so far."""
        return self.found.decoded

    @torch.inference_mode()
    def accept(self, pcm: np.ndarray) -> None:
        """(S,) samples."""
        symbols, self.state = self.program.accept(torch.from_numpy(pcm)[None], self.state)
        self._keep(symbols)

    @torch.inference_mode()
    def finish(self) -> None:
        """The words that are left."""
        symbols, self.state = self.program.finish(self.state)
        self._keep(symbols)

    def reset(self) -> None:
        """The state lives on."""

    def result(self) -> Result:
        """All symbols so far."""
        return self.found

    def _keep(self, symbols: Any) -> None:
        self.found.tokens += symbols.tokens.tolist()
        self.found.frames += symbols.frames.tolist()
        self.found.decoded = int(self.state.frame)


class FeatureStream(WindowStream):
    """A stream that shares steps with others of other ages."""

    def __init__(self, runtime: TorchScriptRuntime):
        super().__init__(runtime.fbank, runtime.program.chunk_frames, runtime.program.window_frames)
        self.state = runtime.program.initial_model_state(1)
