"""A language model over the acoustic model's tokens, and its folder on disk.

An LSTM (Sundermeyer et al. 2012) that reads the tokens so far and gives the probability of the next one. Token 0, the
blank of the acoustic model, never occurs in a text and serves as the sentence boundary: as the first *input* it is the
start symbol, as an *output* it is the end of the sentence. So the vocabulary is that of the acoustic model, id for id.

Shapes: B/N batch, U tokens, E embedding, H hidden width, L layers, V symbols including 0.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.config import from_dict, load_yaml, to_dict
from asr.errors import UserError
from asr.models.folder import (
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    check_target,
    check_weights,
    read_weights,
    storable,
    write_folder,
)
from asr.tokens import MODEL_FILE, TABLE_FILE, Tokenizer

BOUNDARY = 0  # start of a sentence in, end of it out
ARCHITECTURE = "lstm_language_model"


@dataclass
class LanguageModelConfig:
    """The widths of a language model; the vocabulary is that of its tokens."""

    embed_dim: int = 256  # E
    hidden_dim: int = 512  # H
    layers: int = 1  # L
    dropout: float = 0.2  # on embeddings, between layers and before the output
    tie_weights: bool = True  # the output shares the embedding's matrix (Press & Wolf 2017); H != E adds a projection

    def __post_init__(self) -> None:
        for name in ("embed_dim", "hidden_dim", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"language model {name} is {getattr(self, name)}, but must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"language model dropout is {self.dropout}, but must be at least 0 and below 1")


class LanguageModelState(NamedTuple):
    """Hidden and cell vectors after the tokens so far: both (N, L, H), batch axis 0."""

    hidden: Tensor
    cell: Tensor


class LanguageModel(nn.Module):
    """LSTM language model with the two doors of every network part."""

    def __init__(self, vocab_size: int, config: LanguageModelConfig) -> None:
        """``vocab_size`` counts symbol 0.

        Raises:
            UserError: fewer than two symbols.
        """
        super().__init__()
        if vocab_size < 2:
            raise UserError(f"a language model over {vocab_size} symbols: there must be at least 2")
        self.config = config
        self.vocab_size = vocab_size
        self.layers, self.hidden_dim = config.layers, config.hidden_dim
        self.tied = config.tie_weights
        self.embedding = nn.Embedding(vocab_size, config.embed_dim)
        nn.init.normal_(self.embedding.weight, std=config.embed_dim**-0.5)
        between = config.dropout if config.layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.embed_dim, config.hidden_dim, config.layers, batch_first=True, dropout=between
        )
        self.dropout = nn.Dropout(config.dropout)
        width = config.embed_dim if self.tied else config.hidden_dim
        self.project: nn.Module = (
            nn.Identity() if width == config.hidden_dim else nn.Linear(config.hidden_dim, width)
        )
        # Tied, the matrix is the embedding's and appears once in the parameters and on disk.
        self.output: nn.Module = nn.Identity() if self.tied else nn.Linear(width, vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """(…, H) -> (…, V), float32."""
        x = self.dropout(self.project(hidden))
        logits = F.linear(x, self.embedding.weight) if self.tied else self.output(x)
        return torch.log_softmax((logits + self.bias).float(), dim=-1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sentences: tokens (B, U) int64 without start or end, lengths (B,) -> log P (B, U + 1, V), lengths + 1.

        Row u is the distribution of token u after the start and the tokens before it; of sentence b, row lengths[b] is
        that of its end (column 0). Rows beyond are padding. Natural logarithms.
        """
        y = F.pad(tokens.clamp(min=0), [1, 0])
        hidden, _ = self.lstm(self.dropout(self.embedding(y)))
        return self._log_probs(hidden), lengths + 1

    @torch.jit.export
    def losses(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """-ln P of every token and of the end: (B, U + 1), 0 where a sentence is padded. Arguments as ``forward``."""
        log_probs, rows = self.forward(tokens, lengths)
        index = torch.arange(tokens.size(1) + 1, device=tokens.device)[None, :]
        targets = F.pad(tokens.clamp(min=0), [0, 1])
        targets = torch.where(index < lengths[:, None], targets, torch.zeros_like(targets))  # 0 = BOUNDARY
        nll = -log_probs.gather(2, targets[:, :, None])[:, :, 0]
        return torch.where(index < rows[:, None], nll, torch.zeros_like(nll))

    @torch.jit.export
    def initial_state(self, batch: int) -> LanguageModelState:
        """State before the start symbol: zeros. The first ``step`` takes token 0."""
        zeros = self.bias.new_zeros([batch, self.layers, self.hidden_dim])
        return LanguageModelState(zeros, zeros)

    @torch.jit.export
    def step(self, token: Tensor, state: LanguageModelState) -> tuple[Tensor, LanguageModelState]:
        """One token a row: (N,) int64, 0 at the start -> log P of the next one (N, V), column 0 the end; new state."""
        x = self.dropout(self.embedding(token.clamp(min=0)))
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        weights = self.lstm._flat_weights  # four a layer; nn.LSTM itself takes three times as long for one token
        for i in range(self.layers):
            w_ih, w_hh, b_ih, b_hh = weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3]
            x, c = torch.lstm_cell(x, [state.hidden[:, i], state.cell[:, i]], w_ih, w_hh, b_ih, b_hh)  # type: ignore[arg-type]
            hidden.append(x)
            cell.append(c)
            if i + 1 < self.layers:
                x = self.dropout(x)
        return self._log_probs(x), LanguageModelState(torch.stack(hidden, 1), torch.stack(cell, 1))


@dataclass(frozen=True)
class LoadedLanguageModel:
    """What a language-model folder holds."""

    model: LanguageModel  # in eval mode, float32, on the CPU
    tokenizer: Tokenizer
    config: dict[str, Any]  # config.yaml as it stands; what save_lm was given as `extra` is under "extra"
    folder: Path


def tokens_hash(tokenizer: Tokenizer) -> str:
    """What two models must share to work together: SHA-256 of ``tokens.model``."""
    return hashlib.sha256(tokenizer.model).hexdigest()


def save_lm(
    folder: str | os.PathLike[str],
    model: LanguageModel,
    tokenizer: Tokenizer,
    card: str,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Writes model.safetensors, config.yaml, tokens.model, tokens.txt and README.md, all or nothing.

    Args:
        card: text of README.md.
        extra: plain values kept under "extra" in config.yaml.
        dtype: how weights are stored: "float32", "float16" or "bfloat16"; they are loaded as float32.
        overwrite: replace a language-model folder that is there.

    Raises:
        UserError: the folder exists (or is another kind of model), model and tokens do not match, a weight is NaN or
            too large for ``dtype``, or the disk does not take it.
    """
    target = Path(folder)
    _check_ours(target, overwrite)
    if model.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"cannot save {target}: the model has {model.vocab_size} symbols, the tokenizer {tokenizer.vocab_size}"
        )
    weights = {name: storable(name, value, dtype) for name, value in model.state_dict().items()}
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": {"name": ARCHITECTURE, "vocab_size": model.vocab_size, **to_dict(model.config)},
        "tokens_hash": tokens_hash(tokenizer),
        "weights": dtype,
        "extra": to_dict(dict(extra or {})),
    }
    write_folder(target, lambda: _check_ours(target, overwrite), weights, config, tokenizer, card)
    return target


def load_lm(folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> LoadedLanguageModel:
    """Reads and checks a language-model folder.

    Args:
        tokenizer: that of the acoustic model it is to work with; its tokens must be the same.

    Raises:
        UserError: no such folder, a missing or broken file, another format version or architecture, weights that do
            not fit config.yaml, tokens that are not those it was trained on, or not the acoustic model's.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"no such language-model folder: {path}")
    missing = [name for name in FILES if name not in (TABLE_FILE, CARD_FILE) and not (path / name).is_file()]
    if missing:
        raise UserError(f"{path} is not a language-model folder: it has no {', '.join(missing)}")
    config = load_yaml(path / CONFIG_FILE)
    vocab_size, model_config = _read_config(config, path)
    own = Tokenizer.from_file(path / MODEL_FILE)
    if config.get("tokens_hash") != tokens_hash(own) or own.vocab_size != vocab_size:
        raise UserError(f"{path / MODEL_FILE} does not hold the tokens this language model was trained on")
    if tokenizer is not None and tokens_hash(tokenizer) != tokens_hash(own):
        raise UserError(
            f"the language model {path} has other tokens ({own.vocab_size}, hash {tokens_hash(own)[:12]}) than the "
            f"acoustic model ({tokenizer.vocab_size}, hash {tokens_hash(tokenizer)[:12]}): train it with tokens.path "
            "of that model"
        )
    weights = read_weights(path / WEIGHTS_FILE)
    model = LanguageModel(vocab_size, model_config)
    check_weights(model.state_dict(), weights, path / WEIGHTS_FILE)
    model.load_state_dict(weights)
    return LoadedLanguageModel(model.eval(), own, config, path)


def _read_config(config: dict[str, Any], path: Path) -> tuple[int, LanguageModelConfig]:
    version, architecture = config.get("format_version"), config.get("architecture")
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has model format version {version}, this program reads version {FORMAT_VERSION}")
    if not isinstance(architecture, dict):
        raise UserError(f"missing key 'architecture' in {path / CONFIG_FILE}")
    values = dict(architecture)
    name, vocab_size = values.pop("name", None), values.pop("vocab_size", None)
    if name != ARCHITECTURE:
        raise UserError(f"{path} is not a language model: its architecture is {name!r}, not {ARCHITECTURE}")
    if not isinstance(vocab_size, int) or vocab_size < 2:
        raise UserError(f"{path / CONFIG_FILE}: vocab_size is {vocab_size!r}, but must be a number above 1")
    return vocab_size, from_dict(LanguageModelConfig, values, f"{path / CONFIG_FILE}, architecture")


def _check_ours(target: Path, overwrite: bool) -> None:
    """An existing folder may be replaced if it is allowed and holds a language model, not an acoustic one."""
    check_target(target, overwrite)
    if (target / CONFIG_FILE).is_file():
        architecture = load_yaml(target / CONFIG_FILE).get("architecture")
        name = architecture.get("name") if isinstance(architecture, dict) else None
        if name != ARCHITECTURE:
            raise UserError(f"{target} is not overwritten: it holds {name!r}, not a language model")
