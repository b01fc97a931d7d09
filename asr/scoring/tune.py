"""Scales of language models, tuned on a dev set: every utterance is encoded once, then searched for every combination of scales.

The searches are those of recognition (`Recognizer.recognise`), so the word error rate of a combination is what ``asr evaluate`` counts with
it.

Shapes: B utterances of a batch, T' encoder frames of 40 ms, D encoder width.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.decoding.added import LanguageModels, fused, load_language_model, read_language_model
from asr.decoding.beam import SearchConfig
from asr.decoding.rescoring import Rescorer
from asr.decoding.results import Transcript
from asr.errors import UserError
from asr.features import SAMPLE_RATE
from asr.scoring.manifest import Item, read_manifest
from asr.scoring.trials import Scales, Trial
from asr.scoring.wer import score
from asr.streaming.endpointing import EndpointConfig
from asr.streaming.recognizer import Recognizer
from asr.streaming.sources import Source

READ_AHEAD = 8  # batches of recordings read before they are sorted by length


# ---------------------------------------------------------------- utterances


def read_utterances(manifests: Sequence[str | Path], split: str | None = None, half: int | None = None) -> list[Item]:
    """The utterances of manifests, or those of half of the speakers of each.

    Args:
        manifests, split: see `asr.scoring.manifest.read_manifest`.
        half: 1: the first, third, … speaker in order of names; 2: the others. So scales can be tuned on one half of a dev set and reported
            on the other. Where a manifest names no speaker, or one only, utterances stand for speakers.

    Raises:
        UserError: a manifest that cannot be used, or of one utterance where half is wanted.
    """
    if half not in (None, 1, 2):
        raise ValueError(f"half {half}: there are 1 and 2")
    found = []
    for manifest in manifests:
        items = read_manifest(manifest, split)
        if half is not None:
            named = _speakers(manifest)
            speakers = [named.get(item.id) or item.id for item in items]
            if len(set(speakers)) == 1:
                speakers = [item.id for item in items]
            chosen = set(sorted(set(speakers))[half - 1 :: 2])
            if not chosen:
                raise UserError(f"{manifest} has one utterance only: there is no other half")
            items = [item for item, speaker in zip(items, speakers, strict=True) if speaker in chosen]
        found += items
    return found


def _speakers(manifest: str | Path) -> dict[str, str]:
    """Who speaks each utterance of a manifest that `read_manifest` has accepted; those without a name are left out."""
    file = Path(manifest) / "manifest.jsonl" if Path(manifest).is_dir() else Path(manifest)
    opened = gzip.open(file, "rt", encoding="utf-8-sig") if file.suffix == ".gz" else open(file, encoding="utf-8-sig")
    found = {}
    with opened as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line) if line.strip() else {}
            told = record.get("speaker") or next((s.get("speaker") for s in record.get("supervisions") or []), None)
            if told:
                found[str(record.get("id", number))] = str(told)
    return found


class Encoded(NamedTuple):
    """Utterances of similar length."""

    rows: list[int]  # which ones
    frames: Tensor  # (B, T', D)
    lengths: Tensor  # (B,)


@dataclass
class EncodedSet:
    """Encoder outputs of a dev set, and its references.

    Attributes:
        refs: of the utterances that could be read.
        seconds: of their audio.
        wall_seconds: that reading and encoding took.
        errors: a sentence for each recording that could not be read.
    """

    refs: list[str] = field(default_factory=list)
    batches: list[Encoded] = field(default_factory=list)
    seconds: float = 0.0
    wall_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Memory of the encoder outputs."""
        return sum(batch.frames.numel() * batch.frames.element_size() for batch in self.batches)


@torch.inference_mode()
def encode_set(
    recognizer: Recognizer,
    items: Sequence[Item],
    *,
    batch_seconds: float = 120.0,
    most_bytes: float = math.inf,
    half_precision: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EncodedSet:
    """Run the encoder over every utterance once.

    Args:
        recognizer: whose encoder; how it searches does not matter.
        items: from `read_utterances`.
        batch_seconds: audio in a batch, padding included.
        most_bytes: of encoder outputs kept.
        half_precision: keep them as float16, which may change a word here and there.
        progress: called with (utterances done, utterances in all).

    Raises:
        UserError: no recording can be read; they will not fit, said as soon as that can be foreseen.
    """
    began = time.perf_counter()
    kept = EncodedSet()
    total = sum(_source(item).seconds() or 0.0 for item in items)
    done, encoded_seconds = 0, 0.0  # utterances and audio encoded, padding included
    for rows, audio in _batches(items, batch_seconds, kept):
        frames, lengths = recognizer.encode(audio)
        kept.batches.append(Encoded(rows, (frames.half() if half_precision else frames).cpu(), lengths.cpu()))
        done += len(rows)
        encoded_seconds += len(audio) * max(map(len, audio)) / SAMPLE_RATE
        need = max(kept.bytes, kept.bytes * total / max(encoded_seconds, 1e-3))
        if need > most_bytes:
            raise UserError(
                f"the encoder outputs of {total:.0f} s of speech take {need / 1e9:.2g} GB, more than the {most_bytes / 1e9:.2g} of --memory: "
                "use fewer utterances" + ("" if half_precision else " or --half-precision")
            )
        if progress is not None:
            progress(done + len(kept.errors), len(items))
    if not kept.refs:
        raise UserError(f"none of the {len(items)} recordings can be read: {kept.errors[0]}")
    kept.wall_seconds = time.perf_counter() - began
    return kept


def _source(item: Item) -> Source:
    return Source(item.id, item.audio, start=item.start, duration=item.duration)


def _batches(items: Sequence[Item], batch_seconds: float, kept: EncodedSet) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Recordings of similar length and their numbers among those that can be read, which are noted in ``kept``."""
    group: list[tuple[int, np.ndarray]] = []
    for count, item in enumerate(items, 1):
        try:
            group.append((len(kept.refs), _source(item).load()))
            kept.refs.append(item.text)
            kept.seconds += len(group[-1][1]) / SAMPLE_RATE
        except UserError as error:
            kept.errors.append(str(error))
        if count < len(items) and sum(len(audio) for _, audio in group) < READ_AHEAD * batch_seconds * SAMPLE_RATE:
            continue
        group.sort(key=lambda entry: len(entry[1]))
        while group:
            size = 1
            while size < len(group) and (size + 1) * len(group[size][1]) <= batch_seconds * SAMPLE_RATE:
                size += 1
            yield [row for row, _ in group[:size]], [audio for _, audio in group[:size]]
            group = group[size:]


# ---------------------------------------------------------------- searches


class _Encoded:
    """Stands in for a model whose encoder has been run: features are its output already."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return features, frames


class Replay(Recognizer):
    """A recogniser for recordings that have been encoded: it searches as the one it is made of, whose search, fusion, … it shares."""

    def __init__(self, base: Recognizer):
        self.__dict__.update(base.__dict__)
        self.model = _Encoded(base.model)
        self._given: tuple[Tensor, Tensor] | None = None

    def _features(self, audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        assert self._given is not None
        return self._given

    def texts(self, encoded: EncodedSet, progress: Callable[[int], None] | None = None) -> list[str]:
        """The words of every utterance, as `Recognizer.transcribe` gives them; ``progress`` is called with the number of utterances done."""
        found = [""] * len(encoded.refs)
        done = 0
        for batch in encoded.batches:
            self._given = (batch.frames.float().to(self.device), batch.lengths.to(self.device))
            nothing = [np.zeros(0, np.float32)] * len(batch.rows)
            for row, segments in zip(batch.rows, self.recognise(nothing, EndpointConfig()), strict=True):
                found[row] = Transcript.of("", segments).text
            done += len(batch.rows)
            if progress is not None:
                progress(done)
        self._given = None
        return found


@dataclass
class Tuner:
    """Searches an encoded dev set with any scales.

    Args:
        recognizer: whose model.
        search: kind, beam, … ; its scales are replaced.
        models: language models; their scales are replaced.
        map: whole-word replacements for scoring.

    Raises:
        UserError: a language model that is not there, damaged, or of other tokens.
    """

    recognizer: Recognizer
    search: SearchConfig
    models: LanguageModels
    map: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        tokenizer = self.recognizer.tokenizer
        paths = (self.models.lm, self.models.lodr)
        self._lm, self._lodr = (None if path is None else load_language_model(path, 0.0, tokenizer) for path in paths)
        self._rescore = None if self.models.rescore is None else read_language_model(self.models.rescore, tokenizer)

    def trial(self, encoded: EncodedSet, scales: Scales, progress: Callable[[int], None] | None = None) -> Trial:
        """One search of all utterances; ``progress`` is called with the number of those done.

        Raises:
            UserError: no utterance has a reference.
        """
        began = time.perf_counter()
        search = SearchConfig(
            self.search.kind, self.search.beam, self.search.max_symbols, self.search.prune, scales.blank_penalty, scales.ilm_scale
        )
        fusion = fused([(self._lm, scales.lm_scale), (self._lodr, -scales.lodr_scale)])
        base, rescore = self.recognizer, None
        if self._rescore is not None and scales.rescore_scale != 0.0:
            rescore = Rescorer(self._rescore, scales.rescore_scale, endpoint_id=base.tokenizer.endpoint_id)
        recognizer = Recognizer(
            base.model, base.tokenizer, name=base.name, device=base.device, search=search, fusion=fusion, rescore=rescore
        )
        result = score(encoded.refs, Replay(recognizer).texts(encoded, progress), self.map)
        if result.words == 0:
            raise UserError("the utterances have no reference words, so nothing can be tuned on them")
        return Trial(scales, result.ins, result.dels, result.sub, result.words, time.perf_counter() - began)
