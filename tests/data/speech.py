"""Generated audio and manifests for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def tone(seconds: float, seed: int) -> np.ndarray:
    """A buzz with a slow envelope over faint noise: something with a level, a spectrum and quiet places."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    voice = np.sin(2 * np.pi * (120 + 60 * rng.random()) * t) + 0.5 * np.sin(
        2 * np.pi * (700 + 800 * rng.random()) * t
    )
    return (0.2 * voice * np.sin(np.pi * 3 * t) ** 2 + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


def write_manifest(folder: Path, entries: list[dict]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path
