"""Scales of language models, tuned on a dev set: every utterance is encoded once, then searched for every combination of scales.

The searches are those of recognition (`Recognizer.search_encoded`), so the word error rate of a combination is what ``asr evaluate`` counts with
it.

Shapes: B utterances of a batch, T' encoder frames of 40 ms, D encoder width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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
from asr.streaming.recognizer import Recognizer
from asr.streaming.sources import like_lengths

# ---------------------------------------------------------------- utterances


def read_utterances(manifests: Sequence[str | Path], split: str | None = None, half: int | None = None) -> list[Item]:
    """The utterances of manifests, or those of half of their speakers.

    Args:
        manifests, split: see `asr.scoring.manifest.read_manifest`.
        half: 1: the first, third, … speaker in order of names; 2: the others. So scales can be tuned on one half of a dev set and reported
            on the other. Where no speaker is named, or one only, utterances stand for speakers.

    Raises:
        UserError: a manifest that cannot be used, or of one utterance where half is wanted.
    """
    if half not in (None, 1, 2):
        raise ValueError(f"half {half}: there are 1 and 2")
    items = [item for manifest in manifests for item in read_manifest(manifest, split)]
    if half is None:
        return items
    speakers = [item.speaker or item.id for item in items]  # of all manifests together: none may be in both halves
    if len(set(speakers)) == 1:
        speakers = [item.id for item in items]
    chosen = set(sorted(set(speakers))[half - 1 :: 2])
    if not chosen:
        raise UserError(f"{', '.join(map(str, manifests))}: there is one utterance only, and no other half")
    return [item for item, speaker in zip(items, speakers, strict=True) if speaker in chosen]


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
    total = sum(item.source.seconds() or 0.0 for item in items)
    done, encoded_seconds = 0, 0.0  # utterances and audio encoded, padding included

    def load() -> Iterator[tuple[int, np.ndarray]]:
        for item in items:
            try:
                audio = item.source.load()
            except UserError as error:
                kept.errors.append(str(error))
                continue
            kept.refs.append(item.text)
            kept.seconds += len(audio) / SAMPLE_RATE
            yield len(kept.refs) - 1, audio

    for recordings in like_lengths(load(), batch_seconds):
        rows, audio = [row for row, _ in recordings], [samples for _, samples in recordings]
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


# ---------------------------------------------------------------- searches


def search_set(recognizer: Recognizer, encoded: EncodedSet, progress: Callable[[int], None] | None = None) -> list[str]:
    """The words of every utterance, as `Recognizer.transcribe` gives them; ``progress`` is called with the number of utterances done."""
    found = [""] * len(encoded.refs)
    done = 0
    for batch in encoded.batches:
        results = recognizer.search_encoded(batch.frames.float().to(recognizer.device), batch.lengths.to(recognizer.device))
        for row, segments in zip(batch.rows, results, strict=True):
            found[row] = Transcript.of("", segments).text
        done += len(batch.rows)
        if progress is not None:
            progress(done)
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
        result = score(encoded.refs, search_set(recognizer, encoded, progress), self.map)
        if result.words == 0:
            raise UserError("the utterances have no reference words, so nothing can be tuned on them")
        return Trial(scales, result.ins, result.dels, result.sub, result.words, time.perf_counter() - began)
