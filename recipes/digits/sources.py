"""What goes into the digits recipe: manifests, the words that count as digits, and who is in which set.

Sets never share a speaker. ``TEST_SETS`` are scored at the very end and never read by any training step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
AS_ZERO = {"oh": "zero", "o": "zero"}

# corpus folder -> split that may be trained on. Nothing else is ever opened by this recipe.
TRAIN_SPLITS = {
    "fsdd": "train",
    "speechocean762": "train",
    "librispeech": "train",
    "vctk_p239": "train",
    "ljtext_selfread": "train",
    "ljspeech_tiny": "train",
    "an4_part": "train",
}
# scored at the end: (folder, split); only their speakers' names are read here, to prove that the sets are disjoint
TEST_SETS = {"fsdd_test": ("fsdd", "test"), "phone_numbers": ("phone_numbers", "dev")}

# Held out for choosing checkpoints: one of the five FSDD training speakers, ten learners with digit strings.
DEV_FSDD_SPEAKERS = ("fsdd-lucas",)
DEV_LEARNERS = (
    "so-0026", "so-0070", "so-0093", "so-0114", "so-1465",
    "so-1042", "so-1203", "so-2027", "so-0053", "so-2179",
)  # fmt: skip


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest; ``audio`` is an absolute path, ``duration`` in seconds, ``text`` as it stands."""

    id: str
    audio: str
    duration: float
    text: str
    speaker: str
    split: str
    corpus: str
    gender: str = ""


def read_manifest(folder: Path, split: str | None = None) -> Iterator[Utterance]:
    """Utterances of ``folder/manifest.jsonl`` (those of one split, if given).

    Raises ValueError naming the file and the line that is not what it should be.
    """
    path = folder / "manifest.jsonl"
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if split is not None and row.get("split") != split:
                continue
            utterance = Utterance(
                id=row["id"],
                audio=str((folder / row["audio"]).resolve()),
                duration=float(row["duration"]),
                text=row.get("text", ""),
                speaker=row.get("speaker", ""),
                split=row.get("split", ""),
                corpus=folder.name,
                gender=row.get("gender", "").lower(),
            )
        except (UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}, line {number}: not a line of a manifest ({reason})") from None
        yield utterance


def digit_words(text: str) -> list[str] | None:
    """The digits of ``text`` (``oh`` as ``zero``), or None when it has any other word or none at all."""
    words = [AS_ZERO.get(word, word) for word in text.lower().split()]
    return words if words and all(word in DIGITS for word in words) else None


def read_training_speech(data: Path) -> list[Utterance]:
    """Every utterance of the training splits that are present under ``data``, with unique ids."""
    found: list[Utterance] = []
    for corpus, split in TRAIN_SPLITS.items():
        if (data / corpus / "manifest.jsonl").is_file():
            found += [replace(u, id=f"{corpus}-{u.id}") for u in read_manifest(data / corpus, split)]
    return found


def test_speakers(data: Path) -> dict[str, set[str]]:
    """Names of the speakers of the test sets (their audio is not opened)."""
    return {
        name: {u.speaker for u in read_manifest(data / corpus, split)}
        for name, (corpus, split) in TEST_SETS.items()
        if (data / corpus / "manifest.jsonl").is_file()
    }


def is_dev(utterance: Utterance) -> bool:
    """True for the speakers that choose checkpoints."""
    return utterance.speaker in DEV_FSDD_SPEAKERS or utterance.speaker in DEV_LEARNERS


def assert_disjoint(sets: dict[str, Iterable[str]]) -> None:
    """Raises ValueError naming the speakers that two sets share."""
    named = {name: set(speakers) for name, speakers in sets.items()}
    names = sorted(named)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if shared := named[a] & named[b]:
                raise ValueError(f"speakers in both {a} and {b}: {', '.join(sorted(shared)[:5])}")
