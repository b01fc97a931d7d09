"""Audio of any kind in: one result for any block size, one clear sentence for bad input."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import StreamResampler, audio_blocks, channels_of, load_audio, pcm_to_float
from asr.errors import UserError


def tone(rate: int, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    """(S,) or (S, C): a 440 Hz tone of amplitude 0.5; further channels are quieter."""
    t = np.arange(round(rate * seconds)) / rate
    x = 0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    return x if channels == 1 else np.stack([x / (c + 1) for c in range(channels)], axis=1)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "tolerance"),
    [
        ("a.wav", 16000, 1, 1e-4),
        ("a.wav", 8000, 2, 1e-3),
        ("a.flac", 44100, 1, 1e-3),
        ("a.flac", 48000, 3, 1e-3),
        ("a.ogg", 22050, 1, 0.05),
        ("a.mp3", 44100, 2, 0.05),
        ("a.opus", 48000, 1, 0.05),
    ],
)
def test_formats_rates_channels(tmp_path, name, rate, channels, tolerance):
    path = tmp_path / name
    kind = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
    soundfile.write(path, tone(rate, 1.0, channels), rate, **kind)
    y = load_audio(path)
    assert y.dtype == np.float32 and y.ndim == 1
    assert abs(len(y) - 16000) <= (2000 if name.endswith("mp3") else 2)
    gain = np.mean([1 / (c + 1) for c in range(channels)])  # mixed down by the mean
    inside = y[4000:12000]
    assert abs(np.abs(inside).max() - 0.5 * gain) < max(tolerance, 0.01)
    if not name.endswith("mp3"):  # an encoder delay
        np.testing.assert_allclose(inside, gain * tone(16000, 1.0)[4000:12000], atol=max(tolerance, 2e-3))
    assert np.array_equal(np.concatenate(list(audio_blocks(path, 0.037))), y)
    with open(path, "rb") as file:
        assert np.array_equal(load_audio(file), y)


@pytest.mark.parametrize(
    "name, rate", [("a.wav", 16000), ("a.flac", 16000), ("a.wav", 8000), ("a.opus", 16000)]
)
def test_blocks_from_a_place_are_the_rest_of_the_whole(tmp_path, name, rate):
    path = tmp_path / name
    kind = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, rate), rate, **kind)
    whole = load_audio(path)
    for first in (0, 1, 7000, len(whole) - 1):
        assert np.array_equal(np.concatenate(list(audio_blocks(path, 0.037, first))), whole[first:])
    assert list(audio_blocks(path, 0.1, len(whole) + 5)) == []


def test_a_part_of_a_long_file_is_not_decoded_from_its_start(tmp_path, monkeypatch):
    path = tmp_path / "long.flac"
    soundfile.write(path, tone(16000, 60.0), 16000)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *a, **k: read.append(a) or original(self, *a, **k)
    )
    next(audio_blocks(path, 1.0, first=50 * 16000))
    assert len(read) == 1


def test_subtypes_and_levels(tmp_path):
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"):
        path = tmp_path / f"{subtype}.wav"
        soundfile.write(path, tone(16000), 16000, subtype=subtype)
        np.testing.assert_allclose(load_audio(path), tone(16000), atol=0.03)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_resampling_does_not_depend_on_blocks(rate):
    x = np.random.default_rng(0).standard_normal(rate // 2).astype(np.float32) * 0.1
    results = []
    for size in (len(x), 4096, 777, 160, 7):
        resampler = StreamResampler(rate)
        parts = [resampler.accept(x[i : i + size]) for i in range(0, len(x), size)]
        results.append(np.concatenate([*parts, resampler.finish()]))
    assert abs(len(results[0]) - 8000) <= 1
    for other in results[1:]:
        assert np.array_equal(other, results[0])


def test_one_sample_blocks_and_second_stream():
    x = tone(8000, 0.05)
    resampler = StreamResampler(8000)
    whole = np.concatenate([resampler.accept(x), resampler.finish()])
    again = np.concatenate([*(resampler.accept(x[i : i + 1]) for i in range(len(x))), resampler.finish()])
    assert np.array_equal(whole, again)
    assert len(resampler.finish()) == 0  # nothing came in


def test_resampling_quality():
    """A tone is kept to 1e-3, what lies above the new band is taken away (no aliases)."""
    resampler = StreamResampler(48000)
    y = np.concatenate([resampler.accept(tone(48000, 1.0)), resampler.finish()])
    np.testing.assert_allclose(y[1000:-1000], tone(16000, 1.0)[1000:-1000], atol=1e-3)
    high = np.sin(2 * np.pi * 9000 * np.arange(48000) / 48000).astype(np.float32)
    y = np.concatenate([resampler.accept(high), resampler.finish()])
    assert np.abs(y[1000:-1000]).max() < 1e-3


def test_pcm_types():
    x = np.array([-32768, -1, 0, 16384, 32767], dtype=np.int16)
    expected = np.array([-1.0, -1 / 32768, 0.0, 0.5, 32767 / 32768], dtype=np.float32)
    data = x.tobytes()
    forms = [x, data, bytearray(data), memoryview(data), torch.from_numpy(x), x.astype(np.int32) << 16]
    for form in [*forms, expected, expected.astype(np.float64), expected.tolist()]:
        y = pcm_to_float(form)
        assert y.dtype == np.float32 and np.array_equal(y, expected)
    assert pcm_to_float(b"").shape == pcm_to_float([]).shape == (0,)
    with pytest.raises(UserError, match="3 bytes are not a whole number of 16-bit samples"):
        pcm_to_float(b"abc")
    with pytest.raises(UserError, match="samples of type complex64 are not supported"):
        pcm_to_float(np.zeros(3, np.complex64))
    with pytest.raises(UserError, match="samples of type bool are not supported"):
        pcm_to_float(np.zeros(3, bool))


def test_blocks_of_bytes_split_anywhere():
    x = (tone(8000, 0.1, 2) * 32767).astype(np.int16)
    resampler = StreamResampler(8000, channels=2)
    whole = np.concatenate([resampler.accept(x), resampler.finish()])
    data = x.tobytes()
    for size in (1, 3, 5, 1000):
        parts = [resampler.accept(data[i : i + size]) for i in range(0, len(data), size)]
        assert np.array_equal(np.concatenate([*parts, resampler.finish()]), whole)
    flat = np.concatenate([resampler.accept(x.reshape(-1)), resampler.finish()])  # interleaved
    assert np.array_equal(flat, whole)


def test_a_memoryview_is_read_as_its_format_says():
    samples = np.sin(np.arange(800) / 9.0)
    whole = (samples * 32767).astype(np.int16)
    for view, wanted in [
        (memoryview(whole), pcm_to_float(whole)),
        (memoryview(whole.tobytes()), pcm_to_float(whole)),
        (memoryview(bytearray(whole.tobytes())), pcm_to_float(whole)),
        (memoryview(samples.astype(np.float32)), samples.astype(np.float32)),
        (memoryview(samples), samples.astype(np.float32)),
        (memoryview(samples)[::2], samples[::2].astype(np.float32)),
    ]:
        np.testing.assert_array_equal(pcm_to_float(view), wanted)
        np.testing.assert_array_equal(StreamResampler(16000).accept(view), wanted)
    stereo = np.stack([samples, np.zeros(800)], axis=1)
    np.testing.assert_array_equal(
        StreamResampler(16000, channels=2).accept(memoryview(stereo)),
        StreamResampler(16000, channels=2).accept(stereo),
    )
    for kind in (np.int8, np.uint16, np.int32, np.int64, np.float16, np.complex64, ">f4"):
        for read in (pcm_to_float, StreamResampler(16000).accept):
            with pytest.raises(UserError, match="memoryview of format .* is not supported") as caught:
                read(memoryview(samples.astype(kind)))
            assert "\n" not in str(caught.value)


def test_bad_blocks():
    with pytest.raises(UserError, match="cannot resample from 0 Hz"):
        StreamResampler(0)
    with pytest.raises(UserError, match="0 channels"):
        StreamResampler(16000, channels=0)
    resampler = StreamResampler(8000, channels=2, name="the microphone")
    with pytest.raises(UserError, match=r"the microphone: a block of shape \(5, 3\)"):
        resampler.accept(np.zeros((5, 3), np.float32))
    with pytest.raises(UserError, match="5 interleaved samples do not divide into 2 channels"):
        resampler.accept(np.zeros(5, np.float32))
    resampler.accept(np.zeros((8000, 2), np.float32))
    bad = np.zeros((100, 2), np.float32)
    bad[80, 1] = np.inf
    with pytest.raises(UserError, match=r"sample 8080 \(at 1\.010 s\) is not a finite number"):
        resampler.accept(bad)


def test_bad_files(tmp_path):
    def fails(path, pattern):
        with pytest.raises(UserError, match=pattern) as caught:
            load_audio(path)
        text = str(caught.value)
        assert "\n" not in text and str(path) in text

    fails(tmp_path / "none.wav", "no such audio file")
    fails(tmp_path, "is a folder, not an audio file")
    (tmp_path / "empty.wav").write_bytes(b"")
    fails(tmp_path / "empty.wav", "an empty file")
    soundfile.write(tmp_path / "header.wav", np.zeros(0, np.float32), 16000)
    fails(tmp_path / "header.wav", "no audio in it")
    (tmp_path / "text.wav").write_text("this is not audio at all, not in the least")
    fails(tmp_path / "text.wav", "cannot read .* as audio")
    (tmp_path / "noise.raw").write_bytes(bytes(100))
    fails(tmp_path / "noise.raw", "cannot read .* as audio")
    x = tone(8000, 2.0)
    x[12000] = np.nan
    soundfile.write(tmp_path / "nan.wav", x, 8000, subtype="FLOAT")
    fails(tmp_path / "nan.wav", r"sample 12000 \(at 1\.500 s\) is not a finite number")
    with pytest.raises(UserError, match="cannot read audio as audio"):
        load_audio(io.BytesIO(b"nothing like audio"))


class Pipe(io.RawIOBase):
    """Standard input that gives a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self.data.read(min(len(buffer), 997))
        buffer[: len(part)] = part
        return len(part)


def from_stdin(monkeypatch, data: bytes, seconds: float = 0.1) -> np.ndarray:
    class Stdin:
        buffer = Pipe(data)

    monkeypatch.setattr(sys, "stdin", Stdin)
    return np.concatenate(list(audio_blocks("-", seconds)))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_wav_on_standard_input(tmp_path, monkeypatch, subtype, form):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(22050, 0.7, 2), 22050, subtype=subtype, format=form)
    data = path.read_bytes()
    np.testing.assert_allclose(from_stdin(monkeypatch, data), load_audio(path), atol=1e-6)


def test_streamed_wav_header_and_raw_pcm(tmp_path, monkeypatch):
    x = (tone(16000) * 32767).astype("<i2")
    raw = x.tobytes()
    expected = pcm_to_float(x)
    assert np.array_equal(from_stdin(monkeypatch, raw), expected)
    assert np.array_equal(from_stdin(monkeypatch, raw + b"\x01"), expected)  # half a sample at the end
    for size in (0, 0xFFFFFFFF):  # programs that stream do not know the length
        form = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
        head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + form
        junk = b"LIST" + struct.pack("<I", 3) + b"abc\0"
        data = head + junk + b"data" + struct.pack("<I", size) + raw
        assert np.array_equal(from_stdin(monkeypatch, data), expected)
    sized = head + b"data" + struct.pack("<I", len(raw)) + raw + b"LIST trailing chunk"
    assert np.array_equal(from_stdin(monkeypatch, sized), expected)


def test_bad_standard_input(tmp_path, monkeypatch):
    head = b"RIFF\0\0\0\0WAVE"
    coded = struct.pack("<IHHIIHH", 16, 7, 1, 8000, 8000, 1, 8)
    for data, pattern in (
        (b"", "standard input: no audio in it"),
        (b"x", "standard input: no audio in it"),
        (b"fLaC" + bytes(100), "neither WAV nor raw PCM"),
        (head + b"fmt ", "the WAV header is cut short"),
        (head + b"data\0\0\0\0", "a WAV header without a format"),
        (head + b"fmt " + coded + b"data\0\0\0\0", "not as format 7 of 8 bits"),
    ):
        with pytest.raises(UserError, match=pattern):
            from_stdin(monkeypatch, data)


def test_memory_is_constant(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.tile(tone(8000, 1.0), 300), 8000)  # 5 minutes; whole it is 19 MB at 16 kHz
    tracemalloc.start()
    total = sum(len(block) for block in audio_blocks(path, 1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 300 * 16000
    assert peak < 2_000_000


def test_real_opus(real_data):
    path = next((real_data / "fsdd").rglob("*.opus"))
    y = load_audio(path)
    whole, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000 and np.array_equal(y, whole) and np.abs(y).max() > 0
    assert np.array_equal(np.concatenate(list(audio_blocks(path, 0.01))), whole)


@pytest.mark.parametrize("value", [1e25, -1e12, np.inf])
def test_numbers_that_no_features_can_be_made_of(tmp_path, value):
    x = np.zeros(1000, dtype=np.float32)
    x[700] = value
    soundfile.write(tmp_path / "huge.wav", x, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="sample 700 .* is (far outside|not a finite)"):
        load_audio(tmp_path / "huge.wav")
    x[700] = 32767.0  # samples somebody forgot to scale are loud, not wrong
    soundfile.write(tmp_path / "huge.wav", x, 16000, subtype="FLOAT")
    assert len(load_audio(tmp_path / "huge.wav")) == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only Unicode names")
def test_a_file_name_that_is_not_utf8(tmp_path):
    x = np.full(1000, 0.25, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", x, 16000)
    name = tmp_path / "b\udcff.wav"
    (tmp_path / "a.wav").rename(name)
    assert np.allclose(load_audio(name), x, atol=1e-4)


def test_channels_of():
    assert channels_of(b"ab") == channels_of(np.zeros(5)) == channels_of(np.zeros((5, 1))) == 1
    assert channels_of(np.zeros((3, 2))) == channels_of(torch.zeros(0, 2)) == 2
    for shape in ((1, 16000), (2, 16000), (1, 2, 16000), ()):
        with pytest.raises(UserError, match="must be of shape"):
            channels_of(np.zeros(shape))
