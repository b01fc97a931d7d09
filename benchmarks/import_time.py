"""Time of ``import asr`` and of what an application imports next against ``import torch``, in new processes.

    python benchmarks/import_time.py [--repeat 7] [--format json]

The programs take turns, so that a busy machine slows all of them; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "import torch": "import torch",
    "import asr": "import asr",
    "import asr, torch": "import asr, torch",
    "import asr.streaming.recognizer": "import asr.streaming.recognizer",
}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def measure(repeat: int) -> dict:
    bare = [seconds("pass") for _ in range(repeat)]
    for code in PROGRAMS.values():  # once for the disk cache
        seconds(code)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeat):
        for name, code in PROGRAMS.items():
            times[name].append(seconds(code))
    start_up = statistics.median(bare)  # of the interpreter itself
    medians = {name: statistics.median(values) - start_up for name, values in times.items()}
    return {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "ratio_to_torch": {
            name: round(value / medians["import torch"], 3) for name, value in medians.items()
        },
        "repeat": repeat,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repeat", type=int, default=7, help="processes a program")
    parser.add_argument("--format", choices=["txt", "json"], default="txt")
    options = parser.parse_args()
    result = measure(options.repeat)
    if options.format == "json":
        print(json.dumps(result))
    else:
        for name, value in result["seconds"].items():
            print(f"{name:34} {value:7.3f} s   {result['ratio_to_torch'][name]:6.3f} x import torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
