"""Inverse text normalisation: spoken English words in, written text out, word by word.

``Normalizer("prose").normalize("it costs twenty five dollars").text``; word by word: ``stream = Normalizer().stream()``,
``stream.push(word)``, ``stream.finish()``. Running needs numpy and kaldifst only; importing the package loads neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itn.errors import ItnError, LexiconError
    from itn.lexicon import Category, Lexicon
    from itn.normalizer import Normalizer, Result
    from itn.stream import Span, Stream, Update

__all__ = [
    "Category", "ItnError", "Lexicon", "LexiconError", "Normalizer", "Result", "Span", "Stream", "Update",
]  # fmt: skip

_ROOMS = {
    "Category": "lexicon", "ItnError": "errors", "Lexicon": "lexicon", "LexiconError": "errors",
    "Normalizer": "normalizer", "Result": "normalizer", "Span": "stream", "Stream": "stream", "Update": "stream",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'itn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"itn.{_ROOMS[name]}"), name)
