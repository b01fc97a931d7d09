"""The user's phrases: files, bad lines, longest matches against a plain search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itn.errors import ItnError, LexiconError
from itn.lexicon import Category, Lexicon, Match, Matcher


def matches(lexicon, words, hooks=None, convert=lambda name, words: None):
    """(start, end, written) of all matches; every word is resolved at most 11 words later."""
    matcher = Matcher(lexicon, hooks or {}, convert)
    found, at = [], 0
    for mark in stream_marks(matcher, words):
        length = mark.length if mark else 1
        if mark:
            found.append((at, at + length, mark.written))
        at += length
    assert at == len(words)
    return found


def stream_marks(matcher, words):
    resolved = 0
    for i, word in enumerate(words):
        for mark in matcher.push(word):
            resolved += mark.length if mark else 1
            yield mark
        assert i + 1 - resolved <= 11
    yield from matcher.finish()


def plainly(phrases, words):
    """The definition: from the left, the longest phrase at each word."""
    found, at = [], 0
    words = [word.lower() for word in words]
    while at < len(words):
        here = [p for p in phrases if words[at : at + len(p.split())] == p.lower().split()]
        if here:
            phrase = max(here, key=lambda p: len(p.split()))
            found.append((at, at + len(phrase.split()), phrases[phrase]))
            at += len(phrase.split())
        else:
            at += 1
    return found


PHRASE = st.lists(st.sampled_from("a b c".split()), min_size=1, max_size=12).map(" ".join)


@given(st.dictionaries(PHRASE, st.sampled_from(["X", "Y z"]), max_size=8), st.lists(st.sampled_from("a b c A d".split()), max_size=40))
def test_longest_match_from_the_left(phrases, words):
    assert matches(Lexicon(phrases), words) == plainly(phrases, words)


def test_file(tmp_path):
    path = tmp_path / "lexicon.tsv"
    path.write_bytes("\ufeff# names\r\n\r\n  new   york \tNYC\r\nk two\tk2\nK Two\tk2\nété\tÉté\n".encode())
    lexicon = Lexicon.load(path)
    assert matches(lexicon, "in New YORK k Two ÉTÉ".split()) == [(1, 3, "NYC"), (3, 5, "k2"), (5, 6, "Été")]
    assert Lexicon.of(lexicon) is lexicon and len(Lexicon.of(None)) == 0 and len(Lexicon.of({"a": "b"})) == 1


@pytest.mark.parametrize(
    "content, line, words",
    [
        ("a\tb\nno tab here\n", 2, "no tab"),
        ("\tb\n", 1, "the phrase is empty"),
        ("# c\n\na \t \n", 3, "written form of 'a' is empty"),
        ("a\tb\tc\n", 1, "more than one tab"),
        ("a b\tc\nA  B\td\n", 2, "already written 'c', now 'd'"),
        ("a " * 13 + "\tb\n", 1, "at most 12 words, this one has 13"),
        ("a\tb\n\xff\n", 2, "not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, line, words):
    path = tmp_path / "bad.tsv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(LexiconError, match=words) as caught:
        Lexicon.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ") and "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_bad_mappings_and_files(tmp_path):
    with pytest.raises(LexiconError, match="lexicon entry ' ': the phrase is empty"):
        Lexicon({" ": "x"})
    with pytest.raises(LexiconError, match="more than one line"):
        Lexicon({"a": "b\nc"})
    with pytest.raises(LexiconError, match="cannot read the lexicon .*nope.tsv: No such file"):
        Lexicon.load(tmp_path / "nope.tsv")
    with pytest.raises(LexiconError, match="cannot read the lexicon"):
        Lexicon.load(tmp_path)


def test_triggers():
    def convert(name, words):
        return "".join(words).upper() if all(len(word) == 1 for word in words) else None

    hooks = {"plate": Category("plate.fst", trigger=("license plate", "tag"), max_words=5)}
    words = "My License PLATE a b c and tag d e f g h i and plate x".split()
    assert matches(Lexicon(), words, hooks, convert) == [(3, 6, "ABC"), (8, 13, "DEFGH")]
    # a phrase of the lexicon wins
    assert matches(Lexicon({"a": "Q"}), words, hooks, convert)[0] == (3, 4, "Q")
    assert matches(Lexicon(), ["tag"], hooks, convert) == []


def test_a_category_is_checked():
    assert Category("x.fst", trigger="tag").trigger == ("tag",)
    for options, words in (
        ({"max_words": 13}, "from 1 to 12, not 13"),
        ({"max_words": 0}, "from 1 to 12"),
        ({"trigger": (" ",)}, "is empty"),
    ):
        with pytest.raises(ItnError, match=words):
            Category("x.fst", **options)


def test_without_phrases_nothing_is_held():
    assert list(Matcher(Lexicon(), {}, lambda *_: None).push("a")) == [None]
    assert Match(1, "lexicon", "x").length == 1


def test_punctuation_behind_the_last_word():
    lexicon = Lexicon({"new york": "New York", "new york city": "NYC", "acme corp": "ACME Corp.", "yahoo!": "Yahoo!", "o'hare": "O'Hare"})
    for spoken, found in [
        ("in new york.", (1, 3, "New York.")),
        ("new york, city", (0, 2, "New York,")),
        ("new york city?!", (0, 3, "NYC?!")),
        ("new york.”", (0, 2, "New York.”")),
        ("acme corp. x", (0, 2, "ACME Corp.")),
        ("acme corp, x", (0, 2, "ACME Corp.,")),
        ("yahoo! x", (0, 1, "Yahoo!")),
        ("yahoo!, x", (0, 1, "Yahoo!,")),
        ("O’Hare!", (0, 1, "O'Hare!")),
    ]:
        assert matches(lexicon, spoken.split()) == ([found] if spoken != "yahoo!, x" else []), spoken
    assert matches(lexicon, "new, york . , ...".split()) == []
    assert matches(Lexicon({"a’b": "x"}), ["A'B"]) == [(0, 1, "x")]


def test_wrong_types_are_one_sentence():
    for bad in ([("a", "b")], 5, b"file"):
        with pytest.raises(LexiconError, match="a lexicon is a mapping"):
            Lexicon.of(bad)
    for bad in ({"a": 5}, {5: "a"}, {"a": None}):
        with pytest.raises(LexiconError, match="are texts"):
            Lexicon(bad)
    for options in ({"trigger": 5}, {"trigger": (5,)}, {"max_words": "3"}, {"max_words": True}):
        with pytest.raises(ItnError):
            Category("x.fst", **options)
    with pytest.raises(ItnError, match="is a file, not a int"):
        Category(5)
