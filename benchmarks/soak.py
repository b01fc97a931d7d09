"""Hours of audio through one session, faster than real time: is memory flat, is every word there?

    python benchmarks/soak.py --model digits --hours 1 --manifest DATA/phone_numbers/manifest.jsonl --format json

The recordings (or, without a manifest, noise) are played again and again with pauses of silence between them, in
blocks of random sizes. Resident memory is sampled every 30 s of audio; the slope is a least-squares line through the
samples after the first tenth, in which allocators settle. The time a chunk takes early and late is compared too.
Words and segments are counted, and their times must be in order and inside the stream. A round is a whole number of the
model's chunks, so from the second round on (the first begins without left context) every round must give the same words
at the same places: one that does not has lost or invented words, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import asr
from asr.errors import UserError
from asr.scoring.manifest import read_manifest
from asr.streaming import Final, Recognizer
from asr.streaming.bench import machine

RATE = 16000


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import psutil

        return float(psutil.Process().memory_info().rss) / 1e6
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def playlist(manifest: str | None, limit: int, chunk_seconds: float) -> list[np.ndarray]:
    """Recordings as int16, each followed by silence; noise without a manifest. Together a whole number of chunks."""
    rng = np.random.default_rng(0)
    if manifest is None:
        noise = [rng.normal(0, 0.05, RATE * 10).astype(np.float32) for _ in range(4)]
        return [(np.clip(samples, -1, 1) * 32767).astype(np.int16) for samples in noise]
    items = read_manifest(manifest)
    audio = []
    for item in items[:: max(1, len(items) // limit)][:limit]:
        samples = item.source.load()
        pause = np.zeros(int(rng.uniform(0.2, 3.0) * RATE), np.float32)
        audio.append((np.clip(np.concatenate([samples, pause]), -1, 1) * 32767).astype(np.int16))
    chunk = round(chunk_seconds * RATE)
    # two seconds of silence end a segment: a round does not depend on how the one before it ended
    audio.append(np.zeros(2 * RATE + -(sum(map(len, audio)) + 2 * RATE) % chunk, np.int16))
    return audio


def same_rounds(words: list[tuple[str, float]], round_seconds: float, seconds: float) -> tuple[int, int]:
    """Whole rounds after the first that can be compared with the second, and how many of them differ from it.

    ``words``: (word, start in seconds) of the whole stream.
    """
    rounds: list[list[tuple[str, int]]] = [[] for _ in range(int(seconds / round_seconds))]
    for word, start in words:
        number = int(start / round_seconds)
        if number < len(rounds):
            rounds[number].append((word, round((start - number * round_seconds) * 1000)))
    compared = rounds[2:]
    return len(compared), sum(found != rounds[1] for found in compared)


def blocks(recordings: list[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    """The recordings round and round in blocks of 10 to 500 ms until ``seconds`` have been played."""
    rng = np.random.default_rng(1)
    remaining = round(seconds * RATE)
    while True:
        for samples in recordings:
            at = 0
            while at < len(samples):
                block = samples[at : at + min(int(rng.integers(160, 8000)), remaining)]
                at += len(block)
                remaining -= len(block)
                yield block
                if remaining <= 0:
                    return


def soak(recognizer: Recognizer, recordings: list[np.ndarray], hours: float) -> dict[str, Any]:
    """Play ``hours`` of audio through a session and measure."""
    session = recognizer.session()
    words: list[tuple[str, float]] = []
    segments = 0
    samples: list[tuple[float, float, float]] = []  # (audio seconds, MB, wall seconds so far)
    last_end = 0.0
    ordered = True
    began = time.perf_counter()
    for block in blocks(recordings, hours * 3600):
        for event in session.accept(block):
            if isinstance(event, Final):
                words += [(word.word, word.start) for word in event.words]
                segments += 1
                ordered = ordered and last_end <= event.start < event.end <= session.seconds + 0.04
                last_end = event.end
        if session.seconds >= 30 * (len(samples) + 1):
            samples.append((session.seconds, resident_mb(), time.perf_counter() - began))
            if sys.stderr.isatty():
                done, _, wall = samples[-1]
                eta = wall / done * (hours * 3600 - done)
                text = f"{done / 60:.1f} min of audio, {done / wall:.0f}x real time, {eta:.0f} s left"
                print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    for event in session.finish():
        if isinstance(event, Final):
            words += [(word.word, word.start) for word in event.words]
            segments += 1
    wall = time.perf_counter() - began
    settled = np.array(samples[len(samples) // 10 :] or [(0.0, resident_mb(), wall)])
    slope = float(np.polyfit(settled[:, 0] / 3600, settled[:, 1], 1)[0]) if len(settled) > 2 else 0.0
    speeds = np.diff(np.array(samples)[:, 2]) if len(samples) > 4 else np.array([0.0])
    tenth = max(1, len(speeds) // 10)
    compared, differing = same_rounds(words, sum(map(len, recordings)) / RATE, session.seconds)
    return {
        "hours": round(session.seconds / 3600, 4),
        "words": len(words),
        "rounds_compared": compared,
        "rounds_that_differ": differing,
        "segments": segments,
        "times_in_order": ordered,
        "rss_start_mb": round(float(settled[0, 1]), 2),
        "rss_end_mb": round(float(settled[-1, 1]), 2),
        "rss_max_mb": round(float(settled[:, 1].max()), 2),
        "rss_slope_mb_per_hour": round(slope, 4),
        "rtf": round(wall / session.seconds, 5),
        "rtf_first_tenth": round(float(np.median(speeds[:tenth])) / 30, 5),
        "rtf_last_tenth": round(float(np.median(speeds[-tenth:])) / 30, 5),
        "machine": machine(),
    }


def main() -> int:
    """Run the soak test and print it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="digits", metavar="NAME|FOLDER")
    parser.add_argument(
        "--manifest", default=None, metavar="FILE", help="recordings to play; noise if left out"
    )
    parser.add_argument("--hours", type=float, default=1.0, help="of audio")
    parser.add_argument("--limit", type=int, default=100, help="recordings in the round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if not 0 < options.hours < float("inf"):
        parser.error("--hours is a positive number")
    try:
        recognizer = asr.load(options.model, threads=options.threads)
        recordings = playlist(options.manifest, options.limit, recognizer.chunk_seconds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {"model": options.model, **soak(recognizer, recordings, options.hours)}
    if options.format == "json":
        print(json.dumps(result, indent=2))
    else:
        print("".join(f"{name.replace('_', ' '):<28}{value}\n" for name, value in result.items()), end="")
    return int(result["rounds_that_differ"] > 0 or not result["times_in_order"])


if __name__ == "__main__":
    sys.exit(main())
