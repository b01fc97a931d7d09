"""The transducer: encoder, predictor, joiner and an optional CTC head, built from one config.

Shapes: B batch, T feature frames of 10 ms, T' encoder frames of 40 ms, U tokens, D encoder width, P
predictor width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import UserError
from asr.models.emformer import Emformer, EmformerConfig
from asr.models.joiner import Joiner, JoinerConfig
from asr.models.predictor import PredictorConfig, make_predictor

BLANK = 0


@dataclass
class ModelConfig:
    """Everything that fixes the shapes of a transducer."""

    vocab_size: int = 0  # symbols including blank; 0: filled from the tokenizer
    encoder: EmformerConfig = field(default_factory=EmformerConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)
    ctc: bool = False  # add a CTC head on the encoder, for training


class Transducer(nn.Module):
    """A recurrent neural network transducer (arXiv 1211.3711) with an Emformer encoder; blank is symbol 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 2:
            raise UserError(
                f"model vocab_size is {config.vocab_size}, but must be at least 2 (blank and one symbol)"
            )
        self.config = config
        self.encoder = Emformer(config.encoder)
        self.predictor = make_predictor(config.predictor, config.vocab_size)
        self.joiner = Joiner(
            self.encoder.output_dim, self.predictor.output_dim, config.vocab_size, config.joiner
        )
        self.ctc_head = nn.Linear(self.encoder.output_dim, config.vocab_size) if config.ctc else None

    def encode(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, F), lengths (B,) feature frames -> (B, T', D), (B,) encoder frames."""
        return self.encoder(features, lengths)

    def predict(self, tokens: Tensor) -> Tensor:
        """tokens (B, U) int64 without blanks -> (B, U+1, P): a leading blank is put before them."""
        tokens = F.pad(tokens, (1, 0), value=BLANK)
        return self.predictor(tokens, tokens.new_full((tokens.size(0),), tokens.size(1)))[0]

    def forward(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, F), lengths (B,), tokens (B, U) -> logits (B, T', U+1, V), (B,) encoder frames."""
        encoder_out, lengths = self.encode(features, lengths)
        return self.joiner(encoder_out, self.predict(tokens)), lengths

    def num_parameters(self) -> int:
        """Number of trainable numbers in the model."""
        return sum(p.numel() for p in self.parameters())


def named_config(name: str, vocab_size: int = 0) -> ModelConfig:
    """A known architecture: "emformer_rnnt_base" (76.7 M with 4097 symbols), "small" (15 M with 500), "tiny"
    (1.9 M with 500).

    Raises UserError for another name.
    """
    if name == "emformer_rnnt_base":  # torchaudio.models.emformer_rnnt_base
        return ModelConfig(vocab_size=vocab_size)
    if name == "small":
        return ModelConfig(
            vocab_size=vocab_size,
            encoder=EmformerConfig(dim=256, heads=4, ffn_dim=1024, layers=16, left_context_ms=1280),
            predictor=PredictorConfig(kind="lstm", embed_dim=256, hidden_dim=320, layers=1, dropout=0.2),
            joiner=JoinerConfig(dim=512),
        )
    if name == "tiny":
        return ModelConfig(
            vocab_size=vocab_size,
            encoder=EmformerConfig(dim=128, heads=4, ffn_dim=512, layers=9, left_context_ms=1280),
            predictor=PredictorConfig(kind="stateless", embed_dim=128, dropout=0.1),
            joiner=JoinerConfig(dim=128),
        )
    raise UserError(f"unknown model '{name}': known are emformer_rnnt_base, small, tiny")
