"""The ladder: offline torch = streaming torch = every exported runtime, on real audio, rung by rung.

Every runtime runs in a process of its own (`export.worker`), gets the same cases, and is compared with a reference:
float files with torch, symbol by symbol and frame by frame; int8 files with their float form, by error rates. What a
case is:

- ``words``: every utterance alone, in blocks of one chunk (timed);
- ``batch``: three utterances of different ages as one batch (interleaved, in a runtime without a batch axis);
- ``silence``: zeros alone;
- ``end``: utterances cut 50 ms after the last speech, so that the last word stands or falls with the final padding;
- ``reset``: an endpoint's reset in the middle, in runtimes that know one (in the others the state lives on, and there is
  nothing to call).

sherpa-onnx decodes whole windows only, so an application appends zeros at the end; its reference is torch on the same
audio with the same zeros, up to the last frame the runtime decoded, which must lie beyond the audio.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import UserError
from asr.features import FRAME_SHIFT, SAMPLE_RATE
from asr.models.folder import LoadedModel, load_model
from asr.models.predictor import StatelessPredictor
from asr.pretrained import resolve
from asr.scoring.manifest import Item
from asr.scoring.wer import WerResult
from asr.streaming.sources import Source
from export.bundle import MANIFEST, Progress, describe_model, read_manifest, record_words, silent
from export.cases import Case, make_cases, torch_case
from export.ladder import (
    Ladder,
    Row,
    check_reach,
    compare,
    compare_int8,
    compare_words,
    figures,
    note_ends,
    note_history,
    results,
    scored,
)
from export.pte import TARGET as EXECUTORCH
from export.runtime import Result
from export.sherpa import TARGET as SHERPA
from export.sherpa import require, tail_padding
from export.torchscript import TARGET as TORCHSCRIPT
from export.torchscript import engines
from export.worker import WorkerFailure, run_worker

SHORTEST = 400  # samples of an utterance
AUDIO_FILE = "audio.f32"
CONTEXTS = (2, 4, 8, 16, 32)  # tokens of an LSTM predictor for which the WER is reported


def find_exports(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The export in a folder, or those in its sub-folders, with their manifests.

    Raises:
        UserError: none, or a damaged one.
    """
    try:
        found = folder.is_dir()
    except OSError:  # a name that is too long
        found = False
    if not found:
        raise UserError(f"no such export folder: {folder}")
    if (folder / MANIFEST).is_file():
        return [(folder, read_manifest(folder))]
    inside = [part for part in sorted(folder.iterdir()) if (part / MANIFEST).is_file()]
    if not inside:
        raise UserError(f"{folder} is not an export: neither it nor a folder in it has a {MANIFEST}")
    return [(part, read_manifest(part)) for part in inside]


def find_model(exports: Sequence[tuple[Path, dict[str, Any]]], model: str | None) -> LoadedModel:
    """The model the exports were made of.

    Raises:
        UserError: it is not where it was, or has other weights.
    """
    folder = exports[0][1]["model"]["folder"] if model is None else model
    try:
        loaded = load_model(resolve(folder))
    except UserError as error:
        hint = "" if model else " (say where the exported model is with --model)"
        raise UserError(f"{error}{hint}") from None
    known = describe_model(loaded)
    for path, manifest in exports:
        for part, what in (
            ("weights", "weights"),
            ("config", "settings (config.yaml)"),
            ("tokens", "tokens"),
        ):
            if manifest["model"][f"{part}_sha256"] != known[f"{part}_sha256"]:
                raise UserError(
                    f"{path} was made with other {what} than {loaded.folder} has: export it again"
                )
    return loaded


def verify(
    folder: Path,
    items: Sequence[Item],
    *,
    model: str | None = None,
    progress: Progress = silent,
) -> Ladder:
    """Run the ladder; each export's manifest then holds what it gave.

    Args:
        folder: an export, or a folder of exports of one model.
        items: utterances; those without text are compared but not scored.
        model: the model folder if it is not where the manifest says.
        progress: called with what is running.

    Raises:
        UserError: nothing to verify, another model, a runtime that is not installed, audio that cannot be read.
    """
    exports = find_exports(folder)
    loaded = find_model(exports, model)
    if not items:
        raise UserError("no audio to verify with")
    if any(manifest["target"] == SHERPA for _, manifest in exports):
        require("sherpa_onnx")
    if any(manifest["target"] == EXECUTORCH for _, manifest in exports):
        require("executorch")
    audio = [_read(item) for item in items]
    with tempfile.TemporaryDirectory(prefix="asr-verify-") as place:
        block = loaded.model.encoder.chunk_frames * FRAME_SHIFT
        cases = make_cases(audio, Path(place) / AUDIO_FILE, block)
        bench = _Bench(Path(place), block, progress)
        climb = _Climb(loaded, cases, [item.text for item in items], bench)
        climb.torch()
        parts = []
        for path, manifest in exports:
            first = len(climb.rows)
            climb.export(path, manifest)
            parts.append((path, climb.rows[first:]))
    seconds = sum(map(len, audio)) / SAMPLE_RATE
    for path, rows in parts:
        ladder = Ladder([*climb.rows[:2], *rows], len(audio), seconds)
        if not record_words(path, {"date": date.today().isoformat(), **ladder.to_dict()}):
            rows[0].notes.append(f"{path} cannot be written: its manifest does not hold this result")
    return Ladder(climb.rows, len(audio), seconds)


class _Climb:
    """The rungs, and the torch references they need, each run once."""

    def __init__(self, loaded: LoadedModel, cases: list[Case], texts: list[str], bench: _Bench):
        self.loaded = loaded
        self.cases = cases
        self.texts = texts
        self.bench = bench
        self.rows: list[Row] = []
        self._references: dict[tuple[int | None, int, float], dict[str, Any]] = {}

    def torch(self) -> None:
        """Whole utterances against sessions."""
        jobs = [torch_case(case, 0, streaming=False) for case in self.cases]
        offline = self._run_torch(None, jobs, "torch offline", 0.0)
        row = Row("torch offline", figures=figures(offline, None, timed=False))
        row.wer = _rate(self._score(offline))
        streaming = self._reference(None, 0, 0.0)
        size = sum(file.stat().st_size for file in self.loaded.folder.iterdir() if file.is_file())
        self.rows = [row, Row("torch streaming", figures=figures(streaming, size))]
        self.rows[1].wer = _rate(self._score(streaming))
        check_reach(self.rows[1], self.cases, streaming["results"])
        compare(self.rows[1], self.cases, streaming["results"], offline["results"], "offline torch")

    def export(self, path: Path, manifest: dict[str, Any]) -> None:
        """Every precision of one export, an int8 program by every engine of this machine."""
        sherpa = manifest["target"] == SHERPA
        stateless = isinstance(self.loaded.model.predictor, StatelessPredictor)
        context = manifest["context_size"] if sherpa and not stateless else None
        tail = tail_padding(self.loaded.model.encoder) if sherpa else 0
        penalty = float(manifest["blank_penalty"])
        expected = self._reference(context, tail, penalty)
        name = f"{manifest['target']} {manifest.get('contract', '')}".strip()
        if any(row.name.startswith(f"{name} fp32") for row in self.rows):
            name = f"{name} ({path.name})"
        floats = None
        for precision in manifest["precisions"]:
            several = manifest["target"] == TORCHSCRIPT and precision == "int8"
            for engine in engines() if several else [None]:
                row = Row(f"{name} {precision}" + (f" {engine}" if engine else ""))
                self.rows.append(row)
                job = {"runtime": manifest["target"], "folder": str(path), "precision": precision}
                try:
                    done = self.bench.run(
                        job | {"engine": engine, "cases": self.cases, "blank_penalty": None}, row.name
                    )
                except WorkerFailure as error:
                    row.problems.append(f"load: {row.name} does not run: {error}")
                    continue
                row.figures = figures(done, network_bytes(manifest, precision))
                score = self._score(done)
                row.wer = _rate(score)
                check_reach(row, self.cases, done["results"])
                if not done["resets"]:
                    row.skipped = ("reset",)
                if precision == "int8":
                    plain, plain_score = floats or (expected, self._score(expected))
                    compare_int8(row, self.cases, done["results"], plain["results"])
                    compare_words(row, score, plain_score)
                    continue
                compare(row, self.cases, done["results"], expected["results"], "torch")
                floats = done, score
                if sherpa:
                    plain = self._reference(context, 0, penalty)
                    note_ends(row, self.cases, done["results"], plain["results"])
                    if context is not None:
                        note_history(row, context, self._over_context(context, penalty))

    def _reference(self, context: int | None, tail: int, penalty: float) -> dict[str, Any]:
        """Torch sessions; ``context``: tokens the predictor sees, None: all; ``tail``: zero samples appended."""
        if (context, tail, penalty) not in self._references:
            jobs = [torch_case(case, tail) for case in self.cases]
            what = "torch streaming" + (f", {context} tokens of context" if context else "")
            done = self._run_torch(context, jobs, f"{what}, {tail} zeros appended" if tail else what, penalty)
            self._references[context, tail, penalty] = done
        return self._references[context, tail, penalty]

    def _run_torch(self, context: int | None, cases: list[Case], what: str, penalty: float) -> dict[str, Any]:
        job = {"runtime": "torch", "folder": str(self.loaded.folder), "context": context, "cases": cases}
        try:
            return self.bench.run(job | {"blank_penalty": penalty}, what)
        except WorkerFailure as error:
            raise UserError(f"the model itself does not run in torch: {error}") from None

    def _over_context(self, context: int, penalty: float) -> dict[str, float]:
        """WER of offline torch by the number of tokens the predictor sees."""
        contexts = [*sorted({*CONTEXTS, context}), None]
        parts = [case["parts"][0] for case in self.cases if case["rung"] == "words"]
        job = [{"rung": "words", "kind": "contexts", "parts": parts, "contexts": contexts}]
        found = [
            Result(**r)
            for r in self._run_torch(None, job, "torch, fewer tokens of context", penalty)["results"][0]
        ]
        rates = {}
        for i, tokens in enumerate(contexts):
            score = scored(self.loaded, self.texts, found[i * len(parts) : (i + 1) * len(parts)])
            if score is not None:
                rates["all" if tokens is None else str(tokens)] = round(score.wer, 4)
        return rates

    def _score(self, done: dict[str, Any]) -> WerResult | None:
        return scored(self.loaded, self.texts, [r[0] for r in results(self.cases, done["results"], "words")])


class _Bench:
    """Runs jobs in processes of their own, one after another, on one thread."""

    def __init__(self, place: Path, block: int, progress: Progress):
        self.place = place
        self.common = {
            "block": block,
            "audio": str(place / AUDIO_FILE),
        }
        self.progress = progress
        self.count = 0

    def run(self, job: dict[str, Any], what: str) -> dict[str, Any]:
        """The result of a job; raises WorkerFailure."""
        self.progress(what)
        self.count += 1
        file = self.place / f"job{self.count}.json"
        file.write_text(json.dumps(job | self.common), "utf-8")
        return run_worker(file)


def _rate(score: WerResult | None) -> float | None:
    return None if score is None else round(score.wer, 4)


def network_bytes(manifest: dict[str, Any], precision: str) -> int:
    """Bytes an application ships: the networks of a precision."""
    networks = [name for name in manifest["files"] if name.endswith((".onnx", ".pt", ".pte"))]
    chosen = [name for name in networks if (".int8." in name) == (precision == "int8")]
    return sum(manifest["files"][name]["bytes"] for name in chosen)


def _read(item: Item) -> np.ndarray:
    source = Source(item.id, item.audio, start=item.start, duration=item.duration)
    samples = source.load()
    if len(samples) < SHORTEST:
        raise UserError(f"{item.id}: {len(samples)} samples are too short to verify with")
    return samples
