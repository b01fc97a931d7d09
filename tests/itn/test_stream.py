"""Word by word: nothing is lost, doubled, revised when final or held too long, and the text is that of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itn.errors import ItnError
from itn.lexicon import Category, Lexicon, Matcher
from itn.stream import PATIENCE, Decider, Stream
from tests.itn.toy import ChanceTagger, RuleTagger

CATEGORIES = ("cardinal", "money", "telephone")
WORDS = ["a", "b", "twenty", "May", "x", "été", "5", "new", "york", "license", "plate", "\U0001f600", "'s", "q", "b,", "(a", "york.", "x.”"]
LEXICON = Lexicon({"new york": "NY", "new york a b": "NYAB", "q": "Q.", "a b a b a b a b a b a b": "twelve", "b a": "b a"})


def convert(category, words):
    """A reversible written form; some spans are refused, and plates must have even length."""
    if category == "plate":
        return f"<plate:{' '.join(words)}>" if len(words) % 2 == 0 else None
    return None if len(words) % 5 == 0 else f"<{category}:{' '.join(words)}>"


def make(tagger, lexicon=LEXICON, hooks=(), off=(), **options):
    decider = Decider(tagger.labels, tagger.confidence, tagger.lookahead, off)
    return Stream(tagger, decider, Matcher(lexicon, dict(hooks), convert), convert, **options)


def rebuilt(text_words, spans):
    """The text from the words and the spans: what every stream must have given."""
    parts, at = [], 0
    for span in spans:
        assert at <= span.start < span.end
        assert span.spoken == " ".join(text_words[span.start : span.end])
        parts += [*text_words[at : span.start], span.written]
        at = span.end
    return " ".join([*parts, *text_words[at:]])


words = st.lists(st.sampled_from(WORDS), max_size=60)
seeds = st.integers(0, 10_000)
HOOK = {"plate": Category("", trigger=("license plate", "q"))}


@settings(max_examples=150)
@given(words, seeds, st.sampled_from([0.0, 0.8, 0.97]), st.booleans(), st.booleans())
def test_invariants_whatever_the_tagger_says(text_words, seed, inside, with_hook, show_open):
    tagger = ChanceTagger(CATEGORIES, seed, inside)
    options = dict(hooks=HOOK if with_hook else (), show_open=show_open)
    stream = make(tagger, **options)
    text, spans = "", []
    for i, word in enumerate(text_words):
        update = stream.push(word)
        text += update.final
        spans += update.spans
        assert stream.text == text and stream.shown == text + update.tail
        assert stream.known.startswith(stream.shown) and stream.known  # never nothing while words are known
        assert len(stream.pending) <= 12 and stream.pending == tuple(text_words[i + 1 - len(stream.pending) : i + 1])
    last = stream.finish()
    text, spans = text + last.final, spans + list(last.spans)
    assert stream.text == stream.shown == stream.known == text and stream.pending == () and last.tail == ""
    assert text == rebuilt(text_words, spans)  # nothing dropped, doubled or changed outside spans
    whole = make(tagger, **options)
    updates = [whole.extend(text_words), whole.finish()]
    assert "".join(update.final for update in updates) == text
    assert [span for update in updates for span in update.spans] == spans
    assert all(span.end - span.start <= 12 for span in spans)


@settings(max_examples=30)
@given(words, words, seeds)
def test_after_an_endpoint_the_stream_begins_afresh(one, two, seed):
    tagger = ChanceTagger(CATEGORIES, seed, 0.5)
    stream, fresh = make(tagger, hooks=HOOK), make(tagger, hooks=HOOK)
    first = [stream.extend(one), stream.finish()]
    second = [stream.extend(two), stream.finish()]
    alone = [fresh.extend(two), fresh.finish()]
    gap = " " if one and two else ""
    assert "".join(u.final for u in second) == gap + "".join(u.final for u in alone)
    assert stream.text == "".join(u.final for u in [*first, *second])
    moved = [(s.start - len(one), s.end - len(one), s.written) for u in second for s in u.spans]
    assert moved == [(s.start, s.end, s.written) for u in alone for s in u.spans]


def test_times_of_spans():
    stream = make(RuleTagger(), Lexicon({"new york": "NY"}))
    spans = []
    for i, word in enumerate("in new york pay twenty five dollars now".split()):
        spans += stream.push(word, 10.0 + i, 10.5 + i).spans
    spans += stream.finish().spans
    found = [(s.category, s.start, s.end, s.start_time, s.end_time) for s in spans]
    assert found == [("lexicon", 1, 3, 11.0, 12.5), ("money", 4, 7, 14.0, 16.5)]
    stream.push("twenty", None, 3.0)
    (span,) = stream.finish().spans
    assert (span.start, span.end, span.start_time, span.end_time) == (8, 9, None, 3.0)


def test_a_word_is_one_word():
    stream = make(RuleTagger())
    for bad in ("", " ", "two words", " five", "five\n", "a\u2028b"):
        with pytest.raises(ItnError, match="word"):
            stream.push(bad)
        with pytest.raises(ItnError, match="word"):
            stream.extend(["fine", bad])
    for bad in (5, None, b"x"):
        with pytest.raises(ItnError, match="word"):
            stream.push(bad)
        with pytest.raises(ItnError, match="word"):
            stream.extend(["fine", bad])
    for bad in ("two words", b"two", 5, None):
        with pytest.raises(ItnError, match="extend takes words, not"):
            stream.extend(bad)
    assert stream.finish().final == "" and stream.text == ""


def test_words_may_come_from_an_iterator():
    stream = make(RuleTagger(), Lexicon())
    assert stream.extend(iter("pay twenty five dollars now".split()), finish=True).final == "pay <money:twenty five dollars> now"


class Fixed(ChanceTagger):
    """Gives the rows of a list of labels, sure at once."""

    def __init__(self, labels):
        super().__init__(("money", "telephone"), 0)
        self.given = labels

    def probabilities(self, words, at, delay):
        p = np.full(len(self.labels), 1e-6)
        p[self.labels.index(self.given[at] if 0 <= at < len(self.given) else "O")] = 1.0
        return p / p.sum()


def spans_of(labels, lexicon=None, words=None, write=convert):
    tagger = Fixed(labels)
    decider = Decider(tagger.labels, tagger.confidence, tagger.lookahead)
    stream = Stream(tagger, decider, Matcher(Lexicon(lexicon), {}, write), write)
    updates = [stream.extend(words or [f"w{i}" for i in range(len(labels))]), stream.finish()]
    return [(s.category, s.start, s.end) for update in updates for s in update.spans]


def test_adjacent_spans_and_spans_without_a_beginning():
    assert spans_of(["B-money", "I-money", "B-money"]) == [("money", 0, 2), ("money", 2, 3)]
    # where it begins is the tagger's word; its category is what the last word says, which sees it all
    assert spans_of(["O", "I-money", "I-telephone", "I-telephone"]) == [("telephone", 1, 4)]


def test_a_span_has_at_most_twelve_words():
    assert spans_of(["B-money"] + ["I-money"] * 10) == [("money", 0, 11)]
    twelve = ["B-money"] + ["I-money"] * 11
    assert spans_of(twelve) == [("money", 0, 12)]
    sixteen = ["B-telephone"] + ["I-telephone"] * 15
    assert spans_of(sixteen, write=lambda category, words: "1" * len(words)) == [("telephone", 0, 12), ("telephone", 12, 16)]
    for written in ("+1 415-555-1234", "555-1234", "1234 5678"):  # a piece of it would be another number
        assert spans_of([*sixteen, "B-money"], write=lambda category, words, form=written: form) == [("money", 16, 17)]
    # longer: a number cut in two would be two wrong numbers, so its words stay, up to the next span
    assert spans_of([*twelve, "I-money", "I-money", "B-money"]) == [("money", 14, 15)]
    assert spans_of([*twelve, "I-money", "O", "I-money"]) == [("money", 14, 15)]


def test_a_span_that_no_grammar_accepts_falls_apart_at_and():
    def write(category, words):
        return None if "and" in words or len(words) == 3 else "-".join(words)

    words = "five dollars and twenty minutes and six".split()
    labels = ["B-money"] + ["I-money"] * (len(words) - 1)
    assert spans_of(labels, words=words, write=write) == [("money", 0, 2), ("money", 3, 5)]  # "six" is written "six"
    assert spans_of(labels[:3], words=words[:3], write=write) == [("money", 0, 2)]  # "and" is the last word
    assert spans_of(labels[:3], words=["five", "by", "six"], write=write) == []  # nowhere to cut


def test_digits_behind_twelve_digits_are_their_rest():
    digits = "four one one one one one one one one one one one".split()

    def write(category, words):
        return "1" * len(words) if len(words) > 2 else None

    for rest, labels in ((["two", "oh"], ["I-telephone", "B-telephone"]), (["two", "oh"], ["O", "O"]), (["two"], ["O"])):
        found = spans_of(["B-telephone"] + ["I-telephone"] * 11 + [*labels, "O"], words=[*digits, *rest, "ok"], write=write)
        assert found == [("telephone", 0, 12), ("telephone", 12, 12 + len(rest))]
    found = spans_of(["B-telephone"] + ["I-telephone"] * 11 + ["O", "B-money"], words=[*digits, "and", "one"], write=write)
    assert found == [("telephone", 0, 12)]


@pytest.mark.parametrize(
    "words, found",
    [
        ("a b, c d", [(0, 2), (2, 4)]),
        ("a b; c! d?", [(0, 2), (2, 3), (3, 4)]),
        ("a five. c d.", [(0, 2), (2, 4)]),
        ("ten a.m. c d", [(0, 4)]),
        ("ten a.m., c d", [(0, 2), (2, 4)]),
        ("a “b c” d", [(0, 1), (1, 3), (3, 4)]),
        ("(a b) (c d)", [(0, 2), (2, 4)]),
    ],
)
def test_punctuation_closes_a_span(words, found):
    labels = ["B-money"] + ["I-money"] * 3
    assert spans_of(labels, words=words.split()) == [("money", *span) for span in found]
    # a string that is too long stays as spoken up to the next sign
    long = [*"a b c d e f g h i j k l m".split(), "n,", "o", "p"]
    assert spans_of(["B-money"] + ["I-money"] * 15, words=long) == [("money", 14, 16)]


def test_quotes_are_nothing_for_the_tagger():
    stream = make(RuleTagger(), Lexicon())
    assert stream.extend("he paid “twenty dollars” ”".split(), finish=True).final == "he paid <money:“twenty dollars”> ”"


def test_what_is_known_has_all_words():
    stream = make(RuleTagger(), Lexicon({"a b": "AB"}))
    for word, known in [("pay", "pay"), ("twenty", "pay twenty"), ("five", "pay twenty five"), ("a", "pay twenty five a")]:
        stream.push(word)
        assert stream.known == known


def test_the_lexicon_cuts_spans():
    labels = ["B-money", "I-money", "I-money", "I-money"]
    assert spans_of(labels, {"W1": "x"}) == [("money", 0, 1), ("lexicon", 1, 2), ("money", 2, 4)]
    assert spans_of(labels, {"w0 w1 w2 w3": "x"}) == [("lexicon", 0, 4)]


def test_the_category_is_the_last_words_and_the_grammar_may_refuse_it():
    """"three point one" may be of many kinds: none is probable, a span all the same."""
    decider = Decider(("O", "B-money", "I-money", "B-measure", "I-measure", "B-decimal", "I-decimal"), (0.9, 0.9), 2)
    assert decider.decide([[0.3, 0.25, 0, 0.25, 0, 0.2, 0]], 2, last=True) == "B"
    assert decider.categories([0.0, 0, 0.1, 0.0, 0.85, 0, 0.05]) == ["measure", "money"]
    assert decider.categories([1.0, 0, 0, 0, 0, 0, 0]) == ["money", "measure", "decimal"]


def test_categories_that_are_off_are_ordinary_words():
    decider = Decider(("O", "B-money", "I-money", "B-date", "I-date"), (0.9, 0.9), 2, off=("money",))
    assert decider.decide([[0.3, 0.31, 0.32, 0.05, 0.02]], 0) == "O"
    assert decider.categories([0.3, 0.31, 0.32, 0.05, 0.02]) == ["date"]
    assert Decider(("O", "B-money", "I-money"), (0.9, 0.9), 2).decide([[0.02, 0.5, 0.48]], 0) == "B"


def test_decisions_wait_for_confidence():
    decider = Decider(("O", "B-money", "I-money"), (0.98, 0.9), 2)
    assert decider.decide([[0.95, 0.05, 0.0]], 0) is None
    assert decider.decide([[0.95, 0.05, 0.0]], 1) == "O"
    assert decider.decide([[0.3, 0.2, 0.5]], 1) is None  # nothing to go on from: B-money 0.7
    assert decider.decide([[0.4, 0.2, 0.4]], 2) is None  # what is less than clear waits for more words
    assert decider.decide([[0.4, 0.2, 0.4]], PATIENCE) == "B"
    assert decider.decide([[0.3, 0.3, 0.4]], 2, last=True) == "I"


def test_the_tail_shows_probable_words_and_no_open_span():
    class Unsure(Fixed):
        def probabilities(self, words, at, delay):
            p = np.full(len(self.labels), 1e-6)
            p[0], p[1] = (0.95, 0.05) if delay == 0 else (0.88, 0.12)
            return p / p.sum()

    stream = make(Unsure([]), Lexicon())
    assert [stream.push(word).tail for word in "abcd"] == ["a", "", "", ""]
    assert stream.shown == "a b"
    stream = make(Fixed(["B-money"] * 1 + ["I-money"] * 3), Lexicon())
    assert [stream.push(word).tail for word in "abcd"] == [""] * 4
    stream = make(Fixed(["B-money"] * 1 + ["I-money"] * 3), Lexicon(), show_open=True)
    assert [stream.push(word).tail for word in "abc"] == ["<money:a>", "<money:a b>", "<money:a b c>"]
