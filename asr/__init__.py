"""Streaming speech recognition: train an Emformer transducer, stream audio through it, ship it.

``recognizer = asr.load("digits")``, then ``recognizer.session()`` or ``recognizer.transcribe(paths)``. What these take is here, too:
``asr.SearchConfig``, ``asr.LanguageModels``, ``asr.BiasGraph``, ``asr.Details`` and ``asr.EndpointConfig``.
Importing the package loads nothing but itself; each room is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asr.errors import UserError

if TYPE_CHECKING:
    from asr.decoding.added import LanguageModels
    from asr.decoding.beam import SearchConfig
    from asr.decoding.biasing import BiasGraph
    from asr.streaming.details import Details
    from asr.streaming.endpointing import EndpointConfig
    from asr.streaming.recognizer import Recognizer

__version__ = "0.1.0"
__all__ = [
    "BiasGraph", "Details", "EndpointConfig", "LanguageModels", "SearchConfig", "UserError", "__version__", "load", "transcribe",
]  # fmt: skip
_ROOMS = {
    "BiasGraph": "asr.decoding.biasing",
    "Details": "asr.streaming.details",
    "EndpointConfig": "asr.streaming.endpointing",
    "LanguageModels": "asr.decoding.added",
    "SearchConfig": "asr.decoding.beam",
}


def __getattr__(name: str) -> Any:
    """What other rooms define, imported at its first use."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return globals().setdefault(name, getattr(import_module(_ROOMS[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})


def load(name_or_folder: str = "digits", **options: Any) -> Recognizer:
    """A recogniser for a model that ships with the package or lies in a folder; see
    `asr.streaming.recognizer`.

    Raises:
        UserError: no such model, or a folder that is not a model of this version.
    """
    from asr.streaming.recognizer import Recognizer

    return Recognizer.load(name_or_folder, **options)


def transcribe(inputs: Any, model: str = "digits", **options: Any) -> Any:
    """Transcripts of files, arrays or standard input; ``options`` are those of `Recognizer.transcribe`.

    Raises:
        UserError: no such model, or audio that cannot be read.
    """
    return load(model).transcribe(inputs, **options)
