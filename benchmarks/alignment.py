"""How far word times are from the truth, before and after alignment, on recordings whose truth is exact.

    python benchmarks/alignment.py --data DATA [--model digits] [--split test] [--strings 80] [--format json]

Recordings of single words (FSDD; the test speaker is in no training) are cut where their loudness sinks ``--down`` dB
below its peak (much more than 30, and the background of some recordings counts as word: a `nine` of 2.3 s) and spliced into strings of ``--words`` words with real pauses of 0.03 to 0.6 s between them: stretches before and
after the speech of other people's recordings, at the level they had below that speech. So every start and end is
known to the sample.

Rows: emission (what the recogniser says without a branch), aligned (the same words with `Details(aligned_times=True)`), streamed (the same
in sessions), and text (all words of the known text after forced alignment). All but the last count the words that were recognised
rightly. Goal: a mean error of at most 50 ms (arXiv 2105.00858). What details of segments cost is measured as the time of streaming the same
recordings with and without them, in alternating rounds.
"""

from __future__ import annotations

import argparse
import difflib
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import asr
from asr.audio import load_audio
from asr.decoding.align import layer_output
from asr.decoding.alignment import MISSING_PRICE, Aligner
from asr.decoding.beam import SearchConfig
from asr.features import SAMPLE_RATE
from asr.pretrained import resolve
from asr.scoring.manifest import read_manifest
from asr.streaming import Details
from asr.training.branch_data import quiet_stretches, speech_edges

Truth = list[tuple[str, float, float]]


def read_words(folder: Path, split: str, down: float) -> list[tuple[str, np.ndarray]]:
    """(word, samples cut to the sound) of a corpus of single words."""
    found = []
    for item in read_manifest(folder, split):
        samples = load_audio(item.audio)
        first, last = speech_edges(samples, down)
        found.append((item.text.lower(), samples[first:last]))
    return found


def read_pauses(folder: Path, split: str, most: int = 80) -> list[np.ndarray]:
    """Quiet stretches of at least a quarter of a second, divided by the RMS of the speech beside them."""
    found = []
    for item in read_manifest(folder, split)[:most]:
        found += quiet_stretches(load_audio(item.audio))
    return found


def splice(
    words: list[tuple[str, np.ndarray]], pauses: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, Truth]:
    """Words with pauses around them, and where each lies in seconds."""
    level = np.sqrt(np.mean(np.concatenate([samples for _, samples in words]) ** 2))
    stretch = pauses[int(rng.integers(len(pauses)))] * level  # one room a string
    stretch = np.concatenate([stretch, stretch[::-1]])  # and back, so that it repeats without a step
    pieces: list[np.ndarray] = []
    truth: Truth = []
    at = 0
    for i in range(len(words) + 1):
        count = round(rng.uniform(0.03, 0.6) * SAMPLE_RATE) if 0 < i < len(words) else round(0.5 * SAMPLE_RATE)
        pieces.append(np.take(stretch, np.arange(count) + int(rng.integers(len(stretch))), mode="wrap"))
        at += count
        if i < len(words):
            word, samples = words[i]
            truth.append((word, at / SAMPLE_RATE, (at + len(samples)) / SAMPLE_RATE))
            pieces.append(samples)
            at += len(samples)
    return np.concatenate(pieces).astype(np.float32), truth


def errors(truth: Truth, found: list[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """Start and end of each rightly found word minus the truth, in seconds."""
    matcher = difflib.SequenceMatcher(None, [w for w, _, _ in truth], [w for w, _, _ in found], autojunk=False)
    return [
        (found[b.b + k][1] - truth[b.a + k][1], found[b.b + k][2] - truth[b.a + k][2])
        for b in matcher.get_matching_blocks()
        for k in range(b.size)
    ]


def known_text(aligner: Aligner, log_probs: torch.Tensor, text: list) -> list[tuple[float, float]]:
    """What `asr align` finds for the words of ``text``, start and end minus the truth in seconds; words without truth were not said."""
    found = aligner.align(log_probs, [word for word, _, _ in text], True, MISSING_PRICE)
    return [(got[1] - start, got[2] - end) for got, (_, start, end) in zip(found, text, strict=True) if start is not None]


def figures(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Mean absolute error and median of starts and ends in ms, and the share of both within 50, 100 and 200 ms."""
    ms = 1000 * np.array(pairs)
    size = np.abs(ms)
    result = {"words": len(pairs)}
    for column, name in enumerate(("start", "end")):
        result[f"{name}_mean_error_ms"] = round(float(size[:, column].mean()), 1)
        result[f"{name}_median_ms"] = round(float(np.median(ms[:, column])), 1)
        for limit in (50, 100, 200):
            result[f"{name}_within_{limit}"] = round(float(np.mean(size[:, column] <= limit)), 3)
    return result


def costs(model: str, audios: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Time of streaming with details over that without them: median of rounds in which all take turns."""
    greedy, beam = asr.load(model), asr.load(model, search=SearchConfig("modified_beam", beam=4))
    kinds = {
        "aligned times": (greedy, Details(aligned_times=True)),
        "confidence": (greedy, Details(confidence=True)),
        "beam 4: alternatives": (beam, Details(alternatives=4)),
        "beam 4: all": (beam, Details(aligned_times=True, confidence=True, alternatives=4)),
    }
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (recognizer, details) in kinds.items():
            spent = []
            for chosen in (None, details):
                began = time.perf_counter()
                recognizer.transcribe(audios, streaming=True, parallel=1, details=chosen)
                spent.append(time.perf_counter() - began)
            ratios[name].append(spent[1] / spent[0])
    return {name: round(statistics.median(values), 3) for name, values in ratios.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with the corpora")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--words-from", default="fsdd", help="corpus of single words")
    parser.add_argument("--split", default="test")
    parser.add_argument("--pauses-from", default="speechocean762:dev", help="corpus:split")
    parser.add_argument("--down", type=float, default=30.0, help="dB below a word's peak at which it is cut")
    parser.add_argument("--strings", type=int, default=80)
    parser.add_argument("--words", type=int, default=6, help="in a string")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = asr.load(args.model)
    aligner = Aligner.load(resolve(args.model), recognizer.model, recognizer.tokenizer)
    if aligner is None:
        sys.exit(f"error: {args.model} has no alignment branch: asr train-branch --model {args.model} ...")
    rng = np.random.default_rng(args.seed)
    single = read_words(args.data / args.words_from, args.split, args.down)
    corpus, _, split = args.pauses_from.partition(":")
    pauses = read_pauses(args.data / corpus, split)
    order = np.concatenate([rng.permutation(len(single)) for _ in range(args.strings * args.words // len(single) + 1)])
    before, after, streamed, text, lacking, surplus = [], [], [], [], [], []
    chance = np.random.default_rng(args.seed + 1)
    total = reference = 0.0
    details = Details(aligned_times=True)
    strings = [splice([single[i] for i in order[n * args.words : (n + 1) * args.words]], pauses, rng) for n in range(args.strings)]
    for audio, truth in strings:
        total += len(audio) / SAMPLE_RATE
        reference += len(truth)
        encoded = layer_output(recognizer.model, recognizer.fbank, audio, aligner.layer)
        log_probs = aligner.log_probs(encoded)
        text += known_text(aligner, log_probs, truth)
        drop, add = int(chance.integers(len(truth))), int(chance.integers(len(truth) + 1))
        lacking += known_text(aligner, log_probs, truth[:drop] + truth[drop + 1 :])
        surplus += known_text(aligner, log_probs, [*truth[:add], (str(chance.choice([word for word, _ in single])), None, None), *truth[add:]])
        for rows, options in ((before, {}), (after, {"details": details}), (streamed, {"details": details, "streaming": True})):
            words = recognizer.transcribe(audio, **options)[0].words
            rows += errors(truth, [(w.word, w.start, w.end) for w in words])
    cost = costs(args.model, [audio for audio, _ in strings[:20]], args.rounds)
    report = {"emission": figures(before), "aligned": figures(after), "streamed": figures(streamed), "text": figures(text)}
    report |= {"a word lacks": figures(lacking), "a word more": figures(surplus)}
    if args.format == "json":
        print(json.dumps({"reference_words": int(reference), "audio_seconds": round(total, 1), **report, "time": cost}, indent=2))
        return
    print(f"{args.words_from} {args.split}, pauses of {args.pauses_from}: {reference:.0f} words in {total:.0f} s")
    print(
        f"{'':<14}{'words':>6}{'start: mean':>13}{'median':>8}{'<= 50':>8}{'<= 100':>8}{'end: mean':>12}{'median':>8}{'<= 50':>8}{'<= 100':>8}"
    )
    for name, row in report.items():
        print(
            f"{name:<14}{row['words']:>6}"
            + "".join(
                f"{row[f'{edge}_mean_error_ms']:>{width}.0f} ms{row[f'{edge}_median_ms']:>+8.0f}"
                f"{100 * row[f'{edge}_within_50']:>6.0f} %{100 * row[f'{edge}_within_100']:>6.0f} %"
                for edge, width in (("start", 10), ("end", 9))
            )
        )
    print("time of streaming with them, without = 1 (one thread, " + (platform.processor() or platform.machine()) + "):")
    print("  " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in cost.items()))


if __name__ == "__main__":
    main()
