"""Integers in English words, apart from the grammars: what the property tests compare them with."""

from __future__ import annotations

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ("", " thousand", " million", " billion", " trillion")
IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}


def spell(n: int, joint: str = " ") -> str:
    """n < 10**15; `joint`: between the hundreds and the rest, " " or " and "."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10] + (f" {SMALL[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{SMALL[n // 100]} hundred" + (joint + spell(n % 100) if n % 100 else "")
    groups = [(n // 1000**k % 1000, SCALES[k]) for k in range(4, -1, -1)]
    return " ".join(spell(value, joint) + scale for value, scale in groups if value)


def spell_ordinal(n: int, joint: str = " ") -> str:
    """ "twenty first" of 21."""
    head, _, last = spell(n, joint).rpartition(" ")
    last = IRREGULAR.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return f"{head} {last}".strip()


def suffix(n: int) -> str:
    return "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def read_year(n: int) -> str:
    """ "nineteen oh five", "two thousand", "twenty one hundred"."""
    century, rest = divmod(n, 100)
    if century in (10, 20) and rest < 10:
        return spell(n)
    return spell(century) + (" hundred" if rest == 0 else f" oh {SMALL[rest]}" if rest < 10 else f" {spell(rest)}")
