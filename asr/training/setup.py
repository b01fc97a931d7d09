"""What a run needs before its first step: tokens, feature statistics, a model, weights to start from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from asr.config import to_dict
from asr.data.config import DataConfig
from asr.data.corpora import load_cuts
from asr.data.dataset import cut_text
from asr.data.loader import load_corpora, training_statistics
from asr.data.statistics import FeatureStatistics
from asr.errors import UserError
from asr.models.folder import load_model
from asr.models.transducer import ModelConfig, Transducer
from asr.pretrained import resolve
from asr.tokens import MODEL_FILE, Tokenizer
from asr.training.recipe import Recipe

log = logging.getLogger("asr.training")


def check_sources(config: DataConfig) -> None:
    """Opens the sources that are not needed before training, dev and noise: a mistake should not wait for that.

    Speakers are compared later, by the loader: listing a large training corpus takes minutes.

    Raises:
        UserError: a source does not exist, is of no known kind, or has a bad line.
    """
    for source in config.dev:
        load_cuts(source)
    if config.augment.noise.probability > 0:
        for source in config.augment.noise.sources:
            load_cuts(source, need_text=False)


def prepare_tokens(recipe: Recipe) -> Tokenizer:
    """The tokenizer of `tokens.path`, or one trained on the training transcripts (kept in output_dir/prepared).

    Raises:
        UserError: no such file, unreadable text, or more tokens wanted than the text yields.
    """
    config = recipe.tokens
    if config.path:
        return Tokenizer.from_file(config.path)
    folder = recipe.folder() / "prepared"
    made_of = {
        "tokens": to_dict(config),
        "train": _identity(recipe.data.train),
        "text": _identity(config.text),
    }
    place = folder / f"tokens-{_digest(made_of)}"
    if (place / MODEL_FILE).is_file():
        return Tokenizer.from_file(place)
    tokenizer = Tokenizer.train(_texts(recipe), config.vocab_size, config.type, config.endpoint)
    temporary = folder / f".{place.name}.{os.getpid()}"
    tokenizer.save(temporary)
    try:
        temporary.rename(place)
    except OSError:  # another process of the run was first, with the same result
        for file in temporary.iterdir():
            file.unlink()
        temporary.rmdir()
    log.info("trained %d %s tokens into %s", tokenizer.vocab_size, config.type, place)
    return tokenizer


def prepare_statistics(recipe: Recipe) -> FeatureStatistics:
    """Mean and standard deviation of the training features, measured once and kept in output_dir/prepared."""
    if recipe.data.statistics:
        return training_statistics(recipe.data, recipe.features)
    made_of = {
        "features": to_dict(recipe.features),
        "train": _identity(recipe.data.train),
        "seconds": recipe.data.statistics_seconds,
    }
    place = recipe.folder() / "prepared" / f"statistics-{_digest(made_of)}.json"
    if place.is_file():
        return FeatureStatistics.load(place)
    statistics = training_statistics(recipe.data, recipe.features)
    statistics.save(place)
    log.info("measured the features on %d frames (10 ms) into %s", statistics.frames, place)
    return statistics


def make_model(recipe: Recipe, vocab_size: int) -> Transducer:
    """The recipe's architecture with random weights.

    Raises:
        UserError: the recipe's vocabulary size is not that of its tokens.
    """
    config = ModelConfig(**{name: getattr(recipe.model, name) for name in to_dict(ModelConfig())})
    if config.vocab_size not in (0, vocab_size):
        raise UserError(
            f"model.vocab_size is {config.vocab_size}, but the tokens are {vocab_size}: leave it out."
        )
    config.vocab_size = vocab_size
    return Transducer(config)


def initialise(model: Transducer, recipe: Recipe) -> str:
    """Copies the weights of `init_from` whose names and shapes fit; the feature statistics come with the encoder.

    Returns:
        A sentence saying what was copied and what was not.

    Raises:
        UserError: no such model, or nothing of it fits.
    """
    config = recipe.init_from
    source = load_model(resolve(config.path))
    if source.features != recipe.features:
        raise UserError(
            f"init_from.path {config.path} was trained on {source.features.kind} features, not these."
        )
    found = source.model.state_dict()
    copied: list[str] = []
    misfits: list[str] = []
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if config.parts and name.split(".")[0] not in config.parts:
                continue
            if name in found and found[name].shape == value.shape:
                value.copy_(found[name])
                copied.append(name)
            else:
                shapes = (
                    f"{tuple(found[name].shape)} there, {tuple(value.shape)} here"
                    if name in found
                    else "not there"
                )
                misfits.append(f"{name} ({shapes})")
    if not copied:
        raise UserError(f"init_from: nothing of {config.path} fits this model.")
    total = len(model.state_dict())
    parts = ", ".join(sorted({name.split(".")[0] for name in copied}))
    text = f"weights from {config.path}: copied {len(copied)} of {total} tensors ({parts})"
    if misfits:
        text += f"; left random: {', '.join(misfits[:5])}" + (
            f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        )
    return text


def _texts(recipe: Recipe) -> list[str]:
    if recipe.tokens.text:
        texts: list[str] = []
        for name in recipe.tokens.text:
            try:
                texts += Path(name).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"tokens.text: cannot read {name}: {error}.") from None
        return texts
    return [cut_text(cut) for cuts in load_corpora(recipe.data.train) for cut in cuts]


def _identity(sources: list[Any]) -> list[Any]:
    """Sources with size and time of their files, so that a changed corpus is prepared again."""
    result = []
    for source in sources:
        value = to_dict(source)
        path = Path(value if isinstance(value, str) else value["path"])
        stamps = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in (path, path / "manifest.jsonl")
            if file.is_file()
        ]
        result.append([value, stamps])
    return result


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
