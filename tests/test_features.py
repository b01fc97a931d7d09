"""The filterbank against kaldi-native-fbank, torchaudio and its formulae written out; streaming = batched."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr.errors import UserError
from asr.features import Fbank, FeatureConfig, StreamingFbank, feature_hash, num_frames

LENGTHS = [0, 1, 50, 79, 80, 100, 119, 120, 121, 279, 280, 281, 400, 439, 440, 441, 599, 600, 1000, 16000]


@pytest.fixture(scope="module")
def fbank() -> Fbank:
    return Fbank()


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """A linear congruential generator, (16000,) float32: the signal the reference values belong to."""
    state, values = 1, []
    for _ in range(16000):
        state = (1103515245 * state + 12345) % 2**31
        values.append(0.2 * (state / 2**31 - 0.5))
    return np.array(values, dtype=np.float32)


def kaldi(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (T, 80) of kaldi-native-fbank, the code sherpa-onnx runs."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(16000, samples)
    extractor.input_finished()
    return np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])


def literal(samples: np.ndarray) -> np.ndarray:
    """The definition sample by sample in double precision, no vectorisation: slow and plain."""
    S = len(samples)

    def at(i: int) -> float:
        while not 0 <= i < S:
            i = -i - 1 if i < 0 else 2 * S - 1 - i
        return float(samples[i])

    def mel(hz: float) -> float:
        return 1127 * math.log(1 + hz / 700)

    window = np.array([(0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85 for n in range(400)])
    edges = [mel(20) + j * (mel(7600) - mel(20)) / 81 for j in range(82)]
    rows = []
    for t in range((S + 80) // 160):
        f = np.array([at(160 * t - 120 + n) for n in range(400)])
        f = f - f.mean()
        g = np.array([f[n] - 0.97 * f[max(n - 1, 0)] for n in range(400)])
        power = np.abs(np.fft.rfft(g * window, 512)) ** 2
        row = []
        for j in range(80):
            energy = 0.0
            for b in range(256):
                m = mel(31.25 * b)
                up = (m - edges[j]) / (edges[j + 1] - edges[j])
                down = (edges[j + 2] - m) / (edges[j + 2] - edges[j + 1])
                energy += max(0.0, min(up, down)) * power[b]
            row.append(math.log(max(energy, 1.1920929e-07)))
        rows.append(row)
    return np.array(rows)


def stream(module, samples: Tensor, sizes) -> Tensor:
    """(B, S) through step and finish, blocks of ``sizes()`` samples."""
    state, parts, start = module.initial_state(samples.size(0)), [], 0
    while start < samples.size(1):
        size = sizes()
        y, state = module.step(samples[:, start : start + size], state)
        parts.append(y)
        start += size
    return torch.cat([*parts, module.finish(state)], dim=1)


def test_reference_values(fbank, signal):
    np.testing.assert_allclose(signal[:3], [0.00277402, -0.06485174, -0.03826970], atol=1e-8)
    y = fbank(torch.from_numpy(signal)[None])[0][0]
    assert y.shape == (100, 80)
    columns = [0, 1, 20, 40, 60, 79]
    expected = {
        0: [-9.1554, -13.1677, -2.5618, -1.4329, 1.7064, 2.8072],
        50: [-7.2559, -7.3947, -3.6699, 0.1231, 0.8702, 3.1653],
        99: [-8.2754, -7.6958, -3.3181, 0.3057, 0.4194, 1.7071],
    }
    for frame, values in expected.items():
        torch.testing.assert_close(y[frame, columns], torch.tensor(values), atol=6e-4, rtol=0)


def test_literal_definition(fbank, signal):
    for S in (85, 130, 500):
        y = fbank(torch.from_numpy(signal[:S])[None])[0][0]
        np.testing.assert_allclose(y.numpy(), literal(signal[:S]), atol=1e-3)


def test_kaldi_reference_signal(fbank, signal):
    y = fbank(torch.from_numpy(signal)[None])[0][0].numpy()
    difference = np.abs(y - kaldi(signal))
    assert difference.max() <= 1e-3 and difference.mean() <= 1e-5
    shifted = signal + np.float32(0.3)  # a large offset is removed as exactly
    difference = np.abs(fbank(torch.from_numpy(shifted)[None])[0][0].numpy() - kaldi(shifted))
    assert difference.max() <= 1e-3


def test_kaldi_short_inputs(fbank, signal):
    for S in LENGTHS:
        y = fbank(torch.from_numpy(signal[:S])[None])[0][0].numpy()
        assert len(y) == num_frames(S) == (S + 80) // 160
        if len(y):
            np.testing.assert_allclose(y, kaldi(signal[:S]), atol=1e-3)


def test_kaldi_real_speech(fbank, real_data):
    """Mean <= 1e-5, 99.99 % within 1e-3, all within 1e-2, on read speech, digits and noisy rooms."""
    differences = []
    for corpus, count in (("librispeech", 12), ("fsdd", 20), ("phone_numbers", 10)):
        with open(real_data / corpus / "manifest.jsonl") as lines:
            records = [json.loads(line) for line in lines][:count]
        for record in records:
            samples, rate = soundfile.read(real_data / corpus / record["audio"], dtype="float32")
            assert rate == 16000
            y = fbank(torch.from_numpy(samples)[None])[0][0].numpy()
            differences.append(np.abs(y - kaldi(samples)).ravel())
    difference = np.concatenate(differences)
    assert len(difference) > 1_000_000
    assert difference.mean() <= 1e-5
    assert (difference <= 1e-3).mean() >= 0.9999
    assert difference.max() <= 1e-2


def test_torchaudio(fbank, signal):
    try:
        from torchaudio.compliance.kaldi import fbank as reference
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # torch and torchaudio builds that do not fit together
        pytest.skip(f"torchaudio does not load: {error}")
    x = torch.from_numpy(signal)[None]
    y = reference(x, num_mel_bins=80, dither=0, snip_edges=False, low_freq=20, high_freq=-400, energy_floor=0)
    difference = (fbank(x)[0][0] - y).abs()
    assert difference.max() <= 1e-3 and difference.mean() <= 1e-5


def test_batch_equals_alone(fbank, signal):
    x = torch.from_numpy(signal)[None].repeat(8, 1)
    lengths = torch.tensor([16000, 1, 0, 79, 80, 100, 5000, 281])
    y, frames = fbank(x, lengths)
    assert y.shape == (8, 100, 80)
    for i, n in enumerate(lengths.tolist()):
        alone = fbank(x[i : i + 1, :n])[0][0]
        assert frames[i] == len(alone)
        assert torch.equal(y[i, : len(alone)], alone)
        assert not y[i, len(alone) :].any()


def test_padding_may_hold_anything(fbank, signal):
    x = torch.from_numpy(signal)[None].repeat(2, 1)
    x[1, 5000:] = float("nan")
    y, _ = fbank(x, torch.tensor([16000, 5000]))
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("size", [1, 7, 160, 161, 5000, None])
def test_streaming_is_bitwise_the_same(fbank, signal, size):
    draw = random.Random(0)
    for S in LENGTHS if size != 1 else LENGTHS[:-1]:
        x = torch.from_numpy(signal[:S])[None]
        y = stream(fbank, x, (lambda: size) if size else (lambda: draw.randint(0, 700)))
        assert torch.equal(y, fbank(x)[0]), S


def test_streaming_batch_and_latency(fbank, signal):
    x = torch.from_numpy(signal[:8000]).view(2, 4000)
    assert torch.equal(stream(fbank, x, lambda: 333), fbank(x)[0])
    state = fbank.initial_state(1)
    y, state = fbank.step(x[:1, :279], state)
    assert y.shape == (1, 0, 80)
    y, state = fbank.step(x[:1, 279:280], state)  # frame 0 is out with its last sample
    assert y.shape == (1, 1, 80)
    for _ in range(100):
        _, state = fbank.step(x[:1, :160], state)
        assert state.carry.size(1) < 400


def test_one_stream_object(fbank, signal):
    x = torch.from_numpy(signal[:3000])
    streaming = StreamingFbank(fbank)
    for _ in range(2):  # usable again after finish
        parts = [streaming.accept(x[i : i + 123]) for i in range(0, 3000, 123)] + [streaming.finish()]
        assert torch.equal(torch.cat(parts), fbank(x[None])[0][0])
    assert streaming.finish().shape == (0, 80)


def test_script(fbank, signal):
    scripted = torch.jit.script(fbank)
    x = torch.from_numpy(signal)[None].repeat(2, 1)
    lengths = torch.tensor([16000, 7777])
    for a, b in zip(scripted(x, lengths), fbank(x, lengths), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(stream(scripted, x, lambda: 999), fbank(x)[0])


def test_silence_and_empty(fbank):
    y, lengths = fbank(torch.zeros(1, 1600))
    assert torch.equal(y, torch.full((1, 10, 80), math.log(1.1920928955078125e-07)))
    y, lengths = fbank(torch.zeros(3, 0), torch.zeros(3, dtype=torch.long))
    assert y.shape == (3, 0, 80) and lengths.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="a length of 11 samples in a batch of 10"):
        fbank(torch.zeros(1, 10), torch.tensor([11]))


def test_autocast_changes_nothing(fbank, signal):
    x = torch.from_numpy(signal)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fbank(x)[0]
    assert torch.equal(y, fbank(x)[0])


def test_hash_and_kinds():
    # The hash stands in model folders: a change of the definition must change it, and nothing else may.
    assert feature_hash(FeatureConfig()) == "090a54a9b0fd279b"
    with pytest.raises(UserError, match=r"unknown features\.kind 'mfcc'"):
        FeatureConfig(kind="mfcc")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu(signal):
    fbank = Fbank().cuda()
    x = torch.from_numpy(signal)[None].repeat(2, 1)
    lengths = torch.tensor([16000, 5000])
    y, frames = fbank(x.cuda(), lengths.cuda())
    expected, _ = Fbank()(x, lengths)
    difference = (y.cpu() - expected).abs()
    assert difference.max() <= 1e-3 and difference.mean() <= 1e-5
    torch.testing.assert_close(stream(fbank, x.cuda(), lambda: 777), fbank(x.cuda())[0], atol=1e-5, rtol=0)
    torch.backends.cuda.matmul.allow_tf32, before = True, torch.backends.cuda.matmul.allow_tf32
    try:
        with torch.autocast("cuda", dtype=torch.float16):
            assert torch.equal(fbank(x.cuda(), lengths.cuda())[0], y)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
