"""Phrase boosting: the automaton against the definition in its docstring, written down once more with strings."""

from __future__ import annotations

import gzip
import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.biasing import BiasFusion, BiasGraph
from asr.tokens import Tokenizer
from tests.toy import toy_tokenizer

V = 6
STARTS = [False, True, False, True, False, False]  # which of the symbols begin a word (or end a segment)

token_strings = st.lists(st.integers(1, V - 1), min_size=1, max_size=5).map(tuple)
phrase_lists = st.lists(st.tuples(token_strings, st.sampled_from([0.5, 1.0, 1.5, 4.0])), max_size=8)
spoken = st.lists(st.integers(1, V - 1), max_size=14).map(tuple)


def graph_of(phrases, starts=None, size=V, advance_from=1):
    return BiasGraph([p for p, _ in phrases], [b for _, b in phrases], size, starts, advance_from)


def best(phrases):
    found = {}
    for phrase, boost in phrases:
        found[phrase] = max(boost, found.get(phrase, 0.0))
    return found


def counted(string, following, phrases, starts):
    """(begin, end, boost) of all phrases in the string that count, given the symbol behind it (None: the end)."""
    for end in range(1, len(string) + 1):
        after = string[end] if end < len(string) else following
        if starts is None or after is None or starts[after]:
            for begin in range(end):
                if string[begin:end] in phrases:
                    yield begin, end, phrases[string[begin:end]]


def cover(string, following, phrases, starts):
    """Every token earns the largest boost of the phrases it lies in."""
    best_of = [0.0] * len(string)
    for begin, end, boost in counted(string, following, phrases, starts):
        best_of[begin:end] = [max(boost, value) for value in best_of[begin:end]]
    return sum(best_of)


def reference(string, phrases, starts=None):
    """The definition of asr/decoding/bias_graph.py, by brute force."""
    prefixes = {phrase[:i] for phrase in phrases for i in range(len(phrase) + 1)}
    total = 0.0
    for at in range(1, len(string) + 1):
        window = next(string[i:at] for i in range(at + 1) if string[i:at] in prefixes or i == at)
        if window:
            after = string[at] if at < len(string) else None
            total += cover(window, after, phrases, starts) - cover(window[:-1], window[-1], phrases, starts)
    return total


def walk(fusion, string, state=None):
    """The scores of the symbols of one string, its final score, and the state it ends in."""
    state = fusion.initial_state(1) if state is None else state
    scores = []
    for token in string:
        scores.append(float(fusion.scores(state)[0, token]))
        state = fusion.step(torch.tensor([token]), state)
    return scores, float(fusion.final(state)[0]), state


def earned(fusion, string):
    scores, final, _ = walk(fusion, string)
    return sum(scores) + final


@settings(max_examples=200, deadline=None)
@given(phrase_lists, spoken, st.booleans(), st.integers(1, 4), st.sampled_from([-1, 20]))
def test_a_string_earns_what_the_definition_says(phrases, string, whole, advance_from, few_rows):
    starts = STARTS if whole else None
    fusion = BiasFusion(V, graph_of(phrases, starts, advance_from=advance_from))
    fusion.few_rows = few_rows  # -1: always with tensor operations
    assert earned(fusion, string) == pytest.approx(reference(string, best(phrases), starts), abs=1e-4)


def test_tangled_phrases_earn_what_the_definition_says():
    """Few symbols, many phrases: long chains of fail links and of phrases inside phrases."""
    rng = random.Random(1)
    for _ in range(150):
        phrases = {
            tuple(rng.randint(1, 2) for _ in range(rng.randint(1, 6))): rng.choice([0.5, 1.0, 2.0, 5.0])
            for _ in range(rng.randint(2, 9))
        }
        starts = rng.choice([None, STARTS])
        fusion = BiasFusion(V, graph_of(list(phrases.items()), starts))
        string = tuple(rng.choice([1, 1, 1, 2, 2, 2, 3]) for _ in range(16))
        assert earned(fusion, string) == pytest.approx(reference(string, phrases, starts), abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(phrase_lists, spoken, st.booleans())
def test_what_is_earned_lies_between_once_a_token_and_once_a_phrase(phrases, string, whole):
    starts, phrases = STARTS if whole else None, best(phrases)
    found = earned(BiasFusion(V, graph_of(list(phrases.items()), starts)), string)
    occurrences = list(counted(string, None, phrases, starts))
    assert found >= cover(string, None, phrases, starts) - 1e-4
    assert found <= sum((end - begin) * boost for begin, end, boost in occurrences) + 1e-4
    crossing = any(a < c < b < d for a, b, _ in occurrences for c, d, _ in occurrences)
    if not crossing:
        assert found == pytest.approx(cover(string, None, phrases, starts), abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(phrase_lists, min_size=1, max_size=4), st.lists(spoken, min_size=1, max_size=6), st.data())
def test_a_batch_of_slots_gives_what_each_gives_alone(lists, strings, data):
    together = BiasFusion(V, scale=0.5)
    together.few_rows = -1
    graphs = [graph_of(p, STARTS if data.draw(st.booleans()) else None) for p in lists]
    slots = [together.add(graph) for graph in graphs]
    chosen = [data.draw(st.integers(-1, len(graphs) - 1)) for _ in strings]
    state = together.initial_state(len(strings))
    for row, which in enumerate(chosen):
        state = together.set_slot(state, torch.tensor([row]), -1 if which < 0 else slots[which])
    alone = [BiasFusion(V, graphs[which] if which >= 0 else None) for which in chosen]
    states = [fusion.initial_state(1) for fusion in alone]
    for at in range(max(map(len, strings))):
        rows = together.scores(state)
        assert rows.shape == (len(strings), V) and rows.dtype == torch.float32
        expected = torch.cat([fusion.scores(own) for fusion, own in zip(alone, states)])
        assert torch.allclose(rows, 0.5 * expected, atol=1e-6)
        assert not rows[:, 0].any()
        tokens = torch.tensor([string[at % len(string)] if string else 1 for string in strings])
        state = together.step(tokens, state)
        states = [fusion.step(t[None], own) for fusion, t, own in zip(alone, tokens, states)]
        finals = torch.cat([fusion.final(own) for fusion, own in zip(alone, states)])
        assert torch.allclose(together.final(state), 0.5 * finals, atol=1e-6)


def test_every_token_of_a_match_is_boosted_and_a_break_takes_it_back():
    fusion = BiasFusion(V, graph_of([((1, 2, 3, 4), 1.5)]))
    assert walk(fusion, (1, 2, 3, 4, 5, 5))[:2] == ([1.5, 1.5, 1.5, 1.5, 0.0, 0.0], 0.0)  # completed: kept
    assert walk(fusion, (1, 2, 3, 5, 5))[:2] == ([1.5, 1.5, 1.5, -4.5, 0.0], 0.0)
    assert walk(fusion, (1, 2, 3))[:2] == ([1.5, 1.5, 1.5], -4.5)
    assert walk(fusion, (1, 1, 2))[:2] == ([1.5, 0.0, 1.5], -3.0)  # breaks off and begins again
    assert walk(fusion, (1, 2, 3, 4, 1, 2, 3, 4))[0] == [1.5] * 8


def test_the_advance_may_wait_for_further_tokens():
    fusion = BiasFusion(V, graph_of([((1, 2, 3, 4), 1.5), ((5,), 2.0)], advance_from=2))
    assert walk(fusion, (1, 2, 3, 4, 5))[:2] == ([0.0, 3.0, 1.5, 1.5, 2.0], 0.0)
    assert walk(fusion, (1, 3, 1, 2))[:2] == ([0.0, 0.0, 0.0, 3.0], -3.0)
    fusion = BiasFusion(V, graph_of([((1, 2, 3), 1.5)], advance_from=9))
    assert walk(fusion, (1, 2, 3, 4))[:2] == ([0.0, 0.0, 4.5, 0.0], 0.0)


def test_fail_links_keep_what_is_still_matched():
    fusion = BiasFusion(V, graph_of([((1, 2, 3, 4), 1.0), ((2, 3, 5), 1.0), ((3, 5, 5), 1.0), ((5, 4), 1.0)]))
    assert walk(fusion, (1, 2, 3, 5))[:2] == ([1.0, 1.0, 1.0, 0.0], 0.0)  # 3 tokens of the second phrase
    assert earned(fusion, (1, 2, 3, 5)) == 3.0
    assert earned(fusion, (1, 2, 3, 5, 5, 4)) == 8.0  # three phrases that overlap in part
    assert earned(fusion, (1, 2, 5, 4)) == 2.0  # two links to the root, one transition from it


def test_phrases_that_end_inside_a_match_are_found_through_several_links():
    other = [((1, 2, 3, 4, 5, 1), 0.5), ((2, 3, 4, 4), 0.5), ((3, 4), 1.0), ((4,), 4.0)]
    assert earned(BiasFusion(V, graph_of(other)), (1, 2, 3, 4, 2)) == 5.0  # not only the longest of the two
    skipped = [((1, 2, 3, 4), 0.5), ((2, 3, 5), 0.5), ((3, 4, 4), 1.0)]
    assert earned(BiasFusion(V, graph_of(skipped)), (5, 1, 2, 3, 4, 4)) == 5.0  # 2 3 has no 4, 3 has


def test_a_phrase_inside_another_is_not_paid_twice():
    city = [((1, 2, 3), 1.5), ((1, 2), 1.5), ((2,), 1.5)]  # new york city, new york, york
    assert earned(BiasFusion(V, graph_of(city)), (1, 2, 3)) == 4.5
    assert earned(BiasFusion(V, graph_of(city)), (1, 2, 5)) == 3.0
    assert earned(BiasFusion(V, graph_of(city)), (5, 2, 5)) == 1.5
    assert walk(BiasFusion(V, graph_of(city)), (1, 2, 5))[0] == [1.5, 1.5, 0.0]
    better = [((1, 2, 3), 1.0), ((2,), 4.0)]
    assert walk(BiasFusion(V, graph_of(better)), (1, 2, 3))[0] == [1.0, 4.0, 1.0]
    assert walk(BiasFusion(V, graph_of(better)), (1, 2, 5))[0] == [1.0, 4.0, -1.0]


def test_the_largest_boost_of_a_phrase_given_twice_counts():
    fusion = BiasFusion(V, graph_of([((1, 2), 1.0), ((1, 2), 3.0), ((1, 2), 2.0)]))
    assert earned(fusion, (1, 2)) == 6.0


def test_a_word_end_is_what_the_next_symbol_says():
    fusion = BiasFusion(V, graph_of([((1, 2), 1.0)], STARTS))
    assert walk(fusion, (1, 2, 3))[:2] == ([1.0, 1.0, 0.0], 0.0)
    assert walk(fusion, (1, 2, 4, 3))[:2] == ([1.0, 1.0, -2.0, 0.0], 0.0)
    assert walk(fusion, (1, 2))[:2] == ([1.0, 1.0], 0.0)  # the end of a segment ends a word
    assert walk(fusion, (1,))[:2] == ([1.0], -1.0)
    longer = BiasFusion(V, graph_of([((1, 2), 1.0), ((1, 2, 4, 5), 1.0)], STARTS))
    assert earned(longer, (1, 2, 4, 5, 1)) == 4.0
    assert earned(longer, (1, 2, 4, 2, 1)) == 0.0


WORDS = ["the cat sat", "a category of cats", "concatenate", "the cat cat cat", "st john's wood", "the cat's"]


@pytest.fixture(scope="module")
def cats():
    return Tokenizer.train(WORDS, 26, "bpe", endpoint=True)


def test_cat_is_not_kept_inside_category(cats):
    whole = BiasFusion(cats.vocab_size, BiasGraph.build(["cat"], cats))
    part = BiasFusion(cats.vocab_size, BiasGraph.build(["cat"], cats, whole_words=False))
    ids = cats.encode("cat")
    for text, inside in [("the cat sat", False), ("cat", False), ("category", True), ("cats", True), ("the cat's", False)]:
        string = cats.encode(text)
        assert any(string[i : i + len(ids)] == ids for i in range(len(string)))  # spelled alike: the case that matters
        assert earned(part, string) == pytest.approx(1.5 * len(ids))
        assert earned(whole, string) == pytest.approx(0.0 if inside else 1.5 * len(ids)), text
    assert earned(whole, [*ids, cats.endpoint_id]) == pytest.approx(1.5 * len(ids))
    assert earned(part, cats.encode("concat")) == 0.0  # a phrase begins where a word does


def test_scores_of_the_real_thing_are_dense_rows(cats):
    fusion = BiasFusion(cats.vocab_size, BiasGraph.build({"cat": 2.0, "the cat sat": None}, cats))
    rows = fusion.scores(fusion.initial_state(3))
    first = {cats.encode("cat")[0]: 2.0, cats.encode("the")[0]: 1.5}
    expected = torch.tensor([first.get(i, 0.0) for i in range(cats.vocab_size)])
    assert torch.equal(rows, expected.expand(3, -1))


def test_what_cannot_be_spelled_is_reported_and_the_rest_works(cats):
    graph = BiasGraph.build(["The CAT", "route 66", "St. John’s Wood!", "zebra", "..."], cats)
    assert set(graph.refused) == {"route 66", "zebra", "..."}
    assert "66" in graph.refused["route 66"] and "spell" in graph.refused["route 66"]
    assert "no words" in graph.refused["..."]
    assert graph.warning is not None and graph.warning.startswith("3 phrases cannot be boosted: ")
    assert all(word in graph.warning for word in ("route 66", "zebra", "'...'"))  # all of them, as long as they are few
    many = BiasGraph.build([f"route {i}" for i in range(25)], cats).warning
    assert many is not None and many.startswith("25 phrases") and many.endswith("; and 15 more") and "route 9'" in many
    fusion = BiasFusion(cats.vocab_size, graph)
    for text in ("the cat", "st john's wood"):
        ids = cats.encode(text)
        assert earned(fusion, ids) == pytest.approx(1.5 * len(ids))
    assert BiasGraph.build(["the cat"], cats).warning is None


def test_no_phrases_add_nothing(cats):
    size = cats.vocab_size
    for graph in (None, BiasGraph.build([], cats), BiasGraph.build(["zebra"], cats)):
        fusion = BiasFusion(size, graph)
        state = fusion.initial_state(2)
        for _ in range(3):
            assert torch.equal(fusion.scores(state), torch.zeros(2, size))
            state = fusion.step(torch.tensor([1, 5]), state)
            assert torch.equal(fusion.final(state), torch.zeros(2))


def test_no_hypotheses(cats):
    fusion = BiasFusion(cats.vocab_size, BiasGraph.build(["cat"], cats))
    state = fusion.initial_state(0)
    assert fusion.scores(state).shape == (0, cats.vocab_size)
    assert [t.shape for t in fusion.step(torch.zeros(0, dtype=torch.int64), state)] == [(0,), (0,)]
    assert fusion.final(state).shape == (0,)


@pytest.mark.parametrize("few_rows", [-1, 20])
def test_lists_come_and_go_while_others_are_followed(few_rows):
    fusion = BiasFusion(V)
    fusion.few_rows = few_rows
    first, second = graph_of([((1, 2, 3), 1.0)]), graph_of([((1, 4, 5), 2.0)])
    a, b = fusion.add(first), fusion.add(second)
    state = fusion.initial_state(3)
    assert state[0].tolist() == [-1, -1, -1]
    before = [t.clone() for t in state]
    state = fusion.set_slot(fusion.set_slot(state, torch.tensor([0]), a), torch.tensor([1]), b)
    assert torch.equal(before[0], torch.full((3,), -1)) and state[0].tolist() == [a, b, -1]
    state = fusion.step(torch.tensor([1, 1, 1]), state)
    assert fusion.final(state).tolist() == [-1.0, -2.0, 0.0]
    fusion.remove(a)  # the row that follows it goes on without phrases, the others do not notice
    assert fusion.final(state).tolist() == [0.0, -2.0, 0.0]
    assert fusion.scores(state)[:, 4].tolist() == [0.0, 2.0, 0.0]
    c = fusion.add(first)
    assert c not in (a, b)  # so that a state of the removed slot cannot come to follow another list
    assert fusion.final(state).tolist() == [0.0, -2.0, 0.0]
    state = fusion.set_slot(fusion.step(torch.tensor([2, 4, 2]), state), torch.tensor([0, 2]), c)
    state = fusion.step(torch.tensor([1, 5, 1]), state)
    assert fusion.final(state).tolist() == [-1.0, 0.0, -1.0]
    by_stream = fusion.set_slot([t[:, None].repeat(1, 2) for t in state], torch.tensor([1]), -1)  # (B, K) states, too
    assert by_stream[0].tolist() == [[c, c], [-1, -1], [c, c]] and by_stream[1][1].tolist() == [0, 0]
    picked = [t.index_select(0, torch.tensor([2, 2, 1])) for t in state]
    assert fusion.scores(picked)[:, 2].tolist() == [1.0, 1.0, 0.0]
    for slot in (b, c):
        fusion.remove(slot)
    assert fusion.arena[3].size(0) == 1  # nothing is kept of what was removed
    with pytest.raises(ValueError, match="no slot"):
        fusion.remove(b)
    with pytest.raises(ValueError, match="no slot"):
        fusion.set_slot(state, torch.tensor([0]), b)


@pytest.mark.parametrize("few_rows", [-1, 20])
def test_a_match_in_a_removed_list_is_not_taken_for_one_in_another(few_rows):
    fusion = BiasFusion(V, graph_of([((1, 2, 3, 4, 5), 1.0)]))
    fusion.few_rows = few_rows
    fusion.add(graph_of([((2, 3, 4, 5), 1.0)]))
    _, final, state = walk(fusion, (1, 2, 3, 4))
    assert final == -4.0
    fusion.remove(0)
    assert not fusion.final(state).any() and not fusion.scores(state).any()
    assert fusion.step(torch.tensor([5]), state)[1].tolist() == [0]


def test_the_constructors_graph_is_what_new_states_follow_until_it_is_removed():
    fusion = BiasFusion(V, graph_of([((1, 2), 1.0)]))
    assert fusion.initial_state(2)[0].tolist() == [fusion.slot] * 2 and fusion.slot >= 0
    fusion.remove(fusion.slot)
    assert fusion.initial_state(1)[0].tolist() == [-1]


def test_a_graph_shared_by_sessions_is_stored_once():
    fusion, graph = BiasFusion(V), graph_of([((1, 2), 1.0)])
    slots = [fusion.add(graph) for _ in range(50)]
    assert fusion.arena[3].size(0) == 1 + graph.size
    fusion.remove(slots[0])
    assert fusion.arena[3].size(0) == 1 + graph.size
    state = fusion.set_slot(fusion.initial_state(1), torch.tensor([0]), slots[30])
    assert float(fusion.scores(state)[0, 1]) == 1.0
    for slot in slots[1:-1]:
        fusion.remove(slot)
    assert fusion.arena[0].size(0) == 2  # the table of slots begins with the oldest one that is held


def test_what_is_removed_goes_when_it_is_the_larger_part():
    """A stream that ends must not cost the others: nothing is copied until half of the arena is of no use."""
    fusion = BiasFusion(V)
    slots = [fusion.add(graph_of([((1, 2, 3), 1.0)])) for _ in range(40)]
    keys = fusion.arena[3]
    for slot in slots[:20]:
        fusion.remove(slot)
        assert fusion.arena[3] is keys or fusion.arena[3].equal(keys)
    fusion.remove(slots[20])
    assert fusion.arena[3].size(0) == 1 + 19 * 4
    state = fusion.set_slot(fusion.initial_state(2), torch.tensor([0]), slots[21])
    state = fusion.set_slot(state, torch.tensor([1]), slots[39])
    assert fusion.scores(state)[:, 1].tolist() == [1.0, 1.0]
    assert fusion.final(fusion.step(torch.tensor([1, 1]), state)).tolist() == [-1.0, -1.0]


def test_lists_that_come_are_not_seen_by_those_who_read():
    """Room is left behind the arena and filled in place; an arena that a search has in hand stays as it is."""
    fusion = BiasFusion(V)
    rng, places, seen = random.Random(5), set(), []
    for count in range(60):
        with torch.inference_mode(count % 3 == 0):
            fusion.add(graph_of([((rng.randint(1, 2), rng.randint(1, 4), 5), float(count + 1))]))
        seen.append((fusion.arena, [tensor.clone() for tensor in fusion.arena]))
        places.add(fusion.arena[3].data_ptr())
        state = fusion.set_slot(fusion.initial_state(1), torch.tensor([0]), count)
        assert float(fusion.scores(state).max()) == count + 1.0
    assert len(places) < 12
    for arena, copies in seen:
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(arena, copies, strict=True))


def test_a_long_row_of_lists_costs_nothing():
    """A server gives a list to every session for weeks, beside one that is always held."""
    fusion = BiasFusion(V, graph_of([((1, 2), 1.0)]))
    graph = graph_of([((1, 3), 2.0)])
    for _ in range(3000):
        slot = fusion.add(graph)
        fusion.remove(slot)
    assert slot == 3000 and fusion.arena[0].size(0) == 2
    assert fusion.arena[3].size(0) <= 1 + 3 + 3
    old = fusion.set_slot(fusion.initial_state(1), torch.tensor([0]), fusion.add(graph))
    assert float(fusion.scores(old)[0, 1]) == 2.0


def test_the_garbage_collector_may_remove_a_list_in_the_midst_of_a_change(monkeypatch):
    fusion = BiasFusion(V)
    gone, kept = fusion.add(graph_of([((1, 2), 1.0)])), fusion.add(graph_of([((1, 4), 2.0)]))
    place, left = BiasFusion._place, [gone]

    def interrupted(self, columns, graphs):
        found = place(self, columns, graphs)
        if left:
            self.remove(left.pop())
        return found

    monkeypatch.setattr(BiasFusion, "_place", interrupted)
    new = fusion.add(graph_of([((1, 5), 3.0)]))
    state = fusion.initial_state(3)
    for row, slot in enumerate((kept, new)):
        state = fusion.set_slot(state, torch.tensor([row]), slot)
    state = [torch.tensor([kept, new, gone]), state[1]]
    assert fusion.scores(state)[:, 1].tolist() == [2.0, 3.0, 0.0]
    assert fusion.arena[1].tolist() == [-1, kept, new]


def follow(fusion, string, state, total=0.0):
    scores, final, state = walk(fusion, string, state)
    return total + sum(scores), final, state


@settings(max_examples=150, deadline=None)
@given(phrase_lists, spoken, spoken, st.booleans(), st.sampled_from([-1, 20]))
def test_the_same_list_again_changes_nothing(phrases, begin, end, whole, few_rows):
    graph, again = (graph_of(phrases, STARTS if whole else None) for _ in range(2))
    fusion = BiasFusion(V, graph, scale=0.5)
    fusion.few_rows = few_rows
    total, _, state = follow(fusion, begin, fusion.initial_state(1))
    moved, change = fusion.move(state, fusion.add(again))
    assert float(change[0]) == pytest.approx(0.0, abs=1e-5)
    fusion.remove(fusion.slot)
    total, final, _ = follow(fusion, end, moved, total + float(change[0]))
    assert total + final == pytest.approx(earned(BiasFusion(V, graph, scale=0.5), begin + end), abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(phrase_lists, spoken, st.booleans())
def test_no_list_any_more_is_as_if_the_segment_had_ended(phrases, string, whole):
    fusion = BiasFusion(V, graph_of(phrases, STARTS if whole else None))
    _, final, state = follow(fusion, string, fusion.initial_state(1))
    moved, change = fusion.move(state, -1)
    assert float(change[0]) == pytest.approx(final, abs=1e-5)
    assert not fusion.scores(moved).any() and not fusion.final(moved).any()


@settings(max_examples=100, deadline=None)
@given(phrase_lists, phrase_lists, spoken, spoken)
def test_what_a_new_list_gives_in_advance_it_takes_back(first, second, begin, end):
    """After the change nothing remains of unfinished matches, whatever is said next."""
    fusion = BiasFusion(V, graph_of(first))
    total, final, state = follow(fusion, begin, fusion.initial_state(1))
    moved, change = fusion.move(state, fusion.add(graph_of(second)))
    after, last, _ = follow(fusion, end, moved)
    found = total + float(change[0]) + after + last
    assert found >= total + final - 1e-4  # what was complete is kept
    alone = earned(BiasFusion(V, graph_of(second)), begin + end)
    assert found <= total + final + alone + 1e-4  # nothing but phrases of the new list


def test_a_phrase_that_is_being_said_goes_on_in_another_list():
    fusion = BiasFusion(V, graph_of([((1, 2, 3, 4), 1.0), ((5, 5), 9.0)]))
    _, _, state = follow(fusion, (5, 1, 2), fusion.initial_state(1))
    wider = fusion.add(graph_of([((1, 2, 3, 4), 1.0), ((2, 4), 1.0)]))
    moved, change = fusion.move(state, wider)
    assert float(change[0]) == 0.0 and walk(fusion, (3, 4), moved)[:2] == ([1.0, 1.0], 0.0)
    other, change = fusion.move(state, fusion.add(graph_of([((2, 4), 1.5)])))  # the rest of what is matched
    assert float(change[0]) == -2.0 + 1.5 and walk(fusion, (4,), other)[:2] == ([1.5], 0.0)
    none, change = fusion.move(fusion.initial_state(0), wider)
    assert change.shape == (0,) and [t.shape for t in none] == [(0,), (0,)]


def test_wrong_graphs_are_refused(cats):
    with pytest.raises(ValueError, match="symbols"):
        BiasFusion(V + 1, graph_of([((1,), 1.0)]))
    for sequences, boosts in [([()], [1.0]), ([(0,)], [1.0]), ([(V,)], [1.0]), ([(1,)], [0.0]), ([(1,)], [])]:
        with pytest.raises(ValueError):
            BiasGraph(sequences, boosts, V)
    fusion = BiasFusion(V, graph_of([((1,), 1.0)], STARTS))
    with pytest.raises(ValueError, match="start with other symbols"):
        fusion.add(graph_of([((1,), 1.0)], [not s for s in STARTS]))


def test_scores_stay_float32_in_a_model_of_half_precision():
    fusion = BiasFusion(V, graph_of([((1, 2), 0.1)])).half()
    assert fusion.scores(fusion.initial_state(1)).dtype == torch.float32
    assert not fusion.state_dict()


@pytest.mark.parametrize("few_rows", [-1, 20])
def test_torchscript_gives_the_same(few_rows):
    phrases = [((1, 2, 3), 1.0), ((2, 4), 2.0), ((3,), 0.5)]
    fusion = BiasFusion(V, graph_of(phrases, STARTS), scale=2.0)
    scripted = torch.jit.script(fusion)
    fusion.few_rows = few_rows
    rng = random.Random(0)
    state = other = fusion.initial_state(4)
    for _ in range(40):
        assert torch.allclose(fusion.scores(state), scripted.scores(other), atol=1e-6)
        tokens = torch.tensor([rng.randrange(1, V) for _ in range(4)])
        state, other = fusion.step(tokens, state), scripted.step(tokens, other)
        assert torch.equal(state[1], other[1])
        assert torch.equal(fusion.final(state), scripted.final(other))
    slot = fusion.add(graph_of([((5,), 1.0)], STARTS))
    scripted.arena = fusion.arena
    state = fusion.set_slot(state, torch.tensor([1, 3]), slot)
    assert torch.allclose(fusion.scores(state), scripted.scores(state)) and float(scripted.scores(state)[3, 5]) == 2.0


def test_ten_thousand_phrases(real_data):
    """Real phrases of books: built fast, small, and right."""
    with gzip.open(real_data / "text" / "librispeech_lm.txt.gz", "rt") as file:
        lines = [file.readline().lower().strip() for _ in range(12000)]
    tokenizer = Tokenizer.train(lines[:1500], 500, "bpe")
    rng, phrases = random.Random(0), set()
    while len(phrases) < 10_000:
        words = rng.choice(lines).split()
        begin = rng.randrange(max(len(words) - 3, 1))
        phrases.add(" ".join(words[begin : begin + rng.choice((1, 2, 2, 3))]))
    start = time.perf_counter()
    graph = BiasGraph.build(sorted(phrases), tokenizer)
    assert time.perf_counter() - start < 2.0
    assert not graph.refused and graph.size > 10_000
    tensors = [value for value in vars(graph).values() if isinstance(value, torch.Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) < 100 * graph.size + 8 * graph.vocab_size
    spelled = {tuple(tokenizer.encode(phrase)): 1.5 for phrase in phrases}
    prefixes = {phrase[:i] for phrase in spelled for i in range(len(phrase) + 1)}
    strings = [tuple(tokenizer.encode(rng.choice(lines)))[:40] for _ in range(20)]
    strings = [string for string in strings if len(string) == 40]
    fusion, single = BiasFusion(tokenizer.vocab_size, graph), BiasFusion(tokenizer.vocab_size, graph)
    fusion.few_rows = -1
    state, total = fusion.initial_state(len(strings)), torch.zeros(len(strings))
    for tokens in torch.tensor(strings).T:
        scores = fusion.scores(state)
        total += scores.gather(1, tokens[:, None])[:, 0]
        assert torch.equal(scores, single.scores(state))
        state = fusion.step(tokens, state)
    total += fusion.final(state)
    starts = graph.word_starts.tolist()
    for string, found in zip(strings, total.tolist()):
        expected = 0.0
        for at in range(1, len(string) + 1):
            window = next(string[i:at] for i in range(at + 1) if string[i:at] in prefixes)
            after = string[at] if at < len(string) else None
            expected += cover(window, after, spelled, starts) - cover(window[:-1], string[at - 1], spelled, starts)
        assert found == pytest.approx(expected, abs=1e-3) and expected > 0


def test_toy_tokens_spell_cased_phrases():
    tokenizer = toy_tokenizer()
    fusion = BiasFusion(tokenizer.vocab_size, BiasGraph.build(["Seven  EIGHT"], tokenizer))
    ids = tokenizer.encode("seven eight")
    assert earned(fusion, ids) == pytest.approx(1.5 * len(ids))


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("few_rows", [0, 20])
def test_an_endpoint_token_is_no_word_of_a_phrase(scripted, few_rows):
    """It adds nothing, takes nothing back, and the phrase goes on after it."""
    graph = BiasGraph([(1, 2, 1)], [2.0], V, [token % 2 == 1 for token in range(V)])
    fusion = BiasFusion(V, graph, endpoint_id=5)
    fusion.few_rows = few_rows
    run = torch.jit.script(fusion) if scripted else fusion
    totals = []
    for string in ((1, 2, 1), (1, 5, 2, 5, 5, 1), (1, 4, 2, 1)):
        state, total = run.initial_state(1), 0.0
        for token in string:
            added = run.scores(state)[0]
            assert float(added[0]) == float(added[5]) == 0.0
            total += float(added[token])
            state = run.step(torch.tensor([token]), state)
        totals.append(total + float(run.final(state)))
    assert totals[0] == totals[1] == pytest.approx(6.0) and totals[2] == pytest.approx(0.0)
