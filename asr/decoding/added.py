"""From files to what is added in the search: language models of either kind, and what rescores after it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr.decoding.fusion import Fusion, FusionSum
from asr.errors import UserError
from asr.tokens import Tokenizer

if TYPE_CHECKING:
    from asr.decoding.ngram import NgramModel
    from asr.decoding.rescoring import Rescorer
    from asr.models.lm import LanguageModel

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class LanguageModels:
    """Language models to fuse, and by how much.

    ``score = log P(symbols | audio) + lm_scale * log P(symbols) - lodr_scale * log P_source(symbols)``; instead of the source
    model (LODR: a bigram of the training text), the search can subtract the transducer's own (`SearchConfig.ilm_scale`).
    ``rescore`` orders the n-best list where a segment ends.
    """

    lm: FilePath | None = None  # a folder of asr train, or its model/, or an n-gram model (.arpa, .arpa.gz, .npz)
    lm_scale: float = 0.3
    lodr: FilePath | None = None  # the same, of the text that the model was trained on
    lodr_scale: float = 0.2
    rescore: FilePath | None = None  # the same
    rescore_scale: float = 0.3

    def __post_init__(self) -> None:
        for name in ("lm_scale", "lodr_scale", "rescore_scale"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number, not {getattr(self, name)}")

    def fusion(self, tokenizer: Tokenizer) -> Fusion | None:
        """What is added; None: nothing.

        Raises:
            UserError: a file that is not there, damaged, or of other tokens.
        """
        pairs = [(self.lm, self.lm_scale), (self.lodr, -self.lodr_scale)]
        return fused((load_language_model(path, scale, tokenizer), scale) for path, scale in pairs if path is not None and scale != 0.0)

    def rescorer(self, tokenizer: Tokenizer) -> Rescorer | None:
        """What rescores; None: nothing. Raises as `fusion`."""
        if self.rescore is None or self.rescore_scale == 0.0:
            return None
        from asr.decoding.rescoring import Rescorer

        return Rescorer.load(self.rescore, self.rescore_scale, tokenizer)


def fused(parts: Iterable[tuple[Fusion | None, float]]) -> Fusion | None:
    """The sum of language models with these scales, which are set; those of scale 0 are left out. None: nothing is left."""
    used = []
    for part, scale in parts:
        if part is not None and scale != 0.0:
            part.scale = scale  # type: ignore[assignment]  # a number that both kinds have, no parameter
            used.append(part)
    return None if not used else used[0] if len(used) == 1 else FusionSum(used)


def load_language_model(path: FilePath, scale: float, tokenizer: Tokenizer) -> Fusion:
    """A language model as a fusion: a folder holds a neural one, a file an n-gram model.

    Raises:
        UserError: it is not there, damaged, or of other tokens.
    """
    from asr.decoding.neural_lm import NeuralFusion
    from asr.decoding.ngram import NgramFusion
    from asr.models.lm import LanguageModel

    model = read_language_model(path, tokenizer)
    if isinstance(model, LanguageModel):
        return NeuralFusion(model, scale, tokenizer.endpoint_id)
    return NgramFusion(model, scale)


def read_language_model(path: FilePath, tokenizer: Tokenizer) -> LanguageModel | NgramModel:
    """A folder holds a neural model, a file an n-gram model.

    Raises:
        UserError: it is not there, damaged, or of other tokens.
    """
    if Path(path).is_dir():
        from asr.models.lm import load_lm

        return load_lm(model_folder(path), tokenizer).model
    from asr.decoding.ngram import NgramModel

    return NgramModel.from_file(path, tokenizer)


def model_folder(folder: FilePath) -> Path:
    """The folder itself, or the model/ in what asr train wrote (its ``output_dir``)."""
    from asr.models.lm import CONFIG_FILE

    path = Path(folder)
    return path / "model" if not (path / CONFIG_FILE).is_file() and (path / "model").is_dir() else path
