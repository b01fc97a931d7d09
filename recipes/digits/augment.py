"""Channel effects that make one recording sound like another room, microphone or line.

All take and return float32 mono at 16 kHz, shape (S,), and draw from the numpy generator they are given.
"""

from __future__ import annotations

import numpy as np
import soxr

RATE = 16000


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Plays ``factor`` times as fast by resampling: pitch and formants move along (another vocal tract)."""
    if abs(factor - 1) < 1e-3:
        return audio
    return soxr.resample(audio, RATE * factor, RATE, quality="MQ").astype(np.float32)


def change_tempo(audio: np.ndarray, factor: float) -> np.ndarray:
    """Plays ``factor`` times as fast at the same pitch (WSOLA, 25 ms windows, 5 ms search)."""
    if abs(factor - 1) < 1e-2 or len(audio) < 2000:
        return audio
    size, search = 400, 80
    hop = size // 2
    window = np.hanning(size + 1)[:size].astype(np.float32)
    padded = np.concatenate(
        [np.zeros(search, np.float32), audio, np.zeros(size + 2 * search + hop, np.float32)]
    )
    count = int(len(audio) / factor / hop) + 1
    out = np.zeros(count * hop + size, np.float32)
    position = search
    for k in range(count):
        centre = search + int(k * hop * factor)
        if k == 0 or centre + search + size > len(padded):
            best = min(centre, len(padded) - size)
        else:
            # the continuation of what was written last, looked for near the place that the tempo asks for
            goal = padded[position + hop : position + hop + size]
            area = padded[centre - search : centre + search + size]
            if len(goal) < size or len(area) < size + 2 * search:
                best = min(centre, len(padded) - size)
            else:
                best = centre - search + int(np.argmax(np.correlate(area, goal, mode="valid")))
        out[k * hop : k * hop + size] += padded[best : best + size] * window
        position = best
    return out[: int(len(audio) / factor)]


def room(rng: np.random.Generator) -> np.ndarray:
    """A small random room: direct sound, sparse early reflections, exponentially decaying noise."""
    rt60 = rng.uniform(0.08, 0.5)
    length = int(RATE * min(rt60 * 1.2, 0.5))
    t = np.arange(length) / RATE
    tail = rng.standard_normal(length) * np.exp(-6.9 * t / rt60)
    tail *= np.minimum(t / 0.004, 1)
    # walls swallow treble
    pole = rng.uniform(0.1, 0.7)
    tail = one_pole(tail, pole)
    tail /= np.sqrt(np.sum(tail**2)) + 1e-9
    response = tail * 10 ** (rng.uniform(-16, 1) / 20)  # reverberant against direct energy
    response[0] += 1.0
    return response.astype(np.float32)


def one_pole(x: np.ndarray, pole: float) -> np.ndarray:
    """y[n] = (1-p) x[n] + p y[n-1], by a truncated impulse response (no scipy needed)."""
    taps = (1 - pole) * pole ** np.arange(64)
    return np.convolve(x, taps)[: len(x)]


def convolve(audio: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Linear convolution by FFT, cut to the input's length."""
    n = 1 << (len(audio) + len(response) - 2).bit_length()
    return np.fft.irfft(np.fft.rfft(audio, n) * np.fft.rfft(response, n), n)[: len(audio)].astype(np.float32)


def tilt(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """A smooth random microphone: gain per octave drawn from +-6 dB."""
    n = 1 << (len(audio) - 1).bit_length()
    spectrum = np.fft.rfft(audio, n)
    frequency = np.linspace(0, RATE / 2, len(spectrum))
    knots = np.array([0, 200, 400, 800, 1600, 3200, 6400, 8000.0])
    gain = np.cumsum(rng.normal(0, 2.0, len(knots)))
    gain = np.clip(gain - gain[3], -9, 9)
    return np.fft.irfft(spectrum * 10 ** (np.interp(frequency, knots, gain) / 20), n)[: len(audio)].astype(
        np.float32
    )


def band_limit(audio: np.ndarray, low: float, high: float) -> np.ndarray:
    """Band-pass with soft edges, in Hz (a telephone: 200-3400; an 8 kHz recording: 0-4000)."""
    n = 1 << (len(audio) - 1).bit_length()
    spectrum = np.fft.rfft(audio, n)
    frequency = np.linspace(0, RATE / 2, len(spectrum))
    keep = np.clip((high - frequency) / 200 + 0.5, 0, 1)
    if low > 0:
        keep *= np.clip((frequency - low) / 80 + 0.5, 0.02, 1)
    return np.fft.irfft(spectrum * keep, n)[: len(audio)].astype(np.float32)


def mu_law(audio: np.ndarray) -> np.ndarray:
    """Eight bits a sample, as on a telephone line."""
    peak = float(np.max(np.abs(audio))) + 1e-9
    x = audio / peak
    y = np.round(np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) * 127) / 127
    return (np.sign(y) * (np.exp(np.abs(y) * np.log(256)) - 1) / 255 * peak).astype(np.float32)


def coloured_noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """White to brown noise, sometimes with mains hum."""
    n = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.linspace(1, RATE / 2, len(spectrum))
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0, 1.1), n)[:length]
    noise /= np.std(noise) + 1e-9
    if rng.random() < 0.2:
        base = rng.choice([50.0, 60.0])
        t = np.arange(length) / RATE
        for k in range(1, 6):
            noise += rng.uniform(0, 1.5 / k) * np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6.28))
    return noise.astype(np.float32)


def loop_to(noise: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """``length`` samples of ``noise`` from a random place, repeated when it is shorter."""
    if len(noise) == 0:
        return np.zeros(length, np.float32)
    start = int(rng.integers(len(noise)))
    return np.resize(np.roll(noise, -start), length)


def add_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float, speech_power: float) -> np.ndarray:
    """Adds ``noise`` at ``snr_db`` below ``speech_power`` (mean square of the words, silence left out)."""
    power = float(np.mean(noise**2)) + 1e-12
    return audio + noise * np.float32(np.sqrt(speech_power / power * 10 ** (-snr_db / 10)))


def speech_power(audio: np.ndarray) -> float:
    """Mean square of the loud half of the 20 ms frames."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    if len(frames) == 0:
        return float(np.mean(audio**2)) + 1e-9
    power = np.sort(np.mean(frames**2, axis=1))
    return float(np.mean(power[len(power) // 2 :])) + 1e-9


def channel(
    rng: np.random.Generator, audio: np.ndarray, noises: list[np.ndarray], strength: float = 1.0
) -> np.ndarray:
    """One random recording condition: room, microphone, noise, line, level. ``strength`` 0 leaves all but the level."""
    power = speech_power(audio)
    if rng.random() < 0.3 * strength:
        audio = convolve(audio, room(rng))
    if rng.random() < 0.5 * strength:
        audio = tilt(rng, audio)
    draw = rng.random()
    if draw < 0.5 * strength:
        snr = rng.uniform(5, 30)
        if draw < 0.25 * strength and noises:
            noise = loop_to(noises[int(rng.integers(len(noises)))], len(audio), rng)
        else:
            noise = coloured_noise(rng, len(audio))
        audio = add_noise(audio, noise, snr, power)
    else:
        # Strings are joined from recordings with backgrounds of their own. Mostly loud enough to hide where one ends: real
        # strings have no such edges, and a model that counts them hears "six six" as one word.
        snr = rng.uniform(15, 40) if rng.random() < 0.8 * strength else rng.uniform(35, 60)
        audio = add_noise(audio, coloured_noise(rng, len(audio)), snr, power)
    draw = rng.random()
    if draw < 0.25 * strength:
        audio = band_limit(audio, 0, rng.uniform(3500, 4000))
    elif draw < 0.4 * strength:
        audio = band_limit(audio, rng.uniform(150, 350), rng.uniform(3000, 3600))
        if rng.random() < 0.5:
            audio = mu_law(audio)
    elif draw < 0.5 * strength:
        audio = band_limit(audio, rng.uniform(0, 150), rng.uniform(4500, 7500))
    peak = float(np.max(np.abs(audio))) + 1e-9
    audio = audio * np.float32(10 ** (rng.uniform(-20, -1) / 20) / peak)
    if rng.random() < 0.05 * strength:
        limit = float(np.max(np.abs(audio))) * rng.uniform(0.3, 0.8)
        audio = np.clip(audio, -limit, limit)
    return audio.astype(np.float32)
