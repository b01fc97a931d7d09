"""Texts through a toy profile: spans, white space, case, options, what is missing, and what a process imports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import itn
from itn import Category, ItnError, Lexicon, Normalizer, Span
from itn.normalizer import PROFILES
from tests.itn.toy import ChanceTagger, RuleTagger, grammars, write_fst, write_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_profile(tmp_path_factory.mktemp("itn") / "toy", {"off": ["fraction"]})


@pytest.fixture(scope="module")
def normalizer(folder):
    return Normalizer(folder, tagger=RuleTagger())


def make(folder, **options):
    return Normalizer(folder, tagger=RuleTagger(), **options)


def test_text_and_spans(normalizer):
    result = normalizer.normalize("it costs twenty five dollars or seven percent")
    assert result.text == "it costs $25 or 7%"
    assert result.spans == (
        Span(2, 5, "money", "twenty five dollars", "$25"),
        Span(6, 8, "measure", "seven percent", "7%"),
    )


@pytest.mark.parametrize(
    "text, written",
    [
        ("", ""),
        (" \n\t ", " \n\t "),
        ("  two\u00a0words\n", "  two\u00a0words\n"),
        (" pay  twenty\n five  dollars \t now ", " pay  $25 \t now "),
        ("Twenty five percent.", "25%."),
        ("twenty-five percent, thirty", "25%, 30"),
        ("twenty five, thirty.", "25, 30."),
        ("pay “twenty five dollars”, (seven percent).", "pay “$25”, (7%)."),
        ("twenty-five, -twenty and thirty-", "25, -twenty and thirty-"),
        ("seven of nine, seven hours, twelve hours", "seven of nine, seven hours, 12 hours"),
        ("minus seven or minus seventy", "minus seven or -70"),
        ("On may second or may one or May the", "On may 2 or may one or May the"),
        ("Doctor lee and doctor Who", "Dr. lee and dr. Who"),
        ("twenty dollars five dollars", "$20 $5"),
        ("it is $25 and 7% of 30 at 9:40 p.m.", "it is $25 and 7% of 30 at 9:40 p.m."),
        ("5 thousand dollars", "5 thousand dollars"),
        ("été \U0001f600 שלום twenty \ud800 \0 x\0y", "été \U0001f600 שלום 20 \ud800 \0 x\0y"),
    ],
)
def test_texts(normalizer, text, written):
    assert normalizer.normalize(text).text == written


NUMBERS = "one two seven ten twelve twenty five hundred thousand million dollars percent hours may first second doctor".split()


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from([*NUMBERS, "May", "it", "Twenty", "$5", "a-b"]) | st.text(max_size=3), st.sampled_from([" ", "  ", "\n", " \t"]))),
    st.integers(0, 1000),
    st.booleans(),
)
def test_invariants(folder, pairs, seed, ruled):
    tagger = RuleTagger() if ruled else ChanceTagger(grammars(), seed, 0.8)
    normalizer = Normalizer(folder, tagger=tagger, lexicon={"may it": "MAYBE", "it one two": "x"}, thousands=",")
    text = "".join(word + gap for word, gap in pairs)
    result = normalizer.normalize(text)
    # words and white space outside spans are byte-identical and in order; nothing is dropped or doubled
    pieces, words = re.findall(r"\s+|\S+", text), text.split()
    at = [i for i, piece in enumerate(pieces) if piece.strip()]  # where the words are
    end = 0
    for span in result.spans:
        assert end <= span.start < span.end <= len(words) and span.spoken == " ".join(words[span.start : span.end])
        assert span.written and span.written != span.spoken
        end = span.end
        first, last = at[span.start], at[span.end - 1]
        pieces[first : last + 1] = [span.written] + [""] * (last - first)
    assert result.text == "".join(pieces)
    # pushing and finishing is normalising the whole
    stream = normalizer.stream()
    updates = [stream.push(word) for word in words] + [stream.finish()]
    joined = normalizer.normalize(" ".join(words))
    assert stream.text == "".join(update.final for update in updates) == joined.text
    assert tuple(span for update in updates for span in update.spans) == joined.spans == result.spans


def test_written_text_is_left_alone(normalizer):
    for text in ("pay twenty five dollars on may second", "minus seventy, Doctor lee", "six thousand percent"):
        once = normalizer.normalize(text).text
        assert once != text and normalizer.normalize(once).text == once


def test_options(folder):
    text = "nine of ten, the second of the twelfth, five thousand dollars, seven hours"
    for options, written in [
        ({}, "nine of 10, the second of the 12th, $5000, seven hours"),
        ({"number_threshold": 0}, "9 of 10, the second of the 12th, $5000, 7 hours"),
        ({"number_threshold": 13}, "nine of ten, the second of the 12th, $5000, seven hours"),
        ({"ordinal_threshold": 0}, "nine of 10, the 2nd of the 12th, $5000, seven hours"),
        ({"thousands": ","}, "nine of 10, the second of the 12th, $5,000, seven hours"),
        ({"currencies": "words"}, "nine of 10, the second of the 12th, 5000 dollars, seven hours"),
        ({"off": ["ordinal"]}, "nine of 10, the second of the twelfth, $5000, seven hours"),
        ({"off": "money"}, "nine of 10, the second of the 12th, five thousand dollars, seven hours"),
    ]:
        text_without_commas, expected = text.replace(",", " ,"), written.replace(",", " ,")
        if "thousands" in options:
            expected = expected.replace("$5 ,000", "$5,000")
        assert make(folder, **options).normalize(text_without_commas).text == expected, options


def test_profile_options_are_defaults(tmp_path):
    folder = write_profile(tmp_path / "mine", {"number_threshold": 0, "off": ["money"], "thousands": False})
    assert make(folder).normalize("seven or seven dollars").text == "7 or seven dollars"
    assert make(folder, number_threshold=10, on=["money"]).normalize("seven or seven dollars").text == "seven or $7"
    for options, words in (({"nubmer_threshold": 1}, "did you mean number_threshold"), ({"clock": 13}, "clock must be")):
        with pytest.raises(ItnError, match=words) as caught:
            make(write_profile(tmp_path / "bad", options))
        assert "manifest.json" in str(caught.value)
    with pytest.raises(ItnError, match="no category 'mony'"):
        make(write_profile(tmp_path / "bad", {"off": ["mony"]}))


def test_bad_options(folder):
    for options, words in [
        ({"number_threshold": -1}, "number_threshold must be a whole number"),
        ({"number_threshold": True}, "number_threshold must be a whole number"),
        ({"ordinal_threshold": 1.5}, "ordinal_threshold must be"),
        ({"thousands": "."}, "thousands must be one of"),
        ({"clock": 13}, "clock must be 12 or 24, not 13"),
        ({"units": "word"}, "units must be 'symbols' or 'words'"),
        ({"off": ["mony"]}, "no category 'mony'; did you mean money?"),
        ({"on": ["money"], "off": ["money"]}, "both on and off"),
    ]:
        with pytest.raises(ItnError, match=words) as caught:
            make(folder, **options)
        assert "\n" not in str(caught.value)


def test_lexicon_wins(folder, tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("twenty five\tXXV\nacme corp\tACME Corp.\ntwelve monkeys\t12 Monkeys\nseven\tseven\n")
    normalizer = make(folder, lexicon=path, number_threshold=0)
    result = normalizer.normalize("Acme Corp paid Twenty five dollars for twelve monkeys and seven dollars")
    assert result.text == "ACME Corp. paid XXV dollars for 12 Monkeys and seven dollars"
    assert [span.category for span in result.spans] == ["lexicon"] * 3
    assert make(folder, lexicon=Lexicon({"a": "b"})).normalize("A a").text == "b b"


def test_categories_of_the_user(folder, tmp_path):
    plate = write_fst(tmp_path / "plate.fst", {"a b seven": "AB-7", "a b": "AB", "b": "B"})
    normalizer = make(folder, categories={"plate": Category(plate, trigger=("license plate",))})
    result = normalizer.normalize("the License plate A b seven twenty and license plate c a b")
    assert result.text == "the License plate AB-7 20 and license plate c a b"
    assert result.spans[0] == Span(3, 6, "plate", "A b seven", "AB-7")
    assert normalizer.convert("a b", "plate") == "AB"
    assert make(folder, categories={"plate": Category(plate, "license plate")}, off=["plate"]).normalize("license plate b").spans == ()
    dollars = write_fst(tmp_path / "usd.fst", {"five dollars": "5 USD"})
    assert make(folder, categories={"money": dollars}).normalize("five dollars or six dollars").text == "5 USD or six dollars"
    with pytest.raises(ItnError, match="does not know category 'mony'; did you mean money\\?; give trigger phrases"):
        make(folder, categories={"mony": dollars})
    with pytest.raises(ItnError, match="no file .*nope.fst"):
        make(folder, categories={"money": tmp_path / "nope.fst"})
    (tmp_path / "bad.fst").write_bytes(b"no fst")
    for category in (tmp_path / "bad.fst", Category(tmp_path / "bad.fst", "x")):
        with pytest.raises(ItnError, match="not an FST"):  # at once, not when it first occurs
            make(folder, categories={"money": category})


def test_convert_one_span(normalizer):
    assert normalizer.convert("Twenty-Five dollars", "money") == "$25"
    assert normalizer.convert("seven", "cardinal") is None  # below the threshold
    assert normalizer.convert("twenty five", "money") is None and normalizer.convert(" ", "money") is None
    with pytest.raises(ItnError, match="no category 'cardinl'; did you mean cardinal"):
        normalizer.convert("seven", "cardinl")


def test_hyphens_signs_and_abbreviations(tmp_path):
    tables = {
        "cardinal": {"twenty five": "25", "twenty": "20"},
        "time": {"ten a.m.": "10 a.m.", "ten a m": "10 a.m."},
        "electronic": {"kim dash lee at x": "kim-lee@x", "kim forty two at x": "kim42@x"},
        "date": {"twenty one": "2021", "may third": "may 3"},
    }
    convert = make(write_profile(tmp_path / "toy", tables=tables), off=grammars()).convert
    for category, spoken, written in [
        ("cardinal", "Twenty-five", "25"),
        ("cardinal", "-twenty", None),
        ("cardinal", "twenty five-", None),
        ("cardinal", "twenty--five", None),
        ("cardinal", "twenty–five", None),
        ("cardinal", "“twenty five”?!", "“25”?!"),
        ("cardinal", "(twenty", "(20"),
        ("cardinal", "twenty).", "20)."),
        ("cardinal", "'twenty'", "'20'"),
        ("cardinal", "twenty...", "20..."),
        ("cardinal", "()", None),
        ("time", "ten a.m.", "10 a.m."),
        ("time", "ten a.m.,", "10 a.m.,"),
        ("time", "ten a.m.?!", "10 a.m.?!"),
        ("time", "ten a m.", "10 a.m."),
        ("time", "(ten a.m.)", "(10 a.m.)"),
        ("electronic", "Kim-Lee at x.", "Kim-Lee@x."),
        ("electronic", "kim forty-two at x", "kim42@x"),
        ("electronic", "kim-ann at x", None),
        ("date", "twenty one's", "2021's"),
        ("date", "twenty one's,", "2021's,"),
        ("date", "(May third,", "(May 3,"),
    ]:
        found = convert(spoken, category)
        assert (found or "").lower() == (written or "").lower(), (category, spoken, found)


def test_a_span_of_a_hundred_thousand_letters_is_refused(normalizer):
    began = time.process_time()
    for word in ("x" * 100_000, "." * 100_000, "twenty" + "!" * 100_000, "a-" * 50_000, "twenty" * 60):
        assert normalizer.convert(word, "cardinal") is None
        assert normalizer.normalize(f"pay {word} now").text == f"pay {word} now"
    assert time.process_time() - began < 5


def test_wrong_types_are_one_sentence(folder):
    for options in (
        {"tagger": 5}, {"tagger": object()}, {"lexicon": [("a", "b")]}, {"lexicon": {"a": 5}}, {"lexicon": {5: "a"}},
        {"categories": ["x"]}, {"categories": {"money": 5}}, {"categories": {5: "x"}}, {"off": 5}, {"on": [None]},
        {"thousands": 5}, {"clock": [12]}, {"units": 1},
    ):  # fmt: skip
        with pytest.raises(ItnError) as caught:
            Normalizer(folder, **({"tagger": RuleTagger()} | options))
        assert "\n" not in str(caught.value), options
    for profile in (None, 5, b"prose"):
        with pytest.raises(ItnError, match="a profile is a name or a folder"):
            Normalizer(profile, tagger=RuleTagger())
    for text in (None, 5, b"ten", ["ten"]):
        with pytest.raises(ItnError, match="takes a text"):
            make(folder).normalize(text)
        with pytest.raises(ItnError, match="takes a text"):
            make(folder).convert(text, "cardinal")


def test_missing_and_damaged_parts_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(ItnError, match="no profile 'no-such'"):
        Normalizer("no-such", tagger=RuleTagger())
    for name in ("", "\0", "x" * 5000):
        with pytest.raises(ItnError, match="no profile"):
            Normalizer(name, tagger=RuleTagger())
    with pytest.raises(ItnError, match="no tagger at .*nope.npz"):
        Normalizer(folder, tagger=tmp_path / "nope.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ItnError, match=r"bad\.npz|zip"):
        Normalizer(folder, tagger=tmp_path / "bad.npz")

    def damaged(name, change):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(ItnError) as caught:
            make(copy)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def edit(copy, **values):
        path = copy / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert "is missing" in damaged("a", lambda copy: (copy / "money.fst").unlink())
    assert "not the file its manifest" in damaged("b", lambda copy: (copy / "money.fst").write_bytes(b"x"))
    assert "damaged" in damaged("c", lambda copy: (copy / "manifest.json").write_text("{"))
    assert "damaged" in damaged("d", lambda copy: edit(copy, files=[]))
    assert "damaged" in damaged("e", lambda copy: edit(copy, files={"money": "money.fst"}))
    assert "has format 2, this version reads 1" in damaged("f", lambda copy: edit(copy, format=2))
    without = {name: entry for name, entry in files.items() if name not in ("money", "date")}
    assert "no grammar for date, money" in damaged("g", lambda copy: edit(copy, files=without))
    monkeypatch.setitem(sys.modules, "kaldifst", None)
    with pytest.raises(ItnError, match="pip install kaldifst"):
        make(folder)


def test_running_needs_numpy_and_kaldifst_only(folder):
    program = f"""
import sys
import itn
assert "numpy" not in sys.modules and "kaldifst" not in sys.modules
sys.path.insert(0, {str(PROFILES.parents[1])!r})
from tests.itn.toy import RuleTagger
import itn.cli, itn.tagger
normalizer = itn.Normalizer({str(folder)!r}, tagger=RuleTagger())
assert normalizer.normalize("twenty five dollars").text == "$25"
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set(
    "torch pynini yaml asr export sentencepiece onnxruntime scipy lightning lhotse".split())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError):
        itn.nothing  # noqa: B018


def test_long_texts_take_linear_time(normalizer):
    def seconds(words):
        text = " ".join(("pay twenty five dollars now because it is may " * (words // 9 + 1)).split()[:words])
        best = float("inf")
        for _ in range(2):
            began = time.process_time()
            normalizer.normalize(text)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(10_000) < 12 * max(seconds(2_500), 0.01)
