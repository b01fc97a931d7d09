"""Ordinals: examples, refusals, and every one that can be said comes back."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, ordinal
from itn.grammars.style import Style

GRAMMAR = ordinal.grammar(Style())
SAYS = base.verbaliser(GRAMMAR)


@pytest.mark.parametrize(
    "spoken, written",
    [
        ("third", "3rd"),
        ("tenth", "10th"),
        ("twelfth", "12th"),
        ("twentieth", "20th"),
        ("thirty second", "32nd"),
        ("one hundredth", "100th"),
        ("one hundred seventh", "107th"),
        ("one hundred and seventh", "107th"),
        ("five hundred eleventh", "511th"),
        ("two thousandth", "2000th"),
        ("two thousand and first", "2001st"),
        ("one thousand five hundredth", "1500th"),
        ("twenty five hundredth", "2500th"),
        ("nineteen hundred and first", "1901st"),
        ("three hundred thousandth", "300000th"),
        ("one hundred twenty thousand three hundred and forty third", "120343rd"),
        ("two millionth", "2000000th"),
        ("zeroth", "0th"),
    ],
)
def test_written(spoken, written):
    assert base.written_form(GRAMMAR, spoken) == written


@pytest.mark.parametrize(
    "spoken",
    ["", "three", "thirty seconds", "hundredth", "millionth", "thirty  second", "twenty tenth", "two third"],
)
def test_refused(spoken):
    assert base.written_form(GRAMMAR, spoken) == ""


def suffixed(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number // 10 % 10 == 1 else last}"


def test_round_trip():
    rng = random.Random(0)
    numbers = [*range(1, 130), *(rng.randrange(10 ** rng.randrange(3, 7)) for _ in range(200))]
    for number in numbers:
        spoken = base.written_form(SAYS, suffixed(number))
        assert spoken, number
        assert base.written_form(GRAMMAR, spoken) == suffixed(number), spoken
