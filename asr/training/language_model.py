"""Training a language model: `asr train` of a recipe with ``task: language_model``.

The step (normalised and clipped sums, guards, averages), the trainer, checkpoints and exact resume are those of the
acoustic recipes; the data, the loss and what is reported are here. The loss is the negative log-likelihood of every
token and of the end of every sentence.

B: sentences, U: tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from asr.config import dump_yaml, from_dict
from asr.errors import UserError
from asr.models.lm import LanguageModel, LanguageModelConfig, load_lm, save_lm, tokens_hash
from asr.tokens import Tokenizer
from asr.training.averaging import WeightAverage
from asr.training.checkpoint import move_aside, read_checkpoint
from asr.training.command import is_first_process
from asr.training.control import Control, seed_everything
from asr.training.export import _measured, _newest, _origin, _weights
from asr.training.fit import (
    RESUME,
    FitResult,
    _make_folder,
    check_same_recipe,
    make_trainer,
    newest_run,
    result_of,
)
from asr.training.guard import Guard
from asr.training.perplexity import describe_perplexities, perplexities
from asr.training.progress import Metrics, Progress, _epoch
from asr.training.recipe import LanguageModelRecipe, Recipe, check_language_model_recipe
from asr.training.task import StepReport, TransducerTask
from asr.training.text import Sentences, read_sentences
from asr.training.text_data import TextData

log = logging.getLogger("asr.training")

TASK = LanguageModelRecipe.task
TOKEN_SENTENCES = 1_000_000  # most sentences that tokens are trained on, evenly spread over the text


class LanguageModelTask(TransducerTask):
    """The step, the guards and the checkpoints of `TransducerTask` with another model, loss and validation."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, recipe: LanguageModelRecipe, control: Control
    ) -> None:
        L.LightningModule.__init__(self)  # there is no transducer and no criterion
        self.model: Any = model
        self.tokenizer, self.control = tokenizer, control
        self.recipe = cast(Recipe, recipe)  # what the step reads of it is in both
        self.average = WeightAverage(self, recipe.trainer.average)
        self.guard = Guard(recipe.folder(), recipe.trainer.max_bad_steps)
        self.report = StepReport()
        self.dev: dict[str, float] = {}  # results of the last validation
        self.samples = []
        self._micro, self._counts = [], [0.0, 0.0, 0.0]  # tokens, seconds of audio (none), sentences
        self._validation, self._rng = None, None
        self._held_out = torch.zeros(4, dtype=torch.float64)  # nats, tokens with ends, words, sentences

    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Summed negative log-likelihood of tokens (B, U) and ends, in nats."""
        return {"loss": self.model.losses(batch.tokens, batch.lengths).sum()}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts, while the lengths are still in host memory."""
        if self.trainer.training:
            self._counts[0] += float(batch.lengths.sum()) + len(batch.ids)
            self._counts[2] += len(batch.ids)
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the two tensors."""
        tokens, lengths = (x.to(device, non_blocking=True) for x in (batch.tokens, batch.lengths))
        return batch._replace(tokens=tokens, lengths=lengths)

    def on_validation_start(self) -> None:
        """Swaps in the averaged weights; keeps the random numbers."""
        super().on_validation_start()
        self._held_out.zero_()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Negative log-likelihood of a dev batch."""
        loss, sentences = self.losses(batch, 0)["loss"], len(batch.ids)
        counts = (float(loss), float(batch.lengths.sum()) + sentences, batch.words, sentences)
        self._held_out += torch.tensor(counts, dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Perplexities over all ranks."""
        sums = self._held_out.to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        self.dev = {
            **perplexities(*sums.tolist()),
            "step": float(self.trainer.global_step),
            "seconds": time.monotonic() - self._validation_began,
        }


class TextProgress(Progress):
    """`Progress` in tokens and perplexities."""

    unit = "tokens/s"

    def amount(self, report: StepReport) -> float:
        """Tokens."""
        return report.tokens

    def summary(self, dev: dict[str, float]) -> str:
        """For the updating line."""
        return f"dev perplexity {dev['perplexity']:.1f}"

    def held_out(self, dev: dict[str, float]) -> str:
        """For the line that stays."""
        return f"dev {describe_perplexities(dev)}"


class TextMetrics(Metrics):
    """`Metrics` with perplexities, and without what only speech has."""

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        report, now = pl_module.report, time.monotonic()
        values = {
            "train/learning_rate": report.learning_rate,
            "train/tokens_per_second": self._tokens / max(now - self._since, 1e-9),
            "train/epoch": float(_epoch(trainer)),
            "train/skipped_steps": float(pl_module.guard.steps),
        }
        if self._steps:
            values["train/gradient_norm"] = self._norms / self._steps
            values["train/loss"] = self._sums["loss"] / max(self._tokens, 1.0)
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, report.step)
        self._sums, self._steps = {}, 0
        self._tokens = self._norms = 0.0
        self._since = now

    def show(self, pl_module: Any, step: int) -> None:
        """Loss and perplexities."""
        for name in ("loss", "perplexity", "word_perplexity"):
            self._writer.add_scalar(f"dev/{name}", pl_module.dev[name], step)


def fit_language_model(recipe: LanguageModelRecipe, resume: str = "auto") -> FitResult:
    """Trains until a limit of the recipe is reached, or a signal asks to stop; resumes as `asr.training.fit.fit` does.

    Args:
        resume: auto | force | never.

    Raises:
        UserError: bad recipe or text, changed recipe, full disk, diverged training.
    """
    if resume not in RESUME:
        raise UserError(f"resume is {resume!r}: it must be one of {', '.join(RESUME)}.")
    check_language_model_recipe(recipe)
    control = Control()
    folder, config = recipe.folder(), recipe.data
    recipe.output_dir = str(folder)
    _make_folder(folder)
    if recipe.trainer.threads:
        torch.set_num_threads(recipe.trainer.threads)
    checkpoint = _checkpoint_to_resume(recipe, resume)
    control.install()
    try:
        trainer = _make_trainer(recipe, control)
        seed_everything(recipe.seed)
        model, tokenizer = _restore(recipe, checkpoint) if checkpoint else _start(recipe)
        dev = Sentences(config.dev, tokenizer, config.max_sentence_tokens) if config.dev else None
        train = Sentences(config.train, tokenizer, config.max_sentence_tokens)
        if checkpoint is None and is_first_process() and (aside := move_aside(folder)):
            log.info("starting again; the old checkpoints and logs are in %s", aside)
        seed_everything(recipe.seed)  # the same dropout whether or not something had to be prepared
        if is_first_process():
            dump_yaml(recipe, folder / "recipe.yaml")
        log.info(
            "%.2f M parameters, %d symbols, %d sentences of %d tokens, into %s",
            model.num_parameters() / 1e6,
            tokenizer.vocab_size,
            len(train),
            train.tokens,
            folder,
        )
        trainer.fit(
            LanguageModelTask(model, tokenizer, recipe, control),
            datamodule=TextData(train, dev, config.max_tokens, recipe.seed, control),
            ckpt_path=str(checkpoint) if checkpoint else None,
            weights_only=True,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"out of GPU memory with data.max_tokens {config.max_tokens}: halve it and double trainer.accumulate."
        ) from None
    except SystemExit:  # Lightning's way to end after KeyboardInterrupt
        raise KeyboardInterrupt from None
    finally:
        control.restore()
    return result_of(recipe, export_language_model if trainer.is_global_zero else None)


def export_language_model(checkpoint: str | Path, folder: str | Path, average: bool = True) -> Path:
    """Makes a language-model folder from a checkpoint, or from the newest one of a run folder.

    Args:
        average: use the running average of the weights, if there is one.

    Raises:
        UserError: no readable checkpoint of a language model, or the folder cannot be written.
    """
    path = _newest(Path(checkpoint))
    content = read_checkpoint(path)
    info = content["asr"]
    if info["recipe"].get("task") != TASK:
        raise UserError(f"{path} is no checkpoint of a language model.")
    tokenizer = Tokenizer(bytes(info["tokens"].tolist()))
    model = LanguageModel(tokenizer.vocab_size, from_dict(LanguageModelConfig, info["model"]))
    model.load_state_dict(_weights(content, average))
    recipe, dev = info["recipe"], _measured(info, [path], average)
    sources = [_described(source) for source in recipe["data"]["train"]]
    lines = [
        f"# {recipe['name']}",
        "",
        f"LSTM language model, {model.num_parameters() / 1e6:.1f} M parameters, {model.vocab_size} symbols.",
        "",
        f"- Trained for {int(info['step'])} steps in {float(info['minutes']):.1f} minutes on: {', '.join(sources)}",
        f"- Weights: {_origin([path], recipe)}",
        *([f"- Dev, at step {int(dev['step'])}: {describe_perplexities(dev)} (`asr train`, validation)"] if dev else []),
        "- Licence: that of the training text applies",
        "",
    ]
    extra = {"recipe": recipe["name"], "step": int(info["step"]), "dev": dev}
    return save_lm(folder, model.eval(), tokenizer, "\n".join(lines), extra, overwrite=True)


def _described(source: str | dict[str, Any]) -> str:
    if isinstance(source, str):
        return source
    part = f" ({source['start']:g} to {source['stop']:g} of it)" if source["start"] or source["stop"] < 1 else ""
    return source["path"] + (f", split {source['split']}" if source["split"] else "") + part


def _make_trainer(recipe: LanguageModelRecipe, control: Control) -> Any:
    """The trainer of acoustic recipes, reporting in tokens."""
    trainer: Any = make_trainer(cast(Recipe, recipe), control)
    kept = [callback for callback in trainer.callbacks if not isinstance(callback, Metrics | Progress)]
    config = recipe.trainer
    trainer.callbacks = [*kept, TextMetrics(recipe.folder(), config), TextProgress(config, control)]
    return trainer


def _start(recipe: LanguageModelRecipe) -> tuple[LanguageModel, Tokenizer]:
    """A fresh model, with tokens from where the recipe says."""
    config = recipe.tokens
    if config.path:
        tokenizer = Tokenizer.from_file(config.path)
    else:
        sources: Sequence[Any] = config.text or recipe.data.train
        texts = [text for source in sources for text in read_sentences(source)]
        texts = texts[:: -(-len(texts) // TOKEN_SENTENCES)]
        tokenizer = Tokenizer.train(texts, config.vocab_size, config.type, config.endpoint)
    seed_everything(recipe.seed)
    model = LanguageModel(tokenizer.vocab_size, recipe.model)
    if recipe.init_from:
        source = load_lm(recipe.init_from)
        if tokens_hash(source.tokenizer) != tokens_hash(tokenizer):
            raise UserError(f"init_from {recipe.init_from} has other tokens: set tokens.path to that folder too.")
        shapes = {name: value.shape for name, value in source.model.state_dict().items()}
        if shapes != {name: value.shape for name, value in model.state_dict().items()}:
            raise UserError(f"init_from {recipe.init_from} has another architecture than model says.")
        model.load_state_dict(source.model.state_dict())
    return model, tokenizer


def _restore(recipe: LanguageModelRecipe, checkpoint: Path) -> tuple[LanguageModel, Tokenizer]:
    """The architecture and tokens of a checkpoint; Lightning loads the weights."""
    info = read_checkpoint(checkpoint, mmap=True)["asr"]
    tokenizer = Tokenizer(bytes(info["tokens"].tolist()))
    path = recipe.tokens.path
    if path and tokens_hash(Tokenizer.from_file(path)) != tokens_hash(tokenizer):
        raise UserError(f"cannot resume {checkpoint}: tokens.path {path} holds other tokens than the run has.")
    return LanguageModel(tokenizer.vocab_size, from_dict(LanguageModelConfig, info["model"])), tokenizer


def _checkpoint_to_resume(recipe: LanguageModelRecipe, resume: str) -> Path | None:
    """The newest checkpoint of output_dir, if the recipe is still that of the run."""
    newest = newest_run(recipe.folder(), resume)
    if newest is None:
        return None
    checkpoint, info = newest
    if info["recipe"].get("task") != TASK:
        raise UserError(f"{recipe.folder()} holds a run of an acoustic model: choose another --output_dir.")
    check_same_recipe(recipe, checkpoint, info, resume)
    return checkpoint
