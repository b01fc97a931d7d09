"""The alignment branch: a small head on a frozen encoder that tells letters, so that words can be placed in time.

A transducer may emit a word long after it was said; a branch that shares the encoder and is trained for alignment tells
when it was said, and recognition stays as it is (arXiv 2105.00858 uses phones; here letters, which need no lexicon, or the
model's own tokens).

The branch listens to one layer of the encoder and gives ``split`` frames for each encoder frame: four feature frames are
stacked in an encoder frame, so it still knows more than 40 ms.

Symbols are 0 = blank, 1 = word boundary (silence), then letters or pieces. The boundary also stands before the first and
after the last word.

On disk the branch is two files beside the model: ``alignment.safetensors`` and ``alignment.yaml``.

Shapes: B batch, T feature frames of 10 ms, T' encoder frames of 40 ms, D encoder width, V symbols of the branch.
"""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from asr.config import dump_yaml, from_dict, load_yaml
from asr.errors import UserError
from asr.features import ENCODER_FRAME_MS, SUBSAMPLING
from asr.models.attention import AttentionPlan
from asr.models.emformer import Emformer, EmformerState
from asr.models.folder import read_weights

BLANK, BOUNDARY = 0, 1
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
FORMAT_VERSION = 1
WEIGHTS_FILE, CONFIG_FILE = "alignment.safetensors", "alignment.yaml"
KINDS = ("letters", "tokens")
MOST_SPLIT = SUBSAMPLING
NEVER = -30.0  # natural logarithm of the probability of a symbol that must not be


@dataclasses.dataclass
class BranchConfig:
    """Shape of the branch and what was learned about its times."""

    symbols: str = "letters"  # letters | tokens (the model's)
    vocab_size: int = len(LETTERS) + 2  # V, blank and boundary included
    input_dim: int = 512  # D
    layer: int = 0  # encoder layer it listens to, 1 = the first; 0 = the output of the encoder
    hidden: int = 256  # units
    context: int = 2  # encoder frames that it sees before and after a frame
    split: int = 2  # frames of the branch in an encoder frame of 40 ms: 1, 2 or 4
    start_bias: float = 0.0  # seconds that aligned starts are late, measured in training; subtracted
    end_bias: float = 0.0  # seconds that aligned ends are late; subtracted

    def __post_init__(self) -> None:
        if self.symbols not in KINDS:
            raise UserError(f"branch symbols are {self.symbols!r}, but must be one of {', '.join(KINDS)}")
        if self.split not in (1, 2, 4):
            raise UserError(f"branch split is {self.split}, but must be 1, 2 or 4")
        for name, least in (("vocab_size", 3), ("input_dim", 1), ("hidden", 1), ("context", 0), ("layer", 0)):
            if getattr(self, name) < least:
                raise UserError(f"branch {name} is {getattr(self, name)}, but must be at least {least}")
        for name in ("start_bias", "end_bias"):
            if not abs(getattr(self, name)) < 1.0:  # NaN, too
                raise UserError(f"branch {name} is {getattr(self, name)} s, but must be below a second")


class AlignmentBranch(nn.Module):
    """Layer norm, a convolution over 2 ``context`` + 1 frames, symbols: (B, T', D) -> (B, split * T', V) log-probabilities.

    Alignment waits for the end of a segment, so it may look ahead. Beyond the ends of what is given are zeros.
    """

    def __init__(self, config: BranchConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.input_dim)
        self.hidden = nn.Conv1d(config.input_dim, config.hidden, 2 * config.context + 1, padding=config.context)
        self.output = nn.Linear(config.hidden, config.split * config.vocab_size)

    @property
    def frame_seconds(self) -> float:
        """Seconds of one frame of the branch."""
        return ENCODER_FRAME_MS / 1000 / self.config.split

    def logits(self, x: Tensor) -> Tensor:
        """(B, T', D) -> (B, split * T', V)."""
        y = self.hidden(self.norm(x).transpose(1, 2)).transpose(1, 2)
        y = self.output(F.gelu(y))
        return y.reshape(x.size(0), -1, self.config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T', D) of the layer -> (B, split * T', V) natural logarithms of probabilities.

        A trained branch gives the blank no probability (asr/training/branch.py says why).
        """
        return self.logits(x).log_softmax(-1)

    @torch.no_grad()
    def divide_by_prior(self, log_prior: Tensor) -> None:
        """Build (V,) log priors into the output's bias and rule the blank out: what is said then counts more than what is
        often said, and `forward` still gives probabilities."""
        bias = self.output.bias.view(self.config.split, -1)
        bias -= log_prior.to(bias)
        bias[:, BLANK] = NEVER
        self.output.weight.view(self.config.split, self.config.vocab_size, -1)[:, BLANK] = 0.0


def layer_outputs(encoder: Emformer, features: Tensor, lengths: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Output of one encoder layer for whole utterances.

    Args:
        encoder: the encoder, in evaluation mode.
        features, lengths: (B, T, F) features and (B,) frames of 10 ms.
        layer: 1 … number of layers; 0: the last. The layers above it are not computed.

    Returns:
        (B, ceil(T/4), D), (B,) encoder frames.

    Raises:
        UserError: no such layer.
    """
    count = len(encoder.layers)
    if not 0 <= layer <= count:
        raise UserError(f"the encoder has {count} layers, no layer {layer}")
    if layer in (0, count):
        x, frames = encoder(features, lengths)
        return x, frames
    total = features.size(1)
    frames = -(-total // SUBSAMPLING)
    out_lengths = torch.div(lengths + (SUBSAMPLING - 1), SUBSAMPLING, rounding_mode="floor")
    if frames == 0:
        return features.new_zeros(features.size(0), 0, encoder.dim), out_lengths
    beyond = torch.arange(total, device=features.device)[None, :] >= lengths[:, None]
    features = features.masked_fill(beyond[:, :, None], 0.0)
    chunks = -(-frames // encoder.chunk)
    padding = SUBSAMPLING * (chunks * encoder.chunk + encoder.look_ahead) - total
    x = encoder.front(F.pad(features, [0, 0, 0, padding]))
    x = x.unfold(1, encoder.chunk + encoder.look_ahead, encoder.chunk).transpose(2, 3).contiguous()
    plan = AttentionPlan(chunks, encoder.chunk, encoder.look_ahead, encoder.left_context, encoder.memory_size, x.device)
    memory = x.new_zeros([x.size(0), 0, encoder.dim])
    if encoder.memory_size > 0:
        memory = x[:, :, : encoder.chunk].mean(2)
    for i in range(layer):
        x, memory = encoder.layers[i](x, memory, plan)
    return x[:, :, : encoder.chunk].reshape(x.size(0), -1, encoder.dim)[:, :frames], out_lengths


def step_with_layer(
    encoder: Emformer, x: Tensor, state: EmformerState, layer: int
) -> tuple[Tensor, Tensor, EmformerState]:
    """``encoder.step`` that also gives what one layer gave.

    Args:
        x: (N, 4(U+R), F) features of one chunk.
        state: as for ``encoder.step``.
        layer: 1 … number of layers; 0: the last.

    Returns:
        Encoder output (N, U, D) and the new state, as of ``encoder.step``, and between them the layer's output (N, U, D).
    """
    if layer in (0, encoder.num_layers):
        y, state = encoder.step(x, state)
        return y, y, state
    x = encoder.front(x)
    hidden = encoder.step_mask(state.past)
    mask = torch.zeros([], dtype=x.dtype, device=x.device).masked_fill(hidden, float("-inf"))
    carry = x[:, : encoder.chunk].mean(1, keepdim=True)
    slots: list[Tensor] = []
    keys: list[Tensor] = []
    values: list[Tensor] = []
    kept = x
    for i in range(encoder.num_layers):
        module: Any = encoder.layers[i]
        slots.append(carry)
        x, carry, key, value = module.step(
            x, carry, state.memory[i], state.keys[i], state.values[i], mask, encoder.step_entries
        )
        keys.append(key)
        values.append(value)
        if i + 1 == layer:
            kept = x[:, : encoder.chunk]
    memory = state.memory
    if encoder.memory_size > 0:
        memory = torch.cat([memory[:, :, 1:], torch.stack(slots)], dim=2)
    past = (state.past + encoder.chunk).clamp(max=encoder.max_past)
    state = EmformerState(memory, encoder.move_on(state.keys, keys), encoder.move_on(state.values, values), past)
    return x[:, : encoder.chunk], kept, state


# ---------------------------------------------------------------- spelling


def letter_ids(word: str) -> list[int]:
    """Symbols of a word as letters, each once where it is doubled ("three" is t h r e); empty if it has none.

    Case and accents do not matter; hyphens and other punctuation are left out. A digit or a letter of another alphabet
    makes a word unspellable: the list is empty.
    """
    plain = unicodedata.normalize("NFKD", word.replace("\u2019", "'")).lower()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    if any(c.isalnum() and c not in LETTERS for c in plain):
        return []
    ids = [LETTERS.index(c) + BOUNDARY + 1 for c in plain if c in LETTERS]
    return merge_repeats(ids) if re.search("[a-z]", plain) else []


def merge_repeats(ids: list[int]) -> list[int]:
    """Without a blank between them, two equal neighbours cannot be told from one that is held."""
    return [symbol for i, symbol in enumerate(ids) if i == 0 or symbol != ids[i - 1]]


def speller(config: BranchConfig, tokenizer: Any) -> Callable[[str], list[int]]:
    """The function word -> symbols of a branch; an empty list is a word that it cannot spell."""
    if config.symbols == "letters":
        return letter_ids

    def spell(word: str) -> list[int]:
        try:
            return merge_repeats([token + BOUNDARY for token in tokenizer.encode(word, strict=True)])
        except UserError:
            return []

    return spell


def symbol_count(symbols: str, tokenizer: Any) -> int:
    """V: blank and boundary, then letters, or the model's tokens in their order."""
    return BOUNDARY + 1 + (len(LETTERS) if symbols == "letters" else tokenizer.vocab_size - 1)


# ---------------------------------------------------------------- on disk


def save_branch(folder: str | os.PathLike[str], branch: AlignmentBranch, extra: dict[str, Any] | None = None) -> None:
    """Write ``alignment.safetensors`` and ``alignment.yaml`` into an existing folder, each whole or not at all.

    Args:
        extra: plain values kept under "extra": how the branch was made.

    Raises:
        UserError: a weight is not finite, or the disk does not take it.
    """
    target = Path(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in branch.state_dict().items()}
    bad = next((name for name, value in weights.items() if not bool(torch.isfinite(value).all())), None)
    if bad:
        raise UserError(f"the alignment branch cannot be saved: {bad} holds NaN or infinity")
    config = {"format_version": FORMAT_VERSION, **dataclasses.asdict(branch.config), "extra": extra or {}}
    try:
        temporary = target / f".{WEIGHTS_FILE}.{os.getpid()}.tmp"
        save_file(weights, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors makes it private to the user
        temporary.replace(target / WEIGHTS_FILE)
        dump_yaml(config, target / CONFIG_FILE)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot save {target / WEIGHTS_FILE}: {getattr(error, 'strerror', None) or error}") from None


def has_branch(folder: str | os.PathLike[str]) -> bool:
    """Whether a model folder has an alignment branch."""
    return (Path(folder) / WEIGHTS_FILE).is_file()


def load_branch(folder: str | os.PathLike[str], encoder: Emformer | None = None) -> AlignmentBranch:
    """Read the branch of a model folder, in evaluation mode on the CPU.

    Args:
        encoder: if given, its width and depth must be those that the branch was made for.

    Raises:
        UserError: there is none, it is damaged, of another version, or made for another encoder.
    """
    path = Path(folder)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (path / name).is_file():
            raise UserError(f"{path} has no {name}: make an alignment branch with asr train-branch --model {path}")
    file = path / CONFIG_FILE
    values = load_yaml(file)
    if values.pop("format_version", None) != FORMAT_VERSION:
        raise UserError(f"{file} is of another format version than {FORMAT_VERSION}, which this program reads")
    values.pop("extra", None)
    config = from_dict(BranchConfig, values, str(file))
    if encoder is not None and config.input_dim != encoder.dim:
        raise UserError(f"{file} is made for an encoder of width {config.input_dim}, this one has {encoder.dim}")
    if encoder is not None and config.layer > len(encoder.layers):
        raise UserError(f"{file} listens to layer {config.layer}, the encoder has {len(encoder.layers)}")
    weights = read_weights(path / WEIGHTS_FILE)
    branch = AlignmentBranch(config)
    expected = branch.state_dict()
    if expected.keys() != weights.keys() or any(expected[name].shape != weights[name].shape for name in expected):
        raise UserError(f"{path / WEIGHTS_FILE} does not fit {CONFIG_FILE}: other names or shapes of weights")
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise UserError(f"{path / WEIGHTS_FILE} holds NaN or infinity")
    branch.load_state_dict(weights)
    return branch.eval()
