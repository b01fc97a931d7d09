"""The fused losses, full and pruned: the same numbers as logits made in one piece, whatever the slices
are."""

from __future__ import annotations

import pytest
import torch

from asr.losses import (
    Slicing,
    fused_pruned_transducer_loss,
    fused_transducer_loss,
    prune,
    pruned_transducer_loss,
    transducer_loss,
)
from asr.losses import fused as module

KEEP, RECOMPUTE, ROW_BY_ROW = Slicing(1 << 20, 1 << 20), Slicing(500, 0), Slicing(1, 0)
ACTIVATION = {"relu": torch.relu, "tanh": torch.tanh}


def problem(dtype=torch.float32, device="cpu", batch=3, frames=9, labels=5, width=6, vocab=13):
    tensors = [
        torch.randn(batch, frames, width, dtype=dtype),
        torch.randn(batch, labels + 1, width, dtype=dtype),
        torch.randn(vocab, width, dtype=dtype),
        torch.randn(vocab, dtype=dtype),
    ]
    targets = torch.randint(1, vocab, (batch, labels))
    logit_lengths = torch.tensor([frames, frames - 4, frames - 2])
    target_lengths = torch.tensor([labels, 0, labels - 2])
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
    return leaves, [x.to(device) for x in (targets, logit_lengths, target_lengths)]


def band(width=3):
    """Positions 0 … 2, climbing to the last label of each utterance."""
    climb = torch.tensor([[0, 0, 1, 1, 2, 3, 3, 3, 3], [0] * 9, [0, 0, 0, 1, 1, 1, 1, 1, 1]])
    return climb.unsqueeze(2) + torch.arange(width)


def gradients(loss, leaves, weight):
    for leaf in leaves:
        leaf.grad = None
    (loss * weight).sum().backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("slicing", [None, KEEP, RECOMPUTE, ROW_BY_ROW])
@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_equals_logits_in_one_piece(pruned, activation, slicing, rnnt_type):
    leaves, (targets, *lengths) = problem()
    encoder, predictor, matrix, bias = leaves
    weight = torch.tensor([0.5, 2.0, 1.0])
    options = {"fastemit": 0.1, "delay_penalty": 0.05, "rnnt_type": rnnt_type}
    if pruned:
        am, lm = prune(encoder, predictor, band())
        logits = ACTIVATION[activation](am + lm) @ matrix.t() + bias
        reference = pruned_transducer_loss(logits, targets, band(), *lengths, **options)
        ours = fused_pruned_transducer_loss(
            *leaves, targets, band(), *lengths, activation=activation, slicing=slicing, **options
        )
    else:
        logits = ACTIVATION[activation](encoder.unsqueeze(2) + predictor.unsqueeze(1)) @ matrix.t() + bias
        reference = transducer_loss(logits, targets, *lengths, **options)
        ours = fused_transducer_loss(
            *leaves, targets, *lengths, activation=activation, slicing=slicing, **options
        )
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, reference)
    for got, expected in zip(
        gradients(ours, leaves, weight), gradients(reference, leaves, weight), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slicing", [KEEP, RECOMPUTE])
@pytest.mark.parametrize("pruned", [False, True])
def test_finite_differences(slicing, pruned):
    leaves, (targets, *lengths) = problem(torch.float64, width=2, vocab=3)
    options = {"activation": "tanh", "slicing": slicing}
    if pruned:
        assert torch.autograd.gradcheck(
            lambda *x: fused_pruned_transducer_loss(*x, targets, band(), *lengths, **options),
            leaves,
            fast_mode=True,
        )
    else:
        assert torch.autograd.gradcheck(
            lambda *x: fused_transducer_loss(*x, targets, *lengths, **options), leaves, fast_mode=True
        )


@pytest.mark.parametrize("slicing", [KEEP, RECOMPUTE])
def test_backward_twice_and_without_bias(slicing):
    leaves, (targets, *lengths) = problem()
    encoder, predictor, matrix, _ = leaves
    loss = fused_transducer_loss(
        encoder, predictor, matrix, None, targets, *lengths, reduction="sum", slicing=slicing
    )
    loss.backward(retain_graph=True)
    once = matrix.grad.clone()
    loss.backward()
    torch.testing.assert_close(matrix.grad, 2 * once)


def test_frozen_inputs_get_no_gradient():
    leaves, (targets, *lengths) = problem()
    leaves[2].requires_grad_(False)
    leaves[0].requires_grad_(False)
    fused_transducer_loss(*leaves, targets, *lengths, reduction="mean").backward()
    assert leaves[0].grad is None and leaves[2].grad is None
    assert leaves[1].grad.abs().sum() > 0 and leaves[3].grad.abs().sum() > 0


def test_unused_cells_are_left_out(monkeypatch):
    """With a confident model the backward pass touches few cells, and the gradient is the same to float32
    rounding."""
    leaves, (targets, *lengths) = problem()
    with torch.no_grad():
        leaves[3][0] += 60.0  # blank is certain: labels can only come where they must
    exact = gradients(fused_transducer_loss(*leaves, targets, *lengths, slicing=RECOMPUTE), leaves, 1.0)
    monkeypatch.setattr(module, "OCCUPANCY_FLOOR", 0.0)  # every cell with any
    everything = gradients(fused_transducer_loss(*leaves, targets, *lengths, slicing=RECOMPUTE), leaves, 1.0)
    for a, b in zip(exact, everything, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    chunks = [module._Chunk(0, 0, 2), module._Chunk(0, 2, 3), module._Chunk(1, 0, 3)]
    occupancy = torch.zeros(2, 3, 4)
    occupancy[0, 1, 2] = occupancy[0, 0, 1] = 0.5
    occupancy[1, 2, 3] = float("nan")
    monkeypatch.undo()
    assert module._windows(chunks, occupancy) == [(1, 3), None, (3, 4)]


def test_bf16_autocast():
    leaves, (targets, *lengths) = problem()
    exact = fused_transducer_loss(*leaves, targets, *lengths, activation="tanh")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused_transducer_loss(*leaves, targets, *lengths, activation="tanh")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=3e-2, atol=3e-2)
    expected = gradients(exact, leaves, 1.0)
    for got, reference in zip(gradients(loss, leaves, 1.0), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - reference).norm() < 0.05 * reference.norm()


def test_bad_arguments():
    leaves, (targets, *lengths) = problem()
    encoder, predictor, matrix, bias = leaves
    with pytest.raises(ValueError, match="activation"):
        fused_transducer_loss(*leaves, targets, *lengths, activation="gelu")
    with pytest.raises(ValueError, match="do not agree"):
        fused_transducer_loss(encoder, predictor, matrix[:, :2], bias, targets, *lengths)
    with pytest.raises(ValueError, match="expected encoder"):
        fused_transducer_loss(encoder[0], predictor, matrix, bias, targets, *lengths)
    with pytest.raises(ValueError, match="never move back"):
        fused_pruned_transducer_loss(*leaves, targets, band().flip(1), *lengths)
    with pytest.raises(ValueError, match="never move back"):
        fused_pruned_transducer_loss(*leaves, targets, band() + 1, *lengths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pruned", [False, True])
def test_cuda_equals_cpu(pruned):
    here, (targets, *lengths) = problem()
    there = [leaf.detach().cuda().requires_grad_() for leaf in here]
    results = []
    for leaves, device in ((here, "cpu"), (there, "cuda")):
        moved = [x.to(device) for x in (targets, *lengths)]
        if pruned:
            loss = fused_pruned_transducer_loss(
                *leaves, moved[0], band().to(device), *moved[1:], slicing=RECOMPUTE
            )
        else:
            loss = fused_transducer_loss(*leaves, *moved, slicing=RECOMPUTE)
        results.append([loss.detach().cpu()] + [g.cpu() for g in gradients(loss, leaves, 1.0)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
