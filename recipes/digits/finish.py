"""Last step of the digits recipe: sets the blank's bias on the dev speakers and writes the folder that ships.

    python recipes/digits/finish.py exp/digits/run/model --dev exp/digits/data/dev --output asr/pretrained/digits

Trained on noisy strings the model rather says nothing than something wrong: seven errors in ten are deletions. A constant
taken off the blank's score evens that out; it goes into the bias of the joiner, so that every runtime has it. The CTC
head, which only training needs, is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import soundfile
import torch

from asr.decoding.greedy import greedy_search
from asr.features import Fbank
from asr.models.folder import load_model, save_model
from asr.models.transducer import Transducer
from asr.scoring.wer import score

PENALTIES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # nats


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", type=Path, help="model folder that asr train wrote")
    parser.add_argument(
        "--dev", type=Path, help="manifest folder of the dev speakers; not needed with --penalty"
    )
    parser.add_argument("--penalty", type=float, help="take this instead of choosing on dev (nats)")
    parser.add_argument("--card", type=Path, help="text of the model's README.md")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    if (args.dev is None) == (args.penalty is None):
        parser.error("give one of --dev and --penalty")
    torch.set_num_threads(1)

    loaded = load_model(args.model)
    config = dataclasses.replace(loaded.model.config, ctc=False)
    model = Transducer(config).eval()
    kept = {k: v for k, v in loaded.model.state_dict().items() if not k.startswith("ctc_head.")}
    model.load_state_dict(kept)
    bias = model.joiner.output.bias.data
    start = float(bias[0])
    best = args.penalty
    with torch.no_grad():
        if args.dev is not None:
            fbank = Fbank(loaded.features).eval()
            encoded, texts = [], []
            for line in (args.dev / "manifest.jsonl").read_text().splitlines():
                row = json.loads(line)
                audio, _ = soundfile.read(args.dev / row["audio"], dtype="float32")
                features = fbank(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
                encoded.append(model.encode(*features))
                texts.append(row["text"])
            results = []
            for penalty in PENALTIES:
                bias[0] = start - penalty
                heard = [loaded.tokenizer.decode(greedy_search(model, *one)[0].tokens) for one in encoded]
                result = score(texts, heard)
                results.append((result.wer, penalty))
                print(
                    f"blank penalty {penalty:4.2f}: dev WER {result.wer:5.2f} % ({result.ins} ins, {result.dels} del, {result.sub} sub)"
                )
            best = min(results)[1]
        bias[0] = start - best
    card = args.card.read_text() if args.card else (args.model / "README.md").read_text()
    extra = dict(loaded.config.get("extra", {})) | {"blank_penalty": best}
    save_model(args.output, model, loaded.tokenizer, loaded.features, card, extra=extra, overwrite=True)
    print(f"{args.output}: blank penalty {best:g} nats")
    return 0


if __name__ == "__main__":
    sys.exit(main())
