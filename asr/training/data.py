"""Training and dev batches for Lightning: one endless stream, whose position is saved with the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L

from asr.data.dataset import Batch
from asr.data.loader import DevLoader, TrainLoader, make_dev_loader, make_train_loader
from asr.errors import UserError
from asr.tokens import Tokenizer
from asr.training.control import Control
from asr.training.recipe import Recipe

# Batches. A length at all keeps Lightning from fetching a batch ahead, which would blur the position in the data.
ENDLESS = 10**12


class TrainStream:
    """The training loader, epoch after epoch, as one Lightning epoch without an end.

    Lightning saves `state_dict()` in every checkpoint and restores it before iterating: the stream continues with the
    batch after the last one trained on. Accumulation runs over the borders of epochs.
    """

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        while True:
            empty = True
            for batch in self.loader:
                empty = False
                yield batch
            if empty and self.loader.remaining == 0:
                raise UserError("the training data gave no batch in a whole epoch.")

    def __len__(self) -> int:
        return ENDLESS

    def state_dict(self) -> dict[str, Any]:
        """Position in the data."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues there."""
        self.loader.load_state_dict(state)


class SpeechData(L.LightningDataModule):
    """Loaders of this rank, made when Lightning knows which rank it is."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, control: Control) -> None:
        super().__init__()
        self.recipe, self.tokenizer, self.control = recipe, tokenizer, control
        self._train: TrainLoader | None = None
        self._dev: DevLoader | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the data being trained on; the first is 0."""
        return self._train.epoch if self._train is not None else 0

    def train_dataloader(self) -> TrainStream:
        """Batches of this rank without end."""
        assert self.trainer is not None
        # Lightning has just set its own signal handlers, and the workers that inherit ours are about to start.
        self.control.install()
        recipe = self.recipe
        self._train = make_train_loader(
            recipe.data,
            self.tokenizer,
            seed=recipe.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            features=recipe.features,
            pin_memory=self._on_gpu(),
        )
        return TrainStream(self._train)

    def val_dataloader(self) -> DevLoader | list[Any]:
        """Dev batches of this rank; none without dev data."""
        assert self.trainer is not None
        recipe = self.recipe
        if not recipe.data.dev:
            return []
        rank, world = self.trainer.global_rank, self.trainer.world_size
        self._dev = make_dev_loader(recipe.data, self.tokenizer, rank, world, recipe.features, self._on_gpu())
        return self._dev

    def teardown(self, stage: str | None = None) -> None:
        """Ends the workers now: left to the interpreter's exit, each would be waited for until a timeout."""
        for loader in (self._train, self._dev):
            if loader is not None:
                loader.close()

    def _on_gpu(self) -> bool:
        assert self.trainer is not None
        return bool(self.trainer.strategy.root_device.type == "cuda")
