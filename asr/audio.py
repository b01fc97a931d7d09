"""Any audio file or PCM stream -> 16 kHz mono float32 in [-1, 1], whole or in blocks, with constant memory.

Legend: S samples, C channels. Resampling is streaming (soxr, high quality) and gives the same samples for any
    block size, so a file
read whole and the same file streamed in blocks are identical. Several channels are mixed down by their mean
before resampling.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from asr.errors import UserError
from asr.features import SAMPLE_RATE

Source = str | os.PathLike[str] | BinaryIO
MOST_CHANNELS = 64  # a wider block of fewer samples is taken for (channels, samples)
Pcm = Any  # bytes, numpy array, torch tensor, list, memoryview: what pcm_to_float takes

LARGEST_SAMPLE = 1e9  # full scale is 1; the power spectrum of far larger numbers overflows single precision
_UNSIZED = (0, 0xFFFFFFFF)  # what programs write into a WAV header when they stream: the length is not known
# how files store samples that do not depend on those before them
_EXACT_SEEK = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


def check_finite(x: np.ndarray, name: str, first: int = 0, rate: int = SAMPLE_RATE) -> None:
    """Raise UserError naming the place when (S,) or (S, C) samples hold NaN, infinity or a number beyond
    ``LARGEST_SAMPLE``, of which no features can be computed.

    ``first``: samples before this block; ``rate``: in Hz.
    """
    if x.dtype.kind != "f" or bool((np.abs(x) <= LARGEST_SAMPLE).all()):
        return
    rows = x.reshape(len(x), -1)
    row = int(np.argmax(~(np.abs(rows) <= LARGEST_SAMPLE).all(axis=1)))
    at = first + row
    what = "far outside [-1, 1]" if np.isfinite(rows[row]).all() else "not a finite number"
    raise UserError(f"{name}: sample {at} (at {at / rate:.3f} s) is {what}")


def channels_of(pcm: Any, name: str = "audio") -> int:
    """C of a block (S, C) or (S,); 1 of what has no shape.

    Raises:
        UserError: not one or two axes, or (C, S) where (S, C) is meant.
    """
    shape: tuple[int, ...] | None = getattr(pcm, "shape", None)
    if shape is None or len(shape) == 1:
        return 1
    if len(shape) != 2:
        raise UserError(
            f"{name}: samples must be of shape (samples,) or (samples, channels), not {tuple(shape)}"
        )
    if 0 < shape[0] < shape[1] and shape[1] > MOST_CHANNELS:
        raise UserError(
            f"{name}: samples must be of shape (samples, channels), not {tuple(shape)}: transpose them"
        )
    return max(1, int(shape[1]))


def pcm_to_float(x: Pcm, name: str = "audio") -> np.ndarray:
    """Samples as float32 in [-1, 1], shape kept: bytes (16-bit little-endian), int16, int32, uint8, float32,
    float64, tensors, lists, memoryviews (of bytes, int16, float32, float64).

    Raises:
        UserError: another type, an odd number of bytes, NaN or infinity.
    """
    y = _to_float(x, name)
    check_finite(y, name)
    return y


def _viewed(view: memoryview, name: str) -> bytes | np.ndarray:
    """What a memoryview holds: bytes, or samples of the type that its format names."""
    kind = view.format.lstrip("@=<")  # one letter; the byte order before it may be left out
    if kind in ("B", "c") and view.ndim == 1:
        return view.tobytes()
    if kind in ("h", "f", "d"):
        return np.asarray(view)
    raise UserError(
        f"{name}: a memoryview of format {view.format!r} and {view.ndim} axes is not supported: give bytes, int16, "
        "float32 or float64"
    )


def _to_float(x: Pcm, name: str) -> np.ndarray:
    if isinstance(x, memoryview):
        x = _viewed(x, name)
    if isinstance(x, (bytes, bytearray)):
        if len(x) % 2:
            raise UserError(f"{name}: {len(x)} bytes are not a whole number of 16-bit samples")
        x = np.frombuffer(x, dtype="<i2")
    elif hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() else x).numpy()  # numpy knows no bfloat16
    array = np.asarray(x)
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype in (np.dtype(np.int16), np.dtype(np.int32)):
        return (array.astype(np.float64) / 2.0 ** (8 * array.dtype.itemsize - 1)).astype(np.float32)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.float32)
    raise UserError(
        f"{name}: samples of type {array.dtype} are not supported: give int16, int32, float32 or float64"
    )


class StreamResampler:
    """PCM blocks of any type, size and rate -> float32 mono at ``rate_out``, the same for any block sizes."""

    def __init__(
        self, rate_in: int, rate_out: int = SAMPLE_RATE, channels: int = 1, name: str = "audio"
    ) -> None:
        """``rate_in``, ``rate_out`` in Hz.

        Raises:
            UserError: a rate or a number of channels that cannot be.
        """
        if not 0 < rate_in <= 1_000_000 or not 0 < rate_out <= 1_000_000:
            raise UserError(f"{name}: cannot resample from {rate_in} Hz to {rate_out} Hz")
        if channels < 1:
            raise UserError(f"{name}: {channels} channels")
        self.rate_in, self.rate_out, self.channels, self.name = rate_in, rate_out, channels, name
        self._start()

    def _start(self) -> None:
        self._soxr = (
            None
            if self.rate_in == self.rate_out
            else soxr.ResampleStream(self.rate_in, self.rate_out, 1, dtype="float32")
        )
        self._bytes = b""  # a part of a sample that arrived as bytes
        self.received = 0  # samples (per channel) so far

    def accept(self, pcm: Pcm) -> np.ndarray:
        """(S,) or (S, C) samples, or bytes (a sample may be split between blocks), interleaved when 1-D with
        several channels.

        Returns:
            (S',) float32 at ``rate_out``: what these samples complete.

        Raises:
            UserError: a type that is not audio, wrong channels, NaN or infinity.
        """
        if isinstance(pcm, memoryview):
            pcm = _viewed(pcm, self.name)
        if isinstance(pcm, (bytes, bytearray)):
            data = self._bytes + bytes(pcm)
            whole = len(data) - len(data) % (2 * self.channels)
            pcm, self._bytes = data[:whole], data[whole:]
        x = _to_float(pcm, self.name)
        if x.ndim == 1 and self.channels > 1:
            if len(x) % self.channels:
                raise UserError(
                    f"{self.name}: {len(x)} interleaved samples do not divide into {self.channels} channels"
                )
            x = x.reshape(-1, self.channels)
        if x.ndim == 2 and x.shape[1] != self.channels or x.ndim not in (1, 2):
            raise UserError(
                f"{self.name}: a block of shape {x.shape} where (samples, {self.channels}) was announced"
            )
        check_finite(x, self.name, self.received, self.rate_in)
        self.received += len(x)
        return self._resample(_mono(x), last=False)

    def finish(self) -> np.ndarray:
        """(S',) the samples still inside the filter; afterwards the object is ready for another stream."""
        tail = (
            self._resample(np.zeros(0, dtype=np.float32), last=True)
            if self.received
            else np.zeros(0, dtype=np.float32)
        )
        self._start()
        return tail

    def _resample(self, x: np.ndarray, last: bool) -> np.ndarray:
        return x if self._soxr is None else self._soxr.resample_chunk(np.ascontiguousarray(x), last=last)


def _mono(x: np.ndarray) -> np.ndarray:
    """(S,) or (S, C) -> (S,)."""
    if x.ndim == 1:
        return x
    return x[:, 0] if x.shape[1] == 1 else x.mean(axis=1, dtype=np.float32)


def load_audio(source: Source) -> np.ndarray:
    """A whole recording, (S,) float32 mono 16 kHz in [-1, 1]: wav, flac, ogg/opus, mp3, … of any rate and
    number of channels.

    Args:
        source: a path, or an open binary file.

    Raises:
        UserError: missing, unreadable or empty file, NaN or infinity; the sentence names the path.
    """
    return np.concatenate([np.zeros(0, dtype=np.float32), *audio_blocks(source, block_seconds=30.0)])


def audio_blocks(source: Source, block_seconds: float = 1.0, first: int = 0) -> Iterator[np.ndarray]:
    """The samples of ``load_audio`` in blocks of about ``block_seconds`` s, read as they are needed: memory
    is constant.

    Args:
        source: a path, an open binary file, or "-" for standard input: WAV, or raw 16-bit little-endian mono
            PCM at 16 kHz.
        block_seconds: length of a block read, in seconds.
        first: samples (at 16 kHz) left out at the start. A 16 kHz file of an uncompressed or lossless format is not
            read up to there; any other is, as its samples depend on those before them.

    Raises:
        UserError: as ``load_audio``, as soon as the fault is reached.
    """
    if isinstance(source, str) and source == "-":
        if sys.stdin is None or getattr(sys.stdin, "closed", False):  # None: the process was started without one
            raise UserError("standard input is closed: there is no audio to read from it")
        blocks = _pipe_blocks(sys.stdin.buffer, "standard input", block_seconds)
    else:
        blocks = _file_blocks(source, block_seconds, first)
    name, rate, channels, skipped = next(blocks)
    left = first - skipped
    resampler = StreamResampler(rate, SAMPLE_RATE, channels, name=name)
    for block in blocks:
        y = resampler.accept(block)
        if len(y) > left:
            yield y[left:]
        left = max(0, left - len(y))
    if resampler.received == 0 and skipped == 0:
        raise UserError(f"{name}: no audio in it")
    y = resampler.finish()
    if len(y) > left:
        yield y[left:]


class _Sequential(soundfile.SoundFile):
    """A file that is read from front to back only.

    SoundFile seeks after each read of a seekable file to where it stands, and that restarts the decoder
    of Opus and MP3: the samples would depend on the block size.
    """

    def seekable(self) -> bool:
        return False


def _file_blocks(source: Source, block_seconds: float, first: int = 0) -> Iterator[Any]:
    """First (name, rate, channels, samples skipped: 0 or ``first``), then (S, C) float32 blocks."""
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        path = Path(source)
        if not path.exists():
            raise UserError(f"no such audio file: {name}")
        if path.is_dir():
            raise UserError(f"{name} is a folder, not an audio file")
        if path.is_file() and path.stat().st_size == 0:
            raise UserError(f"{name}: an empty file, no audio in it")
        source = name if os.name == "nt" else os.fsencode(name)  # type: ignore[assignment]  # not all names are UTF-8
    else:
        name = str(getattr(source, "name", "audio"))
    try:
        with _Sequential(source) as file:
            skip = first if file.samplerate == SAMPLE_RATE and file.subtype in _EXACT_SEEK else 0
            if skip:
                file.seek(min(skip, len(file)))
            yield name, file.samplerate, file.channels, skip
            size = max(1, round(block_seconds * file.samplerate))
            while True:
                block = file.read(size, dtype="float32", always_2d=True)
                if not len(block):
                    return
                yield block
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        raise UserError(f"cannot read {name} as audio: {str(reason).strip().rstrip('.')}") from None


def _pipe_blocks(pipe: BinaryIO, name: str, block_seconds: float) -> Iterator[Any]:
    """First (name, rate, channels, 0), then blocks of a stream that cannot seek: WAV or raw 16 kHz mono PCM."""
    start = _read(pipe, 12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        tag, channels, rate, width, left = _wav_header(pipe, name)
    elif start[:4] in (b"fLaC", b"OggS", b"RF64", b"FORM") or start[:3] == b"ID3":
        raise UserError(
            f"{name}: neither WAV nor raw PCM (16 kHz, mono, 16 bits): convert it, or give a file"
        )
    else:
        tag, channels, rate, width, left = 1, 1, SAMPLE_RATE, 2, None
    yield name, rate, channels, 0
    if left is None:
        pipe = _Chained(start, pipe)  # type: ignore[assignment]
    elif left in _UNSIZED:
        left = None
    size = max(1, round(block_seconds * rate)) * width * channels
    while True:
        data = _read(pipe, size if left is None else min(size, left))
        whole = len(data) - len(data) % (width * channels)  # a truncated last sample is dropped
        if whole == 0:
            return
        if left is not None:
            left -= len(data)
        yield _decode(data[:whole], tag, width).reshape(-1, channels)


def _decode(data: bytes, tag: int, width: int) -> np.ndarray:
    if tag == 3:
        return np.frombuffer(data, dtype=f"<f{width}").astype(np.float32)
    if width == 3:  # put the three bytes into the upper part of an int32
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return _to_float(wide.reshape(-1).view("<i4"), "")
    return _to_float(np.frombuffer(data, dtype={1: "u1", 2: "<i2", 4: "<i4"}[width]), "")


def _wav_header(pipe: BinaryIO, name: str) -> tuple[int, int, int, int, int]:
    """(1 PCM | 3 float, channels, rate, bytes of a sample, bytes of data); samples come next."""
    form: tuple[int, int, int, int] | None = None
    while True:
        head = _read(pipe, 8)
        if len(head) < 8:
            raise UserError(f"{name}: the WAV header is cut short")
        kind, size = head[:4], struct.unpack("<I", head[4:])[0]
        if kind == b"data":
            break
        body = _read(pipe, size + size % 2) if size < 1 << 24 else b""
        if len(body) < size:
            raise UserError(f"{name}: the WAV header is cut short")
        if kind == b"fmt " and size >= 16:
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if tag == 0xFFFE and size >= 26:
                tag = struct.unpack("<H", body[24:26])[0]
            form = (tag, channels, rate, bits // 8)
    if form is None:
        raise UserError(f"{name}: a WAV header without a format")
    tag, channels, rate, width = form
    if channels == 0 or rate == 0 or (tag, width) not in {(1, 1), (1, 2), (1, 3), (1, 4), (3, 4), (3, 8)}:
        raise UserError(
            f"{name}: a pipe carries WAV as PCM or float, not as format {tag} of {8 * width} bits"
        )
    return tag, channels, rate, width, size


def _read(pipe: Any, size: int) -> bytes:
    """``size`` bytes, fewer only at the end: a pipe may give less than asked."""
    parts = []
    while size > 0:
        data = pipe.read(size)
        if not data:
            break
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


class _Chained:
    """Bytes already read, then the rest of the pipe."""

    def __init__(self, start: bytes, pipe: BinaryIO) -> None:
        self.start, self.pipe = io.BytesIO(start), pipe

    def read(self, size: int) -> bytes:
        return self.start.read(size) or self.pipe.read(size)
