"""What a run shows: one line that updates itself, TensorBoard, and a log of the validations."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import lightning as L

from asr.training.control import Control
from asr.training.recipe import TrainerConfig
from asr.training.task import PARTS, StepReport

log = logging.getLogger("asr.training")


class Progress(L.Callback):
    """Step, loss, rate and ETA: in a terminal one line that updates itself, elsewhere a line every few seconds."""

    unit = "audio-s/s"  # of the rate

    def __init__(self, config: TrainerConfig, control: Control, stream: TextIO | None = None) -> None:
        self.config, self.control = config, control
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._step, self._amount, self._since, self._last = -1, 0.0, 0.0, 0.0
        self._open = False  # the updating line has no end yet
        self._first_step, self._began = 0, 0.0

    def amount(self, report: StepReport) -> float:
        """What the rate counts: seconds of audio."""
        return report.seconds

    def summary(self, dev: dict[str, float]) -> str:
        """The last validation, for the updating line."""
        return f"dev {dev['wer']:.1f} %"

    def held_out(self, dev: dict[str, float]) -> str:
        """A validation, for the line that stays."""
        return (
            f"dev loss {dev['loss']:.3f}  dev WER {dev['wer']:.2f} % "
            f"of {dev['words']:.0f} words ({dev['ins']:.0f} ins, {dev['del']:.0f} del, {dev['sub']:.0f} sub)"
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Clocks start."""
        now = time.monotonic()
        self._step = self._first_step = trainer.global_step
        self._since = self._last = self._began = now
        self._amount = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints if it is time to."""
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation
        report = pl_module.report
        self._step = report.step
        self._amount += self.amount(report)
        every = 0.5 if self.terminal else self.config.progress_seconds
        now = time.monotonic()
        last = report.step >= self.config.max_steps or trainer.should_stop
        if (
            not self.config.progress_seconds
            or not trainer.is_global_zero
            or (now - self._last < every and not last)
        ):
            return
        working = max(now - self._since, 1e-9)
        done = report.step - self._first_step
        remaining = self._remaining(now, done)
        loss = report.parts.get("loss", float("nan"))
        line = (
            f"step {report.step}/{self.config.max_steps}  epoch {_epoch(trainer)}  loss {loss:.3f}  "
            f"lr {report.learning_rate:.2e}  grad {report.gradient_norm:.2f}  "
            f"{self._amount / working:.0f} {self.unit}  {_duration(self.control.elapsed())}  ETA {_duration(remaining)}"
        )
        if pl_module.dev:
            line += f"  {self.summary(pl_module.dev)}"
        self._show(line)
        self._last = now
        if now - self._since > 30.0:  # the rate is that of the last half minute or so
            self._since, self._amount = now, 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The rate is of training alone."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A line that stays."""
        self._since += time.monotonic() - self._validation_began
        if self.config.progress_seconds and trainer.is_global_zero:
            clear = "\r\x1b[K" if self._open else ""
            self._open = False
            print(f"{clear}step {trainer.global_step}  {self.held_out(pl_module.dev)}", file=self.stream, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Leaves the updating line."""
        if self._open:
            print(file=self.stream, flush=True)
            self._open = False

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """The sentence that follows starts on a line of its own."""
        self.on_train_end(trainer, pl_module)

    def _remaining(self, now: float, done: int) -> float:
        """Seconds to the nearer of the step limit and the time limit."""
        per_step = (now - self._began) / max(done, 1)
        remaining = per_step * max(self.config.max_steps - self._step, 0)
        if self.config.max_minutes:
            remaining = min(remaining, max(60.0 * self.config.max_minutes - self.control.elapsed(), 0.0))
        return remaining

    def _show(self, line: str) -> None:
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
            self._open = True
        else:
            print(line, file=self.stream, flush=True)


class Metrics(L.Callback):
    """TensorBoard in `output_dir/tensorboard`, and `output_dir/dev.jsonl` with a line a validation; rank 0 only."""

    def __init__(self, folder: Path, config: TrainerConfig) -> None:
        self.folder, self.config = folder, config
        self._writer: Any = None
        self._step = -1
        self._sums: dict[str, float] = {}
        self._seconds = self._tokens = self._norms = 0.0
        self._steps = 0
        self._since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Opens the event file; points of an interrupted run beyond its last checkpoint are dropped by TensorBoard."""
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            step = trainer.global_step
            self._writer = SummaryWriter(
                str(self.folder / "tensorboard"), purge_step=step + 1 if step else None
            )
        self._step = trainer.global_step
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sums every step, writes every `log_every_steps`."""
        report = pl_module.report
        if trainer.global_step == self._step or self._writer is None:
            return
        self._step = report.step
        self._seconds += report.seconds
        if not report.skipped:
            for name in PARTS:
                self._sums[name] = self._sums.get(name, 0.0) + report.parts[name] * report.tokens
            self._tokens += report.tokens
            self._norms += report.gradient_norm
            self._steps += 1
        if report.step % self.config.log_every_steps == 0:
            self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        report, now = pl_module.report, time.monotonic()
        values = {
            "train/learning_rate": report.learning_rate,
            "train/audio_seconds_per_second": self._seconds / max(now - self._since, 1e-9),
            "train/epoch": float(_epoch(trainer)),
            "train/skipped_steps": float(pl_module.guard.steps),
            "train/skipped_utterances": float(pl_module.guard.utterances),
        }
        if self._steps:
            values["train/gradient_norm"] = self._norms / self._steps
            for name in PARTS:
                if name == "loss" or self._sums.get(name):
                    values[f"train/{name}"] = self._sums[name] / max(self._tokens, 1.0)
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, report.step)
        self._sums, self._steps = {}, 0
        self._seconds = self._tokens = self._norms = 0.0
        self._since = now

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Validation is no training time."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A line of dev.jsonl, and TensorBoard."""
        self._since += time.monotonic() - self._validation_began
        if not trainer.is_global_zero:
            return
        line = json.dumps({"minutes": round(pl_module.control.elapsed() / 60.0, 2), **pl_module.dev})
        try:
            with open(self.folder / "dev.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # no reason to lose the run: its checkpoints have their own way to complain
            log.warning("cannot write %s: %s", self.folder / "dev.jsonl", error.strerror)
        if self._writer is not None:
            self.show(pl_module, trainer.global_step)

    def show(self, pl_module: Any, step: int) -> None:
        """A validation in TensorBoard: dev loss, dev WER and a few greedy texts."""
        self._writer.add_scalar("dev/loss", pl_module.dev["loss"], step)
        self._writer.add_scalar("dev/wer", pl_module.dev["wer"], step)
        rows = [f"| {_cell(ref)} | {_cell(hyp)} |" for ref, hyp in pl_module.samples]
        text = "\n".join(["| reference | greedy |", "| --- | --- |", *rows])
        self._writer.add_text("dev/sample", text, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Closes the event file."""
        if self._writer is not None:
            if self._steps:
                self._write(trainer, pl_module)
            self._writer.close()
            self._writer = None

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Keeps what was written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _epoch(trainer: Any) -> int:
    """The epoch of the data; Lightning's own is endless."""
    return int(trainer.datamodule.epoch)


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or " "


def _duration(seconds: float) -> str:
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
