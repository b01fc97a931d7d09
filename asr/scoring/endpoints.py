"""Endpoint latency, early cuts, misses and words lost, on long recordings made of real utterances and real pauses.

The recordings (`asr.scoring.recordings`) are streamed through live sessions in small blocks, and an endpoint has the time
of the audio that had to be there before the application heard of it: chunk and look-ahead of the model are part of the
latency, computing is not.

Definitions (papers on endpoint tokens: Li et al. 2020, arXiv 2004.11544; Lu et al. 2022, arXiv 2201.09979), for utterance i
with speech from start_i to end_i:

- *latency*: the first endpoint from end_i until the next utterance starts, less end_i;
- *early*: an endpoint within the speech that cut words of this utterance off from its rest;
- *miss*: no endpoint from start_i until the next utterance starts: one whose pause is shorter than the silence that is
  waited for, or of which no word was heard;
- *lost*, *doubled*: words of the same stream without any endpoint that the cut stream lacks, and words it has beyond.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.decoding.results import Segment, Transcript
from asr.features import SAMPLE_RATE
from asr.scoring.recordings import Spoken, make_recordings
from asr.scoring.wer import WerResult, score
from asr.streaming.endpointing import EndpointConfig
from asr.streaming.events import Final
from asr.streaming.recognizer import Recognizer

BLOCK = 0.02  # seconds fed at a time: the resolution of the measured times
UNCUT = EndpointConfig(trailing_silence=None, max_segment=None, use_token=False)


@dataclass(frozen=True)
class Endpoint:
    """A segment that was handed out when so many seconds of the stream were there; infinity: only when it had ended."""

    time: float
    segment: Segment


@dataclass(frozen=True)
class EndpointScore:
    """What `score_endpoints` counts; scores of several recordings add up with `pool`.

    Attributes:
        utterances: true ends of speech.
        latencies: seconds, of every utterance that had an endpoint after its end, in order.
        early: utterances that were cut inside.
        cuts: endpoints that did so.
        misses: utterances without any endpoint before the next one starts.
        extra: further endpoints in a pause, and those before any speech: words heard in noise.
        lost, doubled: words that the endpoints took away or changed, and words they added.
        result: word errors against the reference.
    """

    utterances: int
    latencies: tuple[float, ...]
    early: int
    cuts: int
    misses: int
    extra: int
    lost: int
    doubled: int
    result: WerResult

    def latency(self, percent: float) -> float | None:
        """A percentile of the latencies in seconds, linearly interpolated; None if there is none."""
        return float(np.percentile(self.latencies, percent)) if self.latencies else None

    @property
    def p50(self) -> float | None:
        """Median latency in seconds."""
        return self.latency(50)

    @property
    def p90(self) -> float | None:
        """Nine latencies in ten are below it; seconds."""
        return self.latency(90)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: seconds and counts."""
        found: dict[str, Any] = {"utterances": self.utterances, "measured": len(self.latencies)}
        for name, value in (("p50", self.p50), ("p90", self.p90)):
            found[name] = None if value is None else round(value, 3)
        for name in ("early", "cuts", "misses", "extra", "lost", "doubled"):
            found[name] = getattr(self, name)
        return {**found, **self.result.to_dict()}

    @staticmethod
    def pool(scores: Sequence[EndpointScore]) -> EndpointScore:
        """One score of several recordings."""
        results = [s.result for s in scores]
        ins, dels, sub, words = (sum(getattr(r, name) for r in results) for name in ("ins", "dels", "sub", "words"))
        errors = ins + dels + sub
        wer = 100.0 * errors / words if words else (math.inf if errors else 0.0)
        counts = ("utterances", "early", "cuts", "misses", "extra", "lost", "doubled")
        return EndpointScore(
            latencies=tuple(latency for s in scores for latency in s.latencies),
            result=WerResult(wer, ins, dels, sub, words, tuple(u for r in results for u in r.utterances)),
            **{name: sum(getattr(s, name) for s in scores) for name in counts},
        )


def score_endpoints(
    spoken: Sequence[Spoken],
    endpoints: Sequence[Endpoint],
    *,
    uncut: str | None = None,
    map: Mapping[str, str] | None = None,
    name: str = "0",
) -> EndpointScore:
    """Compare the endpoints of one recording with the true ends of its utterances; the module says what is counted.

    Args:
        spoken: the truth, in order of time, without overlap.
        endpoints: the segments of the recording, all of them, in order.
        uncut: the words that the same stream gives without endpoints; None: the reference stands in, and the
            recogniser's own errors count as lost and doubled.
        map: whole-word replacements on both sides, as in `asr.scoring.wer.score`.
        name: of the recording, in ``result``.

    Raises:
        ValueError: utterances that overlap or are out of order.
    """
    if any(a.end > b.start for a, b in zip(spoken, spoken[1:], strict=False)) or any(s.end < s.start for s in spoken):
        raise ValueError("utterances must be in order and must not overlap")
    starts = [s.start for s in spoken]
    ended: dict[int, float] = {}  # utterance -> time of its first endpoint after its end
    cut: dict[int, int] = {}
    extra = 0
    for endpoint in endpoints:
        if endpoint.time == math.inf:
            continue
        i = bisect_right(starts, endpoint.time) - 1
        if i >= 0 and endpoint.time < spoken[i].end:
            # words that all came before this utterance: the endpoint of the one before it, too late
            if endpoint.segment.end > spoken[i].start:
                cut[i] = cut.get(i, 0) + 1
        elif i < 0 or i in ended:
            extra += 1
        else:
            ended[i] = endpoint.time
    reference = " ".join(s.text for s in spoken)
    heard = _text(endpoints)
    against = score([reference if uncut is None else uncut], [heard], map)
    return EndpointScore(
        utterances=len(spoken),
        latencies=tuple(time - spoken[i].end for i, time in sorted(ended.items())),
        early=len(cut),
        cuts=sum(cut.values()),
        misses=sum(1 for i in range(len(spoken)) if i not in ended and i not in cut),
        extra=extra,
        lost=against.dels + against.sub,
        doubled=against.ins,
        result=score([reference], [heard], map, [name]),
    )


def _text(endpoints: Sequence[Endpoint]) -> str:
    return Transcript.of("", [endpoint.segment for endpoint in endpoints]).text


def listen(
    recognizer: Recognizer,
    recordings: Sequence[np.ndarray],
    configs: Sequence[EndpointConfig],
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Endpoint]]:
    """The endpoints of live sessions: session i hears ``recordings[i]`` (S,) with ``configs[i]``, all side by side.

    progress: called with (seconds heard, seconds of the longest recording).
    """
    sessions = [recognizer.session(endpoint=config, partials=False) for config in configs]
    found: list[list[Endpoint]] = [[] for _ in sessions]
    size = round(BLOCK * SAMPLE_RATE)
    longest = max((len(audio) for audio in recordings), default=0)

    def step(time: float) -> None:
        while any(session.ready for session in sessions):
            for i, events in enumerate(recognizer.step_sessions(sessions)):
                found[i] += [Endpoint(time, event.segment) for event in events if isinstance(event, Final)]

    for at in range(0, longest, size):
        for session, audio in zip(sessions, recordings, strict=True):
            if at < len(audio):
                session.feed(audio[at : at + size])
        step(min(at + size, longest) / SAMPLE_RATE)
        if progress is not None and at % (10 * SAMPLE_RATE) == 0:
            progress(at // SAMPLE_RATE, longest // SAMPLE_RATE)
    # recordings that end early wait here, too: their last words cost nothing but a few zero frames
    for session in sessions:
        session.end()
    step(math.inf)
    if progress is not None:
        progress(longest // SAMPLE_RATE, longest // SAMPLE_RATE)
    return found


@dataclass(frozen=True)
class EndpointEvaluation:
    """The score of one configuration on recordings of so many seconds."""

    config: EndpointConfig
    score: EndpointScore
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The configuration's numbers and the score's."""
        return {**vars(self.config), **self.score.to_dict(), "seconds": round(self.seconds, 3)}


def evaluate_endpoints(
    recognizer: Recognizer,
    manifest: str | Path,
    configs: Sequence[EndpointConfig],
    *,
    split: str | None = None,
    utterances: int = 25,
    limit: int | None = None,
    pauses: tuple[float, float] = (1.0, 4.0),
    noise: str | Path | None = None,
    snr_db: float = 25.0,
    seed: int = 0,
    map: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[EndpointEvaluation]:
    """Score endpoint configurations on the same long recordings (`make_recordings` explains its options).

    map: whole-word replacements on both sides. progress: as `listen`.

    Raises:
        UserError: see `make_recordings`.
    """
    recordings = make_recordings(
        manifest, split=split, utterances=utterances, limit=limit, pauses=pauses, noise=noise, snr_db=snr_db, seed=seed
    )
    audio = [recording.audio for recording in recordings]
    every = [UNCUT, *configs]
    heard = listen(
        recognizer, audio * len(every), [config for config in every for _ in recordings], progress
    )
    count = len(recordings)
    uncut = [_text(endpoints) for endpoints in heard[:count]]
    seconds = sum(recording.seconds for recording in recordings)
    evaluations = []
    for number, config in enumerate(configs, 1):
        scores = [
            score_endpoints(recording.spoken, endpoints, uncut=whole, map=map, name=recording.name)
            for recording, endpoints, whole in zip(
                recordings, heard[number * count : (number + 1) * count], uncut, strict=True
            )
        ]
        evaluations.append(EndpointEvaluation(config, EndpointScore.pool(scores), seconds))
    return evaluations


def endpoint_table(evaluations: Sequence[EndpointEvaluation]) -> str:
    """The scores as lines of text, one a configuration; latencies in seconds; of the utterances that ``ended`` (an endpoint came after their
    end, in percent), as early cuts and misses."""
    head = ("silence", "min speech", "token", "longest", "p50", "p90", "ended", "early", "missed", "extra", "lost", "doubled", "WER")
    rows = [head]
    for evaluation in evaluations:
        config, found = evaluation.config, evaluation.score
        share = 100.0 / max(found.utterances, 1)
        rows.append((
            _number(config.trailing_silence),
            _number(config.min_speech),
            _number(config.token_threshold) if config.use_token else "off",
            _number(config.max_segment),
            _number(found.p50, 2),
            _number(found.p90, 2),
            f"{len(found.latencies) * share:.1f} %",
            f"{found.early * share:.1f} %",
            f"{found.misses * share:.1f} %",
            str(found.extra),
            str(found.lost),
            str(found.doubled),
            f"{found.result.wer:.1f} %",
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + "\n" for row in rows)


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"
