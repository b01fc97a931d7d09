"""One training run, from a recipe to a model folder, resumable at any step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision

from asr.config import dump_yaml, from_dict, to_dict
from asr.errors import UserError
from asr.models.transducer import ModelConfig, Transducer
from asr.tokens import Tokenizer
from asr.training.checkpoint import (
    AtomicCheckpointIO,
    Checkpoints,
    move_aside,
    read_checkpoint,
    step_checkpoints,
)
from asr.training.command import is_first_process, train_command
from asr.training.control import Control, seed_everything
from asr.training.data import SpeechData
from asr.training.export import export_folder
from asr.training.progress import Metrics, Progress
from asr.training.recipe import LanguageModelRecipe, Recipe, TrainerConfig, check_recipe, differences
from asr.training.setup import check_sources, initialise, make_model, prepare_statistics, prepare_tokens
from asr.training.task import TransducerTask

__all__ = ["FitResult", "fit", "train_command"]

log = logging.getLogger("asr.training")

RESUME = ("auto", "never", "force")
AnyRecipe = Recipe | LanguageModelRecipe


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        finished: the step or time limit was reached; False: a signal stopped it.
        step: optimizer steps done, in all parts of the run.
        minutes: wall-clock time of all parts, preparation included.
        checkpoint: the newest resumable checkpoint.
        model: the model folder, made when the run has finished.
    """

    finished: bool
    step: int
    minutes: float
    checkpoint: Path
    model: Path | None


def fit(recipe: Recipe, resume: str = "auto") -> FitResult:
    """Trains until a limit of the recipe is reached, or a signal (SIGINT, SIGTERM) asks to stop.

    A stopped run leaves a checkpoint; running the same recipe again continues it exactly: optimizer, schedule, random
    numbers, position in the data, averages (bitwise on a CPU).

    Args:
        recipe: what to train on what; `output_dir` empty means ``exp/<name>``.
        resume: "auto" continues if output_dir has a checkpoint and refuses if the recipe has become another one,
            "force" continues nevertheless, "never" starts again and moves the old run's checkpoints and logs aside.

    Raises:
        UserError: bad recipe or data, changed recipe, full disk, diverged training.
    """
    if resume not in RESUME:
        raise UserError(f"resume is {resume!r}: it must be one of {', '.join(RESUME)}.")
    check_recipe(recipe)
    control = Control()
    folder = recipe.folder()
    recipe.output_dir = str(folder)
    _make_folder(folder)
    if recipe.trainer.threads:
        torch.set_num_threads(recipe.trainer.threads)
    checkpoint = _checkpoint_to_resume(recipe, resume)
    data: SpeechData | None = None
    control.install()
    try:
        trainer = make_trainer(recipe, control)  # its errors come before the preparation
        seed_everything(recipe.seed)
        if checkpoint is None:
            check_sources(recipe.data)  # before minutes of preparation, and before the old run is moved
            if is_first_process() and (aside := move_aside(folder)):
                log.info("starting again; the old checkpoints and logs are in %s", aside)
        model, tokenizer = _restore(recipe, checkpoint) if checkpoint else _start(recipe)
        seed_everything(recipe.seed)  # the same dropout whether or not something had to be prepared
        if is_first_process():
            dump_yaml(recipe, folder / "recipe.yaml")
        task = TransducerTask(model, tokenizer, recipe, control)
        data = SpeechData(recipe, tokenizer, control)
        log.info(
            "%.2f M parameters, %d tokens, into %s",
            model.num_parameters() / 1e6,
            tokenizer.vocab_size,
            folder,
        )
        trainer.fit(
            task, datamodule=data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"out of GPU memory with data.max_seconds {recipe.data.max_seconds:g}: halve it and double "
            "trainer.accumulate for the same steps."
        ) from None
    except SystemExit:  # Lightning's way to end after KeyboardInterrupt
        raise KeyboardInterrupt from None
    finally:
        control.restore()
        if data is not None:
            data.teardown()
    return result_of(recipe, export_folder if trainer.is_global_zero else None)


def make_trainer(recipe: Recipe, control: Control) -> L.Trainer:
    """Lightning's Trainer as the recipe wants it: one endless epoch, no logger or progress bar of Lightning's own."""
    _quiet()
    config = recipe.trainer
    folder = recipe.folder()
    steps = config.validate_every_steps * config.accumulate  # Lightning counts batches
    plugins: list[Any] = [AtomicCheckpointIO()]
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[str(config.precision)]
    if precision == "16-mixed":
        if not torch.cuda.is_available() or config.accelerator == "cpu":
            raise UserError("trainer.precision 16 needs a GPU: use bf16 or 32.")
        # The loss is a sum, its gradients are far from underflow: the usual 65536 would overflow at first.
        plugins.append(MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cuda", init_scale=256.0)))
        precision = None
    try:
        return L.Trainer(
            accelerator=config.accelerator,
            devices=_devices(config),
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=precision,
            max_epochs=-1,
            max_steps=config.max_steps,
            accumulate_grad_batches=config.accumulate,
            val_check_interval=steps or None,
            check_val_every_n_epoch=None if steps else 1,
            limit_val_batches=1.0 if recipe.data.dev else 0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=[
                Checkpoints(folder, config, control),
                Metrics(folder, config),
                Progress(config, control),
            ],
            plugins=plugins,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(folder),
        )
    except (
        TypeError,
        ValueError,
        RuntimeError,
        L.pytorch.utilities.exceptions.MisconfigurationException,
    ) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def _devices(config: TrainerConfig) -> Any:
    text = str(config.devices)
    if text.lstrip("-").isdigit():
        return int(text)
    if text != "auto" and not all(part.strip().isdigit() for part in text.rstrip(",").split(",")):
        raise UserError(f"trainer.devices is {text!r}: it must be a number, auto, or GPU numbers as in 0,2.")
    return text


def _start(recipe: Recipe) -> tuple[Transducer, Tokenizer]:
    """A fresh model."""
    tokenizer = prepare_tokens(recipe)
    seed_everything(recipe.seed)
    model = make_model(recipe, tokenizer.vocab_size)
    parts = recipe.init_from.parts
    if not recipe.init_from.path or (parts and "encoder" not in parts):
        statistics = prepare_statistics(recipe)
        model.encoder.set_statistics(statistics.mean, statistics.std)
    if recipe.init_from.path:
        log.info(initialise(model, recipe))
    return model, tokenizer


def _restore(recipe: Recipe, checkpoint: Path) -> tuple[Transducer, Tokenizer]:
    """The architecture and tokens of a checkpoint; Lightning loads the weights."""
    info = read_checkpoint(checkpoint, mmap=True)["asr"]
    tokenizer = Tokenizer(bytes(info["tokens"].tolist()))
    if recipe.tokens.path and Tokenizer.from_file(recipe.tokens.path).model != tokenizer.model:
        raise UserError(
            f"cannot resume {checkpoint}: tokens.path {recipe.tokens.path} holds other tokens than the run has."
        )
    return Transducer(from_dict(ModelConfig, info["model"])), tokenizer


def newest_run(folder: Path, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run folder and what it says of its run; None: there is none, or it is not wanted."""
    found = step_checkpoints(folder)
    if not found or resume == "never":
        return None
    return found[-1], read_checkpoint(found[-1], mmap=True)["asr"]


def check_same_recipe(recipe: AnyRecipe, checkpoint: Path, info: dict[str, Any], resume: str) -> None:
    """Raises UserError if the run of a checkpoint had another recipe, unless it is forced to go on."""
    # Through YAML-like values once, so that tuples and lists, 1 and 1.0 compare as the recipe meant them.
    changed = differences(to_dict(from_dict(type(recipe), info["recipe"], str(checkpoint))), to_dict(recipe))
    if changed:
        listed = "; ".join(f"{key} was {old!r} and is {new!r}" for key, old, new in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        if resume != "force":
            raise UserError(
                f"{recipe.folder()} holds a run of another recipe: {listed}{more}. Undo the change, choose another "
                "--output_dir, or add --resume force (continue nevertheless) or --resume never (start again)."
            )
        log.warning("resuming although %s%s", listed, more)
    log.info("resuming %s at step %d", checkpoint, info["step"])


def _checkpoint_to_resume(recipe: Recipe, resume: str) -> Path | None:
    """The newest checkpoint of output_dir, if the recipe is still that of the run."""
    newest = newest_run(recipe.folder(), resume)
    if newest is None:
        return None
    check_same_recipe(recipe, *newest, resume)
    return newest[0]


def result_of(recipe: AnyRecipe, export: Callable[[Path, Path], object] | None) -> FitResult:
    """How a run ended, by its newest checkpoint, of which ``export`` makes the model folder if the run has finished."""
    folder = recipe.folder()
    found = step_checkpoints(folder)
    if not found:
        raise UserError(f"{folder} has no checkpoint: the run ended before its first step.")
    info = read_checkpoint(found[-1], mmap=True)["asr"]
    step, minutes = int(info["step"]), float(info["minutes"])
    limit = recipe.trainer.max_minutes
    finished = step >= recipe.trainer.max_steps or 0 < limit <= minutes
    model = folder / "model" if finished else None
    if model is not None and export is not None:
        export(found[-1], model)
    return FitResult(finished, step, minutes, found[-1], model)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make output_dir {folder}: {error.strerror}.") from None


def _quiet() -> None:
    """Lightning's advertisements and advice about choices made here on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*treespec.*LeafSpec.*",
        ".*exists and is not empty.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*Checkpoint directory.*",
        ".*limit_val_batches.*",
        ".*in eval mode at the start of training.*",
        ".*but have passed in a `LightningDataModule`.*",
        ".*defined a `validation_step` but have no `val_dataloader`.*",
    ):
        warnings.filterwarnings("ignore", pattern)
