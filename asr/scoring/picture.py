"""Pictures of results, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr.errors import UserError


def new_figure(width: float, height: float) -> Any:
    """An empty ``matplotlib.figure.Figure`` of that size in inches; None: matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str | Path) -> None:
    """Write it; the ending says the format (png, svg, pdf).

    Raises:
        UserError: the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an unknown ending
        raise UserError(f"cannot write the picture {path}: {getattr(error, 'strerror', None) or error}") from None
