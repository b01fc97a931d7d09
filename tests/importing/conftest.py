"""A small model of torchaudio's factory, imported; real speech to hear."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from asr.importing.torchaudio_bundle import import_bundle, locate
from asr.streaming import Recognizer
from tests.importing.bundles import factory, small_bundle, speaking, write_files


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """torchaudio's model, its files, and the model folder made of them."""
    pytest.importorskip("torchaudio")
    torch.manual_seed(0)
    bundle = small_bundle()
    folder = tmp_path_factory.mktemp("bundle")
    model = speaking(factory(bundle.model))
    files = write_files(bundle, model, folder / "files")
    import_bundle(bundle, locate(bundle, files), folder / "model")
    return SimpleNamespace(
        bundle=bundle, theirs=model, files=files, folder=folder / "model", ours=Recognizer.load(str(folder / "model"))
    )


@pytest.fixture(scope="module")
def speech(real_data) -> list[np.ndarray]:
    """Recordings of 2 to 8 s whose last chunk is not whole, and one whose is."""
    with open(real_data / "librispeech" / "manifest.jsonl") as lines:
        records = [r for r in map(json.loads, lines) if r["duration"] < 8][:60:15]
    audio = [soundfile.read(real_data / "librispeech" / r["audio"], dtype="float32")[0] for r in records]
    return [*audio, audio[0][: 2560 * 12 - 160]]  # 12 chunks of 16 frames
