"""Where the sound of speech begins and ends in a recording of one utterance, by energy.

This is the "true end of speech" against which endpoints are scored, and the frame from which the endpoint token is early
or late in training, wherever the data does not say it (a forced alignment is better where there is one). Good for
recordings whose speech is the loudest thing in them; noise of less than about 10 dB below the speech is taken for speech.

S: samples, mono.
"""

from __future__ import annotations

import numpy as np

HOP = 0.01  # seconds; the grid of the search
SMOOTH = 3  # hops averaged, so that one spike is not a sound
SHORTEST = 4  # hops a sound lasts at least; shorter ones at the edges are clicks
SILENT = 1e-9  # mean square (-90 dB of full scale) below which nothing was recorded
_BELOW_PEAK = (20.0, 35.0)  # dB; the threshold is never nearer to the loudest frames than the first, or further than the
# second: quiet ends of words are some 30 dB below the vowels
_ABOVE_FLOOR = 6.0  # dB; in between it lies this far above the quietest frames


def speech_bounds(samples: np.ndarray, rate: int = 16000) -> tuple[int, int] | None:
    """First sample of the speech and the one behind its last, of samples (S,); None where there is no sound.

    The threshold is 35 dB below the loudest frames (95th percentile), higher where the quietest ones (5th percentile) come
    within 6 dB of it, but at most 20 dB below the loudest: a recording cut to its speech is speech from edge to edge.
    """
    hop = round(HOP * rate)
    count = len(samples) // hop
    if count == 0:
        return None
    frames = np.asarray(samples[: count * hop], dtype=np.float64).reshape(count, hop)
    power = np.einsum("ij,ij->i", frames, frames) / hop
    if count >= SMOOTH:
        power = np.convolve(np.pad(power, SMOOTH // 2, mode="edge"), np.full(SMOOTH, 1.0 / SMOOTH), mode="valid")
    low, high = np.percentile(power, (5, 95))
    if high < SILENT:
        return None
    level = 10.0 * np.log10(np.maximum(power, SILENT))
    peak, floor = 10.0 * np.log10(high), 10.0 * np.log10(max(low, SILENT))
    near, far = _BELOW_PEAK
    threshold = min(peak - near, max(peak - far, floor + _ABOVE_FLOOR))
    # runs of loud frames: +1 where one begins, -1 behind its end
    steps = np.diff(np.concatenate([[0], (level > threshold).astype(np.int8), [0]]))
    begins, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    long = (ends - begins) >= min(SHORTEST, count)
    if not long.any():
        return None
    last = int(ends[long][-1])
    return int(begins[long][0]) * hop, len(samples) if last == count else last * hop


def end_of_speech(samples: np.ndarray, rate: int = 16000) -> float:
    """Seconds from the first sample to the end of the speech; the whole length where there is no sound to go by."""
    bounds = speech_bounds(samples, rate)
    return (len(samples) if bounds is None else bounds[1]) / rate
