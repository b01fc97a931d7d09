"""One rung of the ladder in a process of its own; result as JSON in ``JOB.out``.

Its memory, load time and speed are then those of one runtime, and a runtime that crashes does not take the ladder with
it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from asr.memory import keep_freed_memory
from export.runtime import Clock, Result, Runtime, alone, interrupted, live, ragged

WARM_UP_STREAMS = 2  # of a second of silence


# Not -m: that puts the user's folder on the path, whatever modules lie there.
_START = "import sys; sys.path[:] = filter(None, sys.path); from export.worker import main; sys.exit(main())"


class WorkerFailure(Exception):
    """A runtime that ended without results; the message says how."""


def load(job: dict[str, Any]) -> tuple[Runtime, float]:
    """The runtime a job asks for, and the seconds its loading took, the libraries it needs being there already."""
    folder, penalty = Path(job["folder"]), job["blank_penalty"]
    if job["runtime"] == "sherpa-onnx":
        import sherpa_onnx  # noqa: F401

        from export.sherpa_runtime import SherpaRuntime

        def make() -> Runtime:
            return SherpaRuntime(folder, job["precision"], penalty)
    else:
        import torch

        torch.set_num_threads(1)
        if job["runtime"] == "torchscript":
            from export.torchscript_runtime import TorchScriptRuntime

            def make() -> Runtime:
                return TorchScriptRuntime(folder, job["precision"], penalty, job["engine"])
        elif job["runtime"] == "executorch":
            from executorch.runtime import Runtime as _  # noqa: F401

            from export.pte_runtime import ExecutorchRuntime

            def make() -> Runtime:
                return ExecutorchRuntime(folder, job["precision"], penalty)
        else:
            from export.torch_runtime import TorchRuntime

            def make() -> Runtime:
                return TorchRuntime(job["folder"], job["context"], penalty)

    began = time.perf_counter()
    return make(), time.perf_counter() - began


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load, send every case through, and measure.

    A job has ``runtime``, ``folder``, ``blank_penalty``; ``precision`` of an export, ``engine`` of a TorchScript one,
    ``context`` of torch; ``block``: samples handed over at once in
    timed cases; ``audio``: a file of float32 samples; ``cases``: each with ``kind`` (alone | live | ragged | reset | offline | contexts), ``parts`` (begin and end in samples of
    its streams), ``tail`` (zero samples appended), and what the kind needs (``blocks``, ``lag``, ``at``, ``timed``,
    ``contexts``, whose results follow each other).
    ``finish_ms``: how long the last words of every live stream took.
    """
    runtime, seconds = load(job)
    clock = Clock()
    if any(case.get("timed") for case in job["cases"]):
        for _ in range(WARM_UP_STREAMS):  # the first calls of a program plan and allocate
            alone(runtime, np.zeros(16000, np.float32), [job["block"]])
    waits: list[float] = []
    results: list[list[dict[str, Any]]] = []
    for case in job["cases"]:
        tail = np.zeros(case.get("tail", 0), np.float32)
        audio = [np.concatenate([read(job["audio"], a, b), tail]) for a, b in case["parts"]]
        found: list[Result]
        if case["kind"] == "ragged":
            found = ragged(runtime, audio, case["lag"])
        elif case["kind"] == "reset":
            found = [interrupted(runtime, part, case["at"]) for part in audio]
        elif case["kind"] == "live":
            found = [live(runtime, part, case["blocks"][0], waits) for part in audio]
        elif case["kind"] == "offline":
            found = runtime.offline(audio)  # type: ignore[attr-defined]
        elif case["kind"] == "contexts":
            found = sum(runtime.over_contexts(audio, case["contexts"]), [])  # type: ignore[attr-defined]
        else:
            blocks = case.get("blocks") or [job["block"]]
            found = [alone(runtime, part, blocks, clock if case.get("timed") else None) for part in audio]
        results.append([dataclasses.asdict(result) for result in found])
    p50, p99 = np.percentile(clock.chunks or [0.0], [50, 99])
    return {
        "results": results,
        "load_seconds": seconds,
        "rtf": clock.busy / clock.audio if clock.audio else 0.0,
        "resets": runtime.resets,
        "chunk_p50_ms": 1000 * float(p50),
        "chunk_p99_ms": 1000 * float(p99),
        "finish_ms": [1000 * seconds for seconds in waits],
        "peak_memory_mb": memory_mb("VmHWM"),
    }


def read(path: str, begin: int, end: int) -> np.ndarray:
    """Samples of the audio file; not mapped, as mapped pages would count as memory of the runtime."""
    return np.fromfile(path, np.float32, end - begin, offset=4 * begin)


def memory_mb(field: str) -> float | None:
    """A line of /proc/self/status in MB; None where there is none. (The peak that getrusage gives counts the parent's
    memory from before the program was started.)"""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) / 1e3 if found else None


def run_worker(job: Path) -> dict[str, Any]:
    """Run a job file; raises WorkerFailure with its last words."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _START, str(job)],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    out = Path(f"{job}.out")
    if done.returncode or not out.is_file():
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise WorkerFailure(f"{how}{', ' + last[-1] if last else ''}")
    result: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return result


def main() -> int:
    """Run the job file named on the command line."""
    keep_freed_memory()
    path = Path(sys.argv[1])
    job = json.loads(path.read_text("utf-8"))
    Path(f"{path}.out").write_text(json.dumps(run(job)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
