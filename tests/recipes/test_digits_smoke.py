"""The digits recipe end to end on real speech, in short: prepare, warm-up, train, and a score far from chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "digits"


def call(*command: str | Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two and a half minutes on a quiet machine
def test_a_short_run_learns_digits_of_a_speaker_it_has_not_heard(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("lhotse")
    data, start, run = tmp_path / "data", tmp_path / "start", tmp_path / "run"
    said = call(RECIPE / "prepare.py", "--data", real_data, "--smoke", "--out", data)
    assert "no speaker is in two of these sets" in said
    again = call(
        RECIPE / "prepare.py", "--data", real_data, "--smoke", "--out", data
    )  # finds everything made
    assert again.splitlines()[-2].startswith("dev: ")
    smoke = RECIPE / "smoke.yaml"
    call(RECIPE / "warmup.py", smoke, "--data", data, "--output", start, "--steps", "1200", "--seconds", "15",
         "--threads", "1", "--lr", "2e-3")  # fmt: skip
    dev = [{"path": str(data / "dev"), "speakers": ["fsdd-lucas"]}]
    call("-m", "asr.cli", "train", smoke, "--output_dir", run, "--tokens.path", data / "tokens",
         "--init_from.path", start, "--data.train", json.dumps([str(data / "train")]), "--data.dev", json.dumps(dev))  # fmt: skip
    last = json.loads((run / "dev.jsonl").read_text().splitlines()[-1])
    # saying nothing is 100 %, saying one digit at random 90 %
    assert last["words"] == 650 and last["wer"] < 65, last
    assert (run / "model" / "model.safetensors").is_file()
