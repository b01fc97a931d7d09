"""An ExecuTorch export, driven as an application drives it: features and the greedy loop outside, the rest inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.features import Fbank
from export.bundle import read_features
from export.pte import METHODS, file_name, load_program, set_threads
from export.windows import WindowStream

TYPES = {4: torch.int64, 6: torch.float32}  # ExecuTorch's numbers of the types of states


class ExecutorchRuntime:
    """Streams through a ``model*.pte``. It takes one stream a call: streams stepped together are interleaved.

    Args:
        folder: the export.
        precision: "fp32" or "int8".
        blank_penalty: None: what the file holds.
        threads: of XNNPACK; all runtimes of a process share them.
    """

    resets = False  # an endpoint is the application's affair: the state lives on

    def __init__(self, folder: Path, precision: str, blank_penalty: float | None = None, threads: int = 1):
        set_threads(threads)
        self.program = load_program(folder / file_name(precision))
        self.encode, self.predict, self.join = (self.program.load_method(name) for name in METHODS)
        self.chunk, self.window = (self.constant(name) for name in ("chunk_frames", "window_frames"))
        self.blank_penalty = self.constant("blank_penalty") if blank_penalty is None else blank_penalty
        self.fbank = Fbank(read_features(folder))
        self.start = self.predict.execute([torch.zeros(1, dtype=torch.int64), *zeros(self.predict)])

    def constant(self, name: str) -> Any:
        """A number of the program."""
        return self.program.load_method(name).execute([])[0]

    def open(self, batched: bool = False) -> ExecutorchStream:
        """A new stream."""
        return ExecutorchStream(self)

    def step(self, streams: list[ExecutorchStream]) -> None:
        """One chunk of each, one after the other."""
        for stream in streams:
            stream.decode()


class ExecutorchStream(WindowStream):
    """A stream with states of its own."""

    def __init__(self, runtime: ExecutorchRuntime):
        super().__init__(runtime.fbank, runtime.chunk, runtime.window)
        self.runtime = runtime
        self.states = zeros(runtime.encode)
        self.predicted, *self.history = runtime.start

    @torch.inference_mode()
    def decode(self) -> None:
        """One window: at most one symbol a frame, `join` looking at all frames until one of them emits."""
        runtime = self.runtime
        window, count = self.take_window()
        encoded, *self.states = runtime.encode.execute([window[None], *self.states])
        tokens = [0] * count
        frame = 0
        while frame < count:
            logits = runtime.join.execute([encoded, self.predicted])[0][0, frame:count]
            logits[:, 0] -= runtime.blank_penalty
            found = logits.argmax(1)
            emitted = found.nonzero()
            if emitted.size(0) == 0:
                break
            at = int(emitted[0])
            tokens[frame + at] = int(found[at])
            self.predicted, *self.history = runtime.predict.execute([found[at : at + 1], *self.history])
            frame += at + 1
        self.take_symbols(tokens)


def zeros(method: Any) -> list[Tensor]:
    """The states a method begins with: all its inputs but the first."""
    meta = method.metadata
    infos = [meta.input_tensor_meta(i) for i in range(1, meta.num_inputs())]
    return [torch.zeros(info.sizes(), dtype=TYPES[info.dtype()]) for info in infos]
