"""Values, gradients and bands of real k2 1.23.2 (k2_reference.npz, made by make_k2_reference.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from asr.losses.pruned import prune, pruned_transducer_loss, pruning_ranges, simple_transducer_loss
from asr.losses.transducer import transducer_loss

FILE = Path(__file__).with_name("k2_reference.npz")
CASES = ("plain", "scales", "icefall", "delay", "covering", "narrow", "short", "modified", "modified-wide", "modified-narrow")


def lattice_type(name: str) -> str:
    return "modified" if name.startswith("modified") else "regular"


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


def case(reference: dict[str, np.ndarray], name: str) -> dict[str, torch.Tensor]:
    found = {
        key.split("/")[1]: torch.from_numpy(value)
        for key, value in reference.items()
        if key.startswith(name + "/")
    }
    return {key: value.long() if value.dtype == torch.int16 else value for key, value in found.items()}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_simple_loss(reference, name):
    c = case(reference, name)
    _, lm_scale, am_scale, delay = c["options"].tolist()
    am, lm = c["am"].clone().requires_grad_(), c["lm"].clone().requires_grad_()
    loss, (label_use, blank_use) = simple_transducer_loss(
        lm,
        am,
        c["targets"],
        c["logit_lengths"],
        c["target_lengths"],
        0,
        lm_scale,
        am_scale,
        delay_penalty=delay,
        rnnt_type=lattice_type(name),
    )
    close(loss, c["simple"])
    # theirs: (B, U, T + 1), T if modified, and (B, U + 1, T); their frame T and our label column U have no edge
    close(label_use[:, :, :-1], c["px_grad"].transpose(1, 2)[:, : am.shape[1]], 2e-5)
    close(blank_use, c["py_grad"].transpose(1, 2), 2e-5)
    assert label_use[:, :, -1].abs().max() == 0
    (loss * c["weight"]).sum().backward()
    close(am.grad, c["am_grad"], 2e-5)
    close(lm.grad, c["lm_grad"], 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_pruning_ranges(reference, name):
    c = case(reference, name)
    blank_use = c["py_grad"].transpose(1, 2)
    label_use = torch.nn.functional.pad(c["px_grad"].transpose(1, 2)[:, : blank_use.shape[1]], (0, 1))
    lengths = (c["logit_lengths"], c["target_lengths"])
    ranges = pruning_ranges(label_use, blank_use, *lengths, int(c["options"][0]), lattice_type(name))
    assert torch.equal(ranges, c["ranges"])


@pytest.mark.parametrize("name", CASES)
def test_pruned_loss(reference, name):
    c = case(reference, name)
    am, lm = prune(c["am"], c["lm"], c["ranges"])
    logits = (torch.tanh(am + lm) * 3).requires_grad_()
    loss = pruned_transducer_loss(
        logits,
        c["targets"],
        c["ranges"],
        c["logit_lengths"],
        c["target_lengths"],
        delay_penalty=float(c["options"][3]),
        rnnt_type=lattice_type(name),
    )
    close(loss, c["pruned"])
    (loss * c["weight"]).sum().backward()
    close(logits.grad, c["pruned_grad"], 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_full_loss(reference, name):
    c = case(reference, name)
    logits = (torch.tanh(c["am"].unsqueeze(2) + c["lm"].unsqueeze(1)) * 3).requires_grad_()
    loss = transducer_loss(
        logits,
        c["targets"],
        c["logit_lengths"],
        c["target_lengths"],
        delay_penalty=float(c["options"][3]),
        rnnt_type=lattice_type(name),
    )
    close(loss, c["full"])
    (loss * c["weight"]).sum().backward()
    close(logits.grad, c["full_grad"], 2e-5)
