"""Estimating token n-gram models from text: interpolated modified Kneser-Ney, and ``asr ngram``.

Chen & Goodman, "An empirical study of smoothing techniques for language modeling" (1998), with the conventions of
Heafield et al., "Scalable modified Kneser-Ney language model estimation" (2013): a sentence begins with one <s>,
n-grams that begin with it keep their own counts in lower orders, pruned mass goes to the back-off. Counting sorts: an
n-gram is the key (row of its first n-1 symbols) * (V + 1) + last symbol. Symbols: 0 is <s>, V is </s>, else tokens.
P positions of the text, M_n different n-grams of order n.
"""

from __future__ import annotations

import json
import math
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO

import numpy as np

from asr.cli import Parser, check_output
from asr.decoding.arpa import LOG10, LOG10_ZERO, Grams, read_lines, write_arpa
from asr.decoding.phrases import UNSPOKEN, spell
from asr.errors import UserError
from asr.tokens import Tokenizer

FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts give none, as lmplz --discount_fallback
HIGHEST_ORDER = 10
ENDINGS = (".npz", ".arpa", ".arpa.gz")
Discounts = tuple[float, float, float]  # of n-grams seen once, twice, more often


@dataclass(frozen=True)
class Estimate:
    """The n-grams of orders 1, 2, … with probabilities and back-off weights, and what they were made of."""

    grams: list[Grams]
    discounts: list[Discounts]  # of each order
    sentences: int
    tokens: int  # without <s> and </s>


@dataclass(frozen=True)
class _Counts:
    """The different n-grams of one order in the text, sorted."""

    symbols: np.ndarray  # (M_n, n) int32
    raw: np.ndarray  # (M_n,) int64: how often
    prefix: np.ndarray  # (M_n,) int64: the row of the first n-1 symbols
    suffix: np.ndarray  # (M_n,) int64: the row of the last n-1 symbols


def estimate(
    sentences: Iterable[Sequence[int]],
    order: int,
    vocab_size: int,
    endpoint_id: int | None = None,
    prune: Sequence[int] = (0,),
    progress: Callable[[str], None] | None = None,
) -> Estimate:
    """Interpolated modified Kneser-Ney over all tokens and </s>: every context's probabilities sum to 1.

    Args:
        sentences: token ids, 1 … vocab_size - 1; read once.
        order: the longest n-grams, from 1.
        vocab_size: V, blank and endpoint token counted.
        endpoint_id: a token that the model leaves out.
        prune: n-grams seen at most so often are left out, for each order from 1; the last holds for higher ones.
        progress: told what is being done.

    Raises:
        UserError: no sentence; an order or thresholds that make no sense.
        ValueError: an id that is no token's.
    """
    thresholds = _thresholds(prune, order)
    say = progress or (lambda what: None)
    stream = _stream(sentences, vocab_size, endpoint_id)
    ends = int((stream == vocab_size).sum())
    counts = list(_count(stream, order, vocab_size, say))
    say("estimating")
    grams: list[Grams] = []
    discounts: list[Discounts] = []
    kept_before = np.zeros(0, dtype=bool)
    lower = np.zeros(0)
    for n, table in enumerate(counts, 1):
        adjusted = table.raw.astype(np.float64)
        if n < order:  # by how many different symbols it is preceded; nothing precedes <s>
            preceded = np.bincount(counts[n].suffix, minlength=len(adjusted))
            adjusted = np.where(table.symbols[:, 0] == 0, adjusted, preceded)
        if n == 1:
            adjusted[0] = 0.0
        discounts.append(_discounts(adjusted))
        discount = np.array([0.0, *discounts[-1]])[np.minimum(adjusted, 3.0).astype(np.int64)]
        kept = table.raw > thresholds[n - 1] if n > 1 else np.ones(len(adjusted), dtype=bool)
        rows = 1 if n == 1 else len(lower)
        total = np.bincount(table.prefix, adjusted, minlength=rows)
        spared = np.bincount(table.prefix, np.where(kept, discount, adjusted), minlength=rows)
        share = np.divide(spared, total, out=np.ones(rows), where=total > 0)  # a context's weight of shorter ones
        if n == 1:
            below = np.full(len(adjusted), 1.0 / (vocab_size - int(endpoint_id is not None)))
            below[[0] if endpoint_id is None else [0, endpoint_id]] = 0.0
        else:
            below = lower[table.suffix]
        seen = np.where(kept, adjusted - discount, 0.0) / total[table.prefix]
        probability = seen + share[table.prefix] * below
        if n > 1:
            grams[-1] = Grams(grams[-1].symbols, grams[-1].log_probs, np.log(share)[kept_before])
        log_probs = np.full(int(kept.sum()), LOG10_ZERO * LOG10)
        np.log(probability[kept], out=log_probs, where=probability[kept] > 0)
        grams.append(Grams(table.symbols[kept], log_probs, np.zeros(len(log_probs))))
        kept_before, lower = kept, probability
    return Estimate(grams, discounts, ends, len(stream) - 2 * ends)


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    """One for each order.

    Raises:
        UserError: they make no sense; not falling, an n-gram's prefix and suffix stay where it stays.
    """
    if not 1 <= order <= HIGHEST_ORDER:
        raise UserError(f"the order of an n-gram model must be from 1 to {HIGHEST_ORDER}, not {order}")
    values = list(prune) or [0]
    if min(values) < 0:
        raise UserError(f"thresholds to prune with are counts from 0, not {min(values)}")
    if len(values) > order:
        raise UserError(f"there are {len(values)} thresholds to prune with for {order} orders")
    if values[0] != 0 and order > 1 and len(values) == 1:
        values.insert(0, 0)
    if values[0] != 0:
        raise UserError("1-grams cannot be pruned: the first threshold must be 0")
    if any(a > b for a, b in zip(values, values[1:], strict=False)):
        raise UserError(f"thresholds to prune with must not fall from one order to the next: {values}")
    return values + values[-1:] * (order - len(values))


def _stream(sentences: Iterable[Sequence[int]], vocab_size: int, endpoint_id: int | None) -> np.ndarray:
    """(P,) int32: <s> tokens </s> of every sentence."""
    flat = array("i")
    for tokens in sentences:
        if len(tokens) and not 0 < min(tokens) <= max(tokens) < vocab_size:
            raise ValueError(f"a sentence holds ids outside 1…{vocab_size - 1}")
        flat.append(0)
        flat.extend(tokens)
        flat.append(vocab_size)
    if not flat:
        raise UserError("there is no sentence to estimate an n-gram model from")
    stream = np.frombuffer(flat, dtype=np.int32)
    if endpoint_id is not None and (stream == endpoint_id).any():
        raise ValueError(f"a sentence holds the endpoint token {endpoint_id}")
    return stream


def _count(stream: np.ndarray, order: int, vocab_size: int, say: Callable[[str], None]) -> Iterator[_Counts]:
    """The n-grams of orders 1, 2, …; order 1 has every symbol, row = symbol. About 45 bytes of memory a position."""
    base = vocab_size + 1
    say("counting 1-grams")
    single = np.arange(base, dtype=np.int32)[:, None]
    nowhere = np.zeros(base, dtype=np.int64)
    yield _Counts(single, np.bincount(stream, minlength=base), nowhere, nowhere)
    rows = stream  # of the n-gram that begins at each position; -1 where a sentence ends first
    for n in range(2, order + 1):
        say(f"counting {n}-grams")
        last = stream[n - 1 :]
        before = rows[: len(last)]
        starts = np.flatnonzero((before >= 0) & (last > 0))  # only the next sentence's <s> follows an end
        keys = before[starts].astype(np.int64) * base + last[starts]
        sorting = np.argsort(keys)
        keys, starts = keys[sorting], starts[sorting]
        new = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        at = np.flatnonzero(new)
        first = starts[at]
        symbols = stream[first[:, None] + np.arange(n)]
        raw = np.diff(np.append(at, len(keys)))
        yield _Counts(symbols, raw, keys[at] // base, rows[first + 1].astype(np.int64))
        rows = np.full(len(stream), -1, dtype=np.int32)
        rows[starts] = np.cumsum(new) - 1


def _discounts(counts: np.ndarray) -> Discounts:
    """The discounts of an order's adjusted counts (Chen & Goodman, eq. 17), or FALLBACK where they make no sense."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0.0 < value <= k for k, value in enumerate(found, 1)) else FALLBACK


# ---------------------------------------------------------------- asr ngram


def ngram_command(argv: Sequence[str]) -> int:
    """``asr ngram --text FILES… --tokens M --out lm.arpa``: estimate a model, write it, tell its perplexity."""
    parser = Parser(prog="asr ngram", description="Estimate an n-gram language model over a model's tokens from text.")
    kinds = ".txt (a sentence a line) or .jsonl (a field \"text\"), plain or .gz"
    parser.add_argument("--text", nargs="+", action="extend", required=True, metavar="FILES", help=kinds)
    parser.add_argument(
        "--tokens", required=True, metavar="MODEL", help="a model folder, a shipped model or a tokens.model"
    )
    parser.add_argument("--order", type=int, default=4, help="the longest n-grams")
    parser.add_argument(
        "--prune", type=int, nargs="+", default=[0], metavar="COUNT",
        help="leave out n-grams seen at most so often, for each order from 1; the last holds for higher ones",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="lm.npz, which loads at once, or lm.arpa, lm.arpa.gz")
    parser.add_argument(
        "--dev", nargs="+", action="extend", default=[], metavar="FILES", help="tell the perplexity of these"
    )
    options = parser.parse(argv)
    _thresholds(options.prune, options.order)
    out = Path(options.out)
    texts = [*options.text, *options.dev]
    check_output(out, texts, folder=out.parent, kind="texts")
    for name in texts:
        if not Path(name).exists():
            raise UserError(f"no such file: {name}")
    if not out.name.endswith(ENDINGS) and (out.is_file() or not out.exists()):  # a pipe may have any name
        raise UserError(f"--out must end in {', '.join(ENDINGS)}, not {out.name}")
    tokenizer = tokens_of(options.tokens)
    text, show = Text(options.text, tokenizer), _Show()
    sizes = (options.order, tokenizer.vocab_size, tokenizer.endpoint_id)
    made = estimate(show.rates(text), *sizes, options.prune, show.now)
    show.clear()
    print(f"{text}; {made.tokens} tokens")
    show.now("writing")
    packed = out.suffix == ".npz"
    model = None
    if packed or options.dev:
        from asr.decoding.ngram import NgramModel  # loads torch, which the rest does without

        model = NgramModel.from_grams(made.grams, tokenizer)
    if packed and model is not None:
        model.save(out)
    else:
        write_arpa(out, made.grams, tokenizer)
    entries = [len(table.symbols) for table in made.grams]
    entries[0] -= tokenizer.endpoint_id is not None  # which has a row, but no line
    found = ", ".join(f"{count} {n}-grams" for n, count in enumerate(entries, 1))
    show.clear()
    print(f"{out}: {found}")
    if model is not None and options.dev:
        dev = Text(options.dev, tokenizer)
        held_out = list(show.rates(dev))
        log_prob = float(model.scores(held_out).sum())
        show.clear()
        tokens = sum(map(len, held_out)) + len(held_out)
        per_token, per_word = (math.exp(min(-log_prob / n, 700.0)) for n in (tokens, dev.words + len(held_out)))
        print(f"{dev}; perplexity {per_token:.2f} a token, {per_word:.1f} a word (ends of sentences counted)")
    return 0


def tokens_of(name: str) -> Tokenizer:
    """The tokens that ``--tokens`` names.

    Raises:
        UserError: no such model, or no tokens in it.
    """
    if not name:
        raise UserError("--tokens needs a name or a folder, not ''")
    if Path(name).exists():
        return Tokenizer.from_file(name)
    from asr.pretrained import resolve

    return Tokenizer.from_file(resolve(name))


@dataclass
class Text:
    """Sentences of files as token ids; iterating reads them once and counts.

    Where the tokens lack them, marks that nobody says and accents are left out (`asr.decoding.phrases.spell`); a line that
    they cannot spell even so is skipped.
    """

    files: Sequence[str]
    tokenizer: Tokenizer
    lines: int = 0  # read so far, empty ones not counted
    words: int = 0  # of those kept
    unspelled: int = 0  # lines with a character that the tokens do not have: skipped
    why: str = ""  # what they cannot spell in the first of these, and where
    done: float = 0.0  # share of the bytes that have been read

    def __str__(self) -> str:
        return f"{', '.join(self.files)}: {self.lines - self.unspelled} sentences, {self.words} words{self.skipped}"

    @property
    def skipped(self) -> str:
        """How many lines were skipped and why, to follow other words; nothing if none was."""
        if not self.unspelled:
            return ""
        return f"; {self.unspelled} of {self.lines} lines skipped, the tokens cannot spell them ({self.why})"

    def __iter__(self) -> Iterator[list[int]]:
        """Raises UserError for a file that cannot be read, a line of a .jsonl without a text, or no sentence in all files."""
        size = max(sum(Path(name).stat().st_size for name in self.files), 1)
        before = 0
        for name in self.files:
            try:
                with open(name, "rb") as raw:
                    for number, line in read_lines(raw, name):
                        yield from self._encode(_text(line, name, number), name, number)
                        self.done = min((before + raw.tell()) / size, 1.0)
            except OSError as error:
                raise UserError(f"cannot read {name}: {error.strerror or error}") from None
            before += Path(name).stat().st_size
        if self.lines == self.unspelled:
            raise UserError(f"there is no sentence in {', '.join(self.files)}{self.skipped}")

    def _encode(self, text: str, name: str, number: int) -> Iterator[list[int]]:
        if not UNSPOKEN.sub(" ", text).strip():
            return
        self.lines += 1
        try:
            tokens, words = self.tokenizer.encode(text, strict=True), len(text.split())
        except UserError:
            try:
                tokens = spell(text, self.tokenizer)
            except UserError as error:
                self.unspelled += 1
                what = str(error).partition(" of the text ")[0].removeprefix("the tokens cannot spell ")
                self.why = self.why or f"first {shorten(what, 60, placeholder=' …')} in {name}, line {number}"
                return
            words = len(self.tokenizer.decode(tokens).split())
        self.words += words
        yield tokens


def _text(line: str, name: str, number: int) -> str:
    """The sentence of a line."""
    if not name.removesuffix(".gz").endswith(".jsonl") or not line.strip():
        return line
    try:
        record = json.loads(line)
    except ValueError:
        raise UserError(f"{name}, line {number}: not JSON") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f'{name}, line {number}: no "text" in it')
    return text


class _Show:
    """What is being done, on stderr: in a terminal one line that updates itself, elsewhere a line every ten seconds."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.5 if self.terminal else 10.0

    def rates(self, text: Text) -> Iterator[list[int]]:
        """The sentences, and how fast they come."""
        began = last = time.monotonic()
        for sentence in text:
            yield sentence
            if text.lines % 256 == 0 and (now := time.monotonic()) - last > self.every:
                last, spent = now, now - began
                left = spent * (1.0 / max(text.done, 1e-6) - 1.0)
                self._line(f"{text.lines} lines, {text.lines / spent:.0f} a second, {text.done:.0%}, {left:.0f} s left")

    def now(self, what: str) -> None:
        """The next thing."""
        self._line(f"{what} …")

    def clear(self) -> None:
        """Takes the updating line away."""
        if self.terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)

    def _line(self, text: str) -> None:
        text = f"\r\x1b[K{text}" if self.terminal else f"{text}\n"
        print(text, end="", file=self.stream, flush=True)
