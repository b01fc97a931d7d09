"""Builds the data of the digits recipe: ``python recipes/digits/prepare.py --data DIR`` (see README.md).

Writes ``OUT/train`` (digit strings), ``OUT/speech`` (any speech whose phones are known, for warmup.py), ``OUT/dev`` (strings
of held-out speakers), ``OUT/tokens`` and ``OUT/speakers.json``. Run again after a stop, it goes on where it was. The test speakers' audio is never opened; their names are read to show
that no set shares a speaker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # one process a core is faster than two threads each

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
import augment
import mixture
import sources
import synth
from align import read_alignments
from sources import (
    AS_ZERO,
    DIGITS,
    Utterance,
    assert_disjoint,
    digit_words,
    is_dev,
    read_manifest,
    read_training_speech,
    test_speakers,
)
from strings import UNKNOWN, Bank, Take, join, surround, trim

# words that sound like a digit: speech with one of them is no example of "no digits here"
SOUND_ALIKE = set(DIGITS) | set(AS_ZERO) | {"to", "too", "for", "fore", "ate", "won", "know", "no"}
_material: dict = {}  # per worker process


def load_material(data: Path, voices: bool = True, alignments: Path | None = None) -> dict:
    """Everything that the mixture draws from, training speakers only."""
    aligned = read_alignments(alignments)
    speech = [u for u in read_training_speech(data) if not is_dev(u)]
    tight, words = Bank(), Bank()
    natural = []
    for u in speech:
        line = aligned.get(u.id, {"words": [], "phones": []})
        labels = tuple((n, s, e) for n, s, e in line["phones"])
        digits = digit_words(u.text)
        if u.corpus == "fsdd":
            audio = mixture.load(u)
            if aligned and not labels:  # phones everywhere else: what these samples are is not known
                labels = ((UNKNOWN, 0.0, len(audio) / augment.RATE),)
            for bank in (tight, words):
                bank.add(u.speaker, digits[0], audio, labels)
            continue
        if digits:
            natural.append((u, Take(mixture.load(u), labels)))
        cut_digits(words, u, line)
    negatives = [u for u in speech if u.corpus != "fsdd" and not SOUND_ALIKE & set(u.text.lower().split())]
    noise = data / "noise"
    noises = (
        [mixture.load(u) for u in read_manifest(noise, "train")]
        if (noise / "manifest.jsonl").is_file()
        else []
    )
    return {
        "tight": tight,
        "words": words,
        "natural": natural,
        "voices": synth.voices() if voices else [],
        "negatives": negatives,
        "speech": [
            (u, tuple((n, s, e) for n, s, e in aligned[u.id]["phones"]))
            for u in speech
            if u.corpus != "fsdd" and aligned.get(u.id, {}).get("phones")
        ],
        "noises": noises,
    }


def cut_digits(bank: Bank, u: Utterance, line: dict) -> None:
    """Adds the digits that an aligned utterance of other speech holds, 20 ms wider than the aligner says."""
    audio = None
    for word, start, end in line["words"]:
        name = AS_ZERO.get(word, word) if word != "o" else word
        # "one" is in every other sentence, mostly as a pronoun said in passing
        if name not in DIGITS or end - start < (0.2 if name == "one" else 0.14):
            continue
        if len(bank.words[u.speaker][name]) >= (5 if name == "one" else 20):
            continue
        audio = mixture.load(u) if audio is None else audio
        first, last = max(0, int((start - 0.02) * augment.RATE)), int((end + 0.02) * augment.RATE)
        whole = Take(audio, tuple((n, s, e) for n, s, e in line["phones"] if s >= start and e <= end))
        if whole.labels:
            take = whole.cut(first, min(last, len(audio)))
            bank.add(u.speaker, name, take.audio, take.labels)


def _start_worker(data: Path, voices: bool, alignments: Path | None, seed: int, all_fsdd: bool) -> None:
    if all_fsdd:
        sources.DEV_FSDD_SPEAKERS = ()
    _material.update(load_material(data, voices, alignments), seed=seed)


def _make(job: tuple[str, int, Path]) -> dict | None:
    """Makes one utterance and its file (or finds it made) -> its manifest line."""
    kind, number, folder = job
    note = folder / "audio" / kind / f"{number:05d}.json"
    if note.is_file():
        return json.loads(note.read_text())
    sample = mixture.one(kind, number, **_material)
    if sample is None:
        return None
    row = write_audio(folder, f"audio/{kind}/{number:05d}.flac", sample.take.audio)
    row |= {
        "id": sample.id,
        "text": " ".join(sample.words),
        "speaker": sample.speaker,
        "split": "train",
        "kind": kind,
    }
    if sample.take.labels:
        row["labels"] = [[n, round(s, 3), round(e, 3)] for n, s, e in sample.take.labels]
    temporary = note.with_suffix(".tmp")
    temporary.write_text(json.dumps(row))
    os.replace(temporary, note)
    return row


def write_audio(folder: Path, name: str, audio: np.ndarray) -> dict:
    """Writes 16-bit FLAC by way of a temporary name; returns ``audio`` and ``duration`` of a manifest line."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.stem + ".part.flac")
    soundfile.write(temporary, np.clip(audio, -1, 1), augment.RATE, subtype="PCM_16")
    os.replace(temporary, path)
    return {"audio": name, "duration": round(len(audio) / augment.RATE, 4)}


def write_manifest(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "manifest.jsonl.tmp"
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, folder / "manifest.jsonl")


def save_tokens(folder: Path) -> None:
    """One token a digit, in the order zero … nine (ids 1 to 10)."""
    from asr.tokens import Tokenizer

    # SentencePiece orders words by frequency: say "zero" most often
    texts = [" ".join([word] * (20 - i)) for i, word in enumerate(DIGITS)]
    Tokenizer.train(texts, len(DIGITS) + 1, "word").save(folder)


def dev_rows(data: Path, folder: Path) -> list[dict]:
    """Held-out speakers: learners' strings clean and twice through a channel, FSDD digits singly and as ten-digit strings."""
    rng = np.random.default_rng(99)
    speech = read_training_speech(data)
    held_out = data / "speechocean762"
    if (held_out / "manifest.jsonl").is_file():
        speech += list(read_manifest(held_out, "dev"))
    noise = data / "noise"
    noises = (
        [mixture.load(u) for u in read_manifest(noise, "test")]
        if (noise / "manifest.jsonl").is_file()
        else []
    )
    rows: list[dict] = []

    def put(kind: str, words: list[str], speaker: str, audio: np.ndarray) -> None:
        name = f"{kind}-{len(rows):04d}"
        row = write_audio(folder, f"audio/{name}.flac", audio)
        rows.append(
            row | {"id": name, "text": " ".join(words), "speaker": speaker, "split": "dev", "kind": kind}
        )

    for u in speech:
        words = digit_words(u.text)
        if u.corpus == "fsdd" or not words or not (u.split == "dev" or is_dev(u)):
            continue
        audio = mixture.load(u)
        put("learner", words, u.speaker, audio)
        for _ in range(2):
            put(
                "learner_noisy",
                words,
                u.speaker,
                augment.channel(rng, surround(rng, Take(audio), tight=0.0).audio, noises),
            )
    for speaker in sources.DEV_FSDD_SPEAKERS:
        takes = [u for u in speech if u.speaker == speaker]
        bank = Bank()
        for u in takes:
            bank.add(speaker, digit_words(u.text)[0], mixture.load(u))
        for u in takes[::2]:
            put("single", digit_words(u.text), speaker, mixture.load(u))
        for _ in range(40 if takes else 0):
            words = [DIGITS[int(k)] for k in rng.integers(0, 10, 10)]
            pieces = [trim(bank.draw(rng, speaker, w)).audio for w in words]
            put("string", words, speaker, join(pieces, [float(rng.uniform(0.0, 0.2)) for _ in pieces[1:]])[0])
    return rows


def make(name: str, work: list[tuple[str, int, Path]], jobs: int, material: tuple) -> list[dict]:
    """Makes utterances in ``jobs`` processes, with progress; finished ones are kept from an earlier run."""
    rows, start, shown = [], time.time(), 0.0
    with ProcessPoolExecutor(jobs, initializer=_start_worker, initargs=material) as pool:
        for done, row in enumerate(pool.map(_make, work, chunksize=20), 1):
            if row is not None:
                rows.append(row)
            if time.time() - shown > 5 or done == len(work):
                shown = time.time()
                rate = done / (shown - start + 1e-9)
                print(
                    f"  {name} {done}/{len(work)}  {rate:.0f}/s  {(len(work) - done) / rate:.0f} s left",
                    flush=True,
                )
    return rows


def settings_changed(args: argparse.Namespace) -> str:
    """What differs from the settings that ``args.out`` was begun with, "" if nothing; a new folder gets a note of them.

    Finished utterances are kept from run to run, and they are those of the settings.
    """
    digest = hashlib.sha256(args.alignments.read_bytes()).hexdigest()[:16] if args.alignments else None
    settings = {
        "data": str(args.data.resolve()), "seed": args.seed, "all-fsdd": args.all_fsdd, "smoke": args.smoke,
        "no-voices": args.no_voices, "alignments": digest, "mixture": mixture.Amounts().__dict__,
    }  # fmt: skip
    settings["voices"] = len(synth.voices())
    note = args.out / "settings.json"
    if not note.is_file():
        args.out.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings, indent=1))
        return ""
    before = json.loads(note.read_text())
    return ", ".join(name for name in settings if settings[name] != before.get(name))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with fsdd/, speechocean762/, librispeech/ …"
    )
    parser.add_argument("--out", type=Path, default=Path("exp/digits/data"))
    parser.add_argument("--amount", type=float, default=1.0, help="scales the number of training strings")
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed makes other strings of the same material"
    )
    parser.add_argument(
        "--all-fsdd", action="store_true", help="train on all five FSDD speakers, dev on learners only"
    )
    parser.add_argument(
        "--alignments", type=Path, help="what align.py wrote: digits of more speakers, phones for the warm-up"
    )
    parser.add_argument(
        "--strings-only", action="store_true", help="no other speech: all that a run from a warm encoder needs"
    )
    parser.add_argument("--smoke", action="store_true", help="a few minutes of easy strings, for smoke.yaml")
    parser.add_argument("--no-voices", action="store_true", help="no synthetic voices, installed or not")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    if not (args.data / "fsdd" / "manifest.jsonl").is_file():
        print(f"error: no fsdd/manifest.jsonl in {args.data}", file=sys.stderr)
        return 2

    if args.alignments and not args.alignments.is_file():
        print(f"error: {args.alignments} does not exist: run align.py", file=sys.stderr)
        return 2
    start = time.time()
    if args.all_fsdd:
        sources.DEV_FSDD_SPEAKERS = ()
    if changed := settings_changed(args):
        print(
            f"error: {args.out} was made with other settings ({changed}): choose another --out or remove it",
            file=sys.stderr,
        )
        return 2
    train_material = [u for u in read_training_speech(args.data) if not is_dev(u)]
    dev = dev_rows(args.data, args.out / "dev")
    sets = {
        "train": {u.speaker for u in train_material},
        "dev": {row["speaker"] for row in dev},
        **test_speakers(args.data),
    }
    assert_disjoint(sets)
    for name, speakers in sets.items():
        listed = ", ".join(sorted(speakers)[:8])
        print(f"{name}: {len(speakers)} speakers: {listed}{' …' if len(speakers) > 8 else ''}")
    print("no speaker is in two of these sets")
    write_manifest(args.out / "dev", dev)
    save_tokens(args.out / "tokens")
    amounts = (mixture.Amounts.smoke() if args.smoke else mixture.Amounts()).scaled(args.amount)
    voices = not (args.no_voices or args.smoke)
    found = [] if not voices else sorted({v.engine for v in synth.voices()})
    print(
        f"synthetic voices: {', '.join(found) or 'none (optional: apt-get install espeak-ng flite festival)'}"
    )
    material = (args.data, voices, args.alignments, args.seed, args.all_fsdd)
    work = [(kind, number, args.out / "train") for kind, number in mixture.schedule(amounts)]
    rows = make("train", work, args.jobs, material)
    write_manifest(args.out / "train", rows)
    speech = []
    if args.alignments and not args.strings_only:
        count = sum(bool(line["phones"]) for line in read_alignments(args.alignments).values())
        work = [("speech", number, args.out / "speech") for number in range(count)]
        speech = make("speech", work, args.jobs, material)
        write_manifest(args.out / "speech", speech)
    made = {"train": {row["speaker"] for row in rows + speech}, **{k: v for k, v in sets.items() if k != "train"}}
    assert_disjoint(made)  # what was written, not only what was meant
    (args.out / "speakers.json").write_text(json.dumps({k: sorted(v) for k, v in sets.items()}, indent=1))
    for name, table in (("train", rows), ("speech", speech), ("dev", dev)):
        hours = sum(row["duration"] for row in table) / 3600
        kinds = {row.get("kind", "speech") for row in table}
        print(f"{name}: {len(table)} utterances, {hours:.2f} h ({', '.join(sorted(kinds))})")
    print(f"done in {time.time() - start:.0f} s: {args.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
