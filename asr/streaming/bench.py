"""How fast a model streams here: start-up, real-time factor, latency of a chunk, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.features import SAMPLE_RATE
from asr.pretrained import resolve
from asr.streaming.recognizer import Recognizer

WARM_UP_CHUNKS = 10
_START_UP = """
import sys, time
import asr
asr.load(sys.argv[1], threads=int(sys.argv[2]))
"""


def bench(
    model: str, *, audio: str | None = None, seconds: float = 30.0, threads: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """Stream audio through a model, one chunk at a time, and time every chunk.

    Args:
        model: name or folder.
        audio: a recording, repeated as long as needed; None: noise with the level of speech.
        seconds: audio to stream.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``rtf``; ``chunk_p50_ms``, ``chunk_p99_ms``, ``chunk_max_ms`` (from the arrival of a chunk to its words, features
        included); ``start_up_seconds`` (a fresh process up to a loaded model), ``load_seconds``; ``peak_memory_mb`` of
        this process; ``model_mb`` on disk; ``parameters``.
    """
    folder = resolve(model)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _START_UP, str(folder), str(threads)], check=True, capture_output=True
    )
    start_up = time.perf_counter() - began
    began = time.perf_counter()
    recognizer = Recognizer.load(str(folder), threads=threads, device=device)
    load = time.perf_counter() - began
    samples = _samples(audio, seconds)
    block = round(recognizer.chunk_seconds * SAMPLE_RATE)
    session = recognizer.session()
    times = []
    for i in range(0, len(samples) - block + 1, block):
        began = time.perf_counter()
        session.accept(samples[i : i + block])
        times.append(time.perf_counter() - began)
    session.finish()
    steady = np.array(times[WARM_UP_CHUNKS:] or times)
    p50, p99 = np.percentile(steady, [50, 99])
    return {
        "model": model,
        "parameters": recognizer.model.num_parameters(),
        "model_mb": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 2),
        "threads": threads,
        "device": device,
        "seconds": round(len(times) * recognizer.chunk_seconds, 2),
        "rtf": round(float(steady.mean()) / recognizer.chunk_seconds, 5),
        "chunk_ms": round(1000 * recognizer.chunk_seconds),
        "look_ahead_ms": round(1000 * recognizer.look_ahead_seconds),
        "chunk_p50_ms": round(1000 * float(p50), 3),
        "chunk_p99_ms": round(1000 * float(p99), 3),
        "chunk_max_ms": round(1000 * float(steady.max()), 3),
        "start_up_seconds": round(start_up, 3),
        "load_seconds": round(load, 3),
        "peak_memory_mb": peak_memory_mb(),
        "machine": machine(),
        "torch": torch.__version__,
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def machine() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine()


def _samples(audio: str | None, seconds: float) -> np.ndarray:
    size = round(seconds * SAMPLE_RATE)
    if audio is None:
        return np.random.default_rng(0).normal(0.0, 0.05, size).astype(np.float32)
    from asr.audio import load_audio

    samples = load_audio(audio)
    return np.tile(samples, -(-size // len(samples)))[:size]
