"""Estimating n-gram models: by hand, against a plain dictionary implementation, on real text, and as a command."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch

from asr.decoding.ngram import NgramFusion, NgramModel
from asr.errors import UserError
from asr.tokens import Tokenizer
from asr.training import ngram
from asr.training.ngram import FALLBACK, Text, estimate, ngram_command
from tests.toy import TEXTS, toy_tokenizer


def probabilities(made):
    """{n-gram: probability} and {n-gram: back-off weight} of an estimate."""
    values, weights = {}, {}
    for table in made.grams:
        for gram, log_prob, back_off in zip(table.symbols.tolist(), table.log_probs, table.back_offs, strict=True):
            values[tuple(gram)] = math.exp(log_prob)
            weights[tuple(gram)] = math.exp(back_off)
    return values, weights


def random_sentences(vocab_size, count, seed=0):
    rng = random.Random(seed)
    sentences = []
    for _ in range(count):
        sentence = [rng.randrange(1, vocab_size)]
        while rng.random() < 0.85:
            step = min(int(rng.expovariate(0.9)), 6)
            sentence.append(1 + (sentence[-1] + step) % (vocab_size - 1))
        sentences.append(sentence)
    return sentences


def slow_kneser_ney(sentences, order, vocab_size, thresholds):
    """The textbook with dictionaries of tuples: {n-gram: probability}, pruned ones left out; 0 is <s>, V is </s>."""
    raw = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        marked = [0, *sentence, vocab_size]
        for n in range(1, order + 1):
            raw[n].update(tuple(marked[i : i + n]) for i in range(len(marked) - n + 1))
    result, fallbacks = {}, 0
    lower = {(): {w: 1.0 / vocab_size for w in range(1, vocab_size + 1)}}  # context: {word: probability}, complete
    for n in range(1, order + 1):
        counts = dict(raw[n])
        if n < order:
            before = Counter(gram[1:] for gram in raw[n + 1])
            counts = {gram: count if gram[0] == 0 else before[gram] for gram, count in counts.items()}
        counts.pop((0,), None)
        of_count = Counter(counts.values())
        if all(of_count[k] for k in (1, 2, 3, 4)):
            y = of_count[1] / (of_count[1] + 2 * of_count[2])
            discount = [0.0] + [k - (k + 1) * y * of_count[k + 1] / of_count[k] for k in (1, 2, 3)]
            usual = all(0 < discount[k] <= k for k in (1, 2, 3))
        else:
            usual = False
        if not usual:
            discount, fallbacks = [0.0, *FALLBACK], fallbacks + 1
        here, followers = {}, defaultdict(dict)
        for gram, count in counts.items():
            followers[gram[:-1]][gram[-1]] = count
        for context, words in followers.items():
            kept = {w: c for w, c in words.items() if n == 1 or raw[n][(*context, w)] > thresholds[n - 1]}
            total = sum(words.values())
            seen = {w: (c - discount[min(c, 3)]) / total for w, c in kept.items()}
            rest = 1.0 - sum(seen.values())
            shorter = context[1:]
            while n > 1 and shorter not in lower:
                shorter = shorter[1:]
            below = lower[shorter] if n > 1 else lower[()]
            here[context] = {w: seen.get(w, 0.0) + rest * below[w] for w in below}
            if n == 1:
                result |= {(w,): p for w, p in here[context].items()}
            else:
                result |= {(*context, w): here[context][w] for w in kept}
        lower = here if n == 1 else {**lower, **here}
    return result, fallbacks


def test_by_hand():
    """Text: `1 2`, `1 3`; V = 4, </s> = 4. No bigram is seen three times: the fall-back discounts 1/2, 1, 3/2.

    Unigrams count what precedes them: 1 after <s>; 2 and 3 after 1; </s> after 2 and 3: 1, 1, 1, 2 of 5. They spare
    (3/2 + 1) / 5 = 1/2 for the uniform 1/4.
    """
    made = estimate([[1, 2], [1, 3]], 2, 4)
    assert made.discounts == [FALLBACK, FALLBACK] and (made.sentences, made.tokens) == (2, 4)
    values, weights = probabilities(made)
    one = Fraction(1, 2) / 5 + Fraction(1, 2) / 4  # 0.225
    end = Fraction(2 - 1) / 5 + Fraction(1, 2) / 4  # 0.325
    expected = {(1,): one, (2,): one, (3,): one, (4,): end}
    expected[0, 1] = Fraction(2 - 1, 2) + Fraction(1, 2) * one  # <s> 1 twice of two: spares 1 of 2
    expected[1, 2] = expected[1, 3] = Fraction(1, 2) / 2 + Fraction(1, 2) * one
    expected[2, 4] = expected[3, 4] = Fraction(1, 2) + Fraction(1, 2) * end
    assert values.pop((0,)) == pytest.approx(1e-99)
    assert values == pytest.approx({gram: float(value) for gram, value in expected.items()})
    assert [weights[w,] for w in range(5)] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0])


def test_discounts_by_hand():
    """n1 = 4, n2 = 2, n3 = 1, n4 = 1: Y = 4 / 8, and D = 1 - 2 Y 2/4, 2 - 3 Y 1/2, 3 - 4 Y 1/1."""
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 9, 0])
    assert ngram._discounts(counts) == pytest.approx((0.5, 1.25, 1.0))
    assert ngram._discounts(counts[:-4]) == FALLBACK  # no 3, no 4
    assert ngram._discounts(np.array([1, 2, 3, 3, 3, 3, 3, 4])) == FALLBACK  # 2 - 3 Y 5 < 0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [(0,), (0, 1), (0, 0, 1, 3)])
def test_against_dictionaries(order, prune):
    rng = random.Random(4)
    rare = [[min(int(rng.paretovariate(0.8)), 79) for _ in range(rng.randint(0, 9))] for _ in range(400)]
    sentences = rare + random_sentences(24, 100)
    prune = prune[:order]
    made = estimate(sentences, order, 80, prune=prune)
    expected, fallbacks = slow_kneser_ney(sentences, order, 80, [*prune, *[prune[-1]] * order])
    values, _ = probabilities(made)
    del values[(0,)]
    assert values == pytest.approx(expected, abs=1e-12)
    assert sum(discounts == FALLBACK for discounts in made.discounts) == fallbacks == 0
    assert made.tokens == sum(map(len, sentences)) and made.sentences == 500


@pytest.mark.parametrize("endpoint", [False, True])
@pytest.mark.parametrize("prune", [(0,), (0, 0, 1)])
def test_every_context_sums_to_one(endpoint, prune):
    tokenizer = toy_tokenizer(endpoint)
    words = tokenizer.vocab_size - int(endpoint)
    sentences = random_sentences(words - 2, 300)  # two tokens never occur
    made = estimate(sentences, 4, tokenizer.vocab_size, tokenizer.endpoint_id, prune)
    model = NgramModel.from_grams(made.grams, tokenizer)
    fusion = NgramFusion(model, 1.0)
    state = [torch.arange(len(model.weights))]  # every context there is
    rows, ends = fusion.scores(state).double(), fusion.final(state).double()
    assert len(rows) > 400
    total = rows[:, 1:words].exp().sum(1) + ends.exp()
    assert torch.allclose(total, torch.ones_like(total), atol=2e-6)
    assert bool((rows[:, 1:words] > -20.0).all())  # also what never occurs


def test_tables_are_sorted_and_closed():
    made = estimate(random_sentences(30, 300), 4, 30, prune=(0, 1, 1, 2))
    grams = [[tuple(gram) for gram in table.symbols.tolist()] for table in made.grams]
    assert [gram[0] for gram in grams[0]] == list(range(31))
    for shorter, longer in zip(grams, grams[1:], strict=False):
        assert longer == sorted(set(longer)) and longer
        assert {gram[:-1] for gram in longer} | {gram[1:] for gram in longer} <= set(shorter)
    assert all(0 not in gram[1:] and 30 not in gram[:-1] for table in grams for gram in table)


def test_bad_input():
    for arguments, message in (
        (([], 2, 9), "there is no sentence"),
        (([[1]], 0, 9), "order of an n-gram model must be from 1 to 10, not 0"),
        (([[1]], 11, 9), "not 11"),
        (([[1]], 2, 9, None, (1, 1)), "1-grams cannot be pruned"),
        (([[1]], 3, 9, None, (0, 2, 1)), r"must not fall from one order to the next: \[0, 2, 1\]"),
        (([[1]], 2, 9, None, (0, 0, 1)), "3 thresholds to prune with for 2 orders"),
        (([[1]], 2, 9, None, (-1,)), "thresholds to prune with are counts from 0, not -1"),
    ):
        with pytest.raises(UserError, match=message):
            estimate(*arguments)
    for bad in ([0], [9], [-1]):
        with pytest.raises(ValueError, match="outside"):
            estimate([bad], 2, 9)
    with pytest.raises(ValueError, match="endpoint"):
        estimate([[8]], 2, 9, 8)


def test_tiny_text():
    """A sentence without words, sentences shorter than the order."""
    for sentences in ([[]], [[1]], [[1], [], [2, 1]]):
        values, weights = probabilities(estimate(sentences, 5, 3))
        assert all(0.0 < value <= 1.0 for value in [*values.values(), *weights.values()])
        assert values[1,] + values[2,] + values[3,] == pytest.approx(1.0)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    toy_tokenizer(True).save(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join([TEXTS[0], TEXTS[1].upper(), "", "one  two", "what costs $5?", "three one two"]) + "\n")
    return str(path)


def test_command_writes_what_estimate_finds(tmp_path, text, tokens, capsys):
    files = [text, str(tmp_path / "more.txt.gz"), str(tmp_path / "some.jsonl"), str(tmp_path / "rest.jsonl.gz")]
    with gzip.open(files[1], "wt") as file:
        file.write("four five six\n")
    record = json.dumps({"text": "Seven eight nine", "id": "x"}) + "\n"
    (tmp_path / "some.jsonl").write_text(record + "\n")
    (tmp_path / "rest.jsonl.gz").write_bytes(gzip.compress(record.encode()))
    for name in ("lm.arpa", "lm.arpa.gz", "lm.npz"):
        words = ["--text", *files, "--tokens", tokens, "--order", "3", "--out", str(tmp_path / name), "--dev", text]
        assert ngram_command(words) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()[:3]
    assert f"7 sentences, 34 words; 1 of 8 lines skipped, the tokens cannot spell them (first '$5' in {text}, line 5); " in lines[0]
    assert lines[1].startswith(f"{tmp_path}/lm.arpa: 48 1-grams, ")
    assert "counting 3-grams …" in out.err
    tokenizer = Tokenizer.from_file(tokens)
    sentences = list(Text(files, tokenizer))
    assert [tokenizer.decode(sentence) for sentence in sentences[:3]] == [*TEXTS, "one two"]
    made = estimate(sentences, 3, 48, 47)
    expected = NgramModel.from_grams(made.grams, tokenizer)
    for name in ("lm.arpa", "lm.arpa.gz", "lm.npz"):
        model = NgramModel.from_file(tmp_path / name, tokenizer)
        assert model.scores(sentences).tolist() == pytest.approx(expected.scores(sentences).tolist(), abs=1e-3)
        assert np.array_equal(model.symbols, expected.symbols)
    dev = list(Text([text], tokenizer))
    assert "4 sentences, 25 words; 1 of 5 lines skipped, the tokens cannot spell them (first '$5' in " in lines[2]
    per_token, per_word = (float(word) for word in lines[2].split("perplexity ")[1].split() if word[0].isdigit())
    assert per_token == pytest.approx(expected.perplexity(dev), abs=0.006)
    assert per_word == pytest.approx(math.exp(-expected.scores(dev).sum() / (25 + 4)), abs=0.06)


def test_punctuation_and_accents_are_left_out(tmp_path, tokens):
    tokenizer = Tokenizer.from_file(tokens)
    path = tmp_path / "text.txt"
    path.write_text("Seven, eight -- nine.\n***\n --\n“Séven”-eight?\nseven 8\nOne\n")
    text = Text([str(path)], tokenizer)
    assert [tokenizer.decode(sentence) for sentence in text] == ["seven eight nine", "seven eight", "one"]
    assert (text.lines, text.words, text.unspelled) == (5, 6, 2)  # a line of nothing but marks that nobody says is empty
    assert str(text).endswith(f"2 of 5 lines skipped, the tokens cannot spell them (first '***' in {path}, line 2)")


def test_command_prunes(tmp_path, text, tokens, capsys):
    def sizes(*prune, files=(text,)):
        arguments = ["--tokens", tokens + "/tokens.model", "--order", "3", "--out", str(tmp_path / "lm.arpa")]
        assert ngram_command(["--text", *files, *arguments, "--prune", *prune]) == 0
        assert NgramModel.from_file(tmp_path / "lm.arpa", toy_tokenizer(True)).order == 3
        return [int(word) for word in capsys.readouterr().out.splitlines()[1].split(": ")[1].split()[::2]]

    plain, higher, both = sizes("0"), sizes("0", "0", "1"), sizes("1")
    assert plain[:2] == higher[:2] and plain[2] > higher[2] > 0
    assert both[0] == plain[0] and 0 < both[1] < plain[1] and both[2] == higher[2]
    assert sizes("1", files=(text, text)) == plain  # now nothing comes once
    assert sizes("99") == [48, 0, 0]


def test_command_errors(tmp_path, text, tokens, monkeypatch):
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"words": "two"}\n')
    (tmp_path / "worse.jsonl").write_text('{"text": "one"}\nthree\n')
    (tmp_path / "none.txt").write_text("$$$\n")
    (tmp_path / "empty.txt").write_text("\n--\n")
    (tmp_path / "latin.txt").write_bytes("one\nd\xe9j\xe0 vu\n".encode("latin-1"))
    out = tmp_path / "lm.arpa"
    out.write_text("the old one")

    def run(*more, text=text, tokens=tokens, out=out):
        return ngram_command(["--text", str(text), "--tokens", str(tokens), "--out", str(out), *more])

    for call, message in (
        (lambda: run(text=tmp_path / "bad.jsonl"), 'bad.jsonl, line 2: no "text" in it'),
        (lambda: run(text=tmp_path / "worse.jsonl"), "worse.jsonl, line 2: not JSON"),
        (lambda: run(text=tmp_path / "none.txt"), r"no sentence in .*none.txt; 1 of 1 lines skipped, .*\(first '\$\$\$' in .*line 1\)"),
        (lambda: run(text=tmp_path / "empty.txt"), "there is no sentence in .*empty.txt$"),
        (lambda: run("--dev", str(tmp_path / "empty.txt"), out=tmp_path / "lm.npz"), "there is no sentence in .*empty.txt$"),
        (lambda: run(out=tmp_path / "lm.bin"), "--out must end in .npz, .arpa, .arpa.gz, not lm.bin"),
        (lambda: run("--prune", "-1"), "counts from 0, not -1"),
        (lambda: run(text=tmp_path / "latin.txt"), "latin.txt, line 2: not UTF-8 text"),
        (lambda: run(text=tmp_path / "missing.txt"), "no such file: .*missing.txt"),
        (lambda: run(text=tmp_path), "cannot read .*: Is a directory"),
        (lambda: run("--dev", str(tmp_path / "missing.txt")), "no such file"),
        (lambda: run("--order", "0"), "must be from 1 to 10"),
        (lambda: run("--prune", "0", "2", "1"), "must not fall"),
        (lambda: run("--ordre", "3"), "did you mean --order"),
        (lambda: run(tokens=tmp_path / "missing"), "no model"),
        (lambda: run(tokens=tmp_path), "no such token model"),
        (lambda: run(tokens=""), "--tokens needs a name"),
        (lambda: run(out=tmp_path), "it is a folder"),
        (lambda: run(out=tmp_path / "none" / "lm.arpa"), "cannot write .*: no folder"),
        (lambda: run(out=text), "would be written over"),
    ):
        with pytest.raises(UserError, match=message):
            call()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ngram, "_count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert out.read_text() == "the old one"
    assert not list(tmp_path.glob(".*"))


def test_command_uses_a_shipped_model_by_name(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("one two three\nfour five\n")
    arguments = ["--text", str(tmp_path / "text.txt"), "--tokens", "digits", "--out", str(tmp_path / "lm.arpa")]
    assert ngram_command([*arguments, "--order", "2"]) == 0
    assert "2 sentences, 5 words" in capsys.readouterr().out


# ---------------------------------------------------------------- real text


def test_longer_contexts_predict_real_text_better(real_data, tmp_path, capsys):
    with gzip.open(real_data / "text" / "librispeech_lm.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file][:9000]
    tokenizer = Tokenizer.train(lines[:2000], 200, "bpe")
    tokenizer.save(tmp_path / "model")
    (tmp_path / "train.txt").write_text("\n".join(lines[:8500]))
    held_out = [tokenizer.encode(line) for line in lines[8500:]]
    found = []
    for order in (1, 2, 3):
        path = tmp_path / f"{order}.npz"
        arguments = ["--text", str(tmp_path / "train.txt"), "--tokens", str(tmp_path / "model"), "--order", str(order)]
        assert ngram_command([*arguments, "--out", str(path)]) == 0
        found.append(NgramModel.load(path, tokenizer).perplexity(held_out))
    assert found[0] > 1.5 * found[1] > 1.5 * 1.2 * found[2] and found[2] > 5.0
    shuffled = [random.Random(i).sample(sentence, len(sentence)) for i, sentence in enumerate(held_out)]
    assert NgramModel.load(path, tokenizer).perplexity(shuffled) > 3 * found[2]
