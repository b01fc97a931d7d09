"""Where each word and phone of the training speech lies: ``python recipes/digits/align.py --data DIR`` (see README.md).

Forced alignment by PocketSphinx 5 and the acoustic model in its wheel (``pip install pocketsphinx``; nothing is downloaded).
Words first; then, with the pronunciations that were found, phones. Writes one JSON line an utterance:
``{"id", "words": [[word, start, end], …], "phones": [[phone, start, end], …]}`` in seconds, phones in ARPAbet, silence left
out. Lists are empty where PocketSphinx did not reach the end of the transcript; where only the pass over the phones failed
(three in ten), a word's time is shared out evenly, vowels half as long again. Run again after a stop, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import augment
import mixture
from sources import DIGITS, TRAIN_SPLITS, Utterance, is_dev, read_training_speech

PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
# flite's phones for words that the dictionary has not, where they differ from ARPAbet without stress
FLITE_PHONES = {"AX": "AH", "AXR": "ER", "EL": "L", "EM": "M", "EN": "N", "NX": "N", "IX": "IH", "DX": "D"}
VOWELS = {p for p in PHONES if p[0] in "AEIOU"}
PAD = 20  # frames of 10 ms put before and after: the model wants to begin and end in silence
# a minute or so of each reader is enough, many readers are what helps; seconds a speaker, other corpora whole
SECONDS_A_SPEAKER = {"librispeech": 45, "vctk_p239": 300, "ljtext_selfread": 300, "ljspeech_tiny": 300}

_decoder = None  # per worker process


def choose(speech: list[Utterance]) -> list[Utterance]:
    """The utterances worth aligning: those with a digit's name, and of the rest some of every speaker."""
    spent: dict[str, float] = {}
    chosen = []
    for u in speech:
        limit = SECONDS_A_SPEAKER.get(u.corpus, float("inf"))
        had = spent.get(u.speaker, 0.0)
        # "one" is in every other sentence
        if had == 0 or had + u.duration <= limit or (set(DIGITS) - {"one"}) & set(u.text.lower().split()):
            spent[u.speaker] = had + u.duration
            chosen.append(u)
    return chosen


def _start_worker() -> None:
    global _decoder
    import pocketsphinx

    _decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", beam=1e-60, pbeam=1e-60, wbeam=1e-50)
    for phone in PHONES:
        _decoder.add_word(f"_{phone}", phone, False)


def spell(word: str) -> str | None:
    """ARPAbet pronunciation of a word by flite's rules, None without flite or for what it cannot say."""
    if not shutil.which("flite"):
        return None
    said = subprocess.run(["flite", "-t", word, "-ps", "-o", "none"], capture_output=True, text=True).stdout
    phones = [FLITE_PHONES.get(p.upper(), p.upper()) for p in said.split() if p != "pau"]
    return " ".join(phones) if phones and set(phones) <= set(PHONES) else None


def _pass(text: str, pcm: bytes) -> list[tuple[str, float, float]]:
    """One forced alignment: (word, start, end) in seconds, silence left out; empty if the end was not reached."""
    _decoder.set_align_text(text)
    _decoder.start_utt()
    try:
        _decoder.process_raw(pcm, full_utt=True)
        _decoder.end_utt()
    except RuntimeError:  # PocketSphinx gave up on this one
        return []
    found = [
        (s.word, (s.start_frame - PAD) / 100, (s.end_frame + 1 - PAD) / 100)
        for s in _decoder.seg() or []
        if s.word[0] != "<"
    ]
    return found if len(found) == len(text.split()) else []


def align(utterance: Utterance) -> dict:
    """Words and phones of one utterance as a line of the output."""
    line: dict = {"id": utterance.id, "words": [], "phones": []}
    audio = mixture.load(utterance)
    audio = np.pad(audio / (np.abs(audio).max() + 1e-9) * 0.7, PAD * augment.RATE // 100)
    audio = audio + np.random.default_rng(0).standard_normal(len(audio)) * 1e-4  # no digital silence
    pcm = (audio * 32767).astype(np.int16).tobytes()
    text = utterance.text.lower().split()
    for word in set(text):
        if _decoder.lookup_word(word) is None:
            if (pronunciation := spell(word)) is None:
                return line
            _decoder.add_word(word, pronunciation, False)
    words = _pass(" ".join(text), pcm)
    line["words"] = [[w, s, e] for w, (_, s, e) in zip(text, words, strict=False)]
    # which of its pronunciations a word had is in its name: "zero(2)"
    spelled = [_decoder.lookup_word(name).split() for name, _, _ in words]
    if spelled:
        phones = _pass(" ".join(f"_{p}" for word in spelled for p in word), pcm)
        line["phones"] = [[name[1:].split("(")[0], s, e] for name, s, e in phones] or [
            phone for sounds, (_, s, e) in zip(spelled, words, strict=True) for phone in share(sounds, s, e)
        ]
    return line


def share(phones: list[str], start: float, end: float) -> list[list]:
    """A word's time for its phones, vowels half as long again: [[phone, start, end], …]."""
    edges = np.cumsum([0.0] + [1.5 if p in VOWELS else 1.0 for p in phones])
    times = np.round(start + edges / edges[-1] * (end - start), 3).tolist()
    return [[p, s, e] for p, s, e in zip(phones, times, times[1:], strict=False)]


def read_alignments(path: Path | None) -> dict[str, dict]:
    """Lines of align.py by utterance id; empty without a file. A line cut off by a stop is left out."""
    found: dict[str, dict] = {}
    if path is None or not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["id"]] = row
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(TRAIN_SPLITS)}")
    parser.add_argument("--out", type=Path, default=Path("exp/digits/alignments.jsonl"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    try:
        import pocketsphinx  # noqa: F401
    except ImportError:
        print("error: PocketSphinx is missing: pip install pocketsphinx", file=sys.stderr)
        return 2
    if not (args.data / "fsdd" / "manifest.jsonl").is_file():
        print(f"error: no fsdd/manifest.jsonl in {args.data}", file=sys.stderr)
        return 2
    # dev speakers too: `prepare.py --all-fsdd` trains on one of them
    speech = choose([u for u in read_training_speech(args.data) if u.corpus == "fsdd" or not is_dev(u)])
    done = read_alignments(args.out)
    work = [u for u in speech if u.id not in done]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.is_file() and not args.out.read_bytes().endswith(b"\n") and args.out.stat().st_size:
        with open(args.out, "ab") as out:  # a stop in mid-line
            out.write(b"\n")
    print(
        f"{len(speech)} utterances, {sum(u.duration for u in speech) / 3600:.1f} h; {len(done)} done before"
    )
    start = shown = time.time()
    seconds, words, phones = 0.0, 0, 0
    total = sum(u.duration for u in work)
    with (
        ProcessPoolExecutor(args.jobs, initializer=_start_worker) as pool,
        open(args.out, "a", encoding="utf-8") as out,
    ):
        for u, line in zip(work, pool.map(align, work, chunksize=8), strict=True):
            out.write(json.dumps(line) + "\n")
            seconds, words, phones = (
                seconds + u.duration,
                words + bool(line["words"]),
                phones + bool(line["phones"]),
            )
            if time.time() - shown > 10:
                shown = time.time()
                speed = seconds / (shown - start)
                print(f"  {seconds / 3600:.2f} h, {(total - seconds) / speed:.0f} s left", flush=True)
    print(
        f"{args.out}: words of {words} and phones of {phones} of {len(work)} utterances in {time.time() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
