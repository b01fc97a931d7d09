"""Tokens for english.yaml, from the transcripts it trains on: ``python recipes/english/prepare.py --data DATA`` (see README.md)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone as it is

from asr.data.config import CorpusConfig
from asr.errors import UserError

CORPORA = ("librispeech", "speechocean762", "vctk_p239", "ljtext_selfread")  # folders of DATA; the first two have a dev split
VOCAB = 300


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a user's error."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder of corpora, each with a manifest.jsonl")
    parser.add_argument("--out", type=Path, default=Path("exp/english/data"), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        prepare(arguments.data, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(data: Path, out: Path) -> None:
    """Write the tokens of the corpora's train texts into ``out``, after a look at the speakers."""
    from asr.data.corpora import assert_disjoint_speakers, load_cuts
    from asr.data.dataset import cut_text
    from asr.tokens import Tokenizer

    train, dev = [], []
    for name in CORPORA:
        cuts = list(load_cuts(CorpusConfig(str(data / name), split="train")))
        print(f"{name}: {len(cuts)} utterances, {sum(cut.duration for cut in cuts) / 3600:.2f} h")
        train += cuts
        if name in CORPORA[:2]:
            dev += list(load_cuts(CorpusConfig(str(data / name), split="dev")))
    assert_disjoint_speakers(train, dev, names=["train", "dev"])
    tokenizer = Tokenizer.train((cut_text(cut) for cut in train), VOCAB)
    tokenizer.save(out / "tokens")
    print(f"{tokenizer.vocab_size} tokens -> {out / 'tokens'}")


if __name__ == "__main__":
    sys.exit(main())
