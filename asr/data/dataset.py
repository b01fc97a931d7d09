"""A planned batch of utterances becomes tensors: read, augment, features, tokens.

B: utterances, T: feature frames of 10 ms, U: tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from asr.activity import end_of_speech
from asr.data.audio_cache import AudioCache
from asr.data.augment import Augmenter
from asr.data.plan import Item, item_rng
from asr.errors import UserError
from asr.features import FRAME_MS, NUM_MEL_BINS, SAMPLE_RATE, SUBSAMPLING, Fbank

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from asr.tokens import Tokenizer


ENCODER_FRAME = SUBSAMPLING * FRAME_MS / 1000  # seconds


class Batch(NamedTuple):
    """Padded tensors of one training or validation step; NamedTuple, so that pinning and device transfer just work.

    ``features`` (B, T, 80) float32, padded with 0; ``feature_lengths`` (B,) int64, frames of 10 ms; ``tokens`` (B, U)
    int64, padded with 0; ``token_lengths`` (B,) int64; ``ids`` and ``texts``: B strings (joined utterances: ``a+b``);
    ``seconds``: audio in the batch after augmentation, without the padding to equal length; ``unreadable``: utterances
    that were left out, ``id: why``. B may be 0 if all of them were. ``endpoint_frames`` (B, U) int64, with
    ``data.endpoint`` only: for each endpoint token the encoder frame of 40 ms in which the speech before it ends (counted
    from the start of the item), -1 for all other tokens.
    """

    features: torch.Tensor
    feature_lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    ids: list[str]
    texts: list[str]
    seconds: float
    unreadable: tuple[str, ...] = ()
    endpoint_frames: torch.Tensor | None = None


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


def speech_end(cut: Cut, samples: np.ndarray) -> float:
    """Seconds from the start of a cut to the end of its speech.

    What the data says, ``speech_end`` in a line of a manifest or in the custom fields of a cut or its supervision (by a
    forced alignment, say); else the end by energy of its samples (S,) at 16 kHz (`asr.activity`).
    """
    for place in (cut, *reversed(cut.supervisions)):
        value = (getattr(place, "custom", None) or {}).get("speech_end")
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"{cut.id}: speech_end is {value!r}, but must be seconds from the start of the utterance.")
            return float(value)
    return end_of_speech(samples)


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
        waves, targets, ids, texts, streams, endings = [], [], [], [], [], []
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
            pieces = [self.encode(cut_text(cut)) for cut in cuts]
            targets.append([token for piece in pieces for token in piece])
            if self.ending:
                endings.append(_endings(pieces, _speech_end_frames(item, cuts, parts)))
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
        endpoint_frames = None
        if self.ending:
            endpoint_frames = torch.full_like(tokens, -1)
            for row, ending in zip(endpoint_frames, endings, strict=True):
                row[: len(ending)] = torch.tensor(ending, dtype=torch.int64)
        seconds = sum(len(wave) for wave in waves) / SAMPLE_RATE
        return Batch(
            features, frames, tokens, token_lengths, ids, texts, seconds, tuple(unreadable), endpoint_frames
        )

    def encode(self, text: str) -> list[int]:
        """Tokens of one transcript, with the endpoint token if asked for."""
        return [*self.tokenizer.encode(text, strict=self.strict_text), *self.ending]


def _speech_end_frames(item: Item, cuts: list[Cut], parts: list[np.ndarray]) -> list[int]:
    """The encoder frame in which the speech of each utterance of an item ends: its place after speed, pauses and padding,
    read off the recordings as they were, before room and noise make the end hard to see."""
    found = []
    at = item.before
    for cut, part, pause in zip(cuts, parts, (*item.pauses, 0.0), strict=True):
        end = at + min(speech_end(cut, part), len(part) / SAMPLE_RATE) / item.speed
        found.append(max(0, math.ceil(end / ENCODER_FRAME - 1e-6) - 1))  # the frame that holds the last sample
        at += len(part) / SAMPLE_RATE / item.speed + pause
    return found


def _endings(pieces: list[list[int]], frames: list[int]) -> list[int]:
    """The frame of each utterance at its last token, the endpoint token, and -1 at all others."""
    return [x for piece, frame in zip(pieces, frames, strict=True) for x in [-1] * (len(piece) - 1) + [frame]]
