"""Shared fixtures: where real speech is, one seed, one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


def real_data_folder() -> Path | None:
    """The folder with real speech: ``$ASR_DATA``, else ``../shared/data`` beside the clone, else None."""
    for candidate in (os.environ.get("ASR_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = real_data_folder()
    if folder is None:
        pytest.skip("no real speech: set ASR_DATA to a folder with librispeech/manifest.jsonl, fsdd/manifest.jsonl …")
    return folder


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
