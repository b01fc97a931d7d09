"""ONNX files in the unmodified sherpa-onnx: the symbols and times of torch, on streams alone, ragged and reset."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.emformer import EmformerConfig
from asr.models.folder import load_model, save_model
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from export import sherpa
from export.history import NOTHING, HistoryPredictor, start_tokens, with_history
from export.runtime import Result, alone, interrupted, ragged
from export.sherpa import export_sherpa, tail_padding
from export.torch_runtime import TorchRuntime
from tests.toy import babble, toy_model, toy_tokenizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
sherpa_onnx = pytest.importorskip("sherpa_onnx")

CONTEXT = 5  # tokens of an LSTM predictor: few, so that the history is truncated in these tests


def odd_model() -> Transducer:
    """Relative positions, memory, another chunk, no look-ahead, one token of context, an
    endpoint token: the rest of the options."""
    model = toy_model(predictor="stateless")
    torch.manual_seed(5)
    config = ModelConfig(
        vocab_size=toy_tokenizer(True).vocab_size,
        encoder=EmformerConfig(
            dim=32, heads=4, ffn_dim=48, layers=2, chunk_ms=80, look_ahead_ms=0, left_context_ms=280,
            memory_size=3, memory_activation="clamp", relative_positions=True, activation="silu",
        ),
        predictor=PredictorConfig(kind="stateless", embed_dim=24, context_size=1),
        joiner=JoinerConfig(dim=24, activation="tanh", projection_norm=False),
    )  # fmt: skip
    odd = Transducer(config).eval()
    odd.encoder.mean.copy_(model.encoder.mean)
    odd.encoder.istd.copy_(model.encoder.istd)
    with torch.no_grad():
        odd.joiner.output.weight *= 12.0
    return odd


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {
        "lstm": toy_model(predictor="lstm"),
        "stateless": toy_model(predictor="stateless", memory=0, emit=0.7),
        "odd": odd_model(),
    }
    for name, model in made.items():
        tokenizer = toy_tokenizer(endpoint=name == "odd")
        save_model(folder / name, model, tokenizer, FeatureConfig(), "# A random model\n")
    return folder


@pytest.fixture(scope="module")
def exports(models, tmp_path_factory):
    """Every model in every contract, made once."""
    folder = tmp_path_factory.mktemp("exports")
    done = {}
    for name in ("lstm", "stateless", "odd"):
        for contract in sherpa.CONTRACTS:
            path = folder / f"{name}-{contract}"
            manifest = export_sherpa(load_model(models / name), path, contract=contract, context=CONTEXT)
            done[name, contract] = path, manifest
    return done


def torch_reference(models, name) -> TorchRuntime:
    return TorchRuntime(str(models / name), CONTEXT if name == "lstm" else None)


def padded(reference: TorchRuntime, audio: np.ndarray) -> np.ndarray:
    return np.concatenate([audio, np.zeros(tail_padding(reference.recognizer.model.encoder), np.float32)])


def assert_same(got: Result, want: Result, audio: np.ndarray) -> None:
    assert got.decoded * 640 >= len(audio)  # the end went through the model
    want = want.until(got.decoded)
    assert (got.tokens, got.frames) == (want.tokens, want.frames)


@pytest.mark.parametrize("contract", sherpa.CONTRACTS)
@pytest.mark.parametrize("name", ["lstm", "stateless", "odd"])
def test_same_symbols_and_times(models, exports, name, contract):
    from export.sherpa_runtime import SherpaRuntime

    runtime = SherpaRuntime(exports[name, contract][0], "fp32")
    reference = torch_reference(models, name)
    audios = [babble(seconds, seed=70 + i) for i, seconds in enumerate((4.0, 2.3, 3.1))]
    wanted = [alone(reference, padded(reference, audio), [2560]) for audio in audios]
    assert (
        min(len(result.tokens) for result in wanted) > CONTEXT
    )  # something to compare, and history to truncate
    for audio, want in zip(audios, wanted, strict=True):
        assert_same(alone(runtime, audio, [1600, 77, 4000]), want, audio)
    for audio, want, got in zip(audios, wanted, ragged(runtime, audios, lag=3), strict=True):
        assert_same(got, want, audio)
    # An endpoint ends the segment and restarts the runtime's clock; encoder state and history live on.
    assert_same(interrupted(runtime, audios[0], len(audios[0]) // 2), wanted[0], audios[0])
    silence = np.zeros(32000, np.float32)
    assert_same(
        alone(runtime, silence, [2560]), alone(reference, padded(reference, silence), [2560]), silence
    )


def test_int8_files_run_and_keep_what_must_stay_float(exports):
    from export.sherpa_runtime import SherpaRuntime

    path, manifest = exports["lstm", "conformer"]
    assert manifest["precisions"] == ["fp32", "int8"]
    result = alone(SherpaRuntime(path, "int8"), babble(3.0, seed=75), [2560])
    assert result.tokens
    for part in sherpa.PARTS:
        float_model, int8_model = (
            onnx.load(str(path / f"{part}{suffix}")) for suffix in (".onnx", ".int8.onnx")
        )
        for model in (float_model, int8_model):
            assert model.ir_version <= 8
            assert all(isinstance(entry.value, str) for entry in model.metadata_props)
        keys = [entry.key for entry in float_model.metadata_props]
        assert [entry.key for entry in int8_model.metadata_props] == keys
        kinds = [node.op_type for node in int8_model.graph.node]
        assert "MatMulInteger" in kinds
        assert "Gemm" not in kinds
    encoder = onnx.load(str(path / "encoder.int8.onnx"))
    weights = {tensor.name: tensor.data_type for tensor in encoder.graph.initializer}
    floats = [
        node for node in encoder.graph.node
        if node.op_type == "MatMul" and weights.get(node.input[1]) == onnx.TensorProto.FLOAT
    ]  # fmt: skip
    assert len(floats) == 1 and "input_linear" in floats[0].name


def test_contract_as_the_runtime_reads_it(models, exports):
    path, _ = exports["lstm", "conformer"]
    encoder = onnx.load(str(path / "encoder.onnx"))
    assert [x.name for x in encoder.graph.input] == ["x", "attn_cache", "conv_cache", "processed_lens"]
    read = {entry.key: entry.value for entry in encoder.metadata_props}
    config = load_model(models / "lstm").model.config.encoder
    rows = config.memory_size + 2 * config.left_context
    expected = {
        "model_type": "conformer", "num_encoder_layers": config.layers, "T": 20, "decode_chunk_len": 16,
        "left_context": rows, "encoder_dim": config.dim, "pad_length": 4, "cnn_module_kernel": 2,
    }  # fmt: skip
    assert {key: read[key] for key in expected} == {key: str(value) for key, value in expected.items()}
    dims = [
        [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]
        for tensor in encoder.graph.input
    ]
    assert dims == [
        ["N", 20, 80],
        [config.layers, rows, "N", config.dim],
        [config.layers, 1, "N", config.dim],
        ["N"],
    ]
    decoder = {e.key: e.value for e in onnx.load(str(path / "decoder.onnx")).metadata_props}
    assert decoder["context_size"] == str(CONTEXT)
    assert decoder["vocab_size"] == str(toy_tokenizer().vocab_size)
    # every input is used: the runtime passes all of them and crashes if one has been dropped from the graph
    used = {name for node in encoder.graph.node for name in node.input}
    assert {x.name for x in encoder.graph.input} <= used


def test_folder(exports):
    path, manifest = exports["stateless", "conformer"]
    names = {f"{part}{suffix}" for part in sherpa.PARTS for suffix in (".onnx", ".int8.onnx")}
    names |= {"tokens.txt", "bpe.vocab", "config.json", "manifest.json", "README.md"}
    assert {file.name for file in path.iterdir()} == names
    assert json.loads((path / "manifest.json").read_text()) == manifest
    assert manifest["streaming"]["chunk_frames"] == 16
    assert set(manifest["files"]) == names - {"manifest.json"}
    pieces = [line.split("\t") for line in (path / "bpe.vocab").read_text("utf-8").splitlines()]
    assert [piece for piece, _ in pieces] == toy_tokenizer().pieces
    assert all(float(score) <= 0 for _, score in pieces)
    assert (
        f"{json.loads((path / 'config.json').read_text())['tail_padding_samples']}"
        in (path / "README.md").read_text()
    )


def test_readme_calls_run(exports, monkeypatch):
    """The Python of the README, as it stands, prints what the ladder's runtime finds."""
    from export.sherpa_runtime import SherpaRuntime

    path, _ = exports["odd", "conformer"]
    assert "`<eou>`" in (path / "README.md").read_text("utf-8")
    code = (path / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    audio = babble(3.0, seed=77)
    scope: dict = {"blocks": [audio[i : i + 1000] for i in range(0, len(audio), 1000)]}
    monkeypatch.chdir(path)
    exec(code, scope)
    heard = scope["recognizer"].timestamps(scope["stream"])
    want = alone(SherpaRuntime(path, "int8"), audio, [1000])
    assert [round(time / 0.04) for time in heard] == want.frames
    assert want.frames


def test_hotwords_change_what_is_heard(exports, tmp_path):
    """A wrong vocabulary would be a silent no-op: a strongly weighted phrase must change the words."""
    path, _ = exports["stateless", "conformer"]

    def text(**options) -> str:
        files = {part: str(path / f"{part}.onnx") for part in sherpa.PARTS}
        recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(path / "tokens.txt"), **files, num_threads=1, model_type="conformer",
            decoding_method="modified_beam_search", modeling_unit="bpe", bpe_vocab=str(path / "bpe.vocab"), **options,
        )  # fmt: skip
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, babble(4.0, seed=70))
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        return str(recognizer.get_result(stream))

    hotwords = tmp_path / "hotwords.txt"
    hotwords.write_text("nothing is lost\n")
    assert text() != text(hotwords_file=str(hotwords), hotwords_score=12.0)


def test_lstm_history_is_exact_until_it_is_full():
    model = toy_model(predictor="lstm")
    history = HistoryPredictor(model.predictor, CONTEXT)
    tokens = torch.tensor([[0, 3, 9, 4, 7, 5, 8, 2]])
    state, full = history.initial_state(1), model.predictor.initial_state(1)
    differences = []
    with torch.no_grad():
        for i in range(tokens.size(1)):
            a, state = history.step(tokens[:, i], state)
            b, full = model.predictor.step(tokens[:, i], full)
            differences.append(float((a - b).abs().max()))
        assert max(differences[:CONTEXT]) < 1e-6  # the start symbol and K - 1 tokens
        assert min(differences[CONTEXT:]) > 1e-6
        batch = torch.cat([start_tokens(1, CONTEXT), tokens[:, :CONTEXT]])
        assert torch.allclose(
            history.context(batch)[0], history.context(start_tokens(1, CONTEXT))[0], atol=1e-6
        )
    assert start_tokens(1, 3).tolist() == [[NOTHING, NOTHING, 0]]
    twin = with_history(model, CONTEXT)
    assert twin.encoder is model.encoder
    assert model.predictor is not twin.predictor


def test_refuses_what_the_runtime_cannot_carry(models, tmp_path):
    loaded = load_model(models / "lstm")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="'zipformer' is not built: choose one of conformer, lstm"):
        export_sherpa(loaded, out, contract="zipformer")
    with pytest.raises(UserError, match="--context must be 2 to 512"):
        export_sherpa(loaded, out, context=1)
    other = dataclasses.replace(loaded, features=FeatureConfig("torchaudio_rnnt"))
    with pytest.raises(UserError, match="kaldi features only"):
        export_sherpa(other, out)
    config = ModelConfig(
        vocab_size=toy_tokenizer().vocab_size,
        encoder=EmformerConfig(dim=16, heads=2, ffn_dim=16, layers=1, left_context_ms=0),
        predictor=PredictorConfig(kind="stateless", embed_dim=8),
        joiner=JoinerConfig(dim=8),
    )
    with pytest.raises(UserError, match="left context or memory"):
        export_sherpa(dataclasses.replace(loaded, model=Transducer(config).eval()), out)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written(models, tmp_path, monkeypatch):
    loaded = load_model(models / "stateless")

    def fail(*_):
        raise RuntimeError("differs")

    monkeypatch.setattr(sherpa, "check_graphs", fail)
    with pytest.raises(RuntimeError, match="differs"):
        export_sherpa(loaded, tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_sherpa(loaded, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_missing_package_is_named(models, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else found(name, *a)
    )
    with pytest.raises(UserError, match=r"needs onnx, .*pip install 'emformer-asr\[export\]'"):
        export_sherpa(load_model(models / "stateless"), tmp_path / "out")
