"""E-mail and web addresses, handles, versions, file names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pynini")

from itn.grammars import base, electronic
from itn.grammars.style import load_style

FST = electronic.grammar(load_style("prose"))

EXAMPLES = {
    "kim at fastmail dot com": "kim@fastmail.com",
    "kim dot lee at fastmail dot com": "kim.lee@fastmail.com",
    "k i m at fastmail dot com": "kim@fastmail.com",
    "kim underscore lee at fastmail dot com": "kim_lee@fastmail.com",
    "kim hyphen lee at fast dash mail dot com": "kim-lee@fast-mail.com",
    "kim plus news at fastmail dot com": "kim+news@fastmail.com",
    "kim ninety nine at fastmail dot com": "kim99@fastmail.com",
    "kim nineteen eighty four at g mail dot com": "kim1984@gmail.com",
    "kim two thousand five at mail dot com": "kim2005@mail.com",
    "user two oh at mail dot co dot u k": "user20@mail.co.uk",
    "kim lee at mail dot co dot uk": "kimlee@mail.co.uk",
    "a b three at n y u dot e d u": "ab3@nyu.edu",
    "kernel dot org": "kernel.org",
    "kernel dot org slash docs": "kernel.org/docs",
    "w w w dot kernel dot org forward slash docs slash": "www.kernel.org/docs/",
    "h t t p s colon slash slash www dot kernel dot org": "https://www.kernel.org",
    "http colon slash slash kernel dot org colon eight oh eight zero": "http://kernel.org:8080",
    "example dot com slash search question mark q equals cats": "example.com/search?q=cats",
    "at john underscore doe": "@john_doe",
    "hashtag winning": "#winning",
    "hash tag two thousand nine": "#2009",
    "version two point one point three": "version 2.1.3",
    "two point one point three": "2.1.3",
    "three point eleven": "3.11",
    "twenty two point oh four": "22.04",
    "v two": "v2",
    "report dot p d f": "report.pdf",
    "final underscore report dot doc x": "final_report.docx",
    "song dot m p three": "song.mp3",
    "one hundred twenty five dot com": "125.com",
    "kim two hundred five at gmail dot com": "kim205@gmail.com",
    "twenty five hundred dot com": "2500.com",
    "kim twenty four at mail dot com": "kim24@mail.com",
    "kim twenty oh four at mail dot com": "kim2004@mail.com",
    "nine gag dot com": "9gag.com",
    "underscore doe at gmail dot com": "_doe@gmail.com",
    "triple w dot kernel dot org": "www.kernel.org",
    "double u double u double u dot kernel dot org": "www.kernel.org",
}
REFUSED = [
    "",
    "kim",
    "pure words",
    "kim at lee",
    "dot com",
    "kim dot",
    "kernel dot org ",
    "seven",
    "kim at",
    "at",
    "kim  dot lee",
    "#",
    "kim two hundred and five at gmail dot com",
    "one hundred thousand dot com",
    "two five thousand dot com",
    "two thousand five hundred dot com",
    "five million dot com",
    "dot smith at yahoo dot com",
    "at at at dot com",
    "kim dot dot com",
    "kim dot dash",
    "plus x at y dot com",
    "slash docs",
    "kernel dot org slash slash docs",
    "i bought it at zappos dot com",
    "we bought shoes at zappos dot com",
]


def test_examples():
    for spoken, written in EXAMPLES.items():
        assert base.written_form(FST, spoken) == written, spoken


def test_refuses_words_without_signs():
    for spoken in REFUSED:
        assert base.written_form(FST, spoken) == "", spoken


name = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=8)


@settings(max_examples=60)
@given(
    st.lists(name, min_size=1, max_size=2),
    name,
    st.sampled_from(["com", "org", "co.uk", "io", "edu"]),
    st.integers(10, 99),
)
def test_addresses_come_back(local, host, ending, number):
    """Any name, also one that is a number or a sign word when said ("two", "dot"), except that these need not come back."""
    import pynini

    value = f"{'.'.join(local)}{number}@{host}.{ending}"
    spoken = (
        pynini.shortestpath(pynini.compose(pynini.escape(value), base.verbaliser(FST)))
        .project("output")
        .string()
    )
    assert "  " not in spoken
    reserved = {
        *electronic.SIGN_WORDS,
        *base.DIGITS,
        *base.TEENS,
        *base.TENS,
        "zero",
        "oh",
        "dot",
        "at",
        "dash",
        "plus",
        "minus",
        "slash",
        "point",
        "hyphen",
    }
    if not reserved & {*local, host}:
        assert base.written_form(FST, spoken) == value, spoken


def test_is_small():
    assert len(FST.write_to_string()) < 104 * 1024
