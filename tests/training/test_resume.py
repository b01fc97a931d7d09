"""Interruptions: killed, asked to stop, out of disk; and what a resumed run may and may not change."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr.errors import UserError
from asr.training import checkpoint as checkpoint_module
from asr.training.checkpoint import read_checkpoint, step_checkpoints
from asr.training.command import train_command
from asr.training.fit import fit
from asr.training.recipe import Recipe
from tests.training.helpers import differing, start_child

RecipeMaker = Callable[..., Recipe]

# Dropout, augmentation and validation all draw random numbers; an epoch is about 8 batches, a step 2 of them.
RANDOM = {
    "model.encoder": {
        "dim": 16,
        "heads": 2,
        "ffn_dim": 32,
        "layers": 2,
        "dropout": 0.2,
        "left_context_ms": 320,
    },
    "data.augment": {
        "volume": {"probability": 0.8},
        "specaugment": {"probability": 0.8},
        "padding": {"probability": 0.5},
    },
    "loss.kind": "pruned",
    "loss.warmup_steps": 6,
    "optim.schedule": "cosine",
    "trainer.max_steps": 13,
    "trainer.accumulate": 2,
    "trainer.validate_every_steps": 4,
    "trainer.checkpoint_every_steps": 4,
}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return {}


def content(path: Path) -> dict[str, Any]:
    """What must be equal bit by bit: everything but the clock and Lightning's own counters of batches."""
    found = read_checkpoint(path)
    info = found["asr"]
    keys = ("average", "guard", "random", "step", "tokens", "model")
    return {
        "weights": found["state_dict"],
        "optimizer": found["optimizer_states"],
        "data": found["loops"]["fit_loop"]["state_dict"].get("combined_loader"),
        "position": found["loops"]["fit_loop"].get("state_dict"),
        **{key: info[key] for key in keys},
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bitwise_exact_after_a_kill_in_mid_epoch(
    make_recipe: RecipeMaker, tmp_path: Path, uninterrupted: dict[str, Any], workers: int
) -> None:
    if not uninterrupted:
        uninterrupted.update(content(fit(make_recipe("whole", {**RANDOM, "data.workers": 0})).checkpoint))
    recipe = make_recipe("killed", {**RANDOM, "data.workers": workers})
    child = start_child(recipe, tmp_path / "recipe.yaml", kill_at=7)
    told = child.communicate(timeout=120)[1]
    assert child.returncode == -signal.SIGKILL, told
    assert [path.name for path in step_checkpoints(recipe.folder())] == ["step-00000004.ckpt"]
    position = content(step_checkpoints(recipe.folder())[0])["data"][0]
    half_written = recipe.folder() / "checkpoints" / ".step-00000008.ckpt.1234.tmp"
    half_written.write_bytes(b"as a kill in the middle of writing leaves it")
    assert 0 < position["consumed"] < position["batches"]  # in mid-epoch
    result = fit(recipe)
    assert result.finished and result.step == 13 and not half_written.exists()
    assert list(differing(content(result.checkpoint), uninterrupted)) == []


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGTERM, True)],
)
def test_ctrl_c_leaves_a_resumable_checkpoint(
    make_recipe: RecipeMaker,
    tmp_path: Path,
    number: signal.Signals,
    group: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """``group``: the workers get the signal too, as from a terminal's Ctrl-C or a batch system's stop."""
    changes = {"trainer.max_steps": 100000, "trainer.checkpoint_every_steps": 5, "data.workers": 2}
    recipe = make_recipe("run", changes)
    child = start_child(recipe, tmp_path / "recipe.yaml", group=group)
    deadline = time.monotonic() + 120
    while not step_checkpoints(recipe.folder()) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if group:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    text = child.communicate(timeout=60)[1]
    assert child.returncode == 130, text
    newest = step_checkpoints(recipe.folder())[-1]
    assert f"{newest} is written" in text and "run the same command again" in text and "Traceback" not in text
    step = int(read_checkpoint(newest)["asr"]["step"])
    assert not list(recipe.folder().glob("checkpoints/.*"))  # no half-written file
    assert train_command([str(tmp_path / "recipe.yaml"), "--trainer.max_steps", str(step + 3)]) == 0
    told = capfd.readouterr().err
    assert f"resuming {newest} at step {step}" in told and f"finished at step {step + 3}" in told


def test_time_limit_counts_all_parts_of_a_run(make_recipe: RecipeMaker) -> None:
    changes = {"trainer.max_steps": 100000, "trainer.max_minutes": 0.01}
    first = fit(make_recipe("run", changes))
    assert first.finished and 0.01 <= first.minutes < 0.5
    again = fit(make_recipe("run", changes))
    assert again.step - first.step <= 1 and again.minutes > first.minutes


def test_changed_recipe_is_refused_by_name_and_can_be_forced(make_recipe: RecipeMaker) -> None:
    fit(make_recipe("run", {"trainer.max_steps": 2}))
    changed = {"trainer.max_steps": 3, "optim.lr": 0.001, "trainer.keep": 7}
    with pytest.raises(UserError, match=r"optim\.lr was 0\.005 and is 0\.001") as error:
        fit(make_recipe("run", changed))
    assert "trainer" not in str(error.value)  # a longer run is the same run
    assert fit(make_recipe("run", changed), resume="force").step == 3
    folder = make_recipe("run").folder()
    (folder / "skipped.jsonl").write_text("{}\n")
    again = fit(make_recipe("run", {**changed, "trainer.max_steps": 1}), resume="never")
    assert again.step == 1 and len(list((folder / "checkpoints.old1").glob("step*"))) == 2
    # The logs of the old run are not taken for the new one's.
    assert not (folder / "skipped.jsonl").exists()
    assert {"dev.jsonl", "skipped.jsonl", "tensorboard"} <= {p.name for p in (folder / "checkpoints.old1").iterdir()}
    steps = [json.loads(line)["step"] for line in (folder / "dev.jsonl").read_text().splitlines()]
    assert steps == [1]


def test_full_disk_says_so_and_keeps_the_earlier_checkpoint(
    make_recipe: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = {"trainer.keep_best": 0}
    first = fit(make_recipe("run", {"trainer.max_steps": 2, **quiet})).checkpoint
    before = first.read_bytes()
    original = checkpoint_module._Watched.write

    def write(self: Any, data: Any) -> int:
        if self.file.tell() > 5000:
            self.file = Full()
        return original(self, data)

    class Full:
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def tell(self) -> int:
            return 0

    monkeypatch.setattr(checkpoint_module._Watched, "write", write)
    with pytest.raises(UserError, match=re.escape("step-00000003.ckpt: the disk is full")):
        fit(make_recipe("run", {"trainer.max_steps": 3, **quiet}))
    assert first.read_bytes() == before and [path.name for path in first.parent.iterdir()] == [first.name]
