"""The training task: losses, the optimizer step, the guards, and validation, as a LightningModule.

B: utterances, T: feature frames of 10 ms, T': encoder frames of 40 ms, U: tokens, D: encoder width, P: predictor width.

The criterion returns a sum over utterances. Gradients of sums are accumulated over batches and ranks, and divided once,
before clipping, by the number of tokens of the whole step: one process, several processes and accumulation all give
the same step for the same utterances.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from asr.config import to_dict
from asr.data.dataset import Batch
from asr.decoding.greedy import greedy_search
from asr.losses.criterion import TransducerCriterion
from asr.models.transducer import Transducer
from asr.scoring.wer import score
from asr.tokens import Tokenizer
from asr.training.averaging import WeightAverage, total_norm
from asr.training.control import Control, rng_state, set_rng_state
from asr.training.guard import Guard, drop_impossible
from asr.training.optim import learning_rate, make_optimizer
from asr.training.recipe import Recipe

PARTS = ("loss", "transducer", "simple", "ctc")


@dataclass
class StepReport:
    """What one optimizer step was like, summed or agreed over all ranks."""

    step: int = 0  # optimizer steps done, this one included
    parts: dict[str, float] = field(default_factory=dict)  # loss parts per token
    tokens: float = 0.0
    seconds: float = 0.0  # of audio
    utterances: float = 0.0
    gradient_norm: float = 0.0  # of the loss per token, before clipping
    learning_rate: float = 0.0
    skipped: bool = False  # nothing was learned from it


class TransducerTask(L.LightningModule):
    """Trains a `Transducer` with a `TransducerCriterion`.

    Args:
        model: the transducer, with its feature statistics set.
        tokenizer: for the texts of validation.
        recipe: the whole recipe; `loss`, `optim` and `trainer` are used here.
        control: clock and stop requests of the run.
    """

    def __init__(self, model: Transducer, tokenizer: Tokenizer, recipe: Recipe, control: Control) -> None:
        super().__init__()
        self.model = model
        dims = (model.encoder.output_dim, model.predictor.output_dim)
        self.criterion = TransducerCriterion(recipe.loss, *dims, model.config.vocab_size)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.control = control
        self.average = WeightAverage(self, recipe.trainer.average)
        self.guard = Guard(recipe.folder() if recipe.output_dir else None, recipe.trainer.max_bad_steps)
        self.report = StepReport()
        self.dev: dict[str, float] = {}  # results of the last validation: loss per token, wer in percent
        self.samples: list[tuple[str, str]] = []  # (reference, greedy text) of a few dev utterances
        self._micro: list[
            tuple[list[str], Tensor]
        ] = []  # ids and loss parts of each batch of the step so far
        self._counts = [0.0, 0.0, 0.0]  # tokens, seconds, utterances of the step so far
        self._validation: ExitStack | None = None
        self._dev_sums = [0.0, 0.0, 0.0]  # loss, tokens, utterances
        self._dev_texts: list[tuple[str, str]] = []
        self._rng: list[dict[str, Any]] | None = None  # to restore when training starts, one a rank

    # ---- losses

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Summed losses of a batch: features (B, T, 80), tokens (B, U) -> the criterion's dict of scalars."""
        encoder_out, lengths = self.model.encode(batch.features, batch.feature_lengths)
        predictor_out = self.model.predict(batch.tokens)
        parts = (encoder_out, lengths, predictor_out, batch.tokens, batch.token_lengths)
        return self.criterion(self.model, *parts, step=step, endpoint_frames=batch.endpoint_frames)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Leaves out utterances that cannot be aligned, while the lengths are still in host memory."""
        if self.trainer.training:
            batch, dropped = drop_impossible(batch)
            if dropped:
                self.guard.impossible(dropped, self.trainer.global_step + 1)
            self.guard.unreadable(batch.unreadable, self.trainer.global_step + 1)
            tokens = float(batch.token_lengths.sum())
            for i, value in enumerate((tokens, float(batch.seconds), float(len(batch.ids)))):
                self._counts[i] += value
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves the tensors only; ids and texts stay."""
        if device.type == "cpu":
            return batch
        return batch._replace(
            features=batch.features.to(device, non_blocking=True),
            feature_lengths=batch.feature_lengths.to(device, non_blocking=True),
            tokens=batch.tokens.to(device, non_blocking=True),
            token_lengths=batch.token_lengths.to(device, non_blocking=True),
            endpoint_frames=None
            if batch.endpoint_frames is None
            else batch.endpoint_frames.to(device, non_blocking=True),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The summed loss of one batch; nothing here waits for the device."""
        if not batch.ids:  # every utterance was dropped: all parameters still take part, as DDP requires
            return torch.stack([p.sum() * 0.0 for p in self.parameters() if p.requires_grad]).sum()
        parts = self.losses(batch, self.trainer.global_step)
        zero = parts["loss"].new_zeros(())
        values = torch.stack([parts.get(name, zero).detach().double() for name in PARTS])
        self._micro.append((batch.ids, values))
        return parts["loss"]

    # ---- the step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the learning rate is set before each step."""
        fused = str(self.recipe.trainer.precision) != "16" and self.device.type in ("cpu", "cuda")
        return make_optimizer(self, self.recipe.optim, fused=fused)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Agrees with the other ranks on the sums, normalises and clips the gradients, or empties a bad step."""
        world, accumulate = self.trainer.world_size, self.trainer.accumulate_grad_batches
        step = self.trainer.global_step
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = total_norm(gradients).double()
        sums = sum((values for _, values in self._micro), norm.new_zeros(len(PARTS)))
        host = [*self._counts, float(self.control.stop_requested), self.control.elapsed()]
        shared = torch.cat([sums, norm.reshape(1), norm.new_tensor(host)])
        if world > 1:
            torch.distributed.all_reduce(shared)
        values = shared.tolist()  # the one wait for the device of a step
        parts, others = values[: len(PARTS)], values[len(PARTS) :]
        norm_sum, tokens, seconds, utterances, stop, elapsed = others
        self.control.agree(stop > 0, elapsed / world)

        # DDP has averaged over ranks, Lightning over the accumulation: both are undone, then tokens divide.
        scale = world * accumulate / max(tokens, 1.0)
        gradient_norm = norm_sum / world * scale
        bad_loss = not all(math.isfinite(value) for value in parts)
        bad_gradient = not math.isfinite(gradient_norm)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # An overflow is no fault of the batch: the scaler skips the step by itself and goes on with a smaller scale.
        overflow = bad_gradient and not bad_loss and scaler is not None
        rate = self._learning_rate(step, elapsed / world)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if utterances == 0:
            for parameter in self.parameters():  # AdamW would go on with its old momentum
                parameter.grad = None
            self.guard.empty_step()
        elif bad_loss or (bad_gradient and not overflow):
            self._skip_step(step + 1, bad_loss)
        elif not overflow:
            clip = self.recipe.optim.clip
            if clip and gradient_norm > clip:
                scale *= clip / gradient_norm
            torch._foreach_mul_(gradients, scale)
            self.guard.good_step()
        count = max(tokens, 1.0)
        self.report = StepReport(
            step=step + 1,
            parts={name: value / count for name, value in zip(PARTS, parts, strict=True)},
            tokens=tokens,
            seconds=seconds,
            utterances=utterances,
            gradient_norm=gradient_norm,
            learning_rate=rate,
            skipped=bad_loss or bad_gradient or utterances == 0,
        )
        self._micro, self._counts = [], [0.0, 0.0, 0.0]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """The step itself, then the running average of the weights."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.average.update(self.trainer.global_step + 1)

    def _learning_rate(self, step: int, elapsed: float) -> float:
        minutes = self.recipe.trainer.max_minutes
        used = elapsed / (60.0 * minutes) if minutes else 0.0
        return learning_rate(self.recipe.optim, step, self.recipe.trainer.max_steps, used)

    def _skip_step(self, step: int, bad_loss: bool) -> None:
        """Without gradients AdamW leaves weights and moments alone. Names the batches at fault, here and on each rank."""
        for parameter in self.parameters():
            parameter.grad = None
        if bad_loss:  # only the ranks whose own loss it was name a batch
            guilty = [ids for ids, values in self._micro if not bool(torch.isfinite(values).all())]
        else:
            guilty = [ids for ids, _ in self._micro]
        self.guard.bad_step(
            "loss" if bad_loss else "gradient", [name for ids in guilty for name in ids], step
        )

    # ---- validation

    def on_validation_start(self) -> None:
        """Swaps in the averaged weights; keeps the random numbers, so that validation does not change training."""
        self._validation = ExitStack()
        state = rng_state()
        self._validation.callback(set_rng_state, state)
        if self.recipe.trainer.validate_average:
            self._validation.enter_context(self.average.swapped_in())
        self._dev_sums, self._dev_texts = [0.0, 0.0, 0.0], []
        self._validation_began = time.monotonic()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Greedy texts of a dev batch, and its loss (without utterances that cannot be aligned)."""
        encoder_out, lengths = self.model.encode(batch.features, batch.feature_lengths)
        for text, hypothesis in zip(
            batch.texts, greedy_search(self.model, encoder_out, lengths), strict=True
        ):
            self._dev_texts.append((text, self.tokenizer.decode(hypothesis.tokens)))
        fits = ((batch.token_lengths <= lengths) & (lengths > 0)).nonzero().squeeze(1)
        if fits.numel():
            tokens, token_lengths = batch.tokens[fits], batch.token_lengths[fits]
            parts = (encoder_out[fits], lengths[fits], self.model.predict(tokens), tokens, token_lengths)
            ends = None if batch.endpoint_frames is None else batch.endpoint_frames[fits]
            loss = self.criterion(self.model, *parts, step=self.trainer.global_step, endpoint_frames=ends)["loss"]
            for i, value in enumerate((float(loss), float(token_lengths.sum()), float(fits.numel()))):
                self._dev_sums[i] += value

    def on_validation_epoch_end(self) -> None:
        """Dev loss per token and word error rate over all ranks."""
        result = score([ref for ref, _ in self._dev_texts], [hyp for _, hyp in self._dev_texts])
        errors = float(result.ins + result.dels + result.sub)
        sums = [
            *self._dev_sums,
            errors,
            float(result.words),
            float(result.ins),
            float(result.dels),
            float(result.sub),
        ]
        if self.trainer.world_size > 1:
            shared = torch.tensor(sums, dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(shared)
            sums = shared.tolist()
        loss, tokens, _, errors, words, ins, dels, sub = sums
        self.dev = {
            "loss": loss / max(tokens, 1.0),
            "wer": 100.0 * errors / max(words, 1.0),
            "ins": ins,
            "del": dels,
            "sub": sub,
            "words": words,
            "step": float(self.trainer.global_step),
            "seconds": time.monotonic() - self._validation_began,
        }
        self.samples = self._dev_texts[:: len(self._dev_texts) // 5 or 1][:5]  # short to long

    def on_validation_end(self) -> None:
        """Back to the training weights and random numbers."""
        if self._validation is not None:
            self._validation.close()
            self._validation = None

    # ---- checkpoints

    def description(self) -> dict[str, Any]:
        """What makes a checkpoint file self-contained: recipe, architecture, tokens, progress. Plain types only."""
        return {
            "format": 1,
            "step": self.trainer.global_step,
            "minutes": self.control.elapsed() / 60.0,
            "recipe": to_dict(self.recipe),
            "model": to_dict(self.model.config),
            "tokens": torch.frombuffer(bytearray(self.tokenizer.model), dtype=torch.uint8),
            "dev": dict(self.dev),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning does not keep: averages, counts, the clock, and every rank's random numbers."""
        states: list[Any] = [rng_state()]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, rng_state())
        checkpoint["asr"] = {
            **self.description(),
            "average": self.average.state_dict(),
            "guard": self.guard.state_dict(),
            "random": states,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes back what `on_save_checkpoint` added; random numbers wait until training starts."""
        state = checkpoint["asr"]
        self.average.load_state_dict(state["average"])
        self.guard.load_state_dict(state["guard"])
        self.control.used_before = 60.0 * float(state["minutes"])
        self.dev = dict(state["dev"])
        self._rng = state["random"]

    def on_train_start(self) -> None:
        """The random numbers of the checkpoint, after the workers have been started (which draws some)."""
        if self._rng is not None:
            set_rng_state(self._rng[self.trainer.global_rank % len(self._rng)])
            self._rng = None
