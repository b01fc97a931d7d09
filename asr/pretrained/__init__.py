"""Models that ship with the package: each is a folder here, with its card."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from asr.errors import UserError

HERE = Path(__file__).resolve().parent
CONFIG = "config.yaml"


def list_pretrained() -> list[str]:
    """Names of the models that ship with the package, sorted."""
    return sorted(folder.name for folder in HERE.iterdir() if (folder / CONFIG).is_file())


def resolve(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model given by name or path; an existing model folder wins over a name.

    Raises:
        UserError: neither; the nearest name is suggested.
    """
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise UserError(f"a model is a name or a folder, not a {type(name_or_folder).__name__}")
    text = os.fspath(name_or_folder)
    if not text:
        raise UserError("the model's name is empty")
    folder = Path(text)
    try:
        if (folder / CONFIG).is_file():
            return folder
    except OSError as error:  # a name that is too long
        raise UserError(f"cannot read a model folder {text!r}: {error.strerror or error}") from None
    names = list_pretrained()
    if text in names:
        return HERE / text
    if folder.is_dir():
        raise UserError(f"{text} is not a model folder: it has no {CONFIG}")
    near = difflib.get_close_matches(text.lower(), names, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"the package has {', '.join(names) if names else 'no models'}"
    )
    raise UserError(f"no model {text!r}: neither a folder nor the name of a shipped model ({hint})")
