"""Counting right and wrong spans."""

from itn.evaluate import Counts, evaluate, span_set
from itn.tagger import LOOKAHEAD
from tests.itn.toy import RuleTagger


def test_span_set():
    labels = "O B-time I-time B-time O I-date I-date I-time O".split()
    assert span_set(labels) == {(1, 3, "time"), (3, 4, "time"), (5, 7, "date"), (7, 8, "time")}


def test_counts():
    counts = Counts()
    counts.add({(0, 1, "time")}, {(0, 1, "time"), (2, 3, "date")})
    counts.add(set(), set())
    counts.add({(0, 1, "date")}, set())
    assert (counts.sentences, counts.right, counts.negatives, counts.kept) == (3, 1, 2, 1)
    assert (counts.hits, counts.found, counts.true) == (1, 2, 2)
    assert counts.by_category == {"time": [1, 1, 1], "date": [0, 1, 1]}
    assert "33.33 % right" in str(counts) and "F1 50.00 %" in str(counts)


def test_evaluate_runs_the_stream():
    tagger = RuleTagger()
    assert tagger.lookahead == LOOKAHEAD
    sentences = [("it cost seven dollars today".split(), "O O B-money I-money O".split()), ("nothing here".split(), "O O".split())]
    counts = evaluate(tagger, sentences)
    assert (counts.sentences, counts.right, counts.kept, counts.hits) == (2, 2, 1, 1)
    assert counts.pushes == 7 and len(counts.holds) == 7
