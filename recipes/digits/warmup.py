"""First minutes of the digits recipe: teaches the encoder which phone each 40 ms frame belongs to.

    python recipes/digits/warmup.py recipes/digits/digits.yaml --data exp/digits/data --output exp/digits/warmup/model

A transducer with an Emformer starts slowly: on these data its loss stays at "any digit at any time" for the first thousand
steps. Frame by frame cross-entropy on aligned speech passes that plateau within minutes (hybrid-system initialisation, as in
Hu et al. 2020, "Exploring pre-training with alignments for RNN transducer", arXiv 2005.00572), and it learns from any speech,
not from digits only: the encoder has heard hundreds of speakers before the first transducer step. Labels are those of the
manifests: phones from align.py, or the digits that a string was put together from. Writes a model folder for
``init_from.path`` of `asr train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from strings import UNKNOWN as NOT_ALIGNED

from asr.features import NUM_MEL_BINS, SUBSAMPLING, Fbank, FeatureConfig
from asr.models.folder import load_model, save_model
from asr.tokens import Tokenizer
from asr.training.recipe import load_recipe
from asr.training.setup import make_model

UNKNOWN = -1  # frame without a label


_fbank: Fbank | None = None  # per worker process


def _start_worker(features: FeatureConfig) -> None:
    global _fbank
    torch.set_num_threads(1)  # one small transform after another
    _fbank = Fbank(features).eval()


def _features(path: Path) -> np.ndarray:
    audio, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        values, _ = _fbank(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    return values[0].numpy().astype(np.float16)


def read_features(
    folders: list[Path], features: FeatureConfig, jobs: int
) -> tuple[list[np.ndarray], list[dict]]:
    """Features of every utterance with labels, float16 (T, 80) in memory (60 MB an hour), and the manifests' rows."""
    found, rows, paths, shown = [], [], [], time.time()
    for folder in folders:
        for line in (folder / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row.get("labels"):  # the others cannot teach what lies where
                rows.append(row)
                paths.append(folder / row["audio"])
    with ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=(features,)) as pool:
        for values in pool.map(_features, paths, chunksize=50):
            found.append(values)
            if time.time() - shown > 10:
                shown = time.time()
                print(f"  features of {len(found)}/{len(rows)} utterances", flush=True)
    return found, rows


def frame_labels(row: dict, names: dict[str, int], frames: int) -> np.ndarray:
    """Label of each 40 ms frame, that at its middle: ``names[label]``, 0 between labels, UNKNOWN where nobody knows."""
    labels = np.zeros(frames, dtype=np.int64)
    for name, start, end in row["labels"]:
        labels[max(0, math.ceil(start * 25 - 0.5)) : max(0, math.ceil(end * 25 - 0.5))] = names[name]
    return labels


def batches(lengths: np.ndarray, budget: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Utterances of like length together, ``budget`` feature frames with padding a batch, in random order."""
    order = np.argsort(lengths * np.exp(rng.uniform(-0.1, 0.1, len(lengths))))
    made: list[list[int]] = [[]]
    longest = 0
    for index in order:
        longest = max(longest, int(lengths[index]))
        if made[-1] and longest * (len(made[-1]) + 1) > budget:
            made.append([])
            longest = int(lengths[index])
        made[-1].append(int(index))
    return [np.array(made[k]) for k in rng.permutation(len(made))]


def mask(x: Tensor, lengths: Tensor, mean: Tensor, rng: np.random.Generator) -> None:
    """Level changes and a few narrow masks, in place: x (B, T, 80)."""
    for row, length in zip(x, lengths.tolist(), strict=True):
        row[:length] += 0.5 * float(rng.normal())
        for _ in range(2):
            width, start = int(rng.integers(0, 16)), int(rng.integers(0, NUM_MEL_BINS - 16))
            row[:length, start : start + width] = mean[start : start + width]
        for _ in range(2 * max(1, length // 300)):
            width = min(int(rng.integers(0, 13)), length // 7)
            start = int(rng.integers(0, length - width + 1))
            row[start : start + width] = mean


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("recipe", type=Path, help="recipe whose model is to be started")
    parser.add_argument(
        "--data", type=Path, default=Path("exp/digits/data"), help="folder made by prepare.py"
    )
    parser.add_argument("--output", type=Path, default=Path("exp/digits/warmup/model"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="stop after so long, reading features included, whatever the steps; 0 = no limit",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="audio of a batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, default=None, help="go on from the encoder of this model folder")
    parser.add_argument("--no-masks", action="store_true", help="features as they are: for a few passes over hard data")
    args, overrides = parser.parse_known_args(argv)
    began = time.time()

    recipe = load_recipe(args.recipe, [*overrides, "--init_from.path", ""])
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    tokenizer = Tokenizer.from_file(args.data / "tokens")
    model = make_model(recipe, tokenizer.vocab_size)
    if args.start is not None:
        model.encoder.load_state_dict(load_model(args.start).model.encoder.state_dict())
    folders = [args.data / name for name in ("train", "speech") if (args.data / name).is_dir()]
    found, rows = read_features(folders, recipe.features, args.threads)
    lengths = np.array([len(values) for values in found])
    known_names = sorted({name for row in rows for name, _, _ in row["labels"]} - {NOT_ALIGNED})
    names = {NOT_ALIGNED: UNKNOWN} | {name: k for k, name in enumerate(known_names, 1)}
    labels = [
        frame_labels(r, names, -(-n // SUBSAMPLING)) for r, n in zip(rows, lengths.tolist(), strict=True)
    ]
    print(f"{len(rows)} utterances, {lengths.sum() / 360000:.1f} h; {len(known_names)} labels")
    sample = np.concatenate([found[k][::3] for k in rng.permutation(len(found))[:1500]]).astype(np.float32)
    mean = torch.from_numpy(sample.mean(0))
    model.encoder.set_statistics(mean, torch.from_numpy(sample.std(0)))
    frame_head = nn.Linear(model.encoder.output_dim, len(known_names) + 1)  # only for the warm-up
    parameters = [*model.encoder.parameters(), *frame_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    bf16 = str(recipe.trainer.precision) == "bf16"

    torch.set_num_threads(args.threads)
    start, shown, step, smooth = time.time(), time.time(), 0, np.zeros(2)
    progress = 0.0
    while progress < 1:
        for chosen in batches(lengths, int(args.seconds * 100), rng):
            size = torch.from_numpy(lengths[chosen])
            x = torch.zeros(len(chosen), int(size.max()), NUM_MEL_BINS)
            y = torch.full((len(chosen), -(-x.size(1) // SUBSAMPLING)), UNKNOWN)
            for k, index in enumerate(chosen):
                x[k, : lengths[index]] = torch.from_numpy(found[index].astype(np.float32))
                y[k, : len(labels[index])] = torch.from_numpy(labels[index])
            if not args.no_masks:
                mask(x, size, mean, rng)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                encoded, _ = model.encode(x, size)
            logits = frame_head(encoded.float())
            known = (y != UNKNOWN).sum().clamp(min=1)
            frame_loss = (
                F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=UNKNOWN, reduction="sum")
                / known
            )
            progress = min(
                1.0,
                max(
                    (step + 1) / args.steps,
                    (time.time() - start) / max(1.0, 60 * args.minutes - (start - began))
                    if args.minutes
                    else 0.0,
                ),
            )
            for group in optimizer.param_groups:
                group["lr"] = (
                    args.lr * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * progress))
                )
            optimizer.zero_grad()
            frame_loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            step += 1
            sound = y > 0
            right = float((logits.argmax(-1) == y)[sound].float().mean()) if sound.any() else 0.0
            decay = min(0.97, 1 - 1 / step)
            smooth = decay * smooth + (1 - decay) * np.array([frame_loss.item(), right])
            if time.time() - shown > 10 or progress >= 1:
                shown = time.time()
                print(
                    f"  step {step}/{args.steps}  frame loss {smooth[0]:.3f}  frames right {100 * smooth[1]:.0f} %  "
                    f"{(shown - began) / 60:.1f} min",
                    flush=True,
                )
            if progress >= 1:
                break
    card = f"Warm-up of recipe {recipe.name}: {step} steps, {100 * smooth[1]:.0f} % of the training frames right.\n"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(args.output, model.eval(), tokenizer, recipe.features, card, overwrite=True)
    print(f"{args.output}: {step} steps in {(time.time() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
