"""The outside world of a training run: its clock, its signals, its random number generators."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import torch

log = logging.getLogger("asr.training")


class Control:
    """Time used so far and whether someone asked to stop; ranks agree once a step.

    Args:
        used_before: seconds that earlier parts of the same run took.
    """

    def __init__(self, used_before: float = 0.0) -> None:
        self.used_before = used_before
        self.stop_requested = False  # this process got a signal
        self.stop_agreed = False  # some rank got a signal, and all know
        self.elapsed_agreed = used_before  # seconds, the same on all ranks
        self._began = time.monotonic()
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def elapsed(self) -> float:
        """Seconds of the run, earlier parts included."""
        return self.used_before + time.monotonic() - self._began

    def agree(self, stop: bool, elapsed: float) -> None:
        """What all ranks know after a step."""
        self.stop_agreed = self.stop_agreed or stop
        self.elapsed_agreed = elapsed

    def install(self) -> None:
        """SIGINT and SIGTERM ask for a stop at the next step; a second SIGINT interrupts at once.

        Called again by every process of the run and after Lightning has set its own handlers; processes forked later
        (data workers) ignore both signals and end with their parent.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._owner = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """The handlers from before `install`."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_requested = True
        log.info(
            "stopping after this step and writing a checkpoint (Ctrl-C again: stop at once, without one)"
        )


def seed_everything(seed: int) -> None:
    """Seeds torch (all devices), numpy and python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """State of torch's (CPU and current GPU), numpy's and python's global generators, as plain types and tensors."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(words), gauss],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what `rng_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
