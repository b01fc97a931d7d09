"""The full loss: against enumeration of all paths, finite differences, torchaudio, and itself in other
precisions."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import UserError
from asr.losses import transducer as module
from asr.losses.transducer import transducer_loss


def torchaudio_functional():
    try:
        return importlib.import_module("torchaudio.functional")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not load with this torch: {error}")


def problem(batch, frames, labels, vocab, seed=0, dtype=torch.float32, ragged=True):
    generator = torch.Generator().manual_seed(seed)
    logits = (
        torch.randn(batch, frames, labels + 1, vocab, generator=generator, dtype=torch.float64).to(dtype) * 2
    )
    targets = torch.randint(1, vocab, (batch, labels), generator=generator)
    logit_lengths, target_lengths = torch.full((batch,), frames), torch.full((batch,), labels)
    if ragged:
        logit_lengths[1:] = torch.randint(1, frames + 1, (batch - 1,), generator=generator)
        target_lengths[1:] = torch.randint(0, labels + 1, (batch - 1,), generator=generator)
    return logits, targets, logit_lengths, target_lengths


def enumerate_paths(logits, targets, frames, labels, extra=lambda t: 0.0):
    """-log of the sum over every interleaving of ``labels`` label moves with ``frames - 1`` blanks, closed by
    a blank."""
    log_probs = logits.double().log_softmax(-1)
    scores = []
    for where in itertools.combinations(range(frames - 1 + labels), labels):
        t = u = 0
        score = 0.0
        for move in range(frames - 1 + labels):
            if move in where:
                score += log_probs[t, u, targets[u]].item() + extra(t)
                u += 1
            else:
                score += log_probs[t, u, 0].item()
                t += 1
        scores.append(score + log_probs[t, u, 0].item())
    return -torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0).item()


@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (1, 3), (4, 0), (3, 2), (2, 4), (5, 3)])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_all_paths(frames, labels, delay):
    logits, targets, _, _ = problem(1, frames, labels, 4, seed=frames * 10 + labels)
    ours = transducer_loss(
        logits, targets, torch.tensor([frames]), torch.tensor([labels]), delay_penalty=delay
    ).item()
    theirs = enumerate_paths(logits[0], targets[0], frames, labels, lambda t: delay * ((frames - 1) / 2 - t))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (1, 1), (4, 0), (3, 2), (4, 4), (6, 3)])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_all_paths_of_the_modified_lattice(frames, labels, delay):
    """One symbol a frame: choose the frames of the labels, the others are blanks."""
    logits, targets, _, _ = problem(1, frames, labels, 4, seed=frames * 10 + labels)
    lengths = (torch.tensor([frames]), torch.tensor([labels]))
    ours = transducer_loss(logits, targets, *lengths, delay_penalty=delay, rnnt_type="modified").item()
    log_probs = logits[0].double().log_softmax(-1)
    scores = []
    for where in itertools.combinations(range(frames), labels):
        u, score = 0, 0.0
        for t in range(frames):
            if t in where:
                score += log_probs[t, u, targets[0, u]].item() + delay * ((frames - 1) / 2 - t)
                u += 1
            else:
                score += log_probs[t, u, 0].item()
        scores.append(score)
    assert ours == pytest.approx(-torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0).item(), abs=1e-5)


def test_modified_lattice_of_more_labels_than_frames_is_infinite_without_nan():
    logits, targets, *_ = problem(2, 3, 4, 5, ragged=False)
    logits.requires_grad_()
    lengths = (torch.tensor([3, 3]), torch.tensor([4, 2]))
    loss = transducer_loss(logits, targets, *lengths, rnnt_type="modified")
    assert loss[0] == float("inf") and loss[1].isfinite()
    loss.sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[0].abs().max() == 0 < logits.grad[1].abs().max()


@pytest.mark.parametrize("options", [{}, {"delay_penalty": 0.1}, {"rnnt_type": "modified"}])
def test_finite_differences(options):
    logits, targets, logit_lengths, target_lengths = problem(2, 3, 2, 4, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: transducer_loss(x, targets, logit_lengths, target_lengths, **options), (logits,), atol=1e-7
    )


@pytest.mark.parametrize("shape", [(3, 7, 4, 11), (2, 3, 6, 5), (2, 1, 2, 4), (2, 6, 0, 3), (5, 30, 12, 20)])
def test_equals_torchaudio(shape):
    functional = torchaudio_functional()
    logits, targets, logit_lengths, target_lengths = problem(*shape, seed=1)
    weight = torch.rand(shape[0]) + 0.5
    ours_in, theirs_in = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = transducer_loss(ours_in, targets, logit_lengths, target_lengths)
    theirs = functional.rnnt_loss(
        theirs_in, targets.int(), logit_lengths.int(), target_lengths.int(), blank=0, reduction="none"
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, atol=1e-4, rtol=0)
    through_backend = transducer_loss(logits, targets, logit_lengths, target_lengths, backend="torchaudio")
    torch.testing.assert_close(through_backend, theirs.detach())


def test_other_blank():
    functional = torchaudio_functional()
    logits, targets, logit_lengths, target_lengths = problem(3, 6, 3, 7, seed=2)
    targets = targets - 1
    theirs = functional.rnnt_loss(
        logits, targets.int(), logit_lengths.int(), target_lengths.int(), blank=6, reduction="mean"
    )
    ours = transducer_loss(logits, targets, logit_lengths, target_lengths, blank=6, reduction="mean")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 7),
    st.integers(2, 6),
    st.integers(0, 10_000),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_utterance_alone_or_in_a_batch(batch, frames, labels, vocab, seed, noisy_padding):
    """A padded utterance has the loss and gradient it has alone; nothing flows into padding."""
    logits, targets, logit_lengths, target_lengths = problem(batch, frames, labels, vocab, seed)
    if noisy_padding:
        targets = torch.where(torch.arange(labels) < target_lengths[:, None], targets, 999)
    logits.requires_grad_()
    losses = transducer_loss(logits, targets, logit_lengths, target_lengths)
    losses.sum().backward()
    for b in range(batch):
        t, u = int(logit_lengths[b]), int(target_lengths[b])
        alone = logits[b : b + 1, :t, : u + 1].detach().clone().requires_grad_()
        loss = transducer_loss(
            alone, targets[b : b + 1, :u], logit_lengths[b : b + 1], target_lengths[b : b + 1]
        )
        loss.sum().backward()
        torch.testing.assert_close(losses[b], loss[0])
        torch.testing.assert_close(logits.grad[b, :t, : u + 1], alone.grad[0])
        assert logits.grad[b, t:].abs().sum() == 0
        assert logits.grad[b, :, u + 1 :].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_logits(dtype):
    logits, targets, logit_lengths, target_lengths = problem(2, 8, 4, 9)
    low = logits.to(dtype).requires_grad_()
    exact = low.detach().float().requires_grad_()
    loss = transducer_loss(low, targets, logit_lengths, target_lengths, reduction="sum")
    reference = transducer_loss(exact, targets, logit_lengths, target_lengths, reduction="sum")
    assert loss.dtype == torch.float32 and low.grad is None
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    assert low.grad.dtype == dtype
    torch.testing.assert_close(low.grad.float(), exact.grad, atol=1e-2, rtol=1e-2)


def test_fastemit_scales_label_gradients_only():
    """The gradient is that of ``blank + (1 + lambda) * label`` log-probability flow; the value does not
    change."""
    logits, targets, logit_lengths, target_lengths = problem(2, 6, 3, 5, dtype=torch.float64)
    lam = 0.3

    def gradient(fastemit):
        x = logits.clone().requires_grad_()
        loss = transducer_loss(x, targets, logit_lengths, target_lengths, fastemit=fastemit, reduction="sum")
        loss.backward()
        return loss, x.grad

    plain, plain_gradient = gradient(0.0)
    value, fast_gradient = gradient(lam)
    assert value == plain
    # independently: occupancies by differentiating a loop in log-probabilities of labels alone
    bonus = torch.zeros(2, 6, 4, dtype=torch.float64, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    total = sum(
        loop_log_likelihood(log_probs[b], targets[b], int(logit_lengths[b]), int(target_lengths[b]), bonus[b])
        for b in range(2)
    )
    (occupancy,) = torch.autograd.grad(total, bonus)
    following = torch.nn.functional.pad(targets, (0, 1))[:, None].expand(2, 6, 4)
    label = torch.nn.functional.one_hot(following, 5).double()
    expected = plain_gradient + lam * occupancy.unsqueeze(-1) * (logits.softmax(-1) - label)
    torch.testing.assert_close(fast_gradient, expected, atol=1e-9, rtol=0)


def loop_log_likelihood(log_probs, targets, frames, labels, bonus):
    """The textbook double loop; ``bonus`` (T, U + 1) is added to label scores."""
    alpha = {}
    for t in range(frames):
        for u in range(labels + 1):
            into = []
            if t == u == 0:
                into.append(log_probs.new_zeros(()))
            if t > 0:
                into.append(alpha[t - 1, u] + log_probs[t - 1, u, 0])
            if u > 0:
                into.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]] + bonus[t, u - 1])
            alpha[t, u] = torch.logsumexp(torch.stack(into), 0)
    return alpha[frames - 1, labels] + log_probs[frames - 1, labels, 0]


def test_long_lattice_stays_exact():
    """Scores of thousands of nats: occupancies must still sum to one a frame, which float32 sums do not
    give."""
    logits, targets, logit_lengths, target_lengths = problem(1, 700, 40, 3, ragged=False)
    logits = (logits * 8).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss = transducer_loss(logits, targets, logit_lengths, target_lengths)
    reference = transducer_loss(exact, targets, logit_lengths, target_lengths)
    assert loss.item() > 2000
    loss.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, atol=1e-5, rtol=0)


def test_large_logits_in_pieces(monkeypatch):
    """The piecewise walk over large logits gives the same numbers as one piece."""
    logits, targets, logit_lengths, target_lengths = problem(3, 9, 4, 50)
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    one = transducer_loss(whole, targets, logit_lengths, target_lengths)
    one.sum().backward()

    def frame_by_frame(*tensors):
        for b, t in itertools.product(range(3), range(9)):
            yield tuple(tensor[b, t : t + 1] for tensor in tensors)

    monkeypatch.setattr(module, "_pieces", frame_by_frame)
    other = transducer_loss(parts, targets, logit_lengths, target_lengths)
    other.sum().backward()
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole.grad, parts.grad)


def test_impossible_label_is_infinite_without_nan():
    logits, targets, logit_lengths, target_lengths = problem(2, 4, 2, 5, ragged=False)
    logits[0, :, 0, targets[0, 0]] = -math.inf
    logits.requires_grad_()
    losses = transducer_loss(logits, targets, logit_lengths, target_lengths)
    losses.sum().backward()
    assert losses[0] == math.inf and losses[1].isfinite()
    assert logits.grad.isfinite().all() and logits.grad[0].abs().sum() == 0


def test_nan_is_not_hidden():
    logits, targets, logit_lengths, target_lengths = problem(2, 4, 2, 5, ragged=False)
    logits[0, 1, 1, 2] = math.nan
    losses = transducer_loss(logits, targets, logit_lengths, target_lengths)
    assert losses[0].isnan() and losses[1].isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 4, 5)}, "logits must be"),
        ({"logits": torch.zeros(2, 4, 3, 5, dtype=torch.int64)}, "floating point"),
        ({"targets": torch.ones(2, 3, dtype=torch.int64)}, "targets have shape"),
        ({"targets": torch.ones(2, 2)}, "integers"),
        ({"targets": torch.full((2, 2), 5)}, "outside the vocabulary"),
        ({"targets": torch.zeros(2, 2, dtype=torch.int64)}, "blank id"),
        ({"logit_lengths": torch.tensor([4, 5])}, "logit_lengths must lie"),
        ({"logit_lengths": torch.tensor([4, 0])}, "logit_lengths must lie"),
        ({"logit_lengths": torch.tensor([4])}, "logit_lengths has shape"),
        ({"target_lengths": torch.tensor([2, 3])}, "target_lengths must lie"),
        ({"target_lengths": torch.tensor([2, -1])}, "target_lengths must lie"),
        ({"blank": 5}, "blank id 5"),
        ({"reduction": "avg"}, "reduction"),
    ],
)
def test_bad_arguments(change, message):
    good = {
        "logits": torch.zeros(2, 4, 3, 5),
        "targets": torch.ones(2, 2, dtype=torch.int64),
        "logit_lengths": torch.tensor([4, 4]),
        "target_lengths": torch.tensor([2, 2]),
    }
    assert transducer_loss(**good).shape == (2,)
    with pytest.raises(ValueError, match=message):
        transducer_loss(**{**good, **change})


def test_backends_say_what_is_missing(monkeypatch):
    arguments = problem(2, 4, 2, 5)

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", absent)
    with pytest.raises(UserError, match="k2-fsa.github.io"):
        transducer_loss(*arguments, backend="k2")
    with pytest.raises(UserError, match="install the torchaudio release"):
        transducer_loss(*arguments, backend="torchaudio")
    with pytest.raises(UserError, match="unknown loss backend"):
        transducer_loss(*arguments, backend="warp")
    with pytest.raises(UserError, match="FastEmit"):
        transducer_loss(*arguments, backend="torchaudio", fastemit=0.1)
    with pytest.raises(UserError, match="delay penalty"):
        transducer_loss(*arguments, backend="torchaudio", delay_penalty=0.1)
    with pytest.raises(UserError, match="bfloat16"):
        transducer_loss(arguments[0].bfloat16(), *arguments[1:], backend="torchaudio")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_equals_cpu(dtype):
    logits, targets, logit_lengths, target_lengths = problem(3, 20, 7, 30, dtype=dtype)
    here, there = logits.clone().requires_grad_(), logits.cuda().requires_grad_()
    loss = transducer_loss(here, targets, logit_lengths, target_lengths, reduction="sum", fastemit=0.01)
    other = transducer_loss(
        there, targets.cuda(), logit_lengths.cuda(), target_lengths.cuda(), reduction="sum", fastemit=0.01
    )
    torch.testing.assert_close(loss, other.cpu(), rtol=1e-5, atol=1e-4)
    loss.backward()
    other.backward()
    torch.testing.assert_close(
        here.grad, there.grad.cpu(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5
    )
