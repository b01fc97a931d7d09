"""Measures: examples in both profiles, every unit of the table, refusals, round trips."""

import random

import pytest

pytest.importorskip("pynini")

from itn.grammars import base, measure
from itn.grammars.style import Style, load_style

STYLES = {name: load_style(name) for name in ("prose", "nemo")}
GRAMMARS = {name: measure.grammar(style) for name, style in STYLES.items()}


@pytest.mark.parametrize(
    "spoken, prose, nemo",
    [
        ("four percent", "4%", "4 %"),
        ("one percent", "1%", "1 %"),
        ("four per cent", "4%", "4 %"),
        ("eleven point four percent", "11.4%", "11.4 %"),
        ("minus two percent", "-2%", "-2 %"),
        ("negative two percent", "-2%", "negative 2 %"),
        ("a hundred percent", "100%", ""),
        ("a hundred degrees", "100 degrees", ""),
        ("a hundred miles", "100 miles", ""),
        ("a hundred and fifty miles", "150 miles", ""),
        ("a thousand miles", "1000 miles", ""),
        ("five percentage points", "5 percentage points", ""),
        ("one percentage point", "1 percentage point", ""),
        ("twenty mph", "20 mph", "20 mph"),
        ("twenty km", "20 km", "20 km"),
        ("two gb", "2 GB", "2 gb"),
        ("five gallons per minute", "5 gallons per minute", ""),
        ("ten cubic meters per day", "10 cubic meters per day", ""),
        ("two and a half percent", "2.5%", ""),
        ("zero percent", "0%", "0 %"),
        ("zero liters", "0 liters", ""),
        ("two and a half million barrels", "2.5 million barrels", ""),
        ("fifty basis points", "50 basis points", "50 basis points"),
        ("seventy two degrees", "72 degrees", "72 degrees"),
        ("five degrees", "5 degrees", ""),
        ("seventy two degrees fahrenheit", "72 °F", "72 °F"),
        ("minus five degrees celsius", "-5 °C", "-5 °C"),
        ("eight kilometers", "8 km", "8 km"),
        ("one kilometer", "1 km", "1 km"),
        ("two point five kilometers", "2.5 km", "2.5 km"),
        ("point five kilometers", "0.5 km", ".5 km"),
        ("eleven square kilometers", "11 km²", "11 km²"),
        ("ninety kilometers per hour", "90 km/h", "90 km/h"),
        ("sixty miles per hour", "60 mph", "60 mph"),
        ("five meters per second", "5 m/s", "5 m/s"),
        ("five kilograms per square meter", "5 kg/m²", "5 kg/m²"),
        ("ten giga watt hours", "", "10 gWh"),
        ("two kilowatt hours", "2 kWh", "2 kWh"),
        ("three hundred megawatts", "300 MW", "300 mW"),
        ("sixteen gigabytes", "16 GB", "16 gb"),
        ("fifty megabits per second", "50 Mbps", "50 mbps"),
        ("three million square feet", "3 million square feet", "3 million sq ft"),
        ("five hundred thousand tons", "500000 tons", "500000 tons"),
        ("ten miles", "10 miles", "10 mi"),
        ("ten foot", "10 foot", "10 ft"),
        ("six foot two", "6 foot 2", ""),
        ("six feet two inches", "6 feet 2 inches", '6 ft 2 "'),
        ("six hours", "6 hours", "6 h"),
        ("one minute", "1 minute", "1 min"),
        ("forty five minutes", "45 minutes", "45 min"),
        ("thirteen days", "13 days", "13 days"),
        ("five days", "5 days", ""),
        ("one year", "1 year", ""),
    ],
)
def test_written(spoken, prose, nemo):
    assert base.written_form(GRAMMARS["prose"], spoken) == prose
    assert base.written_form(GRAMMARS["nemo"], spoken) == nemo


@pytest.mark.parametrize(
    "spoken",
    [
        "", "four", "percent", "half a percent", "half a percentage point", "hundred percent", "hundred kilometers", "a mile", "half a mile", "two and a half miles",
        "one kilometers", "four  percent", "a few feet", "feet", "a second", "four percent per hour",
    ],
)  # fmt: skip
@pytest.mark.parametrize("profile", ["prose"])
def test_refused(profile, spoken):
    assert base.written_form(GRAMMARS[profile], spoken) == ""


@pytest.mark.parametrize("profile", GRAMMARS)
def test_every_unit(profile):
    """Each row of the table is written as its cell says; what is an empty cell everywhere is refused."""
    rows = base.table("units.tsv")
    assert len(rows) > 150
    words = profile == "prose"
    known = {
        form for row in rows if row[profile] for form in (*row["one"].split("|"), *row["many"].split("|"))
    }
    for row in rows:
        cell = "=" if words and row["kind"] == "duration" and row[profile] else row[profile]
        for word in row["many"].split("|"):
            space = STYLES[profile].percent_space if cell == "%" else " "
            wanted = f"17 {word}" if cell == "=" else f"17{space}{cell}"
            written = base.written_form(GRAMMARS[profile], f"seventeen {word}")
            assert written == wanted if cell else word in known or " per " in word or not written, word
        if cell and cell != "=":
            one = row["one"].split("|")[0]
            assert base.written_form(GRAMMARS[profile], f"one {one}") == f"1{space}{cell}"


@pytest.mark.parametrize("profile", GRAMMARS)
def test_round_trip(profile):
    rng, grammar, says = random.Random(0), GRAMMARS[profile], base.verbaliser(GRAMMARS[profile])
    percent = STYLES[profile].percent_space + "%"
    for _ in range(200):
        number = rng.choice(
            [str(rng.randrange(10 ** rng.randint(1, 6))), f"{rng.randrange(99)}.{rng.randrange(99)}"]
        )
        written = (
            rng.choice(["", "-"])
            + number
            + rng.choice([percent, " km", " kg", " °C", " m/s", " km²", " kWh"])
        )
        spoken = base.written_form(says, written)
        assert spoken, written
        assert "  " not in spoken
        assert base.written_form(grammar, spoken) == written, spoken


def test_durations_are_a_setting():
    grammar = measure.grammar(Style(durations="symbols"))
    assert base.written_form(grammar, "seven hours") == "7 h"
    assert base.written_form(grammar, "seven days") == "7 days"
