"""Fractions: examples, refusals, round trips."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, fraction
from itn.grammars.style import Style

GRAMMAR = fraction.grammar(Style())


@pytest.mark.parametrize(
    "spoken, written",
    [
        ("two thirds", "2/3"),
        ("three quarters", "3/4"),
        ("three fourths", "3/4"),
        ("one half", "1/2"),
        ("a half", "1/2"),
        ("a third", "1/3"),
        ("one quarter", "1/4"),
        ("two and a half", "2 1/2"),
        ("five and three quarters", "5 3/4"),
        ("seven twenty fifths", "7/25"),
        ("nine hundredths", "9/100"),
        ("five over eight", "5/8"),
    ],
)
def test_written(spoken, written):
    assert base.written_form(GRAMMAR, spoken) == written


@pytest.mark.parametrize(
    "spoken",
    ["", "half", "two third", "one thirds", "the third", "two firsts", "ten seconds", "half a million"],
)
def test_refused(spoken):
    assert base.written_form(GRAMMAR, spoken) == ""


def test_round_trip():
    rng, says = random.Random(0), base.verbaliser(GRAMMAR)
    for _ in range(200):
        written = (
            rng.choice(["", f"{rng.randrange(1, 2000)} "])
            + f"{rng.randrange(1, 100)}/{rng.choice([2, 3, 4, 5, 8, 10, 16, 25, 64, 100])}"
        )
        spoken = base.written_form(says, written)
        assert spoken, written
        assert base.written_form(GRAMMAR, spoken) == written, spoken
