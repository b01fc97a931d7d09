"""The drop-in FST of sherpa-onnx: plain numbers converted, everything else untouched, nothing ever lost."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("pynini")
kaldifst = pytest.importorskip("kaldifst")

from itn.grammars import dropin  # noqa: E402
from itn.grammars.build import write  # noqa: E402
from itn.grammars.style import load_style  # noqa: E402


@pytest.fixture(scope="module", params=["prose", "nemo"])
def built(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dropin") / f"{request.param}.fst"
    write(dropin.dropin(load_style(request.param)), path)
    return request.param, path, kaldifst.TextNormalizer(str(path))


PROSE = {
    "twenty five percent of it cost four million dollars": "25% of it cost $4 million",
    "TWENTY FIVE PERCENT OF IT COST FORTY MILLION YEN": "25% OF IT COST ¥40 MILLION",
    "Twenty five percent. Yes.": "25%. Yes.",
    "at five thirty p m we met": "at 5:30 p.m. we met",
    "i have twenty apples, thirteen pears": "i have 20 apples, 13 pears",
    "two point five million people": "2.5 million people",
    "three and a half percent": "3.5%",
    "seven dollars and thirty cents each": "$7.30 each",
    "Twenty-five people, thirty-four percent. Six p m.": "25 people, 34%. 6 p.m.",
    "One of us left at six pm.": "One of us left at 6 p.m.",
    "between twenty and thirty people": "between 20 and 30 people",
    "one thousand and one nights": "1001 nights",
    "ünïcode twenty five percent 你好": "ünïcode 25% 你好",
}
NEMO = {
    "twenty five percent": "25 %",
    "five p m": "05:00 p.m.",
    "seven dollars and thirty cents": "$7.30",
}
UNTOUCHED = [
    "", " ", "   ", "nineteen eighty four was a year", "the twenty first of may", "nine one one", "one am i right", "half a million dollars", "several hundred dollars", "five and twenty",
    "twenty seven and a half", "uh thirty four thirty four per cent", "nine five thirty five p m",
    "a hundred and twenty", "four or five hundred people", "in twenty thirteen twenty percent", "at that point five people",
    "at one point five people", "hold on a second", "seven people", "my two cents", "number one", "TWENTY THIRTEEN", "twenty something",
    "the nineteen eighties", "Nineteen Eighty-Four", "nineteen eighty-four", "One of them", "The Sixth Sense", "Per cent", "a twenty-one-year-old",
    "twenty  five", "  five   percent  ", "ten pounds of sugar", "<eou>", "a\tb\nc",
]  # fmt: skip


def test_examples(built):
    name, _, normalize = built
    for spoken, written in (PROSE if name == "prose" else NEMO).items():
        assert normalize(spoken) == written


def test_leaves_alone_what_needs_a_context(built):
    for text in UNTOUCHED:
        assert built[2](text) == text


words = st.sampled_from(
    "one two five ten thirteen twenty thirty hundred thousand million and a point oh percent dollars cents dollar p m am pm minus zero yen "
    "the of second first twentieth to quarter past half o'clock PERCENT TWENTY FIVE Twenty, dollars. double".split()
)
soup = st.lists(
    st.one_of(words, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)),
    max_size=14,
)


@settings(max_examples=150)
@given(soup, st.sampled_from([" ", "  "]))
@example([], " ")
def test_no_text_is_ever_lost(built_once, parts, joint):
    text = joint.join(parts)
    written = built_once(text)
    assert bool(written) == bool(text)
    kept = [word for word in text.split(" ") if word and not any(c.isascii() for c in word)]
    assert [word for word in written.split(" ") if word in kept] == kept, (
        "words that are no numbers stay, in order"
    )


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_arbitrary_text_stays(built_once, text):
    """No number words in it (hypothesis takes strings from the sources, too): every byte comes back."""
    assume(not re.search("[A-Za-z]{3}", text))
    assert built_once(text) == text


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("dropin") / "prose.fst"
    write(dropin.dropin(load_style("prose")), path)
    return kaldifst.TextNormalizer(str(path))


def test_accepts_every_byte(built):
    """Also bytes that are no UTF-8: the FST itself is total over 1..255."""
    import pynini

    fst = pynini.Fst.read(str(built[1]))
    rng = random.Random(3)
    for text in [bytes(range(1, 256)), *(bytes(rng.randrange(1, 256) for _ in range(40)) for _ in range(20))]:
        line = pynini.Fst()
        states = [line.add_state() for _ in range(len(text) + 1)]
        line.set_start(states[0]).set_final(states[-1])
        for source, target, code in zip(states, states[1:], text):
            line.add_arc(source, pynini.Arc(code, code, 0, target))
        assert pynini.compose(line, fst).start() != pynini.NO_STATE_ID


def test_is_small(built):
    assert built[1].stat().st_size < 1_000_000
