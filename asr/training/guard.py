"""What training skips, counted and named: utterances that cannot be aligned, and steps that are not finite.

B: utterances, U: tokens, T: feature frames of 10 ms.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from asr.data.dataset import Batch
from asr.errors import UserError
from asr.features import encoder_frames

log = logging.getLogger("asr.training")

NAMED = 20  # events of a kind that are printed; all of them are in skipped.jsonl


def drop_impossible(batch: Batch) -> tuple[Batch, list[str]]:
    """The batch without utterances that have more tokens than encoder frames (or no frame at all), and their ids.

    Such an utterance has no alignment with one symbol a frame: the pruned loss and CTC are infinite or undefined on it
    (icefall #1463 and others). Works on tensors in host memory. The padding stays as it is.
    """
    frames = encoder_frames(batch.feature_lengths)
    good = (batch.token_lengths <= frames) & (frames > 0)
    if bool(good.all()):
        return batch, []
    kept = good.nonzero().squeeze(1)
    flags = good.tolist()
    dropped = [name for name, fits in zip(batch.ids, flags, strict=True) if not fits]
    share = float(batch.feature_lengths[kept].sum()) / max(float(batch.feature_lengths.sum()), 1.0)
    left = batch._replace(
        features=batch.features[kept],
        feature_lengths=batch.feature_lengths[kept],
        tokens=batch.tokens[kept],
        token_lengths=batch.token_lengths[kept],
        ids=[name for name, fits in zip(batch.ids, flags, strict=True) if fits],
        texts=[text for text, fits in zip(batch.texts, flags, strict=True) if fits],
        seconds=batch.seconds * share,
        endpoint_frames=None if batch.endpoint_frames is None else batch.endpoint_frames[kept],
    )
    return left, dropped


class Guard:
    """Counts and names what was skipped; stops a run that has diverged.

    Counts of utterances are of this process; counts of steps are the same on all ranks.
    """

    def __init__(self, folder: Path | None, max_bad_steps: int) -> None:
        self.folder = folder
        self.max_bad_steps = max_bad_steps
        self.utterances = 0  # with more tokens than frames, or unreadable
        self.steps = 0  # with a non-finite loss or gradient, or without any utterance
        self.in_a_row = 0  # bad steps since the last good one
        self._named = {"utterance": 0, "step": 0}

    def impossible(self, ids: list[str], step: int) -> None:
        """These utterances were left out of a batch."""
        self.utterances += len(ids)
        self._name("utterance", step, "more tokens than encoder frames", ids)

    def unreadable(self, named: tuple[str, ...], step: int) -> None:
        """The audio of these utterances (``id: why``) cannot be used."""
        if named:
            self.utterances += len(named)
            self._name("utterance", step, "unreadable audio", list(named))

    def empty_step(self) -> None:
        """Not one utterance was left of this step.

        Raises:
            UserError: too many in a row.
        """
        self.steps += 1
        self.in_a_row += 1
        if self.max_bad_steps and self.in_a_row >= self.max_bad_steps:
            raise UserError(
                f"not one utterance of the last {self.in_a_row} steps could be used: skipped.jsonl in the run folder "
                "names each and says why."
            )

    def bad_step(self, what: str, ids: list[str], step: int) -> None:
        """This step was not taken.

        Raises:
            UserError: too many in a row, the run has diverged.
        """
        self.steps += 1
        self.in_a_row += 1
        if ids:
            self._name("step", step, f"non-finite {what}", ids)
        if self.max_bad_steps and self.in_a_row >= self.max_bad_steps:
            raise UserError(
                f"the last {self.in_a_row} steps had a non-finite loss or gradient: the run has diverged; "
                "resume from an earlier checkpoint with a lower optim.lr or a longer optim.warmup_steps."
            )

    def good_step(self) -> None:
        """This step was taken."""
        self.in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"utterances": self.utterances, "steps": self.steps, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counts, as `state_dict` gave them; a resumed run gets a fresh run of bad steps."""
        self.utterances, self.steps = int(state["utterances"]), int(state["steps"])

    def _name(self, kind: str, step: int, why: str, ids: list[str]) -> None:
        self._named[kind] += 1
        if self._named[kind] <= NAMED:
            shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
            last = " (further ones are only in skipped.jsonl)" if self._named[kind] == NAMED else ""
            log.warning(
                "step %d: skipped %s, %s: %s%s", step, "batch" if kind == "step" else kind, why, shown, last
            )
        if self.folder is None:
            return
        try:
            with open(self.folder / "skipped.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "kind": kind, "why": why, "ids": ids}) + "\n")
        except OSError:  # a full disk must not stop training here; checkpoints will say so
            pass
