"""Text for language models: files of sentences -> tokens in memory -> batches of sentences of similar length.

B: sentences of a batch, U: tokens of the longest one.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.decoding.phrases import UNSPOKEN, spell, without_accents
from asr.errors import UserError
from asr.tokens import Tokenizer, normalise_text

log = logging.getLogger("asr.training")

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")


@dataclass
class TextSource:
    """A file of sentences, or a part of it."""

    path: str = ""  # .txt (a sentence a line) or .jsonl (an object with "text" a line), both also as .gz
    start: float = 0.0  # the part of the lines that is used, as fractions of the file: from here …
    stop: float = 1.0  # … to here
    split: str = ""  # .jsonl only: the lines whose "split" is this


@dataclass
class TextDataConfig:
    """What a language model is trained and measured on, and how sentences become batches."""

    train: list[str | TextSource] = field(default_factory=list)  # text to learn
    dev: list[str | TextSource] = field(default_factory=list)  # text held out; empty = no validation
    max_tokens: int = 4096  # most tokens of a batch, ends and padding included
    max_sentence_tokens: int = 400  # longer sentences are left out, and counted

    def validate(self) -> None:
        """Raises UserError, naming the key, for values no run can have."""
        for name in ("max_tokens", "max_sentence_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} is {getattr(self, name)}: it must be at least 1.")
        if self.max_tokens <= self.max_sentence_tokens:
            raise UserError(
                f"data.max_tokens {self.max_tokens} has no room for a sentence of data.max_sentence_tokens "
                f"{self.max_sentence_tokens} and its end."
            )
        for key, sources in (("train", self.train), ("dev", self.dev)):
            for source in sources:
                part = _source(source)
                if not part.path:
                    raise UserError(f"data.{key} has a source without a path.")
                if not 0.0 <= part.start < part.stop <= 1.0:
                    raise UserError(
                        f"data.{key} uses {part.path} from {part.start} to {part.stop}: these are fractions of the "
                        "file, 0 <= start < stop <= 1."
                    )


class TextBatch(NamedTuple):
    """Sentences of similar length."""

    tokens: Tensor  # (B, U) int64, padded with 0
    lengths: Tensor  # (B,) int64, without the end of the sentence
    words: int  # of all sentences
    ids: list[str]  # numbers of the sentences, for messages


def read_sentences(source: str | TextSource) -> list[str]:
    """The sentences of a source: lower case, single spaces, without empty lines.

    Raises:
        UserError: no such file, another kind of file, damaged, not UTF-8, a line without "text", no text at all.
    """
    part = _source(source)
    file = Path(part.path)
    if not file.name.endswith(SUFFIXES):
        raise UserError(f"{file} is no text file: its name must end in {', '.join(SUFFIXES)}.")
    if not file.is_file():
        raise UserError(f"there is no text file {file}.")
    packed = file.suffix == ".gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8-sig") if packed else open(file, encoding="utf-8-sig") as lines:
            texts = list(lines)
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}.") from None
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        records = [_record(line, f"{file}, line {i}") for i, line in enumerate(texts, 1) if line.strip()]
        texts = [record["text"] for record in records if not part.split or record.get("split") == part.split]
    elif part.split:
        raise UserError(f"{file} has no splits: only .jsonl files have.")
    texts = texts[round(part.start * len(texts)) : round(part.stop * len(texts))]
    sentences = [sentence for text in texts if (sentence := normalise_text(text))]
    if not sentences:
        raise UserError(f"{file} holds no text" + (" in that part." if part != TextSource(part.path) else "."))
    return sentences


class Sentences:
    """Tokenised sentences, one flat array for all: memory is that of the tokens.

    Args:
        sources: files, or parts of files.
        longest: sentences of more tokens are left out.

    Raises:
        UserError: as `read_sentences`, or nothing is left.
    """

    def __init__(self, sources: Sequence[str | TextSource], tokenizer: Tokenizer, longest: int) -> None:
        kind = np.min_scalar_type(tokenizer.vocab_size - 1)
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        words: list[int] = []
        dropped, unspelled, example = 0, 0, ""
        for source in sources:
            flat: list[int] = []
            for text in read_sentences(source):
                try:
                    ids = spell(text, tokenizer)  # commas and the like are spaces, as for n-grams and phrases
                except UserError as error:
                    unspelled, example = unspelled + 1, example or str(error)
                    ids = tokenizer.encode(without_accents(UNSPOKEN.sub(" ", text)))
                if 0 < len(ids) <= longest:
                    flat += ids
                    lengths.append(len(ids))
                    words.append(max(1, len(tokenizer.decode(ids).split())))
                else:
                    dropped += 1
            parts.append(np.array(flat, dtype=kind))
        names = ", ".join(_source(source).path for source in sources)
        if unspelled:
            log.warning("%s: characters left out of %d sentences, the first because %s", names, unspelled, example)
        if dropped:
            log.warning("%s: %d sentences left out, empty or of more than %d tokens", names, dropped, longest)
        if not lengths:
            raise UserError(f"no sentence of {names} can be used: all are empty or of more than {longest} tokens.")
        self.ids = np.concatenate(parts)
        self.lengths = np.array(lengths)
        self.words = np.array(words)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """All tokens, ends of sentences not counted."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TextBatch:
        """These sentences, padded."""
        lengths = self.lengths[indices]
        tokens = np.zeros((len(indices), int(lengths.max())), dtype=np.int64)
        for row, index in enumerate(indices):
            tokens[row, : lengths[row]] = self.ids[self.starts[index] : self.starts[index + 1]]
        words = int(self.words[indices].sum())
        return TextBatch(torch.from_numpy(tokens), torch.from_numpy(lengths), words, [str(i) for i in indices])

    def plan(self, max_tokens: int, order: np.ndarray) -> list[list[int]]:
        """Batches of similar lengths with at most ``max_tokens`` tokens, ends and padding included; equally long
        sentences stand in ``order``."""
        batches: list[list[int]] = []
        batch: list[int] = []
        for index in order[np.argsort(self.lengths[order], kind="stable")].tolist():
            if batch and (int(self.lengths[index]) + 1) * (len(batch) + 1) > max_tokens:
                batches.append(batch)
                batch = []
            batch.append(index)
        return [*batches, batch]


def _source(source: str | TextSource) -> TextSource:
    return TextSource(source) if isinstance(source, str) else source


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        text = record["text"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{place} is not an object with "text".') from None
    if not isinstance(text, str):
        raise UserError(f'{place}: "text" is {type(text).__name__}, not a string.')
    return record
