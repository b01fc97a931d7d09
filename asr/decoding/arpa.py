"""ARPA files of token n-grams, and the sorted tables that they are read into.

Symbols of an n-gram are the token ids 1 … V-1; the blank's id 0, which no text holds, stands for <s>, and V for </s>.
M n-grams of order n. Logarithms are natural, but for those in the files.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.errors import UserError
from asr.files import whole_file
from asr.tokens import Tokenizer

log = logging.getLogger("asr.decoding")

BEGIN, END, UNKNOWN = "<s>", "</s>", ("<unk>", "<UNK>")
LOG10 = math.log(10.0)
LOG10_ZERO = -99.0  # what the files write for a probability of nothing
ROUNDING = 1e-4  # a log10 probability this much above 0 is a rounded 0
NO_TOKEN = -1  # symbol of a word that is none of the model's tokens


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, sorted by their symbols; order 1 has every symbol, row = symbol.

    symbols (M, n) int32; log_probs and back_offs (M,) float64, the latter of the n-gram as a context (0: none).
    """

    symbols: np.ndarray
    log_probs: np.ndarray
    back_offs: np.ndarray


class Trie:
    """Finds n-grams: the key of one is (row of its first n-1 symbols among theirs) * base + its last symbol."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.keys: list[np.ndarray] = []  # of orders 2, 3, …: sorted int64; the row of a unigram is its symbol

    def find(self, symbols: np.ndarray) -> np.ndarray:
        """(M, n) -> rows (M,) among the n-grams of this order, -1 where there is none."""
        rows = symbols[:, 0].astype(np.int64)
        for n in range(1, symbols.shape[1]):
            rows = search(self.keys[n - 1], rows * self.base + symbols[:, n])  # a row of -1 makes a key below 0
        return rows


def search(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is among the sorted ones, -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def read_arpa(path: str | os.PathLike[str], tokenizer: Tokenizer) -> list[Grams]:
    """The n-grams of an ARPA file, plain or gzip, whose words are pieces of the tokens or all of them ids.

    N-grams with a word that is no token cannot occur and are left out; a token without a unigram gets the probability
    of <unk>, or the lowest of all if the file has none. Both are counted and logged as a warning.

    Raises:
        UserError: unreadable, damaged (the line is named), without </s>, or about other words than the tokens.
    """
    try:
        with open(path, "rb") as raw:
            return _ArpaReader(raw, str(path), tokenizer).read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


class _ArpaReader:
    """One reading of one file; ``number`` is the line that was read last."""

    def __init__(self, raw: io.BufferedReader, name: str, tokenizer: Tokenizer) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.base = tokenizer.vocab_size + 1
        self.lines = read_lines(raw, name)
        self.number = 0
        self.symbol_of: dict[str, int] = {}
        self.missing = self.foreign = self.left_out = 0
        self.has_unknown = False

    def read(self) -> list[Grams]:
        counts, mark = self._header()
        trie, grams = Trie(self.base), []
        for n, count in enumerate(counts, 1):
            if mark != f"\\{n}-grams:":
                raise self._error(f"here must be \\{n}-grams:, not {mark[:40]!r}")
            words, values, numbers, mark = self._section(n)
            if len(numbers) != count:
                raise self._error(f"there were {len(numbers)} {n}-grams, the header says {count}")
            found = (words, values, numbers)
            grams.append(self._unigrams(*found) if n == 1 else self._table(n, *found, trie))
        if mark != "\\end\\":
            raise self._error(f"here must be \\end\\, not {mark[:40]!r}")
        if self.missing or self.left_out:
            what = "%s: %d of the model's tokens are not in it and %s; %d of its words are no tokens, and "
            instead = "count as <unk>" if self.has_unknown else "count as its least likely word, for want of <unk>"
            what += "%d n-grams that hold one or cannot occur are left out"
            log.warning(what, self.name, self.missing, instead, self.foreign, self.left_out)
        return grams

    def _error(self, what: str, number: int | None = None) -> UserError:
        return UserError(f"{self.name}, line {self.number if number is None else number}: {what}")

    def _next(self) -> str | None:
        """The next line that is not empty, stripped; None at the end."""
        for number, line in self.lines:
            self.number = number
            if line := line.strip():
                return line
        return None

    def _header(self) -> tuple[list[int], str]:
        """How many n-grams of each order there are, and the line after that."""
        while (line := self._next()) != "\\data\\":
            if line is None:
                raise UserError(f"{self.name} is no ARPA file: it has no line \\data\\")
        counts: list[int] = []
        while (line := self._next()) is not None:
            match = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line, re.ASCII)
            if match is None:
                if not counts:
                    raise self._error(f"here must be 'ngram 1=COUNT', not {line[:40]!r}")
                return counts, line
            if int(match[1]) != len(counts) + 1:
                raise self._error(f"here must be the count of {len(counts) + 1}-grams, not of {match[1]}-grams")
            counts.append(int(match[2]))
        raise UserError(f"{self.name} ends after its header: is the file whole?")

    def _section(self, n: int) -> tuple[Any, np.ndarray, array, str]:
        """Symbols (M, n) (n = 1: the words themselves), log10 values (M, 2), line numbers (M,), and the next mark."""
        words: list[str] = []
        symbols, values, numbers = array("i"), array("d"), array("q")
        for number, line in self.lines:
            fields = line.split()
            if not fields:
                continue
            self.number = number
            if fields[0].startswith("\\"):
                flat = np.array(values).reshape(-1, 2)
                flat[:, 0] = flat[:, 0].clip(LOG10_ZERO, 0.0)
                table = np.frombuffer(symbols, dtype=np.int32).reshape(-1, n)
                return (words if n == 1 else table), flat, numbers, line.strip()
            if not n + 1 <= len(fields) <= n + 2:
                raise self._error(f"a {n}-gram has {n + 1} or {n + 2} fields, not {len(fields)}")
            try:
                prob, back_off = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
            except ValueError as error:  # its text ends with what is no number
                raise self._error(f"{str(error).rpartition(': ')[2]} is no number") from None
            if not prob <= ROUNDING:
                raise self._error(f"{fields[0]} is no logarithm of a probability")
            if not math.isfinite(back_off):
                raise self._error(f"the back-off weight {fields[n + 1]} is not finite")
            values.extend((prob, back_off))
            numbers.append(number)
            if n == 1:
                words.append(fields[1])
            else:
                symbols.extend([self.symbol_of.get(word, NO_TOKEN) for word in fields[1 : n + 1]])
        raise UserError(f"{self.name} ends at line {self.number}, among its {n}-grams: is the file whole?")

    def _unigrams(self, words: list[str], values: np.ndarray, numbers: array) -> Grams:
        """Every symbol's; from here on ``symbol_of`` knows the words."""
        pieces, last = self.tokenizer.pieces, self.tokenizer.vocab_size
        special = unwritten(self.tokenizer)
        tokens = {pieces[i]: i for i in range(1, last) if i not in special}
        names = [word for word in words if word not in (BEGIN, END, *UNKNOWN)]
        if names and all(word.isascii() and word.isdecimal() for word in names) and not all(w in tokens for w in names):
            tokens = {str(i): i for i in tokens.values()}
        self.symbol_of = {**tokens, BEGIN: 0, END: last}
        self.foreign = sum(word not in tokens for word in names)
        if END not in words:
            raise self._error(f"there is no {END} among the 1-grams")
        if self.foreign == len(names):
            raise UserError(f"{self.name} is not about the model's tokens: none of its {len(names)} words is one; make it with asr ngram --tokens MODEL")
        unknown = [values[i, 0] for i, word in enumerate(words) if word in UNKNOWN]
        self.has_unknown = bool(unknown)
        rest = unknown[0] if unknown else values[values[:, 0] > LOG10_ZERO, 0].min(initial=0.0)
        log_probs, back_offs = np.full(self.base, rest), np.zeros(self.base)
        seen = np.zeros(self.base, dtype=bool)
        for word, (prob, back_off), number in zip(words, values, numbers, strict=True):
            symbol = self.symbol_of.get(word, NO_TOKEN)
            if symbol == NO_TOKEN:
                self.left_out += word not in UNKNOWN
                continue
            if seen[symbol]:
                raise self._error(f"the 1-gram {word} is there twice", number)
            seen[symbol], log_probs[symbol], back_offs[symbol] = True, prob, back_off
        self.missing = int(len(tokens) - seen[1:last].sum())
        log_probs[0] = LOG10_ZERO
        log_probs[np.array(special, int)] = LOG10_ZERO
        back_offs[last] = 0.0
        return Grams(np.arange(self.base, dtype=np.int32)[:, None], log_probs * LOG10, back_offs * LOG10)

    def _table(self, n: int, symbols: np.ndarray, values: np.ndarray, numbers: array, trie: Trie) -> Grams:
        """The n-grams of symbols that can occur, sorted; <s> can only be first and </s> only last."""
        last = self.base - 1
        can = (symbols >= 0).all(1) & (symbols[:, 1:] != 0).all(1) & (symbols[:, :-1] != last).all(1)
        self.left_out += int(len(can) - can.sum())
        symbols, values, lines = symbols[can], values[can], np.frombuffer(numbers, dtype=np.int64)[can]
        context = trie.find(symbols[:, :-1])
        if (context < 0).any():
            where = int(np.argmax(context < 0))
            raise self._error(f"the context of this {n}-gram is not among the {n - 1}-grams", lines[where])
        keys = context * self.base + symbols[:, -1]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if (keys[1:] == keys[:-1]).any():
            where = order[1 + int(np.argmax(keys[1:] == keys[:-1]))]
            raise self._error(f"this {n}-gram is there twice", lines[where])
        trie.keys.append(keys)
        return Grams(symbols[order], values[order, 0] * LOG10, values[order, 1] * LOG10)


def unwritten(tokenizer: Tokenizer) -> list[int]:
    """Tokens without a line in a file: the endpoint token, and those of an imported model that are called as a file's own words are
    (<s>, </s>, <unk>), which no text is encoded to."""
    words = (BEGIN, END, *UNKNOWN)
    return [i for i in range(1, tokenizer.vocab_size) if i == tokenizer.endpoint_id or tokenizer.pieces[i] in words]


def write_arpa(path: str | os.PathLike[str], grams: Sequence[Grams], tokenizer: Tokenizer) -> None:
    """Write an ARPA file, whole or not at all; gzip if the name ends in ``.gz``."""
    names = [BEGIN, *tokenizer.pieces[1:], END]
    with whole_file(path) as file:
        packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if str(path).endswith(".gz") else None
        out = packed or file
        kept: list[Any] = [~np.isin(np.arange(len(names)), unwritten(tokenizer)), *(slice(None) for _ in grams[1:])]
        counts = [len(table.log_probs[rows]) for table, rows in zip(grams, kept, strict=True)]
        head = [f"ngram {n}={count}\n" for n, count in enumerate(counts, 1)]
        out.write(("\\data\\\n" + "".join(head)).encode())
        for n, (table, rows) in enumerate(zip(grams, kept, strict=True), 1):
            out.write(f"\n\\{n}-grams:\n".encode())
            symbols, probs, back_offs = table.symbols[rows], table.log_probs[rows], table.back_offs[rows]
            for at in range(0, len(symbols), 1 << 16):
                part = slice(at, at + (1 << 16))
                columns = (symbols[part], probs[part] / LOG10, back_offs[part] / LOG10)
                lines = [
                    f"{prob:.7g}\t{' '.join([names[i] for i in gram])}" + (f"\t{weight:.7g}\n" if weight else "\n")
                    for gram, prob, weight in zip(*(column.tolist() for column in columns), strict=True)
                ]
                out.write("".join(lines).encode())
        out.write(b"\n\\end\\\n")
        if packed is not None:
            packed.close()


def read_lines(raw: io.BufferedReader, name: str) -> Iterator[tuple[int, str]]:
    """Lines of UTF-8 text, plain or gzip, with their numbers from 1.

    Raises:
        UserError: not UTF-8, or damaged gzip.
    """
    packed = raw.peek(2)[:2] == b"\x1f\x8b"
    number = 0
    try:
        for line in gzip.GzipFile(fileobj=raw) if packed else raw:
            number += 1
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}, line {number}: not UTF-8 text") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{name} is damaged after line {number}: is the file whole?") from None
