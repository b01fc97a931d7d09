"""Confusion networks of n-best lists made by hand and at random."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding import confusion
from asr.decoding.confusion import EPSILON, ConfusionNetwork, hypothesis_words
from asr.decoding.words import WordBuilder, seconds
from tests.toy import toy_tokenizer

TOKENIZER = toy_tokenizer()
ENDING = toy_tokenizer(endpoint=True)


@dataclass(frozen=True)
class Hyp:
    tokens: list[int]
    frames: list[int]
    log_probs: list[float]
    score: float


def hyp(words, score=0.0, spacing=2):
    """``words``: [(word, frame of its first token)]; its tokens follow at every second frame."""
    tokens, frames = [], []
    for word, frame in words:
        pieces = TOKENIZER.encode(word)
        tokens += pieces
        frames += [frame + spacing * k for k in range(len(pieces))]
    return Hyp(tokens, frames, [-0.1] * len(tokens), score)


def at(text, *frames, score=0.0):
    return hyp(list(zip(text.split(), frames, strict=True)), score)


def tops(network):
    return [[(e.word, round(e.posterior, 3)) for e in slot.entries] for slot in network.slots]


def half(*numbers):
    return [float(np.log(n)) for n in numbers]


@st.composite
def nbest_lists(draw, tokenizer=TOKENIZER):
    """Hypotheses as a search gives them: variations of one another, frames in order, scores falling."""
    count = draw(st.integers(1, 6))
    score, found = 0.0, []
    for _ in range(count):
        tokens = draw(st.lists(st.integers(1, tokenizer.vocab_size - 1), max_size=10))
        steps = draw(st.lists(st.integers(1, 9), min_size=len(tokens), max_size=len(tokens)))
        found.append(Hyp(tokens, np.cumsum(steps).tolist(), [-0.5] * len(tokens), score))
        score -= draw(st.floats(0, 3))
    return found


@given(nbest_lists(ENDING), st.floats(0.2, 5))
@settings(max_examples=150)
def test_every_hypothesis_passes_every_slot_once(nbest, temperature):
    network = ConfusionNetwork.of(nbest, ENDING, temperature)
    weights = np.exp(np.array([h.score for h in nbest]) / temperature)
    assert network.posteriors == pytest.approx(weights / weights.sum())
    for rank, hypothesis in enumerate(nbest):
        words = [w.word for w in hypothesis_words(hypothesis, ENDING)]
        assert [word for word in network.paths[rank] if word != EPSILON] == words
        assert len(network.slots_of(rank)) == len(words)
    for k, slot in enumerate(network.slots):
        assert sum(e.posterior for e in slot.entries) == pytest.approx(1.0, abs=1e-9)
        assert any(e.word != EPSILON for e in slot.entries)
        assert 0 <= slot.entropy <= np.log(len(slot.entries)) + 1e-9
        posteriors = [e.posterior for e in slot.entries]
        assert posteriors == sorted(posteriors, reverse=True) or np.allclose(posteriors, sorted(posteriors)[::-1])
        for entry in slot.entries:
            share = sum(network.posteriors[r] for r in range(len(nbest)) if network.paths[r][k] == entry.word)
            assert entry.posterior == pytest.approx(share) == pytest.approx(slot.posterior(entry.word))
    assert ConfusionNetwork.of(list(nbest), ENDING, temperature) == network


@given(nbest_lists())
@settings(max_examples=100)
def test_the_best_path_is_the_first_hypothesis_if_that_has_more_than_half(nbest):
    lead = max(0.0, nbest[0].score - max([h.score for h in nbest[1:]], default=-9.0))
    boosted = [Hyp(h.tokens, h.frames, h.log_probs, h.score + (3.0 - lead if i == 0 else 0)) for i, h in enumerate(nbest)]
    network = ConfusionNetwork.of(boosted, TOKENIZER)
    assert network.posteriors[0] > 0.5
    words = hypothesis_words(nbest[0], TOKENIZER)
    assert [(e.word, e.start, e.end) for e in network.best()] == [(w.word, w.start, w.end) for w in words]


@given(nbest_lists())
@settings(max_examples=50)
def test_words_are_those_of_the_recogniser(nbest):
    for hypothesis in nbest:
        builder = WordBuilder(TOKENIZER)
        for symbol in zip(hypothesis.tokens, hypothesis.frames, hypothesis.log_probs, strict=True):
            builder.add(*symbol)
        expected = [(w.word, w.start, w.end) for w in builder.words()]
        found = hypothesis_words(hypothesis, TOKENIZER)
        assert [(w.word, seconds(w.start), seconds(w.end)) for w in found] == expected
        for word in found:
            assert TOKENIZER.decode(hypothesis.tokens[word.first : word.last]) == word.word


@given(nbest_lists())
@settings(max_examples=100)
def test_shared_ends_are_aligned_as_they_would_be_at_length(nbest):
    first = nbest[0]
    for cut in range(1, len(first.tokens)):  # hypotheses that share the beginning, the end, or both with the best
        nbest.append(Hyp(first.tokens[:cut], first.frames[:cut], first.log_probs[:cut], -1.0 - cut))
        nbest.append(Hyp(first.tokens[cut:], first.frames[cut:], first.log_probs[cut:], -1.0 - cut))
    found = ConfusionNetwork.of(nbest, TOKENIZER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confusion, "_shared", lambda best, words: (0, 0))
        assert ConfusionNetwork.of(nbest, TOKENIZER) == found


def test_the_endpoint_token_ends_a_word_and_is_none():
    pieces = ENDING.encode("nine cut")
    tokens = [*pieces, ENDING.endpoint_id, ENDING.endpoint_id]
    tokens.insert(len(ENDING.encode("nine")), ENDING.endpoint_id)
    found = hypothesis_words(Hyp(tokens, list(range(len(tokens))), [0.0] * len(tokens), 0.0), ENDING)
    assert [w.word for w in found] == ["nine", "cut"]


def test_substitution_insertion_and_deletion():
    scores = half(5, 2, 2, 1)
    network = ConfusionNetwork.of(
        [
            at("one five nine", 10, 30, 50, score=scores[0]),
            at("one nine nine", 10, 31, 50, score=scores[1]),
            at("one nine", 11, 50, score=scores[2]),
            at("one five six nine", 10, 30, 40, 51, score=scores[3]),
        ],
        TOKENIZER,
    )
    assert tops(network) == [
        [("one", 1.0)],
        [("five", 0.6), ("nine", 0.2), (EPSILON, 0.2)],
        [(EPSILON, 0.9), ("six", 0.1)],
        [("nine", 1.0)],
    ]
    assert [e.word for e in network.best()] == ["one", "five", "nine"]


@pytest.mark.parametrize(("frame", "slot"), [(10, 0), (12, 0), (29, 1), (31, 1)])
def test_one_of_two_equal_words_is_the_one_said_there(frame, slot):
    network = ConfusionNetwork.of([at("one one", 10, 30, score=0.0), at("one", frame, score=-1.0)], TOKENIZER)
    assert network.slots_of(1) == [slot] and len(network.slots) == 2


def test_time_beats_the_text_where_they_disagree():
    """A plain edit distance would align the two nines and so let a word said at 10 compete with one said at 60."""
    network = ConfusionNetwork.of([at("five nine", 10, 60, score=0.0), at("nine", 10, score=-1.0)], TOKENIZER)
    assert network.paths[1] == ("nine", EPSILON)


@pytest.mark.parametrize("frames", [(10, 90), (90, 10)])
def test_words_far_apart_do_not_compete_and_slots_follow_time(frames):
    network = ConfusionNetwork.of([at("five", frames[0]), at("six", frames[1])], TOKENIZER)
    words = [sorted(e.word for e in slot.entries) for slot in network.slots]
    assert words == [[EPSILON, "five"], [EPSILON, "six"]][:: 1 if frames[0] < frames[1] else -1]
    assert [slot.start for slot in network.slots] == [10, 90]


def test_the_same_extra_word_of_two_hypotheses_shares_a_slot():
    nbest = [at("one nine", 10, 50, score=0.0), at("one six nine", 10, 30, 50), at("one six nine", 10, 33, 50)]
    network = ConfusionNetwork.of(nbest, TOKENIZER)
    assert tops(network)[1] == [("six", 0.667), (EPSILON, 0.333)] and len(network.slots) == 3
    assert [e.word for e in network.best()] == ["one", "six", "nine"]  # no majority for the first hypothesis


def test_the_best_path_may_be_none_of_the_hypotheses():
    nbest = [
        at("one five nine", 10, 30, 50, score=half(4)[0]),
        at("one six two", 10, 30, 50, score=half(3)[0]),
        at("eight six nine", 10, 30, 50, score=half(3)[0]),
    ]
    assert [e.word for e in ConfusionNetwork.of(nbest, TOKENIZER).best()] == ["one", "six", "nine"]


def test_temperature_flattens():
    nbest = [at("one", 10, score=0.0), at("two", 10, score=-2.0)]
    sharp, flat = (ConfusionNetwork.of(nbest, TOKENIZER, t).slots[0].posterior("one") for t in (1.0, 4.0))
    assert sharp == pytest.approx(1 / (1 + np.exp(-2))) and flat == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_ties_keep_the_order_of_the_list():
    nbest = [at(word, 10) for word in ("six", "five", "one")]
    assert [e.word for e in ConfusionNetwork.of(nbest, TOKENIZER).slots[0].entries] == ["six", "five", "one"]


def test_to_dict_is_json_in_seconds():
    found = ConfusionNetwork.of([at("one nine", 10, 50), at("one", 10, score=-1.0)], TOKENIZER).to_dict()
    assert json.loads(json.dumps(found)) == found
    slot = found["slots"][1]
    assert [w["word"] for w in slot["words"]] == ["nine", EPSILON] and slot["start"] == 2.0
    assert slot["words"][0]["start"] == 2.0 and "start" not in slot["words"][1]
    assert sum(w["posterior"] for w in slot["words"]) == pytest.approx(1.0, abs=1e-5)


def test_empty_lists_and_hypotheses():
    assert ConfusionNetwork.of([], TOKENIZER).to_dict() == {"slots": []}
    silent = Hyp([], [], [], 0.0)
    assert ConfusionNetwork.of([silent, silent], TOKENIZER).best() == []
    network = ConfusionNetwork.of([silent, at("one", 5, score=-1.0)], TOKENIZER)
    assert network.best() == [] and network.slots[0].posterior("one") == pytest.approx(1 / (1 + np.e))


def test_hypotheses_without_any_chance_count_nothing():
    network = ConfusionNetwork.of([at("one", 5), at("two", 5, score=-np.inf)], TOKENIZER)
    assert network.slots[0].posterior("two") == 0.0 and network.slots[0].entropy == 0.0


@pytest.mark.parametrize(("scores", "temperature"), [([np.nan], 1), ([np.inf], 1), ([-np.inf], 1), ([0.0], 0), ([0.0], -1)])
def test_what_gives_no_posteriors_is_refused(scores, temperature):
    with pytest.raises(ValueError, match="posteriors"):
        ConfusionNetwork.of([at("one", 5, score=s) for s in scores], TOKENIZER, temperature)
