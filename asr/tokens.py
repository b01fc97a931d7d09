"""SentencePiece pieces with the blank as id 0 and, when wanted, the endpoint token as the last id.

A model folder holds two files: ``tokens.model`` (SentencePiece, from which everything else follows) and
``tokens.txt`` (``symbol id`` a line, for runtimes). SentencePiece's unknown symbol is called ``<blk>`` and
has id 0, so SentencePiece ids *are* model ids; there is no ``<unk>``, no bos, eos or padding. Text is lower
case.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from asr.errors import UserError

BLANK = 0
BLANK_PIECE = "<blk>"
ENDPOINT_PIECE = "<eou>"
SPACE = "\u2581"  # marks the start of a word
MODEL_FILE, TABLE_FILE = "tokens.model", "tokens.txt"
MODEL_TYPES = ("bpe", "unigram", "word")


class Tokenizer:
    """Text <-> token ids. ``vocab_size`` counts the blank and the endpoint token."""

    def __init__(self, model: bytes, name: str = MODEL_FILE) -> None:
        """``model``: the bytes of ``tokens.model``; ``name`` appears in errors.

        Raises:
            UserError: not a SentencePiece model, or one whose id 0 is not ``<blk>``.
        """
        self.model = model
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            self._sp.LoadFromSerializedProto(model)
        except RuntimeError:
            raise UserError(f"{name} is not a SentencePiece model") from None
        self.vocab_size: int = self._sp.GetPieceSize()
        self.pieces: list[str] = [self._sp.IdToPiece(i) for i in range(self.vocab_size)]
        if self.pieces[BLANK] != BLANK_PIECE or not self._sp.IsUnknown(BLANK):
            raise UserError(f"{name}: id 0 must be {BLANK_PIECE}, not {self.pieces[BLANK]}")
        special = [i for i in range(1, self.vocab_size) if self._sp.IsControl(i)]
        last = self.vocab_size - 1
        if any(i != last or self.pieces[i] != ENDPOINT_PIECE for i in special) or self.pieces.count(
            ENDPOINT_PIECE
        ) > len(special):
            raise UserError(
                f"{name}: beside {BLANK_PIECE} the only special token may be {ENDPOINT_PIECE}, as last id"
            )
        self.endpoint_id: int | None = last if special else None
        # An imported model may have symbols without a text (`asr.importing.pieces`).
        self._silent = {BLANK, self.endpoint_id} | {i for i in range(self.vocab_size) if self._sp.IsUnused(i)}

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.model,))  # for data-loading workers

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read ``tokens.model`` (or the folder that holds it).

        Raises:
            UserError: no such file, or not a model of ours.
        """
        file = Path(path)
        file = file / MODEL_FILE if file.is_dir() else file
        if not file.is_file():
            raise UserError(f"no such token model: {file}")
        return cls(file.read_bytes(), str(file))

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, model_type: str = "bpe", endpoint: bool = False
    ) -> Tokenizer:
        """Train pieces on sentences; the same sentences in the same order give the same model, byte for byte.

        Args:
            texts: sentences; lower-cased here.
            vocab_size: number of ids, blank and endpoint token included. For "word" it is an upper bound: the
                most frequent words.
            model_type: "bpe", "unigram", or "word" (one piece a word, for tiny vocabularies such as digits).
            endpoint: add ``<eou>`` as the last id.

        Raises:
            UserError: no text, an unknown type, or more pieces wanted than the text yields.
        """
        if model_type not in MODEL_TYPES:
            raise UserError(
                f"unknown token model type {model_type!r}: choose one of {', '.join(MODEL_TYPES)}"
            )
        sentences = [s for s in (normalise_text(text) for text in texts) if s]
        if not sentences:
            raise UserError("no text to train tokens on")
        room = vocab_size - 1 - int(endpoint)
        if room < 1:
            raise UserError(f"a vocabulary of {vocab_size} leaves no room for pieces beside {BLANK_PIECE}")
        model = _train_sentencepiece(sentences, vocab_size - int(endpoint), model_type)
        return cls(_append_control(model, ENDPOINT_PIECE) if endpoint else model)

    def encode(self, text: str, strict: bool = False) -> list[int]:
        """Ids of the lower-cased text; no blank and no endpoint token among them.

        A character (for "word" models: a word) outside the model's alphabet is dropped, or with ``strict``
        raises a UserError.
        """
        text = normalise_text(text)
        ids = self._sp.EncodeAsIds(text)
        if BLANK in ids:
            if strict:
                pieces = self._sp.EncodeAsPieces(text)
                unknown = (piece for piece, i in zip(pieces, ids, strict=True) if i == BLANK)
                bad = sorted({word for piece in unknown for word in piece.split(SPACE) if word})
                raise UserError(f"the tokens cannot spell {', '.join(map(repr, bad))} of the text {text!r}")
            ids = [i for i in ids if i != BLANK]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; blank, endpoint and unused tokens are skipped.

        Raises:
            ValueError: an id outside ``0 … vocab_size - 1``.
        """
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token id {i} outside 0…{self.vocab_size - 1}")
        text = "".join(self.pieces[i] for i in ids if i not in self._silent)
        return " ".join(text.replace(SPACE, " ").split())

    def is_word_start(self, token: int) -> bool:
        """Whether a word begins with this piece; False for blank and endpoint."""
        return self.pieces[token].startswith(SPACE)

    def table(self) -> str:
        """The text of ``tokens.txt``: ``symbol id`` a line."""
        return "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokens.model`` and ``tokens.txt`` into an existing or new folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / MODEL_FILE).write_bytes(self.model)
        (target / TABLE_FILE).write_text(self.table(), encoding="utf-8")


def normalise_text(text: str) -> str:
    """Lower case, single spaces, straight apostrophes; the word mark of SentencePiece counts as a space."""
    return " ".join(text.replace(SPACE, " ").replace("\u2019", "'").lower().split())


def _train_sentencepiece(sentences: list[str], vocab_size: int, model_type: str) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=model_type
            == "bpe",  # the other two may end with fewer pieces; BPE says how many are possible
            unk_id=BLANK,
            unk_piece=BLANK_PIECE,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            normalization_rule_name="identity",  # normalise_text has done it
            max_sentence_length=1 << 20,  # bytes; the default silently drops longer lines
            num_threads=1,  # the same model on every machine
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        match = re.search(r"value <= (\d+)", reason)
        if match:
            raise UserError(
                f"the text yields at most {match[1]} tokens, not {vocab_size}: lower the vocabulary size"
            ) from None
        if "required_chars" in reason or "smaller than" in reason:
            raise UserError(
                f"a vocabulary of {vocab_size} is smaller than the alphabet of the text"
            ) from None
        raise UserError(f"SentencePiece cannot train {vocab_size} {model_type} tokens: {reason}") from None
    return model.getvalue()


def _append_control(model: bytes, piece: str) -> bytes:
    """The model with one more piece, a control symbol that no text encodes to, as the last id.

    SentencePiece gives control symbols the lowest ids. A protocol buffer is extended by concatenation: field
    1 of the model is the repeated message {1: piece, 2: score (float), 3: type (3 = control)}. Done by hand,
    for no dependency on protobuf.
    """
    name = piece.encode()
    message = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x03"
    return model + b"\x0a" + bytes([len(message)]) + message
