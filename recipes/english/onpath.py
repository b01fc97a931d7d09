"""Trains the whole transducer along aligned paths, before the sum over all paths is taught (``asr train``); see README.md.

    python recipes/english/onpath.py recipes/english/english.yaml --data DATA --minutes 25 --output exp/english/onpath/model

A transducer that starts from random weights, or from an encoder that knows phones, stays at the statistics of its symbols for
a long time. Where it is known when each word was said, the lattice is not needed: each frame has one target, a symbol where one
ends and blank elsewhere, given the symbols before (Hu et al. 2020, "Exploring pre-training with alignments for RNN transducer", arXiv
2005.00572). Word times are those of recipes/digits/align.py; the pieces of a word share its time evenly.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "digits")]

import sources
from warmup import batches, mask

from asr.audio import load_audio
from asr.features import SUBSAMPLING, Fbank
from asr.models.folder import save_model
from asr.tokens import Tokenizer
from asr.training.recipe import InitConfig, load_recipe
from asr.training.setup import initialise, make_model

DELAY = 0.04  # seconds after its end that a symbol is emitted
SAVE_SECONDS = 240


def targets(words: list, tokenizer: Tokenizer, frames: int) -> tuple[list[int], list[int]] | None:
    """Symbols of aligned words and the encoder frame of each, one symbol a frame; None: they do not fit."""
    tokens: list[int] = []
    at: list[int] = []
    for word, start, end in words:
        pieces = tokenizer.encode(word)
        for i, piece in enumerate(pieces, 1):
            tokens.append(piece)
            at.append(math.ceil((max(0.0, start) + i / len(pieces) * (end - max(0.0, start)) + DELAY) * 25 - 0.5))
    for i in range(len(at)):
        at[i] = max(at[i], at[i - 1] + 1 if i else 0)
    for i in range(len(at) - 1, -1, -1):
        at[i] = min(at[i], at[i + 1] - 1 if i + 1 < len(at) else frames - 1)
    return (tokens, at) if tokens and at[0] >= 0 else None


def read(data: Path, alignments: Path, tokenizer: Tokenizer, fbank: Fbank) -> list[tuple[np.ndarray, list[int], list[int]]]:
    """(features (T, 80) float16, symbols, frames) of every utterance whose alignment reached its end."""
    known = {row["id"]: row["words"] for row in map(json.loads, alignments.read_text().splitlines()) if row["words"]}
    found, shown = [], time.time()
    for u in sources.read_training_speech(data):
        if u.corpus == "fsdd" or u.id not in known or len(known[u.id]) != len(u.text.split()):
            continue
        audio = torch.from_numpy(load_audio(u.audio))[None]
        with torch.no_grad():
            features, _ = fbank(audio, torch.tensor([audio.size(1)]))
        pair = targets(known[u.id], tokenizer, -(-features.size(1) // SUBSAMPLING))
        if pair:
            found.append((features[0].numpy().astype(np.float16), *pair))
        if time.time() - shown > 10:
            shown = time.time()
            print(f"  features of {len(found)} utterances", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of corpora")
    parser.add_argument("--alignments", type=Path, default=Path("exp/digits/alignments.jsonl"), help="of recipes/digits/align.py")
    parser.add_argument("--start", type=Path, default=Path("exp/english/warmup/model"), help="model folder whose encoder knows the phones; all that fits is taken")
    parser.add_argument("--output", type=Path, default=Path("exp/english/onpath/model"))
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="audio of a batch")
    parser.add_argument("--lr", type=float, default=8e-4)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe, ["--init_from.path", ""])
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    tokenizer = Tokenizer.from_file(recipe.tokens.path)
    model = make_model(recipe, tokenizer.vocab_size)
    print(initialise(model, replace(recipe, init_from=InitConfig(str(args.start)))), flush=True)
    found = read(args.data, args.alignments, tokenizer, Fbank(recipe.features).eval())
    lengths = np.array([len(features) for features, _, _ in found])
    print(f"{len(found)} utterances, {lengths.sum() / 360000:.1f} h", flush=True)
    mean = model.encoder.mean.detach().cpu().float() if hasattr(model.encoder, "mean") else torch.zeros(80)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    began = shown = saved = time.time()
    step, smooth, progress = 0, np.zeros(3), 0.0
    args.output.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        card = f"Recipe {recipe.name}, along aligned paths: {step} steps, {100 * smooth[1]:.0f} % of the symbols right.\n"
        save_model(args.output, model.eval(), tokenizer, recipe.features, card, overwrite=True)
        model.train()

    model.train()
    while progress < 1:
        for chosen in batches(lengths, int(args.seconds * 100), rng):
            size = torch.from_numpy(lengths[chosen])
            x = torch.zeros(len(chosen), int(size.max()), 80)
            longest = max(len(found[k][1]) for k in chosen)
            y = torch.zeros(len(chosen), longest, dtype=torch.int64)
            goal = torch.full((len(chosen), -(-x.size(1) // SUBSAMPLING)), -100)
            before = torch.zeros_like(goal)  # symbols emitted before each frame
            for k, index in enumerate(chosen):
                features, tokens, frames = found[index]
                x[k, : len(features)] = torch.from_numpy(features.astype(np.float32))
                y[k, : len(tokens)] = torch.tensor(tokens)
                goal[k, : -(-len(features) // SUBSAMPLING)] = 0
                goal[k, frames] = torch.tensor(tokens)
                before[k] = torch.searchsorted(torch.tensor(frames), torch.arange(goal.size(1)))
            mask(x, size, mean, rng)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                encoded, _ = model.encode(x, size)
                predicted = model.joiner.project_predictor(model.predict(y))
                predicted = predicted.gather(1, before[:, :, None].expand(-1, -1, predicted.size(2)))
                logits = model.joiner.join(model.joiner.project_encoder(encoded), predicted)
                by_frame = model.ctc_head(encoded)
            loss = F.cross_entropy(logits.float().flatten(0, 1), goal.flatten())
            ctc = F.cross_entropy(by_frame.float().flatten(0, 1), goal.flatten())
            progress = min(1.0, (time.time() - began) / (60 * args.minutes))
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1.0, (step + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * progress))
            optimizer.zero_grad()
            (loss + 0.5 * ctc).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            symbols = goal > 0
            right = float((logits[..., 1:].argmax(-1) + 1 == goal)[symbols].float().mean())
            said = float((logits.argmax(-1) > 0).sum() / symbols.sum())
            decay = min(0.98, 1 - 1 / step)
            smooth = decay * smooth + (1 - decay) * np.array([loss.item(), right, said])
            if time.time() - shown > 10 or progress >= 1:
                shown = time.time()
                print(
                    f"  step {step}  loss {smooth[0]:.3f}  symbols right {100 * smooth[1]:.0f} %, said {100 * smooth[2]:.0f} %  "
                    f"{(shown - began) / 60:.1f} min", flush=True,
                )  # fmt: skip
            if time.time() - saved > SAVE_SECONDS:
                saved = time.time()
                save()
            if progress >= 1:
                break
    save()
    print(f"{args.output}: {step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
