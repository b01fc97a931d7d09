"""The grammars: one module a category, spoken -> written. Building them needs pynini (extra `[grammar]`); using the built files does not.

from itn.grammars import CATEGORIES, grammar
fst = grammar("money", style)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from itn.errors import ItnError
from itn.style import CATEGORIES

if TYPE_CHECKING:
    import pynini

    from .style import Style

__all__ = ["CATEGORIES", "grammar", "require_pynini"]


def require_pynini() -> None:
    """Raise ItnError with what to install, where pynini is missing."""
    try:
        import_module("pynini")
    except ModuleNotFoundError as error:
        if error.name != "pynini":
            raise
        raise ItnError(
            "building ITN grammars needs pynini, which has wheels for Linux on x86-64 only: pip install 'emformer-asr[grammar]'"
        ) from None


def grammar(category: str, style: Style) -> pynini.Fst:
    """The transducer of one category. Raises ItnError for an unknown category, and without pynini."""
    if category not in CATEGORIES:
        raise ItnError(f"no category {category!r}; there are: {', '.join(CATEGORIES)}")
    require_pynini()
    return import_module(f".{category}", __name__).grammar(style)
