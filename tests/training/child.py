"""A training run for tests that interrupt one: ``python -m tests.training.child RECIPE.yaml KILL_AT``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from asr.training.checkpoint import Checkpoints
from asr.training.command import train_command


def kill_at(step: int) -> None:
    """SIGKILL to this very process after that step."""
    original = Checkpoints.on_train_batch_end

    def patched(self: Checkpoints, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.on_train_batch_end = patched  # type: ignore[method-assign]


if __name__ == "__main__":
    if step := int(sys.argv[2]):
        kill_at(step)
    sys.exit(train_command([sys.argv[1]]))
