"""The reference of the ladder: the model in torch, as `Recognizer` and `Session` run it, with the symbols it emits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from asr.decoding import greedy
from asr.decoding.nbest import Symbol
from asr.decoding.words import NEVER
from asr.models.folder import load_model
from asr.streaming.endpointing import NO_ENDPOINT
from asr.streaming.events import Event
from asr.streaming.recognizer import Recognizer
from asr.streaming.session import Session
from export.history import with_history
from export.runtime import Result

OFFLINE_BATCH = 4  # whole utterances at once


class TorchRuntime:
    """Streams are sessions.

    Args:
        folder: the model folder.
        context: tokens an LSTM predictor sees; None: all of them.
        blank_penalty: as `Recognizer`.
    """

    resets = False  # a segment ends, but the state lives on

    def __init__(self, folder: str, context: int | None = None, blank_penalty: float = 0.0):
        loaded = load_model(folder)
        model = loaded.model if context is None else with_history(loaded.model, context)
        self.recognizer = Recognizer(model, loaded.tokenizer, loaded.features, blank_penalty=blank_penalty)

    def open(self, batched: bool = False) -> SymbolSession:
        """A new session."""
        return SymbolSession(self.recognizer, NO_ENDPOINT, partials=False)

    def step(self, streams: list[SymbolSession]) -> None:
        """One chunk of each, as one batch."""
        self.recognizer.step_sessions(streams)

    def offline(self, audio: Sequence[np.ndarray]) -> list[Result]:
        """Whole utterances through ``forward``, in batches of neighbours."""
        return self.over_contexts(audio, [None])[0]

    @torch.inference_mode()
    def over_contexts(
        self, audio: Sequence[np.ndarray], contexts: Sequence[int | None]
    ) -> list[list[Result]]:
        """As `offline`, once for each number of tokens the predictor sees (None: as it is); encoded once."""
        model = self.recognizer.model
        models = [model if context is None else with_history(model, context) for context in contexts]
        results: list[list[Result]] = [[] for _ in models]
        for at in range(0, len(audio), OFFLINE_BATCH):
            encoded, lengths = self.recognizer.encode(audio[at : at + OFFLINE_BATCH])
            for one, found in zip(models, results, strict=True):
                hypotheses = greedy.greedy_search(one, encoded, lengths, self.recognizer.blank_penalty)
                found += [
                    Result(h.tokens, h.frames, int(n)) for h, n in zip(hypotheses, lengths, strict=True)
                ]
        return results


class SymbolSession(Session):
    """A session that keeps the symbols of its whole stream."""

    _kept: Result | None = None

    @property
    def decoded(self) -> int:
        """Encoder frames decoded so far."""
        return self.result().decoded

    def accept(self, pcm: np.ndarray, rate: int = 16000) -> list[Event]:
        """Take samples; the ladder decodes."""
        self.feed(pcm, rate)
        return []

    def finish(self) -> list:  # type: ignore[type-arg]
        """No more samples."""
        self.end()
        return []

    def reset(self) -> None:
        """Nothing to do: the words go on as if there were no endpoint."""

    def take_symbols(
        self, count: int, settled: Sequence[Symbol], pending: Sequence[Symbol] = (), oldest: int = NEVER
    ) -> tuple[list[Event], bool]:
        """As `Session.take_symbols`."""
        kept = self.result()
        kept.frames += [symbol.frame for symbol in settled]
        kept.tokens += [symbol.token for symbol in settled]
        kept.decoded += count
        return super().take_symbols(count, settled, pending, oldest)

    def result(self) -> Result:
        """All symbols so far."""
        if self._kept is None:
            self._kept = Result()
        return self._kept
