"""Greedy search: the batched block step against a plain frame-by-frame loop."""

from __future__ import annotations

import pytest
import torch

from asr.decoding import greedy
from asr.decoding.state import batch_axes, concatenate, leaves, select, write
from tests.toy import babble, toy_model, toy_recognizer


def encoded(model, *seconds):
    recognizer = toy_recognizer()
    with torch.no_grad():
        return recognizer.encode([babble(s, seed=i) for i, s in enumerate(seconds)])


def reference(model, encoder_out, blank_penalty=0.0):
    """The textbook loop for one utterance (T, D): one frame, at most one symbol."""
    state = model.predictor.initial_state(1)
    out, state = model.predictor.step(torch.zeros(1, dtype=torch.int64), state)
    tokens, frames, log_probs = [], [], []
    for t in range(encoder_out.size(0)):
        e = model.joiner.project_encoder(encoder_out[None, t])
        scores = model.joiner.join(e, model.joiner.project_predictor(out)).log_softmax(-1)[0]
        penalised = scores.clone()
        penalised[0] -= blank_penalty
        best = int(penalised.argmax())
        if best:
            tokens.append(best)
            frames.append(t)
            log_probs.append(float(scores[best]))
            out, state = model.predictor.step(torch.tensor([best]), state)
    return tokens, frames, log_probs


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@pytest.mark.parametrize("blank_penalty", [0.0, 2.0])
def test_search_equals_the_textbook_loop(predictor, blank_penalty):
    model = toy_model(predictor)
    out, lengths = encoded(model, 2.0, 3.1, 0.3, 1.7)
    found = greedy.greedy_search(model, out, lengths, blank_penalty)
    with torch.no_grad():
        for row, hypothesis in enumerate(found):
            tokens, frames, log_probs = reference(model, out[row, : lengths[row]], blank_penalty)
            assert hypothesis.tokens == tokens
            assert hypothesis.frames == frames
            assert hypothesis.log_probs == pytest.approx(log_probs, abs=1e-4)
    assert sum(len(h.tokens) for h in found) > 10


@torch.no_grad()
def test_blocks_of_any_size_give_the_same_symbols():
    model = toy_model()
    out, lengths = encoded(model, 2.0, 2.0, 1.1)
    whole = greedy.greedy_search(model, out, lengths)
    for block in (1, 3, 4, out.size(1)):
        state = greedy.initial_state(model, 3)
        pieces = []
        for begin in range(0, out.size(1), block):
            part = out[:, begin : begin + block]
            valid = (lengths - begin).clamp(0, part.size(1))
            tokens, log_probs, state = greedy.step(model, part, valid, state)
            assert tokens.shape == log_probs.shape == part.shape[:2]
            pieces.append(tokens)
        rows = torch.cat(pieces, 1)
        assert [row[row > 0].tolist() for row in rows] == [h.tokens for h in whole]


@torch.no_grad()
def test_invalid_frames_change_nothing():
    model = toy_model()
    out, _ = encoded(model, 1.0)
    state = greedy.initial_state(model, 1)
    tokens, log_probs, after = greedy.step(model, out, torch.tensor([0]), state)
    assert not tokens.any() and not log_probs.any()
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(after), strict=True))


@torch.no_grad()
def test_the_given_state_is_not_overwritten():
    model = toy_model()
    out, lengths = encoded(model, 1.0, 1.0)
    state = greedy.initial_state(model, 2)
    copies = [t.clone() for t in leaves(state)]
    first = greedy.step(model, out, lengths, state)[0]
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), copies, strict=True))
    assert torch.equal(first, greedy.step(model, out, lengths, state)[0])


def test_no_frames_give_empty_hypotheses():
    found = greedy.greedy_search(toy_model(), torch.zeros(2, 0, 32), torch.zeros(2, dtype=torch.int64))
    assert [h.tokens for h in found] == [[], []]


def test_batch_axes_and_rows():
    axes = batch_axes(toy_model().encoder.initial_state)
    assert axes == [1, 1, 1, 0]
    states = [toy_model().encoder.initial_state(1) for _ in range(3)]
    states = [type(s)(*(t + i for t in s)) for i, s in enumerate(states)]
    batch = concatenate(states, axes)
    picked = select(batch, torch.tensor([2, 0]), axes)
    assert picked.past.tolist() == [2, 0] and float(picked.keys[0, 0].min()) == 2
    back = write(batch, torch.tensor([1]), states[2], axes)
    assert back.past.tolist() == [0, 2, 2] and batch.past.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="one batch axis"):
        batch_axes(lambda n: (torch.zeros(3),))
