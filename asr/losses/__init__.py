"""Transducer losses: full, pruned, and the criterion a recipe trains with."""

from __future__ import annotations

from asr.losses.criterion import EndpointPenaltyConfig, LossConfig, TransducerCriterion
from asr.losses.endpoint import EndpointPenalty
from asr.losses.fused import Slicing
from asr.losses.pruned import (
    fused_pruned_transducer_loss,
    prune,
    pruned_transducer_loss,
    pruning_ranges,
    simple_transducer_loss,
)
from asr.losses.transducer import fused_transducer_loss, transducer_loss

__all__ = [
    "EndpointPenalty",
    "EndpointPenaltyConfig",
    "LossConfig",
    "Slicing",
    "TransducerCriterion",
    "fused_pruned_transducer_loss",
    "fused_transducer_loss",
    "prune",
    "pruned_transducer_loss",
    "pruning_ranges",
    "simple_transducer_loss",
    "transducer_loss",
]
