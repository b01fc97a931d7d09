"""Phrases to prefer while searching: names, places, commands, without any training.

`Phrases` is the user's list, `BiasGraph` its automaton (there it says what is boosted by how much), and `BiasFusion`
lets hypotheses walk on such automata during search.

Shapes: N hypotheses, V symbols including blank 0. Scores are natural logarithms.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.decoding.bias_graph import BiasGraph
from asr.decoding.fusion import Fusion
from asr.decoding.phrases import Phrases

__all__ = ["BiasFusion", "BiasGraph", "Phrases"]

FEW_ROWS = 20  # up to here a plain loop on the CPU beats a few dozen tensor operations


class BiasFusion(Fusion):
    """Phrase boosting for many streams at once, each with a list of its own or none; lists come and go at run time.

    Lists live in slots. The state of N hypotheses is [slot (N,), node (N,)] int64; slot -1, or one that was removed,
    has no phrases and adds nothing. All graphs lie in one arena of tensors, so a batch of many lists costs what one
    costs; a graph in several slots is stored once. Adding a graph copies the arena, removing one builds it anew.

    Attributes:
        scale: all scores are multiplied by it.
        slot: what `initial_state` gives: the slot of the constructor's graph, or -1. May be changed.
        arena: everything a search reads. Replaced, never written to, when graphs come and go, so that a search in
            another thread goes on undisturbed. A scripted copy follows if told: ``scripted.arena = fusion.arena``.
    """

    arena: list[Tensor]

    def __init__(self, vocab_size: int, graph: BiasGraph | None = None, scale: float = 1.0):
        """``vocab_size``: V of the model; ``graph``: the phrases of every new state, if any."""
        super().__init__()
        self.vocab_size = vocab_size
        self.scale = float(scale)
        self.few_rows = FEW_ROWS
        self.device = torch.device("cpu")
        self._held = dict[int, BiasGraph]()  # slot -> graph
        self._placed = list[BiasGraph]()  # the graphs of the arena, in its order
        self._next = 0
        self._columns = self._nothing()
        self._update()
        self.slot = -1 if graph is None else self.add(graph)

    def add(self, graph: BiasGraph) -> int:
        """Hold a graph; its slot, a number never given before.

        Raises:
            ValueError: a graph of another vocabulary.
        """
        if graph.vocab_size != self.vocab_size:
            raise ValueError(f"a graph over {graph.vocab_size} symbols for a model of {self.vocab_size}")
        if graph.word_starts is not None:
            held = next((g.word_starts for g in self._placed if g.word_starts is not None), graph.word_starts)
            if not torch.equal(held, graph.word_starts):
                raise ValueError("the words of this graph start with other symbols than those of the graphs held")
        slot = self._next
        self._next += 1
        self._held[slot] = graph
        self._update()
        return slot

    def remove(self, slot: int) -> None:
        """Let go of a slot. Hypotheses that still follow it go on without phrases and keep what they hold.

        Raises:
            ValueError: no such slot.
        """
        if slot not in self._held:
            raise ValueError(f"no slot {slot}")
        del self._held[slot]
        if self.slot == slot:
            self.slot = -1
        self._update()

    def set_slot(self, state: list[Tensor], rows: Tensor, slot: int) -> list[Tensor]:
        """A state whose ``rows`` (R,) int64 of axis 0 follow another slot (-1: none) from its root; ``state`` stays.

        Inside a segment, first add ``final(state)`` of these rows to their scores: unfinished matches are forgotten.

        Raises:
            ValueError: no such slot.
        """
        if slot != -1 and slot not in self._held:
            raise ValueError(f"no slot {slot}")
        return [state[0].index_fill(0, rows, slot), state[1].index_fill(0, rows, 0)]

    def _apply(self, fn: Any, recurse: bool = True) -> "BiasFusion":
        super()._apply(fn, recurse)
        self.device = fn(torch.zeros(0)).device  # where to, but float32 stays float32
        self._columns = [column.to(self.device) for column in self._columns]
        self._update()
        return self

    def _nothing(self) -> list[Tensor]:
        """The columns of the arena of no graphs: one node, which is nobody's, where those without phrases are."""
        one = torch.zeros(1, dtype=torch.int64, device=self.device)
        scores = torch.zeros(1, self.vocab_size, device=self.device)
        return [one, scores, one, one, one, one, one, one, scores[:, 0], scores[:, :1].repeat(1, 2)]

    def _place(self, columns: list[Tensor], graph: BiasGraph) -> list[Tensor]:
        """The columns with one more graph at their end."""
        base = columns[2].size(0)
        new = [
            torch.tensor([base]), graph.root_scores[None], graph.keys + base * self.vocab_size, graph.first + base,
            graph.count, graph.branch + base, graph.up + base, graph.hops, graph.enter, graph.leave,
        ]  # fmt: skip
        return [torch.cat((old, part.to(self.device))) for old, part in zip(columns, new, strict=True)]

    def _update(self) -> None:
        """Make the arena that of the held graphs."""
        wanted = list({id(graph): graph for graph in self._held.values()}.values())
        keep = len(self._placed) if wanted[: len(self._placed)] == self._placed else 0
        columns = self._columns if keep else self._nothing()
        for graph in wanted[keep:]:
            columns = self._place(columns, graph)
        self._columns, self._placed = columns, wanted
        places, bases = {id(graph): place for place, graph in enumerate(wanted, 1)}, columns[0].tolist()
        lowest = min(self._held, default=self._next)
        table = [[0, 0, 0]] * (self._next - lowest + 1)  # place, root and 1 of every slot from the lowest; 0: not held
        for slot, graph in self._held.items():
            place = places[id(graph)]
            table[slot - lowest + 1] = [place, bases[place], 1]
        starts = next((g.word_starts.float() for g in wanted if g.word_starts is not None), torch.zeros(0))
        slots = [torch.tensor(table, device=self.device), torch.tensor(lowest, device=self.device)]
        self.arena = [*slots, *columns[1:], starts.to(self.device)]
        self._arrays = [tensor.numpy() for tensor in self.arena] if self.device.type == "cpu" else None

    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        """[slot (N,), node (N,)] of ``batch`` hypotheses that follow `slot` from its root."""
        slot = torch.full((batch,), self.slot, dtype=torch.int64, device=self.arena[0].device)
        return [slot, torch.zeros_like(slot)]

    def _idle(self, arena: list[Tensor], slot: Tensor) -> bool:
        return arena[0].size(0) == 1 or not bool((slot >= 0).any())

    def _locate(self, arena: list[Tensor], state: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) each: the place of a hypothesis' graph (0: none), its root and its node in the arena."""
        table, lowest = arena[0], arena[1]
        place, base, alive = table.index_select(0, (state[0] - lowest + 1).clamp(min=0)).unbind(1)
        return place, base, base + state[1] * alive

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        """(N, V) what each symbol would add, 0 for blank. Do not write to it: without phrases it is one 0, expanded."""
        arena = self.arena
        count, size = state[0].size(0), self.vocab_size
        if self._idle(arena, state[0]):
            return torch.zeros(1, 1, device=arena[0].device).expand(count, size)
        if not torch.jit.is_scripting():
            if self._arrays is not None and count <= self.few_rows:
                return torch.from_numpy(_scores(self._arrays, *(tensor.tolist() for tensor in state))).mul_(self.scale)
        _, _, root_scores, keys, first, children, branch, up, hops, enter, leave, starts = arena
        place, _, node = self._locate(arena, state)
        found = root_scores.index_select(0, place)
        near = branch.index_select(0, node)
        chained: list[Tensor] = []  # nodes whose children count, nearest first; the root's are done
        for _hop in range(int(hops.index_select(0, node).max())):
            chained.append(near)
            near = up.index_select(0, near)
        flat = found.view(-1)
        rows = torch.arange(count, device=node.device)
        for i in range(len(chained)):
            near = chained[len(chained) - 1 - i]  # so that the nearest writes last
            many = children.index_select(0, near)
            row = torch.repeat_interleave(rows, many)
            skip = first.index_select(0, near) - many.cumsum(0) + many
            child = torch.arange(row.size(0), device=node.device) + skip.index_select(0, row)
            shift = (rows - near) * size  # from near * V + token to row * V + token
            at = keys.index_select(0, child) + shift.index_select(0, row)
            flat.scatter_(0, at, enter.index_select(0, child))
        taken = leave.index_select(0, node)
        found -= taken[:, :1]
        if starts.size(0) > 0:  # whole words
            found.addcmul_(taken[:, 1:] - taken[:, :1], starts, value=-1.0)
        found[:, 0] = 0.0
        return found if self.scale == 1.0 else found * self.scale

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The nodes after one more symbol each: tokens (N,) int64, all > 0."""
        arena = self.arena
        if self._idle(arena, state[0]):
            return state
        if not torch.jit.is_scripting():
            if self._arrays is not None and tokens.size(0) <= self.few_rows:
                nodes = _step(self._arrays, tokens.tolist(), state[0].tolist(), state[1].tolist())
                return [state[0], torch.tensor(nodes, dtype=torch.int64)]
        keys, branch, up, hops = arena[3], arena[6], arena[7], arena[8]
        _, base, node = self._locate(arena, state)
        reached = base  # nothing begins with this symbol: the root
        found = torch.zeros_like(node, dtype=torch.bool)
        near = branch.index_select(0, node)
        for _hop in range(int(hops.index_select(0, node).max()) + 1):
            key = near * self.vocab_size + tokens
            at = torch.searchsorted(keys, key).clamp_(max=keys.size(0) - 1)
            hit = (keys.index_select(0, at) == key) & ~found
            reached = torch.where(hit, at, reached)
            found = found | hit
            near = up.index_select(0, near)
        return [state[0], reached - base]

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        """(N,) takes back what unfinished matches hold; a segment's end also ends a word."""
        arena = self.arena
        if self._idle(arena, state[0]):
            return torch.zeros(state[0].size(0), device=arena[0].device)
        _, _, node = self._locate(arena, state)
        return -self.scale * arena[10].index_select(0, node)[:, 1]


def _places(arena: list[np.ndarray], slots: list[int], nodes: list[int]) -> list[tuple[int, int, int]]:
    """What `BiasFusion._locate` gives, row by row."""
    table, lowest = arena[0], int(arena[1])
    rows = [table[max(slot - lowest + 1, 0)].tolist() for slot in slots]
    return [(place, base, base + node * alive) for (place, base, alive), node in zip(rows, nodes, strict=True)]


def _scores(arena: list[np.ndarray], slots: list[int], nodes: list[int]) -> np.ndarray:
    """`BiasFusion.scores`, row by row: the children of a node are neighbours."""
    _, _, root_scores, keys, first, children, branch, up, _, enter, leave, starts = arena
    size = root_scores.shape[1]
    placed = _places(arena, slots, nodes)
    found = root_scores[[place for place, _, _ in placed]]
    for row, (_, _, node) in zip(found, placed, strict=True):
        chained = []
        near = branch.item(node)
        while (many := children.item(near)) > 0:
            low = first.item(near)
            chained.append((near, low, low + many))
            near = up.item(near)
        for near, low, high in reversed(chained):
            row[keys[low:high] - near * size] = enter[low:high]
        inside, start = leave[node].tolist()
        if inside != 0.0 or start != 0.0:
            row -= inside if inside == start else inside + (start - inside) * starts
            row[0] = 0.0
    return found


def _step(arena: list[np.ndarray], tokens: list[int], slots: list[int], nodes: list[int]) -> list[int]:
    """`BiasFusion.step`, row by row."""
    _, _, root_scores, keys, _, _, branch, up, *_ = arena
    size = root_scores.shape[1]
    reached = []
    for token, (_, base, node) in zip(tokens, _places(arena, slots, nodes), strict=True):
        near = branch.item(node)
        while True:
            key = near * size + token
            at = int(keys.searchsorted(key))
            if at < len(keys) and keys.item(at) == key:
                break
            if near == base:
                at = base
                break
            near = up.item(near)
        reached.append(at - base)
    return reached
