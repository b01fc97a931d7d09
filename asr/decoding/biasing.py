"""Phrases to prefer while searching: names, places, commands, without any training.

`Phrases` is the user's list, `BiasGraph` its automaton (there it says what is boosted by how much), and `BiasFusion`
lets hypotheses walk on such automata during search.

Shapes: N hypotheses, V symbols including blank 0. Scores are natural logarithms.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.decoding.bias_graph import BiasGraph
from asr.decoding.fusion import Fusion
from asr.decoding.phrases import Phrases

__all__ = ["BiasFusion", "BiasGraph", "Phrases"]

FEW_ROWS = 20  # up to here a plain loop on the CPU beats a few dozen tensor operations
CHANGES = threading.RLock()  # held while lists come and go; one for all, so that a fusion can be copied


class BiasFusion(Fusion):
    """Phrase boosting for many streams at once, each with a list of its own or none; lists come and go at run time.

    Lists live in slots. The state of N hypotheses is [slot (N,), node (N,)] int64; slot -1, or one that was removed,
    has no phrases and adds nothing. All graphs lie in one arena of tensors, so a batch of many lists costs what one
    costs; a graph in several slots is stored once. What is removed stays in the arena, out of reach, until it is the larger
    part. Lists may come and go in any thread, and from the garbage collector.

    Attributes:
        scale: all scores are multiplied by it.
        slot: what `initial_state` gives: the slot of the constructor's graph, or -1. May be changed.
        arena: everything a search reads. Replaced, never written to, when graphs come and go, so that a search in
            another thread goes on undisturbed. A scripted copy follows if told: ``scripted.arena = fusion.arena``.
    """

    arena: list[Tensor]

    def __init__(self, vocab_size: int, graph: BiasGraph | None = None, scale: float = 1.0, endpoint_id: int | None = None):
        """``vocab_size``: V of the model; ``graph``: the phrases of every new state, if any; ``endpoint_id``: the model's endpoint token, which
        is no word: a phrase may go on after it."""
        super().__init__()
        self.vocab_size = vocab_size
        self.scale = float(scale)
        self.endpoint_id = 0 if endpoint_id is None else endpoint_id
        self.few_rows = FEW_ROWS
        self.device = torch.device("cpu")
        self._held = dict[int, BiasGraph]()  # slot -> graph, slots ascending
        self._placed = list[BiasGraph]()  # the graphs of the arena, in its order; some may be held no more
        self._next = 0
        self._columns = self._nothing()
        self._updating = self._changed = False
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
            held = [other.word_starts for other in list(self._held.values()) if other.word_starts is not None]
            if held and not torch.equal(held[0], graph.word_starts):
                raise ValueError("the words of this graph start with other symbols than those of the graphs held")
        with CHANGES:
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
        with CHANGES:
            if self._held.pop(slot, None) is None:
                raise ValueError(f"no slot {slot}")
            if self.slot == slot:
                self.slot = -1
            self._update()

    def set_slot(self, state: list[Tensor], rows: Tensor, slot: int) -> list[Tensor]:
        """A state whose ``rows`` (R,) int64 of axis 0 follow another slot (-1: none) from its root; ``state`` stays.

        For states in which nothing has been said; inside a segment `move` is right.

        Raises:
            ValueError: no such slot.
        """
        if slot != -1 and slot not in self._held:
            raise ValueError(f"no slot {slot}")
        return [state[0].index_fill(0, rows, slot), state[1].index_fill(0, rows, 0)]

    def move(self, state: list[Tensor], slot: int) -> tuple[list[Tensor], Tensor]:
        """The hypotheses in the midst of a segment follow another slot (-1: none); call it before the old one is removed.

        A match goes on where the new list has the same beginning, so a list that grows or shrinks, or comes again and
        again, does not disturb the phrase that is being said. What unfinished matches of the old list hold is taken
        back; a phrase that is complete keeps its boost, also if the word might still go on.

        Returns:
            The state, and (N,) what is to be added to the scores of the hypotheses.

        Raises:
            ValueError: no such slot.
        """
        moved = self.set_slot(state, torch.arange(state[0].size(0), device=state[0].device), slot)
        keys, leave = self.arena[3], self.arena[10]
        _, old_base, old = self._locate(self.arena, state)
        reached = []
        for row, (at, base) in enumerate(zip(old.tolist(), old_base.tolist(), strict=True)):
            symbols = []
            while at != base:  # up to the root: the symbols that the old list has matched, the last one first
                at, symbol = divmod(int(keys[at]), self.vocab_size)
                symbols.append(symbol)
            one = [tensor[row : row + 1] for tensor in moved]
            for symbol in reversed(symbols):
                one = self.step(one[1].new_tensor([symbol]), one)
            reached.append(one[1])
        moved = [moved[0], torch.cat(reached) if reached else moved[1]]
        before, after = leave.index_select(0, old), leave.index_select(0, self._locate(self.arena, moved)[2])
        kept = before[:, 0] - before[:, 1]  # of phrases that are complete if the word ends here
        return moved, self.scale * ((after[:, 0] - kept).clamp(min=0.0) - before[:, 1])

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
        return [one, scores, one, one, one, one, one, one, torch.zeros_like(scores[0, :1]), torch.zeros_like(scores[:, :1]).repeat(1, 2)]

    def _place(self, columns: list[Tensor], graphs: list[BiasGraph]) -> list[Tensor]:
        """The columns with more graphs at their end."""
        parts: list[list[Tensor]] = [[] for _ in columns]
        base = columns[2].size(0)
        for graph in graphs:
            new = [
                torch.tensor([base]), graph.root_scores[None], graph.keys + base * self.vocab_size, graph.first + base,
                graph.count, graph.branch + base, graph.up + base, graph.hops, graph.enter, graph.leave,
            ]  # fmt: skip
            for part, tensor in zip(parts, new, strict=True):
                part.append(tensor.to(self.device))
            base += graph.size
        return [_extended(column, part) for column, part in zip(columns, parts, strict=True)] if graphs else columns

    def _update(self) -> None:
        """Make the arena that of the held graphs.

        The garbage collector may remove the list of a session that is gone at any time, also in the midst of this.
        """
        self._changed = True
        if self._updating:
            return
        self._updating = True
        try:
            while self._changed:
                self._changed = False
                self._build(self._held.copy())
        finally:
            self._updating = False

    @torch.inference_mode(False)  # what is made here may grow anywhere
    def _build(self, held: dict[int, BiasGraph]) -> None:
        wanted = {id(graph): graph for graph in held.values()}
        live = sum(graph.size for graph in wanted.values())
        if sum(graph.size for graph in self._placed if id(graph) not in wanted) > live:
            self._columns, self._placed = self._nothing(), []
        there = {id(graph) for graph in self._placed}
        new = [graph for key, graph in wanted.items() if key not in there]
        self._columns, self._placed = self._place(self._columns, new), self._placed + new
        places, bases = {id(graph): place for place, graph in enumerate(self._placed, 1)}, self._columns[0].tolist()
        slots, table = [-1], [[0, 0, 0]]  # ascending; place, root and 1 of each, 0 without phrases
        for slot, graph in held.items():
            place = places[id(graph)]
            slots.append(slot)
            table.append([place, bases[place], 1])
        starts = next((g.word_starts.float() for g in wanted.values() if g.word_starts is not None), torch.zeros(0))
        index = [torch.tensor(rows, device=self.device) for rows in (table, slots)]
        self.arena = [*index, *self._columns[1:], starts.to(self.device)]
        self._lists = _Lists(self.arena) if self.device.type == "cpu" else None

    @torch.jit.export
    def initial_state(self, batch: int) -> list[Tensor]:
        """[slot (N,), node (N,)] of ``batch`` hypotheses that follow `slot` from its root."""
        slot = torch.full((batch,), self.slot, dtype=torch.int64, device=self.arena[0].device)
        return [slot, torch.zeros_like(slot)]

    def _idle(self, arena: list[Tensor], slot: Tensor) -> bool:
        return arena[0].size(0) == 1 or not bool((slot >= 0).any())

    def _locate(self, arena: list[Tensor], state: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) each: the place of a hypothesis' graph (0: none), its root and its node in the arena."""
        table, slots = arena[0], arena[1]
        at = torch.searchsorted(slots, state[0]).clamp(max=slots.size(0) - 1)
        at = torch.where(slots.index_select(0, at) == state[0], at, 0)
        place, base, alive = table.index_select(0, at).unbind(1)
        return place, base, base + state[1] * alive

    @torch.jit.export
    def scores(self, state: list[Tensor]) -> Tensor:
        """(N, V) what each symbol would add, 0 for blank. Do not write to it: without phrases it is one 0, expanded."""
        arena = self.arena
        count, size = state[0].size(0), self.vocab_size
        if not torch.jit.is_scripting():
            lists = self._lists
            if lists is not None and count <= self.few_rows and count > 0:
                rows = torch.from_numpy(lists.scores(state[0].tolist(), state[1].tolist(), self.scale))
                rows[:, self.endpoint_id] = 0.0
                return rows
        if self._idle(arena, state[0]):
            return torch.zeros(1, 1, device=arena[0].device).expand(count, size)
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
        found[:, self.endpoint_id] = 0.0
        return found if self.scale == 1.0 else found * self.scale

    @torch.jit.export
    def step(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The nodes after one more symbol each: tokens (N,) int64, all > 0."""
        arena = self.arena
        if not torch.jit.is_scripting():
            lists = self._lists
            if lists is not None and tokens.size(0) <= self.few_rows:
                nodes = lists.step(tokens.tolist(), state[0].tolist(), state[1].tolist())
                return [state[0], torch.where(tokens == self.endpoint_id, state[1], torch.tensor(nodes, dtype=torch.int64))]
        if self._idle(arena, state[0]):
            return state
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
        return [state[0], torch.where(tokens == self.endpoint_id, state[1], reached - base)]

    @torch.jit.export
    def final(self, state: list[Tensor]) -> Tensor:
        """(N,) takes back what unfinished matches hold; a segment's end also ends a word."""
        arena = self.arena
        if self._idle(arena, state[0]):
            return torch.zeros(state[0].size(0), device=arena[0].device)
        _, _, node = self._locate(arena, state)
        return -self.scale * arena[10].index_select(0, node)[:, 1]


def _extended(column: Tensor, parts: list[Tensor]) -> Tensor:
    """A column with more rows at its end: in the room behind it if there is enough, so that lists that come one by one are
    not copied again and again. Who reads the shorter column does not see them.
    """
    used, row = column.size(0), column[0].numel()
    total = used + sum(part.size(0) for part in parts)
    room = column.untyped_storage().size() // (row * column.element_size())
    if total > room or column.is_inference():
        wider = column.new_empty([2 * total, *column.shape[1:]])
        wider[:used] = column
        column = wider
    column = column.as_strided([total, *column.shape[1:]], column.stride())
    torch.cat(parts, out=column[used:])
    return column


class _Lists:
    """`BiasFusion.scores` and `BiasFusion.step` row by row: for a few rows faster than some dozen tensor operations."""

    def __init__(self, arena: list[Tensor]):
        table, slots, *columns, starts = [tensor.numpy() for tensor in arena]
        self.root_scores, self.keys, self.first, self.children, self.branch, self.up, _, self.enter, self.leave = columns
        self.starts = starts
        self.size = self.root_scores.shape[1]
        self.slots = {slot: tuple(row) for slot, row in zip(slots.tolist(), table.tolist(), strict=True)}

    def places(self, slots: list[int], nodes: list[int]) -> list[tuple[int, int, int]]:
        """What `BiasFusion._locate` gives, row by row."""
        found = []
        for slot, node in zip(slots, nodes, strict=True):
            place, base, alive = self.slots.get(slot, (0, 0, 0))
            found.append((place, base, base + node * alive))
        return found

    def scores(self, slots: list[int], nodes: list[int], scale: float) -> np.ndarray:
        """(N, V) float32; the children of a node are neighbours."""
        placed = self.places(slots, nodes)
        found: np.ndarray = self.root_scores[[place for place, _, _ in placed]]
        keys, branch, children, first, up, enter = self.keys, self.branch, self.children, self.first, self.up, self.enter
        for row, (place, base, node) in zip(found, placed, strict=True):
            if not place or node == base:
                continue
            chained = []
            near = branch.item(node)
            while (many := children.item(near)) > 0:
                low = first.item(near)
                chained.append((near, low, low + many))
                near = up.item(near)
            for near, low, high in reversed(chained):
                row[keys[low:high] - near * self.size] = enter[low:high]
            inside, start = self.leave[node].tolist()
            if inside != 0.0 or start != 0.0:
                row -= inside if inside == start else inside + (start - inside) * self.starts
                row[0] = 0.0
        if scale != 1.0:
            found *= scale
        return found

    def step(self, tokens: list[int], slots: list[int], nodes: list[int]) -> list[int]:
        """The nodes after one more symbol each."""
        keys, up, size = self.keys, self.up, self.size
        reached = []
        for token, (place, base, node) in zip(tokens, self.places(slots, nodes), strict=True):
            near = self.branch.item(node)
            while place:
                key = near * size + token
                at = int(keys.searchsorted(key))
                if at < len(keys) and keys.item(at) == key:
                    break
                if near == base:
                    at = base
                    break
                near = up.item(near)
            reached.append(at - base if place else 0)
        return reached
