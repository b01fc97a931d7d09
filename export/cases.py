"""What the ladder sends through every runtime: utterances alone, ragged batches, silence, cut ends, endpoint resets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr.features import SAMPLE_RATE

SPECIAL = 20  # utterances of the rungs `end` and `reset`
TRIPLES = 7  # of the rung `batch`
LAG = 3  # blocks between the starts of its streams
SILENCE_SECONDS = 6
END_SECONDS = 0.05  # of audio after the last word
SPEECH_BELOW_PEAK = 1e-3  # power of a 10 ms frame that counts as speech, relative to the loudest
BLOCKS = (1600, 333, 5000, 77, 2560)  # samples; what the torch reference is fed

Case = dict[str, Any]  # see `export.worker.run`; ``rung`` beside it
RUNGS = ("words", "batch", "silence", "end", "reset")


def make_cases(audio: Sequence[np.ndarray], file: Path, chunk: int) -> list[Case]:
    """Write all samples to a file of float32 and describe what is sent through a runtime.

    Args:
        audio: (S,) samples of every utterance.
        file: where they go.
        chunk: samples of a chunk, the block size of timed cases.
    """
    silence = np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32)
    begin, places = 0, []
    with open(file, "wb") as out:
        for samples in (*audio, silence):
            samples.astype(np.float32).tofile(out)
            places.append((begin, begin + len(samples)))
            begin += len(samples)
    cases: list[Case] = [
        {"rung": "words", "kind": "alone", "parts": [place], "blocks": [chunk], "timed": True}
        for place in places[:-1]
    ]
    count = len(audio)
    for i in range(min(TRIPLES, count)):  # utterances are used again if there are fewer than three
        chosen = [places[(3 * i + k) % count] for k in range(3)]
        cases.append({"rung": "batch", "kind": "ragged", "parts": chosen, "lag": LAG})
    cases.append({"rung": "silence", "kind": "alone", "parts": [places[-1]]})
    for place, samples in list(zip(places, audio))[:SPECIAL]:
        cut = min(len(samples), end_of_speech(samples) + round(END_SECONDS * SAMPLE_RATE))
        parts = [(place[0], place[0] + cut)]
        cases.append({"rung": "end", "kind": "alone", "parts": parts, "blocks": list(BLOCKS)})
    for place in places[:-1][:SPECIAL]:
        cases.append({"rung": "reset", "kind": "reset", "parts": [place], "at": (place[1] - place[0]) // 2})
    return cases


def end_of_speech(samples: np.ndarray) -> int:
    """Samples up to the end of the last 10 ms that are no more than 30 dB below the loudest."""
    whole = len(samples) // 160 * 160
    if whole == 0:
        return len(samples)
    power = np.square(samples[:whole].reshape(-1, 160), dtype=np.float64).mean(1)
    return int(np.flatnonzero(power >= SPEECH_BELOW_PEAK * power.max())[-1] + 1) * 160


def torch_case(case: Case, tail: int, streaming: bool = True) -> Case:
    """The same case for torch: blocks of odd sizes, no reset (its state lives on), zeros where the runtime has them."""
    if not streaming:
        return case | {"kind": "offline", "tail": tail}
    if case["kind"] == "reset":
        return case | {"kind": "alone", "tail": tail, "blocks": list(BLOCKS)}
    return case | {"tail": tail}
