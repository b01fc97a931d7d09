"""Batches of text for Lightning: an endless, resumable stream to train on, and held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np

from asr.errors import UserError
from asr.training.control import Control
from asr.training.data import ENDLESS
from asr.training.text import Sentences, TextBatch


class TextStream:
    """Batches without end, shuffled anew each epoch; the order depends on the seed and the epoch alone.

    Lightning saves `state_dict()` in every checkpoint: the stream continues with the batch after the last one trained
    on.
    """

    def __init__(self, sentences: Sentences, max_tokens: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.sentences, self.max_tokens, self.seed = sentences, max_tokens, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.consumed = 0  # rounds (a batch a rank) of this epoch

    def plan(self) -> list[list[int]]:
        """The batches of this epoch; a multiple of the ranks (the last few may be left out)."""
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = self.sentences.plan(self.max_tokens, rng.permutation(len(self.sentences)))
        if len(batches) < self.world:
            raise UserError(f"the text gives {len(batches)} batches for {self.world} processes: lower data.max_tokens.")
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        return shuffled[: len(batches) // self.world * self.world]

    def __iter__(self) -> Iterator[TextBatch]:
        while True:
            batches = self.plan()[self.rank :: self.world]
            while self.consumed < len(batches):
                self.consumed += 1  # before the trainer has it: whoever saves a state now has received this batch
                yield self.sentences.batch(batches[self.consumed - 1])
            self.epoch, self.consumed = self.epoch + 1, 0

    def __len__(self) -> int:
        return ENDLESS

    def state_dict(self) -> dict[str, Any]:
        """Position in the data."""
        return {"epoch": self.epoch, "consumed": self.consumed, "tokens": self.sentences.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues there.

        Raises:
            UserError: the text is another one.
        """
        if state["tokens"] != self.sentences.tokens:
            raise UserError(
                f"the training text has {self.sentences.tokens} tokens, but {state['tokens']} when the run began: "
                "restore it, or start again with --resume never."
            )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])


class HeldOut:
    """Dev batches of one rank, short to long."""

    def __init__(self, sentences: Sentences, max_tokens: int, rank: int = 0, world: int = 1) -> None:
        self.sentences = sentences
        self.batches = sentences.plan(max_tokens, np.arange(len(sentences)))[rank::world]

    def __iter__(self) -> Iterator[TextBatch]:
        return (self.sentences.batch(batch) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TextData(L.LightningDataModule):
    """Streams of this rank, made when Lightning knows which rank it is."""

    def __init__(self, train: Sentences, dev: Sentences | None, max_tokens: int, seed: int, control: Control) -> None:
        super().__init__()
        self.train, self.dev, self.max_tokens, self.seed, self.control = train, dev, max_tokens, seed, control
        self._stream: TextStream | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the data being trained on; the first is 0."""
        return self._stream.epoch if self._stream is not None else 0

    def train_dataloader(self) -> TextStream:
        """Batches of this rank without end."""
        assert self.trainer is not None
        self.control.install()  # Lightning has just set its own signal handlers
        place = (self.trainer.global_rank, self.trainer.world_size)
        self._stream = TextStream(self.train, self.max_tokens, self.seed, *place)
        return self._stream

    def val_dataloader(self) -> HeldOut | list[Any]:
        """Dev batches of this rank; none without dev text."""
        assert self.trainer is not None
        if self.dev is None:
            return []
        return HeldOut(self.dev, self.max_tokens, self.trainer.global_rank, self.trainer.world_size)
