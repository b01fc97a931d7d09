"""`import asr` is light: what it does not use it does not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import asr

HEAVY = {
    "torchaudio", "k2", "lhotse", "lightning", "pytorch_lightning", "pynini", "jsonargparse", "jiwer",
    "tensorboard",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_asr_is_light():
    loaded = modules_after("import asr; asr.load, asr.transcribe, asr.__version__")
    assert "asr" in loaded and not loaded & HEAVY
    assert "torch" not in loaded and "numpy" not in loaded


def test_what_load_takes_is_there_and_loaded_when_used():
    from asr.decoding.added import LanguageModels
    from asr.decoding.beam import SearchConfig
    from asr.decoding.biasing import BiasGraph
    from asr.streaming import Details, EndpointConfig

    for kind in (SearchConfig, LanguageModels, BiasGraph, Details, EndpointConfig):
        assert getattr(asr, kind.__name__) is kind and kind.__name__ in asr.__all__ and kind.__name__ in dir(asr)
    assert "torch" not in modules_after("import asr; assert 'SearchConfig' in dir(asr)")
    assert "torch" in modules_after("from asr import SearchConfig; SearchConfig('beam')")
    with pytest.raises(AttributeError, match="'asr' has no attribute 'SearchConfg'"):
        asr.SearchConfg  # noqa: B018


def test_base_rooms_need_no_extras():
    rooms = "asr.audio, asr.features, asr.tokens, asr.config, asr.models.folder"
    loaded = modules_after(f"import {rooms}")
    assert "torch" in loaded and not loaded & HEAVY
