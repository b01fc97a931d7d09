"""What is done to samples and features of one training item. numpy arrays in, numpy arrays out, randomness passed in.

S: samples at 16 kHz, float32 in [-1, 1]; T: feature frames of 10 ms; F: Mel bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from asr.data.audio_cache import AudioCache
from asr.data.config import AugmentConfig, SpecAugmentConfig
from asr.data.plan import Item
from asr.errors import UserError
from asr.features import SAMPLE_RATE

if TYPE_CHECKING:
    from lhotse.cut import Cut

_QUIET = 800  # samples of the quietest stretch that background noise is modelled on (50 ms)
_BLOCK = 16384  # FFT length of the convolution; the fastest of 8192 … 65536
_CACHE_NOISE_SECONDS = 4 * 3600  # noise corpora up to this size are kept decoded


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples (S,) -> (round(S / factor),): plays ``factor`` times faster, pitch included (resampling by soxr)."""
    if factor == 1.0:
        return samples
    target = round(len(samples) / factor)
    changed = soxr.resample(samples, factor, 1.0)[:target]
    return np.pad(changed, (0, target - len(changed)))


def background(samples: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (count,) with the colour and level of the quietest 50 ms of ``samples``, at most 26 dB below their mean.

    White noise filtered with that stretch itself: the result has its power spectrum.
    """
    if count <= 0:
        return np.zeros(0, dtype=np.float32)
    frames = len(samples) // _QUIET
    if frames == 0:
        return np.zeros(count, dtype=np.float32)
    blocks = samples[: frames * _QUIET].reshape(frames, _QUIET)
    quiet = blocks[np.argmin(np.einsum("ij,ij->i", blocks, blocks))]
    noise = convolve(rng.standard_normal(count, dtype=np.float32), quiet)[:count] / np.float32(
        np.sqrt(_QUIET)
    )
    # Utterances cut to the sound (single digits) have no background: their quietest stretch may still be speech.
    level, most = np.sqrt(np.mean(quiet**2)), 0.05 * np.sqrt(np.mean(samples**2))
    return noise * np.float32(most / level) if level > most else noise


def convolve(samples: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Full linear convolution, (S,) * (K,) -> (S + K - 1,), by overlap-add of short FFTs."""
    size = _BLOCK
    while size < 2 * len(kernel):
        size *= 2
    if len(samples) + len(kernel) <= size:
        size = 1 << (len(samples) + len(kernel) - 1).bit_length()
    step = size - len(kernel) + 1
    count = -(-len(samples) // step)
    blocks = np.zeros((count, step), dtype=np.float32)
    blocks.reshape(-1)[: len(samples)] = samples
    spectrum = torch.fft.rfft(torch.from_numpy(blocks), n=size)
    spectrum *= torch.fft.rfft(torch.from_numpy(np.asarray(kernel, dtype=np.float32)), n=size)
    pieces = torch.fft.irfft(spectrum, n=size).numpy()
    result = np.zeros(count * step + size, dtype=np.float32)
    for index, piece in enumerate(pieces):
        result[index * step : index * step + size] += piece
    return result[: len(samples) + len(kernel) - 1]


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(S,) -> (S,): convolved, aligned to the direct sound, at the power the dry signal had (as kaldi and lhotse do)."""
    shift = int(np.argmax(np.abs(response)))
    wet = convolve(samples, response)[shift : shift + len(samples)]
    before, after = float(np.dot(samples, samples)), float(np.dot(wet, wet))
    return wet * np.float32(np.sqrt(before / after)) if after > 0 else samples


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """(S,) + (S,) at a signal-to-noise ratio in dB; silent noise or silent speech is left alone."""
    speech, power = float(np.dot(samples, samples)), float(np.dot(noise, noise))
    if speech <= 0 or power <= 1e-10 * len(noise):
        return samples
    return samples + noise * np.float32(np.sqrt(speech / power) * 10 ** (-snr_db / 20))


def spec_augment(features: np.ndarray, config: SpecAugmentConfig, rng: np.random.Generator) -> None:
    """Masks rows and columns of features (T, F) in place with the item's mean frame.

    Normalisation lives in the model, so that the mean, not 0, is the value that says nothing.
    """
    frames, bins = features.shape
    mean = features.mean(axis=0)
    for _ in range(config.frequency_masks):
        width = int(rng.integers(0, min(config.max_frequency_bins, bins) + 1))
        first = int(rng.integers(0, bins - width + 1))
        features[:, first : first + width] = mean[first : first + width]
    if config.time_masks <= 0:
        return
    budget = config.max_time_fraction * frames
    longest = min(config.max_time_frames, int(budget))
    if longest < 1:
        return
    # As many masks as the fraction allows on average at full length, at least one: short items get fewer, not shorter.
    masks = min(config.time_masks, max(1, round(2 * budget / config.max_time_frames)))
    for _ in range(masks):
        width = int(min(rng.integers(0, longest + 1), budget))
        budget -= width
        first = int(rng.integers(0, frames - width + 1))
        features[first : first + width] = mean


class Rooms:
    """Room impulse responses numbered 0 … rooms - 1, made when first drawn, the same in every process.

    Raises UserError where torchaudio, which lhotse's generator filters with, cannot be loaded.
    """

    def __init__(self, seed: int, max_t60: float) -> None:
        self.seed, self.max_t60 = seed, max_t60
        self._responses: dict[int, np.ndarray] = {}

    def check(self) -> None:
        """Fails early, in the training process, rather than in a worker."""
        try:
            import torchaudio  # noqa: F401
        except (ImportError, OSError) as error:
            raise UserError(
                "data.augment.reverb needs torchaudio, which does not load here "
                f"({str(error).splitlines()[0]}): install a matching torchaudio or set reverb.probability to 0."
            ) from error

    def response(self, number: int) -> np.ndarray:
        """Impulse response (K,) float32 of one room."""
        if number not in self._responses:
            from lhotse.augmentation.utils import FastRandomRIRGenerator

            seed = int(np.random.default_rng([self.seed, number]).integers(2**31))
            generator = FastRandomRIRGenerator(
                sr=SAMPLE_RATE, max_T60=self.max_t60, room_seed=seed, source_seed=seed + 1
            )
            # The generator also draws from torch's global stream, which belongs to the training process, and adds
            # up reflections in an order that depends on the threads: only one gives every process the same room.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    response = generator()[0]
            finally:
                torch.set_num_threads(threads)
            finite = np.isfinite(response).all() and np.abs(response).max() > 0
            self._responses[number] = response if finite else np.ones(1, dtype=np.float32)
        return self._responses[number]


class Augmenter:
    """Applies an ``AugmentConfig`` to planned items; every draw comes from the item's own random stream."""

    def __init__(self, config: AugmentConfig, noise: list[Cut], seed: int, cache_audio: bool = False) -> None:
        self.config, self.noise = config, noise
        keep = cache_audio or sum(cut.duration for cut in noise) <= _CACHE_NOISE_SECONDS
        self.noise_audio = AudioCache(noise, keep)
        self.rooms = Rooms(seed, config.reverb.max_t60)
        if config.reverb.probability > 0:
            self.rooms.check()

    def samples(self, parts: list[np.ndarray], item: Item, rng: np.random.Generator) -> np.ndarray:
        """The utterances of an item, each (S_i,), become its audio (S,)."""
        config = self.config
        # All decisions are drawn first: a change of one probability leaves the others' draws alone.
        reverb, noise, volume = rng.random(3)
        room = int(rng.integers(max(config.reverb.rooms, 1)))
        snr = rng.uniform(config.noise.snr_db[0], config.noise.snr_db[1])
        gain = rng.uniform(config.volume.gain_db[0], config.volume.gain_db[1])
        samples = self._joined(parts, item, rng)
        if reverb < config.reverb.probability:
            samples = reverberate(samples, self.rooms.response(room))
        if noise < config.noise.probability:
            samples = add_noise(samples, self._noise(len(samples), rng), snr)
        if volume < config.volume.probability:
            samples = samples * np.float32(10 ** (gain / 20))
        return np.clip(samples, -1.0, 1.0)

    def features(self, features: np.ndarray, rng: np.random.Generator) -> None:
        """SpecAugment on one item's features (T, F), in place."""
        if rng.random() < self.config.specaugment.probability:
            spec_augment(features, self.config.specaugment, rng)

    def _joined(self, parts: list[np.ndarray], item: Item, rng: np.random.Generator) -> np.ndarray:
        parts = [change_speed(part, item.speed) for part in parts]
        pieces = [background(parts[0], round(item.before * SAMPLE_RATE), rng)]
        for part, pause in zip(parts, (*item.pauses, item.after), strict=True):
            pieces += [part, background(part, round(pause * SAMPLE_RATE), rng)]
        return np.concatenate(pieces) if len(pieces) > 3 or item.before or item.after else parts[0]

    def _noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        index = int(rng.integers(len(self.noise)))
        noise = self.noise_audio.read(index, self.noise[index])
        if len(noise) >= count:
            first = int(rng.integers(len(noise) - count + 1))
            return noise[first : first + count]
        first = int(rng.integers(len(noise)))
        return np.take(noise, np.arange(first, first + count), mode="wrap")
