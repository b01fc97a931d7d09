"""Training: `load_recipe`, `export_folder`, `train_command` behind `asr train`; the run itself is `asr.training.fit.fit`."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "TransducerTask": "task",
    "FitResult": "fit",
    "export_folder": "export",
    "train_command": "command",
}

__all__ = [
    "FitResult",
    "Recipe",
    "TransducerTask",
    "export_folder",
    "load_recipe",
    "train_command",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
