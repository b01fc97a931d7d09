"""``asr train-confidence``: recognise recordings whose words are known, learn which words to believe, and measure it.

Every word of the best hypothesis is right or wrong by the alignment that counts the word error rate. Figures come from
speakers that neither weights nor calibration have seen: those of the manifests by cross-validation over speakers, those
of test manifests as they are. The recogniser should not have been trained on any of them, or its right words will be too
many and too sure.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.cli import Parser
from asr.decoding import greedy
from asr.decoding.confidence import ConfidenceModel, split_groups
from asr.decoding.nbest import beam_search
from asr.decoding.word_features import (
    EmissionStatistics,
    WordFeatures,
    emission_statistics,
    log_prob_confidence,
    word_features,
)
from asr.errors import UserError
from asr.memory import keep_freed_memory
from asr.scoring.calibration import (
    Calibration,
    bootstrap_interval,
    calibration,
    normalised_cross_entropy,
    plot_calibration,
    roc_auc,
)
from asr.scoring.manifest import Item, read_manifest
from asr.scoring.picture import new_figure
from asr.scoring.wer import normalise, parse_map, score
from asr.streaming.sources import like_lengths

INTERVAL = 0.9  # of the bootstrap over speakers
MODEL = "model"  # the name of its figures, among those of what needs no model


class Decoded(NamedTuple):
    """What a search found in a recording.

    Attributes:
        hypothesis: the best.
        nbest: all of them with scores, the best first; empty: the search has no n-best list.
        statistics: of the best; None: the search collects none.
    """

    hypothesis: greedy.Hypothesis
    nbest: Sequence[greedy.Hypothesis] = ()
    statistics: EmissionStatistics | None = None


Decoder = Callable[[Sequence[np.ndarray]], list[Decoded]]  # recordings, (S,) float32 at 16 kHz each, as one batch


@dataclass
class LabelledWords:
    """Recognised words that are known to be right or wrong."""

    parts: list[WordFeatures] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)  # of each word; where none is named, the utterance
    utterances: int = 0
    errors: list[str] = field(default_factory=list)  # a sentence for each recording that could not be read

    @property
    def features(self) -> WordFeatures:
        """Of all words."""
        if not self.parts:
            raise UserError("no recording could be read" + (f": {self.errors[0]}" if self.errors else ""))
        return WordFeatures.stack(self.parts)

    def __str__(self) -> str:
        right, total = sum(self.correct), len(self.correct)
        share = f", {100 * right / total:.1f} % of them right" if total else ""
        return f"{self.utterances} utterances of {len(set(self.speakers))} speakers, {total} recognised words{share}"


def greedy_decoder(recognizer: Any) -> Decoder:
    """Greedy search of whole recordings through a recogniser, with the statistics of its output distributions."""

    def decode(audio: Sequence[np.ndarray]) -> list[Decoded]:
        encoded, lengths = recognizer.encode(audio)
        found = greedy.greedy_search(recognizer.model, encoded, lengths, recognizer.blank_penalty)
        return [
            Decoded(hypothesis, (), emission_statistics(recognizer.model, encoded[row, :length], hypothesis))
            for row, (hypothesis, length) in enumerate(zip(found, lengths.tolist(), strict=True))
        ]

    return decode


def beam_decoder(recognizer: Any) -> Decoder:
    """Beam search of whole recordings through a recogniser that has one (``search=``): n-best lists, and the statistics of
    the best hypothesis."""
    if recognizer.beam is None:
        raise UserError("greedy search has no n-best lists: the recogniser needs a beam")

    def decode(audio: Sequence[np.ndarray]) -> list[Decoded]:
        encoded, lengths = recognizer.encode(audio)
        found = []
        for row, nbest in enumerate(beam_search(recognizer.beam, encoded, lengths)):
            statistics = emission_statistics(recognizer.model, encoded[row, : int(lengths[row])], nbest[0])
            found.append(Decoded(nbest[0], nbest, statistics))
        return found

    return decode


def label_words(reference: str, words: Sequence[str], map: Mapping[str, str] | None = None) -> list[bool | None]:
    """Whether each recognised word is right; None for those that normalisation leaves nothing of.

    A word that the map writes as several is right if all of them are.
    """
    (utterance,) = score([reference], [" ".join(words)], map).utterances
    flags = iter([op == "C" for op, word in zip(utterance.op, utterance.hyp, strict=True) if word is not None])
    labels: list[bool | None] = []
    for word in words:
        parts = [next(flags) for _ in normalise(word, map).split()]
        labels.append(all(parts) if parts else None)
    return labels


def collect_words(
    decoder: Decoder,
    tokenizer: Any,
    manifests: Sequence[str | Path],
    *,
    splits: Sequence[str] = (),
    map: Mapping[str, str] | None = None,
    batch_seconds: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledWords:
    """Recognise manifests and label the words.

    Args:
        decoder: see `Decoder`; `greedy_decoder`, or one with n-best lists.
        tokenizer: of the recogniser.
        manifests: see `asr.scoring.manifest.read_manifest`.
        splits: only utterances of these splits; none named: all.
        map: whole-word replacements on both sides.
        batch_seconds: audio in a batch, padding included.
        progress: called with (utterances done, utterances in all).

    Raises:
        UserError: a manifest that cannot be used, no utterance of the splits, no readable recording.
    """
    todo = [
        replace(item, speaker=item.speaker or f"{path}:{item.id}")  # where none is named, the utterance stands for one
        for path in manifests
        for item in read_manifest(path)
        if not splits or item.split in splits
    ]
    if not todo:
        raise UserError(f"no utterance of split {', '.join(splits)} in {', '.join(str(path) for path in manifests)}")
    words = LabelledWords()
    for done, (item, result) in enumerate(_decode(decoder, todo, batch_seconds), 1):
        if isinstance(result, UserError):
            words.errors.append(str(result))
        else:
            features = word_features(
                result.hypothesis, tokenizer, nbest=result.nbest, statistics=result.statistics
            )
            labels = label_words(item.text, features.words, map)
            kept = np.array([label is not None for label in labels], bool)
            words.parts.append(features.rows(kept))
            words.correct += [label for label in labels if label is not None]
            words.speakers += [item.speaker] * int(kept.sum())
            words.utterances += 1
        if progress is not None:
            progress(done, len(todo))
    return words


def _decode(decoder: Decoder, todo: Sequence[Item], batch_seconds: float) -> Iterator[tuple[Item, Decoded | UserError]]:
    """Results in batches of similar length; not in the order of the manifest, but always in the same."""
    failed: list[tuple[Item, UserError]] = []

    def load() -> Iterator[tuple[Item, np.ndarray]]:
        for item in todo:
            try:
                yield item, item.source.load()
            except UserError as error:
                failed.append((item, error))

    for batch in like_lengths(load(), batch_seconds):
        yield from zip([item for item, _ in batch], decoder([audio for _, audio in batch]), strict=True)
        while failed:
            yield failed.pop()
    yield from failed


# ---------------------------------------------------------------- figures


def untrained(features: WordFeatures) -> dict[str, np.ndarray]:
    """Confidences that need no training: name -> (W,)."""
    found = {"log-probability": log_prob_confidence(features)}
    if features.column("has_statistics").all():
        found["entropy"] = features.column("entropy_confidence")
    return found


def fitted(features: WordFeatures, correct: Any, speakers: Sequence[str]) -> dict[str, ConfidenceModel]:
    """The model of all features, and of each untrained confidence alone, which shows what calibration by itself brings."""
    models = {MODEL: ConfidenceModel.fit(features, correct, speakers)}
    models["log-probability, calibrated"] = ConfidenceModel.fit(features.select(["log_odds"]), correct, speakers)
    if features.column("has_statistics").all():
        single = features.select(["entropy_confidence"])
        models["entropy, calibrated"] = ConfidenceModel.fit(single, correct, speakers)
    return models


def cross_validated(words: LabelledWords, folds: int) -> dict[str, np.ndarray]:
    """Confidences of all words, each from a model, calibration included, that has not seen its speaker: name -> (W,).

    Raises:
        UserError: a single speaker, or too few wrong words.
    """
    features, correct = words.features, np.array(words.correct, bool)
    fold = split_groups(words.speakers, folds)
    if len(correct) == 0 or fold.max() == 0:
        raise UserError("cross-validation needs words of at least two speakers; with --test, one is enough")
    found = untrained(features)
    for k in range(fold.max() + 1):
        rest = fold != k
        speakers = [name for name, kept in zip(words.speakers, rest, strict=True) if kept]
        for name, model in fitted(features.rows(rest), correct[rest], speakers).items():
            found.setdefault(name, np.zeros(len(correct)))[~rest] = model.confidences(features.rows(~rest))
    return found


@dataclass(frozen=True)
class Figures:
    """Figures of one kind of confidence, with intervals by resampling speakers."""

    name: str
    scores: Calibration
    nce: tuple[float, float]
    auc: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As `Calibration.to_dict`, with name and intervals."""
        low_high = {"nce_interval": list(map(_rounded, self.nce)), "auc_interval": list(map(_rounded, self.auc))}
        return {"name": self.name, **self.scores.to_dict(), **low_high}


def figures(kinds: Mapping[str, np.ndarray], words: LabelledWords) -> list[Figures]:
    """NCE, ECE, AUC and their intervals of each kind of confidence."""
    found = []
    for name, confidences in kinds.items():
        intervals = [
            bootstrap_interval(metric, confidences, words.correct, words.speakers, level=INTERVAL)
            for metric in (normalised_cross_entropy, roc_auc)
        ]
        found.append(Figures(name, calibration(confidences, words.correct), *intervals))
    return found


def table(title: str, rows: Sequence[Figures]) -> str:
    """Figures as text, a line a kind."""
    head = f"{100 * INTERVAL:.0f} % interval"
    lines = [f"{title:<32}     NCE  {head:>16}     ECE     AUC  {head:>14}"]
    for row in rows:
        scores = row.scores
        lines.append(
            f"  {row.name:<30} {scores.nce:7.3f}  {_interval(row.nce):>16} {scores.ece:7.3f} {scores.auc:7.3f}"
            f"  {_interval(row.auc):>14}"
        )
    return "\n".join(lines)


def _interval(values: tuple[float, float]) -> str:
    return f"{values[0]:.3f} … {values[1]:.3f}"


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


# ---------------------------------------------------------------- command


def confidence_command(argv: Sequence[str]) -> int:
    """``asr train-confidence --model M --manifest FILES… --out FOLDER``."""
    parser = Parser(
        prog="asr train-confidence",
        description="Learn which recognised words to believe, from recordings whose words are known: not those that the "
        "recogniser was trained on.",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME|FOLDER", help="a shipped model or a model folder")
    add(
        "--manifest", required=True, nargs="+", action="extend", metavar="FILE",
        help="what to learn from: manifest.jsonl, its folder, or lhotse cuts",
    )  # fmt: skip
    add(
        "--test", nargs="+", action="extend", default=[], metavar="FILE",
        help="manifests of other speakers, for more figures",
    )  # fmt: skip
    add("--split", nargs="+", action="extend", default=[], metavar="NAME", help="only utterances of these splits")
    add("--map", nargs="+", action="extend", default=[], metavar="a=b", help="replace word a by b on both sides")
    add(
        "--out", required=True, metavar="FOLDER",
        help="where confidence.safetensors and confidence.yaml go: the model's folder, or another",
    )  # fmt: skip
    add("--beam", type=int, default=None, help="hypotheses of a modified beam search (greedy search if left out)")
    add("--folds", type=int, default=10, help="parts of the speakers in cross-validation")
    add("--picture", default=None, metavar="FILE", help="reliability and ROC, png or svg (needs matplotlib, which comes with the extra train)")
    add("--format", choices=("txt", "json"), default="txt", help="of the figures")
    add("--batch-seconds", type=float, default=60.0, help="seconds of audio in a batch")
    add("--blank-penalty", type=float, default=0.0, help="the same as in use")
    add("--threads", type=int, default=None, help="CPU threads (torch's choice if left out)")
    add("--device", default="cpu", help="cpu or cuda")
    options = parser.parse(argv)
    keep_freed_memory()
    if not 2 <= options.folds <= 1000:
        raise UserError(f"--folds must be from 2 to 1000, not {options.folds}")
    if not 0 < options.batch_seconds < math.inf:
        raise UserError(f"--batch-seconds must be positive, not {options.batch_seconds}")
    if options.picture:
        _check_picture(Path(options.picture))
    if Path(options.out).exists() and not Path(options.out).is_dir():
        raise UserError(f"--out must be a folder, not the file {options.out}")
    mapping = parse_map(options.map)

    from asr.decoding.beam import SearchConfig
    from asr.streaming import Recognizer

    search = None if options.beam is None else SearchConfig("modified_beam", beam=options.beam)
    recognizer = Recognizer.load(
        options.model, options.threads, options.device, blank_penalty=options.blank_penalty, search=search
    )
    decoder = greedy_decoder(recognizer) if search is None else beam_decoder(recognizer)
    quiet = options.format == "json"

    def collect(manifests: Sequence[str]) -> LabelledWords:
        words = collect_words(
            decoder,
            recognizer.tokenizer,
            manifests,
            splits=options.split,
            map=mapping,
            batch_seconds=options.batch_seconds,
            progress=_progress if sys.stderr.isatty() else None,
        )
        for sentence in words.errors:
            print(f"error: {sentence}", file=sys.stderr)
        return words

    words = collect(options.manifest)
    test = collect(options.test) if options.test else None
    if test is not None and not test.correct:
        raise UserError("no word was recognised in the test manifests: there is nothing to measure")
    both = sorted(set(words.speakers) & set(test.speakers)) if test is not None else []
    if both:
        raise UserError(f"speaker {both[0]} is in the training and in the test manifests")
    if not quiet:
        print(f"training: {words}")
    blocks = {}
    if test is None or len(set(words.speakers)) > 1:
        blocks[f"cross-validation, {len(words.correct)} words"] = (cross_validated(words, options.folds), words)
    elif not quiet:
        print("one speaker: no cross-validation")
    models = fitted(words.features, words.correct, words.speakers)
    if test is not None:
        if not quiet:
            print(f"test: {test}")
        kinds = untrained(test.features)
        kinds |= {name: model.confidences(test.features) for name, model in models.items()}
        blocks[f"test, {len(test.correct)} words"] = (kinds, test)
    report = {}
    for title, (kinds, labelled) in blocks.items():
        rows = figures(kinds, labelled)
        report[title] = [row.to_dict() for row in rows]
        if not quiet:
            print("\n" + table(title, rows))
            print("\n" + next(row for row in rows if row.name == MODEL).scores.table())
    notes = {
        "recogniser": options.model,
        "beam": options.beam,
        "manifests": list(options.manifest),
        "splits": list(options.split),
        "words": len(words.correct),
        "right": int(sum(words.correct)),
        "figures": {title: _brief(rows) for title, rows in report.items()},
    }
    saved = models[MODEL].save(options.out, notes)
    title, (kinds, labelled) = list(blocks.items())[-1]
    if options.picture:
        plot_calibration(options.picture, {name: (kinds[name], labelled.correct) for name in kinds if "," not in name})
    if quiet:
        print(json.dumps({**notes, "figures": report, "saved": str(saved)}, indent=2, ensure_ascii=False))
    else:
        print(f"\nsaved: {saved}" + (f", picture ({title}): {options.picture}" if options.picture else ""))
    return 2 if words.errors or (test is not None and test.errors) else 0


def _check_picture(path: Path) -> None:
    """Raises UserError for a picture that could not be drawn after all the work."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: no folder {path.parent}")
    figure = new_figure(1.0, 1.0)
    if figure is None:
        raise UserError("--picture needs matplotlib, which is not installed: pip install matplotlib")
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"--picture must end in .png, .svg or .pdf, not {path.name}")


def _brief(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: {key: row[key] for key in ("nce", "ece", "auc")} for row in rows}


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} utterances", end="\n" if done == total else "", file=sys.stderr, flush=True)
