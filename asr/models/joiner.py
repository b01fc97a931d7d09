"""Joiner of the transducer: separate projections of encoder and predictor, added, activated, projected to
symbols.

Shapes: B batch, T encoder frames, U tokens including the leading blank, J joiner width, V symbols including
blank 0.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.errors import UserError

ACTIVATIONS = ("relu", "tanh")


@dataclass
class JoinerConfig:
    """Width and activation of the joiner."""

    dim: int = 1024
    activation: str = "relu"  # relu | tanh
    projection_norm: bool = True  # layer norm after each projection, as torchaudio's emformer_rnnt_base

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"joiner activation is '{self.activation}', but must be one of {', '.join(ACTIVATIONS)}"
            )
        if self.dim < 1:
            raise UserError(f"joiner dim is {self.dim}, but must be at least 1")


class Joiner(nn.Module):
    """logits = output(act(project_encoder(x) + project_predictor(y))).

    As the two projections are separate, the internal language model can be read off (ILME, arXiv
    2011.01991), and decoders project each side once.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, vocab_size: int, config: JoinerConfig) -> None:
        super().__init__()
        self.config = config
        self.use_tanh = config.activation == "tanh"
        self.encoder_linear = nn.Linear(encoder_dim, config.dim)
        self.predictor_linear = nn.Linear(predictor_dim, config.dim)
        self.encoder_norm = nn.LayerNorm(config.dim) if config.projection_norm else nn.Identity()
        self.predictor_norm = nn.LayerNorm(config.dim) if config.projection_norm else nn.Identity()
        self.output = nn.Linear(config.dim, vocab_size)

    @torch.jit.export
    def project_encoder(self, x: Tensor) -> Tensor:
        """(…, De) encoder outputs -> (…, J)."""
        return self.encoder_norm(self.encoder_linear(x))

    @torch.jit.export
    def project_predictor(self, y: Tensor) -> Tensor:
        """(…, Dp) predictor outputs -> (…, J)."""
        return self.predictor_norm(self.predictor_linear(y))

    def activate(self, x: Tensor) -> Tensor:
        """The joiner's non-linearity."""
        return torch.tanh(x) if self.use_tanh else torch.relu(x)

    @torch.jit.export
    def join(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """Projected encoder (…, J) and predictor (…, J), broadcast against each other -> logits (…, V)."""
        return self.output(self.activate(encoder + predictor))

    def forward(self, encoder_out: Tensor, predictor_out: Tensor) -> Tensor:
        """encoder_out (B, T, De), predictor_out (B, U, Dp) -> logits (B, T, U, V)."""
        encoder = self.project_encoder(encoder_out).unsqueeze(2)
        return self.join(encoder, self.project_predictor(predictor_out).unsqueeze(1))

    @torch.jit.export
    def internal_lm_logits(self, predictor_out: Tensor) -> Tensor:
        """predictor_out (…, Dp) -> (…, V-1) logits of symbols 1 … V-1 with the encoder's contribution zeroed
        (ILME)."""
        return self.output(self.activate(self.project_predictor(predictor_out)))[..., 1:]
