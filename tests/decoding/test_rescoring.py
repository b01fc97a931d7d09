"""Rescoring of n-best lists: the same as scoring each hypothesis by hand and sorting."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from asr.decoding.added import LanguageModels
from asr.decoding.arpa import write_arpa
from asr.decoding.beam import SearchConfig
from asr.decoding.nbest import Hypothesis
from asr.decoding.neural_lm import lm_scores
from asr.decoding.ngram import NgramModel
from asr.decoding.rescoring import Rescorer
from asr.errors import UserError
from asr.models.lm import LanguageModel, LanguageModelConfig
from asr.training.ngram import estimate
from tests.toy import TEXTS, babble, toy_recognizer, toy_tokenizer

END = toy_tokenizer(endpoint=True).endpoint_id


def neural(endpoint: bool = False) -> LanguageModel:
    torch.manual_seed(5)
    model = LanguageModel(toy_tokenizer(endpoint).vocab_size, LanguageModelConfig(8, 12, 2, 0.1, True))
    torch.nn.init.normal_(model.bias)
    return model.eval()


def ngram(endpoint: bool = False) -> NgramModel:
    tokenizer = toy_tokenizer(endpoint)
    made = estimate([tokenizer.encode(text) for text in TEXTS * 2], 3, tokenizer.vocab_size, tokenizer.endpoint_id)
    return NgramModel.from_grams(made.grams, tokenizer)


def log_prob(lm: LanguageModel | NgramModel, tokens: list[int]) -> float:
    """ln P of tokens and end, one token after the other."""
    if isinstance(lm, NgramModel):
        return lm.score(tokens)
    state, before, total = lm.initial_state(1), 0, 0.0
    with torch.no_grad():
        for token in [*tokens, 0]:
            rows, state = lm.step(torch.tensor([before]), state)
            total, before = total + float(rows[0, token]), token
    return total


def lists(count: int = 40) -> list[Hypothesis]:
    generator = torch.Generator().manual_seed(2)
    size = toy_tokenizer().vocab_size
    found = []
    for i in range(count):
        tokens = torch.randint(1, size, (int(torch.randint(0, 7, (), generator=generator)),), generator=generator).tolist()
        found.append(Hypothesis(tokens, list(range(len(tokens))), [-0.5] * len(tokens), -0.3 * i))
    return found


@pytest.mark.parametrize("make", [neural, ngram])
@pytest.mark.parametrize("scale, bonus", [(0.3, 0.0), (1.0, 2.0), (-0.2, 0.5)])
def test_equals_brute_force(make, scale, bonus):
    lm, nbest = make(), lists()
    expected = [h.score + scale * log_prob(lm, h.tokens) + bonus * len(h.tokens) for h in nbest]
    found = Rescorer(lm, scale, bonus)(nbest)
    order = sorted(range(len(nbest)), key=lambda i: -expected[i])
    assert [h.frames for h in found] == [nbest[i].frames for i in order]
    assert [h.tokens for h in found] == [nbest[i].tokens for i in order]
    assert [h.score for h in found] == pytest.approx([expected[i] for i in order], abs=1e-3)
    assert order != sorted(order)  # the language model did say something
    assert all(h.log_probs == [-0.5] * len(h.tokens) for h in found)  # the acoustic model's own are kept


def test_the_best_of_all_short_sequences():
    """The first of a list that holds every sequence of up to two tokens is the largest sum over them."""
    lm, size = ngram(), toy_tokenizer().vocab_size
    generator = torch.Generator().manual_seed(0)
    sequences = [list(s) for n in (0, 1, 2) for s in itertools.product(range(1, size), repeat=n)]
    scores = (4 * torch.randn(len(sequences), generator=generator)).tolist()
    nbest = [Hypothesis(s, [0] * len(s), [0.0] * len(s), value) for s, value in zip(sequences, scores, strict=True)]
    totals = [value + 0.7 * lm.score(s) for s, value in zip(sequences, scores, strict=True)]
    best = Rescorer(lm, 0.7)(nbest)[0]
    assert best.tokens == sequences[max(range(len(totals)), key=totals.__getitem__)]
    assert best.score == pytest.approx(max(totals), abs=1e-4)


@pytest.mark.parametrize("make", [neural, ngram])
def test_endpoint_tokens_are_no_words(make):
    lm = make(endpoint=True)
    with_end = [Hypothesis([1, 2, END], [0, 1, 2], [0.0] * 3, -1.0), Hypothesis([3, END], [0, 1], [0.0] * 2, -1.0)]
    found = Rescorer(lm, 0.5, 1.0, END)(with_end)
    expected = {(1, 2, END): -1.0 + 0.5 * log_prob(lm, [1, 2]) + 2.0, (3, END): -1.0 + 0.5 * log_prob(lm, [3]) + 1.0}
    assert {tuple(h.tokens): h.score for h in found} == pytest.approx(expected, abs=1e-4)


def test_nothing_to_do():
    rescorer = Rescorer(neural(), 0.0)
    nbest = lists()
    assert rescorer(nbest) == nbest
    assert rescorer([]) == []


def test_equal_scores_keep_their_order():
    nbest = [Hypothesis([4], [frame], [0.0], -1.0) for frame in (3, 1, 2)]
    assert [h.frames for h in Rescorer(neural(), 0.4)(nbest)] == [[3], [1], [2]]


def test_after_a_search_it_is_fusion_at_the_end():
    """The list of a real search: no score gets lost, and two calls agree to the last bit."""
    lm = neural()
    (nbest,) = toy_recognizer(search=SearchConfig("modified_beam", beam=6)).nbest([babble(4.0)])
    assert len(nbest) == 6
    rescorer = Rescorer(lm, 0.5)
    found = rescorer(nbest)
    assert rescorer(nbest) == found
    added = dict(zip([tuple(h.tokens) for h in nbest], lm_scores(lm, [h.tokens for h in nbest]), strict=True))
    before = {tuple(h.tokens): h.score for h in nbest}
    assert {tuple(h.tokens): h.score for h in found} == pytest.approx(
        {tokens: before[tokens] + 0.5 * value for tokens, value in added.items()}, abs=1e-4
    )
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_from_files(tmp_path: Path):
    tokenizer, lm = toy_tokenizer(), ngram()
    lm.save(tmp_path / "lm.npz")
    models = LanguageModels(rescore=tmp_path / "lm.npz", rescore_scale=0.4)
    rescorer = models.rescorer(tokenizer)
    assert rescorer is not None and models.fusion(tokenizer) is None
    assert rescorer(lists()) == Rescorer(lm, 0.4)(lists())
    made = estimate([tokenizer.encode(text) for text in TEXTS * 2], 3, tokenizer.vocab_size)
    write_arpa(tmp_path / "lm.arpa", made.grams, tokenizer)
    assert [h.tokens for h in Rescorer.load(tmp_path / "lm.arpa", 0.4, tokenizer)(lists())] == [h.tokens for h in rescorer(lists())]
    assert LanguageModels().rescorer(tokenizer) is None
    assert LanguageModels(rescore="not there", rescore_scale=0.0).rescorer(tokenizer) is None
    with pytest.raises(UserError, match="cannot read"):
        LanguageModels(rescore=tmp_path / "none.npz").rescorer(tokenizer)
    with pytest.raises(UserError, match="other tokens"):
        Rescorer.load(tmp_path / "lm.npz", 0.4, toy_tokenizer(endpoint=True))
    with pytest.raises(UserError, match="rescore_scale"):
        LanguageModels(rescore_scale=float("nan"))
