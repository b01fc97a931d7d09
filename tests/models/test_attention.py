"""The blocked attention with hand-written gradients against autograd, and the statistics of the cheap
dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.models.attention import (
    AttentionPlan,
    _attention_by_autograd,
    _BlockedAttention,
    dropout,
    dropout_add,
    keep_mask,
    relative_scores,
    relative_table_size,
)
from asr.models.emformer import Emformer, EmformerConfig

HEADS, DIM, BATCH = 2, 8, 2


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(1, 6),
    st.integers(0, 7),
    st.integers(0, 20),
    st.sampled_from([0, 1, 3, 9]),
    st.booleans(),
    st.booleans(),
)
def test_values_and_gradients_equal_autograd(chunks, chunk, look_ahead, left, memory, last, positions):
    """Every path: with and without memory, relative positions, last layer (queries apart), partial last group."""
    torch.manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    plan = AttentionPlan(chunks, chunk, look_ahead, left, memory, torch.device("cpu"))
    if last:
        plan = plan.last_layer()
    fused = leaf(BATCH, chunks, chunk + look_ahead, (2 if last else 3) * DIM)
    query = leaf(BATCH, chunks, chunk, DIM) if last else None
    summary = leaf(BATCH, chunks, DIM) if memory and not last else None
    slots = leaf(BATCH, chunks, 2 * DIM) if memory else None
    table = leaf(HEADS, relative_table_size(left, chunk + look_ahead)) if positions else None
    relative = relative_scores(table, plan.offset) if positions else None
    leaves = [t for t in (fused, query, summary, slots, table) if t is not None]
    results = []
    for attend in (_attention_by_autograd, _BlockedAttention.apply):
        torch.manual_seed(1)
        outputs = [t for t in attend(fused, query, summary, slots, relative, plan, HEADS, 0.0) if t is not None]
        weights = [torch.randn_like(t) for t in outputs]
        gradients = torch.autograd.grad(outputs, leaves, weights, retain_graph=True)
        results.append([*outputs, *gradients])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_gradient_with_dropout_equals_finite_differences():
    """With dropout the same seed gives the same mask, so finite differences apply."""
    plan = AttentionPlan(3, 2, 1, 3, 1, torch.device("cpu"))
    shapes = [(1, 3, 3, 12), (1, 3, 4), (1, 3, 8), (2, *plan.hide.shape[1:])]
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def attend(fused, summary, memory, relative):
        torch.manual_seed(5)
        return _BlockedAttention.apply(fused, None, summary, memory, relative, plan, 2, 0.4)

    assert torch.autograd.gradcheck(attend, inputs, atol=1e-6)


def test_a_group_never_sees_more_than_its_window():
    """Scores are linear in the length: the number of keys a group sees does not depend on it."""
    plans = [AttentionPlan(chunks, 4, 1, 30, 0, torch.device("cpu")) for chunks in (104, 1040)]
    assert plans[0].hide.shape[1:] == plans[1].hide.shape[1:]
    assert plans[1].hide.numel() == 10 * plans[0].hide.numel() < 1040 * 5 * 1040


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_stated_share_and_the_mean(p):
    x = torch.ones(1_000_003)
    keep, factor = keep_mask(x, p)
    deviation = 5 * (p * (1 - p) / x.numel()) ** 0.5
    assert keep.float().mean().item() == pytest.approx(1 - p, abs=deviation + 1e-5)
    assert factor == pytest.approx(1 / (1 - p), abs=1e-5 / (1 - p) ** 2)
    assert set(dropout(x, p, True).unique().tolist()) == {0.0, torch.tensor(factor).item()}
    # Independent between neighbours: all sixteen-bit parts of a draw are used, and none repeats another.
    for lag in (1, 2, 3, 4):
        both = (~keep[lag:] & ~keep[:-lag]).float().mean().item()
        assert both == pytest.approx(p * p, abs=5 * (p * p * (1 - p * p) / x.numel()) ** 0.5 + 1e-4)


def test_dropout_is_reproducible_and_off_in_evaluation():
    x = torch.randn(7, 9, requires_grad=True)
    torch.manual_seed(3)
    first = dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(dropout(x, 0.5, True), first)
    assert torch.equal(dropout(x, 0.5, False), x) and torch.equal(dropout(x, 0.0, True), x)
    (grad,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(grad * x, first)
    torch.manual_seed(3)
    torch.testing.assert_close(dropout_add(x, torch.ones(7, 9), 0.5, True), first + 1)


def test_training_differs_from_evaluation_only_by_dropout():
    torch.manual_seed(0)
    config = EmformerConfig(input_dim=8, dim=16, heads=2, ffn_dim=32, layers=2, dropout=0.2, memory_size=2)
    encoder = Emformer(config)
    x, lengths = torch.randn(2, 60, 8), torch.tensor([60, 41])
    with torch.no_grad():
        expected = encoder.eval()(x, lengths)[0]
        encoder.train()
        assert not torch.allclose(encoder(x, lengths)[0], expected, atol=1e-3)
        for layer in encoder.layers:
            layer.dropout = 0.0
        torch.testing.assert_close(encoder(x, lengths)[0], expected)


def test_bfloat16_autocast_trains():
    torch.manual_seed(0)
    encoder = Emformer(
        EmformerConfig(input_dim=8, dim=16, heads=2, ffn_dim=32, layers=2, dropout=0.1, memory_size=2)
    )
    x, lengths = torch.randn(2, 60, 8), torch.tensor([60, 41])
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = encoder(x, lengths)
        y.float().square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())
    encoder.eval()
    with torch.no_grad():
        expected = encoder(x, lengths)[0]
        with torch.autocast("cpu", torch.bfloat16):
            y = encoder(x, lengths)[0].float()
    assert (y - expected).abs().max() < 0.1
