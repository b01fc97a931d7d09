"""The fast linear layer gives what nn.Linear gives, and steps aside where it must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr.models import linear as room


def twice(inputs: int, outputs: int, call) -> list[list[torch.Tensor]]:
    """Values and gradients of ``call(module, x)`` and of the module itself."""
    module = nn.Linear(inputs, outputs)
    results = []
    for f in (call, lambda m, x: m(x)):
        torch.manual_seed(1)
        x = torch.randn(2, 3, room.MIN_ROWS // 4, inputs, requires_grad=True)
        y = f(module, x)
        gradients = torch.autograd.grad(y, [x, *module.parameters()], torch.randn_like(y))
        results.append([y, *gradients])
    return results


@pytest.mark.parametrize("inputs,outputs", [(24, 40), (40, 24), (16, 16), (7, 1)])
def test_values_and_gradients_equal_nn_linear(inputs, outputs):
    for fast, plain in zip(*twice(inputs, outputs, room.linear), strict=True):
        assert fast.shape == plain.shape and fast.is_contiguous()
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-4)


def test_weight_slices_and_frozen_weights():
    module = nn.Linear(16, 24)
    x = torch.randn(room.MIN_ROWS, 16, requires_grad=True)
    y = room.affine(x, module.weight[8:], module.bias[8:])
    torch.testing.assert_close(y, module(x)[:, 8:])
    y.sum().backward()
    assert not module.weight.grad[:8].any() and bool(module.weight.grad[8:].all())
    module.requires_grad_(False)
    (d_x,) = torch.autograd.grad(room.linear(module, x).sum(), x)
    torch.testing.assert_close(d_x, module.weight.sum(0).expand_as(d_x))


def test_hooks_wrappers_and_other_number_formats_take_the_ordinary_way(monkeypatch):
    calls = []
    monkeypatch.setattr(room, "_OneDnnLinear", type("Spy", (), {"apply": lambda *a: calls.append(a)}))
    x = torch.randn(room.MIN_ROWS, 8)
    hooked = nn.Linear(8, 8)
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    torch.testing.assert_close(room.linear(hooked, x), hooked(x))
    scaled = nn.Linear(8, 8)
    nn.utils.parametrizations.weight_norm(scaled)
    torch.testing.assert_close(room.linear(scaled, x), scaled(x))
    double = nn.Linear(8, 8).double()
    assert room.linear(double, x.double()).dtype == torch.float64
    plain = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert room.linear(plain, x).dtype == torch.bfloat16
    with torch.no_grad():
        room.linear(plain, x)
    room.linear(plain, x[:-1])
    assert calls == []
    if room._onednn is not None:
        room.linear(plain, x)
        assert len(calls) == 1
