"""A training run in an interpreter of its own: ``python -m tests.training.child RECIPE.yaml KILL_AT`` for tests that
interrupt one, ``… RECIPE.yaml BATCHES.pkl`` for one of several processes on fixed batches."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from asr.data.dataset import Batch
from asr.training.checkpoint import Checkpoints
from asr.training.command import train_command
from asr.training.recipe import load_recipe
from tests.training.helpers import train_on


def kill_at(step: int) -> None:
    """SIGKILL to this very process after that step."""
    original = Checkpoints.on_train_batch_end

    def patched(self: Checkpoints, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.on_train_batch_end = patched  # type: ignore[method-assign]


def train_on_batches(recipe: str, batches: str) -> None:
    train_on(load_recipe(recipe), [Batch(*parts) for parts in pickle.loads(Path(batches).read_bytes())])


if __name__ == "__main__":
    if sys.argv[2].endswith(".pkl"):
        train_on_batches(*sys.argv[1:])
        sys.exit()
    if step := int(sys.argv[2]):
        kill_at(step)
    sys.exit(train_command([sys.argv[1]]))
