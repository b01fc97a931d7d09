"""Back-off n-gram language models over the model's tokens: ARPA files, probabilities, and scores while searching.

Symbols of an n-gram are the token ids 1 … V-1; the blank's id 0, which no text holds, stands for <s>, and V for </s>.
A model is compiled to a flat table: every context that matters is a state, and state s has the seen successors
``symbols[begins[s] : begins[s + 1]]`` in ascending order, each with its probability and the state after it. State 0
is the empty context and has all symbols. Longer contexts have higher states. Shapes: N hypotheses, S states, A
successors in all, V tokens. Logarithms are natural, but for those in ARPA files.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import hashlib
import math
import os
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.decoding.arpa import Grams, Trie, read_arpa, search
from asr.decoding.fusion import Fusion
from asr.errors import UserError
from asr.files import whole_file
from asr.tokens import Tokenizer

FORMAT_VERSION = 1
ARRAYS = {
    "begins": np.dtype(np.int64),
    "symbols": np.dtype(np.int32),
    "log_probs": np.dtype(np.float32),
    "targets": np.dtype(np.int32),
    "backoffs": np.dtype(np.int32),
    "weights": np.dtype(np.float32),
}


@dataclass(frozen=True, eq=False)
class NgramModel:
    """A compiled back-off model of one set of tokens; `estimate` in asr.training.ngram and ARPA files give one."""

    order: int
    vocab_size: int  # V: blank and endpoint token counted
    endpoint_id: int | None  # scores nothing and leaves the context as it is: </s> says what there is to say
    begins: np.ndarray  # (S + 1,) int64
    symbols: np.ndarray  # (A,) int32
    log_probs: np.ndarray  # (A,) float32
    targets: np.ndarray  # (A,) int32: the state of the longest context that exists after this successor
    backoffs: np.ndarray  # (S,) int32: the state of the next shorter context that exists
    weights: np.ndarray  # (S,) float32: added when backing off
    tokens_hash: str  # of tokens.txt

    @classmethod
    def from_grams(cls, grams: Sequence[Grams], tokenizer: Tokenizer) -> "NgramModel":
        """Compile the n-grams of orders 1, 2, …: prefixes of all must be among them, suffixes need not."""
        base, order = tokenizer.vocab_size + 1, len(grams)
        trie = Trie(base)
        contexts: list[np.ndarray] = []  # for orders 2, 3, …: the row of each n-gram's context
        for table in grams[1:]:
            contexts.append(trie.find(table.symbols[:, :-1]))
            trie.keys.append(contexts[-1] * base + table.symbols[:, -1])
        states: list[np.ndarray] = []  # of orders 1, 2, …: the state of each n-gram as a context, -1: it is none
        number = 1
        for table, extended in zip(grams, contexts, strict=False):
            matters = table.back_offs != 0.0
            matters[extended] = True
            states.append(np.where(matters, number - 1 + np.cumsum(matters), -1))
            number += int(matters.sum())

        def longest(symbols: np.ndarray, skip: int) -> np.ndarray:
            """The state of the longest suffix that is one, after leaving out ``skip`` symbols."""
            result = np.zeros(len(symbols), dtype=np.int32)
            left = np.arange(len(symbols))
            for at in range(max(skip, symbols.shape[1] - order + 1), symbols.shape[1]):
                rows = trie.find(symbols[left, at:])
                found = np.where(rows >= 0, states[symbols.shape[1] - at - 1][rows], -1)
                result[left[found > 0]] = found[found > 0]
                left = left[found <= 0]
            return result

        owners = [np.zeros(base, dtype=np.int64), *(s[c] for s, c in zip(states, contexts, strict=False))]
        owner = np.concatenate(owners)  # the state each successor belongs to: ascending
        inner = [table.symbols[s > 0] for table, s in zip(grams, states, strict=False)]
        weights = [table.back_offs[s > 0] for table, s in zip(grams, states, strict=False)]
        return cls(
            order=order,
            vocab_size=tokenizer.vocab_size,
            endpoint_id=tokenizer.endpoint_id,
            begins=np.searchsorted(owner, np.arange(number + 1)),
            symbols=np.concatenate([table.symbols[:, -1] for table in grams]),
            log_probs=np.concatenate([table.log_probs for table in grams]).astype(np.float32),
            targets=np.concatenate([longest(table.symbols, 0) for table in grams]),
            backoffs=np.concatenate([np.zeros(1, np.int32), *(longest(symbols, 1) for symbols in inner)]),
            weights=np.concatenate([np.zeros(1), *weights]).astype(np.float32),
            tokens_hash=_hash(tokenizer),
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], tokenizer: Tokenizer) -> "NgramModel":
        """An ``.npz`` that `save` wrote, or an ARPA file, plain or gzip."""
        return cls.load(path, tokenizer) if str(path).endswith(".npz") else cls.from_arpa(path, tokenizer)

    @classmethod
    def from_arpa(cls, path: str | os.PathLike[str], tokenizer: Tokenizer) -> "NgramModel":
        """Read an ARPA file (see `read_arpa`)."""
        return cls.from_grams(read_arpa(path, tokenizer), tokenizer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compact ``.npz``, whole or not at all."""
        endpoint = -1 if self.endpoint_id is None else self.endpoint_id
        head = np.array([FORMAT_VERSION, self.order, self.vocab_size, endpoint])
        arrays = {name: getattr(self, name) for name in ARRAYS}
        with whole_file(path) as file:
            np.savez(file, head=head, tokens_hash=np.array(self.tokens_hash), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> "NgramModel":
        """Read what `save` wrote; with a tokenizer, check that the model was made for its tokens.

        Raises:
            UserError: not such a file, a damaged one, one of another version, or of other tokens.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                head, found = data["head"].tolist(), str(data["tokens_hash"])
                arrays = {name: data[name] for name in ARRAYS}
            version, order, vocab_size, endpoint = (int(number) for number in head)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or 'it is no .npz file'}") from None
        except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
            raise UserError(f"{path} is no n-gram model of this program, or it is damaged") from None
        if version != FORMAT_VERSION:
            raise UserError(f"{path} is an n-gram model of version {version}, this program reads {FORMAT_VERSION}")
        model = cls(order, vocab_size, endpoint if endpoint >= 0 else None, tokens_hash=found, **arrays)
        if not model._consistent():
            raise UserError(f"{path} is damaged: its tables do not fit together")
        if tokenizer is not None and found != _hash(tokenizer):
            raise UserError(f"{path} was made for other tokens than the model's: make it with asr ngram --tokens MODEL")
        return model

    def _consistent(self) -> bool:
        """Whether every walk through the tables stays inside them and ends."""
        kinds = {name: getattr(self, name).dtype for name in ARRAYS}
        if kinds != ARRAYS or any(getattr(self, name).ndim != 1 for name in ARRAYS):
            return False
        states, arcs, base = len(self.weights), len(self.symbols), self.vocab_size + 1
        sizes = (len(self.begins), len(self.backoffs), len(self.log_probs), len(self.targets))
        if sizes != (states + 1, states, arcs, arcs) or not 1 <= self.order or not 1 < base <= arcs:
            return False
        if self.begins[0] != 0 or self.begins[1] != base or self.begins[-1] != arcs or np.any(np.diff(self.begins) < 0):
            return False
        return bool(
            np.all((self.symbols >= 0) & (self.symbols < base))
            and np.all(np.diff(self.keys()) > 0)
            and np.all((self.targets >= 0) & (self.targets < states))
            and np.all((self.backoffs >= 0) & (self.backoffs < np.maximum(np.arange(states), 1)))
            and np.all(np.isfinite(self.log_probs))
            and np.all(np.isfinite(self.weights))
            and self.weights[0] == 0.0
        )

    def keys(self) -> np.ndarray:
        """(A,) int64, ascending: state * (V + 1) + symbol of every successor."""
        owner = np.repeat(np.arange(len(self.weights)), np.diff(self.begins))
        return owner * (self.vocab_size + 1) + self.symbols

    def score(self, tokens: Sequence[int], end: bool = True) -> float:
        """ln P(tokens | <s>), and of </s> after them if ``end``; an endpoint token adds nothing."""
        return float(self.scores([tokens], end)[0])

    def scores(self, sentences: Iterable[Sequence[int]], end: bool = True) -> np.ndarray:
        """`score` of many: (B,) float64.

        Raises:
            ValueError: an id that is no token's.
        """
        flat, lengths = array("i"), []
        for tokens in sentences:
            kept = [token for token in tokens if token != self.endpoint_id]
            flat.extend([*kept, self.vocab_size] if end else kept)
            lengths.append(len(kept) + int(end))
            if kept and not 0 < min(kept) <= max(kept) < self.vocab_size:
                raise ValueError(f"a sentence holds ids outside 1…{self.vocab_size - 1}")
        symbols, keys = np.frombuffer(flat, dtype=np.int32), self.keys()
        length = np.array(lengths, dtype=np.int64)
        start = np.cumsum(length) - length
        total = np.zeros(len(length))
        state = np.full(len(length), self.targets[0], dtype=np.int64)  # the symbol 0 after nothing: <s>
        active = np.flatnonzero(length)
        at = 0
        while len(active):
            value, state[active] = self._advance(keys, state[active], symbols[start[active] + at])
            total[active] += value
            at += 1
            active = active[length[active] > at]
        return total

    def _advance(self, keys: np.ndarray, state: np.ndarray, symbol: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) ln P(symbol | state) and (N,) the states after it."""
        value, after, state = np.zeros(len(state)), np.zeros_like(state), state.copy()
        left = np.arange(len(state))
        while len(left):  # ends: the empty context has every symbol
            found = search(keys, state[left] * (self.vocab_size + 1) + symbol[left])
            seen, at = left[found >= 0], found[found >= 0]
            value[seen] += self.log_probs[at]
            after[seen] = self.targets[at]
            left = left[found < 0]
            value[left] += self.weights[state[left]]
            state[left] = self.backoffs[state[left]]
        return value, after

    def perplexity(self, sentences: Iterable[Sequence[int]]) -> float:
        """exp of the mean -ln P of a token of these sentences, </s> being one; NaN if there are none."""
        kept = [[token for token in tokens if token != self.endpoint_id] for tokens in sentences]
        count = sum(map(len, kept)) + len(kept)
        return math.exp(-self.scores(kept).sum() / count) if count else math.nan


def _hash(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.table().encode()).hexdigest()


# ---------------------------------------------------------------- fusion


class NgramFusion(Fusion):
    """Shallow fusion with an n-gram model: its log-probabilities times ``scale``, which may be below 0 (LODR).

    The state is [(N,) int64], the longest context that exists. Blank and endpoint token score 0 and change nothing.
    """

    begins: Tensor
    counts: Tensor
    keys: Tensor
    log_probs: Tensor
    targets: Tensor
    backoffs: Tensor
    weights: Tensor

    def __init__(self, model: NgramModel, scale: float, end: bool = True) -> None:
        """``end``: score </s> where a segment ends."""
        super().__init__()
        self.scale = float(scale)
        self.end = end
        self.order = model.order
        self.vocab_size = model.vocab_size
        self.endpoint = -1 if model.endpoint_id is None else model.endpoint_id
        self.start = int(model.targets[0])
        counts = np.diff(model.begins)
        counts[0] = 0  # every row starts from the empty context, nothing is to be put over it
        tables = {"begins": model.begins[:-1], "counts": counts, "keys": model.keys(), "targets": model.targets}
        tables |= {"backoffs": model.backoffs, "log_probs": model.log_probs, "weights": model.weights}
        for name, table in tables.items():  # copied: the model's may be read-only; indices are int64 throughout
            kind = np.float32 if table.dtype == np.float32 else np.int64
            self.register_buffer(name, torch.from_numpy(table.astype(kind)), persistent=False)

    def forward(self, state: list[Tensor]) -> Tensor:
        """The same as ``scores``."""
        return self.scores(state)

    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        """[(N,)]: the state after <s>."""
        return [torch.full([batch], self.start, dtype=torch.int64, device=self.keys.device)]

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        """(N, V): scale * ln P(token | context); 0 for blank and endpoint token."""
        context = state[0]
        chain: list[Tensor] = []  # the contexts from the longest to the shortest that is not empty
        for _ in range(self.order - 1):
            chain.append(context)
            context = self.backoffs[context]
        base = self.vocab_size + 1
        row = torch.arange(context.size(0), device=context.device)
        rows = self.log_probs[:base].repeat(context.size(0), 1)
        for i in range(len(chain)):  # each longer context: back off to what is there, put the seen successors over it
            context = chain[len(chain) - 1 - i]
            rows += self.weights[context].unsqueeze(1)
            count = self.counts[context]
            first = self.begins[context] + count - count.cumsum(0)
            of = torch.repeat_interleave(count)  # the row of each successor
            at = first[of] + torch.arange(of.size(0), device=of.device)
            rows.view(-1).scatter_(0, self.keys[at] + ((row - context) * base)[of], self.log_probs[at])
        rows = rows[:, : self.vocab_size] * self.scale
        rows[:, 0] = 0.0
        if self.endpoint >= 0:
            rows[:, self.endpoint] = 0.0
        return rows

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The contexts after tokens (N,) int64."""
        after = self._follow(tokens, state[0])[1]
        return [torch.where(tokens == self.endpoint, state[0], after)]

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        """(N,): scale * ln P(</s> | context), or 0."""
        if not self.end:
            return torch.zeros(state[0].size(0), device=self.keys.device)
        return self._follow(torch.full_like(state[0], self.vocab_size), state[0])[0] * self.scale

    def _follow(self, symbols: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) ln P(symbol | context) and (N,) the contexts after it."""
        value = torch.zeros_like(self.weights[context])
        after = torch.zeros_like(context)
        left = torch.ones_like(context, dtype=torch.bool)
        for _ in range(self.order):  # the empty context has every symbol
            key = context * (self.vocab_size + 1) + symbols
            at = torch.searchsorted(self.keys, key).clamp(max=self.keys.size(0) - 1)
            seen = self.keys[at] == key
            value = value + left * torch.where(seen, self.log_probs[at], self.weights[context])
            after = torch.where(left & seen, self.targets[at], after)
            left = left & ~seen
            if not bool(left.any()):
                break
            context = self.backoffs[context]
        return value, after
