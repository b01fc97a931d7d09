"""The pruned transducer loss: a cheap additive joiner finds the band of the lattice that matters, the full
joiner scores the band.

Equal to k2 1.23.2's ``rnnt_loss_smoothed``, ``get_rnnt_prune_ranges``, ``do_rnnt_pruning`` and
``rnnt_loss_pruned``, regular and modified lattice, with the axes in this package's order: time before labels.

Shapes: B utterances, T encoder frames (40 ms), U labels, V symbols (blank included), J joiner width, R =
s_range kept positions a frame. Losses are nats an utterance. Source: Kuang et al. 2022, arXiv 2206.13236.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.losses.checks import check_lattice, reduce_losses
from asr.losses.endpoint import EndpointPenalty, check_endpoint
from asr.losses.fused import Slicing, joiner_loss
from asr.losses.lattice import lattice_loss
from asr.losses.transducer import check_type


class _AdditiveScores(torch.autograd.Function):
    """What the lattice needs of ``am + lm``: its normaliser (B, T, U + 1) and both sides' scores of next
    label and blank.

    One function rather than gathers and a product, as each of their gradients would be another (B, T, V)
    tensor.
    """

    @staticmethod
    def forward(ctx, am, lm, am_top, lm_top, following, blank):  # type: ignore[no-untyped-def]
        at_am = following.unsqueeze(1).expand(-1, am.shape[1], -1)  # (B, T, U + 1)
        at_lm = following.unsqueeze(2)
        am_exp, lm_exp = (am - am_top).exp_(), (lm - lm_top).exp_()
        total = _products(am_exp, lm_exp.transpose(1, 2)).add_(torch.finfo(am.dtype).tiny)
        ctx.save_for_backward(am_exp, lm_exp, total, following)
        ctx.blank = blank
        norm = total.log().add_(am_top).add_(lm_top.transpose(1, 2))
        return (
            norm,
            am.gather(2, at_am),
            lm.gather(2, at_lm),
            am[:, :, blank].clone(),
            lm[:, :, blank].clone(),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_norm, d_label_am, d_label_lm, d_blank_am, d_blank_lm):  # type: ignore[no-untyped-def]
        am_exp, lm_exp, total, following = ctx.saved_tensors
        share = d_norm / total
        d_am = _products(share, lm_exp).mul_(am_exp)
        d_lm = _products(share.transpose(1, 2), am_exp).mul_(lm_exp)
        d_am.scatter_add_(2, following.unsqueeze(1).expand(-1, d_am.shape[1], -1), d_label_am)
        d_lm.scatter_add_(2, following.unsqueeze(2), d_label_lm)
        d_am[:, :, ctx.blank] += d_blank_am
        d_lm[:, :, ctx.blank] += d_blank_lm
        return d_am, d_lm, None, None, None, None


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for (B, …) matrices; on the CPU one by one, which is several times faster than the batched
    product there."""
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for i in range(a.shape[0]):
        torch.mm(a[i], b[i], out=out[i])
    return out


def simple_log_probs(
    lm: Tensor,
    am: Tensor,
    targets: Tensor,
    blank: int = 0,
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, U + 1) of the next label and of the blank under the additive joiner ``am +
    lm``.

    lm (B, U + 1, V), am (B, T, V): unnormalised. With scales a, b > 0 the result is ``(1 - a - b) * joint + a
    * lm-only + b * am-only``; lm-only is lm normalised alone, am-only is am plus the batch's average label
    distribution (k2's "smoothed" loss; like k2, the average runs over padded positions too). The last label
    column has no label; it repeats the blank's id.
    """
    am_top, lm_top = am.detach().amax(dim=2, keepdim=True), lm.detach().amax(dim=2, keepdim=True)
    following = F.pad(targets, (0, 1), value=blank)  # (B, U + 1)
    norm, label_am, label_lm, blank_am, blank_lm = _AdditiveScores.apply(
        am, lm, am_top, lm_top, following, blank
    )
    label_lm, blank_am, blank_lm = label_lm.transpose(1, 2), blank_am.unsqueeze(2), blank_lm.unsqueeze(1)
    joint = 1.0 - lm_only_scale - am_only_scale
    label, stay = (label_am + label_lm - norm) * joint, (blank_am + blank_lm - norm) * joint
    if lm_only_scale:
        lm_norm = lm.logsumexp(dim=2).unsqueeze(1)  # (B, 1, U + 1)
        label = label + lm_only_scale * (label_lm - lm_norm)
        stay = stay + lm_only_scale * (blank_lm - lm_norm)
    if am_only_scale:
        tiny = torch.finfo(am.dtype).tiny
        unigram = lm.softmax(dim=2).mean(dim=(0, 1)) + tiny  # (V,)
        am_norm = ((am - am_top).exp() @ unigram).log().unsqueeze(2) + am_top  # (B, T, 1)
        log_unigram = unigram.log()
        label = label + am_only_scale * (label_am + log_unigram[following].unsqueeze(1) - am_norm)
        stay = stay + am_only_scale * (blank_am + log_unigram[blank] - am_norm)
    return label, stay


def simple_transducer_loss(
    lm: Tensor,
    am: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
    reduction: str = "none",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Loss of the additive joiner, and the occupancies (B, T, U + 1) of its label and blank edges (no
    gradient).

    lm (B, U + 1, V), am (B, T, V); 16-bit inputs are computed in float32. The occupancies are k2's
    ``px_grad`` and ``py_grad`` (transposed): what `pruning_ranges` wants. Raises ValueError as
    `transducer_loss` does.
    """
    if am.dim() != 3 or lm.dim() != 3 or am.shape[0] != lm.shape[0] or am.shape[2] != lm.shape[2]:
        raise ValueError(
            f"expected lm (B, U + 1, V) and am (B, T, V), found shapes {tuple(lm.shape)}, {tuple(am.shape)}"
        )
    targets, logit_lengths, target_lengths = check_lattice(
        targets.to(am.device),
        logit_lengths,
        target_lengths,
        am.shape[0],
        am.shape[1],
        lm.shape[1],
        am.shape[2],
        blank,
        reduction,
    )
    with torch.autocast(am.device.type, enabled=False):
        if am.dtype != torch.float64:
            am, lm = am.float(), lm.float()
        label, stay = simple_log_probs(lm, am, targets, blank, lm_only_scale, am_only_scale)
        penalty = check_endpoint(endpoint, targets)
        losses, label_use, blank_use = lattice_loss(
            label, stay, logit_lengths, target_lengths, None, fastemit, delay_penalty, rnnt_type, penalty
        )
    return reduce_losses(losses, reduction), (label_use, blank_use)


def needed_range(logit_lengths: Tensor, target_lengths: Tensor) -> int:
    """Smallest ``s_range`` with which a band can climb all labels of every utterance: 1 + ceil(U_b / T_b), at
    least 2."""
    climb = -torch.div(-target_lengths, logit_lengths, rounding_mode="floor")
    return max(2, 1 + int(climb.max()))


def pruning_ranges(
    label_occupancy: Tensor,
    blank_occupancy: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    s_range: int,
    rnnt_type: str = "regular",
) -> Tensor:
    """The label positions to keep at each frame, (B, T, R) int64 with R = min(s_range, U + 1).

    label_occupancy, blank_occupancy (B, T, U + 1) from `simple_transducer_loss`. ``ranges[b, t]`` are R
    consecutive positions; the first ones do not decrease, start at 0, climb by less than R a frame, and the
    last frame's band holds the last label. Raises ValueError when s_range < 2, or when an utterance has more
    than ``(s_range - 1) * T_b`` labels. In the modified lattice a path climbs by one a frame, and so do the ranges.
    """
    batch, frames, positions = blank_occupancy.shape
    if label_occupancy.shape != blank_occupancy.shape or logit_lengths.shape != (batch,):
        raise ValueError(
            f"occupancies must be (B, T, U + 1) and lengths (B,), found {tuple(label_occupancy.shape)}, "
            f"{tuple(blank_occupancy.shape)}, {tuple(logit_lengths.shape)}"
        )
    if s_range < 2:
        raise ValueError(f"s_range must be at least 2: with {s_range} no path survives")
    needed = needed_range(logit_lengths, target_lengths)
    width = min(s_range, positions)
    if width < min(needed, positions):
        raise ValueError(
            f"s_range {s_range} is too narrow: an utterance has so many labels a frame that it needs {needed}"
        )
    device = blank_occupancy.device
    # probability that a path stays in the window: blanks inside it, less what enters a window's first row
    # from below
    windows = blank_occupancy.unfold(2, width, 1).sum(dim=3)  # (B, T, U + 2 - R)
    entering = F.pad(label_occupancy[:, :, :-1], (1, 0))[:, :, : windows.shape[2]]
    start = (windows - entering).argmax(dim=2)  # (B, T)
    last = (target_lengths - width + 1).clamp(min=0).unsqueeze(1)
    t = torch.arange(frames, device=device)
    start = torch.where(t < logit_lengths.unsqueeze(1) - 1, start, last)
    start = _monotonic(start)
    # climbing by at most R - 1 a frame is monotonicity of (R - 1) t - start; clamping makes the first frame
    # start at 0
    ramp = (1 if rnnt_type == "modified" else width - 1) * t
    start = ramp - _monotonic(ramp - start).clamp(min=0)
    return start.unsqueeze(2) + torch.arange(width, device=device)


def _monotonic(x: Tensor) -> Tensor:
    """The largest non-decreasing sequence below x, along the last axis."""
    return x.flip(-1).cummin(dim=-1).values.flip(-1)


def prune(encoder: Tensor, predictor: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder (B, T, J) and predictor (B, U + 1, J) on the band: (B, T, R, J) each, the former an expanded
    view."""
    batch, frames, width = ranges.shape
    if encoder.shape[:2] != (batch, frames) or predictor.shape[0] != batch:
        raise ValueError(
            f"ranges {tuple(ranges.shape)} fit neither encoder {tuple(encoder.shape)} "
            f"nor predictor {tuple(predictor.shape)}"
        )
    rows = torch.arange(batch, device=ranges.device).view(batch, 1, 1)
    return encoder.unsqueeze(2).expand(-1, -1, width, -1), predictor[rows, ranges]


def pruned_transducer_loss(
    logits: Tensor,
    targets: Tensor,
    ranges: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "none",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> Tensor:
    """Loss of joiner logits (B, T, R, V) on the band ``ranges`` (B, T, R): k2's ``rnnt_loss_pruned``."""
    check_type(rnnt_type)
    if logits.dim() != 4 or ranges.shape != logits.shape[:3]:
        raise ValueError(
            f"expected logits (B, T, R, V) and ranges (B, T, R), "
            f"found {tuple(logits.shape)}, {tuple(ranges.shape)}"
        )
    batch, frames, _, vocab = logits.shape
    targets, logit_lengths, target_lengths = check_lattice(
        targets.to(logits.device),
        logit_lengths,
        target_lengths,
        batch,
        frames,
        targets.shape[-1] + 1,
        vocab,
        blank,
        reduction,
    )
    _check_ranges(ranges, targets.shape[1] + 1)
    if logits.dtype != torch.float64:
        logits = logits.float()
    norm = logits.logsumexp(dim=3)
    following = F.pad(targets, (0, 1), value=blank).gather(1, ranges.flatten(1)).view(ranges.shape)
    label = logits.gather(3, following.unsqueeze(3)).squeeze(3) - norm
    stay = logits[..., blank] - norm
    penalty = check_endpoint(endpoint, targets)
    losses, _, _ = lattice_loss(
        label, stay, logit_lengths, target_lengths, ranges[:, :, 0], fastemit, delay_penalty, rnnt_type, penalty
    )
    return reduce_losses(losses, reduction)


def fused_pruned_transducer_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ranges: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    activation: str = "relu",
    blank: int = 0,
    reduction: str = "none",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
    slicing: Slicing | None = None,
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> Tensor:
    """`pruned_transducer_loss` of ``linear(activation(encoder + predictor))`` on the band, a slice of the
    logits at a time.

    encoder (B, T, J), predictor (B, U + 1, J): projected outputs, not yet pruned; the rest as in
    `fused_transducer_loss`.
    """
    if encoder.dim() != 3 or predictor.dim() != 3 or encoder.shape[2] != predictor.shape[2]:
        raise ValueError(
            f"expected encoder (B, T, J) and predictor (B, U + 1, J), "
            f"found {tuple(encoder.shape)}, {tuple(predictor.shape)}"
        )
    batch, frames = encoder.shape[:2]
    targets, logit_lengths, target_lengths = check_lattice(
        targets.to(encoder.device),
        logit_lengths,
        target_lengths,
        batch,
        frames,
        predictor.shape[1],
        weight.shape[0],
        blank,
        reduction,
    )
    if ranges.dim() != 3 or ranges.shape[:2] != (batch, frames):
        raise ValueError(f"ranges must be (B, T, R), found shape {tuple(ranges.shape)}")
    _check_ranges(ranges, predictor.shape[1])
    losses = joiner_loss(
        encoder,
        predictor,
        weight,
        bias,
        targets,
        logit_lengths,
        target_lengths,
        ranges[:, :, 0].contiguous(),
        ranges.shape[2],
        activation,
        blank,
        fastemit,
        delay_penalty,
        slicing,
        rnnt_type,
        check_endpoint(endpoint, targets),
    )
    return reduce_losses(losses, reduction)


def _check_ranges(ranges: Tensor, positions: int) -> None:
    start = ranges[:, :, 0]
    wrong = (
        (start < 0).any()
        | (ranges[:, :, -1] >= positions).any()
        | (start[:, 1:] < start[:, :-1]).any()
        | (ranges != start.unsqueeze(2) + torch.arange(ranges.shape[2], device=ranges.device)).any()
    )
    if bool(wrong):
        raise ValueError(
            f"ranges must be consecutive positions within 0 … {positions - 1} that never move back in time"
        )
