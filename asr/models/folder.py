"""A model on disk: a folder of five files, none of them pickled.

``model.safetensors`` (weights), ``config.yaml`` (format version, architecture, features and the hash of their
definition, streaming numbers), ``tokens.model``, ``tokens.txt``, ``README.md`` (the model's card). Writing is
all or nothing; loading checks the version, the feature definition, the tokens and every shape, and says in
one sentence what is wrong.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.config import dump_yaml, from_dict, load_yaml, to_dict
from asr.errors import UserError
from asr.features import (
    ENCODER_FRAME_MS,
    FRAME_MS,
    NUM_MEL_BINS,
    SAMPLE_RATE,
    FeatureConfig,
    feature_hash,
)
from asr.models.transducer import ModelConfig, Transducer
from asr.tokens import MODEL_FILE, TABLE_FILE, Tokenizer

FORMAT_VERSION = 1
ARCHITECTURE = "emformer_transducer"
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.yaml", "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, MODEL_FILE, TABLE_FILE, CARD_FILE)
# made from the weights, and of no use with others: they may be there, and go when the folder is overwritten
LEARNT = ("confidence.safetensors", "confidence.yaml", "alignment.safetensors", "alignment.yaml")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """What a model folder holds."""

    model: Transducer  # in eval mode, float32, on the CPU
    tokenizer: Tokenizer
    features: FeatureConfig
    config: dict[str, Any]  # config.yaml as it stands; what save_model was given as `extra` is under "extra"
    folder: Path


def save_model(
    folder: str | os.PathLike[str],
    model: Transducer,
    tokenizer: Tokenizer,
    features: FeatureConfig,
    card: str,
    extra: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: the folder to make; its parents are made too.
        card: text of README.md: data, licence, error rates, latency and the commands that gave the numbers.
        extra: plain values kept under "extra" in config.yaml.
        dtype: how weights are stored: "float32", or "float16" / "bfloat16" for half the size; they are loaded
            as float32.
        overwrite: replace an existing model folder.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the model and the tokens do not match, a weight is NaN or too large for
            ``dtype``, or the disk does not take it.
    """
    target = Path(folder)
    check_target(target, overwrite)
    if model.config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"cannot save {target}: the model has {model.config.vocab_size} symbols, "
            f"the tokenizer {tokenizer.vocab_size}"
        )
    weights = {name: storable(name, value, dtype) for name, value in model.state_dict().items()}
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": {"name": ARCHITECTURE, **to_dict(model.config)},
        "features": to_dict(features),
        "feature_hash": feature_hash(features),
        "streaming": streaming_numbers(model.config),
        "weights": dtype,
        "extra": to_dict(dict(extra or {})),
    }
    write_folder(target, lambda: check_target(target, overwrite), weights, config, tokenizer, card)
    return target


def write_folder(
    target: Path, check: Callable[[], None], weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer, card: str
) -> None:
    """Write the files of a model, acoustic or not, whole or not at all.

    Args:
        check: raises UserError if ``target`` must not be replaced; asked once more just before.

    Raises:
        UserError: as ``check``, or the disk does not take it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
        ) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            save_file(weights, new / WEIGHTS_FILE, metadata={"format": "pt"})
            (new / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private to the user
            dump_yaml(config, new / CONFIG_FILE)
            tokenizer.save(new)
            (new / CARD_FILE).write_text(card, encoding="utf-8")
            check()  # somebody may have made it meanwhile
            old = Path(temporary) / "old"
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot save {target}: {getattr(error, 'strerror', None) or error}") from None


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"cannot read {file}: {error}") from None


def load_model(folder: str | os.PathLike[str]) -> LoadedModel:
    """Read and check a model folder.

    Raises:
        UserError: no such folder, a missing or broken file, another format version, architecture or feature
            definition, tokens that do not match, or weights whose names or shapes differ from what
            config.yaml describes.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"no such model folder: {path}")
    missing = [name for name in FILES[:-1] if not (path / name).is_file()]
    if missing:
        raise UserError(f"{path} is not a model folder: it has no {', '.join(missing)}")
    config = load_yaml(path / CONFIG_FILE)
    model_config, features = _read_config(config, path)
    tokenizer = Tokenizer.from_file(path / MODEL_FILE)
    if (path / TABLE_FILE).read_text(encoding="utf-8", errors="replace") != tokenizer.table():
        raise UserError(
            f"{path / TABLE_FILE} does not list the pieces of {MODEL_FILE}: they must belong together"
        )
    if model_config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"{path}: config.yaml has {model_config.vocab_size} symbols, {MODEL_FILE} {tokenizer.vocab_size}"
        )
    weights = read_weights(path / WEIGHTS_FILE)
    model = Transducer(model_config)
    check_weights(model.state_dict(), weights, path / WEIGHTS_FILE)
    model.load_state_dict(weights)
    return LoadedModel(model.eval(), tokenizer, features, config, path)


def streaming_numbers(config: ModelConfig) -> dict[str, int]:
    """The numbers a runtime needs to stream this model, in ms, Hz and feature frames of 10 ms."""
    encoder = config.encoder
    per_frame = ENCODER_FRAME_MS // FRAME_MS
    return {
        "sample_rate": SAMPLE_RATE,
        "feature_frame_ms": FRAME_MS,
        "encoder_frame_ms": ENCODER_FRAME_MS,
        "chunk_ms": encoder.chunk_ms,
        "look_ahead_ms": encoder.look_ahead_ms,
        "left_context_ms": encoder.left_context_ms,
        "memory_slots": encoder.memory_size,
        "chunk_frames": encoder.chunk * per_frame,
        "window_frames": (encoder.chunk + encoder.look_ahead) * per_frame,
    }


def check_target(target: Path, overwrite: bool) -> None:
    """Raises UserError if there is something that must not be replaced."""
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise UserError(f"{target} exists already: choose another folder, or allow it to be overwritten")
    if target.is_symlink() or not target.is_dir():
        raise UserError(f"{target} is not a folder and is not overwritten")
    foreign = sorted(p.name for p in target.iterdir() if p.name not in (*FILES, *LEARNT))
    if foreign:
        raise UserError(
            f"{target} is not overwritten: it holds files that are not a model's ({', '.join(foreign[:3])})"
        )


def storable(name: str, value: Tensor, dtype: str) -> Tensor:
    """A weight as it is written: of type ``dtype``, on the CPU. Raises UserError if it is not finite, or not in that type."""
    if dtype not in DTYPES:
        raise UserError(f"weights cannot be stored as {dtype!r}: choose one of {', '.join(DTYPES)}")
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value.clone().contiguous()
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"the model cannot be saved: {name} holds NaN or infinity")
    stored = value.to(
        DTYPES[dtype], copy=True
    ).contiguous()  # copied: safetensors refuses tensors that share memory
    if not bool(torch.isfinite(stored).all()):
        raise UserError(f"the model cannot be saved as {dtype}: {name} holds values beyond its range")
    return stored


def _read_config(config: dict[str, Any], path: Path) -> tuple[ModelConfig, FeatureConfig]:
    file = path / CONFIG_FILE
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has model format version {version}, this program reads version {FORMAT_VERSION}"
        )
    for key in ("architecture", "features"):
        if not isinstance(config.get(key), dict):
            raise UserError(f"missing key '{key}' in {file}")
    architecture = dict(config["architecture"])
    name = architecture.pop("name", None)
    if name != ARCHITECTURE:
        raise UserError(f"{file}: unknown architecture {name!r}, this program knows {ARCHITECTURE}")
    model_config = from_dict(ModelConfig, architecture, f"{file}, architecture")
    features = from_dict(FeatureConfig, config["features"], f"{file}, features")
    if config.get("feature_hash") != feature_hash(features):
        raise UserError(
            f"{path} was trained with another definition of {features.kind!r} features "
            f"(hash {config.get('feature_hash')}) than this program computes ({feature_hash(features)})"
        )
    if model_config.encoder.input_dim != NUM_MEL_BINS:
        raise UserError(
            f"{file}: the encoder takes {model_config.encoder.input_dim} features, there are {NUM_MEL_BINS}"
        )
    known = streaming_numbers(model_config)
    if "streaming" in config and config["streaming"] != known:
        found = config["streaming"] if isinstance(config["streaming"], dict) else {}
        name = next((name for name in known if found.get(name) != known[name]), None)
        which = f" ({name} is {found.get(name)}, the architecture has {known[name]})" if name else ""
        raise UserError(f"{file}: the streaming numbers do not agree with the architecture{which}")
    return model_config, features


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        what = [f"lacks {_some(missing)}"] * bool(missing) + [f"has the unknown {_some(unknown)}"] * bool(
            unknown
        )
        raise UserError(f"{file} does not fit {CONFIG_FILE}: it {' and '.join(what)}")
    for name, value in expected.items():
        if value.shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} where the architecture has {tuple(value.shape)}"
            raise UserError(f"{file} does not fit {CONFIG_FILE}: {name} has shape {shapes}")
        if value.is_floating_point() != found[name].is_floating_point():
            raise UserError(f"{file}: {name} is of type {found[name].dtype} where {value.dtype} belongs")
        if value.is_floating_point() and not bool(torch.isfinite(found[name]).all()):
            raise UserError(f"{file}: {name} holds NaN or infinity")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
