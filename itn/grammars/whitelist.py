"""Fixed phrases of `whitelist.tsv`: "covid nineteen" -> covid-19, "twenty four seven" -> 24/7, "four oh one k" -> 401k; in the nemo
profile also titles and abbreviations, "doctor" -> dr., "for example" -> e.g.

The table is closed: a phrase that is not in it is refused. Users add phrases of their own at run time, in a lexicon.
"""

from __future__ import annotations

from . import base
from .base import Fst, pynini
from .style import Style

TABLE = "whitelist.tsv"


def rows(column: str) -> list[tuple[str, str, float]]:
    """(spoken, written, cost) of one column of the table. Raises ValueError if there is no such column."""
    table = base.table(TABLE)
    if column not in table[0] or column in ("spoken", "cost"):
        raise ValueError(f"{TABLE} has no column {column!r}")
    return [(row["spoken"], row[column], float(row["cost"] or 0)) for row in table if row[column]]


def grammar(style: Style) -> Fst:
    """Spoken -> written for one phrase; a title may have its name behind it ("doctor lee" -> dr. lee)."""
    phrases = rows(style.whitelist)
    titles = [row for row in phrases if row[1].endswith(".") and row[1].count(".") == 1 and " " not in row[0]]
    grammar = base.pairs(phrases)
    if not titles:
        return grammar
    name = pynini.closure(pynini.union(*"abcdefghijklmnopqrstuvwxyz'"), 1)
    more = pynini.closure(base.SPACE + name, 1, 2)
    both = base.pairs(titles) + base.maybe(base.say(" and ", " and ") + base.pairs(titles))
    return pynini.union(grammar, base.cost(both + more, 6.0)).optimize()
