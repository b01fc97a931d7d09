"""`itn export`: the tagger as ONNX gives numpy's answers, the folder is whole and says what it is, and sherpa-onnx runs the rule."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import itn.export
from itn.cli import main
from itn.errors import ItnError
from itn.export import SENTENCES, export
from itn.grammars.build import build_dropin, dropin_file
from itn.normalizer import PROFILES, Normalizer
from itn.style import CATEGORIES
from itn.tagger import FORMAT, MODEL, SHAPES, Tagger, scaled
from tests.itn.toy import run, write_profile

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
kaldifst = pytest.importorskip("kaldifst")

from itn.onnx import OnnxTagger, write  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
built = pytest.mark.skipif(not (PROFILES / "prose").is_dir() or not dropin_file(PROFILES / "prose").is_file(), reason="no profile yet: itn build")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_tagger(path: Path, width: int = 32, layers: int = 2, window: int = 8) -> Path:
    """A tagger with random weights."""
    rng = np.random.default_rng(0)
    labels = ["O", *(f"{kind}-{category}" for category in CATEGORIES for kind in "BI")]
    pieces = ["<unk>", "<end>", *(f"▁{c}" for c in LETTERS), *LETTERS, *"'.0123456789", "▁twenty", "▁the"]
    arrays = {
        "embedding": rng.integers(-127, 128, (len(pieces), width)).astype(np.int8),
        "embedding_scale": rng.uniform(0.001, 0.01, len(pieces)).astype(np.float32),
        "shape": rng.normal(0, 0.1, (len(SHAPES), width)).astype(np.float32),
    }
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    products = {f"{i}.{name}": size for i in range(layers) for name, size in sizes.items()} | {"head": (width, 3 * len(labels))}
    for name, size in products.items():
        arrays[f"{name}.weight"] = rng.integers(-127, 128, size).astype(np.int8)
        arrays[f"{name}.scale"] = np.full(size[1], 1 / 73 / np.sqrt(size[0]), np.float32)
        arrays[f"{name}.bias"] = rng.normal(0, 0.1, size[1]).astype(np.float32)
    meta = {
        "format": FORMAT, "labels": labels, "pieces": pieces, "confidence": [0.98, 0.9], "width": width, "layers": layers, "heads": 4,
        "window": window, "parameters": sum(a.size for a in arrays.values()),
    }  # fmt: skip
    np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **scaled(arrays, 4, window))
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write_tagger(tmp_path_factory.mktemp("tagger") / "tagger.npz")


@pytest.fixture(scope="module")
def pair(npz):
    """The same tagger in numpy and in onnxruntime."""
    path = npz.with_suffix(".onnx")
    return write(npz, path), OnnxTagger.load(path)


def agree(got, expected):
    """An exp that rounds otherwise may move an attention weight by a step of 1023, which nobody decides by; all else is equal."""
    difference = np.abs(np.exp(got) - np.exp(expected)).max(axis=(1, 2))
    assert np.mean(np.abs(got - expected).max(axis=(1, 2)) < 1e-4) > 0.95
    assert difference.max() < 0.01
    return np.array_equal(got.argmax(-1), expected.argmax(-1))


def test_onnx_is_numpy(pair):
    numpy_tagger, onnx_tagger = pair
    words = random.Random(1).choices(" ".join(SENTENCES).split(), k=200)
    expected = numpy_tagger.step(words, numpy_tagger.initial_state(), end=True)
    whole = run(onnx_tagger, words, [200])
    assert whole.dtype == np.float32 and agree(whole, expected)
    assert np.array_equal(whole, run(onnx_tagger, words, [1] * 200))
    assert np.array_equal(whole, run(onnx_tagger, words, [3, 70, 0, 127]))
    assert np.array_equal(whole, onnx_tagger.step(words, onnx_tagger.initial_state(), end=True))
    assert onnx_tagger.step([], onnx_tagger.initial_state()).shape == (0, 3, len(numpy_tagger.labels))
    assert (onnx_tagger.labels, onnx_tagger.confidence) == (numpy_tagger.labels, numpy_tagger.confidence)


def test_streams_are_independent(pair):
    _, tagger = pair
    a, b = tagger.initial_state(), tagger.initial_state()
    for word in "it costs twenty five dollars".split():
        first = tagger.step([word], a)
        tagger.step(["noise"], b)
    assert np.array_equal(first, run(tagger, "it costs twenty five dollars".split(), [5])[4:5])


@pytest.mark.skipif(not MODEL.is_file(), reason="no trained tagger yet")
def test_the_shipped_tagger(tmp_path):
    numpy_tagger = write(MODEL, tmp_path / "tagger.onnx")
    onnx_tagger = OnnxTagger.load(tmp_path / "tagger.onnx")
    assert (tmp_path / "tagger.onnx").stat().st_size <= 2_000_000
    for sentence in SENTENCES:
        words = sentence.split()
        expected = numpy_tagger.step(words, numpy_tagger.initial_state(), end=True)
        assert agree(run(onnx_tagger, words, [1] * len(words)), expected)
    for profile in ("prose", "nemo"):
        a, b = Normalizer(profile), Normalizer(profile, tagger=tmp_path / "tagger.onnx")
        assert [a.normalize(s) for s in SENTENCES] == [b.normalize(s) for s in SENTENCES]


@pytest.fixture(scope="module")
def folder(npz, tmp_path_factory):
    if not dropin_file(PROFILES / "prose").is_file():
        pytest.skip("no profile yet: itn build")
    out = tmp_path_factory.mktemp("phone") / "a" / "itn"
    export("prose", out, npz)
    return out


def test_folder(folder, npz):
    import onnx

    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    entries = [*manifest["files"].values(), manifest["tagger"], manifest["tagger"]["pieces"], manifest["tagger"]["labels"], manifest["rule"]]
    entries.append(manifest["cases"])
    for entry in entries:
        content = (folder / entry["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert {path.name for path in folder.iterdir()} == {entry["file"] for entry in entries} | {"manifest.json", "README.md"}
    assert manifest["target"] == "sherpa-onnx" and manifest["profile"] == "prose" and manifest["options"]["number_threshold"] == 10
    tagger, source = manifest["tagger"], Tagger.load(npz)
    assert tagger["inputs"]["keys"] == {"type": "float", "shape": [2, 7, 32]} and tagger["inputs"]["pieces"]["shape"] == ["n", 12]
    assert tagger["outputs"]["log_probabilities"]["shape"] == ["n", 3, 25] and tagger["lookahead"] == 2
    assert (folder / "labels.txt").read_text("utf-8").split() == list(source.labels)
    assert (folder / "pieces.txt").read_text("utf-8").split("\n")[:-1] == source.meta["pieces"]
    model = onnx.load(folder / "tagger.onnx")
    assert model.ir_version == 8 and model.opset_import[0].version == 17 and not any(n.domain for n in model.graph.node)
    readme = (folder / "README.md").read_text("utf-8")
    for word in ("rule_fsts", "ruleFsts", "no context", "flickers", "empty answer", "manifest.json", "tagger.onnx"):
        assert word in readme
    assert "None" not in readme and manifest["verified"]["share"] > 0.95


def test_the_folder_is_a_profile(folder, npz):
    ours, phone = Normalizer("prose", tagger=npz), Normalizer(folder, tagger=folder / "tagger.onnx")
    for line in (folder / "cases.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        text = " ".join(case["words"])
        assert phone.normalize(text) == ours.normalize(text) and phone.normalize(text).text == case["written"]
        assert len(case["pieces"]) == len(case["shapes"]) == len(case["words"]) + 2
    assert main(["--profile", str(folder), "--tagger", str(folder / "tagger.onnx"), "--category", "date", "--help"]) == 0


def test_command(npz, tmp_path, capsys):
    pytest.importorskip("pynini")
    profile = tmp_path / "toy"
    write_profile(profile)
    manifest = json.loads((profile / "manifest.json").read_text())
    (profile / "manifest.json").write_text(json.dumps(manifest | {"options": {"off": sorted(set(CATEGORIES) - set(manifest["files"]))}}))
    dropin_file(profile).write_bytes((profile / "cardinal.fst").read_bytes())
    arguments = ["export", "--to", "sherpa-onnx", "--profile", str(profile), "--tagger", str(npz), "--out"]
    assert main([*arguments, str(tmp_path / "x" / "y")]) == 0
    assert "tagger.onnx" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "x" / "y")]) == 2
    assert "exists already" in capsys.readouterr().err
    dropin_file(profile).unlink()
    for extra, words in [
        (["--to", "sherpa"], "unknown target 'sherpa'; did you mean sherpa-onnx?"),
        (["--profile", "prosa"], "did you mean prose?"),
        (["--tagger", str(tmp_path / "no.npz")], "no "),
        (["--profile", str(tmp_path / "x" / "y")], "is an export already"),
        (["--out", str(npz / "z")], "is not a folder"),
        (["--targt", "x"], "did you mean --tagger?"),
        ([], "run itn build"),
    ]:
        assert main([*arguments, str(tmp_path / "z" / "w"), *extra]) == 2, extra
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        assert not (tmp_path / "z").exists()


def test_missing_packages(npz, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ItnError, match="pip install onnxruntime"):
            Normalizer(write_profile(tmp_path / "toy"), tagger=tmp_path / "t.onnx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ItnError, match="emformer-asr\\[export\\]"):
            write(npz, tmp_path / "t.onnx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pynini", None)
        with pytest.raises(ItnError, match="emformer-asr\\[grammar\\]"):
            itn.export.rule(tmp_path / "none", {"style": {}}, tmp_path / "rule.fst")
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob("rule.fst"))


def test_wrong_files_say_so(npz, tmp_path):
    import onnx

    with pytest.raises(ItnError, match="no tagger at"):
        OnnxTagger.load(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ItnError, match="text.onnx is not a tagger"):
        OnnxTagger.load(tmp_path / "text.onnx")
    write(npz, tmp_path / "t.onnx")
    model = onnx.load(tmp_path / "t.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ItnError, match="bare.onnx is not a tagger: no metadata 'itn'"):
        OnnxTagger.load(tmp_path / "bare.onnx")


def test_a_tagger_that_runs_otherwise_is_not_exported(npz, tmp_path, monkeypatch):
    if not dropin_file(PROFILES / "prose").is_file():
        pytest.skip("no profile yet: itn build")
    real = OnnxTagger._run
    monkeypatch.setattr(OnnxTagger, "_run", lambda self, *given: real(self, *given) + np.float32(0.01))
    with pytest.raises(ItnError, match="unlike numpy"):
        export("prose", tmp_path / "a" / "b", npz)
    assert not list(tmp_path.iterdir())


def test_needs_neither_torch_nor_asr():
    code = "import sys, itn.export, itn.onnx; print(*({'torch', 'asr', 'export', 'pynini', 'onnx', 'onnxruntime', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("profile", ["prose", "nemo"])
def test_the_shipped_rule_is_what_the_sources_give(profile, tmp_path):
    pytest.importorskip("pynini")
    from itn.grammars.style import load_style

    shipped = dropin_file(PROFILES / profile)
    if not shipped.is_file():
        pytest.skip("no profile yet: itn build")
    build_dropin(load_style(profile), tmp_path / "rule.fst")
    assert (tmp_path / "rule.fst").read_bytes() == shipped.read_bytes(), "run itn build"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("itn_rule_fst", ROOT / "benchmarks" / "itn_rule_fst.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_check_of_the_benchmark_finds_what_is_lost(bench):
    assert bench.conversions("pay six million dollars now", "pay $6 million now") == [("six million dollars", "$6 million")]
    assert bench.conversions("One of us", "One of us") == []
    for spoken, written in [
        ("pay one more", "pay more"),
        ("one of us", "1 of them"),
        ("a b c", "a c b"),
        ("One of us", "one of us"),
        ("twenty of us", "20 of us too"),
    ]:
        with pytest.raises(bench.LostError):
            bench.conversions(spoken, written)


@built
def test_the_rule_inside_sherpa_onnx(bench, tmp_path):
    """A recogniser that says our words: with the rule their numbers are written, and nothing else changes."""
    pytest.importorskip("sherpa_onnx")
    rule = dropin_file(PROFILES / "prose")
    texts = [*SENTENCES[:-1], "One of them said TWENTY FIVE PERCENT.", "hello"]
    assert bench.through_sherpa(texts, rule, kaldifst.TextNormalizer(str(rule))) == []
    parrot = bench.Parrot(["it costs seven dollars and thirty cents", "hello"], tmp_path, str(rule))
    assert [parrot.say(0), parrot.say(1)] == ["it costs $7.30", "hello"]


@built
@pytest.mark.slow
def test_real_sentences(bench, real_data):
    pytest.importorskip("sherpa_onnx")
    if not (real_data / "text").is_dir():
        pytest.skip("no text corpora")
    assert bench.main(["--text", str(real_data / "text"), "--count", "1000"]) == 0


@built
@pytest.mark.slow
def test_a_streaming_recogniser_with_the_rule(real_data, tmp_path):
    """The shipped digits model, telephone numbers: no partial or final text is empty or has other words because of the rule."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    recordings = real_data / "phone_numbers" / "manifest.jsonl"
    if not recordings.is_file():
        pytest.skip("no phone_numbers recordings")
    import soundfile

    done = subprocess.run(
        [sys.executable, "-m", "asr.cli", "export", "digits", "--to", "sherpa-onnx", "--out", str(tmp_path / "digits"), "--quantize", "none"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "digits" / "config.json").read_text())
    files = {name: str(tmp_path / "digits" / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    rule = dropin_file(PROFILES / "prose")
    normalize = kaldifst.TextNormalizer(str(rule))

    def texts(rule_fsts, samples):
        recognizer = recognizers[rule_fsts]
        stream, shown = recognizer.create_stream(), []
        for at in range(0, len(samples), 1600):
            stream.accept_waveform(16000, samples[at : at + 1600])
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
            shown.append(recognizer.get_result(stream))
        return shown

    recognizers = {
        rule_fsts: sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(tmp_path / "digits" / "tokens.txt"), **files, model_type=settings["model_type"], num_threads=1, rule_fsts=rule_fsts
        )
        for rule_fsts in ("", str(rule))
    }
    lines = recordings.read_text("utf-8").splitlines()[:10]
    for line in lines:
        samples, rate = soundfile.read(recordings.parent / json.loads(line)["audio"], dtype="float32")
        assert rate == 16000
        samples = np.concatenate([samples, np.zeros(settings["tail_padding_samples"], np.float32)])
        plain, ruled = texts("", samples), texts(str(rule), samples)
        assert plain[-1] and ruled == [normalize(text) for text in plain]
        assert ruled == plain, "digits said one by one have no context, so the rule leaves them"
