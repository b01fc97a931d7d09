"""The recogniser: a model with its tokens and streaming numbers, from which sessions and transcripts are made.

Shapes: B streams, U encoder frames (40 ms) in a chunk, R in the look-ahead, T feature frames (10 ms).
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.decoding import greedy
from asr.decoding.added import LanguageModels
from asr.decoding.alignment import Aligner
from asr.decoding.beam import KINDS, BeamSearch, BeamState, SearchConfig
from asr.decoding.biasing import BiasFusion, BiasGraph, Phrases
from asr.decoding.confidence import CONFIG_FILE as CONFIDENCE_FILE
from asr.decoding.confidence import ConfidenceModel
from asr.decoding.fusion import Fusion, FusionSum
from asr.decoding.nbest import NBest, Settled, beam_search, blocks_of, decode
from asr.decoding.results import Segment, Symbol, Transcript
from asr.decoding.state import batch_axes, concatenate, select, write
from asr.decoding.words import NEVER, frames
from asr.errors import UserError
from asr.features import FRAME_MS, SAMPLE_RATE, Fbank, FeatureConfig
from asr.models.branch import layer_outputs, step_with_layer
from asr.streaming.details import Details, SegmentDetails
from asr.streaming.endpointing import EndpointConfig, Segmenter
from asr.streaming.events import Event, Final
from asr.streaming.session import Session
from asr.streaming.sources import Source, as_sources, like_lengths
from asr.streaming.written import as_normalizer, written_transcript

log = logging.getLogger(__name__)


@dataclass
class StateBatch:
    """The model state of several streams, stacked, and whose row is whose.

    Sessions that are stepped together again and again keep sharing one batch, so nothing is copied between steps.
    """

    state: Any  # (encoder state, greedy state)
    members: list[Session]


class Recognizer:
    """What an application holds; ``asr.load`` makes one.

    Args:
        model: transducer in evaluation mode.
        tokenizer: its tokens.
        features: its filterbank.
        name: for messages.
        device: where the model runs, e.g. ``cpu`` or ``cuda``.
        blank_penalty: subtracted from the blank's log-probability (> 0: fewer deletions, more insertions).
        search: how to search, or the name of the search (greedy, modified_beam or beam) with its usual numbers; greedy if left out. Its
            blank_penalty is added to the other one.
        fusion: what is added to the model's scores, with a beam only (`asr.decoding.fusion`).
        phrases: phrases to prefer, with a beam only: all that `asr.decoding.biasing.Phrases.of` takes. Sessions may bring their own
            instead if this is not None; an empty list is enough.
        rescore: orders the n-best list of every segment anew when it ends (`asr.decoding.rescoring`), with a beam only.
        folder: of the model, where its alignment branch and its confidence model lie, if it has them.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        features: FeatureConfig | None = None,
        *,
        name: str = "",
        device: str | torch.device = "cpu",
        blank_penalty: float = 0.0,
        search: SearchConfig | str | None = None,
        fusion: Fusion | None = None,
        phrases: Any = None,
        rescore: Callable[[NBest], NBest] | None = None,
        folder: Path | None = None,
    ):
        self.name = name
        self.folder = folder
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.fbank = Fbank(features or FeatureConfig())  # on the CPU: a chunk is a few frames
        if not math.isfinite(blank_penalty):
            raise UserError(f"blank_penalty must be a finite number, not {blank_penalty}")
        search = _search_config(search)
        self.search = replace(search, blank_penalty=search.blank_penalty + blank_penalty)
        self.blank_penalty = self.search.blank_penalty
        self.rescore = rescore
        self.beam: BeamSearch | None = None
        self.bias: BiasFusion | None = None
        if self.search.kind != "greedy":
            end = tokenizer.endpoint_id
            if phrases is not None:
                self.bias = BiasFusion(tokenizer.vocab_size, self.phrases(phrases), endpoint_id=end)
                fusion = self.bias if fusion is None else FusionSum([fusion, self.bias])
            self.beam = BeamSearch(self.model, self.search, fusion, -1 if end is None else end).to(self.device).eval()
        elif fusion is not None or phrases is not None or rescore is not None or self.search.ilm_scale:
            raise UserError("a language model, phrases or an internal-LM scale need a beam: search modified_beam or beam")
        self.chunk_frames: int = self.model.encoder.chunk_frames  # feature frames a step consumes
        self.window_frames: int = self.model.encoder.window_frames  # feature frames a step sees
        with torch.inference_mode():
            self._initial = self._initial_state(1)
            self._axes = batch_axes(self._initial_state)
            self._search_axes = batch_axes(lambda batch: self._initial_search(batch, EndpointConfig()))

    @classmethod
    def load(
        cls,
        name_or_folder: str,
        threads: int | None = None,
        device: str = "cpu",
        *,
        blank_penalty: float = 0.0,
        search: SearchConfig | str | None = None,
        language_models: LanguageModels | None = None,
        phrases: Any = None,
    ) -> Recognizer:
        """Load a model that ships with the package or a model folder.

        Args:
            name_or_folder: a name of `asr.pretrained.list_pretrained`, or a folder.
            threads: CPU threads of torch for the whole process; None: leave them as they are.
            device: where the model runs.
            blank_penalty, search, phrases: see the class.
            language_models: files and scales (`asr.decoding.added`), with a beam only.

        Raises:
            UserError: no such model (the nearest name is suggested), a damaged folder, a device or a search that is not there.
        """
        from asr.models.folder import load_model
        from asr.pretrained import resolve

        if threads is not None:
            if threads < 1:
                raise UserError(f"threads must be at least 1, not {threads}")
            torch.set_num_threads(threads)
        _check_device(device)
        search = _search_config(search)
        folder = Path(resolve(name_or_folder))
        loaded = load_model(folder)
        if search.kind == "beam" and loaded.config.get("extra", {}).get("rnnt_type") == "modified":
            log.warning(
                "%s was trained with one symbol a frame (rnnt_type: modified): search modified_beam knows that, search beam does not and "
                "may make it worse",
                name_or_folder,
            )
        return cls(
            loaded.model,
            loaded.tokenizer,
            loaded.features,
            name=str(name_or_folder),
            device=device,
            blank_penalty=blank_penalty,
            search=search,
            fusion=language_models.fusion(loaded.tokenizer) if language_models else None,
            phrases=phrases,
            rescore=language_models.rescorer(loaded.tokenizer) if language_models else None,
            folder=folder,
        )

    @cached_property
    def aligner(self) -> Aligner | None:
        """For the times of words, if the model's folder has an alignment branch."""
        return None if self.folder is None else Aligner.load(self.folder, self.model, self.tokenizer)

    @cached_property
    def confidence_model(self) -> ConfidenceModel | None:
        """For the confidence of words, if the model's folder has one."""
        found = self.folder is not None and (self.folder / CONFIDENCE_FILE).is_file()
        return ConfidenceModel.load(self.folder) if found and self.folder is not None else None

    def segment_details(self, details: Details | None) -> SegmentDetails | None:
        """What fills in the segments of one stream; None: they are as they were emitted.

        Raises:
            UserError: the model or the search has not what the details need.
        """
        return SegmentDetails(self, details or Details()) if details or self.rescore else None

    def phrases(self, phrases: Any) -> BiasGraph:
        """Phrases compiled for this model; those that cannot be spelled are warned of (`BiasGraph.refused`).

        Raises:
            UserError: a list or file of phrases that is not one.
        """
        if isinstance(phrases, BiasGraph):
            return phrases
        graph = BiasGraph.build(Phrases.of(phrases), self.tokenizer)
        if graph.warning:
            log.warning("%s", graph.warning)
        return graph

    @property
    def chunk_seconds(self) -> float:
        """Audio consumed by one step."""
        return self.chunk_frames * FRAME_MS / 1000

    @property
    def look_ahead_seconds(self) -> float:
        """Audio a step sees beyond its chunk."""
        return (self.window_frames - self.chunk_frames) * FRAME_MS / 1000

    def session(
        self,
        *,
        endpoint: EndpointConfig | None = None,
        partials: bool = True,
        itn: Any = None,
        phrases: Any = None,
        details: Details | None = None,
    ) -> Session:
        """A new stream.

        Args:
            endpoint: when to end a segment (`EndpointConfig`); `NO_ENDPOINT` gives one segment at the end, which then
                has to be kept until then.
            partials: whether to give `Partial` events.
            itn: give written text, too ("twenty five dollars" -> $25): True, a profile of the package `itn`, or an
                `itn.Normalizer` with options of your own. Words stay as spoken.
            phrases: to prefer instead of the recogniser's; they can be changed later (`Session.set_phrases`).
            details: what to make of a segment that has ended: aligned times, confidence, alternatives (`Details`).

        Raises:
            UserError: no such profile, a part of `itn` is missing, or the model has not what the details need.
        """
        session = Session(self, endpoint or EndpointConfig(), partials, as_normalizer(itn), details)
        if phrases is not None:
            session.set_phrases(phrases)
        return session

    @torch.inference_mode()
    def change_phrases(self, session: Session, graph: BiasGraph) -> None:
        """From now on the session prefers other phrases; a phrase that is being said goes on if it is among them, too."""
        if self.bias is None:
            raise UserError("to prefer phrases, load the model with a beam and phrases (an empty list is enough)")
        slot = self.bias.add(graph)
        if session.states is not None:  # while the old list is there: what it has given in advance is taken back
            encoder, search = self._row(session)
            session.states = StateBatch((encoder, self._follow(search, slot)), [session])
        if session.slot is not None:
            session.release()
        session.slot = slot
        session.release = weakref.finalize(session, self.bias.remove, slot)

    def _follow(self, search: BeamState, slot: int) -> BeamState:
        """The state of one stream (B = 1) whose hypotheses follow the phrases of another slot."""
        assert self.bias is not None and self.beam is not None
        count = len(self.bias.initial_state(1))  # the last tensors of the fusion's state
        old = [tensor.flatten(0, 1) for tensor in search.fusion[-count:]]
        new, change = self.bias.move(old, slot)
        bonus = search.bonus + (self.bias.scores(new) - self.bias.scores(old)).view_as(search.bonus)
        scores = search.scores + change.view_as(search.scores)
        fusion = search.fusion[:-count] + [tensor.unflatten(0, (1, -1)) for tensor in new]
        return search._replace(bonus=bonus, scores=scores, fusion=fusion)

    @torch.inference_mode()
    def step_sessions(self, sessions: Sequence[Session]) -> list[list[Event]]:
        """Run one step of the model for all sessions that are `ready`, as one batch; streams may be of any age.

        Returns:
            The events of every session, in the order given; an empty list for those that were not ready.
        """
        ready = [session for session in sessions if session.ready]
        if not ready:
            return [[] for _ in sessions]
        windows, counts = zip(*(session.take_window() for session in ready), strict=True)
        x = torch.stack(windows).to(self.device)  # (B, 4(U+R), 80)
        batch = self._batch(ready)
        encoder_state, search_state = batch.state
        layer = None
        if any(session.details and session.details.aligner for session in ready):
            assert self.aligner is not None
            encoded, layer, encoder_state = step_with_layer(self.model.encoder, x, encoder_state, self.aligner.layer)
        else:
            encoded, encoder_state = self.model.encoder.step(x, encoder_state)
        valid = torch.tensor(counts, device=self.device)
        found, search_state = self._search(ready, encoded, valid, search_state)
        for row, (session, count, pieces) in enumerate(zip(ready, counts, (pieces for *_, pieces in found), strict=True)):
            if session.details:
                session.details.accept(encoded[row, :count], None if layer is None else layer[row, :count], pieces)
        events: dict[int, list[Event]] = {}
        reset = []
        for row, (session, count, (settled, pending, oldest, _)) in enumerate(zip(ready, counts, found, strict=True)):
            events[id(session)], ended = session.take_symbols(count, settled, pending, oldest)
            # the words of a segment that has begun in this chunk need their context
            if ended and session.endpoint.reset_predictor and not pending and not session.speaking:
                reset.append(row)
        for row in reset:
            if details := ready[row].details:
                details.reset()
        if reset:
            search_state = self._reset(search_state, reset, [ready[row] for row in reset])
        batch.state = (encoder_state, search_state)
        for session in ready:
            if session.finished:
                session.states = None  # lets the memory of the stream go
        return [events.get(id(session), []) for session in sessions]

    def transcribe(
        self,
        inputs: Any,
        *,
        streaming: bool = False,
        batch_seconds: float = 120.0,
        parallel: int = 8,
        endpoint: EndpointConfig | None = None,
        itn: Any = None,
        details: Details | None = None,
    ) -> list[Transcript]:
        """Recognise recordings; the words do not depend on ``streaming``.

        Args:
            inputs: one or a list of: path, ``-`` (standard input), open binary file, array of samples at 16 kHz,
                (array, rate).
            streaming: run chunk by chunk, as a live session does, instead of whole recordings.
            batch_seconds: audio in a batch of whole recordings, padding included. Bounds the memory: a recording
                longer than this is streamed.
            parallel: streams stepped as one batch.
            endpoint: where to cut segments.
            itn, details: as for `session`.

        Returns:
            One transcript a recording, in order.

        Raises:
            UserError: a recording that cannot be read; see `transcribe_each` to go on with the others.
        """
        results = []
        for result in self.transcribe_each(
            inputs,
            streaming=streaming,
            batch_seconds=batch_seconds,
            parallel=parallel,
            endpoint=endpoint,
            itn=itn,
            details=details,
        ):
            if isinstance(result, UserError):
                raise result
            results.append(result)
        return results

    def transcribe_each(
        self,
        inputs: Any,
        *,
        streaming: bool = False,
        batch_seconds: float = 120.0,
        parallel: int = 8,
        endpoint: EndpointConfig | None = None,
        itn: Any = None,
        details: Details | None = None,
    ) -> Iterator[Transcript | UserError]:
        """As `transcribe`, one by one and in order; a recording that cannot be read gives its error in its place."""
        if not batch_seconds > 0 or parallel < 1:
            raise UserError("batch_seconds must be positive and parallel at least 1")
        config = endpoint or EndpointConfig()
        self.segment_details(details)  # what is missing is said before any work
        normalizer = as_normalizer(itn)
        sources = as_sources(inputs)
        # a reset of the predictor at endpoints happens between chunks, which only the streaming path has
        if streaming or config.reset_predictor:
            results = self._stream(enumerate(sources), parallel, config, details)
        else:
            results = self._whole(sources, batch_seconds, parallel, config, details)
        waiting: dict[int, Transcript | UserError] = {}
        following = 0
        for index, result in results:
            if normalizer and isinstance(result, Transcript):
                result = written_transcript(normalizer, result)
            waiting[index] = result
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def _stream(
        self, sources: Iterable[tuple[int, Source]], parallel: int, endpoint: EndpointConfig, details: Details | None
    ) -> Iterator[tuple[int, Transcript | UserError]]:
        """Results in the order in which recordings end; ``parallel`` of them at a time."""
        remaining = iter(sources)
        running: list[_Running] = []
        more = True
        while True:
            while more and len(running) < parallel:
                item = next(remaining, None)
                if item is None:
                    more = False
                else:
                    session = self.session(endpoint=endpoint, partials=False, details=details)
                    running.append(_Running(*item, session, item[1].blocks(), []))
            if not running:
                return
            for stream in list(running):
                while not stream.session.ready:
                    try:
                        block = next(stream.blocks, None)
                    except UserError as error:
                        running.remove(stream)
                        yield stream.index, error
                        break
                    if block is None:
                        stream.session.end()
                    else:
                        stream.session.feed(block)
            sessions = [stream.session for stream in running]
            for stream, events in zip(list(running), self.step_sessions(sessions), strict=True):
                stream.segments += [event.segment for event in events if isinstance(event, Final)]
                if stream.session.finished:
                    running.remove(stream)
                    source, seconds = stream.source, stream.session.seconds
                    yield stream.index, Transcript.of(source.name, stream.segments, seconds)

    def _whole(
        self,
        sources: list[Source],
        batch_seconds: float,
        parallel: int,
        endpoint: EndpointConfig,
        details: Details | None,
    ) -> Iterator[tuple[int, Transcript | UserError]]:
        """Whole recordings in batches of similar length; recordings longer than a batch are streamed."""
        long: list[tuple[int, Source]] = []
        failed: list[tuple[int, UserError]] = []

        def load() -> Iterator[tuple[tuple[int, Source], np.ndarray]]:
            for index, source in enumerate(sources):
                seconds = source.seconds()
                if seconds is None or seconds > batch_seconds:  # unknown: a pipe may be endless
                    long.append((index, source))
                    continue
                try:
                    yield (index, source), source.load()
                except UserError as error:
                    failed.append((index, error))

        for batch in like_lengths(load(), batch_seconds):
            all_segments = self._recognise([audio for _, audio in batch], endpoint, details)
            for ((index, source), audio), segments in zip(batch, all_segments, strict=True):
                yield index, Transcript.of(source.name, segments, len(audio) / SAMPLE_RATE)
            while failed:
                yield failed.pop()
        yield from failed
        yield from self._stream(long, parallel, endpoint, details)

    def recognise(
        self, audio: Any, endpoint: EndpointConfig | None = None, details: Details | None = None
    ) -> list[list[Segment]]:
        """Segments of whole recordings, given as to `transcribe`, as one batch.

        Raises:
            UserError: a recording that cannot be read.
        """
        recordings = [source.load() for source in as_sources(audio)]
        return self._recognise(recordings, endpoint, details) if recordings else []

    @torch.inference_mode()
    def _recognise(
        self, recordings: Sequence[np.ndarray], endpoint: EndpointConfig | None, details: Details | None
    ) -> list[list[Segment]]:
        features, frames = self._features(recordings)
        encoded, lengths = self.model.encode(features, frames)
        layer = None
        if details and details.aligned_times and self.aligner is not None:
            layer, _ = layer_outputs(self.model.encoder, features, frames, self.aligner.layer)
        return self.search_encoded(encoded, lengths, endpoint, details, layer)

    @torch.inference_mode()
    def search_encoded(
        self,
        encoded: Tensor,
        lengths: Tensor,
        endpoint: EndpointConfig | None = None,
        details: Details | None = None,
        layer: Tensor | None = None,
    ) -> list[list[Segment]]:
        """Segments of recordings that have been encoded.

        Args:
            encoded, lengths: from `encode`.
            endpoint, details: as for `recognise`.
            layer: (B, T', D) of the encoder layer that the aligner listens to; needed for aligned times.
        """
        endpoint = endpoint or EndpointConfig()
        pieces: list[list[Settled]] = [[] for _ in encoded]
        if self.beam is None:
            hypotheses = greedy.greedy_search(self.model, encoded, lengths, self.blank_penalty)
            symbols = [
                [Symbol(*symbol) for symbol in zip(h.tokens, h.frames, h.log_probs, strict=True)] for h in hypotheses
            ]
        else:
            symbols, pieces = decode(self.beam, encoded, lengths, self._initial_search(len(encoded), endpoint))
        found = []
        for i, (row, length) in enumerate(zip(symbols, lengths.tolist(), strict=True)):
            segmenter = Segmenter(self.tokenizer, endpoint)
            segments: list[Segment] = []
            for symbol in row:
                segments += segmenter.emit(symbol.frame, symbol.token, symbol.log_prob)
            segments += segmenter.advance(length - 1) + segmenter.flush(length)
            finisher = self.segment_details(details)
            if finisher:
                finisher.accept(encoded[i, :length], None if layer is None else layer[i, :length], pieces[i])
                segments = [finisher.finish(segment) for segment in segments]
            found.append(segments)
        return found

    @torch.inference_mode()
    def nbest(self, audio: Any) -> list[NBest]:
        """The best hypotheses of whole recordings, given as to `transcribe`, as one batch; needs a beam.

        Raises:
            UserError: the search is greedy, or a recording that cannot be read.
        """
        if self.beam is None:
            raise UserError("greedy search has one hypothesis: an n-best list needs search modified_beam or beam")
        sources = as_sources(audio)
        return beam_search(self.beam, *self.encode(sources)) if sources else []

    @torch.inference_mode()
    def encode(self, audio: Any) -> tuple[Tensor, Tensor]:
        """Encoder output (B, T', D) and lengths (B,) of whole recordings, given as to `transcribe`.

        Raises:
            UserError: no recording, or one that cannot be read.
        """
        recordings = [source.load() for source in as_sources(audio)]
        if not recordings:
            raise UserError("there is no recording to encode")
        encoded: tuple[Tensor, Tensor] = self.model.encode(*self._features(recordings))
        return encoded

    def _features(self, recordings: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """(B, T, 80) and (B,) frames, on the device of the model, of samples (S,) float32 at 16 kHz."""
        lengths = torch.tensor([len(samples) for samples in recordings])
        padded = torch.zeros(len(recordings), max(1, int(lengths.max())))
        for row, samples in zip(padded, recordings, strict=True):
            row[: len(samples)] = torch.from_numpy(np.ascontiguousarray(samples))
        features, frames = self.fbank(padded, lengths)
        return features.to(self.device), frames.to(self.device)

    def _initial_state(self, batch: int) -> Any:
        return self.model.encoder.initial_state(batch), self._initial_search(batch, EndpointConfig())

    def _initial_search(self, batch: int, endpoint: EndpointConfig) -> Any:
        """The state of the search for new streams; a beam narrows to its best hypothesis where a segment may end."""
        if self.beam is None:
            return greedy.initial_state(self.model, batch)
        return self.beam.initial_state(batch, *_limits(endpoint))

    def _search(
        self, sessions: list[Session], encoded: Tensor, valid: Tensor, state: Any
    ) -> tuple[list[tuple[list[Symbol], list[Symbol], int, list[Settled]]], Any]:
        """Search a chunk of every session: (settled symbols, pending ones, the first frame that may change, settled pieces) each; the
        state."""
        found: list[tuple[list[Symbol], list[Symbol], int, list[Settled]]] = []
        if self.beam is None:
            tokens, log_probs, state = greedy.step(self.model, encoded, valid, state, self.blank_penalty)
            for session, ids, scores in zip(sessions, tokens.tolist(), log_probs.tolist(), strict=True):
                pairs = enumerate(zip(ids, scores, strict=True), session.frame)
                found.append(([Symbol(token, frame, score) for frame, (token, score) in pairs if token], [], NEVER, []))
            return found, state
        block, state = self.beam.step(encoded, valid, state)
        ranks = self.beam.ranking(state).tolist() if any(session.drained for session in sessions) else []
        rows = zip(sessions, valid.tolist(), blocks_of(block), strict=True)
        for row, (session, count, parts) in enumerate(rows):
            history = session.history
            assert history is not None
            settled = history.accept(*(part[:count] for part in parts))
            pieces = history.settled
            if session.drained:
                settled += history.finish(ranks[row])
                pieces = pieces + history.settled
            found.append((settled, history.pending(), history.oldest(), pieces))
        return found, state

    def _row(self, session: Session) -> Any:
        """The state of one session, batch size 1; never a view of a batch, which would keep all of it alive."""
        batch = session.states
        if batch is None:
            return self._initial if self.beam is None else self._fresh(session)
        if len(batch.members) == 1:
            return batch.state
        row = next(i for i, member in enumerate(batch.members) if member is session)
        return select(batch.state, torch.tensor([row], device=self.device), self._axes)

    def _batch(self, ready: list[Session]) -> StateBatch:
        """The batch that holds exactly these sessions, in order; regrouped only when it is not the last one."""
        current = ready[0].states
        if (
            current is not None
            and len(current.members) == len(ready)
            and all(a is b and b.states is current for a, b in zip(current.members, ready, strict=True))
        ):  # a session whose phrases have changed has a state of its own
            return current
        chosen = {id(session) for session in ready}
        state = self._gather(ready)
        for session in ready:
            if session.states is None:
                continue
            # those left behind get their own copy, or they would keep the whole old batch alive
            for other in session.states.members:
                if id(other) not in chosen and other.states is session.states and not other.finished:
                    other.states = StateBatch(self._row(other), [other])
        batch = StateBatch(state, list(ready))
        for session in ready:
            session.states = batch
        return batch

    def _gather(self, ready: list[Session]) -> Any:
        """The states of these sessions, stacked."""
        shared = ready[0].states
        if shared is not None and all(session.states is shared for session in ready):  # a part of one batch
            rows = {id(member): row for row, member in enumerate(shared.members)}
            index = torch.tensor([rows[id(session)] for session in ready], device=self.device)
            return select(shared.state, index, self._axes)
        return concatenate([self._row(session) for session in ready], self._axes)

    def _fresh(self, session: Session) -> Any:
        encoder, search = self._initial
        search = search._replace(limits=search.limits.new_tensor([_limits(session.endpoint)]))
        return encoder, search if session.slot is None else self._follow(search, session.slot)

    def _reset(self, state: Any, rows: list[int], sessions: list[Session]) -> Any:
        """The state of the search with the rows of these sessions as if nothing had been said."""
        index = torch.tensor(rows, device=self.device)
        fresh = [self._initial[1] if self.beam is None else self._fresh(session)[1] for session in sessions]
        return write(state, index, concatenate(fresh, self._search_axes), self._search_axes)


def _limits(endpoint: EndpointConfig) -> tuple[int, int]:
    """Frames without a symbol, and since the first one, after which the best hypothesis is what was said."""
    return frames(endpoint.trailing_silence), frames(endpoint.max_segment)


@dataclass
class _Running:
    """A recording on its way through `Recognizer.transcribe`."""

    index: int
    source: Source
    session: Session
    blocks: Iterator[np.ndarray]
    segments: list[Segment]


def _search_config(search: SearchConfig | str | None) -> SearchConfig:
    """Raises UserError for what is no search."""
    if isinstance(search, SearchConfig):
        return search
    if search is None or isinstance(search, str):
        return SearchConfig() if search is None else SearchConfig(search)
    raise UserError(f"search must be a SearchConfig or one of {', '.join(KINDS)}, not {search!r}")


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
        if kind != "meta":
            torch.empty(1, device=device)
            return
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):  # AssertionError: built without CUDA
        kind = str(device).split(":")[0]
        if kind == "cuda":
            raise UserError(f"device {device}: torch sees no such GPU") from None
    raise UserError(f"unknown device {device!r}: use cpu or cuda")
