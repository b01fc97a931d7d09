"""A planned batch of utterances becomes tensors: read, augment, features, tokens.

B: utterances, T: feature frames of 10 ms, U: tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from asr.data.audio_cache import AudioCache
from asr.data.augment import Augmenter
from asr.data.plan import Item, item_rng
from asr.errors import UserError
from asr.features import NUM_MEL_BINS, SAMPLE_RATE, Fbank

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from asr.tokens import Tokenizer


class Batch(NamedTuple):
    """Padded tensors of one training or validation step; NamedTuple, so that pinning and device transfer just work.

    ``features`` (B, T, 80) float32, padded with 0; ``feature_lengths`` (B,) int64, frames of 10 ms; ``tokens`` (B, U)
    int64, padded with 0; ``token_lengths`` (B,) int64; ``ids`` and ``texts``: B strings (joined utterances: ``a+b``);
    ``seconds``: audio in the batch after augmentation, without the padding to equal length; ``unreadable``: utterances
    that were left out, ``id: why``. B may be 0 if all of them were.
    """

    features: torch.Tensor
    feature_lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    ids: list[str]
    texts: list[str]
    seconds: float
    unreadable: tuple[str, ...] = ()


class PlannedBatch(NamedTuple):
    """What the sampler sends to a worker: cuts travel with the items, so workers hold no copy of the corpus."""

    epoch: int
    items: list[tuple[Item, list[Cut]]]


class Failure(NamedTuple):
    """An error a worker hands over; raising there would bury its one sentence in a worker's traceback."""

    message: str


def too_long_for_audio(tokens: int | torch.Tensor, frames: int | torch.Tensor) -> bool | torch.Tensor:
    """True where ``tokens`` (count) do not fit in ``frames`` encoder frames of 40 ms at one symbol a frame.

    The pruned loss and CTC are infinite or undefined there and greedy search cannot emit the transcript. Works on
    ints and, elementwise, on tensors (B,).
    """
    return tokens > frames


def cut_text(cut: Cut) -> str:
    """All transcripts of a cut, in order of time."""
    return " ".join(s.text for s in sorted(cut.supervisions, key=lambda s: s.start) if s.text)


class SpeechDataset(torch.utils.data.Dataset):
    """Map-style: ``dataset[PlannedBatch] -> Batch``, a pure function of (seed, epoch, items), in any process.

    ``augmenter`` None means validation: audio as recorded.
    """

    def __init__(
        self,
        audio: AudioCache,
        tokenizer: Tokenizer,
        fbank: Fbank,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        strict_text: bool = True,
        endpoint: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        self.audio, self.tokenizer, self.fbank, self.augmenter = audio, tokenizer, fbank, augmenter
        self.seed, self.strict_text = seed, strict_text
        self.ending = [tokenizer.endpoint_id] if endpoint and tokenizer.endpoint_id is not None else []
        self.skip_unreadable = skip_unreadable

    def __getitem__(self, planned: PlannedBatch) -> Batch | Failure:
        # One thread: sums of several threads may round differently, and workers should not fight for cores.
        threads = torch.get_num_threads()
        if threads != 1:
            torch.set_num_threads(1)
        try:
            return self._batch(planned)
        except UserError as error:
            return Failure(str(error))
        finally:
            if threads != 1:
                torch.set_num_threads(threads)

    def _batch(self, planned: PlannedBatch) -> Batch:
        waves, targets, ids, texts, streams = [], [], [], [], []
        unreadable = []
        for item, cuts in planned.items:
            rng = item_rng(self.seed, planned.epoch, item.number)
            try:
                parts = [self.audio.read(index, cut) for index, cut in zip(item.cuts, cuts, strict=True)]
            except UserError as error:
                if not self.skip_unreadable:
                    raise
                unreadable.append(f"{'+'.join(cut.id for cut in cuts)}: {error}")
                continue
            waves.append(parts[0] if self.augmenter is None else self.augmenter.samples(parts, item, rng))
            targets.append([token for cut in cuts for token in self.encode(cut_text(cut))])
            ids.append("+".join(cut.id for cut in cuts))
            texts.append(" ".join(cut_text(cut) for cut in cuts))
            streams.append(rng)
        if not waves:
            empty = torch.zeros(0, dtype=torch.int64)
            features = torch.zeros(0, 0, NUM_MEL_BINS)
            return Batch(features, empty, empty.reshape(0, 0), empty, [], [], 0.0, tuple(unreadable))
        lengths = torch.tensor([len(wave) for wave in waves])
        audio = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(audio, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        with torch.no_grad():
            features, frames = self.fbank(audio, lengths)
            if self.augmenter is not None:
                for row, count, rng in zip(features, frames.tolist(), streams, strict=True):
                    self.augmenter.features(row.numpy()[:count], rng)
        token_lengths = torch.tensor([len(target) for target in targets])
        tokens = torch.zeros(len(targets), int(token_lengths.max()), dtype=torch.int64)
        for row, target in zip(tokens, targets, strict=True):
            row[: len(target)] = torch.tensor(target, dtype=torch.int64)
        seconds = sum(len(wave) for wave in waves) / SAMPLE_RATE
        return Batch(features, frames, tokens, token_lengths, ids, texts, seconds, tuple(unreadable))

    def encode(self, text: str) -> list[int]:
        """Tokens of one transcript, with the endpoint token if asked for."""
        return [*self.tokenizer.encode(text, strict=self.strict_text), *self.ending]
