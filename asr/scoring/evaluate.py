"""Word error rate and real-time factor of a recogniser on a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.scoring.tune import read_utterances
from asr.scoring.wer import WerResult, score, write_report
from asr.streaming.recognizer import Recognizer


@dataclass(frozen=True)
class Evaluation:
    """Scores of the utterances of a manifest, or of several.

    Attributes:
        result: word error rate and aligned utterances.
        seconds: audio recognised.
        wall_seconds: time it took, reading the audio included, loading the model not.
        errors: one sentence for each recording that could not be read; these are not part of the score.
    """

    result: WerResult
    seconds: float
    wall_seconds: float
    errors: tuple[str, ...] = ()

    @property
    def rtf(self) -> float:
        """Real-time factor: time taken by a second of audio (< 1: faster than real time)."""
        return self.wall_seconds / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """``{wer, ins, del, sub, words, rtf, seconds, …}``: wer in percent, seconds of audio."""
        return {
            **self.result.to_dict(),
            "rtf": round(self.rtf, 5),
            "seconds": round(self.seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "utterances": len(self.result.utterances),
            "errors": list(self.errors),
        }


def evaluate(
    recognizer: Recognizer,
    manifest: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    half: int | None = None,
    limit: int | None = None,
    streaming: bool = False,
    map: Mapping[str, str] | None = None,
    batch_seconds: float = 120.0,
    parallel: int = 8,
    report: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Recognise every utterance of a manifest and score it.

    Args:
        recognizer: from ``asr.load``.
        manifest: see `asr.scoring.manifest.read_manifest`; several are scored as one.
        split: only this split.
        half: only this half of the speakers, 1 or 2 (`asr.scoring.tune.read_utterances`).
        limit: only so many utterances, the first ones.
        streaming, batch_seconds, parallel: as `Recognizer.transcribe`.
        map: whole-word replacements on both sides.
        report: file for the aligned errors.
        progress: called with (utterances done, utterances in all).

    Raises:
        UserError: a manifest that cannot be used, a limit below 1, or none of its recordings can be read.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be above 0, not {limit}")
    manifests = [manifest] if isinstance(manifest, (str, Path)) else list(manifest)
    items = read_utterances(manifests, split, half)[:limit]
    sources = [item.source for item in items]
    started = time.perf_counter()
    refs, hyps, ids, errors = [], [], [], []
    seconds = 0.0
    results = recognizer.transcribe_each(
        sources, streaming=streaming, batch_seconds=batch_seconds, parallel=parallel
    )
    for done, (item, outcome) in enumerate(zip(items, results, strict=True), 1):
        if isinstance(outcome, UserError):
            errors.append(str(outcome))
        else:
            refs.append(item.text)
            hyps.append(outcome.text)
            ids.append(item.id)
            seconds += outcome.duration
        if progress is not None:
            progress(done, len(items))
    wall = time.perf_counter() - started
    if not ids:
        raise UserError(f"none of the {len(items)} recordings of {', '.join(str(name) for name in manifests)} can be read: {errors[0]}")
    result = score(refs, hyps, map, ids)
    if report is not None:
        write_report(report, result)
    return Evaluation(result, seconds, wall, tuple(errors))
