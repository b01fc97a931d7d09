"""Training step (forward + backward) of our Emformer against torchaudio's: time and peak memory.

    python benchmarks/emformer_training.py        # 20 layers, 16 s of audio, dropout 0.1 and then 0
    python benchmarks/emformer_training.py --layers 4 --repeats 3 --format json

Both sides hold the same layers behind the same front (Linear 80 -> dim/4, stack 4) and get the same
features. Time: both variants in one process, alternating, median. Memory: one process a variant and dropout;
on CPU peak resident minus resident before the first step, on CUDA the allocator's peak minus what model and
data hold. Optimiser states are in neither.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.models.emformer import Emformer, EmformerConfig

VARIANTS = ("torchaudio", "ours")


class TorchaudioEncoder(nn.Module):
    """torchaudio's Emformer behind the front that ours has inside."""

    def __init__(self, config: EmformerConfig) -> None:
        super().__init__()
        from torchaudio.models import Emformer as Reference

        self.look_ahead = config.look_ahead
        self.input_linear = nn.Linear(config.input_dim, config.dim // 4, bias=False)
        self.emformer = Reference(
            config.dim,
            config.heads,
            config.ffn_dim,
            config.layers,
            config.chunk,
            dropout=config.dropout,
            activation=config.activation,
            left_context_length=config.left_context,
            right_context_length=config.look_ahead,
            max_memory_size=config.memory_size,
            tanh_on_mem=config.memory_activation == "tanh",
        )

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) features, (B,) -> (B, T/4, D); torchaudio wants the look-ahead appended to the
        utterance."""
        x = nn.functional.pad(x, (0, 0, 0, 4 * self.look_ahead))
        x = self.input_linear(x).reshape(x.size(0), x.size(1) // 4, -1)
        return self.emformer(x, lengths // 4)


def build(variant: str, config: EmformerConfig, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    model = Emformer(config) if variant == "ours" else TorchaudioEncoder(config)
    return model.to(device).train()


def make_config(args: argparse.Namespace, dropout: float) -> EmformerConfig:
    return EmformerConfig(
        dim=args.dim,
        heads=args.heads,
        ffn_dim=args.ffn_dim,
        layers=args.layers,
        dropout=dropout,
        chunk_ms=args.chunk_ms,
        look_ahead_ms=args.look_ahead_ms,
        left_context_ms=args.left_context_ms,
        memory_size=args.memory_size,
    )


class Step:
    """One variant's training step on fixed data."""

    def __init__(self, variant: str, config: EmformerConfig, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.autocast = args.autocast
        self.model = build(variant, config, self.device)
        frames = int(args.seconds * 100) // (4 * config.chunk) * 4 * config.chunk
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(args.batch, frames, config.input_dim, generator=generator).to(self.device)
        self.lengths = torch.full((args.batch,), frames, device=self.device)
        self.gradient = torch.randn(args.batch, frames // 4, config.dim, generator=generator).to(self.device)

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            y, _ = self.model(self.x, self.lengths)
        y.float().backward(self.gradient)

    def timed(self) -> float:
        """Seconds of one step."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        self()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def resident(field: str) -> float:
    """MiB of this process: "VmRSS" now, "VmHWM" at its peak (getrusage would count the parent's memory at
    the fork)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure_memory(args: argparse.Namespace) -> float:
    """MiB above the resting level at the peak of two steps of ``args.variant`` (this process runs nothing
    else)."""
    step = Step(args.variant, make_config(args, args.dropout[0]), args)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(2):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident("VmRSS")
    for _ in range(2):
        step()
    return resident("VmHWM") - before


def memory_in_own_process(variant: str, dropout: float, argv: list[str]) -> float:
    command = [sys.executable, __file__, *argv, "--variant", variant, "--dropout", str(dropout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory run of {variant} failed: {done.stderr.strip()}")
    return float(done.stdout)


def measure(args: argparse.Namespace, dropout: float, argv: list[str]) -> dict:
    steps = {variant: Step(variant, make_config(args, dropout), args) for variant in VARIANTS}
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for round_ in range(args.warmup + args.repeats):
        for variant in VARIANTS if round_ % 2 == 0 else VARIANTS[::-1]:
            seconds = steps[variant].timed()
            if round_ >= args.warmup:
                times[variant].append(seconds)
    ratios = [a / b for a, b in zip(times["torchaudio"], times["ours"], strict=True)]
    result = {
        "dropout": dropout,
        "seconds": {v: statistics.median(times[v]) for v in VARIANTS},
        "seconds_min": {v: min(times[v]) for v in VARIANTS},
        "speedup": statistics.median(times["torchaudio"]) / statistics.median(times["ours"]),
        "speedup_per_round": [round(r, 3) for r in ratios],
        "parameters": {v: sum(p.numel() for p in steps[v].model.parameters()) for v in VARIANTS},
    }
    del steps
    if args.memory:
        peak = {v: memory_in_own_process(v, dropout, argv) for v in VARIANTS}
        result["peak_mib"] = peak
        result["memory_ratio"] = peak["torchaudio"] / peak["ours"]
    return result


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--layers", type=int, default=20)
    p.add_argument("--dim", type=int, default=512)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--ffn-dim", type=int, default=2048)
    p.add_argument("--chunk-ms", type=int, default=160)
    p.add_argument("--look-ahead-ms", type=int, default=40)
    p.add_argument("--left-context-ms", type=int, default=1200)
    p.add_argument("--memory-size", type=int, default=0, help="memory slots")
    p.add_argument("--seconds", type=float, default=16.0, help="audio of an utterance")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0])
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--autocast", action="store_true", help="bfloat16 autocast on both sides")
    p.add_argument("--no-memory", dest="memory", action="store_false", help="time only")
    p.add_argument("--format", choices=("table", "json"), default="table")
    p.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)  # internal: memory of one variant
    return p


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.variant:
        print(measure_memory(args))
        return 0
    results = [measure(args, dropout, argv) for dropout in args.dropout]
    machine = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else f"{platform.machine()}, {args.threads} threads"
    )
    if args.format == "json":
        print(
            json.dumps(
                {"machine": machine, "torch": torch.__version__, "arguments": vars(args), "results": results}
            )
        )
        return 0
    print(
        f"{machine}, torch {torch.__version__}; {args.layers} layers, dim {args.dim}, "
        f"batch {args.batch} x {args.seconds} s"
    )
    print(f"{'dropout':>8} {'variant':>12} {'step, s':>9} {'peak, MiB':>10}")
    for r in results:
        for v in VARIANTS:
            peak = f"{r['peak_mib'][v]:10.0f}" if args.memory else f"{'-':>10}"
            print(f"{r['dropout']:8} {v:>12} {r['seconds'][v]:9.3f} {peak}")
        memory = f", {r['memory_ratio']:.2f}x less memory" if args.memory else ""
        print(f"{'':8} {'ours':>12} {r['speedup']:.2f}x faster{memory}   (rounds: {r['speedup_per_round']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
