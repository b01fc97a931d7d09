"""Phrases as an Aho-Corasick automaton over tokens (Aho and Corasick, CACM 1975), compiled to flat tensors.

A trie with fail links, the idea of the context graphs of icefall and sherpa-onnx. A hypothesis sits on one node, the
longest end w of its tokens that a phrase begins with. The tokens of a phrase that is being matched are boosted at once,
so that the phrase survives pruning; where the match breaks off, what no phrase has completed is taken away again.

What a string of tokens earns in the end (the sum of all scores and of `BiasFusion.final`), for boosts b per token:

    A phrase found inside w counts: everywhere, or with ``whole_words`` only where its last word may end there: the next
    symbol starts a word or begins with an apostrophe (lynde's), is the endpoint token, or the segment ends. cover(w) is
    the sum over the tokens of w of the largest b of the counted phrases that the token lies in; w' is w without its last
    token.
    earned = the sum over all prefixes of the string of cover(w) - cover(w'), w being the node's string at that prefix.

So a token earns the largest boost of the phrases around it, once: "new york city" earns the same whether "york" is on
the list or not (icefall's sum over all outputs would pay for both). Only phrases that overlap in part, neither inside
the other, may both be paid for the tokens they share: a node does not remember what lay before it. What is earned is
never below the cover of the whole string and never above the sum over all counted phrases. Unlike in icefall, nothing
is taken back after a completed phrase: that would favour blank, which pays nothing, over whatever is said next.

Shapes: V symbols including blank 0, P phrases, M nodes. Scores are natural logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch

from asr.decoding.phrases import Items, Phrases, spell
from asr.errors import UserError
from asr.tokens import SPACE, Tokenizer

SHOWN_REFUSED = 10  # phrases in one warning


class BiasGraph:
    """An Aho-Corasick automaton as flat tensors; about 60 bytes a node, nothing of the size V x M.

    Nodes are numbered breadth first (0 is the root) and, below one parent, by token, so the children of a node are
    neighbours and the pair (parent, token), as one number, ascends with the node: a transition is a binary search in
    `keys`. Fail links are kept as far as they are of use: from nodes with children to nodes with children.

    Attributes:
        vocab_size: V.
        size: M.
        refused: phrase -> why its tokens cannot be had; empty where all is well.
        keys: (M,) int64 ascending, parent * V + token.
        first, count: (M,) int64, the first child of a node and how many there are (0 for the root: see root_scores).
        branch: (M,) int64, the node itself if it has children, else the first that has along its fail links (root: 0).
        up: (M,) int64, the same, but starting behind the node.
        hops: (M,) int64, how many nodes with children there are from a node on along the fail links, less the root.
        enter: (M,) float32, and leave: (M, 2) float32; a symbol that leads from node u to node v scores
            enter[v] - leave[u, 1 if the symbol starts a word else 0].
        root_scores: (V,) float32, enter of the root's children where there is one, else 0.
        word_starts: (V,) bool, symbols before which a word may end; None: phrases may end inside a word.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        boosts: Sequence[float],
        vocab_size: int,
        word_starts: Sequence[bool] | None = None,
        advance_from: int = 1,
        refused: Mapping[str, str] | None = None,
    ):
        """Compile token strings; see `build` for phrases.

        Args:
            sequences: P strings of tokens in 1 … V-1, none empty; of equal ones the largest boost counts.
            boosts: (P,) boost a token, > 0.
            vocab_size: V.
            word_starts: (V,) before which symbols a word may end: whole words only. None: anything may follow.
            advance_from: the token of a phrase (1: the first) from which on it is boosted before it is complete.
            refused: what to keep as `refused`.

        Raises:
            ValueError: an empty sequence, a token outside 1 … V-1, a boost not above 0.
        """
        self.vocab_size = vocab_size
        self.refused = dict(refused or {})
        self.word_starts = None if word_starts is None else torch.tensor(list(word_starts), dtype=torch.bool)
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        flat = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
        values = np.asarray(boosts, dtype=np.float64)
        if len(values) != len(lengths) or (lengths == 0).any() or not (values > 0).all():
            raise ValueError("every sequence needs at least one token and a boost above 0")
        if len(flat) and not 0 < flat.min() <= flat.max() < vocab_size:
            raise ValueError(f"a token outside 1…{vocab_size - 1}")
        trie = _Trie(flat, lengths, values, vocab_size)
        fail, output = trie.links()
        starts = None if self.word_starts is None else self.word_starts.numpy()
        enter, leave = trie.potentials(output, starts, advance_from)
        count = np.bincount(trie.parent[1:], minlength=trie.size)
        first = 1 + np.cumsum(count) - count
        branch, up, hops = (np.zeros(trie.size, np.int64) for _ in range(3))
        for low, high in trie.levels[1:]:
            behind = branch[fail[low:high]]
            inner = count[low:high] > 0
            up[low:high] = behind
            branch[low:high] = np.where(inner, np.arange(low, high), behind)
            hops[low:high] = hops[behind] + inner
        root_scores = np.zeros(vocab_size)
        roots = slice(1, 1 + int(count[0]))
        root_scores[trie.token[roots]] = enter[roots]
        count[0] = 0
        self.size = trie.size
        self.keys, self.first, self.count = map(torch.from_numpy, (trie.keys, first, count))
        self.branch, self.up, self.hops = map(torch.from_numpy, (branch, up, hops))
        self.enter, self.leave = torch.from_numpy(enter).float(), torch.from_numpy(leave).float()
        self.root_scores = torch.from_numpy(root_scores).float()

    @classmethod
    def build(
        cls, phrases: Phrases | Items, tokenizer: Tokenizer, whole_words: bool = True, advance_from: int = 1
    ) -> BiasGraph:
        """Spell and compile phrases; those that cannot be spelled are in `refused`, the others work.

        Args:
            phrases: anything that `Phrases.of` takes.
            tokenizer: the model's.
            whole_words: a phrase keeps its boost only where its last word may end, so that "ann" leaves nothing in
                "annual" (nor in "anns", but in "ann's").
            advance_from: from which token on a phrase is boosted before it is complete (the first: 1). With thousands
                of phrases almost every word begins one, and 2 keeps the boost for those that go on; what a string earns
                in the end is the same.
        """
        sequences, boosts, refused = [], [], {}
        for phrase, boost in Phrases.of(phrases):
            try:
                sequences.append(spell(phrase, tokenizer))
                boosts.append(boost)
            except UserError as error:
                refused[phrase] = str(error)
        starts = None
        if whole_words:
            starts = [piece.startswith((SPACE, "'")) for piece in tokenizer.pieces]
            if tokenizer.endpoint_id is not None:
                starts[tokenizer.endpoint_id] = True
        return cls(sequences, boosts, tokenizer.vocab_size, starts, advance_from, refused)

    @property
    def warning(self) -> str | None:
        """The refused phrases and why, the first few if they are many; None if there are none."""
        if not self.refused:
            return None
        count, reasons = len(self.refused), list(self.refused.values())
        shown = "; ".join(reasons[:SHOWN_REFUSED]) + (f"; and {count - SHOWN_REFUSED} more" if count > SHOWN_REFUSED else "")
        return f"{count} phrase{'s' if count > 1 else ''} cannot be boosted: {shown}"


class _Trie:
    """The trie of token strings, level by level, and what follows from it; numpy throughout."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, boosts: np.ndarray, vocab_size: int):
        self.vocab_size = vocab_size
        begin = np.cumsum(lengths) - lengths
        node = np.zeros(len(lengths), np.int64)  # where each phrase has got to
        alive = np.arange(len(lengths))
        keys, own, ahead = [np.zeros(1, np.int64)], [np.zeros(1)], [np.zeros(1)]
        self.levels, size, depth = [(0, 1)], 1, 0
        while len(alive):
            steps = node[alive] * vocab_size + flat[begin[alive] + depth]
            key, which = np.unique(steps, return_inverse=True)
            node[alive] = size + which
            depth += 1
            ends = lengths[alive] == depth
            complete, further = np.zeros(len(key)), np.zeros(len(key))
            np.maximum.at(complete, which[ends], boosts[alive[ends]])
            np.maximum.at(further, which[~ends], boosts[alive[~ends]])
            keys.append(key)
            own.append(complete)
            ahead.append(further)
            self.levels.append((size, size + len(key)))
            size += len(key)
            alive = alive[~ends]
        self.size = size
        self.keys = np.concatenate(keys)
        self.parent, self.token = np.divmod(self.keys, vocab_size)
        self.own = np.concatenate(own)  # boost of the phrase that ends here, 0: none does
        self.ahead = np.concatenate(ahead)  # largest boost of the phrases that go on from here
        self.depth = np.repeat(np.arange(len(self.levels)), [high - low for low, high in self.levels])

    def links(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) fail: the longest shorter string it ends with; (M,) output: the longest such phrase."""
        fail, output = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        for low, high in self.levels[2:]:
            nodes = np.arange(low, high)
            at = fail[self.parent[low:high]]
            while len(nodes):
                wanted = at * self.vocab_size + self.token[nodes]
                found = np.searchsorted(self.keys, wanted)
                found[found == self.size] = 0
                hit = self.keys[found] == wanted
                fail[nodes[hit]] = found[hit]
                on = ~hit & (at != 0)
                nodes, at = nodes[on], fail[at[on]]
            behind = fail[low:high]
            output[low:high] = np.where(self.own[behind] > 0, behind, output[behind])
        return fail, output

    def potentials(
        self, output: np.ndarray, word_starts: np.ndarray | None, advance_from: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(M,) enter and (M, 2) leave of `BiasGraph`, float64.

        For each token of a node's string: ``sure`` is the largest boost of the phrases that count whatever follows,
        ``full`` takes in those that count if a word ends here, and ``held`` those that may still be completed. Entering
        a node gives what is held there, less what was already kept of its string; leaving takes what is not kept.
        """
        enter, leave = np.zeros(self.size), np.zeros((self.size, 2))
        sure = full = np.zeros((1, 0))
        for depth, (low, high) in enumerate(self.levels[1:], 1):
            above = self.parent[low:high] - self.levels[depth - 1][0]
            before = full[above]
            if word_starts is not None:
                before = np.where(word_starts[self.token[low:high], None], before, sure[above])
            sure = np.pad(before, ((0, 0), (0, 1)))
            full = np.maximum(sure, self.own[low:high, None])
            rows, inside = np.arange(high - low), output[low:high]  # shorter phrases that end here
            while len(rows):
                rows, inside = rows[inside > 0], inside[inside > 0]
                part = np.arange(depth) >= depth - self.depth[inside, None]
                full[rows] = np.maximum(full[rows], part * self.own[inside, None])
                inside = output[inside]
            held = (full if depth < advance_from else np.maximum(full, self.ahead[low:high, None])).sum(1)
            enter[low:high] = held - sure.sum(1)
            leave[low:high, 1] = held - full.sum(1)
            leave[low:high, 0] = leave[low:high, 1] if word_starts is None else enter[low:high]
        return enter, leave
