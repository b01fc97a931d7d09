"""How the penalty of the endpoint token moves endpoints: trains endpoint.yaml with several penalties and seeds, and measures.

    python recipes/digits/prepare.py --data DATA --smoke --out exp/digits-smoke/data
    python recipes/digits/endpoint.py --data DATA

Each run trains a few minutes and is then streamed through FSDD's test speaker, single digits with pauses of one to four
seconds between them; only the token ends a segment. Goes on where it was stopped: a run whose result is written is not
repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import asr
from asr.cli import main as run_asr
from asr.errors import UserError
from asr.scoring.endpoints import evaluate_endpoints
from asr.streaming import EndpointConfig

PENALTIES = (0.0, 0.1, 0.4)  # nats a frame of 40 ms, early and late alike
TOKEN_ONLY = EndpointConfig(trailing_silence=None, max_segment=None)


def measure(model: Path, data: Path, limit: int) -> dict:
    """Scores of the token alone on long recordings of the test speaker."""
    found = evaluate_endpoints(
        asr.load(str(model)), data / "fsdd", [TOKEN_ONLY], split="test", limit=limit, noise=data / "noise", snr_db=30.0
    )
    return found[0].to_dict()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with fsdd/ and noise/")
    parser.add_argument("--out", type=Path, default=Path("exp/digits-endpoint"))
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("endpoint.yaml"))
    parser.add_argument("--penalties", type=float, nargs="+", default=list(PENALTIES), help="nats a frame")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of a run")
    parser.add_argument("--limit", type=int, default=200, help="test digits to measure on")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    noise = json.dumps([{"path": str(args.data / "noise"), "split": "train"}])
    results: dict[float, list[dict]] = {}
    for penalty in args.penalties:
        for seed in args.seeds:
            folder = args.out / f"penalty{penalty:g}-seed{seed}"
            written = folder / f"endpoints-{args.limit}.json"
            if not written.is_file():
                status = run_asr([
                    "train", str(args.recipe), "--seed", str(seed), "--output_dir", str(folder),
                    "--trainer.max_steps", str(args.steps), "--data.augment.noise.sources", noise,
                    "--data.augment.noise.probability", "0.5", "--data.augment.noise.snr_db", "[10, 30]",
                    "--loss.endpoint_penalty.early", str(penalty), "--loss.endpoint_penalty.late", str(penalty),
                ])  # fmt: skip
                if status:
                    return status
                scores = measure(folder / "model", args.data, args.limit)
                temporary = written.with_suffix(".tmp")
                temporary.write_text(json.dumps(scores, indent=1))
                temporary.replace(written)
            found = json.loads(written.read_text())
            results.setdefault(penalty, []).append(found)
            print(f"penalty {penalty:g}, seed {seed}: p50 {found['p50']} s, p90 {found['p90']} s, early {found['early']}, "
                  f"missed {found['misses']} of {found['utterances']}, WER {found['wer']:.1f} %", flush=True)  # fmt: skip
    print("\npenalty (nats a frame)   mean p50 (s)   p50 of each seed")
    medians = []
    for penalty, runs in results.items():
        each = [run["p50"] for run in runs]
        known = [value for value in each if value is not None]
        medians.append(float(np.mean(known)) if known else float("nan"))
        print(f"{penalty:<24g} {medians[-1]:<14.3f} {', '.join(str(value) for value in each)}")
    falls = all(b < a for a, b in zip(medians, medians[1:], strict=False))
    print("p50 falls with the penalty" if falls else "p50 does not fall with the penalty")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
