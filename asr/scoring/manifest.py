"""What to score: ``manifest.jsonl`` files and lhotse cut files, read without lhotse where a cut is a plain piece of a file."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.features import SAMPLE_RATE
from asr.streaming.sources import Source


@dataclass(frozen=True)
class Item:
    """One utterance with its reference.

    Attributes:
        id, text: name and reference as written in the manifest.
        audio: a file, or a function that gives its samples at 16 kHz.
        start, duration: the part of the file in seconds; None: to its end.
        split: ``train``, ``dev``, ``test``, … or empty.
        speaker: who speaks, or empty; of a cut with several, the first.
    """

    id: str
    text: str
    audio: Path | Callable[[], Any]
    start: float = 0.0
    duration: float | None = None
    split: str = ""
    speaker: str = ""

    @property
    def source(self) -> Source:
        """Its recording, as `asr.streaming.Recognizer.transcribe` takes it."""
        return Source(self.id, self.audio, start=self.start, duration=self.duration)


def read_manifest(path: str | Path, split: str | None = None) -> list[Item]:
    """The utterances of a manifest.

    Args:
        path: ``manifest.jsonl`` (``{id, audio, text, split, …}`` a line), a folder that holds one, or a lhotse cut file
            (``.jsonl``, ``.jsonl.gz``). Audio paths are absolute or relative to the manifest.
        split: only this split; None: all.

    Raises:
        UserError: no such file, a line that is not an utterance, times that cannot be, audio that is not there or the
            output of a command, no utterance of the split.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "manifest.jsonl"
    if not file.is_file():
        raise UserError(f"no such manifest: {file}")
    items = [_item(record, file, number) for number, record in _records(file)]
    if not items:
        raise UserError(f"{file}: the manifest is empty")
    if split is not None:
        splits = sorted({item.split for item in items if item.split})
        items = [item for item in items if item.split == split]
        if not items:
            there = f"it has {', '.join(splits)}" if splits else "its lines name none"
            raise UserError(f"{file}: no utterance of split {split!r}: {there}")
    return items


def _records(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig")  # some editors start a file with a byte order mark
            if file.suffix == ".gz"
            else open(file, encoding="utf-8-sig") as lines
        ):
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise UserError(f"{file}, line {number}: not a JSON object")
                    yield number, record
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {number}: not JSON ({error.msg})") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"cannot read the manifest {file}: {error}") from None


def _item(record: dict[str, Any], file: Path, number: int) -> Item:
    where = f"{file}, line {number}"
    try:
        if "recording" in record or "supervisions" in record or "tracks" in record:
            return _cut(record, file, where)
        text = record["text"]
        name = record["audio"]
    except KeyError as error:
        raise UserError(f"{where}: the utterance has no {error.args[0]!r}") from None
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"{where}: not an utterance ({error})") from None
    if not isinstance(text, str):
        raise UserError(f"{where}: the text is {json.dumps(text)}, not a string")
    utterance = str(record.get("id", number))
    if record.get("start") not in (None, 0):
        raise UserError(
            f"{where}: utterance {utterance} has a start, but a line of a manifest is a whole file (parts of files are "
            "written as lhotse cuts)"
        )
    audio = _find(str(name), file, where)
    return Item(utterance, text, audio, split=str(record.get("split", "")), speaker=_speaker([record]))


def _cut(record: dict[str, Any], file: Path, where: str) -> Item:
    """A lhotse cut. Anything but a piece of one mono file as it is goes through lhotse."""
    supervisions = sorted(record.get("supervisions") or [], key=lambda s: s.get("start", 0.0))
    text = " ".join(s["text"] for s in supervisions if s.get("text"))
    name = str(record["id"])
    split = str((record.get("custom") or {}).get("split", ""))
    speaker = _speaker([record, *supervisions])
    recording = record.get("recording") or {}
    sources = recording.get("sources") or []
    plain = (
        record.get("type") == "MonoCut"
        and not recording.get("transforms")
        and len(sources) == 1
        and sources[0].get("type") == "file"
        and sources[0].get("channels") == [0]
        and record.get("channel", 0) == 0
    )
    _check_times(record, where)
    if not plain:
        if _runs_command(record):
            raise UserError(f"{where}: the audio of cut {name} is the output of a command, and data files run none")
        _place_sources(record, file, where)
        return Item(
            name, text or _texts(record), _through_lhotse(record, where), 0.0, record.get("duration"), split, speaker
        )
    start, duration = float(record.get("start", 0.0)), float(record["duration"])
    whole = start == 0.0 and abs(duration - float(recording.get("duration", -1.0))) < 1e-3
    audio = _find(str(sources[0]["source"]), file, where)
    return Item(name, text, audio, start, None if whole else duration, split, speaker)


def _speaker(records: list[dict[str, Any]]) -> str:
    return next((str(record["speaker"]) for record in records if record.get("speaker")), "")


def _check_times(record: dict[str, Any], where: str) -> None:
    """UserError unless the start and the duration of a cut, and of the cuts of its tracks, are lengths of time."""
    for key, default in (("start", 0.0), ("duration", 1.0)):
        value = record.get(key, default)
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not 0 <= seconds < math.inf or key == "duration" and seconds == 0:
            raise UserError(f"{where}: the {key} of cut {record.get('id')} is {json.dumps(value)} seconds")
    for track in record.get("tracks") or []:
        _check_times(track.get("cut") or {}, where)


def _runs_command(value: Any) -> bool:
    """Whether lhotse would run a shell command for an audio source anywhere in a cut: of its recording, of a track, of
    a room's response. A cut file comes with the data, and whoever scores it has not agreed to its programs."""
    if isinstance(value, list):
        return any(_runs_command(entry) for entry in value)
    if not isinstance(value, dict):
        return False
    # lhotse opens "pipe:COMMAND" as a URL
    if "source" in value and (value.get("type") == "command" or str(value["source"]).startswith("pipe:")):
        return True
    return any(_runs_command(entry) for entry in value.values())


def _place_sources(record: dict[str, Any], file: Path, where: str) -> None:
    """Makes the audio paths of a cut, its tracks' cuts included, independent of the current folder."""
    for source in (record.get("recording") or {}).get("sources") or []:
        if source.get("type") == "file":
            source["source"] = str(_find(str(source["source"]), file, where))
    for track in record.get("tracks") or []:
        _place_sources(track.get("cut") or {}, file, where)


def _texts(record: dict[str, Any]) -> str:
    """The references of a mixed cut, in order of time."""
    parts = []
    for track in record.get("tracks") or []:
        for supervision in track.get("cut", {}).get("supervisions") or []:
            begin = float(track.get("offset", 0.0)) + float(supervision.get("start", 0.0))
            parts.append((begin, supervision.get("text") or ""))
    return " ".join(text for _, text in sorted(parts) if text)


def _through_lhotse(record: dict[str, Any], where: str) -> Callable[[], Any]:
    try:
        from lhotse.serialization import deserialize_item
    except ImportError:
        kind = record.get("type", "cut")
        raise UserError(
            f"{where}: this {kind} needs lhotse to be read: pip install 'emformer-asr[train]'"
        ) from None

    name = record.get("id")

    def load() -> Any:
        try:
            return deserialize_item(record).resample(SAMPLE_RATE).load_audio().mean(axis=0)
        except Exception as error:  # lhotse raises whatever its back ends raise
            # the first line is the sentence; a list of every decoder tried and every call on the way follow it
            reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(" Details:").rstrip(".")
            raise UserError(f"{where}: cannot read the audio of cut {name}: {reason}") from None

    return load


def _find(name: str, file: Path, where: str) -> Path:
    path = Path(name)
    candidates = [path] if path.is_absolute() else [file.parent / path, path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{where}: no such audio file: {candidates[0]}")
