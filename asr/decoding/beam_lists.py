"""The modified beam of `asr.decoding.beam` on the CPU, its bookkeeping in plain Python: the same results, several times faster.

A frame has a handful of candidates. For tensors of that size the calls cost more than the numbers: some hundred calls a frame against a few
dozen steps of Python. So joiner, predictor and fusion run in torch, a batch and a block at once as there, and what is done with their
answers are lists. The tensors of `BeamSearch` remain what TorchScript and GPUs run.

Legend as there: B streams, K hypotheses, U frames of a block, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from asr.decoding.beam import BeamBlock, BeamSearch, BeamState

WORD = (1 << 64) - 1
SIGN = 1 << 63


class _Hypothesis:
    """A row of the state, and what the joiner said of it from frame ``base`` of the block on."""

    __slots__ = (
        "age", "base", "best", "blank", "bonus", "emit", "fusion", "hash", "ids", "last", "parent_hash", "predictor", "projected", "quiet",
        "score",
    )  # fmt: skip

    score: float
    hash: int
    parent_hash: int
    last: int
    quiet: int
    age: int
    projected: Tensor  # (J,)
    bonus: Tensor  # (V,) or (0,)
    predictor: list[Tensor]
    fusion: list[Tensor]
    base: int
    blank: list[float]
    best: list[list[float]]
    ids: list[list[int]]
    emit: Tensor  # (U', V)

    def __init__(self) -> None:
        self.base, self.blank = 0, []


def step_lists(search: BeamSearch, encoder_out: Tensor, valid: Tensor, state: BeamState) -> tuple[BeamBlock, BeamState]:
    """`BeamSearch.step` of a modified beam."""
    from asr.decoding.beam import BeamBlock

    encoder = search.joiner.project_encoder(encoder_out)
    block = encoder.size(1)
    tables = [tensor.tolist() for tensor in (state.scores, state.hashes, state.last, state.quiet, state.age, state.limits)]
    outputs, beams = [], []
    for row, count in enumerate(valid.tolist()):
        scores, hashes, last, quiet, age, limits = (table[row] for table in tables)
        beam = []
        for k, score in enumerate(scores):
            if score == -math.inf:
                break
            h = _Hypothesis()
            h.score, h.last, h.quiet, h.age = score, last[k], quiet[k], age[k]
            h.hash, h.parent_hash = hashes[k]
            h.projected, h.bonus = state.projected[row, k], state.bonus[row, k]
            h.predictor = [tensor[row, k] for tensor in state.predictor]
            h.fusion = [tensor[row, k] for tensor in state.fusion]
            beam.append(h)
        frames = _Stream(search, encoder[row], beam, limits).run(count)
        same = list(range(search.beam))
        idle = (same, [[0]] * search.beam, [[0.0]] * search.beam, [h.score for h in beam], False)
        outputs.append(frames + [idle] * (block - count))
        beams.append(beam)
    return BeamBlock(*_padded(outputs, search.beam)), _state(state, beams, search.beam)


class _Stream:
    """One stream of a block; ``beam`` is changed in place."""

    def __init__(self, search: BeamSearch, encoder: Tensor, beam: list[_Hypothesis], limits: Sequence[int]):
        self.search, self.encoder, self.beam = search, encoder, beam
        self.quiet, self.age = limits

    def run(self, count: int) -> list[tuple]:
        """The frames: (parents, tokens, log_probs, ranks, settled) each, of the hypotheses that are alive."""
        return [self.frame(t, count) for t in range(count)]

    def frame(self, t: int, count: int) -> tuple:
        """One frame of ``count``."""
        search, beam = self.search, self.beam
        todo = [h for h in beam if t - h.base >= len(h.blank)]
        if todo:
            self.join(todo, t, count)
        stay = [h.score + h.blank[t - h.base] for h in beam]
        least = max(stay) - search.prune
        places = {h.hash: k for k, h in enumerate(beam)}
        # (score, parent, symbol, what the joiner said, hypothesis or None for a new one)
        found: list[tuple[float, int, int, float, _Hypothesis | None]] = []
        for k, h in enumerate(beam):
            found.append((stay[k], k, 0, 0.0, h))
        for k, h in enumerate(beam):
            score, values = h.score, h.best[t - h.base]
            if score + values[0] < least:
                continue
            symbols = h.ids[t - h.base]
            for value, symbol in zip(values, symbols):
                if score + value < least:
                    break
                if _follow(h.hash, symbol, search.hash) not in places:
                    found.append((score + value, k, symbol, value, None))
        for place, h in enumerate(beam):  # the path over its parent adds to a hypothesis
            k = places.get(h.parent_hash, -1)
            if k < 0:
                continue
            value = float(beam[k].emit[t - beam[k].base, h.last])
            over = beam[k].score + value
            if over >= least:
                score = stay[place]
                if over > score:
                    found[place] = (_sum(score, over), k, h.last, value, h)
                else:
                    found[place] = (_sum(score, over), place, 0, 0.0, h)
        if len(found) > 1:
            found.sort(key=_score, reverse=True)
        floor = found[0][0] - search.prune
        found = [item for item in found[: search.beam] if item[0] >= floor]
        kept, fresh = self.follow(found)
        if fresh:
            self.extend(fresh)
        log_probs = [value - float(beam[k].bonus[symbol]) if symbol and len(beam[k].bonus) else value for _, k, symbol, value, _ in found]
        parents, symbols = [item[1] for item in found], [item[2] for item in found]
        ranks, settled = [h.score for h in kept], False
        best = kept[0]
        ends = symbols[0] != 0 and best.last == search.endpoint_id
        if ends or (best.age >= 0 and (best.quiet >= self.quiet or best.age >= self.age)):
            settled = True
            final = search.fusion.final([torch.stack(parts) for parts in zip(*(h.fusion for h in kept), strict=True)])
            if final.size(0) > 0:
                ranks = [rank + more for rank, more in zip(ranks, final.tolist(), strict=True)]
            order = sorted(range(len(kept)), key=lambda k: -ranks[k])
            kept, ranks = [kept[k] for k in order], [ranks[k] for k in order]
            parents, symbols, log_probs = [parents[k] for k in order], [symbols[k] for k in order], [log_probs[k] for k in order]
            kept = kept[:1]
            kept[0].age = -1
        beam[:] = kept
        return parents, [[symbol] for symbol in symbols], [[value] for value in log_probs], ranks, settled

    def follow(self, found: list) -> tuple[list[_Hypothesis], list[tuple[_Hypothesis, _Hypothesis]]]:
        """The hypotheses after the frame, and which of them are new, with their parents."""
        beam, kept, fresh = self.beam, [], []
        counts = [(h.quiet, h.age) for h in beam]
        for score, k, symbol, _, h in found:
            quiet, age = counts[k]
            if h is None:
                h = _Hypothesis()
                h.hash, h.parent_hash, h.last = _follow(beam[k].hash, symbol, self.search.hash), beam[k].hash, symbol
                fresh.append((h, beam[k]))
            h.score = score
            h.quiet = 0 if symbol else quiet + 1
            h.age = age + 1 if symbol or age >= 0 else age
            kept.append(h)
        return kept, fresh

    def extend(self, fresh: list[tuple[_Hypothesis, _Hypothesis]]) -> None:
        """Predictor and fusion of new hypotheses, as one batch."""
        search = self.search
        symbols = torch.tensor([h.last for h, _ in fresh])
        parents = [parent for _, parent in fresh]
        out, predictor = search.predictor.step(symbols, [torch.stack(rows) for rows in zip(*(p.predictor for p in parents), strict=True)])
        fusion = search.fusion.step(symbols, [torch.stack(rows) for rows in zip(*(p.fusion for p in parents), strict=True)])
        projected = search.joiner.project_predictor(out)
        bonus = search._bonus(out, fusion) if len(parents[0].bonus) else parents[0].bonus.expand(len(fresh), 0)
        for i, (h, _) in enumerate(fresh):
            h.projected, h.bonus = projected[i], bonus[i]
            h.predictor, h.fusion = [tensor[i] for tensor in predictor], [tensor[i] for tensor in fusion]

    def join(self, todo: list[_Hypothesis], t: int, count: int) -> None:
        """Run the joiner from frame ``t`` on, for all further frames if that costs little."""
        search = self.search
        end = count if len(todo) * (count - t) <= search.few_rows else t + 1
        rows = torch.stack([h.projected for h in todo]) if len(todo) > 1 else todo[0].projected[None]
        emit = search.joiner.join(self.encoder[None, t:end], rows[:, None]).float().log_softmax(-1)  # (n, U', V)
        blank = (emit[:, :, 0] - search.blank_penalty).tolist()
        if len(todo[0].bonus):
            emit = emit + torch.stack([h.bonus for h in todo])[:, None]
        emit[:, :, 0] = -math.inf
        best, ids = emit.topk(min(2 * search.beam, emit.size(2) - 1), -1)
        for h, b, v, i, e in zip(todo, blank, best.tolist(), ids.tolist(), emit, strict=True):
            h.base, h.blank, h.best, h.ids, h.emit = t, b, v, i, e


def _score(item: tuple) -> float:
    return item[0]  # type: ignore[no-any-return]


def _follow(history: int, symbol: int, factor: int) -> int:
    """The hash of a history and one more symbol, as int64 arithmetic gives it."""
    value = ((history + symbol + 1) * factor) & WORD
    return value - (1 << 64) if value & SIGN else value


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a))


def _padded(outputs: list[list[tuple]], beam: int) -> list[Tensor]:
    """The tensors of a `BeamBlock`; places without a hypothesis point to themselves."""
    same = list(range(beam))
    parts: list[list] = [[], [], [], [], []]
    for frames in outputs:
        rows: list[list] = [[], [], [], [], []]
        for parents, tokens, log_probs, ranks, settled in frames:
            rows[0].append(parents + same[len(parents) :])
            rows[1].append(tokens + [[0]] * (beam - len(tokens)))
            rows[2].append(log_probs + [[0.0]] * (beam - len(log_probs)))
            rows[3].append(ranks + [-math.inf] * (beam - len(ranks)))
            rows[4].append(settled)
        for part, row in zip(parts, rows, strict=True):
            part.append(row)
    kinds = (torch.int64, torch.int64, torch.float32, torch.float32, torch.bool)
    return [torch.tensor(part, dtype=kind) for part, kind in zip(parts, kinds, strict=True)]


def _state(state: BeamState, beams: list[list[_Hypothesis]], beam: int) -> BeamState:
    """The hypotheses as tensors; a place without one has the rows of the best, and no score."""
    rows = [beams[b][k] if k < len(beams[b]) else beams[b][0] for b in range(len(beams)) for k in range(beam)]
    shape = (len(beams), beam)
    scores = [[h.score for h in own] + [-math.inf] * (beam - len(own)) for own in beams]

    def numbers(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).view(*shape, *([] if not isinstance(values[0], tuple) else [2]))

    return state._replace(
        scores=torch.tensor(scores), hashes=numbers([(h.hash, h.parent_hash) for h in rows]), last=numbers([h.last for h in rows]),
        quiet=numbers([h.quiet for h in rows]), age=numbers([h.age for h in rows]),
        projected=torch.stack([h.projected for h in rows]).unflatten(0, shape),
        bonus=torch.stack([h.bonus for h in rows]).unflatten(0, shape),
        predictor=[torch.stack(parts).unflatten(0, shape) for parts in zip(*(h.predictor for h in rows), strict=True)],
        fusion=[torch.stack(parts).unflatten(0, shape) for parts in zip(*(h.fusion for h in rows), strict=True)],
    )  # fmt: skip
