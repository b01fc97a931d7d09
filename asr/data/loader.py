"""Batches for training and validation, in the same order whatever the number of workers, resumable between any two.

The order of an epoch is a plan (``asr.data.plan``) made in the main process; workers only execute it. A position is
therefore (epoch, batches consumed), and returning to it costs one plan and no audio.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from asr.data.audio_cache import AudioCache
from asr.data.augment import Augmenter
from asr.data.config import CorpusConfig, DataConfig
from asr.data.corpora import assert_disjoint_speakers, cut_speaker, load_cuts
from asr.data.dataset import (
    Batch,
    Failure,
    PlannedBatch,
    SpeechDataset,
    cut_text,
    too_long_for_audio,
)
from asr.data.plan import Corpus, Item, plan_epoch, plan_in_order
from asr.data.statistics import FeatureStatistics, feature_statistics
from asr.errors import UserError
from asr.features import SAMPLE_RATE, Fbank, FeatureConfig, encoder_frames, num_frames

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut

    from asr.tokens import Tokenizer

log = logging.getLogger(__name__)


@dataclass
class Dropped:
    """Utterances left out of training, by reason; ids in corpus order."""

    too_short: list[str] = field(default_factory=list)  # below min_utterance_seconds
    too_long: list[str] = field(default_factory=list)  # above max_utterance_seconds
    more_tokens_than_frames: list[str] = field(default_factory=list)  # at the fastest speed asked for
    unwritable: list[str] = field(default_factory=list)  # the tokens cannot write the transcript

    def __len__(self) -> int:
        return sum(map(len, vars(self).values()))

    def __str__(self) -> str:
        parts = []
        for reason, ids in vars(self).items():
            if ids:
                shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
                parts.append(f"{len(ids)} {reason.replace('_', ' ')} ({shown})")
        return "; ".join(parts) or "none"


class PlanSampler(Sampler):
    """Hands this rank's planned batches to the workers, from a given one on."""

    def __init__(self, cuts: list[Cut]) -> None:
        self.cuts = cuts
        self.epoch, self.first = 0, 0
        self.batches: list[list[Item]] = []

    def __iter__(self) -> Iterator[PlannedBatch]:
        epoch = self.epoch
        for items in self.batches[self.first :]:
            yield PlannedBatch(epoch, [(item, [self.cuts[i] for i in item.cuts]) for item in items])

    def __len__(self) -> int:
        return len(self.batches) - self.first


class Loader:
    """Iterates over batches of ``plan(epoch)``; the base of both loaders.

    ``for batch in loader`` gives the rest of the current epoch, then moves on to the next one.
    """

    def __init__(
        self, dataset: SpeechDataset, cuts: list[Cut], workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        self.dataset, self.cuts = dataset, cuts
        self.epoch, self.consumed = 0, 0
        self._sampler = PlanSampler(cuts)
        self._planned = -1
        # Shared caches need forked workers; otherwise the platform's own way of starting processes is the safe one.
        shared = dataset.audio.enabled or (
            dataset.augmenter is not None and dataset.augmenter.noise_audio.enabled
        )
        fork = workers > 0 and shared and sys.platform == "linux"
        self._loader = DataLoader(
            dataset,
            sampler=self._sampler,
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers else None,
            multiprocessing_context="fork" if fork else None,
            pin_memory=pin_memory,
            # Without a generator of its own the DataLoader draws from torch's global stream at each epoch's start, and a
            # resumed run would draw more often than an uninterrupted one.
            generator=torch.Generator(),
        )

    def plan(self, epoch: int) -> list[list[Item]]:
        """This rank's batches of an epoch."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of ``epoch``; does nothing when already in it, so that a restored position survives."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def __len__(self) -> int:
        """Batches of the whole current epoch on this rank; epochs may differ by a few."""
        self._prepare()
        return len(self._sampler.batches)

    @property
    def remaining(self) -> int:
        """Batches of the current epoch not yet consumed."""
        return len(self) - self.consumed

    def __iter__(self) -> Iterator[Batch]:
        self._prepare()
        epoch = self.epoch
        self._sampler.first = self.consumed
        for batch in self._loader:
            if isinstance(batch, Failure):
                self.close()
                raise UserError(batch.message)
            self.consumed += 1  # before the trainer has it: whoever saves a state now has received this batch
            yield batch
        self.epoch, self.consumed = epoch + 1, 0

    def close(self) -> None:
        """Ends the worker processes; iterating again starts new ones.

        Left to the garbage collector, workers may outlive an exception's traceback, and their queues die before them.
        """
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()

    def _prepare(self) -> None:
        if self._planned != self.epoch:
            self._sampler.batches, self._sampler.epoch = self.plan(self.epoch), self.epoch
            self._planned = self.epoch


class TrainLoader(Loader):
    """Augmented, bucketed, shuffled batches of one rank; bit-identical for any number of workers and after a resume."""

    def __init__(
        self,
        dataset: SpeechDataset,
        cuts: list[Cut],
        corpus: Corpus,
        config: DataConfig,
        seed: int,
        rank: int,
        world_size: int,
        dropped: Dropped,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(dataset, cuts, config.workers, config.prefetch, pin_memory)
        self.corpus, self.config, self.seed = corpus, config, seed
        self.rank, self.world_size, self.dropped = rank, world_size, dropped
        self._fingerprint = ""
        self.seconds = float(
            sum(corpus.seconds[a:b].sum() * passes for a, b, passes in corpus.sources)
        )  # an epoch's speech

    def plan(self, epoch: int) -> list[list[Item]]:
        return plan_epoch(self.corpus, self.config, self.seed, epoch, self.world_size)[
            self.rank :: self.world_size
        ]

    def state_dict(self, consumed: int | None = None) -> dict:
        """Position: the next batch is number ``consumed`` of ``epoch``.

        ``consumed``: the trainer's own count of finished batches in the current epoch, for a checkpoint written while a
        batch is still being worked on; by default all batches handed out.
        """
        consumed = self.consumed if consumed is None else consumed
        return {
            "epoch": self.epoch,
            "consumed": consumed,
            "batches": len(self),
            "fingerprint": self.fingerprint(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continues at the saved position, at once.

        If data, budget, augmentation, seed or number of processes have changed since, the batches are others: a warning
        says so, and training continues at the same fraction of the epoch.
        """
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])
        if state["fingerprint"] != self.fingerprint():
            self.consumed = min(round(len(self) * state["consumed"] / max(state["batches"], 1)), len(self))
            log.warning(
                "data, batch budget, augmentation, seed or number of processes differ from the checkpoint's: continuing at "
                "batch %d of %d of epoch %d, with other batches", self.consumed, len(self), self.epoch,
            )  # fmt: skip

    def fingerprint(self) -> str:
        """Equal for loaders whose batches are equal."""
        if self._fingerprint:
            return self._fingerprint
        settings = asdict(self.config)
        order = {
            key: settings[key]
            for key in ("max_seconds", "max_utterances", "num_buckets", "endpoint", "augment")
        }
        digest = hashlib.sha256(repr((self.seed, self.world_size, self.corpus.sources, order)).encode())
        digest.update(np.ascontiguousarray(self.corpus.seconds).tobytes())
        for cut in self.cuts:
            digest.update(cut.id.encode())
        self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint


class DevLoader(Loader):
    """Every utterance once, unchanged, sorted by length; the same batches in each epoch."""

    def __init__(
        self,
        dataset: SpeechDataset,
        cuts: list[Cut],
        config: DataConfig,
        rank: int,
        world_size: int,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(dataset, cuts, config.workers, config.prefetch, pin_memory)
        seconds = np.array([cut.duration for cut in cuts])
        everything = plan_in_order(seconds, config.max_seconds, config.max_utterances, world_size)
        self._batches = everything[rank::world_size]
        self.seconds = float(seconds.sum())

    def plan(self, epoch: int) -> list[list[Item]]:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        self.consumed = 0  # an interrupted validation starts again
        return super().__iter__()


def load_corpora(sources: Sequence[str | CorpusConfig], need_text: bool = True) -> list[CutSet]:
    """The cuts of each source of a config's list. Raises UserError when there is no source."""
    if not sources:
        raise UserError("No data source is given.")
    return [load_cuts(source, need_text) for source in sources]


def make_train_loader(
    config: DataConfig,
    tokenizer: Tokenizer,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    features: FeatureConfig | None = None,
    pin_memory: bool = False,
) -> TrainLoader:
    """Loads the training corpora, drops and counts what cannot be trained on, and returns the loader of one rank.

    Raises UserError for bad sources or settings, for a speaker who is in train and in dev, and when nothing is left.
    """
    config.validate()
    if config.endpoint and tokenizer.endpoint_id is None:
        raise UserError("data.endpoint is set, but the tokens have no endpoint token.")
    sets = load_corpora(config.train)
    if config.disjoint_speakers and config.dev:
        dev = [cut for cuts in load_corpora(config.dev) for cut in cuts]
        assert_disjoint_speakers(
            [cut for cuts in sets for cut in cuts], dev, names=("train", "dev"), quiet=rank > 0
        )
    dropped = Dropped()
    cuts: list[Cut] = []
    ranges = []
    for source, found in zip(config.train, sets, strict=True):
        kept = [cut for cut in found if _usable(cut, config, tokenizer, dropped)]
        repeat = source.repeat if isinstance(source, CorpusConfig) else 1.0
        if kept:
            ranges.append((len(cuts), len(cuts) + len(kept), repeat))
        cuts += kept
    if len(dropped):
        log.warning("left out of training: %s", dropped)
    if not cuts:
        raise UserError(f"No training utterance is left; dropped: {dropped}.")
    numbers: dict[str, int] = {}
    # An utterance without a speaker is a speaker of its own.
    speakers = [numbers.setdefault(cut_speaker(cut) or f"\0{i}", len(numbers)) for i, cut in enumerate(cuts)]
    corpus = Corpus(np.array([cut.duration for cut in cuts]), np.array(speakers), ranges)
    noise_sources = config.augment.noise.sources if config.augment.noise.probability > 0 else []
    noise = [cut for source in noise_sources for cut in load_cuts(source, need_text=False)]
    augmenter = Augmenter(config.augment, noise, seed, config.cache_audio)
    dataset = SpeechDataset(
        AudioCache(cuts, config.cache_audio), tokenizer, Fbank(features or FeatureConfig()), augmenter, seed,
        config.strict_text, config.endpoint, config.skip_unreadable,
    )  # fmt: skip
    return TrainLoader(dataset, cuts, corpus, config, seed, rank, world_size, dropped, pin_memory)


def make_dev_loader(
    config: DataConfig,
    tokenizer: Tokenizer,
    rank: int = 0,
    world_size: int = 1,
    features: FeatureConfig | None = None,
    pin_memory: bool = False,
) -> DevLoader:
    """The loader of ``config.dev``: nothing dropped, nothing augmented; characters unknown to the tokens are left out."""
    config.validate()
    cuts = [cut for found in load_corpora(config.dev) for cut in found]
    dataset = SpeechDataset(
        AudioCache(cuts, config.cache_audio), tokenizer, Fbank(features or FeatureConfig()), None, 0,
        strict_text=False, endpoint=config.endpoint,
    )  # fmt: skip
    return DevLoader(dataset, cuts, config, rank, world_size, pin_memory)


def training_statistics(config: DataConfig, features: FeatureConfig | None = None) -> FeatureStatistics:
    """Feature mean and deviation for the model: ``config.statistics`` if set, else measured on the training audio."""
    if config.statistics:
        return FeatureStatistics.load(config.statistics)
    cuts = [cut for found in load_corpora(config.train) for cut in found]
    return feature_statistics(cuts, config.statistics_seconds, features, config.skip_unreadable)


def _usable(cut: Cut, config: DataConfig, tokenizer: Tokenizer, dropped: Dropped) -> bool:
    """Whether to train on a cut; if not, its id is noted."""
    speed = config.augment.speed
    fastest = max([1.0, *speed.factors]) if speed.probability > 0 else 1.0
    if cut.duration < config.min_utterance_seconds:
        dropped.too_short.append(cut.id)
    elif cut.duration > config.max_utterance_seconds:
        dropped.too_long.append(cut.id)
    else:
        try:
            tokens = len(tokenizer.encode(cut_text(cut), strict=config.strict_text)) + config.endpoint
        except UserError as error:
            if not dropped.unwritable:
                log.warning("%s: %s", cut.id, error)
            dropped.unwritable.append(cut.id)
            return False
        if not too_long_for_audio(tokens, encoder_frames(num_frames(round(cut.duration / fastest * SAMPLE_RATE)))):
            return True
        dropped.more_tokens_than_frames.append(cut.id)
    return False


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # A stop meant for the run reaches its whole process group (Ctrl-C, batch systems). Whether to stop is the main
    # process's decision: it still needs this worker for the checkpoint's step, and workers end with their parent.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
