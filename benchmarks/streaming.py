"""Streaming speed of one model in every runtime, beside torchaudio's own streaming: PCM in, symbols out, one thread.

    python benchmarks/streaming.py --manifest DATA/phone_numbers                  # the 76.7 M Emformer RNN-T
    python benchmarks/streaming.py --manifest DATA/phone_numbers --finish 120     # and the wait for the last words
    python benchmarks/streaming.py --model digits --manifest DATA/phone_numbers   # a trained model, without torchaudio

`--model emformer_rnnt_base` has random weights, the same on every side but for the bias of the blank, which is set so that
ours in torch and torchaudio's pipeline emit about `--rate` symbols a second, as speech does (random weights are sensitive:
rounding changes the rate, so it is shown for every row). Every variant runs in a process of its own, in turn, `--rounds`
times; ratios are taken within a round, and their median is shown. Audio arrives a chunk at a time as fast as it is
decoded. Real-time factor: processing time over audio, features and search included; the row "torchaudio encoder" has
neither.

`--finish N` feeds N utterances of 1 to 2 s in blocks of 20 ms in real time and measures the wall time from the last
`accept` returning to `finish` returning the final words.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.errors import UserError
from asr.features import FRAME_SHIFT, SAMPLE_RATE, Fbank, FeatureConfig
from asr.memory import keep_freed_memory
from asr.models.folder import load_model, save_model
from asr.models.torchaudio_weights import transducer_from_torchaudio
from asr.models.transducer import Transducer, named_config
from asr.pretrained import resolve
from asr.scoring.manifest import read_manifest
from asr.streaming.bench import machine
from asr.tokens import Tokenizer
from export.bundle import describe_model
from export.bundle import read_manifest as read_export
from export.cli import exporter
from export.verify import network_bytes
from export.worker import memory_mb, run_worker

BASE, SYMBOLS = "emformer_rnnt_base", 4097
PEER_FILE = "torchaudio.pt"
PIPELINE, ENCODER = "torchaudio pipeline, beam 10", "torchaudio encoder"
TARGETS = ("sherpa-onnx", "torchscript", "executorch")
PEAKED = (
    12.0  # a trained model is sure of most symbols: on flat random ones torchaudio's beam search takes longer
)
WARM_UP_BLOCKS = 12  # of torchaudio; ours get two seconds of silence
PEER_CHUNK, PEER_LOOK_AHEAD = 16 * FRAME_SHIFT, 4 * FRAME_SHIFT
LIVE_BLOCK = 320  # samples: 20 ms
GOALS = """goals for the 76.7 M model: best int8 real-time factor <= 0.05, >= 12x the torchaudio pipeline, >= 5x its encoder;
best fp32 >= 2x its encoder; encoder int8 <= 27 % of fp32; finish p50 <= 60 ms, p99 <= 120 ms"""


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=BASE, help=f"{BASE} (random weights), or a trained model")
    parser.add_argument(
        "--manifest", metavar="FILE", help="recordings to stream; left out: noise, as asr bench"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="audio of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=4.0, help="symbols a second of the random weights")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--no-torchaudio", action="store_true")
    parser.add_argument("--finish", type=int, default=0, metavar="N", help="utterances fed in real time")
    parser.add_argument(
        "--work", metavar="FOLDER", help="keep model and exports here, and use those that are there"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)  # variant, weights, audio, samples
    options = parser.parse_args(argv)
    if options.seconds < 5 or options.rounds < 1 or options.finish < 0 or options.rate <= 0:
        parser.error("--seconds is at least 5, --rounds at least 1, --finish and --rate are not negative")
    return options


# ---------------------------------------------------------------- the model, once for all sides


def read_audio(manifest: str | None, seconds: float) -> np.ndarray:
    """(S,) samples of the first recordings of a manifest, repeated if they are short."""
    size = round(seconds * SAMPLE_RATE)
    if manifest is None:
        return np.random.default_rng(0).normal(0.0, 0.05, size).astype(np.float32)
    parts, found = [], 0
    for item in read_manifest(manifest):
        parts.append(item.source.load())
        found += len(parts[-1])
        if found >= size:
            break
    samples = np.concatenate(parts)
    return np.tile(samples, -(-size // len(samples)))[:size]


@torch.no_grad()
def random_pair(samples: np.ndarray, rate: float):
    """(model, torchaudio's module, bias of the blank) of the base architecture with the same random weights; ours emits at the rate.

    The bias is set in our model alone.
    """
    from torchaudio.models import emformer_rnnt_base

    torch.manual_seed(0)
    peer = emformer_rnnt_base(SYMBOLS).eval()
    peer.joiner.linear.weight.data *= PEAKED
    model = Transducer(named_config(BASE, SYMBOLS)).eval()
    model.load_state_dict(transducer_from_torchaudio(peer.state_dict()), strict=False)
    features = Fbank()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0]
    model.encoder.mean.copy_(features[0].mean(0))
    model.encoder.istd.copy_(1.0 / features[0].std(0))
    return model, peer, set_rate(model, features, rate * len(samples) / SAMPLE_RATE)


def random_tokenizer() -> Tokenizer:
    """Tokens for it."""
    return Tokenizer.train([f"w{i}" for i in range(SYMBOLS - 1)], SYMBOLS, "word")


def random_base(folder: Path, samples: np.ndarray, rate: float) -> None:
    """A model folder of the base architecture, and the same weights for torchaudio beside it."""
    model, peer, bias = random_pair(samples, rate)
    with torch.no_grad():
        found = {}
        half = torch.from_numpy(samples[: len(samples) // 2])
        for lower in range(12):  # its features and search differ: the same rate needs a bias of its own
            peer.joiner.linear.bias[-1] = bias - lower
            found[lower] = (stream_peer(peer, PIPELINE, half)[0] or 0) * SAMPLE_RATE / len(half)
            if found[lower] > rate:
                break
        peer.joiner.linear.bias[-1] = bias - min(found, key=lambda lower: abs(found[lower] - rate))
    torch.save(peer.state_dict(), folder.parent / PEER_FILE)
    save_model(folder, model, random_tokenizer(), FeatureConfig(), "Random weights, for measuring speed.\n")


def set_rate(model: Transducer, features: torch.Tensor, wanted: float) -> float:
    """Give the blank the bias with which greedy search of the features (1, T, 80) finds about so many symbols.

    The number does not fall evenly with the bias (each symbol changes the predictor), so the nearest of many is taken.
    """
    from asr.decoding.greedy import greedy_search

    encoded, lengths = model.encode(features, torch.tensor([features.size(1)]))
    bias = model.joiner.output.bias
    found = {}
    low, high = -20.0, 80.0
    for step in range(40):  # first halving the interval, then looking around its end
        value = (low + high) / 2 if step < 10 else high + 0.1 * (step - 25)
        bias[0] = value
        found[value] = len(greedy_search(model, encoded, lengths)[0].tokens)
        if step < 10:
            low, high = (value, high) if found[value] > wanted else (low, value)
    best = min(found, key=lambda value: abs(found[value] - wanted))
    bias[0] = best
    return best


def prepare(options, work: Path) -> tuple[Path, dict[str, dict]]:
    """The model folder and an export of every target with its manifest, made where they are not there yet."""
    if options.model == BASE:
        model = work / "model"
        if not model.is_dir():
            say("making the model")
            random_base(model, read_audio(options.manifest, 20.0), options.rate)
    else:
        model = resolve(options.model)
    manifests = {}
    for target in options.targets:
        folder = work / target
        if not folder.is_dir():
            say(f"exporting to {target}")
            exporter(target)(load_model(model), folder, progress=say)
        manifests[target] = read_export(folder)
        if (
            manifests[target]["model"]["weights_sha256"]
            != describe_model(load_model(model))["weights_sha256"]
        ):
            raise UserError(f"{folder} holds another model: choose another --work folder")
    return model, manifests


# ---------------------------------------------------------------- torchaudio


def run_peer(variant: str, weights: str, audio: str, samples: int) -> dict:
    """torchaudio's side, measured in this process."""
    from torchaudio.models import emformer_rnnt_base

    from export.worker import read

    keep_freed_memory()
    torch.set_num_threads(1)
    began = time.perf_counter()
    model = emformer_rnnt_base(SYMBOLS).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    load = time.perf_counter() - began
    symbols, times = stream_peer(model, variant, torch.from_numpy(read(audio, 0, samples)))
    steady = np.array(times[WARM_UP_BLOCKS:])
    p50, p99 = np.percentile(steady, [50, 99])
    return {
        "symbols": symbols,
        "load_seconds": load,
        "rtf": float(steady.mean()) / (PEER_CHUNK / SAMPLE_RATE),
        "chunk_p50_ms": 1000 * float(p50),
        "chunk_p99_ms": 1000 * float(p99),
        "peak_memory_mb": memory_mb("VmHWM"),
    }


@torch.inference_mode()
def stream_peer(model, variant: str, pcm: torch.Tensor) -> tuple[int | None, list[float]]:
    """torchaudio's model as its streaming tutorial drives it: chunks of 160 ms with 40 ms of look-ahead, the features of
    its LibriSpeech pipeline -> symbols found, seconds of every chunk."""
    import torchaudio
    from torchaudio.models import RNNTBeamSearch
    from torchaudio.pipelines.rnnt_pipeline import _gain, _piecewise_linear_log

    decoder = RNNTBeamSearch(model, SYMBOLS - 1)
    mel = torchaudio.transforms.MelSpectrogram(sample_rate=SAMPLE_RATE, n_fft=400, n_mels=80, hop_length=160)
    whole = _piecewise_linear_log(mel(pcm).transpose(1, 0) * _gain)
    mean, istd = whole.mean(0), 1.0 / whole.std(0)  # the bundle has them in a file

    def extract(part):
        features = (_piecewise_linear_log(mel(part).transpose(1, 0) * _gain) - mean) * istd
        return features, torch.tensor([features.size(0)])

    times, state, hypothesis = [], None, None
    for at in range(PEER_LOOK_AHEAD, len(pcm) - PEER_CHUNK + 1, PEER_CHUNK):
        part = pcm[at - PEER_LOOK_AHEAD : at + PEER_CHUNK]
        if variant == ENCODER:
            features, length = extract(part)
            began = time.perf_counter()
            _, _, state = model.transcribe_streaming(features[None], length, state)
        else:
            began = time.perf_counter()
            features, length = extract(part)
            hypothesis, state = decoder.infer(features, length, 10, state=state, hypothesis=hypothesis)
        times.append(time.perf_counter() - began)
    return None if hypothesis is None else len(hypothesis[0][0]) - 1, times


# ---------------------------------------------------------------- measuring


class Bench:
    """Runs variants in processes of their own."""

    def __init__(self, options, work: Path, place: Path):
        self.place = place
        self.options = options
        samples = read_audio(options.manifest, max(options.seconds, 2.0 * options.finish))
        self.samples = round(options.seconds * SAMPLE_RATE)
        self.audio = place / "audio.f32"
        samples.tofile(self.audio)
        self.model, self.manifests = prepare(options, work)
        numbers = load_model(self.model).model.encoder
        self.block = numbers.chunk_frames * FRAME_SHIFT
        self.jobs = {"torch session fp32": {"runtime": "torch", "folder": str(self.model), "context": None}}
        for target, manifest in self.manifests.items():
            for precision in manifest["precisions"]:
                self.jobs[f"{target} {precision}"] = {
                    "runtime": target, "folder": str(work / target), "precision": precision, "engine": None,
                }  # fmt: skip
        self.weights = work / PEER_FILE
        peers = options.model == BASE and not options.no_torchaudio
        self.variants = [*((PIPELINE, ENCODER) if peers else ()), *self.jobs]

    def run(self, variant: str) -> dict:
        """One round of a variant."""
        if variant in self.jobs:
            case = {"kind": "alone", "parts": [(0, self.samples)], "timed": True}
            done = self._work(variant, [case])
            return done | {"symbols": len(done["results"][0][0]["tokens"])}
        call = [
            sys.executable,
            __file__,
            "--peer",
            variant,
            str(self.weights),
            str(self.audio),
            str(self.samples),
        ]
        done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise RuntimeError(f"{variant} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def finish(self, variant: str) -> list[float]:
        """Milliseconds until the last words of every utterance."""
        rng = np.random.default_rng(0)
        cases, at = [], 0
        for _ in range(self.options.finish):
            length = int(rng.integers(SAMPLE_RATE, 2 * SAMPLE_RATE))
            cases.append({"kind": "live", "parts": [(at, at + length)], "blocks": [LIVE_BLOCK]})
            at += length
        return self._work(variant, cases)["finish_ms"]

    def _work(self, variant: str, cases: list[dict]) -> dict:
        job = self.place / "job.json"
        common = {"audio": str(self.audio), "block": self.block, "blank_penalty": 0.0, "cases": cases}
        job.write_text(json.dumps(self.jobs[variant] | common), "utf-8")
        return run_worker(job)

    def size_mb(self, variant: str) -> float | None:
        """Of the networks a variant loads."""
        if variant not in self.jobs or self.jobs[variant]["runtime"] == "torch":
            return None
        target, precision = variant.rsplit(" ", 1)
        return network_bytes(self.manifests[target], precision) / 1e6


def measure(bench: Bench, options) -> dict:
    """All rounds, then the waits at the end."""
    rounds = []
    for number in range(options.rounds):
        order = bench.variants if number % 2 == 0 else bench.variants[::-1]
        rounds.append({})
        for variant in order:
            say(f"round {number + 1} of {options.rounds}: {variant}")
            rounds[-1][variant] = bench.run(variant)
    rows = {}
    for variant in bench.variants:
        runs = [found[variant] for found in rounds]
        row = {key: statistics.median(run[key] for run in runs) for key in COLUMNS if key in runs[0]}
        row["symbols_per_second"] = (
            None if runs[0]["symbols"] is None else runs[0]["symbols"] / options.seconds
        )
        row["size_mb"] = bench.size_mb(variant)
        for peer, key in ((PIPELINE, "times_pipeline"), (ENCODER, "times_encoder")):
            if peer in bench.variants:
                row[key] = statistics.median(found[peer]["rtf"] / found[variant]["rtf"] for found in rounds)
        rows[variant] = row
    if options.finish:
        for variant in [v for v in bench.jobs if v.endswith("int8")]:
            say(f"{options.finish} utterances in real time: {variant}")
            waits = bench.finish(variant)
            rows[variant]["finish_p50_ms"], rows[variant]["finish_p99_ms"] = map(
                float, np.percentile(waits, [50, 99])
            )
    result = {
        "machine": machine(), "torch": torch.__version__, "model": options.model, "seconds": options.seconds,
        "rounds": options.rounds, "rows": rows,
    }  # fmt: skip
    if "sherpa-onnx" in bench.manifests:
        files = bench.manifests["sherpa-onnx"]["files"]
        share = files["encoder.int8.onnx"]["bytes"] / files["encoder.onnx"]["bytes"]
        result["onnx_encoder_int8_share"] = share
    return result


COLUMNS = {
    "rtf": ("RTF", ".4f"), "times_pipeline": ("x pipeline", ".1f"), "times_encoder": ("x encoder", ".2f"),
    "chunk_p50_ms": ("chunk p50", ".1f"), "chunk_p99_ms": ("p99, ms", ".1f"), "finish_p50_ms": ("finish p50", ".1f"),
    "finish_p99_ms": ("p99, ms", ".1f"), "size_mb": ("MB", ".1f"), "load_seconds": ("load, s", ".2f"),
    "peak_memory_mb": ("peak MB", ".0f"), "symbols_per_second": ("symbols/s", ".1f"),
}  # fmt: skip


def table(result: dict) -> str:
    """Lines for a terminal."""
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in result["rows"].values())]
    lines = [
        f"{result['machine']}, torch {result['torch']}, one thread; {result['model']}, {result['seconds']:g} s of "
        f"audio, median of {result['rounds']} rounds",
        f"{'':30}" + "".join(f"{COLUMNS[key][0]:>11}" for key in shown),
    ]
    for name, row in result["rows"].items():
        cells = ("-" if row.get(key) is None else format(row[key], COLUMNS[key][1]) for key in shown)
        lines.append(f"{name:30}" + "".join(f"{cell:>11}" for cell in cells))
    if "onnx_encoder_int8_share" in result:
        lines.append(f"encoder.int8.onnx is {100 * result['onnx_encoder_int8_share']:.1f} % of encoder.onnx")
    if result["model"] == BASE:
        lines.append(GOALS)
    return "\n".join(lines)


def say(what: str) -> None:
    """Progress."""
    print(what, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Print the table or JSON."""
    options = arguments(argv)
    if options.peer:
        variant, weights, audio, samples = options.peer
        print(json.dumps(run_peer(variant, weights, audio, int(samples))))
        return 0
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="streaming-bench-") as place:
            work = Path(options.work) if options.work else Path(place) / "work"
            work.mkdir(parents=True, exist_ok=True)
            result = measure(Bench(options, work, Path(place)), options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if options.format == "json" else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
