"""The benchmark measures what it says: the sides that must agree do, and bad options are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "transducer_loss.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_transducer_loss", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_problem_for_every_side(benchmark):
    shape = [2, 6, 3, 20]
    threads = torch.get_num_threads()
    full = benchmark._run_one("native full", shape, "cpu", 1, threads)
    pruned = benchmark._run_one("native pruned", shape, "cpu", 1, threads)
    assert full["seconds"] > 0 and full["megabytes"] >= 0 and pruned["loss"] > 0
    try:
        import torchaudio.functional  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not load with this torch: {error}")
    theirs = benchmark._run_one("torchaudio", shape, "cpu", 1, threads)
    assert full["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "options", [["--shapes", "8,150,40"], ["--repeats", "0"], ["--form", "json"], ["--device", "tpu"]]
)
def test_bad_options(benchmark, options):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(options)
    assert stop.value.code == 2
