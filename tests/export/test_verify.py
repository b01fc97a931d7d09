"""`asr export` and `asr verify` from the command line: what holds, what fails and which rung, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
import soundfile
import torch

from asr.cli import main
from asr.features import Fbank, FeatureConfig
from asr.models.folder import load_model, save_model
from asr.scoring.wer import score
from asr.streaming import Final
from export.bundle import sha256
from export.cases import RUNGS, end_of_speech
from export.cli import spread
from export.ladder import Row, check_reach, compare, compare_int8, compare_words, edits
from export.runtime import Result, alone, live
from export.sherpa import export_sherpa
from export.torchscript import StreamingTransducer
from tests.toy import babble, toy_model, toy_tokenizer

for name in ("onnx", "onnxruntime", "sherpa_onnx"):
    pytest.importorskip(name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, recordings with a manifest, and its exports made by the command."""
    folder = tmp_path_factory.mktemp("verify")
    save_model(folder / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "# A random model\n")
    lines = []
    for i, seconds in enumerate((2.5, 1.6, 2.1)):
        soundfile.write(folder / f"a{i}.wav", babble(seconds, seed=90 + i), 16000)
        lines.append({"id": f"u{i}", "audio": f"a{i}.wav", "text": "one two three"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = folder / "out"
    assert main(["export", str(folder / "model"), "--to", "sherpa-onnx", "--out", str(out / "onnx")]) == 0
    assert main(["export", str(folder / "model"), "--to", "torchscript", "--out", str(out / "pt")]) == 0
    return folder


def test_the_ladder_holds(place, capsys):
    status = main(["verify", str(place / "out"), "--manifest", str(place), "--format", "json"])
    ladder = json.loads(capsys.readouterr().out)
    assert ladder["utterances"] == 3
    rows = {row["name"]: row for row in ladder["rows"]}
    float_rows = ("torch streaming", "sherpa-onnx conformer fp32", "torchscript fp32")
    for name in float_rows:
        assert rows[name]["problems"] == []
        assert rows[name]["token_error"] == 0.0
        counts = {"words": [3, 3], "batch": [9, 9], "silence": [1, 1], "end": [3, 3], "reset": [3, 3]}
        if name == "torchscript fp32":  # there is nothing to reset in it
            del counts["reset"]
        assert rows[name]["equal"] == counts
        assert rows[name]["rtf"] > 0
        assert rows[name]["chunk_p99_ms"] >= rows[name]["chunk_p50_ms"] > 0
    assert {"sherpa-onnx conformer int8", "torchscript int8 x86"} < rows.keys()
    rates = rows["sherpa-onnx conformer fp32"]["wer_over_context"]  # the toy has an LSTM predictor
    assert list(rates) == ["2", "4", "8", "16", "32", "all"]
    assert rates["all"] == rows["torch offline"]["wer"]
    # int8 of a random model may miss its error rate; nothing else may fail
    assert all(problem.startswith("words:") for row in ladder["rows"] for problem in row["problems"])
    assert status == (0 if ladder["passed"] else 1)
    for name in ("onnx", "pt"):  # each manifest holds its own rows
        words = json.loads((place / "out" / name / "manifest.json").read_text())["verified"]["words"]
        assert words["utterances"] == 3
        assert [rows[row["name"]] for row in words["rows"]] == words["rows"]
        assert [row["name"] for row in words["rows"]][:2] == ["torch offline", "torch streaming"]


def test_symbols_over_the_tokens_the_predictor_sees(place):
    from export.torch_runtime import TorchRuntime

    audio = [babble(seconds, seed=95 + i) for i, seconds in enumerate((2.5, 1.6, 2.1, 1.2, 3.0))]
    runtime = TorchRuntime(str(place / "model"))
    few, many, all_of_them = runtime.over_contexts(audio, [2, 1000, None])
    assert many == all_of_them == runtime.offline(audio)
    assert few == TorchRuntime(str(place / "model"), context=2).offline(audio)
    assert few != many
    assert sum(len(result.tokens) for result in few) > 10


def test_live_audio_arrives_no_sooner_than_it_is_spoken(place):
    from export.torch_runtime import TorchRuntime

    audio = babble(0.9, seed=97)
    runtime = TorchRuntime(str(place / "model"))
    waits: list[float] = []
    began = time.perf_counter()
    found = live(runtime, audio, 320, waits)
    assert time.perf_counter() - began >= 0.9 + waits[0]
    assert len(waits) == 1 and waits[0] > 0
    assert found == alone(runtime, audio, [2560])


def broken_copy(source, target, change) -> None:
    """An export of one file, changed, with a manifest that matches: only running it tells."""
    shutil.copytree(source, target)
    (target / "model.int8.pt").unlink()
    change(target / "model.pt")
    manifest = json.loads((target / "manifest.json").read_text())
    del manifest["files"]["model.int8.pt"]
    manifest["precisions"] = ["fp32"]
    manifest["files"]["model.pt"]["sha256"] = sha256(target / "model.pt")
    (target / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.filterwarnings("ignore")  # torch says that torch.export will replace TorchScript
def test_broken_exports_name_the_rung(place, tmp_path, capsys):
    """The file of another model, and one that a runtime does not load; the others still run."""

    def other_weights(file) -> None:
        model = toy_model(emit=0.5, memory=0)
        torch.jit.script(StreamingTransducer(model, Fbank(), 0.0, toy_tokenizer().pieces)).save(str(file))

    broken_copy(place / "out" / "pt", tmp_path / "a", lambda file: file.write_bytes(b"no program"))
    broken_copy(place / "out" / "pt", tmp_path / "b", other_weights)
    status = main(["verify", str(tmp_path), "--audio", str(place / "a0.wav"), str(place / "a2.wav")])
    out = capsys.readouterr().out
    assert status == 1
    assert "FAILED load: torchscript fp32 does not run: exit status 1" in out
    assert "FAILED words: torchscript (b) fp32 differs from torch in" in out
    assert "the ladder does not hold" in out
    for name in ("a", "b"):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["verified"]["words"]["passed"] is False


CASES = [{"rung": rung, "kind": "alone", "parts": [[0, 6400]]} for rung in RUNGS]
FOUND = [[{"tokens": [3, 4], "frames": [1, 5], "decoded": 10}] for _ in RUNGS]


def changed(rung: str, **fields) -> list:
    return [[stream[0] | fields] if r == rung else stream for r, stream in zip(RUNGS, FOUND, strict=True)]


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_can_fail(rung):
    row = Row("x")
    compare(row, CASES, FOUND, FOUND, "torch")
    check_reach(row, CASES, FOUND)
    assert row.problems == []
    compare(row, CASES, changed(rung, frames=[1, 6]), FOUND, "torch")  # the same words, later
    assert [problem.split(":")[0] for problem in row.problems] == [rung]
    assert "symbol 4 at 0.24 s where symbol 4 at 0.20 s is expected" in row.problems[0]
    row = Row("x")
    check_reach(row, CASES, changed(rung, decoded=9))
    assert row.problems == [f"{rung}: x decoded 9 of 10 frames: the end is lost"]


def test_int8_is_held_to_symbols_resets_and_silence():
    def problems(found, plain=None) -> list[str]:
        row = Row("x")
        compare_int8(row, CASES, found, plain or FOUND)
        compare_words(row, None, None)  # without text, symbols are compared
        return [problem.split(":")[0] for problem in row.problems]

    assert problems(FOUND) == []
    assert problems(changed("words", tokens=[3, 5])) == ["reset", "words"]
    assert problems(changed("reset", frames=[1, 6])) == ["reset"]
    assert problems(FOUND, changed("silence", tokens=[], frames=[])) == ["silence"]


@pytest.mark.parametrize(
    "first, int8, holds",
    [
        (0, 100, True),
        (0, 103, True),  # 0.3 of 1000 words
        (0, 110, False),
        (90, 110, True),  # errors in other places: ten more of 190 that changed are chance
        (90, 150, False),
    ],
)
def test_int8_is_held_to_the_error_rate(first, int8, holds):
    """1000 utterances of one word, of which fp32 has the first 100 wrong and int8 ``int8`` from ``first`` on."""
    texts = ["one"] * 1000
    results = [
        score(texts, ["two" if at <= i < at + errors else "one" for i in range(1000)])
        for at, errors in ((first, int8), (0, 100))
    ]
    row = Row("x")
    compare_words(row, *results)
    assert (row.problems == []) == holds


def test_exports_say_what_the_session_says(place):
    """With the settings the files hold, not with those of a reference of ours."""
    import asr
    from export.torchscript_runtime import TorchScriptRuntime

    audio = babble(3.0, seed=98)
    session = asr.load(str(place / "model")).session()
    words = [event.text for event in [*session.accept(audio), *session.finish()] if isinstance(event, Final)]
    tokens = alone(TorchScriptRuntime(place / "out" / "pt", "fp32"), audio, [2560]).tokens
    assert tokens and " ".join(words) == toy_tokenizer().decode(tokens)


def test_a_setting_that_was_changed_is_found(place, tmp_path, capsys):
    shutil.copytree(place / "out" / "onnx", tmp_path / "onnx")
    settings = json.loads((tmp_path / "onnx" / "config.json").read_text()) | {"blank_penalty": 8.0}
    (tmp_path / "onnx" / "config.json").write_text(json.dumps(settings))
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    manifest["files"]["config.json"]["sha256"] = sha256(tmp_path / "onnx" / "config.json")
    (tmp_path / "onnx" / "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", str(tmp_path), "--audio", str(place / "a0.wav")]) == 1
    assert "FAILED words: sherpa-onnx conformer fp32 differs from torch" in capsys.readouterr().out


def test_modules_of_the_users_folder_are_left_alone(place, tmp_path, monkeypatch, capsys):
    for name in ("export", "numpy", "wave"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not mine')\n")
    monkeypatch.chdir(tmp_path)
    main(["verify", str(place / "out" / "pt"), "--audio", str(place / "a0.wav")])
    assert "not mine" not in capsys.readouterr().out


@pytest.mark.parametrize("contract", ["conformer", "lstm"])
def test_memory_without_left_context(tmp_path, contract):
    from asr.models.emformer import Emformer
    from asr.models.transducer import Transducer

    config = toy_model(memory=2).config
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, left_context_ms=0))
    torch.manual_seed(5)
    model = Transducer(config).eval()
    assert isinstance(model.encoder, Emformer) and model.encoder.left_context == 0
    save_model(tmp_path / "model", model, toy_tokenizer(), FeatureConfig(), "# A random model\n")
    loaded = load_model(tmp_path / "model")
    manifest = export_sherpa(loaded, tmp_path / "out", contract=contract, quantize="none")
    assert manifest["verified"]["onnxruntime_fp32_largest_difference"] < 1e-4


def refused(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_bad_input_of_export(place, tmp_path, capsys):
    model, out = place / "model", tmp_path / "new" / "out"
    assert "did you mean torchscript?" in refused(capsys, "export", model, "--to", "torchscipt", "--out", out)
    assert "there are sherpa-onnx, torchscript, executorch" in refused(
        capsys, "export", model, "--to", "coreml", "--out", out
    )
    chunk = refused(capsys, "export", model, "--to", "torchscript", "--out", out, "--chunk-ms", 320)
    assert "was trained with chunks of 160 ms, not of 320" in chunk
    assert "exists already" in refused(capsys, "export", model, "--to", "torchscript", "--out", place / "out")
    contract = refused(capsys, "export", model, "--to", "torchscript", "--out", out, "--contract", "lstm")
    assert "--contract belongs to the target sherpa-onnx" in contract
    assert "no model 'nowhere'" in refused(capsys, "export", "nowhere", "--to", "torchscript", "--out", out)
    for target in ("torchscript", "sherpa-onnx"):
        layers = refused(
            capsys, "export", model, "--to", target, "--out", out, "--float-layers", "joiner.outptu"
        )
        assert "no linear layer has 'joiner.outptu' in its name" in layers
    nothing = ["--quantize", "none", "--float-layers", "joiner.output"]
    assert "--quantize none writes none" in refused(
        capsys, "export", model, "--to", "torchscript", "--out", out, *nothing
    )
    long = "n" * 300
    assert "too long" in refused(capsys, "export", model, "--to", "torchscript", "--out", tmp_path / long)
    assert "too long" in refused(capsys, "export", long, "--to", "torchscript", "--out", out)
    assert "name is empty" in refused(capsys, "export", "", "--to", "torchscript", "--out", out)
    for context in (1, 10**12):
        assert "--context must be 2 to 512" in refused(
            capsys, "export", model, "--to", "sherpa-onnx", "--out", out, "--context", context
        )
    assert "--context is for LSTM" in refused(
        capsys, "export", "digits", "--to", "sherpa-onnx", "--out", out, "--context", 8
    )
    nan = refused(capsys, "export", model, "--to", "torchscript", "--out", out, "--blank-penalty", "nan")
    assert "--blank-penalty must be a finite number" in nan
    inside = place / "a0.wav" / "out"
    assert "is not a folder" in refused(capsys, "export", model, "--to", "torchscript", "--out", inside)
    assert not (tmp_path / "new").exists()
    assert (
        main(
            [
                "export",
                str(model),
                "--to",
                "torchscript",
                "--out",
                str(out),
                "--chunk-ms",
                "160",
                "--quantize",
                "none",
            ]
        )
        == 0
    )
    assert not (out / "model.int8.pt").exists()


def test_models_that_no_contract_carries(place, tmp_path, capsys):
    """Frames of other than 40 ms, and a blank that is not symbol 0."""
    import sentencepiece

    model = tmp_path / "frames"
    shutil.copytree(place / "model", model)
    settings = (model / "config.yaml").read_text()
    assert "encoder_frame_ms: 40" in settings
    (model / "config.yaml").write_text(settings.replace("encoder_frame_ms: 40", "encoder_frame_ms: 80"))
    for target in ("sherpa-onnx", "torchscript", "executorch"):
        assert "80" in refused(capsys, "export", model, "--to", target, "--out", tmp_path / "out")
    model = tmp_path / "blank"
    shutil.copytree(place / "model", model)
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["one two three"] * 9), model_prefix=str(tmp_path / "other"),
        vocab_size=16, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    shutil.copy(tmp_path / "other.model", model / "tokens.model")
    assert "<blk>" in refused(capsys, "export", model, "--to", "sherpa-onnx", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_of_verify(place, tmp_path, capsys):
    export = place / "out" / "pt"
    audio = ["--audio", place / "a0.wav"]
    assert "needs --audio FILES or --manifest FILE" in refused(capsys, "verify", export)
    assert "is not an export" in refused(capsys, "verify", place / "model", *audio)
    assert "no such export folder" in refused(capsys, "verify", place / "nothing", *audio)
    assert "--limit" in refused(capsys, "verify", export, *audio, "--limit", 0)
    assert "--split chooses" in refused(capsys, "verify", export, *audio, "--split", "test")
    assert "no such export" in refused(capsys, "verify", "n" * 300, *audio)
    whole = json.loads((export / "manifest.json").read_text())
    for i, change in enumerate((
        {"files": []}, {"model": {}}, {"target": "coreml"}, {"precisions": None}, {"files": {"model.pt": 1}},
    )):  # fmt: skip
        damaged = tmp_path / f"damaged{i}"
        damaged.mkdir()
        (damaged / "manifest.json").write_text(json.dumps(whole | change))
        assert "is damaged" in refused(capsys, "verify", damaged, *audio)
    assert "no such" in refused(capsys, "verify", export, "--audio", place / "missing.wav")
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    with open(copy / "model.pt", "ab") as file:
        file.write(b"x")
    assert "model.pt is not the file that was exported" in refused(capsys, "verify", copy, *audio)
    (copy / "model.pt").unlink()
    assert "model.pt is missing" in refused(capsys, "verify", copy, *audio)
    other = tmp_path / "other"
    save_model(other, toy_model(emit=0.5), toy_tokenizer(), FeatureConfig(), "# Another\n")
    assert "other weights" in refused(capsys, "verify", export, *audio, "--model", other)


def test_counting():
    assert edits([1, 2, 3], [1, 2, 3]) == 0
    assert edits([1, 2, 3], [1, 3]) == 1
    assert edits([], [4, 5]) == 2
    assert edits([1, 2, 3, 4], [2, 9, 4, 4]) == 3
    result = Result([5, 6, 7], [1, 4, 9], 12)
    assert result.until(5) == Result([5, 6], [1, 4], 5)
    assert result.same(Result([5, 6, 7], [1, 4, 9], 16))
    assert not result.same(Result([5, 6, 7], [1, 4, 8], 12))
    assert spread([list("ab"), list("cdefghij")], 5) == ["a", "b", "c", "e", "h"]
    assert spread([[], [1, 2, 3]], None) == [1, 2, 3]
    audio = np.concatenate([np.zeros(1600), np.full(1600, 0.5), np.full(3200, 0.001)]).astype(np.float32)
    assert end_of_speech(audio) == 3200
