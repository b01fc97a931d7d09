"""Combinations of scales, the errors that a search made with each, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import UserError


class Scales(NamedTuple):
    """What is tuned."""

    lm_scale: float = 0.0
    ilm_scale: float = 0.0
    lodr_scale: float = 0.0
    blank_penalty: float = 0.0
    rescore_scale: float = 0.0


@dataclass(frozen=True)
class Trial:
    """The errors of one combination; ``seconds`` is the time of its search."""

    scales: Scales
    ins: int
    dels: int
    sub: int
    words: int
    seconds: float

    @property
    def errors(self) -> int:
        """Insertions, deletions, substitutions."""
        return self.ins + self.dels + self.sub

    @property
    def wer(self) -> float:
        """In percent of the reference words."""
        return 100.0 * self.errors / self.words


def grid(values: Mapping[str, Sequence[float]]) -> list[Scales]:
    """All combinations of the values given for some of `Scales`, each once, small scales first.

    Raises:
        UserError: a value that is not finite.
    """
    for name, numbers in values.items():
        wrong = next((number for number in numbers if not math.isfinite(number)), None)
        if wrong is not None:
            raise UserError(f"--{name.replace('_', '-')} must be finite numbers, not {wrong}")
    axes = [sorted(set(values.get(name) or (0.0,))) for name in Scales._fields]
    return [Scales(*combination) for combination in product(*axes)]


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The one of the fewest errors; of several the one with the smallest scales."""
    return min(trials, key=lambda trial: (trial.errors, sum(map(abs, trial.scales)), trial.scales))


class TrialLog:
    """Finished searches in ``tune.jsonl``, a line each; those of other settings are left as they are.

    Args:
        folder: made if it is not there.
        settings: all that the errors depend on but the scales: only searches of the same settings count as done.

    Raises:
        UserError: the folder or its file cannot be made, read or written.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        self.file = Path(folder) / "tune.jsonl"
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.trials: dict[Scales, Trial] = {}
        self.damaged = 0  # lines that are no JSON: of a run that was cut off while it wrote
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
            told = self._read(text)
            with open(self.file, "a", encoding="utf-8") as file:
                if text and not text.endswith("\n"):
                    file.write("\n")
                if not told:
                    file.write(json.dumps({"settings": self.key, **settings}) + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot use {self.file}: {getattr(error, 'strerror', None) or error}") from None

    def _read(self, text: str) -> bool:
        told = False
        for line in text.splitlines():
            try:
                record = json.loads(line)
                if record["settings"] != self.key:
                    continue
                if "scales" not in record:
                    told = True
                    continue
                scales = Scales(**{name: float(value) for name, value in record["scales"].items()})
                ins, dels, sub, words = (int(record[name]) for name in ("ins", "del", "sub", "words"))
                self.trials[scales] = Trial(scales, ins, dels, sub, words, float(record["seconds"]))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged += 1
        return told

    def add(self, trial: Trial) -> None:
        """Write a search down."""
        self.trials[trial.scales] = trial
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self.key, **trial_dict(trial)}) + "\n")


def trial_dict(trial: Trial) -> dict[str, Any]:
    """``{scales, wer, ins, del, sub, words, seconds}``."""
    return {
        "scales": trial.scales._asdict(),
        "wer": round(trial.wer, 4),
        "ins": trial.ins,
        "del": trial.dels,
        "sub": trial.sub,
        "words": trial.words,
        "seconds": round(trial.seconds, 3),
    }


def file_hash(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes, or of all files directly in a folder.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in Path(path).iterdir() if p.is_file()) if Path(path).is_dir() else []
        for file in files:
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        if not files:
            digest.update(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()[:16]
