"""Corpora as lhotse cuts: LibriSpeech, Free Spoken Digit Dataset, folders with a ``manifest.jsonl``, lhotse cut files.

Every reader returns an eager CutSet with one supervision a cut that carries text and speaker. Audio is opened for its
header only; it is decoded, and resampled to 16 kHz where needed, when a batch wants it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from asr.data.config import CorpusConfig
from asr.errors import UserError

log = logging.getLogger(__name__)

LIBRISPEECH_PARTS = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other",
    "train-clean-5", "dev-clean-2",
)  # fmt: skip
FSDD_URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FSDD_NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


def load_cuts(source: str | Path | CorpusConfig, need_text: bool = True) -> CutSet:
    """The cuts of one source, filtered as its config says.

    ``need_text`` False accepts recordings without a transcript (noise); a transcript may always be empty (training on
    what is not speech). Raises UserError for a source that does not
    exist, is of no known kind, has a bad line, or has no cut left.
    """
    config = source if isinstance(source, CorpusConfig) else CorpusConfig(path=str(source))
    if config.repeat <= 0:
        raise UserError(f"{config.path}: repeat must be above 0, it is {config.repeat:g}.")
    path = Path(config.path).expanduser()
    if not config.path or not path.exists():
        raise UserError(f"The data source '{config.path}' does not exist.")
    kind = _kind(path) if config.kind == "auto" else config.kind
    splits = [part.strip() for part in config.split.split(",") if part.strip()]
    if kind == "manifest":
        cuts = _from_manifest(path, splits, config, need_text)
    elif kind == "librispeech":
        cuts = _from_librispeech(path, splits)
    elif kind == "fsdd":
        cuts = _from_fsdd(path, splits)
    elif kind == "cuts":
        cuts = _from_cut_file(path, splits)
    else:
        raise UserError(f"{path}: unknown kind '{kind}'; choose auto, manifest, librispeech, fsdd or cuts.")
    cuts = [cut for cut in cuts if _wanted(cut, config)]
    if need_text:
        silent = next((cut.id for cut in cuts if not any(s.text is not None for s in cut.supervisions)), None)
        if silent is not None:
            raise UserError(f"{path}: cut {silent} has no transcript.")
    if config.limit:
        cuts = cuts[: config.limit]
    if not cuts:
        filters = {k: v for k, v in (("split", config.split), ("speakers", config.speakers)) if v}
        raise UserError(f"{path}: no utterance is left{f' with {filters}' if filters else ''}.")
    return CutSet.from_cuts(cuts)


def cut_speaker(cut: MonoCut) -> str | None:
    """The speaker of a cut's first supervision."""
    return cut.supervisions[0].speaker if cut.supervisions else None


def assert_disjoint_speakers(
    train: Iterable[MonoCut], *others: Iterable[MonoCut], names: Sequence[str] = (), quiet: bool = False
) -> list[int]:
    """Raises UserError when a speaker of ``train`` is in another set; prints and returns every set's number of speakers.

    ``names`` label the sets in messages, ``train`` first. ``quiet``: don't print (ranks above 0).
    """
    names = [*names, *("train" if i == 0 else f"set {i}" for i in range(len(names), len(others) + 1))]
    sets = [{s for cut in cuts if (s := cut_speaker(cut)) is not None} for cuts in (train, *others)]
    for name, speakers in zip(names[1:], sets[1:], strict=True):
        shared = sorted(sets[0] & speakers)
        if shared:
            shown = ", ".join(shared[:5]) + (" …" if len(shared) > 5 else "")
            raise UserError(f"{len(shared)} speakers are in both {names[0]} and {name}: {shown}.")
    if not quiet:
        print(
            "speakers: "
            + ", ".join(f"{name} {len(s)}" for name, s in zip(names, sets, strict=True))
            + ", disjoint"
        )
    return [len(speakers) for speakers in sets]


def download_librispeech(target: str | Path, parts: Sequence[str] = LIBRISPEECH_PARTS[:7]) -> Path:
    """Downloads and unpacks parts of LibriSpeech with lhotse (resumable); returns the folder that holds the parts."""
    from lhotse.recipes import download_librispeech as download

    unknown = sorted(set(parts) - set(LIBRISPEECH_PARTS))
    if unknown:
        raise UserError(
            f"unknown LibriSpeech part {', '.join(unknown)}: choose from {', '.join(LIBRISPEECH_PARTS)}."
        )
    return Path(download(target, dataset_parts=list(parts)))


def download_fsdd(target: str | Path, url: str = FSDD_URL) -> Path:
    """Downloads and unpacks the Free Spoken Digit Dataset; returns its folder. Does nothing when it is there."""
    target = Path(target)
    folder = target / "free-spoken-digit-dataset"
    if (folder / "recordings").is_dir():
        return folder
    target.mkdir(parents=True, exist_ok=True)
    archive, unpacked = target / "fsdd.tar.gz.part", target / "fsdd.part"
    try:
        with urllib.request.urlopen(url, timeout=60) as response, open(archive, "wb") as file:
            shutil.copyfileobj(response, file)
        shutil.rmtree(unpacked, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        top = next((path.parent for path in unpacked.rglob("recordings") if path.is_dir()), None)
        if top is None:
            raise UserError(f"{url} holds no folder 'recordings'.")
        top.rename(folder)  # last, so that a half-unpacked archive is never taken for the data
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"Cannot download {url}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)
    return folder


def _kind(path: Path) -> str:
    if path.is_dir():
        if (path / "manifest.jsonl").is_file():
            return "manifest"
        if any(_FSDD_NAME.fullmatch(p.name) for p in islice(_fsdd_folder(path).glob("*.wav"), 20)):
            return "fsdd"
        if librispeech_parts(path):
            return "librispeech"
        raise UserError(f"{path} holds no manifest.jsonl, no LibriSpeech part and no FSDD recordings.")
    if path.name.endswith((".jsonl.gz", ".json.gz")):
        return "cuts"
    with open(path, encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    return "cuts" if re.search(r'"type"\s*:\s*"\w+Cut"', first) else "manifest"


def _wanted(cut: MonoCut, config: CorpusConfig) -> bool:
    speaker = cut_speaker(cut)
    return (not config.speakers or speaker in config.speakers) and speaker not in config.exclude_speakers


def _cut(
    audio: Path, cut_id: str, text: str | None, speaker: str | None, custom: dict | None = None
) -> MonoCut:
    info = soundfile.info(str(audio))
    if info.frames <= 0:
        raise OSError("it holds no samples")
    seconds = info.frames / info.samplerate
    source = AudioSource("file", list(range(info.channels)), str(audio))
    recording = Recording(cut_id, [source], info.samplerate, info.frames, seconds, list(range(info.channels)))
    channel: Any = 0 if info.channels == 1 else list(range(info.channels))  # several are averaged, as when decoding
    segment = SupervisionSegment(
        cut_id, cut_id, 0.0, seconds, channel, text, "English" if text else None, speaker, custom=custom
    )
    kind: Any = MonoCut if info.channels == 1 else MultiCut
    return kind(cut_id, 0.0, seconds, channel, supervisions=[segment], recording=recording)


def _from_manifest(path: Path, splits: list[str], config: CorpusConfig, need_text: bool) -> list[MonoCut]:
    path = path / "manifest.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    lines, seen = [], set()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text.") from error
            if not isinstance(entry, dict) or not isinstance(entry.get("audio"), str):
                raise UserError(f"{path}, line {number}: needs an object with an 'audio' path.")
            if need_text and not isinstance(entry.get("text"), str):
                raise UserError(f"{path}, line {number}: needs a 'text'.")
            if entry.get("start") not in (None, 0):
                raise UserError(
                    f"{path}, line {number}: has a 'start', but a manifest line is a whole file: cut the file, or use lhotse cuts."
                )
            seen.add(entry.get("split", ""))
            if splits and entry.get("split") not in splits:
                continue
            speaker = entry.get("speaker")
            if (config.speakers and speaker not in config.speakers) or speaker in config.exclude_speakers:
                continue
            lines.append((number, entry))
            if config.limit and len(lines) >= config.limit:
                break
    if splits and not lines and not set(splits) & seen:
        known = ", ".join(sorted(s for s in seen if s)) or "no splits"
        raise UserError(f"{path}: no line of split {', '.join(splits)}; it has {known}.")

    def read(item: tuple[int, dict]) -> MonoCut:
        number, entry = item
        audio = path.parent / entry["audio"]
        if not audio.is_file():
            raise UserError(f"{path}, line {number}: audio file {audio} does not exist.")
        speaker = entry.get("speaker")
        rest = {k: v for k, v in entry.items() if k not in ("id", "audio", "duration", "text", "speaker")}
        cut_id = str(entry.get("id", audio.stem))
        try:
            return _cut(
                audio, cut_id, entry.get("text"), None if speaker is None else str(speaker), rest or None
            )
        except (soundfile.SoundFileError, OSError) as error:
            raise UserError(f"{path}, line {number}: {audio} is not readable audio ({error}).") from error

    with ThreadPoolExecutor(4) as pool:  # reading a compressed file's header means finding its end
        return list(pool.map(read, lines))


def librispeech_parts(path: Path) -> dict[str, Path]:
    """Part name -> folder, for a corpus folder, the folder above it, or a part itself."""
    for folder in (path, path / "LibriSpeech"):
        parts = {name: folder / name for name in LIBRISPEECH_PARTS if (folder / name).is_dir()}
        if parts:
            return parts
    return {path.name: path} if next(path.glob("*/*/*.trans.txt"), None) else {}


def _from_librispeech(path: Path, splits: list[str]) -> list[MonoCut]:
    from lhotse.recipes import prepare_librispeech

    parts = librispeech_parts(path)
    missing = [name for name in splits if name not in parts]
    if missing or not parts:
        raise UserError(
            f"{path} has no LibriSpeech part {', '.join(missing)}; it has {', '.join(parts) or 'none'}."
        )
    cuts: list[MonoCut] = []
    for name in splits or parts:
        manifests = prepare_librispeech(parts[name].parent, dataset_parts=name, num_jobs=4)[name]
        cuts += CutSet.from_manifests(
            recordings=manifests["recordings"], supervisions=manifests["supervisions"]
        )
    for cut in cuts:
        cut.id = cut.supervisions[0].id
    return sorted(cuts, key=lambda cut: cut.id)  # the order of the file system is nobody's


def _fsdd_folder(path: Path) -> Path:
    return path / "recordings" if (path / "recordings").is_dir() else path


def _from_fsdd(path: Path, splits: list[str]) -> list[MonoCut]:
    """Splits of the corpus' own making: ``test`` is recordings 0-4 of each digit and speaker, ``train`` the rest."""
    unknown = set(splits) - {"train", "test"}
    if unknown:
        raise UserError(f"{path}: FSDD has the splits train and test, not {', '.join(sorted(unknown))}.")
    cuts = []
    for file in sorted(_fsdd_folder(path).glob("*.wav")):
        match = _FSDD_NAME.fullmatch(file.name)
        if match is None:
            log.warning("%s is not named digit_speaker_number.wav: left out", file)
            continue
        digit, speaker, number = match.groups()
        split = "test" if int(number) < 5 else "train"
        if splits and split not in splits:
            continue
        try:
            cuts.append(_cut(file, file.stem, DIGITS[int(digit)], f"fsdd-{speaker}", {"split": split}))
        except (soundfile.SoundFileError, OSError) as error:
            raise UserError(f"{file} is not readable audio ({error}).") from error
    return cuts


def _sources(cut: Any) -> list[AudioSource]:
    """Where the audio of a cut comes from: its recording's sources, or those of everything mixed into it."""
    if hasattr(cut, "tracks"):
        return [source for track in cut.tracks for source in _sources(track.cut)]
    recording = getattr(cut, "recording", None)
    if recording is None:
        return []
    found = list(recording.sources)
    for transform in recording.transforms or ():  # reverberation by a recorded impulse response
        response = (transform if isinstance(transform, dict) else transform.to_dict()).get("kwargs", {}).get("rir")
        if isinstance(response, dict):
            response = Recording.from_dict(response)
        found += response.sources if isinstance(response, Recording) else ()
    return found


def _from_cut_file(path: Path, splits: list[str]) -> list[MonoCut]:
    try:
        cuts = list(CutSet.from_file(path))
    except Exception as error:  # lhotse raises whatever its parsers raise
        raise UserError(
            f"{path} is not a lhotse cut file: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    for cut in cuts:
        for source in _sources(cut):
            # lhotse opens "pipe:COMMAND" as a URL
            if source.type == "command" or str(source.source).startswith("pipe:"):
                raise UserError(
                    f"{path}: the audio of cut {cut.id} is the output of a command, and data files run none."
                )
            if source.type != "file":
                continue
            if not Path(source.source).is_absolute() and (path.parent / source.source).is_file():
                source.source = str(path.parent / source.source)  # relative to the cut file, as in `asr evaluate`
            if not Path(source.source).is_file():
                raise UserError(f"{path}: the audio file {source.source} of cut {cut.id} does not exist.")
    if not splits:
        return cuts
    return [cut for cut in cuts if any((s.custom or {}).get("split") in splits for s in cut.supervisions)]
