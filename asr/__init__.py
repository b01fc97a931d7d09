"""Streaming speech recognition: train an Emformer transducer, stream audio through it, ship it.

``recognizer = asr.load("digits")``, then ``recognizer.session()`` or ``recognizer.transcribe(paths)``.
Importing the package loads nothing but itself; each room is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asr.errors import UserError

if TYPE_CHECKING:
    from asr.streaming.recognizer import Recognizer

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load", "transcribe"]


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
