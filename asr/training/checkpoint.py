"""Checkpoint files: written whole or not at all, read without unpickling code, found by name.

`checkpoints/step-00001000.ckpt` resumes a run; `checkpoints/best-012.34-step-00001000.ckpt` holds the weights that
validation measured (dev WER in percent in its name). Both are self-contained: recipe, architecture and tokens inside.
"""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import IO, Any, cast

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from asr.errors import UserError
from asr.training.control import Control
from asr.training.recipe import TrainerConfig

FOLDER = "checkpoints"
DEV_LOG = "dev.jsonl"  # in the run folder, a line a validation
LOGS = (DEV_LOG, "skipped.jsonl", "tensorboard")  # what else belongs to one run
_STEP = re.compile(r"step-(\d+)\.ckpt")
_BEST = re.compile(r"best-([\d.]+)-step-(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk, with temp + rename and loading restricted to tensors and plain types."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `path` atomically; see `save_atomically`."""
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads what `save_checkpoint` wrote, Lightning's own temporary files among it."""
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content


class _Watched(io.RawIOBase):
    """A file that remembers why writing failed: torch replaces the reason by one of its own."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file = file
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return int(self.file.write(data))
        except BaseException as error:  # a second Ctrl-C arrives here as well as a full disk
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to a temporary file beside `path`, onto the disk, then renamed; on failure nothing is left behind.

    Raises:
        UserError: the disk is full or the file cannot be written; an older `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    watched: _Watched | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            watched = _Watched(file)
            torch.save(content, cast(IO[bytes], watched))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = watched.error if watched is not None and watched.error is not None else error
        if not isinstance(reason, OSError):
            raise reason from None
        full = reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else (reason.strerror or str(reason))
        raise UserError(
            f"cannot write the checkpoint {path}: {why}; earlier checkpoints are untouched."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU.

    Args:
        mmap: map tensors instead of reading them, to look at something small in a large file.

    Raises:
        UserError: not there, damaged, or not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}.") from None
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"the checkpoint {path} cannot be read ({reason}); delete it to go back to an earlier one."
        ) from None
    if not isinstance(content, dict) or "asr" not in content:
        raise UserError(f"{path} is not a checkpoint of this toolkit.")
    if content["asr"].get("format") != 1:
        raise UserError(
            f"{path} is a checkpoint of another version (format {content['asr'].get('format')}, this reads 1)."
        )
    return content


def step_checkpoints(folder: Path) -> list[Path]:
    """Resumable checkpoints of a run folder (or its `checkpoints` folder), oldest first."""
    return [path for _, path in _numbered(folder, _STEP, 1)]


def best_checkpoints(folder: Path) -> list[Path]:
    """Weights-only checkpoints of a run folder, lowest dev WER first, newest first among equals."""
    found = [(float(m[1]), -int(m[2]), path) for path, m in _matches(folder, _BEST)]
    return [path for *_, path in sorted(found)]


def move_aside(folder: Path) -> Path | None:
    """Moves checkpoints and logs of an earlier run out of a run folder, so that none is taken for the next run's.

    Returns:
        ``checkpoints.oldN`` with all of it, or None if there was nothing.
    """
    logs = [path for name in LOGS if (path := folder / name).exists()]
    old = folder / FOLDER
    if not logs and not (old.is_dir() and any(old.iterdir())):
        return None
    number = 1
    while (aside := folder / f"{FOLDER}.old{number}").exists():
        number += 1
    if old.is_dir():
        old.rename(aside)
    aside.mkdir(exist_ok=True)
    for path in logs:
        path.rename(aside / path.name)
    return aside


def _numbered(folder: Path, pattern: re.Pattern[str], group: int) -> list[tuple[int, Path]]:
    return sorted((int(match[group]), path) for path, match in _matches(folder, pattern))


def _matches(folder: Path, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    inner = folder / FOLDER
    place = inner if inner.is_dir() else folder
    if not place.is_dir():
        return []
    return [(path, match) for path in place.iterdir() if (match := pattern.fullmatch(path.name))]


class Checkpoints(L.Callback):
    """Writes resumable checkpoints by steps or minutes, and the best weights after validation; decides when to stop.

    Stops at the step limit, at the time limit, and when a signal asked for it; always with a checkpoint. All decisions
    use numbers that the ranks have agreed on.
    """

    def __init__(self, folder: Path, config: TrainerConfig, control: Control) -> None:
        self.folder, self.config, self.control = folder / FOLDER, config, control
        self._step = -1
        self._saved_step = -1
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock between checkpoints starts now; what a killed run was writing is removed."""
        if trainer.is_global_zero and self.folder.is_dir():
            for half_written in self.folder.glob(".*.ckpt.*.tmp"):
                half_written.unlink(missing_ok=True)
        self._step = self._saved_step = trainer.global_step
        self._saved_at = self.control.elapsed_agreed = self.control.used_before

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each optimizer step: stop, save, or go on."""
        step = trainer.global_step
        if step == self._step:
            return  # in the middle of an accumulation
        self._step = step
        config, elapsed = self.config, self.control.elapsed_agreed
        out_of_time = config.max_minutes > 0 and elapsed >= 60.0 * config.max_minutes
        stop = self.control.stop_agreed or out_of_time or step >= config.max_steps
        by_steps = config.checkpoint_every_steps > 0 and step % config.checkpoint_every_steps == 0
        every = 60.0 * config.checkpoint_every_minutes
        by_time = every > 0 and elapsed - self._saved_at >= every
        if stop or by_steps or by_time:
            self.save(trainer)
        if stop:
            if self.control.stop_agreed:
                trainer.limit_val_batches = 0  # a signal wants the process to end, not to validate
            trainer.should_stop = True

    def save(self, trainer: L.Trainer) -> None:
        """Writes the resumable checkpoint of this step and removes the oldest ones beyond `keep`."""
        step = trainer.global_step
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        self._saved_step, self._saved_at = step, self.control.elapsed_agreed
        if trainer.is_global_zero:
            for old in step_checkpoints(self.folder)[: -self.config.keep]:
                old.unlink(missing_ok=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keeps the weights just measured (still swapped in) if they are among the best."""
        keep = self.config.keep_best
        if not trainer.is_global_zero or keep <= 0 or not pl_module.dev.get("words"):
            return
        name = f"best-{pl_module.dev['wer']:06.2f}-step-{trainer.global_step:08d}.ckpt"
        best = best_checkpoints(self.folder)
        worst = float(_BEST.fullmatch(best[keep - 1].name)[1]) if len(best) >= keep else float("inf")  # type: ignore[index]
        if round(pl_module.dev["wer"], 2) > worst:
            return
        content = {"state_dict": pl_module.state_dict(), "asr": pl_module.description()}
        save_atomically(content, self.folder / name)
        for old in best_checkpoints(self.folder)[keep:]:
            old.unlink(missing_ok=True)
