"""Offline against streaming on real speech: the definition of correct here.

    python benchmarks/streaming_equality.py --model digits --manifest DATA/phone_numbers/manifest.jsonl --format json

Every utterance is encoded and decoded twice: whole, in a batch with others, and through sessions that get blocks of
random sizes and share batches with streams of other ages. Reported: the largest difference between encoder outputs,
the utterances whose words or word times differ, and how many words were compared. Exit status 1 if an encoder output
differs by more than 1e-4 or a word differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import asr
from asr.errors import UserError
from asr.scoring.manifest import read_manifest
from asr.streaming import Final, Recognizer, Session

TOLERANCE = 1e-4


class Recorder:
    """Keeps the encoder output of every step, a list for each session, by standing in for ``encoder.step``."""

    def __init__(self, recognizer: Recognizer):
        self.recognizer = recognizer
        self.outputs: dict[int, list[Tensor]] = {}
        self._step = recognizer.model.encoder.step
        self._stepping: list[Session] = []
        recognizer.model.encoder.step = self._record

    def step(self, sessions: list[Session]) -> list[list[Any]]:
        """As `Recognizer.step_sessions`."""
        self._stepping = [session for session in sessions if session.ready]
        return self.recognizer.step_sessions(sessions)

    def _record(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        out, state = self._step(x, state)
        for session, row in zip(self._stepping, out, strict=True):
            self.outputs.setdefault(id(session), []).append(row)
        return out, state

    def stop(self) -> None:
        """Give the encoder its own step back."""
        del self.recognizer.model.encoder.step


def stream(
    recognizer: Recognizer, audio: list[np.ndarray], rng: np.random.Generator
) -> tuple[list[Tensor], list[list[Any]]]:
    """Encoder outputs (T', D) and words of recordings that run side by side, in blocks of 1 to 8000 samples."""
    recorder = Recorder(recognizer)
    sessions = [recognizer.session() for _ in audio]
    words: list[list[Any]] = [[] for _ in audio]
    at = [0] * len(audio)
    while not all(session.finished for session in sessions):
        for i in rng.permutation(len(audio))[: max(1, len(audio) // 2)]:  # the others wait: ages drift apart
            if at[i] < len(audio[i]):
                size = int(rng.integers(1, 8000))
                sessions[i].feed(audio[i][at[i] : at[i] + size])
                at[i] += size
            else:
                sessions[i].end()
        for i, events in enumerate(recorder.step(sessions)):
            words[i] += [word for event in events if isinstance(event, Final) for word in event.words]
    recorder.stop()
    return [torch.cat(recorder.outputs[id(session)]) for session in sessions], words


def compare(recognizer: Recognizer, audio: list[np.ndarray], batch: int, seed: int) -> dict[str, Any]:
    """Offline against streaming for all recordings, ``batch`` at a time."""
    rng = np.random.default_rng(seed)
    worst, size, words, bad_words, bad_times = 0.0, 0.0, 0, 0, 0
    for begin in range(0, len(audio), batch):
        group = audio[begin : begin + batch]
        encoded, lengths = recognizer.encode(group)
        offline = [
            [w for segment in segments for w in segment.words] for segments in recognizer.recognise(group)
        ]
        outputs, streamed = stream(recognizer, group, rng)
        for row, length, out, a, b in zip(encoded, lengths.tolist(), outputs, offline, streamed, strict=True):
            if length:
                difference = float((row[:length] - out[:length]).abs().max())
                worst = worst if difference <= worst else difference  # NaN is the largest difference
                size = max(size, float(row[:length].abs().max()))
            words += len(a)
            bad_words += [w.word for w in a] != [w.word for w in b]
            bad_times += [(w.start, w.end) for w in a] != [(w.start, w.end) for w in b]
        if sys.stderr.isatty():
            print(f"\r{begin + len(group)}/{len(audio)} utterances", end="", file=sys.stderr, flush=True)
    return {
        "utterances": len(audio),
        "seconds": round(sum(len(samples) for samples in audio) / 16000, 2),
        "words": words,
        "max_abs_difference": worst,
        "max_abs_output": round(size, 3),
        "tolerance": TOLERANCE,
        "utterances_with_different_words": bad_words,
        "utterances_with_different_times": bad_times,
        "equal": worst <= TOLERANCE and bad_words == 0,
    }


def real_speech() -> list[str]:
    """What is compared if nothing else is asked for: spoken digits in $ASR_DATA or ../shared/data beside the clone."""
    for folder in (os.environ.get("ASR_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"):
        corpora = [
            Path(folder or ".") / name / "manifest.jsonl" for name in ("phone_numbers", "fsdd", "an4_part")
        ]
        if folder and any(corpus.is_file() for corpus in corpora):
            return [str(corpus) for corpus in corpora if corpus.is_file()]
    raise UserError("no real speech here: give --manifest FILE, or set ASR_DATA")


def main() -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="digits", metavar="NAME|FOLDER")
    parser.add_argument("--manifest", action="append", metavar="FILE", help="may be given again")
    parser.add_argument("--split", default=None)
    parser.add_argument("--limit", type=int, default=250, help="utterances of each manifest, evenly spread")
    parser.add_argument("--batch", type=int, default=8, help="utterances encoded and streamed together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    try:
        recognizer = asr.load(options.model, threads=options.threads, device=options.device)
        audio = []
        for manifest in options.manifest or real_speech():
            items = read_manifest(manifest, options.split)
            for item in items[:: max(1, len(items) // options.limit)][: options.limit]:
                audio.append(item.source.load())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {"model": options.model, **compare(recognizer, audio, options.batch, options.seed)}
    if options.format == "json":
        print(json.dumps(result, indent=2))
    else:
        print("".join(f"{name.replace('_', ' '):<36}{value}\n" for name, value in result.items()), end="")
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
