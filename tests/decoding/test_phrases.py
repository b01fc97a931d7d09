"""Lists of phrases: files, classes, boosts, and what is wrong with them."""

from __future__ import annotations

import pytest

from asr.decoding.phrases import Phrases, read_phrases, spell
from asr.errors import UserError
from asr.tokens import Tokenizer
from tests.toy import toy_tokenizer


def test_boosts_come_from_the_phrase_then_its_class_then_the_default():
    phrases = Phrases(
        {"one": None, "two": 4.0},
        classes={"names": ["seven", ("eight", 5.0)], "places": ["nine"]},
        boost=1.0,
        class_boosts={"names": 3.0},
    )
    assert list(phrases) == [("one", 1.0), ("two", 4.0), ("seven", 3.0), ("eight", 5.0), ("nine", 1.0)]
    phrases.set_class_boosts({"places": 2.0})
    phrases.add("zero", class_name="places")
    assert list(phrases)[-2:] == [("nine", 2.0), ("zero", 2.0)]
    assert len(phrases) == 6 and Phrases.of(phrases) is phrases


FILE = """\ufeff# a comment
Route One
lynde\t2.5

[contact names 3]
Anne Shirley
matthew \t 1
[places]
avonlea
[contact names]
marilla
"""


def test_a_file(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_text(FILE, encoding="utf-8", newline="\r\n")
    expected = [("Route One", 1.5), ("lynde", 2.5), ("Anne Shirley", 3.0), ("matthew", 1.0), ("avonlea", 1.5)]
    assert list(Phrases.of(file)) == list(Phrases.of(str(file))) == [*expected, ("marilla", 3.0)]
    changed = Phrases.from_file(file, boost=2.0, class_boosts={"places": 9.0, "contact names": 0.5})
    assert [boost for _, boost in changed] == [2.0, 2.5, 0.5, 1.0, 9.0, 0.5]


def test_boosts_of_a_command_line_go_before_those_of_the_file(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_text(FILE)
    found = dict(read_phrases(file, 0.7, ["contact  names=2", "places=0.3"]))
    assert found == {"Route One": 0.7, "lynde": 2.5, "Anne Shirley": 2.0, "matthew": 1.0, "avonlea": 0.3, "marilla": 2.0}
    assert list(read_phrases(file)) == list(Phrases.from_file(file))
    for pair, problem in [("places", "NAME=BOOST"), ("=2", "NAME=BOOST"), ("places=x", "not 'x'"), ("place=1", "did you mean 'places'")]:
        with pytest.raises(UserError, match=problem):
            read_phrases(file, None, [pair])
    file.write_text("anne\n")
    with pytest.raises(UserError, match="'names': there are no classes"):
        read_phrases(file, None, ["names=2"])


def test_an_empty_file_is_an_empty_list(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_text("\n# nothing\n")
    assert len(Phrases.from_file(file)) == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("anne\tmuch", "line 2: the boost of 'anne' must be a number above 0, not 'much'"),
        ("anne\t-1", "not '-1'"),
        ("anne\tnan", "not 'nan'"),
        ("anne\tinf", "not 'inf'"),
        ("anne\t1\t2", "line 2: a phrase, a tab and a boost were expected, not 2 tabs"),
        ("[names", "line 2: a class begins with [name] or [name boost]"),
        ("[ ]", "line 2: a class begins with"),
        ("[2.5]", "line 2: a class needs a name before its boost"),
        ("[names 0]", "line 2: the boost of the class 'names' must be a number above 0"),
        ("[names 2]\n[names 3]", "line 3: the class 'names' already has the boost 2"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, problem):
    file = tmp_path / "phrases.txt"
    file.write_text(f"fine\n{line}\nalso fine\n")
    with pytest.raises(UserError) as raised:
        Phrases.from_file(file)
    assert problem in str(raised.value) and str(file) in str(raised.value)


def test_many_bad_lines_are_counted(tmp_path):
    file = tmp_path / "phrases.txt"
    file.write_text("a\tb\n" * 12)
    with pytest.raises(UserError, match="line 5: .*; and 7 more$"):
        Phrases.from_file(file)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such file of phrases"):
        Phrases.from_file(tmp_path / "none.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        Phrases.from_file(tmp_path / "bytes")


@pytest.mark.parametrize(
    "wrong", [{"a": "b"}, {"a": 0}, {"a": True}, [("a", 1, 2)], [3], [""], ["  "], [None], "anne", b"anne", 5]
)
def test_what_is_no_list_of_phrases(wrong):
    with pytest.raises(UserError):
        Phrases(wrong)


def test_unknown_classes_and_bad_defaults():
    with pytest.raises(UserError, match="did you mean 'names'"):
        Phrases(classes={"names": ["anne"]}, class_boosts={"name": 2.0})
    with pytest.raises(UserError, match="boost of phrases"):
        Phrases(boost=-1.0)


def test_one_phrase_is_no_list_of_phrases(tmp_path):
    with pytest.raises(UserError, match=r"no such file of phrases: zero; phrases themselves are given as a list: \['zero'\]"):
        Phrases.of("zero")
    with pytest.raises(UserError, match="no such file of phrases: .*none.txt$"):
        Phrases.of(tmp_path / "none.txt")
    with pytest.raises(UserError, match="no such file of phrases"):
        Phrases.of("seven " * 1000)  # longer than a name can be
    (tmp_path / "some.txt").write_text("zero\n")
    assert list(Phrases.of(str(tmp_path / "some.txt"))) == list(Phrases.of(["zero"]))


def test_a_boost_after_a_space():
    tokenizer = toy_tokenizer()
    for phrase in ("one two 2.0", "one two 2"):
        with pytest.raises(UserError, match="cannot spell .*: a boost comes after a tab$"):
            spell(phrase, tokenizer)
    for phrase in ("2.0", "seven & eight", "2 one"):
        with pytest.raises(UserError) as raised:
            spell(phrase, tokenizer)
        assert "tab" not in str(raised.value)


def test_spelling_takes_phrases_as_people_write_them():
    tokenizer = toy_tokenizer()
    plain = tokenizer.encode("seven eight")
    ways = "Seven Eight", " SEVEN   eight\t", "seven-eight", "“Seven, eight.”", "seven… (eight)", "seven — eight"
    for written in ways:
        assert spell(written, tokenizer) == plain, written
    for refused in ("7", "seven & eight", "seven+eight", "七"):
        with pytest.raises(UserError, match="cannot spell"):
            spell(refused, tokenizer)
    with pytest.raises(UserError, match="no words"):
        spell("--", tokenizer)


def test_letters_lose_the_accents_that_the_tokens_lack():
    tokenizer = toy_tokenizer()
    plain = tokenizer.encode("seven eight")
    for written in ("Séven Eight", "Se\u0301ven, Èight", "“Sévên”-eıght".replace("ı", "i")):
        assert spell(written, tokenizer) == plain, written
    accented = Tokenizer.train(["café cafe"], 12, "bpe")
    assert spell("Café", accented) == accented.encode("café") != accented.encode("cafe")
