"""A tiny corpus of generated speech-like audio, made once a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.config import AugmentConfig, CorpusConfig, DataConfig, NoiseConfig
from asr.tokens import Tokenizer
from tests.data.speech import tone, write_manifest

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 utterances of 0.4 to 2.4 s by 4 train speakers, 6 of a dev speaker; and ``noise/`` beside with 2 recordings."""
    folder = tmp_path_factory.mktemp("corpus")
    entries = []
    for number in range(46):
        seconds = 0.4 + 2.0 * ((number * 7) % 40) / 40
        soundfile.write(folder / f"u{number}.wav", tone(seconds, number), 16000)
        text = " ".join(WORDS[(number + k) % 10] for k in range(1 + int(seconds)))
        split, speaker = ("dev", "s9") if number >= 40 else ("train", f"s{number % 4}")
        entries.append(
            {
                "id": f"u{number}",
                "audio": f"u{number}.wav",
                "text": text.upper(),
                "speaker": speaker,
                "split": split,
            }
        )
    write_manifest(folder, entries)
    (folder / "noise").mkdir()
    rng = np.random.default_rng(5)
    for number, seconds in enumerate((0.5, 3.0)):
        samples = 0.1 * rng.standard_normal(round(seconds * 16000))
        soundfile.write(folder / "noise" / f"n{number}.wav", samples, 16000)
    write_manifest(
        folder / "noise", [{"id": f"n{n}", "audio": f"n{n}.wav", "split": "train"} for n in range(2)]
    )
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)] * 5, 12, "word", endpoint=True)


@pytest.fixture
def config(corpus: Path) -> DataConfig:
    """Every augmentation on, except reverb (needs torchaudio)."""
    augment = AugmentConfig(noise=NoiseConfig(0.7, [str(corpus / "noise")]))
    for part in (augment.speed, augment.volume, augment.concatenate, augment.padding, augment.specaugment):
        part.probability = 0.7
    augment.concatenate.max_seconds = 5.0
    return DataConfig(
        train=[CorpusConfig(str(corpus), split="train")],
        dev=[CorpusConfig(str(corpus), split="dev")],
        max_seconds=12.0,
        num_buckets=4,
        max_utterance_seconds=5.0,
        workers=0,
        augment=augment,
    )
