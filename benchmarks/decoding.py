"""What each search is worth on a model: word error rate, time, and whether the words of streams are those of whole recordings.

    python benchmarks/decoding.py --model MODEL --manifest DATA/librispeech DATA/speechocean762 --split dev --half 2 \\
        --row '+ n-gram=--beam 4 --lm 4gram.npz --lm-scale 0.3' --row '+ rescoring=--beam 4 --rescore NEURAL --rescore-scale 0.4' …

A row is a name and options of `asr evaluate` (those that `asr tune` prints); greedy, modified beam and full beam come first. Tune on the
other half of the speakers (`asr tune --half 1`). With `--row 'NAME=OPTIONS' 'OPTIONS'` and without `--half`, the first options are used for half 1
of the speakers and the second, tuned on half 1, for half 2: nothing is reported on utterances it was tuned on, and yet all are reported.

Word error rates are of whole recordings in batches. Difference to the first row: 95 % interval by bootstrap over utterances (the same ones in
both). Search: CPU time of the search alone by the length of the audio, one recording at a time on one thread, the median of rounds in which
all rows follow one another. Streams: every utterance goes through a session chunk by chunk, alone and with others as one batch; the number of
utterances that have other words than as whole recordings. The exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.cli import Parser, _decoding_options, _recognizer
from asr.errors import UserError
from asr.scoring.manifest import Item
from asr.scoring.tune import EncodedSet, encode_set, read_utterances, search_set
from asr.scoring.wer import WerResult, normalise, parse_map, score
from asr.streaming import Recognizer
from asr.streaming.bench import machine

DRAWS = 2000  # of the bootstrap


@dataclass
class Row:
    """One search, ready to run: with the same options for all speakers, or with others for each half."""

    name: str
    recognizers: list[Recognizer]

    @classmethod
    def of(cls, model: str, name: str, *options: str) -> Row:
        """From options as a command line has them, one or two sets."""
        parser = Parser(prog=f"--row {name!r}", description="")
        parser.add_argument("--model")
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--device", default="cpu")
        _decoding_options(parser)
        return cls(name, [_recognizer(parser.parse(["--model", model, *shlex.split(words)])) for words in options])

    def on(self, part: int) -> Recognizer:
        """For part 0 or 1 of the utterances."""
        return self.recognizers[min(part, len(self.recognizers) - 1)]


def difference(result: WerResult, first: WerResult, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the difference of word error rates (percentage points), by bootstrap over utterances."""
    words = np.array([sum(op != "I" for op in u.op) for u in first.utterances])
    errors = np.array([a.errors - b.errors for a, b in zip(result.utterances, first.utterances, strict=True)])
    drawn = np.random.default_rng(seed).integers(len(words), size=(DRAWS, len(words)))
    values = 100.0 * errors[drawn].sum(1) / np.maximum(words[drawn].sum(1), 1)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def search_times(recognizers: list[Recognizer], encoded: EncodedSet, rounds: int) -> list[float]:
    """CPU seconds that each needs for a second of audio; rounds in turns."""
    times: list[list[float]] = [[] for _ in recognizers]
    for _ in range(rounds):
        for recognizer, taken in zip(recognizers, times, strict=True):
            began = time.process_time()
            search_set(recognizer, encoded)
            taken.append((time.process_time() - began) / encoded.seconds)
    return [statistics.median(taken) for taken in times]


def streamed(recognizer: Recognizer, items: list[Item], parallel: int) -> list[str]:
    """The words of every utterance, chunk by chunk."""
    sources = [item.source for item in items]
    results = recognizer.transcribe_each(sources, streaming=True, parallel=parallel)
    return ["" if isinstance(result, UserError) else result.text for result in results]


def changed(one: list[str], other: list[str]) -> int:
    """Utterances with different words."""
    return sum(normalise(a) != normalise(b) for a, b in zip(one, other, strict=True))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--manifest", required=True, nargs="+", metavar="FILE", help="a table each")
    parser.add_argument("--split", default=None)
    parser.add_argument("--half", type=int, choices=(1, 2), default=None, help="only every other speaker")
    parser.add_argument("--limit", type=int, default=None, help="utterances of each manifest")
    parser.add_argument("--beam", type=int, default=4, help="of the rows modified beam and full beam (default 4)")
    parser.add_argument("--max-symbols", type=int, default=3, help="of the full beam (default 3)")
    parser.add_argument("--row", action="append", nargs="+", default=[], metavar="NAME=OPTIONS", help="may be given again")
    parser.add_argument("--parallel", type=int, default=8, help="streams in a batch (default 8)")
    parser.add_argument("--timed", type=int, default=12, help="utterances whose search is timed (default 12; 0: none)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-streams", action="store_true", help="leave the streams out")
    parser.add_argument("--map", nargs="+", default=[], metavar="a=b")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(1)
    mapping = parse_map(options.map)
    named = [
        ("greedy", [""]),
        ("modified beam", [f"--search modified_beam --beam {options.beam}"]),
        ("full beam", [f"--search beam --beam {options.beam} --max-symbols {options.max_symbols}"]),
    ]
    for first, *other in options.row:
        name, equals, words = first.partition("=")
        if not equals or len(other) > 1:
            raise UserError(f"--row takes NAME=OPTIONS, and options for half 2 if they are others, not {first!r}")
        if other and options.half:
            raise UserError("options for each half of the speakers go without --half")
        named.append((name, [words, *other]))
    rows = [Row.of(options.model, name, *words) for name, words in named]
    print(f"{options.model}, one thread, {machine()}")
    for name, words in named:
        print(f"- {name}: {' | half 2: '.join(words) or 'no options'}")
    bad = sum([table(rows, manifest, mapping, options) for manifest in options.manifest])
    return 1 if bad else 0


def table(rows: list[Row], manifest: str, mapping: dict[str, str], options: argparse.Namespace) -> int:
    """Print the table of a manifest; how many rows have a stream with other words."""

    def say(what: str) -> None:
        print(f"\r\x1b[K{manifest}: {what}", end="", file=sys.stderr, flush=True)

    halves = (1, 2) if any(len(row.recognizers) > 1 for row in rows) else (options.half,)
    parts = [read_utterances([manifest], options.split, half)[: options.limit] for half in halves]
    say("encoding")
    encoded = [encode_set(rows[0].on(0), items) for items in parts]
    if errors := [error for part in encoded for error in part.errors]:
        raise UserError(errors[0])
    refs = [ref for part in encoded for ref in part.refs]
    results, found = [], []
    for row in rows:
        say(row.name)
        found.append([text for k, part in enumerate(encoded) for text in search_set(row.on(k), part)])
        results.append(score(refs, found[-1], mapping))
    times: list[Any] = [None] * len(rows)
    if options.timed:
        say("times")
        some = parts[-1][:: max(1, len(parts[-1]) // options.timed)][: options.timed]
        alone = encode_set(rows[0].on(0), some, batch_seconds=0.01)
        times = search_times([row.on(len(parts) - 1) for row in rows], alone, options.rounds)
    differ: list[list[int] | None] = [None] * len(rows)
    if not options.no_streams:
        for i, row in enumerate(rows):
            say(f"{row.name}, streams")
            differ[i] = [
                changed(found[i], [text for k, items in enumerate(parts) for text in streamed(row.on(k), items, parallel)])
                for parallel in (1, options.parallel)
            ]
    say("\r\x1b[K")
    speakers = f", half {options.half} of the speakers" if options.half else ""
    split = f", {options.split}" if options.split else ""
    seconds = sum(part.seconds for part in encoded)
    print(f"\n{manifest}{split}{speakers}: {len(refs)} utterances, {seconds:.0f} s, {results[0].words} words\n")
    print(f"| search | WER % | ins / del / sub | to greedy (95 %) | search RTF | other words in streams: alone / {options.parallel} together |")
    print("|---|---|---|---|---|---|")
    for row, result, taken, streams in zip(rows, results, times, differ, strict=True):
        interval = ""
        if row is not rows[0]:
            low, high = difference(result, results[0])
            interval = f"{result.wer - results[0].wer:+.2f} ({low:+.2f} … {high:+.2f})"
        cells = [row.name, f"{result.wer:.2f}", f"{result.ins} / {result.dels} / {result.sub}", interval]
        cells += ["" if taken is None else f"{taken:.4f}", "" if streams is None else f"{streams[0]} / {streams[1]}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return sum(streams is not None and any(streams) for streams in differ)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/decoding.py: {error}", file=sys.stderr)
        sys.exit(2)
