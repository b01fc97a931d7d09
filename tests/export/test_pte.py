"""The ExecuTorch program: encoder step, predictor and joiner find the symbols and times of a session."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from asr.errors import UserError
from asr.features import Fbank, FeatureConfig
from asr.models.emformer import EmformerConfig
from asr.models.folder import load_model, save_model
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from export import worker
from export.runtime import alone, ragged
from export.torch_runtime import TorchRuntime
from tests.toy import babble, toy_model, toy_tokenizer

pytest.importorskip("executorch")
pytest.importorskip("torchao")

from export.pte import Join, Predict, export_executorch, load_program, write_program
from export.pte_runtime import ExecutorchRuntime

PENALTY = 0.7


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and its export: one layer, as lowering takes seconds a layer, with memory and relative positions."""
    folder = tmp_path_factory.mktemp("executorch")
    torch.manual_seed(8)
    config = ModelConfig(
        vocab_size=toy_tokenizer().vocab_size,
        encoder=EmformerConfig(
            dim=32, heads=2, ffn_dim=64, layers=1, chunk_ms=160, look_ahead_ms=40, left_context_ms=320,
            memory_size=2, relative_positions=True,
        ),
        predictor=PredictorConfig(kind="lstm", embed_dim=24, hidden_dim=24, layers=2),
        joiner=JoinerConfig(dim=32),
    )  # fmt: skip
    model = Transducer(config).eval()
    with torch.no_grad():
        model.encoder.mean.copy_(toy_model().encoder.mean)
        model.encoder.istd.copy_(toy_model().encoder.istd)
        model.joiner.output.weight *= 12.0
    save_model(folder / "model", model, toy_tokenizer(), FeatureConfig(), "# A random model\n")
    export_executorch(load_model(folder / "model"), folder / "out", blank_penalty=PENALTY)
    return folder


def test_words_of_a_session(place):
    reference = TorchRuntime(str(place / "model"), blank_penalty=PENALTY)
    runtime = ExecutorchRuntime(place / "out", "fp32")
    audios = [babble(seconds, seed=60 + i) for i, seconds in enumerate((4.0, 2.3, 3.1))]
    wanted = [alone(reference, audio, [2560]) for audio in audios]
    assert min(len(want.tokens) for want in wanted) > 3
    for audio, want in zip(audios, wanted, strict=True):
        assert alone(runtime, audio, [1600, 77, 4000]) == want
    assert ragged(runtime, audios, lag=3) == wanted  # interleaved: states do not mix
    silence = np.zeros(16000, np.float32)
    assert alone(runtime, silence, [2560]) == alone(reference, silence, [2560])


def stateless_model(**options) -> Transducer:
    torch.manual_seed(9)
    config = ModelConfig(
        vocab_size=options.pop("vocab_size", 20),
        encoder=EmformerConfig(dim=16, heads=2, ffn_dim=16, layers=1, **options.pop("encoder", {})),
        predictor=PredictorConfig(kind="stateless", embed_dim=8, context_size=options.pop("context_size", 2)),
        joiner=JoinerConfig(dim=options.pop("joiner_dim", 16)),
    )
    return Transducer(config).eval()


def test_stateless_predictors(tmp_path):
    """With one symbol of context there is no state at all, with more the symbols before."""
    methods = {f"predict{size}": Predict(stateless_model(context_size=size)).eval() for size in (1, 3)}
    write_program(methods, {}, "fp32", tmp_path / "p.pte")
    program = load_program(tmp_path / "p.pte")
    for size, (name, method) in zip((1, 3), methods.items(), strict=True):
        loaded, state = program.load_method(name), method.initial_state()
        assert len(state) == (size > 1)
        with torch.no_grad():
            for symbol in (0, 7, 7, 3, 11):
                y = torch.tensor([symbol])
                want, *new = method(y, *state)
                got, *state = loaded.execute([y, *state])
                torch.testing.assert_close(got, want)
                assert [a.tolist() for a in state] == [b.tolist() for b in new]


def test_int8_is_near_and_keeps_the_counter(place):
    """A quantiser of everything turns the counter of past frames into a float, which the next call refuses."""
    plain, int8 = (ExecutorchRuntime(place / "out", precision) for precision in ("fp32", "int8"))
    audio = babble(4.0, seed=63)
    assert alone(int8, audio, [2560]).tokens
    features = Fbank()(torch.from_numpy(audio)[None])[0][:, : plain.window]
    (a, _, past), (b, _, int8_past) = (
        runtime.encode.execute([features, *runtime.open().states]) for runtime in (plain, int8)
    )
    assert past.dtype == int8_past.dtype == torch.int64
    assert past.tolist() == int8_past.tolist() == [4]
    assert 0 < float((a - b).abs().max()) < 0.2 * float(a.abs().max())


def test_int8_layers_are_a_quarter(tmp_path):
    """Of a layer wide enough for its weights to be most of the file; those applied by weight alone are int8 too."""
    model = stateless_model(vocab_size=1000, joiner_dim=256)
    for precision in ("fp32", "int8"):
        write_program({"join": Join(model)}, {}, precision, tmp_path / precision)
    float_bytes, int8_bytes = ((tmp_path / precision).stat().st_size for precision in ("fp32", "int8"))
    assert float_bytes > 4 * 256 * 1000
    assert int8_bytes < 0.29 * float_bytes


def test_folder(place):
    path = place / "out"
    manifest = json.loads((path / "manifest.json").read_text())
    assert {f.name for f in path.iterdir()} == {*manifest["files"], "manifest.json"}
    assert manifest["constants"]["blank_penalty"] == PENALTY
    config = load_model(place / "model").model.config
    encode = manifest["methods"]["encode"]
    rows = config.encoder.memory_size + 2 * config.encoder.left_context
    assert [entry["shape"] for entry in encode["inputs"]] == [[1, 20, 80], [1, 1, rows, 32], [1]]
    assert [entry["type"] for entry in encode["inputs"]] == ["float32", "float32", "int64"]
    assert manifest["verified"]["fp32_largest_difference"] < 1e-4


def test_readme_calls_run(place, monkeypatch, capsys):
    """The Python of the README, as it stands."""
    path = place / "out"
    monkeypatch.chdir(path)
    code = (path / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    runtime = ExecutorchRuntime(path, "int8")
    audio = babble(3.0, seed=64)
    stream = runtime.open()
    stream.accept(audio)
    stream.finish()
    windows = []
    while stream.ready:
        window, count = stream.take_window()
        windows.append((window[None], count))
    with torch.no_grad():
        exec(code, {"windows": windows})
    text = "".join(toy_tokenizer().pieces[t] for t in alone(runtime, audio, [2560]).tokens)
    assert text
    assert capsys.readouterr().out == text.replace("\u2581", " ")


def test_worker_runs_the_program(place, tmp_path):
    audio = babble(2.0, seed=65)
    audio.tofile(tmp_path / "audio.f32")
    case = {"kind": "alone", "parts": [[0, len(audio)]], "timed": True}
    job = {
        "runtime": "executorch", "folder": str(place / "out"), "precision": "fp32", "blank_penalty": 0.0,
        "audio": str(tmp_path / "audio.f32"), "block": 2560, "cases": [case],
    }  # fmt: skip
    done = worker.run(job)
    want = alone(TorchRuntime(str(place / "model")), audio, [2560])
    assert done["results"][0][0] == {"tokens": want.tokens, "frames": want.frames, "decoded": want.decoded}
    assert done["rtf"] > 0


def test_refused(place, tmp_path, monkeypatch):
    import dataclasses
    import importlib.util

    loaded = load_model(place / "model")
    with pytest.raises(UserError, match="exists already"):
        export_executorch(loaded, place / "out")
    bare = stateless_model(encoder={"left_context_ms": 0})
    with pytest.raises(UserError, match="left context or memory"):
        export_executorch(dataclasses.replace(loaded, model=bare), tmp_path / "out")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "executorch" else found(name, *a)
    )
    with pytest.raises(UserError, match=r"needs executorch, .*pip install 'emformer-asr\[export\]'"):
        export_executorch(loaded, tmp_path / "out")
    assert not list(tmp_path.iterdir())
