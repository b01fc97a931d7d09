"""Where speech begins and ends, on made signals whose edges are known and on real speech."""

from __future__ import annotations

import json

import numpy as np
import pytest

from asr.activity import end_of_speech, speech_bounds
from asr.audio import load_audio

RATE = 16000


def tone(seconds, level=0.1):
    return (level * np.sin(2 * np.pi * 200 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds, level, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("level", [0.0, 1e-4, 2e-3])
@pytest.mark.parametrize("volume", [0.02, 0.3])
def test_edges_of_a_sound_in_noise(level, volume):
    audio = np.concatenate([np.zeros(8000), tone(1.0, volume), np.zeros(3200), tone(0.5, volume), np.zeros(11200)])
    begin, end = speech_bounds(audio + noise(len(audio) / RATE, min(level, volume / 30)))
    assert begin == pytest.approx(0.5 * RATE, abs=0.02 * RATE) and end == pytest.approx(2.2 * RATE, abs=0.02 * RATE)


def test_a_click_is_no_speech():
    audio = np.concatenate([tone(0.5), noise(1.0, 1e-3)])
    audio[16000:16100] = 0.5
    assert end_of_speech(audio) == pytest.approx(0.5, abs=0.03)


def test_a_recording_cut_to_its_speech_is_speech_to_its_edges():
    audio = tone(0.333)
    assert speech_bounds(audio) == (0, len(audio))
    assert speech_bounds(audio[:700]) == (0, 700)


def test_nothing_there():
    assert speech_bounds(np.zeros(0)) is None and speech_bounds(np.zeros(16000)) is None
    assert speech_bounds(np.ones(100)) is None  # shorter than a hop
    assert end_of_speech(np.zeros(16000)) == 1.0


def test_silence_around_real_speech_moves_nothing(real_data):
    """The end found in an utterance is where it was after a second of silence has been put on either side."""
    lines = (real_data / "fsdd" / "manifest.jsonl").read_text().splitlines()[:40]
    for line in lines:
        audio = load_audio(real_data / "fsdd" / json.loads(line)["audio"])
        begin, end = speech_bounds(audio)
        assert 0 <= begin < 0.5 * len(audio) < end <= len(audio)
        quiet = np.zeros(RATE, np.float32)
        moved = speech_bounds(np.concatenate([quiet, audio[begin:end], quiet]))
        assert moved[0] == pytest.approx(RATE, abs=0.15 * RATE) and moved[1] == pytest.approx(
            RATE + end - begin, abs=0.15 * RATE
        )
