"""Fixed phrases."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, whitelist
from itn.grammars.style import load_style

EXAMPLES = {  # prose, nemo
    "doctor": ("", "dr."),
    "mister": ("", "mr."),
    "saint": ("", "st."),
    "for example": ("", "e.g."),
    "covid nineteen": ("covid-19", "COVID-19"),
    "twenty four seven": ("24/7", "24/7"),
    "nine one one": ("911", "911"),
    "nine eleven": ("9/11", ""),
    "four oh one k": ("401k", "401k"),
    "s and p five hundred": ("s&p 500", "S&P 500"),
    "five g": ("5g", "5G"),
    "c plus plus": ("c++", "c++"),
    "elm street": ("", ""),
    "doctor lee": ("", "dr. lee"),
}


@pytest.mark.parametrize("index, profile", enumerate(["prose", "nemo"]))
def test_examples(index, profile):
    fst = whitelist.grammar(load_style(profile))
    for spoken, forms in EXAMPLES.items():
        assert base.written_form(fst, spoken) == forms[index], spoken


@pytest.mark.parametrize("profile", ["prose", "nemo"])
def test_every_row_is_clean_and_reads_back(profile):
    style = load_style(profile)
    fst = whitelist.grammar(style)
    rows = whitelist.rows(style.whitelist)
    assert len({spoken for spoken, _, _ in rows}) == len(rows)
    for spoken, written, cost in rows:
        assert spoken == " ".join(spoken.lower().split()) and written == written.strip() and 0 <= cost <= 6
        assert base.written_form(fst, spoken) == written


def test_an_unknown_column_is_named():
    with pytest.raises(ValueError, match="no column 'chicago'"):
        whitelist.grammar(replace(load_style("prose"), whitelist="chicago"))
