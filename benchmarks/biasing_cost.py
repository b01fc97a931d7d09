"""What 10,000 phrases cost.

    python benchmarks/biasing_cost.py --model exp/english/run/model --text DATA/text/librispeech_lm.txt.gz --manifest DATA/librispeech --split dev
    python benchmarks/biasing_cost.py --model digits --manifest DATA/phone_numbers
    python benchmarks/biasing_cost.py --model emformer_rnnt_base --manifest DATA/librispeech --split dev

The search alone (encoder output computed once) and whole sessions (features, encoder, search), with and without a list of `--phrases`
phrases, one after the other in rounds; the median of the ratio within a round. "nothing on it" is a recogniser that takes phrases and has
none; with "the same words" the boost is 0.0001: the list is followed, the path of the search is as without. One thread; processor time, which
other programs on the machine disturb little.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.decoding.beam import SearchConfig
from asr.decoding.biasing import BiasGraph
from asr.decoding.nbest import decode
from asr.errors import UserError
from asr.features import SAMPLE_RATE, FeatureConfig
from asr.scoring.manifest import read_manifest
from asr.streaming import NO_ENDPOINT, Recognizer
from asr.streaming.bench import machine
from benchmarks.biasing import read_lines
from benchmarks.streaming import BASE, random_pair, random_tokenizer

FAINT = 1e-4  # a boost that changes no word


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", default="digits", help=f"a model, or {BASE} (random weights)")
    parser.add_argument("--manifest", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--split", default=None)
    parser.add_argument("--limit", type=int, default=12, help="utterances of each manifest (12)")
    parser.add_argument("--text", default=None, metavar="FILE", help="phrases are one to three words of its lines; without: ten of the model's words")
    parser.add_argument("--phrases", type=int, default=10_000)
    parser.add_argument("--boost", type=float, default=1.5)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=4.0, help="symbols a second of the random weights")
    return parser.parse_args(argv)


def cost_phrases(recognizer: Recognizer, options) -> BiasGraph:
    """Phrases of one to three words of the text, or ten words of the tokens; for random weights two to five tokens each."""
    rng = random.Random(options.seed)
    if options.model == BASE:
        size = recognizer.tokenizer.vocab_size
        strings = {tuple(rng.randrange(1, size) for _ in range(rng.randint(2, 5))) for _ in range(options.phrases)}
        return BiasGraph(sorted(strings), [1.0] * len(strings), size)
    if options.text is None:
        words = [piece.lstrip("\u2581") for piece in recognizer.tokenizer.pieces[1:]]
        strings = {" ".join(rng.choices(words, k=10)) for _ in range(options.phrases)}
        return BiasGraph.build(dict.fromkeys(sorted(strings), 1.0), recognizer.tokenizer)
    lines = [line.split() for line in read_lines(options.text)]
    phrases: set[str] = set()
    for _ in range(100 * options.phrases):
        words = rng.choice(lines)
        begin = rng.randrange(max(len(words) - 2, 1))
        phrases.add(" ".join(words[begin : begin + rng.randint(1, 3)]) or "a")
        if len(phrases) == options.phrases:
            break
    return BiasGraph.build(dict.fromkeys(sorted(phrases), 1.0), recognizer.tokenizer)


@torch.inference_mode()
def cost(options) -> int:
    items = [item for path in options.manifest for item in read_manifest(path, split=options.split)[: options.limit]]
    audio = [item.source.load() for item in items]
    config = SearchConfig("modified_beam", beam=options.beam)
    if options.model == BASE:
        model, _, _ = random_pair(np.concatenate(audio)[: 20 * SAMPLE_RATE], options.rate)
        tokenizer = random_tokenizer()
        plain = Recognizer(model, tokenizer, FeatureConfig(), name=BASE, search=config)
        biased = Recognizer(model, tokenizer, FeatureConfig(), name=BASE, search=config, phrases=[])
    else:
        plain = Recognizer.load(options.model, search=config)
        biased = Recognizer.load(options.model, search=config, phrases=[])
    began = time.process_time()
    graph = cost_phrases(biased, options)
    built = time.process_time() - began
    encoded = [plain.encode([samples]) for samples in audio]
    seconds = sum(map(len, audio)) / SAMPLE_RATE
    bias = biased.bias
    assert bias is not None
    slot = bias.add(graph)

    def searching(recognizer: Recognizer, boost: float | None):
        search = recognizer.beam
        assert search is not None

        def run():
            bias.slot, bias.scale = (slot, boost) if boost else (-1, 1.0)
            return [[s.token for s in decode(search, out, length, search.initial_state(1))[0][0]] for out, length in encoded]

        return run

    def sessions(recognizer: Recognizer, boost: float | None):
        def run():
            found = []
            bias.scale = boost or 1.0
            for samples in audio:
                session = recognizer.session(endpoint=NO_ENDPOINT, partials=False, phrases=None if boost is None else graph)
                found.append([w.word for event in (*session.accept(samples), *session.finish()) for w in event.words])
            return found

        return run

    for kind, make in (("search", searching), ("sessions", sessions)):
        systems = {"none": make(plain, None), "nothing on it": make(biased, None), "the same words": make(biased, FAINT)}
        systems[f"boost {options.boost:g}"] = make(biased, options.boost)
        for run in systems.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in systems}
        found = {}
        for _ in range(options.rounds):
            for name, run in systems.items():
                began = time.process_time()
                found[name] = run()
                times[name].append(time.process_time() - began)
        if kind == "search":
            print(f"{options.model}, beam {options.beam}, {len(items)} utterances, {seconds:.0f} s of audio, one thread, processor time, {machine()}")
            print(f"{options.phrases} phrases, {graph.size} nodes, read and compiled in {built:.2f} s; {options.rounds} rounds\n")
            print("| | list | real-time factor | against none | tokens (search), words (sessions) |\n|---|---|---|---|---|")
        for name in systems:
            ratio = statistics.median(a / b for a, b in zip(times[name], times["none"], strict=True))
            count = sum(map(len, found[name]))
            print(f"| {kind} | {name} | {statistics.median(times[name]) / seconds:.4f} | {100 * (ratio - 1):+.1f} % | {count} |", flush=True)
        if found["none"] != found["the same words"]:
            print("(the words are not the same)")
    return 0


@torch.inference_mode()
def main(argv=None) -> int:
    options = arguments(argv)
    torch.set_num_threads(1)
    return cost(options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/biasing_cost.py: {error}", file=sys.stderr)
        sys.exit(2)
