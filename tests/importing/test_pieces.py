"""SentencePiece models in torchaudio's layout, made into ours."""

from __future__ import annotations

import pytest
import sentencepiece

from asr.errors import UserError
from asr.importing.pieces import fields, varint, with_blank_first
from asr.tokens import Tokenizer
from tests.importing.bundles import pieces, sentences


@pytest.fixture(scope="module")
def model() -> bytes:
    return pieces(400)


@pytest.fixture(scope="module")
def theirs(model) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="module")
def ours(model) -> Tokenizer:
    return Tokenizer(with_blank_first(model))


def test_ids_are_one_higher(ours, theirs):
    assert ours.vocab_size == 401 and ours.endpoint_id is None
    assert ours.pieces[0] == "<blk>"
    assert ours.pieces[5:] == theirs.id_to_piece(list(range(4, 400)))
    for text in sentences(200, seed=5):
        ids = ours.encode(text)
        assert ids == [i + 1 for i in theirs.encode(text)]
        assert ours.decode(ids) == text
    assert ours.encode("  BAD\u00a0foo\u2019s  ") == [i + 1 for i in theirs.encode("bad foo's")]


def test_special_pieces_are_unused(ours, theirs):
    assert theirs.id_to_piece([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert ours.pieces[1:5] == ["<s>", "<pad>", "</s>", "<unknown>"]
    processor = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    assert [processor.is_unused(i) for i in range(6)] == [False, True, True, True, True, False]
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id()) == (0, -1, -1, -1)
    assert "<unk>" not in ours.table()
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<unknown>", "<blk>"):
        assert not set(ours.encode(f"bad {name} foo")) & {0, 1, 2, 3, 4}


def test_what_cannot_be_spelt_is_dropped(ours):
    assert ours.encode("bad7") == ours.encode("bad")
    with pytest.raises(UserError, match="cannot spell"):
        ours.encode("bad7", strict=True)


def test_everything_else_stays(model):
    """Normaliser, trainer's settings and the scores of pieces: byte for byte."""
    before, after = list(fields(model)), list(fields(with_blank_first(model)))
    assert [f for f in before if f[0] != 1] == [f for f in after if f[0] != 1][:-1]
    assert [f for f in before if f[0] == 1][4:] == [f for f in after if f[0] == 1][5:]


def test_not_a_model():
    for junk in (b"not a model", b"<html>404</html>", b"\x0a\x7f", b"\x80" * 20):
        with pytest.raises(UserError, match="x.model is not a SentencePiece model"):
            with_blank_first(junk, "x.model")
    with pytest.raises(ValueError):
        list(fields(b"\x0a\x05ab"))


def test_varint():
    assert [varint(n) for n in (0, 1, 127, 128, 300)] == [b"\0", b"\1", b"\x7f", b"\x80\1", b"\xac\2"]
