"""What a recipe trains with: scales, sums, CTC, back ends, and gradients into every part of the model."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from asr.errors import UserError
from asr.losses import LossConfig, TransducerCriterion, transducer_loss
from asr.losses import transducer as transducer_module
from asr.models.joiner import Joiner, JoinerConfig

BATCH, FRAMES, LABELS, ENCODER, PREDICTOR, VOCAB = 3, 10, 4, 6, 5, 9


class Model(nn.Module):
    def __init__(self, ctc: bool = True, activation: str = "tanh") -> None:
        super().__init__()
        self.joiner = Joiner(ENCODER, PREDICTOR, VOCAB, JoinerConfig(dim=8, activation=activation))
        self.ctc_head = nn.Linear(ENCODER, VOCAB) if ctc else None


def batch():
    return {
        "encoder_out": torch.randn(BATCH, FRAMES, ENCODER, requires_grad=True),
        "encoder_lengths": torch.tensor([10, 7, 3]),
        "predictor_out": torch.randn(BATCH, LABELS + 1, PREDICTOR, requires_grad=True),
        "targets": torch.randint(1, VOCAB, (BATCH, LABELS)),
        "target_lengths": torch.tensor([4, 0, 2]),
    }


def criterion(**options) -> TransducerCriterion:
    return TransducerCriterion(LossConfig(**options), ENCODER, PREDICTOR, VOCAB)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_full_is_the_sum_of_the_joiners_losses(activation):
    model, data = Model(activation=activation), batch()
    found = criterion(kind="full")(model, **data, step=0)
    logits = model.joiner(data["encoder_out"], data["predictor_out"])
    expected = transducer_loss(
        logits, data["targets"], data["encoder_lengths"], data["target_lengths"], reduction="sum"
    )
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["transducer"], expected.detach())
    assert found["simple"] == 0 and found["ctc"] == 0
    assert not any(found[key].requires_grad for key in ("transducer", "simple", "ctc"))
    inputs = [data["encoder_out"], data["predictor_out"], *model.joiner.parameters()]
    ours, theirs = torch.autograd.grad(found["loss"], inputs), torch.autograd.grad(expected, inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_pruned_adds_up_and_reaches_every_parameter():
    model, data, loss = (
        Model(),
        batch(),
        criterion(kind="pruned", s_range=3, warmup_steps=100, ctc_weight=0.3),
    )
    found = loss(model, **data, step=50)
    simple_scale, pruned_scale = 0.75, 0.55
    torch.testing.assert_close(
        found["loss"].detach(),
        simple_scale * found["simple"] + pruned_scale * found["transducer"] + 0.3 * found["ctc"],
    )
    found["loss"].backward()
    for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert data["encoder_out"].grad.abs().sum() > 0 and data["predictor_out"].grad.abs().sum() > 0
    # nothing flows into padding: frames and positions outside the utterance
    assert data["encoder_out"].grad[2, 3:].abs().sum() == 0
    assert data["predictor_out"].grad[2, 3:].abs().sum() == 0


@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_pruned_with_a_wide_band_is_full(rnnt_type):
    model, data = Model(), batch()
    wide = criterion(kind="pruned", s_range=LABELS + 1, rnnt_type=rnnt_type)(model, **data, step=10_000)
    full = criterion(kind="full", rnnt_type=rnnt_type)(model, **data, step=0)
    torch.testing.assert_close(wide["transducer"], full["transducer"])


def test_scales_follow_the_warm_up():
    loss = criterion(simple_scale=0.5, warmup_steps=2000)
    assert loss.scales(0) == pytest.approx((1.0, 0.1))
    assert loss.scales(1000) == pytest.approx((0.75, 0.55))
    assert loss.scales(2000) == loss.scales(9999) == pytest.approx((0.5, 1.0))
    assert criterion(warmup_steps=0).scales(0) == pytest.approx((0.5, 1.0))


def test_batch_sum_is_sum_of_utterances():
    """What data-parallel training relies on (am_scale 0: the unigram of the am-only term runs over the
    batch)."""
    model, data, loss = Model(), batch(), criterion(s_range=3, ctc_weight=0.2, lm_scale=0.25)
    together = loss(model, **data, step=500)["loss"]
    alone = sum(
        loss(model, **{key: value[b : b + 1] for key, value in data.items()}, step=500)["loss"]
        for b in range(BATCH)
    )
    torch.testing.assert_close(together, alone)


def test_more_labels_than_frames():
    """The band widens by itself, and CTC leaves out what it cannot align."""
    model, data, loss = Model(), batch(), criterion(s_range=2, ctc_weight=1.0)
    data["encoder_lengths"] = torch.tensor([1, 7, 3])
    found = loss(model, **data, step=0)
    assert all(value.isfinite() for value in found.values())
    found["loss"].backward()
    assert data["encoder_out"].grad.isfinite().all()


def test_empty_targets():
    model, data = Model(), batch()
    data.update(
        targets=torch.zeros(BATCH, 0, dtype=torch.int64),
        predictor_out=data["predictor_out"][:, :1],
        target_lengths=torch.zeros(BATCH, dtype=torch.int64),
    )
    pruned = criterion(kind="pruned", ctc_weight=0.1)(model, **data, step=10_000)
    full = criterion(kind="full")(model, **data, step=0)
    torch.testing.assert_close(pruned["transducer"], full["transducer"])
    pruned["loss"].backward()


def test_torchaudio_backend():
    try:
        importlib.import_module("torchaudio.functional")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not load with this torch: {error}")
    model, data = Model(), batch()
    ours = criterion(kind="full")(model, **data, step=0)["loss"]
    theirs = criterion(kind="full", backend="torchaudio")(model, **data, step=0)["loss"]
    torch.testing.assert_close(ours, theirs)


def test_missing_backend_is_known_at_the_start(monkeypatch):
    def absent(name):
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(transducer_module.importlib, "import_module", absent)
    with pytest.raises(UserError, match="libcudart"):
        criterion(kind="full", backend="torchaudio")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ctc"}, "kind"),
        ({"backend": "warp"}, "backend"),
        ({"s_range": 1}, "s_range"),
        ({"lm_scale": 0.7, "am_scale": 0.7}, "at most 1"),
        ({"fastemit": float("nan")}, "fastemit"),
        ({"ctc_weight": -1.0}, "ctc_weight"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"kind": "pruned", "backend": "torchaudio"}, "no pruned loss"),
        ({"kind": "full", "backend": "k2", "fastemit": 0.1}, "FastEmit"),
        ({"kind": "full", "backend": "torchaudio", "delay_penalty": 0.1}, "delay penalty"),
        ({"kind": "full", "backend": "torchaudio", "rnnt_type": "modified"}, "only the regular lattice"),
        ({"rnnt_type": "constrained"}, "rnnt_type"),
    ],
)
def test_bad_config(options, message):
    with pytest.raises(UserError, match=message):
        LossConfig(**options)


def test_ctc_weight_without_a_head():
    with pytest.raises(UserError, match="no CTC head"):
        criterion(ctc_weight=0.1)(Model(ctc=False), **batch(), step=0)
