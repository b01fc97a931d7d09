"""Reading the samples of a lhotse cut as 16 kHz mono, and keeping them in memory shared by all workers."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr

from asr.errors import UserError
from asr.features import SAMPLE_RATE

if TYPE_CHECKING:
    from lhotse import Recording
    from lhotse.cut import Cut


def read_cut(cut: Cut) -> np.ndarray:
    """Samples (S,) float32 of a cut at 16 kHz; a MonoCut names its channel, others are averaged.

    Plain files go straight to soundfile, which is faster than lhotse's choice of back ends and needs no torchaudio;
    mixtures, transforms and other storages go through lhotse. Raises UserError naming the file when it cannot be read,
    is empty or holds NaN.
    """
    recording: Any = getattr(cut, "recording", None)
    if type(cut).__name__ == "MonoCut" and _is_plain_file(recording):
        name = recording.sources[0].source
        samples, rate = _read_file(name, cut)
    else:
        name = cut.id
        try:
            samples, rate = cut.load_audio().mean(axis=0), cut.sampling_rate
        except Exception as error:  # lhotse raises many kinds; the cut's name is what the user needs
            raise UserError(f"Cannot read the audio of cut {cut.id}: {str(error).splitlines()[0]}") from error
    if samples.size == 0:
        raise UserError(f"{name}: the audio is empty.")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: the audio holds NaN or infinite samples.")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _is_plain_file(recording: Recording | None) -> bool:
    if recording is None or recording.transforms:
        return False
    return len(recording.sources) == 1 and recording.sources[0].type == "file"


def _read_file(path: str, cut: Cut) -> tuple[np.ndarray, int]:
    rate = cut.recording.sampling_rate
    whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3
    try:
        if whole:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        else:
            first, count = round(cut.start * rate), round(cut.duration * rate)
            samples, rate = soundfile.read(path, start=first, frames=count, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: the audio cannot be read ({str(error).splitlines()[0]}).") from error
    return samples[:, cut.channel if samples.shape[1] > 1 else 0], rate


class AudioCache:
    """Decoded audio of a list of cuts, 16-bit, filled on first use, in memory that forked workers share.

    Reading always goes through 16 bits, so that results are the same whether the cache is on, off, cold or warm.
    Memory is anonymous: pages appear when written, at most 2 bytes a sample (115 MB an hour). Two workers that decode
    the same cut at once write the same bytes. A process started without fork gets an empty cache of its own.
    """

    def __init__(self, cuts: list[Cut], enabled: bool) -> None:
        self.enabled = enabled
        if enabled:
            # A few samples more than the header says: decoders round.
            sizes = np.array([int(np.ceil(cut.duration * SAMPLE_RATE)) + 64 for cut in cuts], dtype=np.int64)
            self._start = np.concatenate([[0], np.cumsum(sizes)])
            self._allocate()

    def _allocate(self) -> None:
        self._samples = np.frombuffer(mmap.mmap(-1, max(2 * int(self._start[-1]), 2)), dtype=np.int16)
        # Length + 1 of each decoded cut, 0 = not decoded; written after the samples.
        self._length = np.frombuffer(mmap.mmap(-1, max(8 * (len(self._start) - 1), 8)), dtype=np.int64)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_samples", "_length")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.enabled:
            self._allocate()

    def read(self, index: int, cut: Cut) -> np.ndarray:
        """Samples (S,) float32 of ``cut``, which is number ``index`` of the list the cache was made for."""
        if self.enabled and self._length[index]:
            first = self._start[index]
            return self._samples[first : first + self._length[index] - 1].astype(np.float32) / 32768.0
        quantised = np.clip(np.rint(read_cut(cut) * 32768.0), -32768, 32767).astype(np.int16)
        if self.enabled and len(quantised) <= self._start[index + 1] - self._start[index]:
            first = self._start[index]
            self._samples[first : first + len(quantised)] = quantised
            self._length[index] = len(quantised) + 1
        return quantised.astype(np.float32) / 32768.0
