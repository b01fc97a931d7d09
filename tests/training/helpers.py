"""Running parts of training in tests: fixed batches, other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from asr.config import dump_yaml
from asr.data.dataset import Batch
from asr.tokens import Tokenizer
from asr.training.control import Control, seed_everything
from asr.training.fit import make_trainer
from asr.training.recipe import Recipe
from asr.training.setup import make_model
from asr.training.task import TransducerTask


def make_batch(
    generator: torch.Generator, utterances: int, frames: int, most_tokens: int, name: str
) -> Batch:
    """Random features and tokens; lengths vary inside the batch."""
    lengths = torch.randint(frames // 2, frames + 1, (utterances,), generator=generator)
    lengths[0] = frames
    features = torch.randn(utterances, frames, 80, generator=generator)
    features[torch.arange(frames)[None, :] >= lengths[:, None]] = 0.0
    counts = torch.randint(1, most_tokens + 1, (utterances,), generator=generator)
    counts[0] = most_tokens
    tokens = torch.randint(1, 4, (utterances, most_tokens), generator=generator)
    tokens[torch.arange(most_tokens)[None, :] >= counts[:, None]] = 0
    ids = [f"{name}-{i}" for i in range(utterances)]
    return Batch(features, lengths, tokens, counts, ids, ["low"] * utterances, float(lengths.sum()) / 100)


def join_batches(batches: list[Batch]) -> Batch:
    """One batch with the utterances of all."""
    frames = max(b.features.shape[1] for b in batches)
    tokens = max(b.tokens.shape[1] for b in batches)
    pad = torch.nn.functional.pad
    return Batch(
        torch.cat([pad(b.features, (0, 0, 0, frames - b.features.shape[1])) for b in batches]),
        torch.cat([b.feature_lengths for b in batches]),
        torch.cat([pad(b.tokens, (0, tokens - b.tokens.shape[1])) for b in batches]),
        torch.cat([b.token_lengths for b in batches]),
        [name for b in batches for name in b.ids],
        [text for b in batches for text in b.texts],
        sum(b.seconds for b in batches),
    )


class Repeat:
    """An iterable that Lightning does not take apart as it would a list."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches * 1000

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class FixedData(L.LightningDataModule):
    """These batches again and again; rank r of W gets batches r, r + W, …"""

    epoch = 0

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Repeat:
        assert self.trainer is not None
        return Repeat(self.batches[self.trainer.global_rank :: self.trainer.world_size])


class Record(L.Callback):
    """Loss per token and gradient norm after each step, in a file, as another process may write it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        report = pl_module.report
        if trainer.global_step > len(self.rows):  # not in the middle of an accumulation
            self.rows.append(
                [trainer.global_step, report.parts.get("loss", 0.0), report.gradient_norm, report.tokens]
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            content = {
                "rows": self.rows,
                "weights": pl_module.state_dict(),
                "average": pl_module.average.state_dict(),
            }
            torch.save(content, self.path)


def tone_tokenizer() -> Tokenizer:
    return Tokenizer.train(["low mid high"] * 3, 4, "word")


def train_on(recipe: Recipe, batches: list[Batch]) -> tuple[TransducerTask, dict[str, Any]]:
    """Trains the recipe's model on fixed batches with the real task and trainer -> (task, what `Record` wrote)."""
    control = Control()
    tokenizer = tone_tokenizer()
    seed_everything(recipe.seed)
    model = make_model(recipe, tokenizer.vocab_size)
    recipe.folder().mkdir(parents=True, exist_ok=True)
    task = TransducerTask(model, tokenizer, recipe, control)
    trainer = make_trainer(recipe, control)
    record = Record(recipe.folder() / "record.pt")
    trainer.callbacks.append(record)
    trainer.fit(task, datamodule=FixedData(batches))
    return task, torch.load(record.path, weights_only=True)


def train_ranks(recipe: Recipe, batches: list[Batch]) -> dict[str, Any]:
    """`train_on` in a fresh interpreter, for recipes with several processes: they fork, which torch forbids where a test
    before has used autograd's threads. Returns what `Record` wrote."""
    folder = recipe.folder()
    folder.mkdir(parents=True, exist_ok=True)
    dump_yaml(recipe, folder / "ranks.yaml")
    (folder / "batches.pkl").write_bytes(pickle.dumps([tuple(batch) for batch in batches]))
    command = [sys.executable, "-m", "tests.training.child", str(folder / "ranks.yaml"), str(folder / "batches.pkl")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "record.pt", weights_only=True)


def start_child(recipe: Recipe, file: Path, kill_at: int = 0, group: bool = False) -> subprocess.Popen[str]:
    """Trains a recipe (written to ``file``) in a fresh interpreter; stderr is piped.

    Args:
        kill_at: the child kills itself with SIGKILL after that step; 0 = never.
        group: the child leads a process group of its own, so that a test can signal it and its workers at once.
    """
    dump_yaml(recipe, file)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.child", str(file), str(kill_at)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )


def differing(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Places where two nested contents differ, bit by bit."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or not torch.equal(a, b):
            yield path
    elif isinstance(a, dict):
        for key in {*a, *b}:
            if key not in a or key not in b:
                yield f"{path}/{key} (missing)"
            else:
                yield from differing(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{path} (length)"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differing(x, y, f"{path}/{i}")
    elif a != b:
        yield f"{path}: {a!r} {b!r}"
