"""Rescoring at the end of a segment: a second language model orders its n-best list anew.

The model sees whole hypotheses, the end of the sentence included, once a segment and not once a symbol: a large one costs little, and what
it prefers must have survived the search. (Fusion, `asr.decoding.fusion`, takes part in every step instead.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from asr.decoding.added import read_language_model
from asr.decoding.neural_lm import lm_scores
from asr.models.lm import LanguageModel
from asr.tokens import Tokenizer

if TYPE_CHECKING:
    from asr.decoding.nbest import NBest
    from asr.decoding.ngram import NgramModel


class Rescorer:
    """Orders n-best lists by ``score + scale * ln P(tokens, end) + token_bonus * number of tokens``.

    ``score`` is that of the search, with all that took part in it: a language model that was fused already counts twice. Endpoint tokens are
    no words: neither is their probability asked for, nor are they counted. Equal scores keep their order, so the result is deterministic.

    Args:
        lm: over the tokens of the acoustic model.
        scale: of its log-probability.
        token_bonus: added for each token (> 0: fewer deletions, since every further token costs probability).
        endpoint_id: that of the tokens (`Tokenizer.endpoint_id`).
    """

    def __init__(
        self, lm: LanguageModel | NgramModel, scale: float, token_bonus: float = 0.0, endpoint_id: int | None = None
    ) -> None:
        self.lm = lm
        self.scale = float(scale)
        self.token_bonus = float(token_bonus)
        self.endpoint_id = endpoint_id

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], scale: float, tokenizer: Tokenizer, token_bonus: float = 0.0
    ) -> Rescorer:
        """A folder of ``asr train``, or an n-gram model (``.arpa``, ``.arpa.gz``, ``.npz``).

        Raises:
            UserError: it is not there, damaged, or of other tokens.
        """
        return cls(read_language_model(path, tokenizer), scale, token_bonus, tokenizer.endpoint_id)

    def __call__(self, nbest: NBest) -> NBest:
        """The list with new scores, the best first."""
        extra = self.extra([hypothesis.tokens for hypothesis in nbest])
        rescored = [replace(h, score=h.score + value) for h, value in zip(nbest, extra, strict=True)]
        return sorted(rescored, key=lambda hypothesis: -hypothesis.score)

    def extra(self, hypotheses: Sequence[Sequence[int]]) -> list[float]:
        """What is added to the score of each token sequence."""
        kept = [[token for token in tokens if token != self.endpoint_id] for tokens in hypotheses]
        if isinstance(self.lm, LanguageModel):
            log_probs = lm_scores(self.lm, kept)
        else:
            log_probs = self.lm.scores(kept).tolist()
        return [self.scale * value + self.token_bonus * len(tokens) for value, tokens in zip(log_probs, kept, strict=True)]
