"""Synthetic voices as extra training speech: espeak-ng, flite and festival, whichever is installed (none is fine).

Accents come for free from espeak-ng: a Hindi, Japanese or Spanish voice that reads the English digit names as they are
spelled in its own script speaks them with its own sounds.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from sources import DIGITS

# English digit names in the spelling of other languages, zero to nine
SPELLED = {
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "bn": "জিরো ওয়ান টু থ্রি ফোর ফাইভ সিক্স সেভেন এইট নাইন",
    "ta": "ஸீரோ வன் டூ த்ரீ ஃபோர் ஃபைவ் சிக்ஸ் செவன் எய்ட் நைன்",
    "te": "జీరో వన్ టూ త్రీ ఫోర్ ఫైవ్ సిక్స్ సెవెన్ ఎయిట్ నైన్",
    "ru": "зироу уан ту сри фор файв сикс сэвэн эйт найн",
    "de": "siro wann tu sri for faif sicks ssewen äit nain",
    "es": "sirou uan tu zri for faif sics seven éit náin",
    "es-419": "sirou uan tu tri for faiv sics seven éit náin",
    "it": "ziro uan tu tri for faiv sics seven eit nain",
    "pt-br": "zirou uan tchu tri for faiv sics séven eit nain",
    "fr-fr": "ziro ouane tou sri fore faïve sixe sévène éïte naïne",
    "pl": "ziroł łan tu fri for fajw siks sewen ejt najn",
    "tr": "ziro uan tu tri for fayv siks sevın eyt nayn",
    "ko": "제로 원 투 쓰리 포 파이브 식스 세븐 에잇 나인",
    "id": "ziro wan tu tri for faif siks seven eit nain",
    "sw": "ziro wan tu thri fo faiv siks seven eiti naini",
    "ro": "zirou uan tu sri for faiv sics seven eit nain",
    "vi": "di rô oăn tu tri pho phai xích xe vần ết nai",
}
ENGLISH = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Andy", "Annie", "Alicia", "Andrea",
    "Gene", "Hugo", "Lee", "Mario", "Michael", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "ed", "edward", "grandma", "grandpa", "gustave", "iven", "john", "klatt", "klatt3", "linda",
    "marcelo", "max", "michel", "miguel", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby",
    "steph", "steph2", "travis", "victor", "zac",
)  # fmt: skip
FLITE = ("kal16", "awb", "rms", "slt")
FESTIVAL = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")


@dataclass(frozen=True)
class Voice:
    engine: str
    name: str
    variant: str = ""

    @property
    def speaker(self) -> str:
        return "tts-" + "-".join(p for p in (self.engine, self.name, self.variant) if p)


def voices() -> list[Voice]:
    """All voices that the machine can speak with."""
    found: list[Voice] = []
    if shutil.which("espeak-ng"):
        # each variant with two English accents and one foreign one, so that a variant is one "person" in few accents
        foreign = list(SPELLED)
        for i, variant in enumerate(VARIANTS):
            found += [Voice("espeak", ENGLISH[(2 * i + k) % len(ENGLISH)], variant) for k in range(2)]
            found += [Voice("espeak", foreign[(2 * i + k) % len(foreign)], variant) for k in range(2)]
    if shutil.which("flite"):
        listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True).stdout.split()
        found += [Voice("flite", name) for name in FLITE if name in listed]
    if shutil.which("text2wave"):
        homes = [p for p in Path("/usr/share/festival/voices").glob("*/*")]
        found += [Voice("festival", p.name) for p in homes if p.name in FESTIVAL]
    return found


def _to_16k(data: bytes) -> np.ndarray:
    audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return soxr.resample(audio.mean(1), rate, 16000).astype(np.float32)


def speak(voice: Voice, words: list[str], groups: list[int], rng: np.random.Generator) -> np.ndarray:
    """Digits spoken as one phrase, a comma between groups (3-3-4 and the like): float32 (S,), 16 kHz."""
    names = list(words)
    if voice.engine == "espeak" and voice.name in SPELLED:
        table = dict(zip(DIGITS, _split_spelled(voice.name), strict=True))
        names = [table[word] for word in words]
    else:
        names = ["oh" if word == "zero" and rng.random() < 0.35 else word for word in words]
    parts, at = [], 0
    for size in groups:
        parts.append(" ".join(names[at : at + size]))
        at += size
    text = ", ".join(p for p in parts if p)
    if voice.engine == "espeak":
        full = voice.name + (f"+{voice.variant}" if voice.variant else "")
        command = [
            "espeak-ng",
            "-v",
            full,
            "-s",
            str(int(rng.integers(110, 230))),
            "-p",
            str(int(rng.integers(15, 85))),
        ]
        if rng.random() < 0.3:
            command += ["-g", str(int(rng.integers(1, 12)))]
        done = subprocess.run([*command, "--stdout", text], capture_output=True, check=True)
        # espeak-ng cannot know the length when it writes to a pipe: the header's sizes are wrong
        return soxr.resample(_wav_samples(done.stdout), 22050, 16000).astype(np.float32)
    if voice.engine == "flite":
        with tempfile.NamedTemporaryFile(suffix=".wav") as out:
            stretch = f"duration_stretch={rng.uniform(0.75, 1.3):.2f}"
            subprocess.run(
                ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", out.name], check=True
            )
            return _to_16k(Path(out.name).read_bytes())
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:  # to a pipe it writes a header without sizes
        pace = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.75, 1.3):.2f})"
        command = ["text2wave", "-eval", f"(voice_{voice.name})", "-eval", pace, "-o", out.name]
        subprocess.run(command, input=text.encode(), capture_output=True, check=True)
        return _to_16k(Path(out.name).read_bytes())


def _split_spelled(name: str) -> list[str]:
    words = SPELLED[name].split(" ")
    if name == "vi":  # two of its names have two syllables
        words = ["di rô", "oăn", "tu", "tri", "pho", "phai", "xích", "xe vần", "ết", "nai"]
    return words


def _wav_samples(data: bytes) -> np.ndarray:
    at = data.find(b"data")
    body = data[at + 8 :] if at >= 0 else b""
    return np.frombuffer(body[: len(body) // 2 * 2], dtype="<i2").astype(np.float32) / 32768


def random_groups(rng: np.random.Generator, count: int) -> list[int]:
    """How people cut numbers: 3-3-4 for ten digits, else groups of 2 to 4, or one run."""
    if count == 10 and rng.random() < 0.6:
        return [3, 3, 4]
    if count <= 4 or rng.random() < 0.2:
        return [count]
    groups: list[int] = []
    while (left := count - sum(groups)) > 0:
        groups.append(left if left <= 2 else int(min(left, rng.integers(2, 5))))
    return groups


def spoken_strings(
    voice: Voice,
    number: int,
    rng: np.random.Generator,
    lengths: tuple[int, ...] = (1, 2, 3, 4, 4, 5, 7, 10, 10),
) -> Iterator[tuple[list[str], np.ndarray]]:
    """``number`` random digit strings of one voice; a voice that fails is left out without a word lost elsewhere."""
    for _ in range(number):
        words = [DIGITS[int(k)] for k in rng.integers(0, 10, int(rng.choice(lengths)))]
        try:
            audio = speak(voice, words, random_groups(rng, len(words)), rng)
        except (subprocess.CalledProcessError, RuntimeError):
            return
        if len(audio) > 1600 and float(np.max(np.abs(audio))) > 1e-3:
            yield words, audio
