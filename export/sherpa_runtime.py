"""An export in the unmodified sherpa-onnx, driven as an application drives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import Result

FRAME_SECONDS = 0.04  # hard-coded in sherpa-onnx
SPACE = "\u2581"


class SherpaRuntime:
    """Streams through ``sherpa_onnx.OnlineRecognizer``, greedy search.

    Args:
        folder: the export.
        precision: "fp32" or "int8".
        blank_penalty: None: what config.json says.
    """

    resets = True

    def __init__(self, folder: Path, precision: str, blank_penalty: float | None = None, threads: int = 1):
        import sherpa_onnx

        self.settings: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        suffix = ".int8.onnx" if precision == "int8" else ".onnx"
        self.recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(folder / "tokens.txt"),
            encoder=str(folder / f"encoder{suffix}"),
            decoder=str(folder / f"decoder{suffix}"),
            joiner=str(folder / f"joiner{suffix}"),
            num_threads=threads,
            sample_rate=self.settings["sample_rate"],
            feature_dim=self.settings["feature_dim"],
            model_type=self.settings["model_type"],
            decoding_method="greedy_search",
            blank_penalty=self.settings["blank_penalty"] if blank_penalty is None else blank_penalty,
        )
        self.frames = self.settings["chunk_frames"] // 4  # encoder frames a step
        table = [line.rsplit(" ", 1) for line in (folder / "tokens.txt").read_text("utf-8").splitlines()]
        self.ids = {symbol.replace(SPACE, " "): int(number) for symbol, number in table}

    def open(self, batched: bool = False) -> SherpaStream:
        """A new stream."""
        return SherpaStream(self)

    def step(self, streams: list[SherpaStream]) -> None:
        """One chunk of each, batched by the runtime."""
        self.recognizer.decode_streams([stream.stream for stream in streams])
        for stream in streams:
            stream.decoded += self.frames


class SherpaStream:
    """One ``sherpa_onnx.OnlineStream`` and the segments it has ended."""

    def __init__(self, runtime: SherpaRuntime):
        self.runtime = runtime
        self.stream = runtime.recognizer.create_stream()
        self.decoded = 0
        self._ended = Result()
        self._segment = 0  # encoder frame at which the current segment began

    @property
    def ready(self) -> bool:
        """Whether the runtime has a window and one frame more."""
        return bool(self.runtime.recognizer.is_ready(self.stream))

    def accept(self, pcm: np.ndarray) -> None:
        """(S,) samples."""
        self.stream.accept_waveform(self.runtime.settings["sample_rate"], pcm)

    def finish(self) -> None:
        """Zeros first: the runtime never decodes an unfinished window."""
        self.accept(np.zeros(self.runtime.settings["tail_padding_samples"], np.float32))
        self.stream.input_finished()

    def reset(self) -> None:
        """What an application calls at an endpoint; times restart, so the segment so far is put aside."""
        self._ended = self.result()
        self._segment = self.decoded
        self.runtime.recognizer.reset(self.stream)

    def result(self) -> Result:
        """All segments."""
        recognizer = self.runtime.recognizer
        tokens = [self.runtime.ids[symbol] for symbol in recognizer.tokens(self.stream)]
        frames = [self._segment + round(t / FRAME_SECONDS) for t in recognizer.timestamps(self.stream)]
        return Result(self._ended.tokens + tokens, self._ended.frames + frames, self.decoded)
