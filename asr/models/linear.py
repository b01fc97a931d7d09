"""Linear layers of long float32 batches on CPU through oneDNN, about a tenth faster there than torch's
default BLAS.

Shapes: … any leading axes, I inputs, O outputs. Everything else (GPU, autocast, short inputs, wrapped or
hooked modules, a torch without the operator) takes torch's ordinary way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_ROWS = 256  # below, repacking the weights costs more than it brings

_onednn: Any = None
if torch.backends.mkldnn.is_available():
    # The operator torch.compile puts in place of nn.Linear on CPU; its name is torch's own, so it may go one
    # day.
    _onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape
        rows = grad.reshape(-1, outputs)
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = _onednn(rows, weight.t(), None, "none", [], "").view(x.shape)
        if ctx.needs_input_grad[1]:
            x = x.reshape(-1, inputs)
            # oneDNN likes results that are wide rather than tall.
            wide = outputs <= inputs
            d_weight = _onednn(rows.t(), x.t(), None, "none", [], "") if wide else rows.t() @ x
        if ctx.needs_input_grad[2]:
            d_bias = rows.sum(0)
        return d_x, d_weight, d_bias


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (…, I) @ weight (O, I)^T + bias (O,) -> (…, O), the fast way where there is one."""
    if (
        _onednn is not None
        and not torch.compiler.is_compiling()  # nor exporting: their graphs hold plain linear layers
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and x.numel() >= MIN_ROWS * x.size(-1)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
    ):
        return _OneDnnLinear.apply(x.contiguous(), weight, bias)
    return F.linear(x, weight, bias)


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), the fast way for a plain nn.Linear that nobody has hooked or parametrised."""
    if type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks:
        if not module._backward_hooks and not module._backward_pre_hooks and module.bias is not None:
            return affine(x, module.weight, module.bias)
    return module(x)
