"""A corpus of tones that takes no time to learn, and a recipe for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.training.recipe import Recipe, recipe_from_dict

WORDS = {"low": 300.0, "mid": 900.0, "high": 2400.0}  # word -> Hz


def write_corpus(folder: Path, utterances: int, seed: int, speaker: str) -> Path:
    """A manifest.jsonl folder: each word a 0.3 s tone after 0.1 s of faint noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = []
    for i in range(utterances):
        words = list(rng.choice(list(WORDS), size=int(rng.integers(1, 4))))
        parts = []
        for word in words:
            time = np.arange(int(0.3 * 16000)) / 16000
            parts += [np.zeros(1600), 0.3 * np.sin(2 * np.pi * WORDS[word] * time)]
        audio = np.concatenate(parts)
        audio += 0.003 * rng.standard_normal(len(audio))
        name = f"{speaker}-{i:03d}"
        soundfile.write(folder / f"{name}.wav", audio, 16000)
        record = {"id": name, "audio": f"{name}.wav", "duration": len(audio) / 16000, "text": " ".join(words)}
        lines.append(json.dumps({**record, "speaker": speaker}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These tests fork; OpenMP's threads do not survive that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or Lightning's processes choose a number themselves
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of training and dev utterances."""
    root = tmp_path_factory.mktemp("tones")
    return write_corpus(root / "train", 24, 1, "anna"), write_corpus(root / "dev", 4, 2, "bert")


RecipeMaker = Callable[..., Recipe]


def tiny_mapping(train: Path, dev: Path, output: Path) -> dict[str, Any]:
    """A recipe of a few thousand parameters without dropout or augmentation; a step takes milliseconds."""
    return {
        "name": "tones",
        "output_dir": str(output),
        "model": {
            "encoder": {
                "dim": 16,
                "heads": 2,
                "ffn_dim": 32,
                "layers": 1,
                "dropout": 0.0,
                "left_context_ms": 320,
            },
            "predictor": {"kind": "stateless", "embed_dim": 16, "dropout": 0.0},
            "joiner": {"dim": 16},
        },
        "tokens": {"type": "word", "vocab_size": 4},
        "data": {
            "train": [str(train)],
            "dev": [str(dev)],
            "max_seconds": 4.0,
            "max_utterance_seconds": 4.0,
            "workers": 0,
        },
        "loss": {"kind": "full", "warmup_steps": 0},
        "optim": {"lr": 0.005, "warmup_steps": 2, "schedule": "constant"},
        "trainer": {
            "max_steps": 4,
            "accelerator": "cpu",
            "validate_every_steps": 0,
            "progress_seconds": 0.0,
            "average": {"kind": "ema", "decay": 0.9},
        },
    }


@pytest.fixture
def make_recipe(corpus: tuple[Path, Path], tmp_path: Path) -> RecipeMaker:
    """`make_recipe(name, {"optim.lr": 0.1, …})`: the tiny recipe, changed, writing to a folder of that name."""

    def make(name: str = "run", changes: dict[str, Any] | None = None) -> Recipe:
        mapping = tiny_mapping(*corpus, tmp_path / name)
        for key, value in (changes or {}).items():
            node = mapping
            *parents, leaf = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return recipe_from_dict(mapping)

    return make
