"""From files to what is added in the search: language models of either kind, and phrases."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from asr.decoding.fusion import Fusion, FusionSum
from asr.errors import UserError
from asr.tokens import Tokenizer


@dataclass(frozen=True)
class LanguageModels:
    """Language models to fuse, and by how much.

    ``score = log P(symbols | audio) + lm_scale * log P(symbols) - lodr_scale * log P_source(symbols)``; instead of the source
    model (LODR: a bigram of the training text), the search can subtract the transducer's own (`SearchConfig.ilm_scale`).
    """

    lm: str | os.PathLike[str] | None = None  # a folder of asr train, or an n-gram model (.arpa, .arpa.gz, .npz)
    lm_scale: float = 0.3
    lodr: str | os.PathLike[str] | None = None  # the same, of the text that the model was trained on
    lodr_scale: float = 0.2

    def __post_init__(self) -> None:
        for name in ("lm_scale", "lodr_scale"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number, not {getattr(self, name)}")

    def fusion(self, tokenizer: Tokenizer) -> Fusion | None:
        """What is added; None: nothing.

        Raises:
            UserError: a file that is not there, damaged, or of other tokens.
        """
        parts = []
        for path, scale in ((self.lm, self.lm_scale), (self.lodr, -self.lodr_scale)):
            if path is not None and scale != 0.0:
                parts.append(load_language_model(path, scale, tokenizer))
        return None if not parts else parts[0] if len(parts) == 1 else FusionSum(parts)


def load_language_model(path: str | os.PathLike[str], scale: float, tokenizer: Tokenizer) -> Fusion:
    """A language model as a fusion: a folder holds a neural one, a file an n-gram model.

    Raises:
        UserError: it is not there, damaged, or of other tokens.
    """
    if Path(path).is_dir():
        from asr.decoding.neural_lm import NeuralFusion
        from asr.models.lm import load_lm

        return NeuralFusion(load_lm(path, tokenizer).model, scale, tokenizer.endpoint_id)
    from asr.decoding.ngram import NgramFusion, NgramModel

    return NgramFusion(NgramModel.from_file(path, tokenizer), scale)
