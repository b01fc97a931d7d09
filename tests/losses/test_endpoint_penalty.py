"""The endpoint token's early and late penalty: closed forms, all paths, numerical gradients, and nothing where it is off."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from asr.errors import UserError
from asr.losses import (
    EndpointPenalty,
    EndpointPenaltyConfig,
    LossConfig,
    TransducerCriterion,
    fused_pruned_transducer_loss,
    fused_transducer_loss,
    pruned_transducer_loss,
    pruning_ranges,
    simple_transducer_loss,
    transducer_loss,
)
from asr.models.joiner import Joiner, JoinerConfig

TYPES = ("regular", "modified")
VOCAB, EOU = 6, 5


def lost(t, reference, early=0.7, late=0.4, buffer=1):
    """The formula, for one edge."""
    return max(0.0, early * (reference - t)) + max(0.0, late * (t - reference - buffer))


def problem(dtype=torch.float64, seed=0):
    """Three utterances of 6, 5 and 3 frames with 3, 2 and 0 labels; the last label of each is the endpoint token."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 6, 4, VOCAB, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.tensor([[2, 3, EOU], [1, EOU, 0], [0, 0, 0]])
    frames = torch.tensor([[-1, -1, 3], [-1, 2, -1], [-1, -1, -1]])
    return logits, targets, torch.tensor([6, 5, 3]), torch.tensor([3, 2, 0]), frames


def penalty(frames, early=0.7, late=0.4, buffer=1.0):
    return EndpointPenalty(frames, early, late, buffer)


@pytest.mark.parametrize("reference", [0, 1, 3])
def test_closed_form_of_one_label(reference):
    """All scores equal: a path of T frames that says the token at t has V ** -T exp(-penalty(t)) in the modified lattice."""
    frames = 4
    args = (torch.zeros(1, frames, 2, VOCAB), torch.tensor([[EOU]]), torch.tensor([frames]), torch.tensor([1]))
    found = transducer_loss(*args, endpoint=penalty(torch.tensor([[reference]])), rnnt_type="modified")
    paths = sum(math.exp(-lost(t, reference)) for t in range(frames))
    assert found.item() == pytest.approx(frames * math.log(VOCAB) - math.log(paths), abs=1e-5)
    # the regular lattice has one edge more
    found = transducer_loss(*args, endpoint=penalty(torch.tensor([[reference]])))
    assert found.item() == pytest.approx((frames + 1) * math.log(VOCAB) - math.log(paths), abs=1e-5)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_all_paths(rnnt_type):
    """Only the edges of the endpoint token lose; others at the same frames do not."""
    logits, targets, lengths, labels, frames = problem()
    found = transducer_loss(logits, targets, lengths, labels, rnnt_type=rnnt_type, endpoint=penalty(frames))
    for b in range(3):
        log_probs, count = logits[b].log_softmax(-1), int(labels[b])
        total = []
        times = range(int(lengths[b]))
        choose = itertools.combinations if rnnt_type == "modified" else itertools.combinations_with_replacement
        for emitted in choose(times, count):
            score, u = 0.0, 0
            for t in times:
                said = emitted.count(t)
                for _ in range(said):
                    score += log_probs[t, u, targets[b, u]].item()
                    score -= lost(t, int(frames[b, u])) if frames[b, u] >= 0 else 0.0
                    u += 1
                if rnnt_type == "regular" or not said:
                    score += log_probs[t, u, 0].item()
            total.append(score)
        expected = -torch.logsumexp(torch.tensor(total, dtype=torch.float64), 0).item()
        assert found[b].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_gradients_are_those_of_finite_differences(rnnt_type):
    logits, targets, lengths, labels, frames = problem()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: transducer_loss(x, targets, lengths, labels, rnnt_type=rnnt_type, endpoint=penalty(frames)),
        (logits,),
        atol=1e-7,
    )


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_gradients_of_the_simple_and_the_pruned_loss(rnnt_type):
    _, targets, lengths, labels, frames = problem()
    generator = torch.Generator().manual_seed(1)
    am = torch.randn(3, 6, VOCAB, generator=generator, dtype=torch.float64, requires_grad=True)
    lm = torch.randn(3, 4, VOCAB, generator=generator, dtype=torch.float64, requires_grad=True)
    options = {"rnnt_type": rnnt_type, "endpoint": penalty(frames)}

    def simple(am, lm):
        return simple_transducer_loss(lm, am, targets, lengths, labels, lm_only_scale=0.25, **options)[0]

    assert torch.autograd.gradcheck(simple, (am, lm), atol=1e-7)
    _, occupancy = simple_transducer_loss(lm, am, targets, lengths, labels, **options)
    ranges = pruning_ranges(*occupancy, lengths, labels, 3, rnnt_type)
    band = torch.randn(3, 6, 3, VOCAB, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: pruned_transducer_loss(x, targets, ranges, lengths, labels, **options), (band,), atol=1e-7
    )
    bare = pruned_transducer_loss(band, targets, ranges, lengths, labels, rnnt_type=rnnt_type)
    found = pruned_transducer_loss(band, targets, ranges, lengths, labels, **options)
    assert (found[:2] > bare[:2]).all() and found[2] == bare[2]  # the third has no endpoint token


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_fused_is_the_loss_of_the_logits(rnnt_type):
    _, targets, lengths, labels, frames = problem()
    generator = torch.Generator().manual_seed(2)
    encoder = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    predictor = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCAB, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    options = {"rnnt_type": rnnt_type, "endpoint": penalty(frames)}
    logits = torch.tanh(encoder.unsqueeze(2) + predictor.unsqueeze(1)) @ weight.t()
    args = (encoder, predictor, weight, None, targets)
    whole = torch.arange(4).expand(3, 6, 4)
    expected = transducer_loss(logits, targets, lengths, labels, **options)
    wanted = torch.autograd.grad(expected.sum(), (encoder, predictor, weight))
    for found in (
        fused_transducer_loss(*args, lengths, labels, "tanh", **options),
        fused_pruned_transducer_loss(*args, whole, lengths, labels, "tanh", **options),
    ):
        torch.testing.assert_close(found, expected)
        got = torch.autograd.grad(found.sum(), (encoder, predictor, weight))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_off_is_bit_identical(rnnt_type):
    logits, targets, lengths, labels, frames = problem(torch.float32)
    results = []
    for endpoint in (None, penalty(frames, 0.0, 0.0), penalty(torch.full_like(frames, -1))):
        x = logits.clone().requires_grad_()
        loss = transducer_loss(x, targets, lengths, labels, rnnt_type=rnnt_type, endpoint=endpoint)
        loss.sum().backward()
        results.append((loss.detach(), x.grad))
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


def test_the_token_moves_towards_the_end_of_speech():
    """The expected frame of the token's emission, from the loss's own gradient, falls as lateness costs more."""
    frames, reference = 20, 6
    times = torch.arange(frames, dtype=torch.float64)
    expected = []
    for late in (0.0, 0.05, 0.2, 0.8):
        logits = torch.zeros(1, frames, 2, VOCAB, dtype=torch.float64, requires_grad=True)
        loss = transducer_loss(
            logits,
            torch.tensor([[EOU]]),
            torch.tensor([frames]),
            torch.tensor([1]),
            rnnt_type="modified",
            endpoint=EndpointPenalty(torch.tensor([[reference]]), 2.0, late),
        )
        loss.backward()
        # softmax * occupancy - use of the edge, of equal logits: the use follows from the label's column
        grad = logits.grad[0, :, 0]
        use = grad[:, 1] - grad[:, EOU]  # any other symbol's column has the softmax term alone
        assert use.sum().item() == pytest.approx(1.0)
        expected.append(float((use * times).sum()))
    assert expected == sorted(expected, reverse=True) and expected[0] > expected[-1] + 3 > reference


def criterion(**options):
    return TransducerCriterion(LossConfig(**options), 6, 5, VOCAB)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.joiner = Joiner(6, 5, VOCAB, JoinerConfig(dim=8))


def batch():
    generator = torch.Generator().manual_seed(3)
    _, targets, lengths, labels, frames = problem()
    data = {
        "encoder_out": torch.randn(3, 6, 6, generator=generator),
        "encoder_lengths": lengths,
        "predictor_out": torch.randn(3, 4, 5, generator=generator),
        "targets": targets,
        "target_lengths": labels,
    }
    return data, frames


@pytest.mark.parametrize("kind", ["full", "pruned"])
@pytest.mark.parametrize("rnnt_type", TYPES)
def test_criterion(kind, rnnt_type):
    torch.manual_seed(0)
    model, (data, frames) = Model(), batch()
    options = {"kind": kind, "rnnt_type": rnnt_type, "s_range": 4}
    config = EndpointPenaltyConfig(early=0.7, late=0.4, buffer_ms=40)
    on = criterion(**options, endpoint_penalty=config)
    off = criterion(**options)
    off.load_state_dict(on.state_dict())
    found = on(model, **data, step=10_000, endpoint_frames=frames)
    logits = model.joiner(data["encoder_out"], data["predictor_out"])
    expected = transducer_loss(
        logits, data["targets"], data["encoder_lengths"], data["target_lengths"],
        reduction="sum", rnnt_type=rnnt_type, endpoint=penalty(frames),
    )  # fmt: skip
    torch.testing.assert_close(found["transducer"], expected.detach())
    plain = off(model, **data, step=10_000)
    assert found["loss"] > plain["loss"] and torch.equal(
        plain["loss"], off(model, **data, step=10_000, endpoint_frames=frames)["loss"]
    )
    if kind == "pruned":
        assert found["simple"] > plain["simple"]
    with pytest.raises(UserError, match="data.endpoint"):
        on(model, **data, step=0)


def test_a_recipe_needs_the_token_for_the_penalty():
    from asr.training.recipe import recipe_from_dict

    recipe = {"data": {"train": ["corpus"], "endpoint": True}, "loss": {"endpoint_penalty": {"late": 0.1}}}
    assert recipe_from_dict(recipe).loss.endpoint_penalty.late == 0.1
    recipe["data"]["endpoint"] = False
    with pytest.raises(UserError, match="data.endpoint is not"):
        recipe_from_dict(recipe)


def test_bad_options():
    logits, targets, lengths, labels, frames = problem()
    with pytest.raises(ValueError, match="frames of endpoints"):
        transducer_loss(logits, targets, lengths, labels, endpoint=penalty(frames[:, :2]))
    with pytest.raises(ValueError, match="integers"):
        transducer_loss(logits, targets, lengths, labels, endpoint=penalty(frames.double()))
    with pytest.raises(ValueError, match="negative"):
        transducer_loss(logits, targets, lengths, labels, endpoint=penalty(frames, early=-1.0))
    with pytest.raises(UserError, match="endpoint penalty"):
        transducer_loss(logits.float(), targets, lengths, labels, backend="torchaudio", endpoint=penalty(frames))
    with pytest.raises(UserError, match="endpoint penalty"):
        LossConfig(kind="full", backend="k2", endpoint_penalty=EndpointPenaltyConfig(late=0.1))
    for options in ({"early": -1.0}, {"late": float("nan")}, {"buffer_ms": 50.0}):
        with pytest.raises(UserError, match="endpoint_penalty"):
            EndpointPenaltyConfig(**options)
