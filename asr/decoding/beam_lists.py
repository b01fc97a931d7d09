"""The searches of `asr.decoding.beam` on the CPU, their bookkeeping in plain Python: the same results, many times faster.

A frame has a handful of candidates. For tensors of that size the calls cost more than the numbers: some hundred calls a frame against a few
dozen steps of Python. So joiner, predictor and fusion run in torch, several hypotheses, streams and frames at once, and what is done with
their answers are lists. The tensors of `BeamSearch` remain what TorchScript and GPUs run.

What was computed once is kept: a stream remembers histories that fell out of the beam (they often come back a frame later) and, for a
predictor that sees only the last symbols, its output for these symbols and the joiner's rows, which all histories that end in them share (and are
at the same place of a list of phrases or an n-gram model: a fusion whose state is whole numbers).
This memory belongs to one stream: it goes from block to block with the `BeamState` that `step` returned, and is left behind when that state
is taken apart, stacked with others or used twice; then the tensors of the state say everything, as they do for the other search.

Legend as there: B streams, K hypotheses, U frames of a block, U' frames the joiner has run for, V symbols, C candidates of a row.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.decoding.beam_state import BeamBlock, BeamState
from asr.decoding.fusion import Fusion

if TYPE_CHECKING:
    from asr.decoding.beam import BeamSearch

WORD = (1 << 64) - 1
SIGN = 1 << 63
MANY_HISTORIES = 16  # remembered for every place of the beam
MANY_CONTEXTS = 512  # outputs of a stateless predictor remembered by a stream, and what is added to them
NOTHING = np.zeros((0, 0), np.float32)

_by_score: Any = itemgetter(0)


class _Rows:
    """What the joiner says of the frames of a block from ``base`` on."""

    __slots__ = ("base", "best", "blank", "emit", "ids", "log_probs", "top")

    base: int
    blank: list[float]  # by frame of the block (0 before ``base``): its length is the first frame that is missing
    top: list[float]  # by frame of the block: the largest of ``emit``
    best: list[list[float]]  # [U'][C] the largest of ``emit``, in order
    ids: list[list[int]]  # [U'][C] their symbols, less one
    emit: np.ndarray  # (U', V) log-probability of each symbol and what is added to it
    log_probs: np.ndarray  # (U', V) log-probability, the model's own

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another block has begun."""
        self.base = 0
        self.blank = self.top = []
        self.best = []
        self.ids = []
        self.emit = self.log_probs = NOTHING


class _Context:
    """A predictor output, and what follows from it alone."""

    __slots__ = ("bonus", "key", "predictor", "projected", "rows")

    def __init__(self, projected: Tensor, bonus: Tensor, predictor: list[Tensor], key: tuple[int, ...]):
        self.projected = projected  # (J,)
        self.bonus = bonus  # (V,) of the internal language model; (0,): nothing
        self.predictor = predictor  # its state
        self.key = key  # stateless: the symbols that it will see beside the next one
        self.rows = _Rows()


class _History:
    """The symbols so far, known by their hash."""

    __slots__ = ("bonus", "context", "fusion", "hash", "last", "parent_hash", "rows")

    context: _Context
    bonus: Tensor  # (V,) all that is added; (0,): nothing
    fusion: list[Tensor]
    rows: _Rows  # those of the context, unless there is a fusion; shared with histories to which the same is added

    def __init__(self, hash_: int, parent_hash: int, last: int):
        self.hash, self.parent_hash, self.last = hash_, parent_hash, last

    def place(self, context: _Context, bonus: Tensor, fusion: list[Tensor], rows: _Rows) -> None:
        self.context, self.bonus, self.fusion, self.rows = context, bonus, fusion, rows


class _Hypothesis:
    """A place of the beam."""

    __slots__ = ("born", "history", "score", "since")

    def __init__(self, score: float, history: _History, since: int, born: int | None):
        self.score = score
        self.history = history
        self.since = since  # frame of the last symbol
        self.born = born  # frame of the first symbol after all hypotheses but one were dropped; None: none yet


class _Extend:
    """What a stream needs: predictor and fusion of new histories, each with the one that it comes from."""

    def __init__(self, stream: _Stream, pairs: list[tuple[_History, _History]]):
        self.stream, self.pairs = stream, pairs


class _Join:
    """What a stream needs: the joiner for these histories from frame ``t`` on."""

    def __init__(self, stream: _Stream, histories: list[_History], t: int):
        self.stream, self.histories, self.t = stream, histories, t


Steps = Generator["_Extend | _Join", None, None]


class _Remembered(BeamState):
    """A state and the streams that it was written from, in a list for whoever comes first; copies are plain states."""

    streams: list[list[_Stream]]

    def __reduce__(self) -> tuple:
        return BeamState, tuple(self)


@torch.no_grad()
def step_lists(search: BeamSearch, encoder_out: Tensor, valid: Tensor, state: BeamState) -> tuple[BeamBlock, BeamState]:
    """`BeamSearch.step`."""
    encoder = search.joiner.project_encoder(encoder_out)
    output = _Output(encoder.size(0), encoder.size(1), search.beam, search.symbols)
    streams = _streams(search, state)
    waiting = []
    for row, (stream, count, limits) in enumerate(zip(streams, valid.tolist(), state.limits.tolist(), strict=True)):
        run = stream.run(encoder[row, :count], limits, output, row)
        if (request := next(run, None)) is not None:
            waiting.append((run, request))
    while waiting:  # every stream has gone on to what it needs next; all get it together
        if extends := [request for _, request in waiting if isinstance(request, _Extend)]:
            _extend(search, extends)
        if joins := [request for _, request in waiting if isinstance(request, _Join)]:
            _join(search, joins)
        waiting = [(run, request) for run, _ in waiting if (request := next(run, None)) is not None]
    return output.block(), _state(state, streams, search.beam)


class _Output:
    """The arrays of a `BeamBlock`; places without a hypothesis point to themselves."""

    def __init__(self, batch: int, block: int, beam: int, symbols: int):
        self.parents = np.empty((batch, block, beam), np.int64)
        self.parents[:] = np.arange(beam)
        self.tokens = np.zeros((batch, block, beam, symbols), np.int64)
        self.log_probs = np.zeros((batch, block, beam, symbols), np.float32)
        self.ranks = np.full((batch, block, beam), -np.inf, np.float32)
        self.settled = np.zeros((batch, block), bool)

    def block(self) -> BeamBlock:
        return BeamBlock(*map(torch.from_numpy, (self.parents, self.tokens, self.log_probs, self.ranks, self.settled)))


class _Stream:
    """One stream: its hypotheses, the best first, and what it remembers."""

    def __init__(self, search: BeamSearch, beam: list[_Hypothesis]):
        self.search = search
        self.beam = beam
        self.frame = 0  # since the stream was read from a state
        self.histories = {h.history.hash: h.history for h in beam}
        self.contexts: dict[tuple[int, ...], _Context] = {}
        self.fused: dict[tuple, tuple[Tensor, _Rows]] = {}  # by context and state of the fusion: all that is added, the rows with it
        self.joined: list[_Rows] = []  # of this block

    def run(self, encoder: Tensor, limits: list[int], output: _Output, row: int) -> Steps:
        """The frames of a block (U, J), written to ``output``; yields what has to be computed before it can go on."""
        self.encoder, self.limits, self.output, self.row = encoder, limits, output, row
        count, prune, ranks = encoder.size(0), self.search.prune, output.ranks[row]
        for t in range(count):
            beam = self.beam
            missing = [h.history for h in beam if len(h.history.rows.blank) <= t]
            if missing:
                yield _Join(self, missing, t)
            stay, top, comes = [], -math.inf, -math.inf
            for h in beam:
                rows, score = h.history.rows, h.score
                stay.append(value := score + rows.blank[t])
                if value > top:
                    top = value
                if (value := score + rows.top[t]) > comes:
                    comes = value
            least = top - prune
            if comes < least:
                self.blank_frame(t, stay, least)
                ranks[t, : len(self.beam)] = [h.score for h in self.beam]
            else:
                yield from self.modified_frame(t, stay, least) if self.search.modified else self.full_frame(t)
                if len(self.histories) > MANY_HISTORIES * self.search.beam:
                    self.histories = {h.history.hash: h.history for h in self.beam}
            best = self.beam[0]  # the endpoint token may have been said before, and be the best only now
            ended = best.history.last == self.search.endpoint_id
            if best.born is not None and (ended or self.frame - best.since >= limits[0] or self.frame - best.born >= limits[1]):
                self.settle(t)
            self.frame += 1
        ranks[count:, : len(self.beam)] = [h.score for h in self.beam]
        self.forget()

    def blank_frame(self, t: int, stay: list[float], least: float) -> None:
        """A frame without a symbol near the best hypothesis."""
        beam, before, ordered = self.beam, math.inf, True
        for h, value in zip(beam, stay):
            h.score = value
            if value > before:
                ordered = False
            before = value
        if not ordered or before < least:
            places = sorted((k for k, value in enumerate(stay) if value >= least), key=stay.__getitem__, reverse=True)
            self.beam = [beam[k] for k in places]
            self.output.parents[self.row, t, : len(places)] = places

    def modified_frame(self, t: int, stay: list[float], least: float) -> Steps:
        """A frame in which every path has one symbol or one blank."""
        search, beam, factor = self.search, self.beam, self.search.hash
        places = {h.history.hash: k for k, h in enumerate(beam)}
        # (score, place of the parent, symbol, hash)
        found = [(value, k, 0, h.history.hash) for k, (value, h) in enumerate(zip(stay, beam))]
        for place, h in enumerate(beam):  # the path over its parent adds to a hypothesis
            k = places.get(h.history.parent_hash, -1)
            if k >= 0:
                rows, last = beam[k].history.rows, h.history.last
                over, mine = beam[k].score + rows.emit.item(t - rows.base, last), stay[place]
                if over >= least:
                    found[place] = (_sum(mine, over), k, last, h.history.hash) if over > mine else (_sum(mine, over), *found[place][1:])
        cut = least if len(beam) < search.beam else max(least, min(item[0] for item in found))
        go = self.symbols(t, [(h.score, h.history) for h in beam], cut, 2 * search.beam)  # fewer than K are in the beam already
        for score, k, symbol in go:
            hash_ = _follow(beam[k].history.hash, symbol, factor)
            if hash_ not in places:
                found.append((score, k, symbol, hash_))
        found.sort(key=_by_score, reverse=True)
        least = found[0][0] - search.prune
        kept: list[_Hypothesis] = []
        new: list[tuple[_History, _History]] = []
        parents, tokens, log_probs = [], [], []
        for score, k, symbol, hash_ in found[: search.beam]:
            if score < least:
                break
            origin = beam[k]
            parents.append(k)
            tokens.append(symbol)
            if symbol:
                rows = origin.history.rows
                log_probs.append(rows.log_probs.item(t - rows.base, symbol))
                history = self.history(hash_, origin.history, symbol, new)
                kept.append(_Hypothesis(score, history, self.frame, self.frame if origin.born is None else origin.born))
            else:
                log_probs.append(0.0)
                kept.append(_Hypothesis(score, origin.history, origin.since, origin.born))
        if new:
            yield _Extend(self, new)
        self.beam = kept
        output, at = self.output, (self.row, t, slice(len(kept)))
        output.parents[at] = parents
        output.tokens[at][:, 0] = tokens
        output.log_probs[at][:, 0] = log_probs
        output.ranks[at] = [h.score for h in kept]

    def full_frame(self, t: int) -> Steps:
        """A frame in which a path has up to S symbols and then a blank."""
        search, beam, width = self.search, self.beam, self.search.beam
        ended: dict[int, list] = {}  # by hash: score, history, place of the parent, symbols, their log-probabilities
        layer: list[tuple] = [(h.score, h.history, k, (), ()) for k, h in enumerate(beam)]  # the same before a blank
        for count in range(search.symbols + 1):
            missing = [item[1] for item in layer if len(item[1].rows.blank) <= t]
            if missing:
                yield _Join(self, missing, t)
            for score, history, k, symbols, log_probs in layer:
                value = score + history.rows.blank[t]
                entry = ended.get(history.hash)
                if entry is None:
                    ended[history.hash] = [value, history, k, symbols, log_probs]
                else:
                    if value > entry[0]:
                        entry[2:] = k, symbols, log_probs
                    entry[0] = _sum(entry[0], value)
            # scores only fall: what is below all that may stay can be left
            scores = sorted([entry[0] for entry in ended.values()], reverse=True)[:width]
            least = scores[0] - search.prune
            if len(scores) == width and scores[-1] > least:
                least = scores[-1]
            if count == search.symbols:
                break
            go = self.symbols(t, layer, least, width)
            if not go:
                break
            new: list[tuple[_History, _History]] = []
            before, layer = layer, []
            for score, place, symbol in go:
                _, history, k, symbols, log_probs = before[place]
                after = self.history(_follow(history.hash, symbol, search.hash), history, symbol, new)
                value = history.rows.log_probs.item(t - history.rows.base, symbol)
                layer.append((score, after, k, (*symbols, symbol), (*log_probs, value)))
            if new:
                yield _Extend(self, new)
        output, row, self.beam, parents = self.output, self.row, [], []
        for place, (score, history, k, symbols, log_probs) in enumerate(sorted(ended.values(), key=_by_score, reverse=True)[:width]):
            if score < least:
                break
            parents.append(k)
            since, born = beam[k].since, beam[k].born
            if symbols:
                since, born = self.frame, self.frame if born is None else born
                output.tokens[row, t, place, : len(symbols)] = symbols
                output.log_probs[row, t, place, : len(symbols)] = log_probs
            self.beam.append(_Hypothesis(score, history, since, born))
        output.parents[row, t, : len(parents)] = parents
        output.ranks[row, t, : len(parents)] = [h.score for h in self.beam]

    def symbols(self, t: int, layer: Sequence[tuple], cut: float, most: int) -> list[tuple[float, int, int]]:
        """The best symbols after hypotheses (score, history, ...) in a frame, at most so many: (score, place in ``layer``, symbol)."""
        go: list[tuple[float, int, int]] = []
        for place, item in enumerate(layer):
            score, rows = item[0], item[1].rows
            if score + rows.top[t] < cut:
                continue
            for value, symbol in zip(rows.best[t - rows.base], rows.ids[t - rows.base]):
                if score + value < cut:
                    break
                go.append((score + value, place, symbol + 1))
            if len(go) > most:
                go.sort(key=_by_score, reverse=True)
                del go[most:]
                cut = go[-1][0]
        if len(go) > 1:
            go.sort(key=_by_score, reverse=True)
        return go

    def history(self, hash_: int, parent: _History, symbol: int, new: list[tuple[_History, _History]]) -> _History:
        """The history after one more symbol: a remembered one, or one to be extended, added to ``new``."""
        history = self.histories.get(hash_)
        if history is None:
            history = self.histories[hash_] = _History(hash_, parent.hash, symbol)
            new.append((history, parent))
        return history

    def settle(self, t: int) -> None:
        """The end of a segment: the best hypothesis is what was said."""
        output, row, count = self.output, self.row, len(self.beam)
        ranks = [h.score for h in self.beam]
        final = self.search.fusion.final(_stacked([h.history.fusion for h in self.beam]))
        if final.size(0) > 0:
            ranks = [rank + more for rank, more in zip(ranks, final.tolist(), strict=True)]
        order = sorted(range(count), key=ranks.__getitem__, reverse=True)
        for array in (output.parents, output.tokens, output.log_probs):
            array[row, t, :count] = array[row, t, order]
        output.ranks[row, t, :count] = [ranks[k] for k in order]
        output.settled[row, t] = True
        best = self.beam[order[0]]
        best.born = None
        self.beam = [best]

    def forget(self) -> None:
        """The block is over: its rows are worth nothing any more."""
        for rows in self.joined:
            rows.clear()
        self.joined = []
        del self.encoder, self.output
        if max(len(self.contexts), len(self.fused)) > MANY_CONTEXTS:
            self.contexts, self.fused = {}, {}


def _extend(search: BeamSearch, requests: list[_Extend]) -> None:
    """Predictor and fusion of new histories, as one batch."""
    stateless = search.stateless
    stateless = search.stateless
    placed: list[_Placed] = []
    wanted: dict[tuple, _Placed] = {}  # those whose context has not been computed
    for request in requests:
        contexts: dict = request.stream.contexts if stateless else {}
        for history, parent in request.pairs:
            key = (*parent.context.key, history.last) if stateless else (history.hash,)
            placed.append(_Placed(request.stream, contexts, key, history, parent))
            if key not in contexts:
                wanted[(id(contexts), *key)] = placed[-1]
    if wanted:
        tokens = torch.tensor([new.history.last for new in wanted.values()])
        out, states = search.predictor.step(tokens, _stacked([new.parent.context.predictor for new in wanted.values()]))
        projected, bonus = search.joiner.project_predictor(out).unbind(0), search.internal(out).unbind(0)
        for i, new in enumerate(wanted.values()):
            new.contexts[new.key] = _Context(projected[i], bonus[i], [state[i] for state in states], new.key[1:] if stateless else ())
    if _fused(search):
        _extend_fused(search, placed)
        return
    for new in placed:
        context = new.contexts[new.key]
        new.history.place(context, context.bonus, [], context.rows)


class _Placed(NamedTuple):
    """A new history: its stream, where its context is and under which key, and the history that it comes from."""

    stream: _Stream
    contexts: dict[tuple, _Context]
    key: tuple
    history: _History
    parent: _History


def _extend_fused(search: BeamSearch, placed: list[_Placed]) -> None:
    """The fusion of histories whose contexts are there; what is added to a context at one place of the fusion is computed once."""
    states = search.fusion.step(torch.tensor([new.history.last for new in placed]), _stacked([new.parent.fusion for new in placed]))
    whole = search.stateless and len(states) > 0 and all(state.dim() == 1 and not state.is_floating_point() for state in states)
    places: list[tuple] = list(zip(*(state.tolist() for state in states))) if whole else [(i,) for i in range(len(placed))]
    unshared: dict[tuple, tuple[Tensor, _Rows]] = {}
    entries = [(new.stream.fused if whole else unshared, (new.key, place)) for new, place in zip(placed, places)]
    missing = list({(id(fused), key): i for i, (fused, key) in enumerate(entries) if key not in fused}.values())
    if missing:
        scores = search.fusion.scores([state[missing] for state in states])
        for row, i in enumerate(missing):
            bonus = placed[i].contexts[placed[i].key].bonus
            if scores.size(1):
                bonus = bonus + scores[row] if len(bonus) else scores[row]
            fused, key = entries[i]
            fused[key] = (bonus, _Rows())
    for i, (new, (fused, key)) in enumerate(zip(placed, entries)):
        new.history.place(new.contexts[new.key], fused[key][0], [state[i] for state in states], fused[key][1])


def _join(search: BeamSearch, requests: list[_Join]) -> None:
    """Run the joiner for what has not been at these frames, as one batch; for further frames of the block if that costs little."""
    fused = _fused(search)
    wanted: list[tuple[_Join, list[_Context]]] = []
    for request in requests:
        contexts = list({id(h.context): h.context for h in request.histories if len(h.context.rows.blank) <= request.t}.values())
        if contexts:
            wanted.append((request, contexts))
    owners: list[tuple[_Rows, Tensor, Tensor]] = []  # rows, log-probabilities (U', V), what is added to them
    if wanted:
        ahead = max(1, search.few_rows // sum(len(contexts) for _, contexts in wanted))
        parts = []
        for request, contexts in wanted:
            encoder = request.stream.encoder[request.t : request.t + ahead]
            projected = torch.stack([context.projected for context in contexts])
            parts.append((encoder + projected[:, None]).flatten(0, 1))
        inputs = torch.cat(parts) if len(parts) > 1 else parts[0]
        joiner = search.joiner
        log_probs = joiner.output(joiner.activate(inputs)).float().log_softmax(-1)  # (N, V)
        array = log_probs.numpy()
        blank = (array[:, 0] - search.blank_penalty).tolist()
        begin = 0
        for request, contexts in wanted:
            before = [0.0] * request.t
            size = min(ahead, len(request.stream.encoder) - request.t)
            for context in contexts:
                rows, end = context.rows, begin + size
                rows.base, rows.log_probs, rows.blank = request.t, array[begin:end], before + blank[begin:end]
                request.stream.joined.append(rows)
                owners.append((rows, log_probs[begin:end], context.bonus))
                begin = end
    if fused:
        owners = []
        for request in requests:
            for history in {id(h.rows): h for h in request.histories}.values():
                rows, known = history.rows, history.context.rows
                rows.base, rows.blank = request.t, known.blank
                rows.log_probs = known.log_probs[request.t - known.base :]
                request.stream.joined.append(rows)
                owners.append((rows, torch.from_numpy(rows.log_probs), history.bonus))
    if fused or len(owners[0][2]):
        emit = torch.cat([log_probs + bonus if len(bonus) else log_probs for _, log_probs, bonus in owners])
        array = emit.numpy()
    else:
        emit = log_probs
    best, ids = (found.tolist() for found in emit.narrow(1, 1, emit.size(1) - 1).topk(min(2 * search.beam, emit.size(1) - 1), -1))
    begin = 0
    for rows, log_probs, _ in owners:
        end = begin + len(log_probs)
        rows.emit, rows.best, rows.ids = array[begin:end], best[begin:end], ids[begin:end]
        rows.top = [0.0] * rows.base + [values[0] for values in rows.best]
        begin = end


def _fused(search: BeamSearch) -> bool:
    return type(search.fusion) is not Fusion


def _stacked(rows: list[list[Tensor]]) -> list[Tensor]:
    """The states of several as one, (N, ...) each."""
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def _follow(history: int, symbol: int, factor: int) -> int:
    """The hash of a history and one more symbol, as int64 arithmetic gives it."""
    value = ((history + symbol + 1) * factor) & WORD
    return value - (1 << 64) if value & SIGN else value


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a + math.log1p(math.exp(b - a))


def _streams(search: BeamSearch, state: BeamState) -> list[_Stream]:
    """The streams of a state: as they were left, or read from its tensors."""
    if isinstance(state, _Remembered) and getattr(state, "streams", None):
        streams = state.streams.pop()  # nobody else may go on with them
        if streams[0].search is search:
            return streams
    table = torch.stack([*state.hashes.unbind(2), state.last, state.quiet, state.age], 2).tolist()
    keys = state.predictor[0].tolist() if search.stateless else None
    fused, found = _fused(search), []
    for row, scores in enumerate(state.scores.tolist()):
        beam = []
        for k, score in enumerate(scores):
            if score == -math.inf:
                break
            hash_, parent_hash, last, quiet, age = table[row][k]
            bonus = state.bonus[row, k]
            key = tuple(keys[row][k]) if keys else ()
            history = _History(hash_, parent_hash, last)
            context = _Context(state.projected[row, k], bonus, [tensor[row, k] for tensor in state.predictor], key)
            history.place(context, bonus, [tensor[row, k] for tensor in state.fusion], _Rows() if fused else context.rows)
            beam.append(_Hypothesis(score, history, -1 - quiet, -1 - age if age >= 0 else None))
        found.append(_Stream(search, beam))
    return found


def _state(state: BeamState, streams: list[_Stream], beam: int) -> BeamState:
    """The streams as tensors; a place without a hypothesis has the rows of the best, and no score."""
    scores, table, histories = [], [], []
    for stream in streams:
        empty = beam - len(stream.beam)
        now = stream.frame - 1
        scores.append([h.score for h in stream.beam] + [-math.inf] * empty)
        for h in stream.beam + stream.beam[:1] * empty:
            histories.append(h.history)
            age = -1 if h.born is None else now - h.born
            table.append((h.history.hash, h.history.parent_hash, h.history.last, now - h.since, age))
    shape = (len(streams), beam)
    numbers = torch.tensor(table).view(*shape, 5)
    after = _Remembered(
        torch.tensor(scores), numbers[:, :, :2], numbers[:, :, 2], numbers[:, :, 3], numbers[:, :, 4], state.limits,
        torch.stack([h.context.projected for h in histories]).view(*shape, -1), torch.stack([h.bonus for h in histories]).unflatten(0, shape),
        [tensor.unflatten(0, shape) for tensor in _stacked([h.context.predictor for h in histories])],
        [tensor.unflatten(0, shape) for tensor in _stacked([h.fusion for h in histories])],
    )  # fmt: skip
    after.streams = [streams]
    return after
