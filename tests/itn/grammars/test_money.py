"""Money: examples in both profiles, refusals, round trips."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, money
from itn.grammars.style import load_style

GRAMMARS = {name: money.grammar(load_style(name)) for name in ("prose", "nemo")}


@pytest.mark.parametrize(
    "spoken, prose, nemo",
    [
        ("seven dollars", "$7", "$7"),
        ("one dollar", "$1", "$1"),
        ("zero dollars", "$0", "$0"),
        ("seven us dollars", "$7", "$7"),
        ("seven dollars and thirty cents", "$7.30", "$7.30"),
        ("seven dollars thirty cents", "$7.30", "$7.30"),
        ("seven dollars and one cent", "$7.01", "$7.01"),
        ("seven dollars thirty", "$7.30", "$7.30"),
        ("one dollar fifty", "$1.50", "$1.50"),
        ("seven thirty", "$7.30", "$7.30"),
        ("nineteen ninety nine", "$19.99", "$19.99"),
        ("six billion dollars", "$6 billion", "$6 billion"),
        ("two point five million dollars", "$2.5 million", "$2.5 million"),
        ("three point two zero dollars", "$3.20", "$3.20"),
        ("three million five hundred thousand dollars", "$3500000", "$3500000"),
        ("two thousand five hundred and ten dollars", "$2510", "$2510"),
        ("fifteen hundred dollars", "$1500", "$1500"),
        ("a hundred dollars", "$100", ""),
        ("a million dollars", "$1 million", ""),
        ("a thousand dollars", "$1000", ""),
        ("a hundred and fifty dollars", "$150", ""),
        ("one million two hundred fifty thousand euros", "€1250000", "€1250000"),
        ("two million three hundred thousand yen", "¥2300000", "¥2300000"),
        ("two million three hundred thousand pounds", "£2300000", ""),
        ("fifteen pounds and twenty pence", "£15.20", ""),
        ("two and a half million dollars", "$2.5 million", ""),
        ("minus five dollars", "-$5", "minus $5"),
        ("fifty cents", "50 cents", "$0.50"),
        ("nine cents", "9 cents", "$0.09"),
        ("one cent", "1 cent", "$0.01"),
        ("fifty pence", "50 pence", "50 pence"),
        ("eighteen euros", "€18", "€18"),
        ("one euro", "€1", "€1"),
        ("twelve euros and fifty cents", "€12.50", "€12.50"),
        ("eighteen pounds", "£18", "18 pounds"),
        ("five pounds", "£5", ""),
        ("five pounds and fifty pence", "£5.50", ""),
        ("twelve pounds sterling", "£12", "£12"),
        ("five quid", "£5", "£5"),
        ("forty million yen", "¥40 million", "¥40 million"),
        ("forty yuan", "40 yuan", "40 yuan"),
        ("nineteen million r m b", "19 million RMB", ""),
        ("r m b nineteen million", "RMB 19 million", ""),
        ("five hundred rupees", "₹500", "₹500"),
        ("five crore rupees", "₹5 crore", "₹50000000"),
        ("twelve swiss francs", "12 swiss francs", "chf12"),
        ("one canadian dollar", "1 canadian dollar", "ca$1"),
        ("fifty bucks", "", "50 bucks"),
    ],
)
def test_written(spoken, prose, nemo):
    assert base.written_form(GRAMMARS["prose"], spoken) == prose
    assert base.written_form(GRAMMARS["nemo"], spoken) == nemo


@pytest.mark.parametrize(
    "spoken",
    [
        "", "seven", "dollars", "million dollars", "a dollar", "half a million dollars", "a few dollars", "one dollars",
        "two and a half dollars", "seven  dollars", "five dollars and a half",
        "hundred dollars", "thousand dollars", "hundred euros",
    ],
)  # fmt: skip
@pytest.mark.parametrize("profile", GRAMMARS)
def test_refused(profile, spoken):
    assert base.written_form(GRAMMARS[profile], spoken) == ""


@pytest.mark.parametrize("profile", GRAMMARS)
def test_round_trip(profile):
    rng, grammar = random.Random(0), GRAMMARS[profile]
    says = base.verbaliser(grammar)
    for _ in range(200):
        sign = rng.choice("$$€₹¥")
        amount = str(rng.randrange(10 ** rng.randint(1, 6)))
        if sign in "$€":
            amount += rng.choice(["", f".{rng.randrange(100):02}"])
        if "." not in amount:
            amount = rng.choice(
                [
                    amount,
                    f"{rng.randrange(1, 1000)} million",
                    f"{rng.randrange(99)}.{rng.randrange(10)} billion",
                ]
            )
        spoken = base.written_form(says, sign + amount)
        assert spoken, sign + amount
        assert "  " not in spoken
        assert base.written_form(grammar, spoken) == sign + amount, spoken


@pytest.mark.parametrize("profile", GRAMMARS)
def test_every_currency(profile):
    """Each row of the table is written as its cell says, or refused where the cell is empty."""
    for row in base.table("currencies.tsv"):
        cell, word = row[profile], row["many"].split("|")[0]
        wanted = "" if not cell else f"17 {cell[1:] or word}" if cell[0] == "=" else f"{cell}17"
        assert base.written_form(GRAMMARS[profile], f"seventeen {word}") == wanted
