"""Features of the public torchaudio model: its extractor's numbers, the same streaming as whole."""

from __future__ import annotations

import json
import math
import random

import pytest
import soundfile
import torch
from torch import Tensor

from asr.features import (
    Fbank,
    FeatureConfig,
    feature_hash,
    num_frames,
    piecewise_log,
    torchaudio_mel_matrix,
)
from tests.test_features import stream

KIND = "torchaudio_rnnt"
GAIN = 10.0 ** (0.05 * 2 * 20 * math.log10(32767))
LENGTHS = [0, 1, 2, 40, 159, 160, 199, 200, 201, 202, 240, 319, 320, 359, 360, 361, 400, 401, 1000, 16000]


@pytest.fixture(scope="module")
def fbank() -> Fbank:
    return Fbank(FeatureConfig(KIND))


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """(16000,) with loud, quiet and digitally silent stretches."""
    x = 0.2 * torch.randn(16000, generator=torch.Generator().manual_seed(3))
    x[4000:8000] *= 1e-3
    x[8000:12000] *= 3e-5
    x[12000:13000] = 0.0
    return x


def extract(audio: Tensor) -> Tensor:
    """(S,) -> (T, 80): what torchaudio's RNN-T pipelines compute, up to their normalisation."""
    pytest.importorskip("torchaudio")
    from torchaudio.pipelines.rnnt_pipeline import _gain, _piecewise_linear_log
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(sample_rate=16000, n_fft=400, n_mels=80, hop_length=160)(audio)
    return _piecewise_linear_log(mel.transpose(1, 0) * _gain)


def test_mel_matrix_is_torchaudios():
    functional = pytest.importorskip("torchaudio.functional")
    assert torch.equal(torchaudio_mel_matrix(), functional.melscale_fbanks(201, 0.0, 8000.0, 80, 16000))


def test_piecewise_log_is_torchaudios():
    pipeline = pytest.importorskip("torchaudio.pipelines.rnnt_pipeline")
    x = torch.cat([torch.zeros(1), torch.logspace(-6, 9, 20000), torch.linspace(2.7, 2.74, 1000)])
    assert torch.equal(piecewise_log(x), pipeline._piecewise_linear_log(x.clone()))
    values = piecewise_log(torch.tensor([0.0, 1.0, 5.0, 100.0]))
    torch.testing.assert_close(values, torch.tensor([0.0, 0.36788, 0.59208, 4.60517]), atol=1e-5, rtol=0)


def test_equal_to_torchaudio(fbank, noise):
    for S in (201, 202, 319, 320, 321, 1000, 16000):
        y = fbank(noise[None, :S])[0][0]
        assert y.shape == (num_frames(S, KIND), 80) == (S // 160 + 1, 80)
        torch.testing.assert_close(y, extract(noise[:S]), atol=1e-4, rtol=0)


def test_equal_to_torchaudio_on_speech(fbank, real_data):
    """All values within 1e-4 but those that lie on a jump of the piecewise logarithm, less than one in a million."""
    with open(real_data / "librispeech" / "manifest.jsonl") as lines:
        records = [json.loads(line) for line in lines][::150]
    differences = []
    for record in records:
        audio = torch.from_numpy(soundfile.read(real_data / "librispeech" / record["audio"], dtype="float32")[0])
        differences.append((fbank(audio[None])[0][0] - extract(audio)).abs().flatten())
    difference = torch.cat(differences)
    assert difference.numel() > 1_000_000
    assert (difference > 1e-4).float().mean() < 1e-6
    assert difference.mean() < 1e-6


def test_batch_equals_alone(fbank, noise):
    x = noise[None].repeat(len(LENGTHS), 1)
    y, frames = fbank(x, torch.tensor(LENGTHS))
    for i, n in enumerate(LENGTHS):
        alone = fbank(x[i : i + 1, :n])[0][0]
        assert frames[i] == len(alone) == num_frames(n, KIND)
        assert torch.equal(y[i, : len(alone)], alone)
        assert not y[i, len(alone) :].any()


@pytest.mark.parametrize("size", [1, 7, 160, 161, 5000, None])
def test_streaming_is_bitwise_the_same(fbank, noise, size):
    draw = random.Random(0)
    for S in LENGTHS if size != 1 else LENGTHS[:-1]:
        x = noise[None, :S]
        y = stream(fbank, x, (lambda: size) if size else (lambda: draw.randint(0, 700)))
        assert torch.equal(y, fbank(x)[0]), S


def test_latency_and_memory_of_a_stream(fbank, noise):
    state = fbank.initial_state(2)
    y, state = fbank.step(noise[:400].view(2, 200), state)
    assert y.shape == (2, 0, 80)
    y, state = fbank.step(noise[400:402].view(2, 1), state)  # the mirrored sample 200 has arrived: frame 0
    assert y.shape == (2, 1, 80)
    y, state = fbank.step(noise[402:718].view(2, 158), state)
    assert y.shape == (2, 0, 80)
    y, state = fbank.step(noise[718:720].view(2, 1), state)  # sample 359: frame 1
    assert y.shape == (2, 1, 80)
    for _ in range(100):
        _, state = fbank.step(noise[:320].view(2, 160), state)
        assert state.carry.size(1) < 400


def test_script(fbank, noise):
    scripted = torch.jit.script(fbank)
    x, lengths = noise[None].repeat(2, 1), torch.tensor([16000, 7777])
    for a, b in zip(scripted(x, lengths), fbank(x, lengths), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(stream(scripted, x, lambda: 999), fbank(x)[0])


def test_silence_is_zero_and_short_audio_is_mirrored_again_and_again(fbank):
    assert not fbank(torch.zeros(1, 1600))[0].any()
    constant, _ = fbank(torch.full((1, 1), 0.5))  # mirrored, a single sample is a constant signal
    torch.testing.assert_close(constant, fbank(torch.full((1, 4000), 0.5))[0][:, 5:6])


def test_hash_tells_the_kinds_apart():
    assert feature_hash(FeatureConfig(KIND)) == "e632e333998c32c7"
    assert feature_hash(FeatureConfig()) == "090a54a9b0fd279b"
