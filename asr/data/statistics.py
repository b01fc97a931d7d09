"""Mean and standard deviation of the features, which the model normalises with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from asr.data.audio_cache import read_cut
from asr.errors import UserError
from asr.features import NUM_MEL_BINS, Fbank, FeatureConfig

if TYPE_CHECKING:
    from lhotse.cut import Cut


class FeatureStatistics(NamedTuple):
    """``mean`` and ``std`` (80,) float32 over ``frames`` feature frames: what ``Emformer.set_statistics`` takes."""

    mean: torch.Tensor
    std: torch.Tensor
    frames: int

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(
            json.dumps({"mean": self.mean.tolist(), "std": self.std.tolist(), "frames": self.frames}) + "\n"
        )
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Reads what ``save`` wrote; raises UserError for anything else."""
        try:
            data = json.loads(Path(path).read_text())
            mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
            if mean.shape != (NUM_MEL_BINS,) or std.shape != mean.shape or not bool((std > 0).all()):
                raise ValueError(f"it needs {NUM_MEL_BINS} means and positive deviations")
            return cls(mean.float(), std.float(), int(data["frames"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no feature statistics ({error}).") from error


def feature_statistics(
    cuts: Iterable[Cut],
    max_seconds: float = 3600.0,
    features: FeatureConfig | None = None,
    skip_unreadable: bool = True,
) -> FeatureStatistics:
    """Statistics over at most ``max_seconds`` of audio, spread evenly over the cuts (a corpus is sorted by speaker).

    Sums are float64. A bin that never changes gets a deviation of 1. Audio that cannot be read is
    left out, unless ``skip_unreadable`` is false. Raises UserError for no (readable) cuts.
    """
    cuts = list(cuts)
    if not cuts:
        raise UserError("Feature statistics need at least one utterance.")
    order = np.random.default_rng(0).permutation(len(cuts))
    fbank = Fbank(features or FeatureConfig())
    total, squares = (
        torch.zeros(NUM_MEL_BINS, dtype=torch.float64),
        torch.zeros(NUM_MEL_BINS, dtype=torch.float64),
    )
    frames, seconds = 0, 0.0
    unread: UserError | None = None
    for index in order:
        try:
            audio = torch.from_numpy(read_cut(cuts[index]))
        except UserError as error:
            if not skip_unreadable:
                raise
            unread = unread or error
            continue
        with torch.no_grad():
            found = fbank(audio[None], torch.tensor([len(audio)]))[0][0].double()
        total, squares, frames = total + found.sum(0), squares + found.square().sum(0), frames + len(found)
        seconds += cuts[index].duration
        if seconds >= max_seconds:
            break
    if not frames and unread:
        raise UserError(f"Not one training utterance can be read; the first: {unread}")
    mean = total / max(frames, 1)
    std = (squares / max(frames, 1) - mean.square()).clamp(min=0.0).sqrt()
    return FeatureStatistics(mean.float(), torch.where(std > 1e-5, std, torch.ones_like(std)).float(), frames)
