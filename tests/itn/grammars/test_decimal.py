"""Decimals: examples in both profiles, refusals, round trips."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, decimal
from itn.grammars.style import load_style

GRAMMARS = {name: decimal.grammar(load_style(name)) for name in ("prose", "nemo")}


@pytest.mark.parametrize(
    "spoken, prose, nemo",
    [
        ("two point seven", "2.7", "2.7"),
        ("zero point six", "0.6", "0.6"),
        ("point six", "0.6", ".6"),
        ("minus point six", "-0.6", "-.6"),
        ("two point oh five", "2.05", "2.05"),
        ("two point zero", "2.0", "2.0"),
        ("point twenty five", "0.25", ".25"),
        ("sixty point one million", "60.1 million", "60.1 million"),
        ("one thousand two hundred and one point five", "1201.5", "1201.5"),
        ("negative two point five", "-2.5", "negative 2.5"),
        ("minus zero point zero one", "-0.01", "-0.01"),
        ("two and a half million", "2.5 million", ""),
    ],
)
def test_written(spoken, prose, nemo):
    assert base.written_form(GRAMMARS["prose"], spoken) == prose
    assert base.written_form(GRAMMARS["nemo"], spoken) == nemo


@pytest.mark.parametrize(
    "spoken",
    [
        "",
        "two",
        "point",
        "two point",
        "point taken",
        "two and a half",
        "half a million",
        "two million",
        "a point five",
    ],
)
@pytest.mark.parametrize("profile", GRAMMARS)
def test_refused(profile, spoken):
    assert base.written_form(GRAMMARS[profile], spoken) == ""


@pytest.mark.parametrize("profile", GRAMMARS)
def test_round_trip(profile):
    rng, grammar = random.Random(0), GRAMMARS[profile]
    says = base.verbaliser(grammar)
    for _ in range(200):
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 4)))
        written = f"{rng.choice(['', '-'])}{rng.randrange(10 ** rng.randint(1, 6))}.{digits}"
        written += rng.choice(["", "", " million", " billion"])
        spoken = base.written_form(says, written)
        assert spoken, written
        assert "  " not in spoken
        assert base.written_form(grammar, spoken) == written, spoken
