"""The pruned loss: equal to the full one when the band covers the lattice, bands that always let a path
through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.losses import prune, pruned_transducer_loss, pruning_ranges, simple_transducer_loss, transducer_loss
from asr.losses.lattice import run_lattice


def problem(batch, frames, labels, vocab, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    am = torch.randn(batch, frames, vocab, generator=generator, dtype=torch.float64).to(dtype)
    lm = torch.randn(batch, labels + 1, vocab, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(1, vocab, (batch, labels), generator=generator)
    logit_lengths = torch.randint(1, frames + 1, (batch,), generator=generator)
    target_lengths = torch.randint(0, labels + 1, (batch,), generator=generator)
    logit_lengths[0], target_lengths[-1] = frames, labels
    return am, lm, targets, logit_lengths, target_lengths


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 6), st.integers(0, 10_000))
@settings(max_examples=25)
def test_covering_band_is_the_full_loss(batch, frames, labels, seed):
    am, lm, targets, *lengths = problem(batch, frames, labels, 5, seed)
    _, occupancy = simple_transducer_loss(lm, am, targets, *lengths, lm_only_scale=0.25)
    ranges = pruning_ranges(*occupancy, *lengths, s_range=max(2, labels + 1))
    assert torch.equal(ranges, torch.arange(labels + 1).expand(batch, frames, labels + 1))
    pruned_in, full_in = (torch.tanh(am.unsqueeze(2) + lm.unsqueeze(1)).requires_grad_() for _ in range(2))
    pruned = pruned_transducer_loss(pruned_in, targets, ranges, *lengths, delay_penalty=0.02, fastemit=0.1)
    full = transducer_loss(full_in, targets, *lengths, delay_penalty=0.02, fastemit=0.1)
    torch.testing.assert_close(pruned, full)
    pruned.sum().backward()
    full.sum().backward()
    torch.testing.assert_close(pruned_in.grad, full_in.grad, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 3), st.integers(2, 12), st.integers(1, 10), st.integers(2, 5), st.integers(0, 10_000))
@settings(max_examples=40)
def test_bands_let_a_path_through(batch, frames, labels, s_range, seed):
    """Any occupancies give a band that starts at 0, climbs by less than its width and ends on the last
    label."""
    am, lm, targets, logit_lengths, target_lengths = problem(batch, frames, labels, 4, seed)
    target_lengths = torch.minimum(target_lengths, logit_lengths * (s_range - 1))
    generator = torch.Generator().manual_seed(seed)
    label_use, blank_use = torch.rand(2, batch, frames, labels + 1, generator=generator)
    ranges = pruning_ranges(label_use, blank_use, logit_lengths, target_lengths, s_range)
    width = min(s_range, labels + 1)
    start = ranges[:, :, 0]
    assert ranges.shape == (batch, frames, width)
    assert (start[:, 0] == 0).all() and (ranges < labels + 1).all()
    step = start.diff(dim=1)
    assert (step >= 0).all() and (step < width).all()
    for b in range(batch):
        last = ranges[b, logit_lengths[b] - 1]
        assert last[0] <= target_lengths[b] <= last[-1]
    logits = torch.tanh(sum(prune(am, lm, ranges))).requires_grad_()
    loss = pruned_transducer_loss(logits, targets, ranges, logit_lengths, target_lengths)
    full = transducer_loss(
        torch.tanh(am.unsqueeze(2) + lm.unsqueeze(1)), targets, logit_lengths, target_lengths
    )
    assert loss.isfinite().all() and (loss >= full - 1e-4).all()  # fewer paths, less likely
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_banded_lattice_is_the_lattice_with_the_rest_removed():
    """The ring of R slots against the full lattice whose cells outside the band are impossible: values and
    occupancies."""
    am, lm, targets, logit_lengths, target_lengths = problem(4, 17, 9, 6, seed=5)
    target_lengths = torch.minimum(target_lengths, 2 * logit_lengths)
    _, occupancy = simple_transducer_loss(lm, am, targets, logit_lengths, target_lengths)
    ranges = pruning_ranges(*occupancy, logit_lengths, target_lengths, s_range=3)
    label, blank = torch.randn(2, 4, 17, 10)
    inside = torch.zeros(4, 17, 10, dtype=torch.bool).scatter_(2, ranges, True)
    full = run_lattice(
        torch.where(inside, label, -torch.inf),
        torch.where(inside, blank, -torch.inf),
        logit_lengths,
        target_lengths,
    )
    banded = run_lattice(
        label.gather(2, ranges), blank.gather(2, ranges), logit_lengths, target_lengths, ranges[:, :, 0]
    )
    torch.testing.assert_close(banded.log_likelihood, full.log_likelihood)
    torch.testing.assert_close(banded.label, full.label.gather(2, ranges))
    torch.testing.assert_close(banded.blank, full.blank.gather(2, ranges))
    # every frame of an utterance is left by exactly one blank, every label is emitted exactly once
    for b in range(4):
        torch.testing.assert_close(
            full.blank[b].sum(1)[: logit_lengths[b]], torch.ones(int(logit_lengths[b])).double()
        )
        torch.testing.assert_close(
            full.label[b].sum(0)[: target_lengths[b]], torch.ones(int(target_lengths[b])).double()
        )


@pytest.mark.parametrize("scales", [(0.0, 0.0), (0.25, 0.0), (0.2, 0.3)])
def test_simple_loss_finite_differences(scales):
    am, lm, targets, *lengths = problem(2, 4, 3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: simple_transducer_loss(b, a, targets, *lengths, 0, *scales, delay_penalty=0.1)[0],
        (am.requires_grad_(), lm.requires_grad_()),
    )


def test_simple_loss_is_the_full_loss_of_the_sum():
    am, lm, targets, *lengths = problem(3, 7, 4, 9)
    simple, (label_use, blank_use) = simple_transducer_loss(lm, am, targets, *lengths, reduction="mean")
    full = transducer_loss(am.unsqueeze(2) + lm.unsqueeze(1), targets, *lengths, reduction="mean")
    torch.testing.assert_close(simple, full)
    assert not label_use.requires_grad and not blank_use.requires_grad


def test_simple_loss_in_bf16_and_with_large_scores():
    am, lm, targets, *lengths = problem(2, 7, 4, 9)
    low, _ = simple_transducer_loss(lm.bfloat16(), am.bfloat16(), targets, *lengths)
    exact, _ = simple_transducer_loss(lm.bfloat16().float(), am.bfloat16().float(), targets, *lengths)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact)
    shifted, _ = simple_transducer_loss(lm - 500.0, am + 900.0, targets, *lengths, 0, 0.2, 0.2)
    plain, _ = simple_transducer_loss(lm, am, targets, *lengths, 0, 0.2, 0.2)
    torch.testing.assert_close(shifted, plain, rtol=1e-3, atol=1e-3)


def test_bad_arguments():
    am, lm, targets, *lengths = problem(2, 3, 8, 5)
    lengths = [torch.tensor([3, 3]), torch.tensor([8, 8])]
    _, occupancy = simple_transducer_loss(lm, am, targets, *lengths)
    with pytest.raises(ValueError, match="at least 2"):
        pruning_ranges(*occupancy, *lengths, s_range=1)
    with pytest.raises(ValueError, match="needs 4"):
        pruning_ranges(*occupancy, *lengths, s_range=3)
    assert pruning_ranges(*occupancy, *lengths, s_range=4).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="found shapes"):
        simple_transducer_loss(lm[0], am, targets, *lengths)
    with pytest.raises(ValueError, match="fit neither"):
        prune(am[:, :2], lm, torch.zeros(2, 3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected logits"):
        pruned_transducer_loss(
            torch.zeros(2, 3, 4, 5), targets, torch.zeros(2, 3, 2, dtype=torch.int64), *lengths
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    am, lm, targets, *lengths = problem(3, 20, 9, 12)
    here, (label_use, blank_use) = simple_transducer_loss(lm, am, targets, *lengths, 0, 0.25, 0.1)
    moved = [x.cuda() for x in lengths]
    there, occupancy = simple_transducer_loss(lm.cuda(), am.cuda(), targets.cuda(), *moved, 0, 0.25, 0.1)
    torch.testing.assert_close(here, there.cpu(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(label_use, occupancy[0].cpu(), rtol=1e-3, atol=1e-4)
    ranges = pruning_ranges(label_use.cuda(), blank_use.cuda(), *moved, s_range=4)
    assert torch.equal(ranges.cpu(), pruning_ranges(label_use, blank_use, *lengths, s_range=4))
