"""First minutes of the digits recipe: teaches the encoder which digit each 40 ms frame belongs to.

    python recipes/digits/warmup.py recipes/digits/digits.yaml --data exp/digits/data --output exp/digits/warmup/model

A transducer with an Emformer starts slowly: on these data its loss stays at "any digit at any time" for the first thousand
steps. The strings of prepare.py are put together from single digits, so where each lies is known, and frame by frame
cross-entropy passes that plateau within minutes (hybrid-system initialisation, as in Hu et al. 2020, "Exploring
pre-training with alignments for RNN transducer", arXiv 2005.00572). A CTC loss on the same strings starts the CTC head. Writes a model folder for ``init_from.path`` of `asr train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.features import NUM_MEL_BINS, SUBSAMPLING, Fbank, FeatureConfig
from asr.models.folder import save_model
from asr.tokens import Tokenizer
from asr.training.recipe import load_recipe
from asr.training.setup import make_model

UNKNOWN = -1  # frame without a label


def read_features(folder: Path, features: FeatureConfig) -> tuple[list[np.ndarray], list[dict]]:
    """Features of every utterance with known times, float16 (T, 80) in memory (60 MB an hour), and the manifest's rows."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows = [
        row for row in rows if row.get("spans") or not row["text"]
    ]  # the others cannot teach where a digit lies
    fbank, found, shown = Fbank(features).eval(), [], time.time()
    with torch.no_grad():
        for number, row in enumerate(rows):
            audio, _ = soundfile.read(folder / row["audio"], dtype="float32")
            values, _ = fbank(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
            found.append(values[0].numpy().astype(np.float16))
            if time.time() - shown > 10:
                shown = time.time()
                print(f"  features {number + 1}/{len(rows)}", flush=True)
    return found, rows


def frame_labels(row: dict, tokens: list[int], frames: int) -> np.ndarray:
    """Label of each 40 ms frame: the digit's token, 0 between digits; all UNKNOWN where the times are not known."""
    spans = row.get("spans", [])
    if tokens and not spans:
        return np.full(frames, UNKNOWN)
    labels = np.zeros(frames, dtype=np.int64)
    for token, (start, end) in zip(tokens, spans, strict=True):
        first = round(start * 25)
        labels[first : max(first + 1, round(end * 25))] = token
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
        "--minutes", type=float, default=0.0, help="stop after so long, whatever the steps; 0 = no limit"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="audio of a batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ctc", type=float, default=0.1, help="weight of the CTC loss")
    parser.add_argument("--threads", type=int, default=2)
    args, overrides = parser.parse_known_args(argv)
    torch.set_num_threads(1)  # for the features: one small transform after another

    recipe = load_recipe(args.recipe, [*overrides, "--init_from.path", ""])
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    tokenizer = Tokenizer.from_file(args.data / "tokens")
    model = make_model(recipe, tokenizer.vocab_size)
    found, rows = read_features(args.data / "train", recipe.features)
    targets = [tokenizer.encode(row["text"], strict=True) for row in rows]
    lengths = np.array([len(values) for values in found])
    labels = [
        frame_labels(r, t, -(-n // SUBSAMPLING))
        for r, t, n in zip(rows, targets, lengths.tolist(), strict=True)
    ]
    sample = np.concatenate([found[k][::3] for k in rng.permutation(len(found))[:1500]]).astype(np.float32)
    mean = torch.from_numpy(sample.mean(0))
    model.encoder.set_statistics(mean, torch.from_numpy(sample.std(0)))
    frame_head = nn.Linear(
        model.encoder.output_dim, tokenizer.vocab_size
    )  # only for the warm-up: CTC wants other outputs
    ctc_head = (
        model.ctc_head
        if model.ctc_head is not None
        else nn.Linear(model.encoder.output_dim, tokenizer.vocab_size)
    )
    parameters = [p for part in (model.encoder, frame_head, ctc_head) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    bf16 = str(recipe.trainer.precision) == "bf16"

    torch.set_num_threads(args.threads)
    began, shown, step, smooth = time.time(), time.time(), 0, np.zeros(3)
    progress = 0.0
    while progress < 1:
        for chosen in batches(lengths, int(args.seconds * 100), rng):
            size = torch.from_numpy(lengths[chosen])
            x = torch.zeros(len(chosen), int(size.max()), NUM_MEL_BINS)
            y = torch.full((len(chosen), -(-x.size(1) // SUBSAMPLING)), UNKNOWN)
            for k, index in enumerate(chosen):
                x[k, : lengths[index]] = torch.from_numpy(found[index].astype(np.float32))
                y[k, : len(labels[index])] = torch.from_numpy(labels[index])
            mask(x, size, mean, rng)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                encoded, frames = model.encode(x, size)
            logits = frame_head(encoded.float())
            known = (y != UNKNOWN).sum().clamp(min=1)
            frame_loss = (
                F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=UNKNOWN, reduction="sum")
                / known
            )
            flat = torch.tensor([t for index in chosen for t in targets[index]], dtype=torch.int64)
            counts = torch.tensor([len(targets[index]) for index in chosen])
            log_probs = ctc_head(encoded.float()).log_softmax(-1).transpose(0, 1)
            ctc_loss = F.ctc_loss(log_probs, flat, frames, counts, reduction="sum", zero_infinity=True) / max(
                1, len(flat)
            )
            progress = min(
                1.0, max((step + 1) / args.steps, (time.time() - began) / (60 * args.minutes or 1e9))
            )
            for group in optimizer.param_groups:
                group["lr"] = (
                    args.lr * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * progress))
                )
            optimizer.zero_grad()
            (frame_loss + args.ctc * ctc_loss).backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            step += 1
            digit = y > 0
            right = float((logits.argmax(-1) == y)[digit].float().mean()) if digit.any() else 0.0
            decay = min(0.97, 1 - 1 / step)
            smooth = decay * smooth + (1 - decay) * np.array([frame_loss.item(), ctc_loss.item(), right])
            if time.time() - shown > 10 or progress >= 1:
                shown = time.time()
                print(
                    f"  step {step}/{args.steps}  frame loss {smooth[0]:.3f}  ctc {smooth[1]:.3f}  "
                    f"digit frames right {100 * smooth[2]:.0f} %  {(shown - began) / 60:.1f} min",
                    flush=True,
                )
            if progress >= 1:
                break
    card = f"Warm-up of recipe {recipe.name}: {step} steps, {100 * smooth[2]:.0f} % of the training digits' frames right.\n"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(args.output, model.eval(), tokenizer, recipe.features, card, overwrite=True)
    print(f"{args.output}: {step} steps in {(time.time() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
