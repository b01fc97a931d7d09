"""Where the speech before each endpoint token ends, after everything that moves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.data.config import CorpusConfig, DataConfig
from asr.data.loader import make_dev_loader, make_train_loader
from asr.errors import UserError
from asr.training.guard import drop_impossible
from tests.data.speech import tone, write_manifest


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Twelve bursts of sound, each with a silence of its own length behind it; no text but "one"."""
    entries = []
    for i in range(12):
        sound, silence = 0.4 + 0.05 * i, 0.3 + 0.02 * i
        burst = tone(sound, i) + 0.1 * np.sin(np.arange(round(sound * 16000)) / 3)  # loud to its end
        name = f"b{i}.wav"
        soundfile.write(tmp_path / name, np.concatenate([burst, np.zeros(round(silence * 16000))]), 16000)
        entries.append({"id": f"b{i}", "audio": name, "text": "ONE", "speaker": "s", "split": "train"})
    write_manifest(tmp_path, entries)
    data = DataConfig(train=[CorpusConfig(str(tmp_path))], max_seconds=20.0, max_utterance_seconds=5.0, workers=0)
    data.endpoint = True
    return data


def loud_frames(features: torch.Tensor) -> np.ndarray:
    """Feature frames (10 ms) of (T, 80) that are far above silence."""
    level = features.mean(1)
    return (level > level.max() - 6.0).nonzero().squeeze(1).numpy()


def test_plain_utterances(config, tokenizer):
    for batch in make_train_loader(config, tokenizer):
        assert batch.endpoint_frames.shape == batch.tokens.shape
        is_token = batch.tokens == tokenizer.endpoint_id
        assert bool(((batch.endpoint_frames >= 0) == is_token).all())
        for name, row in zip(batch.ids, batch.endpoint_frames, strict=True):
            end = 0.4 + 0.05 * int(name[1:])
            # the burst's own slow envelope may close it a few 10 ms earlier
            assert 0.04 * int(row.max()) == pytest.approx(end - 0.04, abs=0.05)


def test_speed_pauses_and_padding_move_the_end(config, tokenizer):
    augment = config.augment
    for part in (augment.speed, augment.concatenate, augment.padding):
        part.probability = 1.0
    augment.speed.factors = [0.7, 1.4]
    augment.concatenate.max_seconds = 4.0
    seen = 0
    for batch in make_train_loader(config, tokenizer, seed=3):
        for i, length in enumerate(batch.feature_lengths.tolist()):
            loud = loud_frames(batch.features[i, :length])
            ends = batch.endpoint_frames[i][batch.endpoint_frames[i] >= 0].tolist()
            assert len(ends) == 1 + batch.ids[i].count("+") and ends == sorted(ends)
            assert abs(4 * ends[-1] + 3 - loud[-1]) <= 6
            for end in ends:  # sound before it, none for a while behind it
                assert (np.abs(loud - 4 * end) <= 8).any()
                assert not ((loud > 4 * end + 10) & (loud < 4 * end + 20)).any()
            seen += len(ends)
    assert seen == 12


def test_what_the_data_says_wins(config, tokenizer, tmp_path):
    lines = [{"id": "a", "audio": "b0.wav", "text": "one", "speaker": "s", "speech_end": 0.2}]
    write_manifest(tmp_path, lines)
    config.dev = [str(tmp_path)]
    batch = next(iter(make_dev_loader(config, tokenizer)))
    assert batch.endpoint_frames.tolist() == [[-1, 4]]  # 0.2 s is the end of the frame from 0.16 s
    write_manifest(tmp_path, [{**lines[0], "speech_end": "soon"}])
    with pytest.raises(UserError, match="speech_end is 'soon'"):
        next(iter(make_dev_loader(config, tokenizer)))


def test_without_the_token_there_are_no_frames_and_rows_stay_together(config, tokenizer):
    batch = next(iter(make_train_loader(config, tokenizer)))
    lengths = batch.feature_lengths.clone()
    lengths[0] = 4  # one frame for two tokens
    left, dropped = drop_impossible(batch._replace(feature_lengths=lengths))
    assert dropped == batch.ids[:1] and torch.equal(left.endpoint_frames, batch.endpoint_frames[1:])
    config.endpoint = False
    assert next(iter(make_train_loader(config, tokenizer))).endpoint_frames is None
