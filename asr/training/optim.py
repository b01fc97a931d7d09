"""The optimizer and its learning rate: AdamW without decay on vectors, a rate that is a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from asr.training.recipe import OptimConfig


def learning_rate(config: OptimConfig, step: int, last_step: int, time_fraction: float = 0.0) -> float:
    """Learning rate of optimizer step `step` (the first is 0).

    Linear from 0 over `warmup_steps`, then cosine or linear down to `final_lr * lr` at `decay_steps` (or `last_step`),
    inverse-sqrt (`lr * sqrt(warmup / step)`, Vaswani et al. 2017), eden (`((s/d)^2 + 1)^-0.25`, the batch half of
    icefall's Eden) or constant.

    Args:
        config: the recipe's `optim`.
        step: optimizer steps done before this one.
        last_step: optimizer step at which the decay ends unless `decay_steps` says otherwise.
        time_fraction: part of the time limit used up, counted only with `decay_by: time`.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    end = config.decay_steps or last_step
    if config.schedule == "inverse-sqrt":
        return config.lr * math.sqrt(max(warmup, 1) / max(step, warmup, 1))
    if config.schedule == "eden":
        return config.lr * (((step - warmup) / max(end, 1)) ** 2 + 1.0) ** -0.25
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(end - warmup, 1)
    if config.decay_by == "time":
        progress = max(progress, time_fraction)
    progress = min(max(progress, 0.0), 1.0)
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1.0 - progress
    return config.lr * (config.final_lr + (1.0 - config.final_lr) * shape)


def make_optimizer(module: nn.Module, config: OptimConfig, fused: bool) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; those with fewer than two dimensions (biases, norms) do not decay.

    Args:
        fused: one kernel for all tensors; not with fp16, whose scaler would hide the true gradients from the guard.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)
