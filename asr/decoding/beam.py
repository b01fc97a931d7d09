"""Transducer beam search: one step function, offline and streaming, batched, scriptable.

Two searches, time-synchronous both, over the histories of symbols (paths that spell the same history are one hypothesis; their
probabilities add up):

- modified beam: a path has one symbol or one blank a frame, as greedy search here and every export (icefall, sherpa-onnx);
- full beam: a path may have up to `max_symbols` symbols before the blank that ends the frame (time-synchronous decoding, Saon et al.
  2020; the lattice of arXiv 1211.3711).

Work is shared. A hypothesis that is carried over a frame by a blank, or reached once more by another path, keeps its predictor output, its
fusion scores and its joiner outputs; the joiner is run for several frames of a block at once, since a large output layer takes its time for
reading the weights and not for the rows. What depends on the frame alone is small: a few candidates a hypothesis; and frames in which no
symbol comes within `prune` of the best hypothesis, most frames of a trained model, are passed over together.

Shapes: B streams, K hypotheses of a stream (the beam), U encoder frames of 40 ms in a block, S most symbols of a frame, D encoder width,
J joiner width, V symbols including blank 0, C candidates kept of a row, N rows (hypotheses of all streams that are alive in a block).
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.decoding.beam_state import BeamBlock, BeamState, LSTMRows, StatelessRows
from asr.decoding.fusion import Fusion
from asr.decoding.words import NEVER
from asr.errors import UserError
from asr.models.predictor import StatelessPredictor

BLANK = 0
KINDS = ("greedy", "modified_beam", "beam")
DEAD = -math.inf
FEW_ROWS = 24  # rows (hypotheses times frames) of the joiner that take hardly longer than one
SMALL_WORK = 20_000_000  # multiplications of the joiner's output layer that take no longer than the rest of a frame
HASH = 6364136223846793005  # of a history: h(history + y) = (h(history) + y + 1) * HASH modulo 2**64


@dataclass(frozen=True)
class SearchConfig:
    """How to search."""

    kind: str = "greedy"  # greedy | modified_beam | beam
    beam: int = 4  # hypotheses
    max_symbols: int = 3  # most symbols of a frame: "beam" only, the others have one
    prune: float = 10.0  # nats below the best hypothesis at which another is dropped
    blank_penalty: float = 0.0  # subtracted from the blank's log-probability (> 0: fewer deletions)
    ilm_scale: float = 0.0  # of the internal language model, subtracted at every symbol (ILME)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown search {self.kind!r}: use {', '.join(KINDS)}")
        for name, most in (("beam", 1000), ("max_symbols", 100)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"{name} must be a whole number from 1 to {most}, not {value!r}")
        if not self.prune > 0:
            raise UserError(f"prune must be above 0, not {self.prune}")
        for name in ("blank_penalty", "ilm_scale"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number, not {getattr(self, name)}")


class Rows(NamedTuple):
    """Hypotheses of one block, those that left the beam included; M rows, of which the first ones are in use.

    Attributes:
        stream: (M,) int64 whose hypothesis it is.
        projected, bonus, predictor, fusion: as in `BeamState`, (M, ...).
        until: (M,) int64 the first frame of the block for which the joiner has not run.
        blank: (M, U) log-probability of blank, less the penalty.
        emit: (M, U, V) log-probability of each symbol and what is added to it; -inf for blank.
        best, ids: (M, U, C) the C largest of ``emit``, and their symbols.
    """

    stream: Tensor
    projected: Tensor
    bonus: Tensor
    predictor: list[Tensor]
    fusion: list[Tensor]
    until: Tensor
    blank: Tensor
    emit: Tensor
    best: Tensor
    ids: Tensor


class Frame(NamedTuple):
    """The beam after a frame: as in `BeamState` and `BeamBlock`, and the row of every hypothesis."""

    scores: Tensor
    parents: Tensor
    tokens: Tensor
    log_probs: Tensor
    slots: Tensor
    hashes: Tensor
    last: Tensor


class BeamSearch(nn.Module):
    """Beam search of a transducer; the parameters are those of the model.

    Args:
        model: a transducer: ``.predictor`` and ``.joiner``.
        config: kind "modified_beam" or "beam".
        fusion: what is added to the scores.
        endpoint_id: symbol at which all hypotheses but the best are dropped; -1: there is none.
    """

    def __init__(self, model: Any, config: SearchConfig, fusion: Fusion | None = None, endpoint_id: int = -1):
        super().__init__()
        if config.kind == "greedy":
            raise ValueError("greedy search is asr.decoding.greedy")
        self.stateless = isinstance(model.predictor, StatelessPredictor)
        self.predictor = StatelessRows(model.predictor) if self.stateless else LSTMRows(model.predictor)
        self.joiner = model.joiner
        self.fusion = fusion if fusion is not None else Fusion()
        self.modified = config.kind == "modified_beam"
        self.beam = config.beam
        self.symbols = 1 if self.modified else config.max_symbols
        self.prune = float(config.prune)
        self.blank_penalty = float(config.blank_penalty)
        self.ilm_scale = float(config.ilm_scale)
        self.endpoint_id = endpoint_id
        self.lists = True  # on the CPU: `asr.decoding.beam_lists`, the same and faster
        # constants of the file, where TorchScript finds them
        self.blank, self.dead, self.hash, self.never = BLANK, DEAD, HASH, NEVER
        work = self.joiner.output.in_features * self.joiner.output.out_features
        self.few_rows = max(FEW_ROWS, SMALL_WORK // work)

    @torch.jit.export
    def initial_state(self, batch: int, quiet: int = NEVER, age: int = NEVER) -> BeamState:
        """The state of ``batch`` streams that have emitted nothing.

        Args:
            batch: B.
            quiet: frames without a symbol after which all hypotheses but the best are dropped.
            age: frames since the first symbol after which they are.
        """
        beam = self.beam
        device = self.joiner.output.weight.device
        start = torch.full((batch,), self.blank, dtype=torch.int64, device=device)
        out, predictor = self.predictor.step(start, self.predictor.initial_state(batch))
        fusion = self.fusion.initial_state(batch)
        bonus = self._bonus(out, fusion)
        scores = torch.full((batch, beam), self.dead, device=device)
        scores[:, 0] = 0.0
        hashes = torch.zeros(batch, beam, 2, dtype=torch.int64, device=device)
        hashes[:, :, 0] = 1
        counts = torch.zeros(batch, beam, dtype=torch.int64, device=device)
        limits = torch.tensor([[quiet, age]], dtype=torch.int64, device=device).repeat(batch, 1)
        return BeamState(
            scores, hashes, counts, counts, counts - 1, limits,
            _spread(self.joiner.project_predictor(out), beam), _spread(bonus, beam),
            [_spread(tensor, beam) for tensor in predictor], [_spread(tensor, beam) for tensor in fusion],
        )  # fmt: skip

    @torch.jit.export
    def ranking(self, state: BeamState) -> Tensor:
        """(B, K) scores with what is added where a segment ends."""
        final = self.fusion.final([tensor.flatten(0, 1) for tensor in state.fusion])
        return state.scores if final.size(0) == 0 else state.scores + final.view_as(state.scores)

    @torch.jit.export
    def step(self, encoder_out: Tensor, valid: Tensor, state: BeamState) -> tuple[BeamBlock, BeamState]:
        """Search one block of encoder frames of every stream.

        Args:
            encoder_out: (B, U, D) encoder output.
            valid: (B,) int64, frames of each stream that are real; the rest change nothing.
            state: as left by the previous block, or `initial_state`.
        """
        if not torch.jit.is_scripting():
            if self.lists and encoder_out.device.type == "cpu":
                return self._step_lists(encoder_out, valid, state)
        batch, block = encoder_out.size(0), encoder_out.size(1)
        beam, symbols = self.beam, self.symbols
        device = encoder_out.device
        encoder = self.joiner.project_encoder(encoder_out)
        rows = self._rows(state, block)
        used = batch * beam
        slot = torch.arange(used, device=device).view(batch, beam)
        scores, hashes, last, quiet, age = state.scores, state.hashes, state.last, state.quiet, state.age
        same = torch.arange(beam, device=device).repeat(batch, 1)
        parents = same[:, None].repeat(1, block, 1)
        tokens = torch.zeros(batch, block, beam, symbols, dtype=torch.int64, device=device)
        log_probs = torch.zeros(batch, block, beam, symbols, device=device)
        ranks = torch.zeros(batch, block, beam, device=device)
        settled = torch.zeros(batch, block, dtype=torch.bool, device=device)
        t = 0
        while t < block:
            open_ = t < valid  # (B,)
            live = (scores > self.dead) & open_[:, None]
            if not bool(live.any()):
                ranks[:, t:] = scores[:, None]
                break
            self._join(t, rows, encoder, slot[live])
            left = (state.limits[:, None] - torch.stack([quiet, age], 2)).amin(2)
            if self.endpoint_id >= 0:
                left = left.masked_fill(last == self.endpoint_id, 1)  # ends the segment as soon as it is the best
            count, later, order = self._blanks(t, rows, scores, slot, live, valid, torch.where(age >= 0, left, self.never))
            if count > 0:  # nothing but blanks for a while
                ranks[:, t : t + count] = scores[:, None]
                t += count
                scores, slot, last = later, slot.gather(1, order), last.gather(1, order)
                hashes = hashes.gather(1, order[:, :, None].expand_as(hashes))
                passed = torch.where(open_[:, None], count, 0)
                quiet, age = quiet.gather(1, order) + passed, age.gather(1, order)
                age = torch.where(age >= 0, age + passed, age)
                parents[:, t - 1] = order
                ranks[:, t - 1] = scores
                continue
            if used + batch * beam * symbols > rows.stream.size(0):
                self._compact(rows, slot.flatten())
                used = batch * beam
                slot = torch.arange(used, device=device).view(batch, beam)
            if self.modified:
                frame, used = self._modified_frame(t, rows, used, encoder, scores, hashes, last, slot, live)
            else:
                frame, used = self._full_frame(t, rows, used, encoder, scores, hashes, last, slot, live)
            new_scores, parent, made, made_log_probs, new_slot, new_hashes, new_last = frame
            emitted = made[:, :, 0] != self.blank
            new_quiet = torch.where(emitted, 0, quiet.gather(1, parent) + 1)
            old_age = age.gather(1, parent)
            new_age = torch.where(emitted | (old_age >= 0), old_age + 1, old_age)
            rank = new_scores
            # the end of a segment: the best hypothesis is what was said
            due = (new_age[:, 0] >= 0) & ((new_quiet[:, 0] >= state.limits[:, 0]) | (new_age[:, 0] >= state.limits[:, 1]))
            if self.endpoint_id >= 0:
                due = due | ((new_age[:, 0] >= 0) & (new_last[:, 0] == self.endpoint_id))  # maybe said before, and the best only now
            due = due & open_
            if bool(due.any()):
                final = self.fusion.final([tensor.index_select(0, new_slot.flatten()) for tensor in rows.fusion])
                if final.size(0) > 0:
                    rank = torch.where(due[:, None], rank + final.view_as(rank), rank)
                order = torch.where(due[:, None], torch.argsort(rank, dim=1, descending=True), same)
                new_scores, parent, rank = new_scores.gather(1, order), parent.gather(1, order), rank.gather(1, order)
                new_slot, new_last = new_slot.gather(1, order), new_last.gather(1, order)
                new_quiet, new_age = new_quiet.gather(1, order), new_age.gather(1, order)
                new_hashes = new_hashes.gather(1, order[:, :, None].expand_as(new_hashes))
                made = made.gather(1, order[:, :, None].expand_as(made))
                made_log_probs = made_log_probs.gather(1, order[:, :, None].expand_as(made_log_probs))
                new_scores = new_scores.masked_fill(due[:, None] & (same > 0), self.dead)
                new_age = new_age.masked_fill(due[:, None], -1)
            settled[:, t] = due
            o = open_[:, None]
            ranks[:, t] = torch.where(o, rank, scores)
            parents[:, t] = torch.where(o, parent, same)
            tokens[:, t] = torch.where(o[:, :, None], made, 0)
            known = o & (rank > self.dead)  # of those that are dropped now, too: they are in the n-best list
            log_probs[:, t] = torch.where(known[:, :, None] & (made != self.blank), made_log_probs, 0.0)
            scores, slot = torch.where(o, new_scores, scores), torch.where(o, new_slot, slot)
            last, quiet, age = torch.where(o, new_last, last), torch.where(o, new_quiet, quiet), torch.where(o, new_age, age)
            hashes = torch.where(o[:, :, None], new_hashes, hashes)
            t += 1
        at = slot.flatten()
        after = BeamState(
            scores, hashes, last, quiet, age, state.limits,
            rows.projected.index_select(0, at).unflatten(0, (batch, beam)),
            rows.bonus.index_select(0, at).unflatten(0, (batch, beam)),
            [tensor.index_select(0, at).unflatten(0, (batch, beam)) for tensor in rows.predictor],
            [tensor.index_select(0, at).unflatten(0, (batch, beam)) for tensor in rows.fusion],
        )  # fmt: skip
        return BeamBlock(parents, tokens, log_probs, ranks, settled), after

    @torch.jit.unused
    def _step_lists(self, encoder_out: Tensor, valid: Tensor, state: BeamState) -> tuple[BeamBlock, BeamState]:
        from asr.decoding.beam_lists import step_lists

        return step_lists(self, encoder_out, valid, state)

    def _blanks(
        self, t: int, rows: Rows, scores: Tensor, slot: Tensor, live: Tensor, valid: Tensor, left: Tensor
    ) -> tuple[int, Tensor, Tensor]:
        """How many frames from ``t`` on have nothing but blanks in every stream: no symbol comes within ``prune`` of the best hypothesis.

        ``left`` (B, K): frames until a hypothesis is at one of its limits. Returns the scores (B, K) after these frames, too, and the places
        (B, K) where the hypotheses come from.
        """
        open_ = live.any(1)
        end = int(torch.where(live, rows.until[slot], rows.blank.size(1)).min())
        end = min(end, t + int(torch.where(open_, valid - t, end).min()))
        end = min(end, t + int(torch.where(live, left, self.never).min()) - 1)
        if end <= t:
            return 0, scores, slot
        blank = rows.blank[:, t:end][slot]  # (B, K, n)
        stay = scores[:, :, None] + blank.cumsum(2)
        top = torch.where(live[:, :, None], stay, self.dead).amax(1, keepdim=True) - self.prune  # (B, 1, n)
        gone = (stay < top).int().cummax(2)[0] > 0
        before = torch.cat([torch.zeros_like(gone[:, :, :1]), gone[:, :, :-1]], 2)
        go = torch.cat([scores[:, :, None], stay[:, :, :-1]], 2) + rows.best[:, t:end, 0][slot]
        comes = ((go >= top) & ~before & live[:, :, None]).any(1).any(0)  # (n,)
        count = int(torch.cat([comes, comes.new_ones(1)]).int().argmax())
        if count == 0:
            return 0, scores, slot
        after = torch.where(live, stay[:, :, count - 1].masked_fill(gone[:, :, count - 1], self.dead), scores)
        after, order = torch.sort(after, stable=True, dim=1, descending=True)
        return count, after, order

    def _modified_frame(
        self, t: int, rows: Rows, used: int, encoder: Tensor, scores: Tensor, hashes: Tensor, last: Tensor, slot: Tensor,
        live: Tensor,
    ) -> tuple[Frame, int]:  # fmt: skip
        """A frame in which every path has one symbol or one blank."""
        beam = self.beam
        same = torch.arange(beam, device=scores.device).repeat(scores.size(0), 1)
        stay = torch.where(live, scores + rows.blank.select(1, t)[slot], self.dead)
        best, ids = rows.best.select(1, t)[slot], rows.ids.select(1, t)[slot]  # (B, K, C)
        go = torch.where(live[:, :, None], scores[:, :, None] + best, self.dead)
        least = stay.amax(1) - self.prune
        go = go.masked_fill(go < least[:, None, None], self.dead)
        stay_parent, stay_token = same, torch.zeros_like(last)
        stay_log_prob = torch.zeros_like(scores)
        # k' is k and one more symbol: the path over k adds to k' and is no hypothesis of its own
        match = (hashes[:, :, None, 0] == hashes[:, None, :, 1]) & live[:, :, None] & live[:, None, :]
        if bool(match.any()):
            log_probs = rows.emit.select(1, t)[slot[:, :, None].expand_as(match), last[:, None, :].expand_as(match)]
            most, origin = torch.where(match, scores[:, :, None] + log_probs, self.dead).max(1)
            most = most.masked_fill(most < least[:, None], self.dead)
            better = most > stay
            stay_parent = torch.where(better, origin, same)
            stay_token = torch.where(better, last, stay_token)
            stay_log_prob = torch.where(better, log_probs.gather(1, origin[:, None])[:, 0], stay_log_prob)
            stay = torch.logaddexp(stay, most)
            known = (ids[:, :, :, None] == last[:, None, None, :]) & match[:, :, None, :]
            go = go.masked_fill(known.any(3), self.dead)
        go_scores, at = go.flatten(1).topk(beam, 1)
        go_parent = at // best.size(2)
        go_token = ids.flatten(1).gather(1, at)
        go_hash = hashes[:, :, 0].gather(1, go_parent)
        go_hashes = torch.stack([(go_hash + go_token + 1) * self.hash, go_hash], 2)
        new_scores, pick = torch.cat([stay, go_scores], 1).topk(beam, 1)
        new_scores = self._pruned(new_scores)
        parent = torch.cat([stay_parent, go_parent], 1).gather(1, pick)
        token = torch.cat([stay_token, go_token], 1).gather(1, pick)
        log_prob = torch.cat([stay_log_prob, best.flatten(1).gather(1, at)], 1).gather(1, pick)
        if rows.bonus.size(1) > 0:
            log_prob = log_prob - rows.bonus[slot.gather(1, parent), token]
        new_slot = torch.cat([slot, slot.gather(1, go_parent)], 1).gather(1, pick)
        fresh = (pick >= beam) & (new_scores > self.dead)
        new_slot, used = self._extend(rows, used, new_slot, token, fresh)
        new_hashes = torch.cat([hashes, go_hashes], 1).gather(1, pick[:, :, None].expand(-1, -1, 2))
        new_last = torch.cat([last, go_token], 1).gather(1, pick)
        return Frame(new_scores, parent, token[:, :, None], log_prob[:, :, None], new_slot, new_hashes, new_last), used

    def _full_frame(
        self, t: int, rows: Rows, used: int, encoder: Tensor, scores: Tensor, hashes: Tensor, last: Tensor, slot: Tensor,
        live: Tensor,
    ) -> tuple[Frame, int]:  # fmt: skip
        """A frame in which a path has up to S symbols and then a blank."""
        batch, beam = scores.size(0), self.beam
        device = scores.device
        pool = beam * (self.symbols + 1)  # histories after the frame's blank
        end_scores = torch.full((batch, pool), self.dead, device=device)
        zeros = torch.zeros(batch, pool, dtype=torch.int64, device=device)
        end_hashes, end_last, end_slot, end_parent = zeros[:, :, None].repeat(1, 1, 2), zeros, slot[:, :1].repeat(1, pool), zeros
        end_tokens = zeros[:, :, None].repeat(1, 1, self.symbols)
        end_log_probs = torch.zeros(batch, pool, self.symbols, device=device)
        # the histories of this round, before a blank
        scores = torch.where(live, scores, self.dead)
        parent = torch.arange(beam, device=device).repeat(batch, 1)
        tokens, log_probs = end_tokens[:, :beam], end_log_probs[:, :beam]
        for count in range(self.symbols + 1):
            live = scores > self.dead
            if not bool(live.any()):
                break
            self._join(t, rows, encoder, slot[live])
            ended = torch.where(live, scores + rows.blank.select(1, t)[slot], self.dead)
            match = (end_hashes[:, :, None, 0] == hashes[:, None, :, 0]) & live[:, None, :] & (end_scores > self.dead)[:, :, None]
            if bool(match.any()):
                most, origin = torch.where(match, ended[:, None, :], self.dead).max(2)
                better = most > end_scores
                wide = origin[:, :, None].expand_as(end_tokens)
                end_parent = torch.where(better, parent.gather(1, origin), end_parent)
                end_tokens = torch.where(better[:, :, None], tokens.gather(1, wide), end_tokens)
                end_log_probs = torch.where(better[:, :, None], log_probs.gather(1, wide), end_log_probs)
                end_scores = torch.logaddexp(end_scores, most)
                ended = ended.masked_fill(match.any(1), self.dead)
            first, behind = count * beam, (count + 1) * beam
            end_scores = torch.cat([end_scores[:, :first], ended, end_scores[:, behind:]], 1)
            end_hashes = torch.cat([end_hashes[:, :first], hashes, end_hashes[:, behind:]], 1)
            end_last = torch.cat([end_last[:, :first], last, end_last[:, behind:]], 1)
            end_slot = torch.cat([end_slot[:, :first], slot, end_slot[:, behind:]], 1)
            end_parent = torch.cat([end_parent[:, :first], parent, end_parent[:, behind:]], 1)
            end_tokens = torch.cat([end_tokens[:, :first], tokens, end_tokens[:, behind:]], 1)
            end_log_probs = torch.cat([end_log_probs[:, :first], log_probs, end_log_probs[:, behind:]], 1)
            if count == self.symbols:
                break
            best, ids = rows.best.select(1, t)[slot], rows.ids.select(1, t)[slot]  # (B, K, C)
            go, at = torch.where(live[:, :, None], scores[:, :, None] + best, self.dead).flatten(1).topk(beam, 1)
            # scores only fall: what is below all that may stay can be left
            least = torch.maximum(end_scores.topk(beam, 1)[0][:, -1], end_scores.amax(1) - self.prune)
            scores = torch.where(go >= least[:, None], go, self.dead)
            origin = at // best.size(2)
            token = ids.flatten(1).gather(1, at)
            log_prob = best.flatten(1).gather(1, at)
            if rows.bonus.size(1) > 0:
                log_prob = log_prob - rows.bonus[slot.gather(1, origin), token]
            before = hashes[:, :, 0].gather(1, origin)
            hashes = torch.stack([(before + token + 1) * self.hash, before], 2)
            last = token
            parent = parent.gather(1, origin)
            wide = origin[:, :, None].expand_as(tokens)
            tokens, log_probs = tokens.gather(1, wide), log_probs.gather(1, wide)
            tokens = torch.cat([tokens[:, :, :count], token[:, :, None], tokens[:, :, count + 1 :]], 2)
            log_probs = torch.cat([log_probs[:, :, :count], log_prob[:, :, None], log_probs[:, :, count + 1 :]], 2)
            # a history that is there already has its row
            match = (end_hashes[:, :, None, 0] == hashes[:, None, :, 0]) & (end_scores > self.dead)[:, :, None]
            known, where = match.max(1)
            slot = torch.where(known, end_slot.gather(1, where), slot.gather(1, origin))
            slot, used = self._extend(rows, used, slot, token, (scores > self.dead) & ~known)
        new_scores, pick = end_scores.topk(beam, 1)
        wide = pick[:, :, None].expand(-1, -1, self.symbols)
        return Frame(
            self._pruned(new_scores), end_parent.gather(1, pick), end_tokens.gather(1, wide), end_log_probs.gather(1, wide),
            end_slot.gather(1, pick), end_hashes.gather(1, pick[:, :, None].expand(-1, -1, 2)), end_last.gather(1, pick),
        ), used  # fmt: skip

    def _pruned(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores < scores[:, :1] - self.prune, self.dead)

    def _bonus(self, out: Tensor, fusion: list[Tensor]) -> Tensor:
        """(N, V) what is added to each symbol after histories with predictor output ``out`` (N, P); (N, 0): nothing."""
        scores, internal = self.fusion.scores(fusion), self.internal(out)
        if scores.size(-1) == 0 or internal.size(-1) == 0:
            return internal if scores.size(-1) == 0 else scores
        return scores + internal

    def internal(self, out: Tensor) -> Tensor:
        """(N, V) what is taken off for the internal language model; (N, 0): nothing."""
        if self.ilm_scale == 0.0:
            return out.new_zeros([out.size(0), 0])
        logits = self.joiner.internal_lm_logits(out).float()
        if self.endpoint_id > 0:  # no word, as for the other language models
            logits[:, self.endpoint_id - 1] = self.dead
        scores = logits.log_softmax(-1) * -self.ilm_scale
        if self.endpoint_id > 0:
            scores[:, self.endpoint_id - 1] = 0.0
        return torch.nn.functional.pad(scores, [1, 0])

    def _rows(self, state: BeamState, block: int) -> Rows:
        """The hypotheses of the state, and room for those that come."""
        batch, beam = state.scores.size(0), self.beam
        used, symbols = batch * beam, self.joiner.output.out_features
        most = used * (self.symbols + 2)
        kept = min(2 * beam, symbols - 1)  # up to K - 1 of them may be other hypotheses
        device = state.scores.device
        stream = torch.arange(batch, device=device).repeat_interleave(beam)
        return Rows(
            _room(stream, most), _room(state.projected.flatten(0, 1), most), _room(state.bonus.flatten(0, 1), most),
            [_room(tensor.flatten(0, 1), most) for tensor in state.predictor],
            [_room(tensor.flatten(0, 1), most) for tensor in state.fusion],
            torch.zeros(most, dtype=torch.int64, device=device), torch.empty(most, block, device=device),
            torch.empty(most, block, symbols, device=device), torch.empty(most, block, kept, device=device),
            torch.zeros(most, block, kept, dtype=torch.int64, device=device),  # of rows that never ran, too: they are looked up
        )  # fmt: skip

    def _join(self, t: int, rows: Rows, encoder: Tensor, which: Tensor) -> None:
        """Run the joiner for those rows ``which`` (n,) that have not been at frame ``t``; for all further frames if it costs little."""
        todo = which[rows.until[which] <= t]
        count = todo.size(0)
        if count == 0:
            return
        left = encoder.size(1) - t
        end = t + (left if count * left <= self.few_rows else 1)
        frames = encoder[:, t:end].index_select(0, rows.stream[todo])
        logits = self.joiner.join(frames, rows.projected[todo].unsqueeze(1))
        emit = logits.float().log_softmax(-1)  # (n, U', V)
        rows.blank[todo, t:end] = emit[:, :, self.blank] - self.blank_penalty
        if rows.bonus.size(1) > 0:
            emit = emit + rows.bonus[todo].unsqueeze(1)
        emit[:, :, self.blank] = self.dead
        best, ids = emit.topk(rows.best.size(2), -1)
        rows.emit[todo, t:end] = emit
        rows.best[todo, t:end] = best
        rows.ids[todo, t:end] = ids
        rows.until[todo] = end

    def _extend(self, rows: Rows, used: int, slot: Tensor, token: Tensor, fresh: Tensor) -> tuple[Tensor, int]:
        """New rows where ``fresh`` (B, K): the row in ``slot`` and one more symbol; the slots, and how many rows are in use."""
        if not bool(fresh.any()):
            return slot, used
        parent, symbols = slot[fresh], token[fresh]
        end = used + parent.size(0)
        out, predictor = self.predictor.step(symbols, [tensor.index_select(0, parent) for tensor in rows.predictor])
        fusion = self.fusion.step(symbols, [tensor.index_select(0, parent) for tensor in rows.fusion])
        rows.stream[used:end] = rows.stream[parent]
        rows.projected[used:end] = self.joiner.project_predictor(out)
        if rows.bonus.size(1) > 0:
            rows.bonus[used:end] = self._bonus(out, fusion)
        for kept, made in zip(rows.predictor, predictor):
            kept[used:end] = made
        for kept, made in zip(rows.fusion, fusion):
            kept[used:end] = made
        rows.until[used:end] = 0
        slot = slot.clone()
        slot[fresh] = torch.arange(used, end, device=slot.device)
        return slot, end

    def _compact(self, rows: Rows, at: Tensor) -> None:
        """Keep the rows ``at`` (B K,) as the first ones."""
        end = at.size(0)
        tensors = [rows.stream, rows.projected, rows.bonus, rows.until, rows.blank, rows.emit, rows.best, rows.ids]
        for tensor in tensors + rows.predictor + rows.fusion:
            tensor[:end] = tensor[at]


def _spread(tensor: Tensor, beam: int) -> Tensor:
    """(B, ...) -> (B, K, ...), copied: every place of the beam has the same."""
    return tensor.unsqueeze(1).repeat_interleave(beam, 1)


def _room(tensor: Tensor, rows: int) -> Tensor:
    """(n, ...) -> (rows, ...): the first n rows are those given."""
    made = tensor.new_zeros([rows] + list(tensor.shape[1:]))
    made[: tensor.size(0)] = tensor
    return made
