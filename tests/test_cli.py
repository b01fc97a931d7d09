"""The command line: exit codes, messages, formats, and the words of the library calls."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.cli import main
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.pretrained import list_pretrained, resolve
from asr.scoring.manifest import read_manifest
from tests.toy import babble, toy_model, toy_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, three recordings, one broken one, and a manifest."""
    folder = tmp_path_factory.mktemp("cli")
    save_model(folder / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "# A random model\n")
    for i, seconds in enumerate((3.0, 1.5, 2.2)):
        soundfile.write(folder / f"a{i}.wav", babble(seconds, seed=40 + i), 16000)
    (folder / "broken.wav").write_bytes(b"this is no audio at all")
    (folder / "empty.wav").write_bytes(b"")
    texts = [asr.load(str(folder / "model")).transcribe(folder / f"a{i}.wav")[0].text for i in range(3)]
    references = [texts[0], texts[1] + " extra", texts[2]]
    lines = [
        {"id": f"u{i}", "audio": f"a{i}.wav", "text": text.upper(), "split": "test" if i else "dev"}
        for i, text in enumerate(references)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in a folder of its own: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def expected(place, *names):
    return asr.load(str(place / "model")).transcribe([place / name for name in names])


def test_help_version_and_no_command(run):
    status, out, _ = run()
    assert status == 0 and "transcribe" in out and "evaluate" in out
    assert run("--help")[:2] == (status, out)
    assert run("--version")[1] == f"asr {asr.__version__}\n"
    status, out, _ = run("transcribe", "--help")
    assert status == 0 and "--streaming" in out


def test_errors_are_one_sentence_with_the_nearest_name(run, place):
    for arguments, words in [
        (["transcrieb"], "did you mean transcribe?"),
        (["--verion"], "did you mean --version?"),
        (["transcribe", "x.wav", "--model", "m", "--streamin"], "did you mean --streaming?"),
        (["transcribe", "x.wav", "--model", "m", "--stream"], "did you mean --streaming?"),  # no prefixes
        (["transcribe", "--model", "m"], "FILES"),
        (["transcribe", "x.wav"], "--model"),
        (["transcribe", "x.wav", "--model", "m", "--format", "pdf"], "invalid choice"),
        (["transcribe", "x.wav", "--model", "m", "--partials"], "needs --streaming"),
        (["transcribe", "x.wav", "--model", "no-such-model"], "no model 'no-such-model'"),
        (["evaluate", "--model", place / "model", "--manifest", place / "nope.jsonl"], "no such manifest"),
        (["evaluate", "--model", place / "model", "--manifest", place, "--map", "o"], "WORD=REPLACEMENT"),
        (
            ["evaluate", "--model", place / "model", "--manifest", place, "--split", "train"],
            "it has dev, test",
        ),
        (
            ["transcribe", "x.wav", "--model", place / "model", "--output", place / "no" / "x.txt"],
            "no folder",
        ),
        (["transcribe", "x.wav", "y.wav", "--model", place / "model", "--format", "srt"], "one recording"),
        (["bench", "--model", place], "not a model folder"),
        (["transcribe", "x.wav", "--modle", "m"], "no option --modle; did you mean --model?"),  # not: --model is required
        (["transcribe", "x.wav", "--modle=m"], "no option --modle; did you mean --model?"),
        (["transcribe", "x.wav", "--model"], "--model: expected one argument"),
        (["evaluate", "--model", "m", "--manifest", place, "--limit", "0"], "--limit must be above 0"),
        (["evaluate", "--model", place / "model", "--manifest", place, "--split", "dev", "--half", "2"], "one utterance only"),
    ]:
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err


def test_values_that_no_option_can_have(run, place):
    audio, model = place / "a0.wav", ["--model", place / "model"]
    transcribe, bench = ["transcribe", audio, *model], ["bench", *model, "--seconds", 1]
    for arguments, words in [
        *(
            ([*transcribe, option, value], words)
            for option, words in (("--trailing-silence", "trailing_silence"), ("--max-segment", "max_segment"))
            for value in ("inf", "nan", "0")
        ),
        *((["bench", *model, "--seconds", value], "--seconds must be") for value in ("nan", "inf", "0.5", "1e300")),
        *(
            ([*command, "--threads", value], "--threads: must be a whole number from 1 to")
            for command in (transcribe, bench, ["evaluate", *model, "--manifest", place])
            for value in ("0", "-1", "100000000000000", "two", "1.5")
        ),
        *(
            ([*command, "--model", ""], "--model: a name or a folder is needed, not ''")
            for command in (["transcribe", audio], ["bench"], ["evaluate", "--manifest", place])
        ),
    ]:
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err, (arguments, err)


@pytest.mark.parametrize(
    ("command", "option"),
    [("transcribe", "--lm-weight"), ("evaluate --endpoints", "--streaming"), ("evaluate --endpoints", "--parallel")],
)
def test_nothing_is_suggested_for_an_option_without_a_like(run, command, option):
    assert run(*command.split(), option, "x") == (2, "", f"error: asr {command} has no option {option}\n")


def test_help_comes_before_what_is_wrong(run):
    status, out, err = run("transcribe", "--modle", "m", "--help")
    assert (status, err) == (0, "") and out.startswith("usage: asr transcribe")


@pytest.mark.parametrize("command", ["transcribe", "evaluate", "evaluate --endpoints", "tune", "align", "bench", "ngram", "perplexity"])
def test_help_tells_a_default_once(run, command):
    import re

    told = " ".join(run(*command.split(), "--help")[1].split())
    assert not re.findall(r"\(([^()]*)\) \(default: \1\)", told)


def test_options_that_would_do_nothing(run, place):
    transcribe = ["transcribe", place / "a0.wav", "--model", place / "model"]
    (place / "phrases.txt").write_text("one\n")
    for arguments, words in [
        (["--max-symbols", "2"], "--max-symbols needs --search beam"),
        (["--max-symbols", "2", "--beam", "3"], "--max-symbols needs --search beam"),
        (["--prune", "5"], "--prune needs --search modified_beam or beam"),
        (["--token-threshold", "0.5"], "--token-threshold needs a model with an endpoint token"),
        *((["--confidence", "--format", name], "--confidence is written with --format json or ctm") for name in ("txt", "srt", "vtt")),
        *(
            ([f"--{name}", "lm.npz", f"--{name}-scale", "-0.3"], f"--{name}-scale must be 0 or more, not -0.3")
            for name in ("lm", "lodr", "rescore")
        ),
        (["--ilm-scale", "-1"], "--ilm-scale must be 0 or more, not -1"),
    ]:
        status, out, err = run(*transcribe, *arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith(f"error: {words}") and err.count("\n") == 1, err
    given = ["--search", "beam", "--max-symbols", "2", "--prune", "5", "--blank-penalty", "-0.5", "--phrases", place / "phrases.txt"]
    assert run(*transcribe, *given)[0] == 0


def test_more_alternatives_than_hypotheses_are_noted(run, place):
    arguments = ["transcribe", place / "a1.wav", "--model", place / "model", "--format", "json", "--alternatives", "5"]
    status, out, err = run(*arguments, "--beam", "4")
    assert status == 0 and json.loads(out)["segments"][0]["alternatives"]
    assert err.startswith("note: the beam has 4 hypotheses") and err.count("\n") == 1
    assert run(*arguments, "--beam", "5")[2] == ""


def test_names_after_two_dashes_are_files(run, place, tmp_path):
    for name in ("-dash.wav", "--", "--model"):
        (tmp_path / name).write_bytes((place / "a1.wav").read_bytes())  # `run` stands in this folder
    text = expected(place, "a1.wav")[0].text
    model = ["--model", place / "model"]
    assert run("transcribe", *model, "--", "-dash.wav") == (0, text + "\n", "")
    names = ["-dash.wav", "--", "--model"]
    status, out, _ = run("transcribe", place / "a1.wav", *model, "--", *names)
    assert (status, out) == (0, "".join(f"{name}: {text}\n" for name in (place / "a1.wav", *names)))
    assert run("bench", *model, "more") == (2, "", "error: asr bench has no argument more\n")
    status, _, err = run("bench", *model, "--", "-x")
    assert status == 2 and err.startswith("error: asr bench has no option -x")


def test_train_without_a_recipe_and_with_an_option_misspelt(run, tmp_path):
    status, out, err = run("train")
    assert (status, out) == (2, "") and "asr train RECIPE.yaml" in err and err.count("\n") == 1
    (tmp_path / "r.yaml").write_text("data: {train: [x]}\n")
    for option, meant in (("--resum", "--resume"), ("--resume_=never", "--resume"), ("--print-recipe", "--print_recipe")):
        status, out, err = run("train", "r.yaml", option, "never")
        assert (status, out) == (2, "") and err.endswith(f"; did you mean {meant}?\n") and err.count("\n") == 1
    status, out, err = run("train", "r.yaml", "--seed", "5", "--print_recipe", "--trainer.keep", "2")
    assert (status, err) == (0, "") and "seed: 5" in out


def test_text_of_one_and_of_several_files(run, place):
    one, two = expected(place, "a0.wav", "a1.wav")
    assert one.text and two.text
    assert run("transcribe", place / "a0.wav", "--model", place / "model") == (0, one.text + "\n", "")
    for streaming in ([], ["--streaming"]):
        status, out, _ = run(
            "transcribe", place / "a0.wav", "--model", place / "model", place / "a1.wav", *streaming
        )
        assert (status, out) == (0, f"{place / 'a0.wav'}: {one.text}\n{place / 'a1.wav'}: {two.text}\n")


def test_json_and_streaming_words_are_the_same(run, place):
    arguments = ["transcribe", place / "a0.wav", "--model", place / "model", "--format", "json"]
    offline = json.loads(run(*arguments)[1])
    streaming = json.loads(run(*arguments, "--streaming")[1])
    assert set(offline) == {"audio", "text", "words", "segments"} and offline["audio"] == str(
        place / "a0.wav"
    )
    assert set(offline["words"][0]) == {"word", "start", "end", "confidence"}
    times = [[(w["word"], w["start"], w["end"]) for w in found["words"]] for found in (offline, streaming)]
    assert times[0] == times[1] and offline["segments"] == streaming["segments"]
    assert isinstance(json.loads(run(*arguments, place / "a1.wav")[1]), list)


@pytest.mark.parametrize("name", ["srt", "vtt", "ctm"])
def test_other_formats(run, place, name):
    status, out, _ = run("transcribe", place / "a0.wav", "--model", place / "model", "--format", name)
    words = expected(place, "a0.wav")[0].words
    assert status == 0 and all(word.word in out for word in words)


def test_unreadable_files_do_not_stop_the_others(run, place):
    one, two = expected(place, "a0.wav", "a1.wav")
    files = [place / name for name in ("a0.wav", "broken.wav", "missing.wav", "empty.wav", "a1.wav")]
    for streaming in ([], ["--streaming"]):
        status, out, err = run("transcribe", *files, "--model", place / "model", *streaming)
        assert status == 2
        assert out.splitlines() == [f"{files[0]}: {one.text}", f"{files[4]}: {two.text}"]
        assert all(
            f"{name}.wav" in line
            for name, line in zip(("broken", "missing", "empty"), err.splitlines(), strict=True)
        )
        assert all(line.startswith("error: ") for line in err.splitlines())
    status, out, _ = run("transcribe", files[0], files[1], "--model", place / "model", "--format", "json")
    assert status == 2 and [entry["audio"] for entry in json.loads(out)] == [str(files[0])]
    assert run("transcribe", files[1], "--model", place / "model", "--format", "srt")[:2] == (2, "")


def test_output_file_and_folder(run, place, tmp_path):
    one, two = expected(place, "a0.wav", "a1.wav")
    files = [place / "a0.wav", place / "a1.wav"]
    target = tmp_path / "out.txt"
    target.write_text("old")
    assert run("transcribe", files[0], "--model", place / "model", "--output", target)[:2] == (0, "")
    assert target.read_text() == one.text + "\n"
    assert (
        run(
            "transcribe",
            *files,
            "--model",
            place / "model",
            "--format",
            "srt",
            "--output",
            f"{tmp_path}/subs/",
        )[0]
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "subs").iterdir()) == ["a0.srt", "a1.srt"]
    assert run("transcribe", place / "broken.wav", "--model", place / "model", "--output", target)[0] == 2
    assert target.read_text() == one.text + "\n"  # a failure leaves the old file
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []
    same = [place / "a0.wav", tmp_path / "a0.wav"]
    assert "two recordings" in run("transcribe", *same, "--model", place / "model", "--output", tmp_path)[2]


def test_output_never_replaces_what_is_read(run, place, tmp_path):
    talk, link, hard = tmp_path / "talk.wav", tmp_path / "link.txt", tmp_path / "hard.txt"
    talk.write_bytes((place / "a1.wav").read_bytes())
    link.symlink_to(talk)
    os.link(talk, hard)
    for given, target in ((talk, talk), (talk, link), (talk, hard), (link, talk), ("talk.wav", talk), (talk, "talk.wav")):
        status, out, err = run("transcribe", place / "a0.wav", given, "--model", place / "model", "--output", target)
        assert (status, out) == (2, "") and "would be written over: it is one of the files that are read" in err
    (tmp_path / "talk.txt").write_bytes(talk.read_bytes())  # a recording by another name
    status, _, err = run("transcribe", tmp_path / "talk.txt", "--model", place / "model", "--output", tmp_path)
    assert status == 2 and "talk.txt would be written over" in err
    (tmp_path / "names.txt").write_text("one\n")
    status, _, err = run("transcribe", talk, "--model", place / "model", "--phrases", "names.txt", "--output", "names.txt")
    assert status == 2 and "names.txt would be written over" in err
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes((place / "manifest.jsonl").read_bytes())
    status, _, err = run("evaluate", "--model", place / "model", "--manifest", manifest, "--report", "manifest.jsonl")
    assert status == 2 and "manifest.jsonl would be written over" in err
    assert "would be written over" in run("evaluate", "--model", place / "model", "--manifest", tmp_path, "--report", manifest)[2]
    for file, source in ((talk, "a1.wav"), (manifest, "manifest.jsonl")):
        assert file.read_bytes() == (place / source).read_bytes()
    assert run("transcribe", talk, "--model", place / "model", "--output", "/dev/null") == (0, "", "")
    (tmp_path / "elsewhere.txt").write_text("old")
    link.unlink()
    link.symlink_to("elsewhere.txt")
    assert run("transcribe", talk, "--model", place / "model", "--output", link) == (0, "", "")
    text = expected(place, "a1.wav")[0].text + "\n"
    assert link.is_symlink() and (tmp_path / "elsewhere.txt").read_text() == text


def test_a_folder_is_made_when_there_is_something_to_write(run, place, tmp_path):
    arguments = ["--model", place / "model", "--format", "srt", "--output", "new/subtitles/"]
    assert run("transcribe", place / "broken.wav", "gone.wav", *arguments)[0] == 2
    assert not (tmp_path / "new").exists()
    assert run("transcribe", place / "broken.wav", place / "a1.wav", *arguments)[0] == 2
    assert [file.name for file in (tmp_path / "new" / "subtitles").iterdir()] == ["a1.srt"]
    (tmp_path / "file").write_text("mine")
    for name in ("file/", "file/sub/"):
        status, _, err = run("transcribe", place / "a1.wav", *arguments[:-1], name)
        assert status == 2 and err.startswith("error: cannot make the folder") and err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
@pytest.mark.parametrize("kind", ["wav", "pcm"])
def test_standard_input(run, place, monkeypatch, streaming, kind):
    audio, _ = soundfile.read(place / "a0.wav", dtype="int16")
    data = (place / "a0.wav").read_bytes() if kind == "wav" else audio.tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    status, out, _ = run("transcribe", "-", "--model", place / "model", *streaming)
    assert (status, out) == (0, expected(place, "a0.wav")[0].text + "\n")


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_standard_input_that_is_closed(run, place, monkeypatch, streaming):
    shut = io.TextIOWrapper(io.BytesIO(b""))
    shut.close()
    for stdin in (None, shut):  # None: as after `<&-` in a shell
        monkeypatch.setattr(sys, "stdin", stdin)
        status, out, err = run("transcribe", "-", "--model", place / "model", *streaming)
        assert (status, out.strip()) == (2, "")
        assert err == "error: standard input is closed: there is no audio to read from it\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_named_pipe_is_read_once(place, tmp_path, streaming):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["cp", str(place / "a0.wav"), str(pipe)])
    command = [sys.executable, "-m", "asr.cli", "transcribe", str(pipe), "--model", str(place / "model"), *streaming]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=Path(asr.__file__).parent.parent
        )
    finally:
        writer.kill()
        writer.wait()
    assert (result.returncode, result.stdout) == (0, expected(place, "a0.wav")[0].text + "\n"), result.stderr


def test_partials_go_to_stderr(run, place):
    status, out, err = run(
        "transcribe", place / "a0.wav", "--model", place / "model", "--streaming", "--partials"
    )
    one = expected(place, "a0.wav")[0]
    assert (status, out) == (0, one.text + "\n")
    partials = [line for line in err.splitlines() if line.startswith("partial: ")]
    finals = [line.partition(": ")[2] for line in err.splitlines() if line.startswith("final ")]
    assert len(partials) > 2 and " ".join(finals) == one.text


def test_broken_audio_while_streaming_live(run, place):
    samples = babble(2.0, seed=50)
    samples[30000] = np.nan
    path = place / "nan.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    for arguments in ([], ["--streaming"], ["--streaming", "--partials"]):
        status, _, err = run("transcribe", path, "--model", place / "model", *arguments)
        assert status == 2 and "30000" in err.splitlines()[-1] and "nan.wav" in err.splitlines()[-1]


def test_evaluate(run, place, tmp_path):
    for arguments in ([], ["--streaming"]):
        status, out, err = run(
            "evaluate", "--model", place / "model", "--manifest", place / "manifest.jsonl", "--format", "json",
            "--report", tmp_path / "report.txt", *arguments,
        )  # fmt: skip
        scores = json.loads(out)
        words = sum(len(t.words) for t in expected(place, "a0.wav", "a1.wav", "a2.wav")) + 1
        assert (status, err) == (0, "")
        assert (scores["ins"], scores["del"], scores["sub"], scores["words"]) == (0, 1, 0, words)
        assert scores["wer"] == pytest.approx(100 / words, abs=1e-3)
        assert scores["rtf"] > 0 and scores["seconds"] == pytest.approx(6.7, abs=0.01)
        assert "id: u1" in (tmp_path / "report.txt").read_text()
    status, out, _ = run("evaluate", "--model", place / "model", "--manifest", place, "--split", "dev")
    assert status == 0 and "WER 0.00 %" in out
    assert "aligned errors: errors.txt" in out and "id: " in Path("errors.txt").read_text()
    Path("errors.txt").unlink()
    run("evaluate", "--model", place / "model", "--manifest", place, "--report", "")
    assert not Path("errors.txt").exists()
    status, out, _ = run(
        "evaluate", "--model", place / "model", "--manifest", place, "--map", "extra=", "a=b"
    )
    assert "WER 0.00 %" in out


def test_evaluate_halves_limits_and_several_manifests(run, place, tmp_path):
    def scores(*arguments: object) -> dict:
        status, out, err = run("evaluate", "--model", place / "model", "--report", "r.txt", "--format", "json", *arguments)
        assert (status, err) == (0, "")
        return json.loads(out)

    whole = scores("--manifest", place)
    assert not {"half", "limit"} & set(whole) and whole["manifest"] == str(place) and whole["utterances"] == 3
    halves = [scores("--manifest", place, "--half", half) for half in (1, 2)]
    assert [half["utterances"] for half in halves] == [2, 1] and [half["half"] for half in halves] == [1, 2]
    for name in ("words", "ins", "del", "sub"):
        assert sum(half[name] for half in halves) == whole[name]
    few = scores("--manifest", place, "--limit", 2)
    assert (few["utterances"], few["limit"], few["del"]) == (2, 2, 1)
    other = tmp_path / "manifest.jsonl"
    line = {"id": "x0", "audio": str(place / "a0.wav"), "text": "zero"}
    other.write_text(json.dumps(line) + "\n")
    for both in (["--manifest", place, other], ["--manifest", place, "--manifest", other]):
        found = scores(*both)
        assert found["utterances"] == 4 and found["words"] == whole["words"] + 1 and found["manifest"] == [str(place), str(other)]
        assert "id: x0" in Path("r.txt").read_text() and "id: u1" in Path("r.txt").read_text()


def test_evaluate_with_an_unreadable_recording(run, place):
    lines = (
        (place / "manifest.jsonl").read_text()
        + json.dumps({"id": "bad", "audio": "broken.wav", "text": "x"})
        + "\n"
    )
    (place / "bad.jsonl").write_text(lines)
    status, out, err = run(
        "evaluate", "--model", place / "model", "--manifest", place / "bad.jsonl", "--format", "json"
    )
    assert status == 2 and "broken.wav" in err and json.loads(out)["utterances"] == 3
    (place / "bad.jsonl").write_text(lines.replace("a1.wav", "gone.wav"))
    status, _, err = run("evaluate", "--model", place / "model", "--manifest", place / "bad.jsonl")
    assert status == 2 and "line 2" in err and "gone.wav" in err


def cut(name, source, start, duration, whole, text):
    return {
        "id": name, "start": start, "duration": duration, "channel": 0, "type": "MonoCut",
        "supervisions": [{"id": name, "recording_id": "r", "start": 0.0, "duration": duration, "channel": 0, "text": text}],
        "recording": {
            "id": "r", "sources": [{"type": "file", "channels": [0], "source": str(source)}],
            "sampling_rate": 16000, "num_samples": round(whole * 16000), "duration": whole, "channel_ids": [0],
        },
    }  # fmt: skip


def test_lhotse_cuts(run, place, tmp_path):
    recognizer = asr.load(str(place / "model"))
    audio, _ = soundfile.read(place / "a0.wav", dtype="float32")
    part = recognizer.transcribe(audio[8000:32000])[0].text
    cuts = [cut("c0", place / "a0.wav", 0.5, 1.5, 3.0, part), cut("c1", place / "a1.wav", 0.0, 1.5, 1.5, "")]
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in cuts)
    items = read_manifest(tmp_path / "cuts.jsonl.gz")
    assert [(item.start, item.duration) for item in items] == [(0.5, 1.5), (0.0, None)]
    status, out, _ = run(
        "evaluate", "--model", place / "model", "--manifest", tmp_path / "cuts.jsonl.gz", "--format", "json"
    )
    scores = json.loads(out)
    assert status == 0 and scores["del"] == scores["sub"] == 0 and scores["words"] == len(part.split()) > 0


def test_cuts_written_by_lhotse_itself(place, tmp_path):
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(place / "a0.wav")
    supervision = lhotse.SupervisionSegment("s", recording.id, 0.0, recording.duration, text="hello there")
    plain = lhotse.MonoCut("c", 0.0, recording.duration, 0, [supervision], recording=recording)
    padded = plain.truncate(duration=1.0).pad(2.0).with_id("p")
    lhotse.CutSet.from_cuts([plain, padded]).to_file(tmp_path / "cuts.jsonl")
    plain_item, padded_item = read_manifest(tmp_path / "cuts.jsonl")
    assert plain_item.audio == Path(place / "a0.wav") and plain_item.text == "hello there"
    samples = padded_item.audio()
    assert samples.shape == (32000,) and not samples[16000:].any()
    text = (tmp_path / "cuts.jsonl").read_text().replace(str(place), ".")
    (tmp_path / "rel").mkdir()
    (tmp_path / "rel" / "a0.wav").write_bytes((place / "a0.wav").read_bytes())
    (tmp_path / "rel" / "cuts.jsonl").write_text(text)  # audio paths relative to the manifest, padded cut included
    plain_item, padded_item = read_manifest(tmp_path / "rel" / "cuts.jsonl")
    assert plain_item.audio.is_file() and np.array_equal(padded_item.audio(), samples)


def test_damaged_and_misplaced_cuts(run, place, tmp_path):
    whole = gzip.compress(("x" * 50 + "\n").encode() * 200)
    (tmp_path / "bad.jsonl.gz").write_bytes(whole[:30] + b"\xff" * 20 + whole[50:])
    with pytest.raises(UserError, match="cannot read the manifest|not JSON"):
        read_manifest(tmp_path / "bad.jsonl.gz")
    beyond = cut("late", place / "a0.wav", 99.0, 1.0, 3.0, "one")
    (tmp_path / "cuts.jsonl").write_text(json.dumps(beyond) + "\n")
    for streaming in ([], ["--streaming"]):
        status, _, err = run(
            "evaluate", "--model", place / "model", "--manifest", tmp_path / "cuts.jsonl", *streaming
        )
        assert status == 2 and "no audio from second 99" in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only Unicode names")
def test_names_that_standard_output_cannot_show(place, tmp_path):
    names = [tmp_path / "b\udcff.wav", tmp_path / "\u00fc.wav"]
    for name in names:
        name.write_bytes((place / "a1.wav").read_bytes())
    for encoding in ("utf-8", "ascii"):
        for form in ("txt", "json"):
            result = subprocess.run(
                [sys.executable, "-m", "asr.cli", "transcribe", *map(str, names), "--model", str(place / "model")]
                + ["--format", form],
                capture_output=True,
                cwd=Path(asr.__file__).parent.parent,
                env={**os.environ, "PYTHONIOENCODING": encoding},
            )
            assert (result.returncode, result.stderr) == (0, b"") and result.stdout.count(b".wav") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"id": "x", "audio": "a.wav"}', "no 'text'"),
        ('{"id": "x", "audio": "a.wav", "text": null}', "the text is null, not a string"),
        ("", "empty"),
    ],
)
def test_bad_manifests(tmp_path, line, words):
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=words):
        read_manifest(tmp_path)


def test_bench(run, place):
    status, out, _ = run("bench", "--model", place / "model", "--seconds", 2, "--format", "json")
    figures = json.loads(out)
    assert status == 0 and figures["threads"] == 1
    assert 0 < figures["chunk_p50_ms"] <= figures["chunk_p99_ms"] <= figures["chunk_max_ms"]
    assert 0 < figures["rtf"] and figures["start_up_seconds"] > 0 and figures["peak_memory_mb"] > 10


def test_pretrained_names(tmp_path):
    names = list_pretrained()
    assert names == sorted(names)
    with pytest.raises(UserError, match="not a model folder"):
        resolve(tmp_path)
    for name in names:
        assert resolve(name).name == name
        with pytest.raises(UserError, match=f"did you mean {name}"):
            resolve(name[:-1] + "z")


def test_interrupt(monkeypatch):
    from asr import cli

    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "bench", ("", interrupted))
    assert main(["bench"]) == 130


def test_reader_that_goes_away(place):
    command = (
        f"{sys.executable} -m asr transcribe {place}/a0.wav {place}/a1.wav --model {place}/model | true"
    )
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=Path(asr.__file__).parent.parent
    )
    assert result.stderr == ""


def test_help_and_errors_import_nothing_heavy():
    code = (
        "import sys; from asr.cli import main; main(['--help']); main(['transcribe', '--help']); main(['transcribe']);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=Path(asr.__file__).parent.parent
    )
    assert result.returncode == 0


@pytest.mark.parametrize("device", ["meta", "nonsense", "cuda:99"])
def test_devices_that_are_not_there(device):
    with pytest.raises(UserError, match="device"):
        asr.load("digits", device=device)


def test_a_model_that_is_no_name():
    with pytest.raises(UserError, match="not a NoneType"):
        asr.load(None)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_words_as_they_come():
    import pty

    demo = str(Path(__file__).parents[1] / "recipes" / "digits" / "demo" / "phone_number.flac")
    command = [sys.executable, "-m", "asr.cli", "transcribe", "--streaming", "--model", "digits", demo]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    parent, child = pty.openpty()
    process = subprocess.Popen(command, stdout=child, stderr=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError:  # the other end is closed: Linux's way to say end of file
        pass
    os.close(parent)
    assert process.wait(60) == 0
    states = [text for text in shown.decode().replace("\r\n", "\n").split("\r\033[K") if text]
    finals = [text.strip() for text in states if text.endswith("\n")]  # one a segment
    assert plain and " ".join(finals) == plain
    partials = [text for text in states if not text.endswith("\n")]  # rewritten in place
    assert len(set(partials)) >= 4 and all(any(final.startswith(p.strip()) for final in finals) for p in partials[:2])
