"""The C++ program of export/cpp: builds against the installed torch, prints the words of a session."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
import torch

from asr.features import FeatureConfig
from asr.models.folder import load_model, save_model
from export.torchscript import export_torchscript
from tests.toy import babble, toy_model, toy_recognizer, toy_tokenizer

SOURCE = Path(__file__).resolve().parents[2] / "export" / "cpp"

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler is installed"
    ),
    pytest.mark.filterwarnings("ignore"),  # torch says that torch.export will replace TorchScript
]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The program, a model's export, and recordings."""
    folder = tmp_path_factory.mktemp("cpp")
    root = Path(torch.__file__).resolve().parent
    build = folder / "build"
    # no optimisation: the work is torch's, and the compiler is the slow part here
    configured = command(
        "cmake", "-S", SOURCE, "-B", build, f"-DTORCH_ROOT={root}", "-DCMAKE_BUILD_TYPE=Debug"
    )
    assert configured.returncode == 0, configured.stderr
    built = command("cmake", "--build", build)
    assert built.returncode == 0, built.stdout + built.stderr
    save_model(folder / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "# A random model\n")
    export_torchscript(load_model(folder / "model"), folder / "out")
    return folder


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_prints_the_words_of_a_session(place, tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", babble(4.1, seed=95), 16000, subtype=subtype)
    heard = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    [transcript] = toy_recognizer().transcribe([heard], streaming=True)
    done = command(place / "build" / "stream_wav", place / "out" / "model.pt", tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(lines) > 3
    assert [word for _, _, word in lines] == [word.word for word in transcript.words]
    assert [(float(start), float(end)) for start, end, _ in lines] == [
        (word.start, word.end) for word in transcript.words
    ]
    int8 = command(place / "build" / "stream_wav", place / "out" / "model.int8.pt", tmp_path / "a.wav")
    assert int8.returncode == 0, int8.stderr
    assert int8.stdout


def test_bad_input_is_one_sentence(place, tmp_path):
    program, model = place / "build" / "stream_wav", place / "out" / "model.pt"
    soundfile.write(tmp_path / "slow.wav", babble(0.5, seed=96), 8000)
    (tmp_path / "text.wav").write_text("no sound")
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, babble(0.5, seed=96), 16000)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:40])
    for arguments, sentence in (
        ((model, tmp_path / "none.wav"), "cannot open"),
        ((model, tmp_path / "slow.wav"), "it must be mono at 16000 Hz"),
        ((model, tmp_path / "text.wav"), "is not a WAV file"),
        ((model, tmp_path / "cut.wav"), "has no samples"),
        ((tmp_path / "none.pt", whole), "none.pt"),
        ((model,), "usage: stream_wav MODEL.pt RECORDING.wav"),
    ):
        done = command(program, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
