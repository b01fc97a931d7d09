"""N-gram models: ARPA files, probabilities against a dictionary that backs off by the book, and the fusion."""

from __future__ import annotations

import gzip
import math
import os
import random
import zipfile

import numpy as np
import pytest
import torch

from asr.decoding import arpa
from asr.decoding.arpa import read_arpa, write_arpa
from asr.decoding.ngram import NgramFusion, NgramModel
from asr.errors import UserError
from asr.files import whole_file
from asr.tokens import Tokenizer
from asr.training.ngram import estimate
from tests.toy import TEXTS, toy_tokenizer

LN10 = math.log(10.0)
SMALL = """a comment before the data

\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-99\t<s>\t-0.5
-1.0\t</s>
-2.0\t<unk>\t0
-0.5\t▁one\t-0.25
-0.75\t▁two\t-0.125
-1.5\t▁three

\\2-grams:
-0.25\t<s> ▁one\t-0.0625
-0.3\t▁one ▁two\t-0.2
-0.4\t▁two ▁three
-0.6\t▁two </s>

\\3-grams:
-0.1\t<s> ▁one ▁two
-0.2\t▁one ▁two ▁three

\\end\\
"""


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Blank and the words eight five four nine one seven six three two zero, by whatever ids; <eou> last."""
    return Tokenizer.train([TEXTS[0]], 20, "word", endpoint=True)


def ids(tokenizer, text):
    return [tokenizer.pieces.index("▁" + word) for word in text.split()]


def write(folder, text, name="lm.arpa"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class Reference:
    """An ARPA file as a dictionary of word tuples; log10."""

    def __init__(self, text: str):
        self.grams: dict[tuple[str, ...], tuple[float, float]] = {}
        order = 0
        for line in text.splitlines():
            if line.endswith("-grams:"):
                order = int(line[1:-7])
            elif order and line and not line.startswith("\\"):
                fields = line.split()
                back_off = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
                self.grams[tuple(fields[1 : order + 1])] = (float(fields[0]), back_off)
        self.order = order

    def log10(self, history: tuple[str, ...], word: str) -> float:
        history = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        if (*history, word) in self.grams:
            return self.grams[(*history, word)][0]
        if not history:
            return self.grams[("<unk>",)][0]
        return self.grams.get(history, (0.0, 0.0))[1] + self.log10(history[1:], word)


def random_model(order, seed=0, prune=(0,), endpoint=True):
    """A model of random sentences over the toy tokens, with the sentences."""
    tokenizer = toy_tokenizer(endpoint)
    rng = random.Random(seed)
    ordinary = [i for i in range(1, tokenizer.vocab_size) if i != tokenizer.endpoint_id][:-3]  # three never occur
    sentences = []
    for _ in range(60):
        sentence = [rng.choice(ordinary)]
        while rng.random() < 0.9:  # mostly a token near the one before, so that n-grams come again
            near = ordinary[(ordinary.index(sentence[-1]) + rng.randint(1, 3)) % len(ordinary)]
            sentence.append(near if rng.random() < 0.8 else rng.choice(ordinary))
        sentences.append(sentence)
    made = estimate(sentences, order, tokenizer.vocab_size, tokenizer.endpoint_id, prune)
    return tokenizer, made.grams, sentences


def test_a_small_file_by_hand(tmp_path, words, caplog):
    model = NgramModel.from_arpa(write(tmp_path, SMALL), words)
    assert model.order == 3
    one_two = ids(words, "one two")
    for text, log10 in (
        ("one two three", -0.25 - 0.1 - 0.2 + (0.0 - 1.0)),  # ▁two ▁three has no back-off weight, nor has ▁three
        ("one two", -0.25 - 0.1 + (-0.2 - 0.6)),
        ("two", (-0.5 - 0.75) - 0.6),
        ("three one", (-0.5 - 1.5) + (0.0 - 0.5) + (-0.25 - 1.0)),
        ("", -0.5 - 1.0),
        ("four one two", (-0.5 - 2.0) + (0.0 - 0.5) + -0.3 + (-0.2 - 0.6)),  # four is no unigram: <unk>
    ):
        assert model.score(ids(words, text)) == pytest.approx(log10 * LN10, abs=1e-5), text
    assert model.score(one_two, end=False) == pytest.approx((-0.25 - 0.1) * LN10, abs=1e-5)
    assert model.perplexity([one_two]) == pytest.approx(10 ** ((0.25 + 0.1 + 0.2 + 0.6) / 3), rel=1e-5)
    assert model.perplexity([one_two, []]) == pytest.approx(10 ** ((0.25 + 0.1 + 0.2 + 0.6 + 1.5) / 4), rel=1e-5)
    assert math.isnan(model.perplexity([]))
    assert "7 of the model's tokens are not in it and count as <unk>; 0 of its words" in caplog.text


def test_endpoint_token_is_no_word_of_the_model(tmp_path, words):
    model = NgramModel.from_arpa(write(tmp_path, SMALL), words)
    end, text = words.endpoint_id, ids(words, "one two")
    assert model.score([*text, end]) == model.score(text)
    assert model.perplexity([[*text, end]]) == model.perplexity([text])
    fusion = NgramFusion(model, 0.5)
    state = fusion.step(torch.tensor(text[:1]), fusion.initial_state(1))
    assert fusion.scores(state)[0, [0, end]].tolist() == [0.0, 0.0]
    assert fusion.step(torch.tensor([end]), state)[0].tolist() == state[0].tolist() != [0]
    for bad in (0, -1, words.vocab_size):
        with pytest.raises(ValueError, match="outside"):
            model.score([bad])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [(0,), (0, 0, 1), (0, 1, 2)])
def test_fusion_is_the_model_is_the_dictionary(tmp_path, order, prune):
    tokenizer, grams, sentences = random_model(order, prune=prune[:order])
    path = tmp_path / "lm.arpa"
    write_arpa(path, grams, tokenizer)
    reference = Reference(path.read_text(encoding="utf-8"))
    model = NgramModel.from_arpa(path, tokenizer)
    fusion = NgramFusion(model, 0.3)
    rng = random.Random(1)
    ordinary = [i for i in range(1, tokenizer.vocab_size) if i != tokenizer.endpoint_id]
    texts = [s[:12] for s in sentences if len(s) >= 12][:6]
    texts += [[rng.choice(ordinary) for _ in range(12)] for _ in range(6)]  # contexts that nobody has seen
    texts += [s[:6] + t[6:] for s, t in zip(texts[:6], texts[6:], strict=True)]
    state = fusion.initial_state(len(texts))
    total = np.zeros(len(texts))
    for u in range(13):
        rows, ends = fusion.scores(state), fusion.final(state)
        assert rows.shape == (len(texts), tokenizer.vocab_size) and rows.dtype == torch.float32
        mass = (rows[:, ordinary] / 0.3).exp().sum(1) + (ends / 0.3).exp()
        assert torch.allclose(mass, torch.ones_like(mass), atol=1e-5)
        for i, text in enumerate(texts):
            history = ("<s>", *(tokenizer.pieces[token] for token in text[:u]))
            expected = [0.3 * LN10 * reference.log10(history, tokenizer.pieces[token]) for token in ordinary]
            assert rows[i, ordinary].tolist() == pytest.approx(expected, abs=2e-5)
            assert float(ends[i]) == pytest.approx(0.3 * LN10 * reference.log10(history, "</s>"), abs=2e-5)
            assert 0.3 * model.score(text[:u]) == pytest.approx(total[i] + float(ends[i]), abs=1e-4)
        if u < 12:
            tokens = torch.tensor([text[u] for text in texts])
            total += rows[torch.arange(len(texts)), tokens].numpy()
            state = fusion.step(tokens, state)


def test_state_is_the_longest_context_there_is(tmp_path, words):
    fusion = NgramFusion(NgramModel.from_arpa(write(tmp_path, SMALL), words), 1.0)

    def after(text, start=None):
        state = fusion.initial_state(1) if start is None else start
        for token in ids(words, text):
            state = fusion.step(torch.tensor([token]), state)
        return int(state[0])

    nothing = [torch.zeros(1, dtype=torch.int64)]
    assert after("") != 0
    assert after("seven") == after("one seven") == after("three") == 0  # ▁three is no context: nothing follows it
    assert after("one two seven one two") == after("one two", nothing) == after("one two")
    assert after("two two") == after("seven two") == after("two", nothing)
    assert len({after(text) for text in ("", "one", "one two", "two", "three one", "three")}) == 6
    assert after("three one") == after("one", nothing) != after("one")


def test_rows_are_independent_and_can_be_picked():
    tokenizer, grams, _ = random_model(3)
    fusion = NgramFusion(NgramModel.from_grams(grams, tokenizer), -0.2)
    tokens = torch.arange(1, 30)
    state = fusion.step(tokens, fusion.step(tokens.flip(0), fusion.initial_state(29)))
    rows, ends = fusion.scores(state), fusion.final(state)
    assert float(rows.max()) > 0.0 and float(rows.min()) == 0.0  # a scale below 0; blank and <eou> score nothing
    picked = torch.tensor([3, 3, 17, 0])
    some = [tensor.index_select(0, picked) for tensor in state]
    assert torch.equal(fusion.scores(some), rows[picked]) and torch.equal(fusion.final(some), ends[picked])
    assert fusion.scores([state[0][:0]]).shape == (0, tokenizer.vocab_size)
    assert NgramFusion(NgramModel.from_grams(grams, tokenizer), 1.0, end=False).final(state).tolist() == [0.0] * 29
    fusion.scale = -0.4
    assert torch.allclose(fusion.scores(state), 2 * rows) and torch.allclose(fusion.final(state), 2 * ends)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_fusion_scripts(order):
    tokenizer, grams, sentences = random_model(order)
    fusion = NgramFusion(NgramModel.from_grams(grams, tokenizer), 0.3)
    scripted = torch.jit.script(fusion)
    state, same = fusion.initial_state(2), scripted.initial_state(2)
    for tokens in zip(*sorted(sentences, key=len)[-2:], strict=False):
        assert torch.equal(fusion.scores(state), scripted.scores(same))
        assert torch.equal(fusion.final(state), scripted.final(same))
        state, same = (door.step(torch.tensor(tokens), s) for door, s in ((fusion, state), (scripted, same)))
        assert torch.equal(state[0], same[0])


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_arpa_round_trip(tmp_path, name):
    tokenizer, grams, sentences = random_model(3, prune=(0, 0, 1))
    write_arpa(tmp_path / name, grams, tokenizer)
    again = read_arpa(tmp_path / name, tokenizer)
    assert len(again) == len(grams) == 3
    for before, after in zip(grams, again, strict=True):
        assert np.array_equal(before.symbols, after.symbols)
        assert np.allclose(before.log_probs, after.log_probs, atol=1e-6)
        assert np.allclose(before.back_offs, after.back_offs, atol=1e-6)
    write_arpa(tmp_path / f"twice-{name}", again, tokenizer)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"twice-{name}").read_bytes()
    text = (gzip.decompress if name.endswith(".gz") else bytes)((tmp_path / name).read_bytes()).decode()
    assert text.startswith(f"\\data\\\nngram 1={tokenizer.vocab_size}\n") and text.endswith("\\end\\\n")
    assert "<eou>" not in text and "<blk>" not in text


def test_npz_round_trip(tmp_path):
    tokenizer, grams, sentences = random_model(4)
    model = NgramModel.from_grams(grams, tokenizer)
    model.save(tmp_path / "lm.npz")
    again = NgramModel.from_file(tmp_path / "lm.npz", tokenizer)
    assert (again.order, again.vocab_size, again.endpoint_id) == (4, tokenizer.vocab_size, tokenizer.endpoint_id)
    assert np.array_equal(again.scores(sentences), model.scores(sentences))
    state = [torch.arange(len(model.weights))]
    assert torch.equal(NgramFusion(again, 1.0).scores(state), NgramFusion(model, 1.0).scores(state))
    assert [path.name for path in tmp_path.iterdir()] == ["lm.npz"]
    with pytest.raises(UserError, match="made for other tokens than the model's: make it with asr ngram --tokens MODEL"):
        NgramModel.load(tmp_path / "lm.npz", toy_tokenizer(False))


def test_damaged_npz(tmp_path):
    tokenizer, grams, _ = random_model(2)
    NgramModel.from_grams(grams, tokenizer).save(tmp_path / "lm.npz")
    whole = (tmp_path / "lm.npz").read_bytes()
    path = tmp_path / "bad.npz"
    for content in (b"", b"PK", whole[: len(whole) // 2], b"no archive" * 20, np.lib.format.magic(1, 0) + b"\0" * 9):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no n-gram model of this program|cannot read"):
            NgramModel.load(path)
    with np.load(tmp_path / "lm.npz") as data:
        arrays = dict(data)
    head = arrays["head"]
    for change, message in (
        ({"head": np.array([2, *head[1:]])}, "of version 2, this program reads 1"),
        ({"backoffs": arrays["backoffs"] + 1}, "do not fit together"),  # would turn in a circle
        ({"targets": arrays["targets"] + 10**6}, "do not fit together"),
        ({"symbols": arrays["symbols"][::-1]}, "do not fit together"),
        ({"begins": arrays["begins"][:-1]}, "do not fit together"),
        ({"weights": arrays["weights"] * np.nan}, "do not fit together"),
        ({"log_probs": arrays["log_probs"].astype(np.float64)}, "do not fit together"),
        ({"begins": np.array([], dtype=np.int64)}, "do not fit together"),
        ({"head": head[:2]}, "no n-gram model of this program"),
        ({"head": np.array(["x"])}, "no n-gram model of this program"),
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(UserError, match=message):
            NgramModel.load(path, tokenizer)
    np.savez(path, **(arrays | {"targets": np.array([print], dtype=object)}))  # would be unpickled
    with pytest.raises(UserError, match="no n-gram model of this program"):
        NgramModel.load(path)
    with zipfile.ZipFile(tmp_path / "lm.npz") as archive:
        assert not any("object" in str(np.load(archive.open(name)).dtype) for name in archive.namelist())
    with pytest.raises(UserError, match="cannot read .*missing.npz: No such file"):
        NgramModel.from_file(tmp_path / "missing.npz", tokenizer)


def test_unknown_tokens_and_words(tmp_path, words, caplog):
    strange = SMALL.replace("ngram 1=6", "ngram 1=7").replace("▁one\t-0.25", "▁one\t-0.25\n-1.25\t▁eleven\t-0.1")
    strange = strange.replace("ngram 2=4", "ngram 2=6").replace(
        "\\3-grams", "-0.2\t▁eleven ▁two\n-0.2\t▁one <unk>\n\n\\3-grams"
    )
    model = NgramModel.from_arpa(write(tmp_path, strange), words)
    plain = NgramModel.from_arpa(write(tmp_path, SMALL), words)
    # Of the words ▁eleven and <unk>, what mentions them is left out: one 1-gram and two 2-grams.
    assert "7 of the model's tokens are not in it and count as <unk>; 1 of its words are no tokens, and 3 n-grams" in (
        caplog.text.splitlines()[0]
    )
    for text in ("one two three", "seven", "one seven two"):
        assert model.score(ids(words, text)) == plain.score(ids(words, text))
    without = SMALL.replace("-2.0\t<unk>\t0\n", "").replace("ngram 1=6", "ngram 1=5")
    lowest = NgramModel.from_arpa(write(tmp_path, without), words)
    assert lowest.score(ids(words, "seven"), end=False) == pytest.approx((-0.5 - 1.5) * LN10, abs=1e-5)


def test_words_may_be_ids(tmp_path, words, caplog):
    text = SMALL
    for word in ("one", "two", "three"):
        text = text.replace(f"▁{word}", str(ids(words, word)[0]))
    by_id = NgramModel.from_arpa(write(tmp_path, text), words)
    by_piece = NgramModel.from_arpa(write(tmp_path, SMALL), words)
    assert by_id.score(ids(words, "one two three")) == by_piece.score(ids(words, "one two three"))
    assert "0 of its words are no tokens" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\\data\\", "\\date\\", r"lm.arpa is no ARPA file: it has no line \\data\\$"),
        ("ngram 1=6", "ngram 1=x", "line 4: here must be 'ngram 1=COUNT', not 'ngram 1=x'"),
        ("ngram 2=4\n", "", "line 5: here must be the count of 2-grams, not of 3-grams"),
        ("ngram 1=6", "ngram 1=7", "line 16: there were 6 1-grams, the header says 7"),
        ("ngram 3=2", "ngram 3=1", "line 26: there were 2 3-grams, the header says 1"),
        ("ngram 3=2\n", "", r"line 21: here must be \\end\\, not '\\\\3-grams:'"),
        ("ngram 3=2", "ngram 3=2\nngram 4=1", r"line 27: here must be \\4-grams:, not '\\\\end"),
        ("\\2-grams:", "\\3-grams:", r"line 16: here must be \\2-grams:, not '\\\\3"),
        ("\\end\\\n", "", "lm.arpa ends at line 24, among its 3-grams: is the file whole"),
        ("-0.5\t▁one", "half\t▁one", "line 12: 'half' is no number"),
        ("▁two\t-0.125", "▁two\t-0,125", "line 13: '-0,125' is no number"),
        ("-0.4\t▁two", "-0,4\t▁two", "line 19: '-0,4' is no number"),
        ("-0.5\t▁one", "nan\t▁one", "line 12: nan is no logarithm of a probability"),
        ("-0.5\t▁one", "0.5\t▁one", "line 12: 0.5 is no logarithm of a probability"),
        ("▁one\t-0.25", "▁one\tinf", "line 12: the back-off weight inf is not finite"),
        ("▁one ▁two\t-0.2", "▁one ▁two ▁two\t-0.2", "line 18: a 2-gram has 3 or 4 fields, not 5"),
        ("-0.4\t▁two ▁three", "-0.4\t▁two", "line 19: a 2-gram has 3 or 4 fields, not 2"),
        ("-0.4\t▁two ▁three", "-0.4\t▁one ▁two", "line 19: this 2-gram is there twice"),
        ("-0.75\t▁two\t-0.125", "-0.75\t▁one", "line 13: the 1-gram ▁one is there twice"),
        ("▁one ▁two ▁three\n\n", "▁two ▁one ▁three\n\n", "line 24: the context of this 3-gram is not among the 2-grams"),
        ("-1.0\t</s>", "-1.0\t▁nine", "there is no </s> among the 1-grams"),
    ],
)  # fmt: skip
def test_damaged_arpa(tmp_path, words, before, after, message):
    assert SMALL.count(before) >= 1
    with pytest.raises(UserError, match=message) as caught:
        NgramModel.from_arpa(write(tmp_path, SMALL.replace(before, after, 1)), words)
    assert "\n" not in str(caught.value)


def test_unreadable_arpa(tmp_path, words):
    path = tmp_path / "lm.arpa"
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read_arpa(path, words)
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_arpa(tmp_path, words)
    path.write_bytes(SMALL.encode("utf-16"))
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        read_arpa(path, words)
    path.write_bytes(gzip.compress(SMALL.encode())[:-20])
    with pytest.raises(UserError, match="damaged after line .*whole"):
        read_arpa(path, words)
    path.write_text("")
    with pytest.raises(UserError, match="is no ARPA file"):
        read_arpa(path, words)
    path.write_text("\\data\\\nngram 1=2\n")
    with pytest.raises(UserError, match="ends after its header"):
        read_arpa(path, words)
    with pytest.raises(UserError, match="is not about the model's tokens: none of its 3 words is one"):
        read_arpa(write(tmp_path, SMALL.replace("▁", "")), words)
    path.write_bytes(("\ufeff" + SMALL).replace("\n", "\r\n").encode())
    assert len(read_arpa(path, words)) == 3


def test_sentence_marks_only_where_they_belong(tmp_path, words):
    odd = SMALL.replace("ngram 2=4", "ngram 2=6").replace(
        "-0.6\t▁two </s>", "-0.6\t▁two </s>\n-0.1\t</s> <s>\n-0.1\t▁two <s>"
    )
    odd, plain = (NgramModel.from_arpa(write(tmp_path, text), words) for text in (odd, SMALL))
    assert np.array_equal(odd.symbols, plain.symbols)


def test_suffixes_may_be_missing(tmp_path, words):
    """Some tools prune `two three` and keep `one two three`."""
    text = SMALL.replace("ngram 2=4", "ngram 2=3").replace("-0.4\t▁two ▁three\n", "")
    model = NgramModel.from_arpa(write(tmp_path, text), words)
    reference = Reference(text)
    for sentence in ("one two three", "two three", "seven one two three"):
        history, total = ("<s>",), 0.0
        for word in [*(f"▁{word}" for word in sentence.split()), "</s>"]:
            total += reference.log10(history, word)
            history = (*history, word)
        assert model.score(ids(words, sentence)) == pytest.approx(total * LN10, abs=1e-5)


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    tokenizer, grams, _ = random_model(2)
    path = tmp_path / "lm.arpa.gz"
    path.write_bytes(b"the old one")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    monkeypatch.setattr(arpa, "LOG10", None)  # fails on the way
    with pytest.raises(TypeError):
        write_arpa(path, grams, tokenizer)
    assert path.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write .*none/lm: No such file"), whole_file(tmp_path / "none" / "lm"):
        pass
    if os.path.exists("/dev/full"):
        with pytest.raises(UserError, match="cannot write /dev/full: No space left"), whole_file("/dev/full") as file:
            file.write(b"x" * 100_000)
