"""The training loss of a transducer: full or pruned transducer loss, with an optional CTC loss on the
encoder.

Shapes: B utterances, T encoder frames (40 ms), U labels, De encoder width, Dp predictor width, V symbols. All
losses are sums over utterances, in nats; the caller divides by the token count of the global batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import UserError
from asr.losses.checks import check_lattice
from asr.losses.endpoint import EndpointPenalty
from asr.losses.pruned import (
    fused_pruned_transducer_loss,
    needed_range,
    prune,
    pruning_ranges,
    simple_transducer_loss,
)
from asr.losses.transducer import (
    BACKENDS,
    check_type,
    fused_transducer_loss,
    import_backend,
    k2_boundary,
    transducer_loss,
)

KINDS = ("pruned", "full")
BLANK = 0
FRAME_MS = 40  # an encoder frame


@dataclass
class EndpointPenaltyConfig:
    """What the endpoint token loses in the lattice for being said before or after the true end of speech.

    Needs ``data.endpoint`` and the native back end; the true end comes with the data (`asr.data.dataset`).
    """

    early: float = 0.0  # nats for each encoder frame (40 ms) before the frame in which the speech ends
    late: float = 0.0  # nats for each encoder frame after that one and the buffer
    buffer_ms: float = 0.0  # milliseconds after the end of speech that cost nothing; a multiple of 40

    def __post_init__(self) -> None:
        for name in ("early", "late", "buffer_ms"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UserError(f"loss endpoint_penalty.{name} is {value}, but must be a number from 0 up")
        if self.buffer_ms % FRAME_MS:
            raise UserError(
                f"loss endpoint_penalty.buffer_ms is {self.buffer_ms:g}, but must be a multiple of {FRAME_MS}"
            )

    def __bool__(self) -> bool:
        return bool(self.early or self.late)


@dataclass
class LossConfig:
    """What is minimised: ``pruned`` is several times faster and leaner than ``full`` and as accurate."""

    kind: str = "pruned"  # pruned | full
    backend: str = "native"  # native | torchaudio (full only) | k2
    rnnt_type: str = "regular"  # regular | modified: a symbol takes no frame | one symbol a frame, as the search does
    s_range: int = (
        5  # label positions kept at each frame (pruned); widened where a batch has too many labels a frame
    )
    simple_scale: float = 0.5  # weight of the additive joiner's loss after warm-up (it starts at 1)
    am_scale: float = 0.0  # share of the encoder-only term in the simple loss, 0 … 1
    lm_scale: float = 0.25  # share of the predictor-only term in the simple loss, 0 … 1
    warmup_steps: int = (
        2000  # optimiser steps in which the pruned loss goes from 0.1 to 1 and the simple one to simple_scale
    )
    fastemit: float = (
        0.0  # FastEmit lambda: gradient through labels is multiplied by 1 + lambda (0.001 … 0.01 is usual)
    )
    delay_penalty: float = 0.0  # nats a label gains for each encoder frame (40 ms) it comes earlier
    endpoint_penalty: EndpointPenaltyConfig = field(default_factory=EndpointPenaltyConfig)
    ctc_weight: float = 0.0  # weight of the CTC loss on the encoder's own head (0: none)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"loss kind is {self.kind!r}, but must be one of {', '.join(KINDS)}")
        if self.backend not in BACKENDS:
            raise UserError(f"loss backend is {self.backend!r}, but must be one of {', '.join(BACKENDS)}")
        check_type(self.rnnt_type, self.backend)
        if self.s_range < 2:
            raise UserError(
                f"loss s_range is {self.s_range}, but a band needs at least 2 label positions a frame"
            )
        for name in ("simple_scale", "am_scale", "lm_scale", "fastemit", "delay_penalty", "ctc_weight"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UserError(f"loss {name} is {value}, but must be a number from 0 up")
        if self.am_scale + self.lm_scale > 1:
            raise UserError(
                f"loss am_scale + lm_scale is {self.am_scale + self.lm_scale:g}, but must be at most 1"
            )
        if self.warmup_steps < 0:
            raise UserError(f"loss warmup_steps is {self.warmup_steps}, but must be 0 or more")
        if self.kind == "pruned" and self.backend == "torchaudio":
            raise UserError(
                "loss backend 'torchaudio' has no pruned loss: set kind to full, or backend to native"
            )
        if self.backend == "torchaudio" and self.delay_penalty:
            raise UserError(
                "loss backend 'torchaudio' has no delay penalty: set delay_penalty to 0 or backend to native"
            )
        if self.backend != "native" and self.fastemit:
            raise UserError(
                f"loss backend {self.backend!r} has no FastEmit: set fastemit to 0 or backend to native"
            )
        if self.backend != "native" and self.endpoint_penalty:
            raise UserError(
                f"loss backend {self.backend!r} has no endpoint penalty: set endpoint_penalty to 0 or backend to native"
            )


class TransducerCriterion(nn.Module):
    """The training loss. Owns the two linear layers of the simple joiner when the loss is pruned (training
    only, not shipped)."""

    def __init__(self, config: LossConfig, encoder_dim: int, predictor_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        if config.backend != "native":
            import_backend(config.backend)  # at the start, not after the data is prepared
        if config.kind == "pruned":
            self.simple_am: nn.Linear | None = nn.Linear(encoder_dim, vocab_size)
            self.simple_lm: nn.Linear | None = nn.Linear(predictor_dim, vocab_size)
        else:
            self.simple_am = self.simple_lm = None

    def scales(self, step: int) -> tuple[float, float]:
        """Weights of the simple and of the pruned loss at an optimiser step, as in icefall's recipes."""
        c = self.config
        progress = 1.0 if step >= c.warmup_steps else max(0, step) / c.warmup_steps
        return 1.0 - progress * (1.0 - c.simple_scale), 0.1 + 0.9 * progress

    def forward(
        self,
        model: Any,
        encoder_out: Tensor,
        encoder_lengths: Tensor,
        predictor_out: Tensor,
        targets: Tensor,
        target_lengths: Tensor,
        step: int,
        endpoint_frames: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sums over the batch: ``loss`` (differentiable) and, detached, its parts ``transducer``, ``simple``,
        ``ctc``.

        model: has ``joiner`` and, for CTC, ``ctc_head``. encoder_out (B, T, De) with encoder_lengths (B,)
        frames; predictor_out (B, U + 1, Dp) of the blank-prefixed targets (B, U), target_lengths (B,); step:
        optimiser steps done; endpoint_frames (B, U): for the endpoint penalty, the encoder frame in which the speech
        before each endpoint token ends, negative for other labels. ``transducer`` is the pruned loss when that is the kind (the simple one apart),
        0-d float32 like all of them. Utterances that CTC cannot align (more labels and repeats than frames)
        add nothing to ``ctc``. Raises ValueError for an impossible lattice; UserError for a CTC weight
        without a CTC head, or an endpoint penalty without ``endpoint_frames``.
        """
        c = self.config
        joiner = model.joiner
        targets, encoder_lengths, target_lengths = check_lattice(
            targets.to(encoder_out.device),
            encoder_lengths,
            target_lengths,
            encoder_out.shape[0],
            encoder_out.shape[1],
            predictor_out.shape[1],
            joiner.output.out_features,
            BLANK,
            "sum",
        )
        lattice = (encoder_lengths, target_lengths)
        endpoint = self._endpoint(endpoint_frames)
        zero = torch.zeros((), device=encoder_out.device)
        simple = ctc = zero
        if c.kind == "full":
            transducer = self._full(joiner, encoder_out, predictor_out, targets, *lattice, endpoint)
            loss = transducer
        else:
            simple, transducer = self._pruned(joiner, encoder_out, predictor_out, targets, *lattice, endpoint)
            simple_scale, pruned_scale = self.scales(step)
            loss = simple_scale * simple + pruned_scale * transducer
        if c.ctc_weight:
            ctc = self._ctc(model, encoder_out, targets, *lattice)
            loss = loss + c.ctc_weight * ctc
        return {
            "loss": loss,
            "transducer": transducer.detach(),
            "simple": simple.detach(),
            "ctc": ctc.detach(),
        }

    def _endpoint(self, frames: Tensor | None) -> EndpointPenalty | None:
        c = self.config.endpoint_penalty
        if not c:
            return None
        if frames is None:
            raise UserError(
                "loss endpoint_penalty is set, but the batch has no endpoint tokens with their times: set data.endpoint"
            )
        return EndpointPenalty(frames, c.early, c.late, c.buffer_ms / FRAME_MS)

    def _full(self, joiner, encoder_out, predictor_out, targets, encoder_lengths, target_lengths, endpoint):  # type: ignore[no-untyped-def]
        c = self.config
        if c.backend == "native":
            return fused_transducer_loss(
                joiner.project_encoder(encoder_out),
                joiner.project_predictor(predictor_out),
                joiner.output.weight,
                joiner.output.bias,
                targets,
                encoder_lengths,
                target_lengths,
                joiner.config.activation,
                BLANK,
                "sum",
                c.fastemit,
                c.delay_penalty,
                rnnt_type=c.rnnt_type,
                endpoint=endpoint,
            )
        logits = joiner(encoder_out, predictor_out).float()
        return transducer_loss(
            logits, targets, encoder_lengths, target_lengths, BLANK, "sum", 0.0, c.delay_penalty, c.backend, c.rnnt_type
        )

    def _pruned(self, joiner, encoder_out, predictor_out, targets, encoder_lengths, target_lengths, endpoint):  # type: ignore[no-untyped-def]
        c = self.config
        assert self.simple_am is not None and self.simple_lm is not None
        am, lm = self.simple_am(encoder_out), self.simple_lm(predictor_out)
        encoder, predictor = joiner.project_encoder(encoder_out), joiner.project_predictor(predictor_out)
        s_range = max(c.s_range, needed_range(encoder_lengths, target_lengths))
        if c.backend == "native":
            simple, occupancy = simple_transducer_loss(
                lm,
                am,
                targets,
                encoder_lengths,
                target_lengths,
                BLANK,
                c.lm_scale,
                c.am_scale,
                "sum",
                c.fastemit,
                c.delay_penalty,
                c.rnnt_type,
                endpoint,
            )
            ranges = pruning_ranges(*occupancy, encoder_lengths, target_lengths, s_range, c.rnnt_type)
            pruned = fused_pruned_transducer_loss(
                encoder,
                predictor,
                joiner.output.weight,
                joiner.output.bias,
                targets,
                ranges,
                encoder_lengths,
                target_lengths,
                joiner.config.activation,
                BLANK,
                "sum",
                c.fastemit,
                c.delay_penalty,
                rnnt_type=c.rnnt_type,
                endpoint=endpoint,
            )
            return simple, pruned
        k2 = import_backend("k2")
        if targets.shape[1] < 1 or encoder_out.shape[1] < targets.shape[1]:
            raise UserError("loss backend 'k2' needs 1 <= U <= T: use backend native for this batch")
        boundary = k2_boundary(encoder_lengths, target_lengths)
        with torch.autocast(am.device.type, enabled=False):
            simple, occupancy = k2.rnnt_loss_smoothed(
                lm.float(),
                am.float(),
                targets,
                BLANK,
                c.lm_scale,
                c.am_scale,
                boundary,
                reduction="sum",
                rnnt_type=c.rnnt_type,
                delay_penalty=c.delay_penalty,
                return_grad=True,
            )
        ranges = k2.get_rnnt_prune_ranges(*occupancy, boundary, s_range)
        logits = joiner.join(*prune(encoder, predictor, ranges)).float()
        pruned = k2.rnnt_loss_pruned(
            logits,
            targets,
            ranges,
            BLANK,
            boundary,
            rnnt_type=c.rnnt_type,
            delay_penalty=c.delay_penalty,
            reduction="sum",
        )
        return simple, pruned

    def _ctc(self, model, encoder_out, targets, encoder_lengths, target_lengths):  # type: ignore[no-untyped-def]
        if getattr(model, "ctc_head", None) is None:
            raise UserError(
                "loss ctc_weight is above 0, but the model has no CTC head: set model.ctc to true"
            )
        log_probs = model.ctc_head(encoder_out).float().log_softmax(dim=-1).transpose(0, 1)  # (T, B, V)
        return F.ctc_loss(
            log_probs,
            targets,
            encoder_lengths,
            target_lengths,
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
