"""The texts that language models of digits read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from asr.decoding.phrases import Phrases

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object, script: str = "digit_texts") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / "lm" / f"{script}.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_texts_are_the_same_every_time(tmp_path):
    speech = tmp_path / "manifest.jsonl"
    speech.write_text("".join(json.dumps({"audio": "a.wav", "text": text}) + "\n" for text in ("one two", "nine")))
    for out in ("a", "b"):
        done = run("--speech", speech, "--output", tmp_path / out)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["one.txt", "source.txt", "ten.txt", "ten_dev.txt"]
    assert all((tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text() for name in names)
    assert (tmp_path / "a" / "source.txt").read_text() == "one two\nnine\n"
    ten = (tmp_path / "a" / "ten.txt").read_text().splitlines()
    assert len(ten) == 20_000 and {len(line.split()) for line in ten} == {10}
    assert not set(ten) & set((tmp_path / "a" / "ten_dev.txt").read_text().splitlines())


def test_no_manifest_is_said(tmp_path):
    done = run("--speech", tmp_path / "none.jsonl", "--output", tmp_path / "a")
    assert done.returncode == 2 and "no such manifest" in done.stderr and not (tmp_path / "a").exists()


def test_phrases_are_classes_that_the_toolkit_reads(tmp_path):
    speech = tmp_path / "manifest.jsonl"
    rows = [{"text": "one oh two", "split": "dev"}, {"text": "nine", "split": "train"}]
    speech.write_text("".join(json.dumps({"audio": "a.wav", **row}) + "\n" for row in rows))
    done = run("--manifest", speech, "--split", "dev", "--output", tmp_path / "out" / "phrases.txt", script="digit_phrases")
    assert done.returncode == 0, done.stderr
    found = Phrases.from_file(tmp_path / "out" / "phrases.txt", class_boosts={"contacts": 2.0, "codes": 0.1})
    boosts = dict(found)
    assert boosts["one zero two"] == 2.0 and "nine" not in boosts
    assert list(boosts.values()).count(2.0) == 1001 and 90 < list(boosts.values()).count(0.1) <= 100
