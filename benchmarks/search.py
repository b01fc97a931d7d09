"""Beam search against `torchaudio.models.RNNTBeamSearch` on the same model: speed, score, word error rate.

    python benchmarks/search.py --manifest DATA/phone_numbers --model digits --map oh=zero o=zero
    python benchmarks/search.py --manifest DATA/librispeech --model emformer_rnnt_base --limit 8
    asr import torchaudio-emformer-rnnt-librispeech public && python benchmarks/search.py --manifest DATA/librispeech --model public

Both sides get the same encoder output, computed once, on one thread; only the search is timed (processor time: other work on the machine
counts less), in rounds in which all follow one another, and the ratio is the median over rounds. Score: logarithm of the probability of the found symbols over *all* alignments (the transducer loss,
one symbol a frame or any number, as the model was trained), the mean of the utterances, so that it does not matter how a search counts.

`emformer_rnnt_base` has random weights (76.7 M, 4097 symbols; the public ones need a network), peaked as trained ones are, with a blank that
lets about `--rate` symbols a second through. torchaudio's search runs on torchaudio's own module; for other models on ours behind its interface.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.decoding import greedy
from asr.decoding.beam import BeamSearch, SearchConfig
from asr.decoding.nbest import beam_search
from asr.errors import UserError
from asr.features import SAMPLE_RATE, FeatureConfig
from asr.losses.transducer import transducer_loss
from asr.scoring.manifest import read_manifest
from asr.scoring.wer import parse_map, score
from asr.streaming import Recognizer
from asr.streaming.bench import machine
from benchmarks.streaming import BASE, random_pair, random_tokenizer


class Peer(torch.nn.Module):
    """Our model behind the interface that torchaudio's search expects: blank last, states as lists of lists, the batch first."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def predict(self, targets, lengths, state):
        predictor = self.model.predictor
        blank = self.model.joiner.output.out_features - 1
        tokens = torch.where(targets[:, 0] == blank, 0, targets[:, 0] + 1)
        if state is None:
            state = predictor.initial_state(len(tokens))
        elif len(state[0]) == 1:
            state = type(predictor.initial_state(1))(state[0][0])
        else:
            state = type(predictor.initial_state(1))(*(part.transpose(0, 1) for part in state[0]))
        out, state = predictor.step(tokens, state)
        parts = [state[0]] if len(state) == 1 else [part.transpose(0, 1) for part in state]
        return self.model.joiner.project_predictor(out)[:, None], lengths, [parts]

    def join(self, encoder, encoder_lengths, predictor, predictor_lengths):
        logits = self.model.joiner.join(encoder[:, :, None], predictor[:, None])
        return torch.cat([logits[..., 1:], logits[..., :1]], -1), encoder_lengths, predictor_lengths


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", default="digits", help=f"a model, an imported one too, or {BASE} (random weights)")
    parser.add_argument("--manifest", required=True, metavar="FILE")
    parser.add_argument("--split", default=None)
    parser.add_argument("--limit", type=int, default=50, help="utterances (default 50)")
    parser.add_argument("--beams", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=4.0, help="symbols a second of the random weights")
    parser.add_argument("--max-symbols", type=int, default=10, help="of a frame, full beam (torchaudio: 100)")
    parser.add_argument("--lattice", choices=("regular", "modified"), default="regular", help="alignments of the score")
    parser.add_argument("--map", nargs="+", default=[], metavar="a=b")
    return parser.parse_args(argv)


@torch.inference_mode()
def main(argv=None) -> int:
    options = arguments(argv)
    from torchaudio.models import RNNTBeamSearch

    torch.set_num_threads(1)
    items = list(read_manifest(options.manifest, split=options.split))[: options.limit]
    audio = [item.source.load() for item in items]
    if options.model == BASE:
        model, peer, bias = random_pair(np.concatenate(audio)[: 20 * SAMPLE_RATE], options.rate)
        peer.joiner.linear.bias[-1] = bias
        recognizer = Recognizer(model, random_tokenizer(), FeatureConfig(), name=BASE)
    else:
        recognizer = Recognizer.load(options.model)
        peer = Peer(recognizer.model)
    model = recognizer.model
    encoded = [recognizer.encode([samples]) for samples in audio]
    seconds = sum(map(len, audio)) / SAMPLE_RATE
    blank = model.joiner.output.out_features - 1
    theirs = RNNTBeamSearch(peer, blank)

    def ours(kind, beam):
        search = BeamSearch(model, SearchConfig(kind, beam=beam, max_symbols=options.max_symbols))
        return lambda: [beam_search(search, out, length)[0][0].tokens for out, length in encoded]

    def torchaudio(beam):
        def run():
            found = []
            for out, length in encoded:
                projected = model.joiner.project_encoder(out)
                hypotheses = theirs._search(projected[:, : int(length)], None, beam)
                found.append([token + 1 for token in hypotheses[0][0][1:]])
            return found

        return run

    systems = {"greedy": lambda: [greedy.greedy_search(model, out, length)[0].tokens for out, length in encoded]}
    for beam in options.beams:
        systems[f"modified beam {beam}"] = ours("modified_beam", beam)
        systems[f"full beam {beam}"] = ours("beam", beam)
        systems[f"torchaudio beam {beam}"] = torchaudio(beam)
    times: dict[str, list[float]] = {name: [] for name in systems}
    found = {}
    for count in range(options.rounds):
        for name, run in systems.items():
            print(f"\rround {count + 1} of {options.rounds}: {name}   ", end="", file=sys.stderr, flush=True)
            began = time.process_time()
            found[name] = run()
            times[name].append(time.process_time() - began)
    print(file=sys.stderr)

    @functools.cache  # most searches find the same
    def log_probability(utterance, symbols):
        out, length = encoded[utterance]
        y = torch.tensor([symbols], dtype=torch.int64)
        logits = model.joiner(out, model.predict(y))
        counts = torch.tensor([len(symbols)], dtype=torch.int32)
        return -float(transducer_loss(logits, y.int(), length.int(), counts, reduction="none", rnnt_type=options.lattice))

    def mean_log_probability(tokens):
        return statistics.fmean(log_probability(utterance, tuple(symbols)) for utterance, symbols in enumerate(tokens))

    print(f"{options.model}, {len(items)} utterances, {seconds:.0f} s of audio, one thread, {machine()}\n")
    print("| search | ms a frame | torchaudio / this | real-time factor | mean log P | WER |\n|---|---|---|---|---|---|")
    frames = sum(int(length) for _, length in encoded)
    for name in systems:
        beam = name.rpartition(" ")[2]
        ratio = ""
        if name != "greedy":
            pairs = zip(times[f"torchaudio beam {beam}"], times[name], strict=True)
            ratio = f"{statistics.median(a / b for a, b in pairs):.1f}"
        middle = statistics.median(times[name])
        if options.model == BASE:
            wer = "-"
        else:
            texts = [recognizer.tokenizer.decode(tokens) for tokens in found[name]]
            wer = f"{score([item.text for item in items], texts, parse_map(options.map)).wer:.2f} %"
        print(
            f"| {name} | {1000 * middle / frames:.3f} | {ratio} | {middle / seconds:.4f} | {mean_log_probability(found[name]):.3f} | {wer} |"
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/search.py: {error}", file=sys.stderr)
        sys.exit(2)
