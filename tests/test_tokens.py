"""Token ids = SentencePiece ids, blank first, endpoint last; text survives the round trip."""

from __future__ import annotations

import gzip
import io
import pickle
import re

import pytest
import sentencepiece

from asr.errors import UserError
from asr.tokens import BLANK, Tokenizer

SENTENCES = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "don't look back in anger",
    "one two three four five six seven eight nine zero",
] * 3
DIGITS = "zero one two three four five six seven eight nine oh".split()


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("endpoint", [False, True])
def test_ids(model_type, endpoint):
    tokens = Tokenizer.train(SENTENCES, 40 + endpoint, model_type, endpoint)
    assert tokens.vocab_size == len(tokens.pieces) == 40 + endpoint
    assert tokens.pieces[BLANK] == "<blk>"
    assert tokens.endpoint_id == (40 if endpoint else None)
    assert "<unk>" not in tokens.pieces and len(set(tokens.pieces)) == tokens.vocab_size
    if endpoint:
        assert tokens.pieces[-1] == "<eou>"
    ids = tokens.encode("Don't JUMP  over\tit")
    assert BLANK not in ids and tokens.endpoint_id not in ids
    assert tokens.decode(ids) == "don't jump over it"
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokens.model)
    assert processor.encode("don't jump over it") == ids
    assert [tokens.is_word_start(i) for i in ids] == [tokens.pieces[i].startswith("\u2581") for i in ids]
    assert sum(tokens.is_word_start(i) for i in ids) == 4
    assert not tokens.is_word_start(BLANK)
    assert tokens.encode("") == [] and tokens.decode([]) == ""


def test_blank_and_endpoint_are_not_text():
    tokens = Tokenizer.train(SENTENCES, 41, "bpe", endpoint=True)
    assert tokens.decode([BLANK, *tokens.encode("fox"), tokens.endpoint_id, BLANK]) == "fox"
    assert tokens.endpoint_id not in tokens.encode("<eou> fox <blk>")
    with pytest.raises(ValueError, match=r"token id 41 outside 0…40"):
        tokens.decode([41])
    with pytest.raises(ValueError, match="token id -1"):
        tokens.decode([-1])


def test_unknown_characters():
    tokens = Tokenizer.train(SENTENCES, 40)
    assert tokens.decode(tokens.encode("fox 7 dög!")) == "fox dg"
    with pytest.raises(UserError, match=r"cannot spell '!', '7', 'ö' of the text 'fox 7 dög!'"):
        tokens.encode("fox 7 dög!", strict=True)
    assert tokens.decode(tokens.encode("don\u2019t", strict=True)) == "don't"
    words = Tokenizer.train(DIGITS, 12, "word")
    assert words.decode(words.encode("one eleven twelve two")) == "one two"
    with pytest.raises(UserError, match="cannot spell 'eleven', 'twelve'"):
        words.encode("one eleven twelve two", strict=True)


def test_words():
    tokens = Tokenizer.train([" ".join(DIGITS)], 13, "word", endpoint=True)
    assert tokens.vocab_size == 13 and set(tokens.pieces[1:-1]) == {"\u2581" + w for w in DIGITS}
    ids = tokens.encode("Nine OH one", strict=True)
    assert len(ids) == 3 and all(map(tokens.is_word_start, ids)) and tokens.decode(ids) == "nine oh one"


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "word"])
def test_training_is_deterministic(model_type):
    models = {Tokenizer.train(iter(SENTENCES), 40, model_type, True).model for _ in range(3)}
    assert len(models) == 1


def test_save_load_pickle(tmp_path):
    tokens = Tokenizer.train(SENTENCES, 41, "bpe", endpoint=True)
    tokens.save(tmp_path / "new")
    lines = (tmp_path / "new" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "<blk> 0" and lines[-1] == "<eou> 40"
    assert [line.rsplit(" ", 1) for line in lines] == [[p, str(i)] for i, p in enumerate(tokens.pieces)]
    for again in (
        Tokenizer.from_file(tmp_path / "new"),
        Tokenizer.from_file(tmp_path / "new" / "tokens.model"),
        pickle.loads(pickle.dumps(tokens)),
    ):
        assert again.pieces == tokens.pieces and again.endpoint_id == 40
        assert again.encode("lazy fox") == tokens.encode("lazy fox")


def test_errors(tmp_path):
    for arguments, pattern in (
        (([], 40), "no text to train tokens on"),
        ((["  "], 40), "no text to train tokens on"),
        ((SENTENCES, 40, "chars"), "unknown token model type 'chars'"),
        ((SENTENCES, 1), "leaves no room for pieces"),
        ((SENTENCES, 10), "smaller than the alphabet of the text"),
        ((SENTENCES, 4000), r"yields at most \d+ tokens, not 4000"),
    ):
        with pytest.raises(UserError, match=pattern) as caught:
            Tokenizer.train(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such token model"):
        Tokenizer.from_file(tmp_path / "tokens.model")
    (tmp_path / "tokens.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        Tokenizer.from_file(tmp_path)
    foreign = io.BytesIO()  # a model as SentencePiece makes it by default: <unk>, <s>, </s>
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES),
        model_writer=foreign,
        vocab_size=60,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    with pytest.raises(UserError, match="id 0 must be <blk>, not <unk>"):
        Tokenizer(foreign.getvalue())


def test_round_trip_of_real_text(real_data):
    with gzip.open(real_data / "text" / "librispeech_lm.txt.gz", "rt", encoding="utf-8") as lines:
        texts = [line.strip() for line, _ in zip(lines, range(4000), strict=False)]
    texts = [text for text in texts if re.fullmatch(r"[A-Z' ]+", text)]
    assert len(texts) > 3000
    tokens = Tokenizer.train(texts[:2000], 500, "bpe", endpoint=True)
    assert tokens.vocab_size == 500
    for text in texts:
        ids = tokens.encode(text, strict=True)
        assert tokens.decode(ids) == text.lower()
        assert sum(map(tokens.is_word_start, ids)) == len(text.split())
