"""Time and peak memory of the transducer losses, forward and backward, from encoder and predictor outputs to
gradients.

    python benchmarks/transducer_loss.py [--device cpu|cuda] [--shapes 8,150,40,500 8,150,40,4097] [--format
    table|json]

Every side starts at 512-wide encoder (B, T, 512) and predictor (B, U + 1, 512) outputs and includes the
joiner's output layer (tanh, Linear 512 -> V) and gradients of inputs and weights; the pruned side (s_range 5)
also its two simple projections 512 -> V. One process a variant, in turn; float32; --threads threads. Seconds:
median of --repeats runs after one warm-up run. Memory: the highest resident size during warm-up and runs less
the resident size before (on CUDA: the allocator's peak less before). CPU seconds are those of all threads:
with --threads 1 they can be compared even where other programs share the cores. k2 runs if it can be imported
here or by --k2-python, an interpreter of its own; elsewhere it is listed as missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("torchaudio", "native full", "native pruned", "k2 pruned")
WIDTH, S_RANGE = 512, 5


def _arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["8,150,40,500", "8,150,40,4097"], metavar="B,T,U,V")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after the warm-up run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--k2-python", default=sys.executable, metavar="PYTHON", help="interpreter that imports k2"
    )
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "B,T,U,V"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for shape in arguments.shapes:
        parts = shape.split(",")
        if len(parts) != 4 or not all(part.isdigit() and int(part) > 0 for part in parts):
            parser.error(f"a shape is four positive numbers B,T,U,V, not {shape!r}")
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    return arguments


def _make_loss(variant, torch, weights, targets, frames, labels):
    """A function (encoder, predictor) -> scalar loss. Linear layers are built here so that each side holds
    only its own."""
    linear = weights("joiner")
    if variant == "torchaudio":
        from torchaudio.functional import rnnt_loss

        targets, frames, labels = targets.int(), frames.int(), labels.int()

        def loss(encoder, predictor):
            logits = linear(torch.tanh(encoder.unsqueeze(2) + predictor.unsqueeze(1)))
            return rnnt_loss(logits, targets, frames, labels, blank=0, reduction="sum")

        return loss
    if variant == "native full":
        from asr.losses import fused_transducer_loss

        def loss(encoder, predictor):
            return fused_transducer_loss(
                encoder,
                predictor,
                linear.weight,
                linear.bias,
                targets,
                frames,
                labels,
                "tanh",
                reduction="sum",
            )

        return loss
    simple_am, simple_lm = weights("am"), weights("lm")
    if variant == "native pruned":
        from asr.losses import fused_pruned_transducer_loss, pruning_ranges, simple_transducer_loss

        def loss(encoder, predictor):
            simple, occupancy = simple_transducer_loss(
                simple_lm(predictor),
                simple_am(encoder),
                targets,
                frames,
                labels,
                lm_only_scale=0.25,
                reduction="sum",
            )
            ranges = pruning_ranges(*occupancy, frames, labels, S_RANGE)
            return 0.5 * simple + fused_pruned_transducer_loss(
                encoder,
                predictor,
                linear.weight,
                linear.bias,
                targets,
                ranges,
                frames,
                labels,
                "tanh",
                reduction="sum",
            )

        return loss
    import k2

    zero = torch.zeros_like(frames)
    boundary = torch.stack((zero, zero, labels, frames), dim=1)

    def loss(encoder, predictor):
        simple, occupancy = k2.rnnt_loss_smoothed(
            simple_lm(predictor),
            simple_am(encoder),
            targets,
            0,
            0.25,
            0.0,
            boundary,
            reduction="sum",
            return_grad=True,
        )
        ranges = k2.get_rnnt_prune_ranges(*occupancy, boundary, S_RANGE)
        am, lm = k2.do_rnnt_pruning(encoder, predictor, ranges)
        logits = linear(torch.tanh(am + lm))
        return 0.5 * simple + k2.rnnt_loss_pruned(logits, targets, ranges, 0, boundary, reduction="sum")

    return loss


class _PeakResident:
    """Highest resident memory since start(), in bytes: the kernel's mark where it can be reset, else polled
    every 2 ms."""

    def start(self):
        self.peak, self._stop = self._resident(), threading.Event()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
            self._thread = None
        except OSError:
            self._thread = threading.Thread(target=self._poll, daemon=True)
            self._thread.start()
        return self._resident()

    def stop(self):
        if self._thread is None:
            return self._status("VmHWM")
        self._stop.set()
        self._thread.join()
        return self.peak

    def _poll(self):
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, self._resident())

    @staticmethod
    def _status(field):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise OSError(f"no {field} in /proc/self/status")

    def _resident(self):
        if Path("/proc/self/status").exists():
            return self._status("VmRSS")
        import psutil

        return psutil.Process().memory_info().rss


def _run_one(variant, shape, device, repeats, threads):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batch, frames, labels, vocab = shape
    encoder = torch.randn(batch, frames, WIDTH).to(device).requires_grad_()
    predictor = torch.randn(batch, labels + 1, WIDTH).to(device).requires_grad_()
    targets = torch.randint(1, vocab, (batch, labels)).to(device)
    layers = []

    def weights(_name):
        layers.append(torch.nn.Linear(WIDTH, vocab).to(device))
        return layers[-1]

    loss = _make_loss(
        variant,
        torch,
        weights,
        targets,
        torch.full((batch,), frames, device=device),
        torch.full((batch,), labels, device=device),
    )
    leaves = [encoder, predictor] + [parameter for layer in layers for parameter in layer.parameters()]
    # a tiny product first: the memory of the thread pool and of the BLAS library is not the loss's
    (torch.randn(64, 64, device=device) @ torch.randn(64, 64, device=device)).sum().item()
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        resident = _PeakResident()
        before = resident.start()
    seconds, processor = [], []
    for _ in range(repeats + 1):
        for leaf in leaves:
            leaf.grad = None
        if cuda:
            torch.cuda.synchronize()
        begin, begin_processor = time.perf_counter(), time.process_time()
        value = loss(encoder, predictor)
        value.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_processor)
        value = value.item()
    peak = torch.cuda.max_memory_allocated() if cuda else resident.stop()
    return {
        "loss": value,
        "seconds": statistics.median(seconds[1:]),
        "fastest": min(seconds[1:]),
        "slowest": max(seconds[1:]),
        "cpu_seconds": statistics.median(processor[1:]),
        "megabytes": (peak - before) / 1e6,
        "torch": torch.__version__,
    }


def _spawn(arguments, variant, shape):
    """Measure one variant in a process of its own."""
    python = arguments.k2_python if variant.startswith("k2") else sys.executable
    command = [python, __file__, "--one", variant, shape, "--device", arguments.device]
    command += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    environment = dict(
        os.environ, OMP_NUM_THREADS=str(arguments.threads), MKL_NUM_THREADS=str(arguments.threads)
    )
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT)] + ([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])
    )
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _cpu_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _missing(arguments, variant):
    if variant == "torchaudio":
        return importlib.util.find_spec("torchaudio") is None
    if variant.startswith("k2"):
        check = [arguments.k2_python, "-c", "import k2"]
        return subprocess.run(check, capture_output=True).returncode != 0
    return False


def main(argv=None):
    arguments = _arguments(argv)
    if arguments.one:
        variant, shape = arguments.one
        shape = [int(part) for part in shape.split(",")]
        print(json.dumps(_run_one(variant, shape, arguments.device, arguments.repeats, arguments.threads)))
        return 0
    machine = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "device": arguments.device,
    }
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("error: no CUDA device here", file=sys.stderr)
            return 2
        machine["gpu"] = torch.cuda.get_device_name()
    results = []
    missing = {variant for variant in arguments.variants if _missing(arguments, variant)}
    for shape in arguments.shapes:
        base = None
        for variant in arguments.variants:
            if variant in missing:
                row = {"error": "not installed"}
            else:
                row = _spawn(arguments, variant, shape)
            row = {"shape": [int(part) for part in shape.split(",")], "variant": variant, **row}
            if "error" not in row:
                if variant == "torchaudio":
                    base = row
                if base:
                    row["speedup"] = base["seconds"] / row["seconds"]
                    row["memory_ratio"] = (
                        base["megabytes"] / row["megabytes"] if row["megabytes"] > 0 else None
                    )
            results.append(row)
    if arguments.format == "json":
        print(json.dumps({"machine": machine, "repeats": arguments.repeats, "results": results}, indent=1))
        return 0
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(
        "| (B, T, U, V) | variant | seconds (fastest … slowest) | CPU seconds | peak MB "
        "| faster than torchaudio | less memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in results:
        shape = f"({', '.join(map(str, row['shape']))})"
        if "error" in row:
            print(f"| {shape} | {row['variant']} | {row['error']} | | | | |")
            continue
        times = f"{row['seconds']:.3f} ({row['fastest']:.3f} … {row['slowest']:.3f})"
        ratios = [f"{row[key]:.1f}x" if row.get(key) else "" for key in ("speedup", "memory_ratio")]
        cells = [
            shape,
            row["variant"],
            times,
            f"{row['cpu_seconds']:.2f}",
            f"{row['megabytes']:.0f}",
            *ratios,
        ]
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
