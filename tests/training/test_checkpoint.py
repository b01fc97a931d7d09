"""Writing checkpoints: whatever stops it, the older file stays and nothing else is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr.training import checkpoint as checkpoint_module
from asr.training.checkpoint import save_atomically


def test_interrupt_in_the_middle_of_a_write_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch replaces what stopped a write by an error of its own: a second Ctrl-C must not become a traceback."""
    target = tmp_path / "a.ckpt"
    save_atomically({"x": torch.zeros(3000)}, target)
    before = target.read_bytes()
    original = checkpoint_module._Watched.write

    class Interrupted:
        def write(self, data: object) -> int:
            raise KeyboardInterrupt

    def write(self: checkpoint_module._Watched, data: object) -> int:
        if self.file.tell() > 100:
            self.file, file = Interrupted(), self.file
            try:
                return original(self, data)
            finally:
                self.file = file
        return original(self, data)

    monkeypatch.setattr(checkpoint_module._Watched, "write", write)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"x": torch.ones(3000)}, target)
    assert target.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
