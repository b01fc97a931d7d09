"""Perplexity of a language model on text.

python -m asr.training.perplexity --model LM_FOLDER TEXT…
python -m asr.training.perplexity --model LM.npz --tokens MODEL TEXT…
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from asr.cli import Parser
from asr.decoding.added import model_folder
from asr.decoding.ngram import NgramModel
from asr.errors import UserError
from asr.models.lm import LanguageModel, load_lm
from asr.tokens import Tokenizer
from asr.training.ngram import tokens_of
from asr.training.text import Sentences, TextDataConfig, TextSource


def perplexities(nats: float, tokens: float, words: float, sentences: float) -> dict[str, float]:
    """Perplexity per token and per word; both count the end of a sentence as one more (SRILM's ``ppl``).

    Args:
        nats: negative log-likelihood of all tokens and ends.
        tokens: with the ends of the sentences; ``words`` without.
    """

    def perplexity(count: float) -> float:
        return math.exp(min(nats / max(count, 1.0), 700.0))

    return {
        "loss": nats / max(tokens, 1.0),
        "perplexity": perplexity(tokens),
        "word_perplexity": perplexity(words + sentences),
        "tokens": tokens,
        "words": words,
        "sentences": sentences,
    }


def describe_perplexities(found: dict[str, float]) -> str:
    """`perplexities` in words."""
    return (
        f"perplexity {found['perplexity']:.2f} a token, {found['word_perplexity']:.1f} a word "
        f"({found['tokens']:.0f} tokens, {found['words']:.0f} words, {found['sentences']:.0f} sentences)"
    )


def measure_perplexity(model: LanguageModel | NgramModel, tokenizer: Tokenizer, config: TextDataConfig) -> dict[str, float]:
    """`perplexities` of ``config.dev``, with dropout off, on the model's device.

    Raises:
        UserError: text that cannot be read.
    """
    sentences = Sentences(config.dev, tokenizer, config.max_sentence_tokens)
    if isinstance(model, NgramModel):
        nats = -float(model.scores(ids.tolist() for ids in np.split(sentences.ids, sentences.starts[1:-1])).sum())
    else:
        nats = _nats(model, sentences, config.max_tokens)
    count = len(sentences)
    return perplexities(nats, float(sentences.tokens + count), float(sentences.words.sum()), float(count))


def _nats(model: LanguageModel, sentences: Sentences, max_tokens: int) -> float:
    device, nats = model.bias.device, 0.0
    model.eval()
    with torch.inference_mode():
        for indices in sentences.plan(max_tokens, np.arange(len(sentences))):
            batch = sentences.batch(indices)
            nats += float(model.losses(batch.tokens.to(device), batch.lengths.to(device)).sum())
    return nats


def perplexity_command(argv: Sequence[str]) -> int:
    """``asr perplexity --model LM_FOLDER TEXT…``: how well a language model predicts text it has not seen."""
    parser = Parser(prog="asr perplexity", description="Perplexity of a language model on text.")
    parser.add_argument(
        "--model", required=True, metavar="FOLDER|FILE", help="a language model of asr train, or an n-gram model (.npz, .arpa, .arpa.gz)"
    )
    parser.add_argument(
        "--tokens", default=None, metavar="MODEL", help="of an n-gram model: a model folder, a shipped model or a tokens.model"
    )
    parser.add_argument("text", nargs="+", metavar="TEXT", help="sentences: .txt, .jsonl with \"text\", also .gz")
    parser.add_argument("--start", type=float, default=0.0, help="use the lines from this fraction of each file …")
    parser.add_argument("--stop", type=float, default=1.0, help="… to this one")
    parser.add_argument("--split", default="", help='use the lines of a .jsonl with this "split"')
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the result")
    options = parser.parse(argv)
    sources = [TextSource(path, options.start, options.stop, options.split) for path in options.text]
    config = TextDataConfig(train=list(sources), dev=list(sources))
    config.validate()
    found = measure_perplexity(*_load(options.model, options.tokens), config)
    print(json.dumps(found) if options.format == "json" else describe_perplexities(found))
    return 0


def _load(name: str, tokens: str | None) -> tuple[LanguageModel | NgramModel, Tokenizer]:
    """The model and its tokens.

    Raises:
        UserError: it is not there, damaged, or of other tokens than those named; an n-gram model without.
    """
    tokenizer = None if tokens is None else tokens_of(tokens)
    if Path(name).is_file():
        if tokenizer is None:
            raise UserError(f"{name} is an n-gram file: name the model that it was made for with --tokens")
        return NgramModel.from_file(name, tokenizer), tokenizer
    loaded = load_lm(model_folder(name), tokenizer)
    return loaded.model, loaded.tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """The command of the module's docstring; returns the exit code."""
    try:
        return perplexity_command(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
