"""How the penalty of the endpoint token moves endpoints: trains endpoint.yaml with several penalties and seeds, and measures.

    python recipes/digits/prepare.py --data DATA --smoke --out exp/digits-smoke/data
    python recipes/digits/endpoint.py --data DATA

All runs start from the digits model that ships, with a row for the token added to it, and train a few minutes. What they
learn is when to say the token, within some frames, each of which gets a share of its probability: no share is above the
blank's. So a constant is added to the token's bias (`raise_token`), the same for all: with 2 nats it is said from a
probability of 0.12 on. Every model is then streamed through FSDD's test speaker, single digits with pauses of one to four
seconds between them; only the token ends a segment. Goes on where it was stopped: a run whose result is written is not
repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import asr
from asr.cli import main as run_asr
from asr.errors import UserError
from asr.models.folder import CONFIG_FILE, load_model, save_model
from asr.models.transducer import Transducer
from asr.pretrained import resolve
from asr.scoring.endpoints import evaluate_endpoints
from asr.streaming import EndpointConfig
from asr.tokens import SPACE, Tokenizer

PENALTIES = (0.0, 0.1, 0.3)  # nats a frame of 40 ms, early and late alike
TOKEN_ONLY = EndpointConfig(trailing_silence=None, max_segment=None)
START = Path("exp/digits-endpoint/start")  # named in endpoint.yaml


def add_endpoint(source: str, folder: Path) -> None:
    """Writes the model ``source`` (word tokens) with an endpoint token, whose weights are the mean of the other symbols'."""
    loaded = load_model(resolve(source))
    old = loaded.tokenizer
    words = [piece.lstrip(SPACE) for piece in old.pieces[1:]]
    tokenizer = Tokenizer.train([" ".join(words)], old.vocab_size + 1, "word", endpoint=True)
    rows = torch.tensor([old.pieces.index(piece) for piece in tokenizer.pieces[:-1]])  # where each old symbol was
    model = Transducer(replace(loaded.model.config, vocab_size=tokenizer.vocab_size)).eval()
    weights = loaded.model.state_dict()
    for name, value in model.state_dict().items():
        if weights[name].shape != value.shape:
            known = weights[name][rows]
            weights[name] = torch.cat([known, known[1:].mean(0, keepdim=True)])
    model.load_state_dict(weights)
    card = f"# {source} with an endpoint token\n\nThe token is untrained: a start for recipes/digits/endpoint.yaml.\n"
    save_model(folder, model, tokenizer, loaded.features, card, overwrite=True)


def raise_token(source: Path, folder: Path, nats: float) -> None:
    """Writes the model with ``nats`` added to the token's score, in the bias of the joiner, so that every runtime has it."""
    loaded = load_model(source)
    loaded.model.joiner.output.bias.data[loaded.tokenizer.endpoint_id] += nats
    card = f"# {source}, with {nats:g} nats more for the endpoint token\n\nMade by recipes/digits/endpoint.py.\n"
    save_model(folder, loaded.model, loaded.tokenizer, loaded.features, card, {"endpoint_nats": nats}, overwrite=True)


def take_digits(data: Path, folder: Path, every: int) -> Path:
    """A manifest of every n-th recording of FSDD's test speaker: as many of each digit."""
    found = [json.loads(line) for line in (data / "fsdd" / "manifest.jsonl").read_text().splitlines()]
    lines = [{**line, "audio": str((data / "fsdd" / line["audio"]).resolve())} for line in found if line["split"] == "test"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[::every]))
    return folder


def measure(model: Path, manifest: Path, noise: Path) -> dict:
    """Scores of the token alone on long recordings."""
    return evaluate_endpoints(asr.load(str(model)), manifest, [TOKEN_ONLY], noise=noise, snr_db=30.0)[0].to_dict()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with fsdd/ and noise/")
    parser.add_argument("--out", type=Path, default=Path("exp/digits-endpoint"))
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("endpoint.yaml"))
    parser.add_argument("--penalties", type=float, nargs="+", default=list(PENALTIES), help="nats a frame")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of a run")
    parser.add_argument("--nats", type=float, default=2.0, help="added to the token's score after training")
    parser.add_argument("--every", type=int, default=5, help="measure on every n-th test digit")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    noise = json.dumps([{"path": str(args.data / "noise"), "split": "train"}])
    if not (START / CONFIG_FILE).is_file():
        add_endpoint("digits", START)
    results: dict[float, list[dict]] = {}
    for penalty in args.penalties:
        for seed in args.seeds:
            folder = args.out / f"penalty{penalty:g}-seed{seed}"
            written = folder / f"endpoints-{args.nats:g}-{args.every}.json"
            if not (folder / "model" / CONFIG_FILE).is_file():
                status = run_asr([
                    "train", str(args.recipe), "--seed", str(seed), "--output_dir", str(folder),
                    "--trainer.max_steps", str(args.steps), "--data.augment.noise.sources", noise,
                    "--data.augment.noise.probability", "0.5", "--data.augment.noise.snr_db", "[10, 30]",
                    "--loss.endpoint_penalty.early", str(penalty), "--loss.endpoint_penalty.late", str(penalty),
                ])  # fmt: skip
                if status:
                    return status
            if not written.is_file():
                raise_token(folder / "model", folder / "raised", args.nats)
                scores = measure(folder / "raised", take_digits(args.data, args.out / "test", args.every), args.data / "noise")
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
