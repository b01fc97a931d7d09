"""The full transducer (RNN-T) loss: of given logits, or fused with the joiner's output layer.

Shapes: B utterances, T encoder frames (40 ms), U labels, V symbols (blank included), J joiner width. Losses
are negative log-likelihoods in nats, one an utterance. The regular lattice: a label keeps the frame, a blank
moves on; the modified one (k2's name): either moves on, one symbol a frame. Sources: Graves 2012 (arXiv 1211.3711); FastEmit (arXiv 2010.11148); delay penalty as in k2 (issue
k2-fsa/k2#955).
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.errors import UserError
from asr.losses.checks import check_lattice, reduce_losses
from asr.losses.endpoint import EndpointPenalty, check_endpoint
from asr.losses.fused import Slicing, joiner_loss
from asr.losses.lattice import TYPES, delay_scores, run_lattice

BACKENDS = ("native", "torchaudio", "k2")
_INSTALL = {
    "torchaudio": "install the torchaudio release that matches this torch (the extra [torchaudio]; "
    "tested: 2.11.0 with torch 2.11.0)",
    "k2": "install the build of k2 made for exactly this Python, torch and CUDA "
    "from https://k2-fsa.github.io/k2/ ("
    "the package index has none for current torch, so there is no extra)",
}


def import_backend(name: str) -> ModuleType:
    """Import an optional back end (``torchaudio`` or ``k2``); UserError that says what to install if it does
    not load."""
    try:
        return importlib.import_module("torchaudio.functional" if name == "torchaudio" else name)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # a wheel for another torch fails in any of these ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"loss backend {name!r} does not load ({reason}): {_INSTALL[name]}, or use backend native"
        ) from error


def check_type(rnnt_type: str, backend: str = "native") -> None:
    """UserError for a lattice that there is not, or that the back end has not."""
    if rnnt_type not in TYPES:
        raise UserError(f"loss rnnt_type is {rnnt_type!r}, but must be one of {', '.join(TYPES)}")
    if rnnt_type != "regular" and backend == "torchaudio":
        raise UserError(
            "loss backend 'torchaudio' has only the regular lattice: set rnnt_type to regular or backend to native"
        )


def transducer_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "none",
    fastemit: float = 0.0,
    delay_penalty: float = 0.0,
    backend: str = "native",
    rnnt_type: str = "regular",
    endpoint: EndpointPenalty | None = None,
) -> Tensor:
    """Transducer loss of joiner logits: (B,) for reduction ``none``, a scalar for ``sum`` or ``mean`` (over
    utterances).

    logits (B, T, U + 1, V) unnormalised, float32, bfloat16, float16 or float64; 16-bit logits are summed in
    float32 and the loss is float32. targets (B, U) int, padded with anything; logit_lengths (B,) frames, 1 …
    T; target_lengths (B,), 0 … U. fastemit: lambda of FastEmit, it multiplies the gradient through label
    emissions by 1 + lambda, the value stays. delay_penalty: nats a frame, added to a label at frame t as
    ``delay_penalty * ((T_b - 1) / 2 - t)``. backend: ``native``; ``torchaudio`` (float32 or float16 logits,
    no fastemit, no delay_penalty, regular only); ``k2`` (no fastemit). rnnt_type: ``regular`` or ``modified``; with
    the latter an utterance with more labels than frames has loss inf and no gradient. endpoint: early and late penalty of
    endpoint tokens (native only), no effect on other labels. Raises ValueError for shapes, lengths, ids or a
    reduction that make no lattice; UserError for a back end that is not there or cannot do what is asked.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown loss backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    check_type(rnnt_type, backend)
    if logits.dim() != 4:
        raise ValueError(f"logits must be (B, T, U + 1, V), found shape {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, not {logits.dtype}")
    batch, frames, positions, vocab = logits.shape
    targets, logit_lengths, target_lengths = check_lattice(
        targets.to(logits.device),
        logit_lengths,
        target_lengths,
        batch,
        frames,
        positions,
        vocab,
        blank,
        reduction,
    )
    if backend == "native":
        options = (blank, float(fastemit), float(delay_penalty), rnnt_type, check_endpoint(endpoint, targets))
        losses = _LogitsLoss.apply(logits, targets, logit_lengths, target_lengths, *options)
        return reduce_losses(losses, reduction)
    if fastemit:
        raise UserError(f"loss backend {backend!r} has no FastEmit: set fastemit to 0 or use backend native")
    if endpoint is not None:
        raise UserError(f"loss backend {backend!r} has no endpoint penalty: use backend native")
    if backend == "torchaudio":
        return reduce_losses(
            _torchaudio_loss(logits, targets, logit_lengths, target_lengths, blank, delay_penalty), reduction
        )
    return reduce_losses(
        _k2_loss(logits, targets, logit_lengths, target_lengths, blank, delay_penalty, rnnt_type), reduction
    )


def fused_transducer_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
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
    """``transducer_loss`` of ``linear(activation(encoder + predictor))`` that holds one slice of the logits
    at a time.

    encoder (B, T, J) and predictor (B, U + 1, J): projected outputs; weight (V, J), bias (V,): the joiner's
    output layer; activation: ``relu`` or ``tanh``. ``slicing`` bounds the memory (bytes; default by device):
    when all logits fit into its ``hold_bytes`` they are kept for the backward pass, otherwise recomputed
    there. Under autocast the matrix products run in the autocast type, softmax and lattice in float32. The
    rest is as in `transducer_loss`.
    """
    check_type(rnnt_type)
    if encoder.dim() != 3 or predictor.dim() != 3 or weight.dim() != 2:
        raise ValueError(
            f"expected encoder (B, T, J), predictor (B, U + 1, J), weight (V, J), found shapes "
            f"{tuple(encoder.shape)}, {tuple(predictor.shape)}, {tuple(weight.shape)}"
        )
    if (
        len({encoder.shape[2], predictor.shape[2], weight.shape[1]}) != 1
        or encoder.shape[0] != predictor.shape[0]
    ):
        raise ValueError(
            f"encoder {tuple(encoder.shape)}, predictor {tuple(predictor.shape)} and weight "
            f"{tuple(weight.shape)} "
            f"do not agree on the batch or on the joiner's width"
        )
    targets, logit_lengths, target_lengths = check_lattice(
        targets.to(encoder.device),
        logit_lengths,
        target_lengths,
        encoder.shape[0],
        encoder.shape[1],
        predictor.shape[1],
        weight.shape[0],
        blank,
        reduction,
    )
    losses = joiner_loss(
        encoder,
        predictor,
        weight,
        bias,
        targets,
        logit_lengths,
        target_lengths,
        None,
        predictor.shape[1],
        activation,
        blank,
        fastemit,
        delay_penalty,
        slicing,
        rnnt_type,
        check_endpoint(endpoint, targets),
    )
    return reduce_losses(losses, reduction)


class _LogitsLoss(torch.autograd.Function):
    """Losses (B,) of logits (B, T, U + 1, V); the only large tensors are the logits and, in backward, their
    gradient."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, logits, targets, logit_lengths, target_lengths, blank, fastemit, delay_penalty, rnnt_type, endpoint
    ):
        batch, frames, positions, vocab = logits.shape
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        norms = torch.empty(batch, frames, positions, dtype=dtype, device=logits.device)
        for piece, norm in _pieces(logits, norms):
            torch.logsumexp(piece.to(dtype), dim=-1, out=norm)
        following = F.pad(targets, (0, 1), value=blank)[:, None, :, None].expand(batch, frames, positions, 1)
        label = logits.gather(3, following).squeeze(3).to(dtype) - norms
        stay = logits[..., blank].to(dtype) - norms
        if delay_penalty:
            label += delay_scores(logit_lengths, frames, delay_penalty).to(dtype)
        if endpoint is not None:
            label += endpoint.scores(frames).to(dtype)
        result = run_lattice(label, stay, logit_lengths, target_lengths, None, rnnt_type)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(
                logits, norms, targets, (result.label * (1.0 + fastemit)).to(dtype), result.blank.to(dtype)
            )
            ctx.blank = blank
        return -result.log_likelihood.to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        logits, norms, targets, label_use, blank_use = ctx.saved_tensors
        batch, frames, positions, _ = logits.shape
        dtype = norms.dtype
        scale = grad.to(dtype).view(-1, 1, 1)
        label_use, blank_use = label_use * scale, blank_use * scale
        following = F.pad(targets, (0, 1), value=ctx.blank)[:, None, :, None].expand(
            batch, frames, positions, 1
        )
        d_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for piece, out, norm, label, stay, ids in _pieces(
            logits, d_logits, norms, label_use, blank_use, following
        ):
            # softmax * occupancy - [label] - [blank], straight into the result where it is float32
            target = out if out.dtype == dtype else torch.empty(out.shape, dtype=dtype, device=out.device)
            torch.sub(piece, norm.unsqueeze(-1), out=target)
            target.exp_().mul_((label + stay).unsqueeze(-1))
            target[..., ctx.blank] -= stay
            target.scatter_add_(-1, ids, -label.unsqueeze(-1))
            if target is not out:
                out.copy_(target)
        return d_logits, *([None] * 8)


def _pieces(*tensors: Tensor):  # type: ignore[no-untyped-def]
    """Walk tensors (B, T, …) in step, a few frames of one utterance at a time, so that temporaries stay
    small."""
    first = tensors[0]
    batch, frames = first.shape[:2]
    limit = (4 << 20) if first.device.type == "cpu" else (256 << 20)
    frame_bytes = 4 * first[0, 0].numel()
    if batch * frames * frame_bytes <= limit:
        yield tensors
        return
    step = max(1, limit // frame_bytes)
    for b in range(batch):
        for t in range(0, frames, step):
            yield tuple(tensor[b, t : t + step] for tensor in tensors)


def _torchaudio_loss(logits, targets, logit_lengths, target_lengths, blank, delay_penalty):  # type: ignore[no-untyped-def]
    if delay_penalty:
        raise UserError(
            "loss backend 'torchaudio' has no delay penalty: set delay_penalty to 0 or use backend native"
        )
    if logits.dtype not in (torch.float32, torch.float16):
        raise UserError(
            f"loss backend 'torchaudio' needs float32 or float16 logits, not {logits.dtype}: train in fp32"
        )
    functional = import_backend("torchaudio")
    # it insists that the padding is tight
    frames, labels = int(logit_lengths.max()), int(target_lengths.max())
    return functional.rnnt_loss(
        logits[:, :frames, : labels + 1].contiguous(),
        targets[:, :labels].int().contiguous(),
        logit_lengths.int(),
        target_lengths.int(),
        blank=blank,
        reduction="none",
    )


def k2_boundary(logit_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """k2's ``boundary`` (B, 4): begin symbol, begin frame, end symbol, end frame."""
    zero = torch.zeros_like(logit_lengths)
    return torch.stack((zero, zero, target_lengths, logit_lengths), dim=1)


def _k2_loss(logits, targets, logit_lengths, target_lengths, blank, delay_penalty, rnnt_type):  # type: ignore[no-untyped-def]
    k2 = import_backend("k2")
    if targets.shape[1] < 1 or logits.shape[1] < targets.shape[1]:
        raise UserError("loss backend 'k2' needs 1 <= U <= T: use backend native for this batch")
    return k2.rnnt_loss(
        logits.float(),
        targets,
        blank,
        k2_boundary(logit_lengths, target_lengths),
        rnnt_type=rnnt_type,
        delay_penalty=delay_penalty,
        reduction="none",
    )
