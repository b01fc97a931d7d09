"""The importer against torchaudio's own pipeline, with random weights of torchaudio's factory, on real speech."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asr.decoding import greedy as search
from asr.errors import UserError
from asr.features import Fbank, FeatureConfig
from asr.importing import torchaudio_bundle
from asr.importing.command import MODELS, import_command
from asr.importing.torchaudio_bundle import (
    LIBRISPEECH,
    Asset,
    import_bundle,
    locate,
    read_statistics,
)
from asr.models.folder import load_model
from asr.streaming import NO_ENDPOINT
from tests.importing.bundles import (
    extractor,
    greedy,
    normalise,
    spell,
    statistics,
)
from tests.importing.server import serving


def in_last_chunk(frames: int) -> int:
    """The first of ``frames`` encoder frames that belongs to the last chunk of 4."""
    return (frames - 1) // 4 * 4


@torch.inference_mode()
def test_offline_encoder_equals_torchaudios(made, speech):
    """Features, normalisation and encoder, everywhere but in the last chunk, which torchaudio pads with the mean."""
    extract = extractor(made.bundle, made.files)
    for audio in speech:
        features, length = extract(torch.from_numpy(audio))
        expected, _ = made.theirs.transcribe(features[None], length)
        encoded, frames = made.ours.encode([audio])
        actual = made.ours.model.joiner.project_encoder(encoded)
        assert int(frames) == actual.size(1) == -(-(len(audio) // 160 + 1) // 4)
        same = in_last_chunk(expected.size(1))
        assert same > 0 and 0 <= actual.size(1) - expected.size(1) <= 1
        torch.testing.assert_close(actual[:, :same], expected[:, :same], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_last_chunk_too_if_it_is_padded_alike(made, speech):
    """torchaudio's model on its features with silence behind them: the padding of its streaming example, and ours."""
    extract = extractor(made.bundle, made.files, streaming=True)
    for audio in speech:
        features, _ = extract(torch.from_numpy(audio))
        silence = normalise(torch.zeros(4 + -len(features) % 16, 80))
        padded = torch.cat([features, silence])
        expected, _ = made.theirs.transcribe(padded[None], torch.tensor([len(padded)]))
        encoded, frames = made.ours.encode([audio])
        actual = made.ours.model.joiner.project_encoder(encoded)
        torch.testing.assert_close(actual, expected[:, : int(frames)], atol=1e-4, rtol=0)


@torch.inference_mode()
def stream_theirs(made, audio: np.ndarray) -> torch.Tensor:
    """torchaudio's streaming encoder over the frames of its own extractor, silence behind them: (1, T, J)."""
    features, _ = extractor(made.bundle, made.files, streaming=True)(torch.from_numpy(audio))
    chunks = -(-len(features) // 16)
    features = torch.cat([features, normalise(torch.zeros(16 * chunks + 4 - len(features), 80))])
    state, parts = None, []
    for start in range(0, 16 * chunks, 16):
        window = features[None, start : start + 20]
        y, _, state = made.theirs.transcribe_streaming(window, torch.tensor([20]), state)
        parts.append(y)
    return torch.cat(parts, 1)


@torch.inference_mode()
def test_streaming_encoder_equals_torchaudios(made, speech):
    for audio in speech:
        expected = stream_theirs(made, audio)
        session_features = made.ours.session()._fbank
        frames = [session_features.accept(block) for block in torch.from_numpy(audio).split(777)]
        features = torch.cat([*frames, session_features.finish()])
        encoder = made.ours.model.encoder
        features = F.pad(features, (0, 0, 0, 4 + -len(features) % 16))
        state, parts = encoder.initial_state(1), []
        for start in range(0, len(features) - 4, 16):
            y, state = encoder.step(features[None, start : start + 20], state)
            parts.append(made.ours.model.joiner.project_encoder(y))
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_log_probabilities_are_torchaudios(made, speech):
    """Of every symbol, the special ones included: ours i + 1 is theirs i, the blank is first here and last there."""
    encoded, _ = made.ours.encode([speech[0]])
    tokens = torch.randint(1, 301, (1, 12), generator=torch.Generator().manual_seed(2))
    ours = made.ours.model.joiner(encoded, made.ours.model.predict(tokens)).log_softmax(-1)
    theirs_in = torch.cat([torch.tensor([[300]]), tokens - 1], 1)
    target, _, _ = made.theirs.predict(theirs_in, torch.tensor([13]), None)
    source = made.ours.model.joiner.project_encoder(encoded)
    logits, _, _ = made.theirs.join(source, torch.tensor([source.size(1)]), target, torch.tensor([13]))
    theirs = logits.log_softmax(-1)
    torch.testing.assert_close(ours[..., 1:], theirs[..., :-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[..., 0], theirs[..., -1], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_offline_tokens_and_words_are_torchaudios(made, speech):
    """Greedy over torchaudio's extractor, encoder, predictor and joiner, up to the last chunk."""
    extract = extractor(made.bundle, made.files)
    spoken = 0
    for audio in speech:
        features, length = extract(torch.from_numpy(audio))
        source, _ = made.theirs.transcribe(features[None], length)
        tokens, frames = greedy(made.theirs, source)
        encoded, lengths = made.ours.encode([audio])
        ours = search.greedy_search(made.ours.model, encoded, lengths)[0]
        same = in_last_chunk(source.size(1))
        expected = [(token + 1, frame) for token, frame in zip(tokens, frames, strict=True) if frame < same]
        actual = [pair for pair in zip(ours.tokens, ours.frames, strict=True) if pair[1] < same]
        assert actual == expected
        spoken += len(set(tokens))
        text = spell(made.bundle, made.files, [token - 1 for token in ours.tokens])
        assert made.ours.transcribe([audio], endpoint=NO_ENDPOINT)[0].text == " ".join(text.split())
    assert spoken > 30  # the random model says something, and not always the same


@torch.inference_mode()
def test_streaming_words_are_torchaudios(made, speech):
    for audio in speech:
        source = stream_theirs(made, audio)[:, : -(-(len(audio) // 160 + 1) // 4)]
        text = spell(made.bundle, made.files, greedy(made.theirs, source)[0])
        streamed = made.ours.transcribe([audio], streaming=True, endpoint=NO_ENDPOINT)[0]
        assert streamed.text == " ".join(text.split()) != ""
        assert made.ours.transcribe([audio], endpoint=NO_ENDPOINT)[0].text == streamed.text


def test_folder(made):
    loaded = load_model(made.folder)
    assert loaded.features == FeatureConfig("torchaudio_rnnt")
    assert loaded.tokenizer.vocab_size == 301
    mean, istd = statistics()
    torch.testing.assert_close(loaded.model.encoder.mean, torch.tensor(mean))
    torch.testing.assert_close(loaded.model.encoder.istd, torch.tensor(istd))
    origin = loaded.config["extra"]["imported"]
    assert origin["from"] == "torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH"
    assert all(len(file["sha256"]) == 64 for file in origin["files"].values())
    card = (made.folder / "README.md").read_text()
    assert "CC BY 4.0" in card and origin["server"] + "/models/emformer_rnnt_base_librispeech.pt" in card


def test_description_is_torchaudios():
    """Paths, factory and geometry that the installed torchaudio names."""
    pipelines = pytest.importorskip("torchaudio.pipelines")
    theirs = pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH
    assert LIBRISPEECH.weights.path == theirs._rnnt_path
    assert LIBRISPEECH.statistics.path == theirs._global_stats_path
    assert LIBRISPEECH.pieces.path == theirs._sp_model_path
    assert LIBRISPEECH.model.vocab_size == theirs._blank + 1 == theirs._rnnt_factory_func.keywords["num_symbols"]
    assert 4 * LIBRISPEECH.model.encoder.chunk == theirs.segment_length
    assert 4 * LIBRISPEECH.model.encoder.look_ahead == theirs.right_context_length
    fbank = Fbank(FeatureConfig("torchaudio_rnnt"))
    assert (fbank.fft, fbank.mels, fbank.shift) == (theirs.n_fft, theirs.n_mels, theirs.hop_length)


def test_sherpa_export_refuses(made):
    sherpa = pytest.importorskip("export.sherpa")
    with pytest.raises(UserError, match="sherpa-onnx computes kaldi features only"):
        sherpa.check_exportable(load_model(made.folder), "conformer", 16)


# ---------------------------------------------------------------- the command


def run(monkeypatch, made, *words: str) -> int:
    monkeypatch.setattr(torchaudio_bundle, "BUNDLES", {made.bundle.name: made.bundle})
    return import_command([made.bundle.name, *words])


def contents(made) -> dict[str, bytes]:
    return {f"/{asset.path}": (made.files / asset.path).read_bytes() for asset in made.bundle.assets}


def test_command_downloads_and_converts(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with serving(contents(made)) as server:
        server.breaks = [100, 50_000]
        assert run(monkeypatch, made, "--out", str(tmp_path / "model"), "--url", server.url + "/") == 0
        requests = len(server.requests)
        assert run(monkeypatch, made, "--out", str(tmp_path / "again"), "--url", server.url) == 0
        assert len(server.requests) == requests  # the files are kept, where torchaudio looks for them
    assert (tmp_path / "hub/torchaudio" / LIBRISPEECH.weights.path).is_file()
    assert f"asr transcribe FILE --model {tmp_path / 'model'}" in capsys.readouterr().out
    ours, expected = (load_model(f).model.state_dict() for f in (tmp_path / "model", made.folder))
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_command_takes_files_fetched_by_hand(made, tmp_path, monkeypatch):
    flat = tmp_path / "flat"
    flat.mkdir()
    for asset in made.bundle.assets:
        shutil.copy(made.files / asset.path, flat / asset.name)
    out = tmp_path / "deep" / "model"
    assert run(monkeypatch, made, "--from", str(flat), "--out", str(out), "--dtype", "float16") == 0
    assert load_model(out).config["weights"] == "float16"
    with pytest.raises(UserError, match="exists already"):
        run(monkeypatch, made, "--from", str(flat), "--out", str(out))
    assert run(monkeypatch, made, "--from", str(flat), "--out", str(out), "--overwrite") == 0
    assert load_model(out).config["weights"] == "float32"


def test_without_a_network(made, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(UserError) as error:
        run(monkeypatch, made, "--out", str(tmp_path / "model"), "--url", "http://host.invalid")
    sentence = str(error.value)
    assert "\n" not in sentence and "--from FOLDER" in sentence
    for asset in made.bundle.assets:
        assert f"http://host.invalid/{asset.path}" in sentence
    assert not (tmp_path / "model").exists()


def test_bad_arguments(made, tmp_path, monkeypatch):
    assert MODELS == tuple(torchaudio_bundle.BUNDLES)
    with pytest.raises(UserError, match="did you mean torchaudio-emformer-rnnt-librispeech"):
        import_command(["torchaudio-emformer-librispeech", "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="there is torchaudio-emformer-rnnt-librispeech"):
        import_command(["q", "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="no such folder"):
        run(monkeypatch, made, "--from", str(tmp_path / "none"), "--out", str(tmp_path / "x"))
    with pytest.raises(UserError, match="has no global_stats_rnnt_librispeech.json, .*: download https://download"):
        run(monkeypatch, made, "--from", str(tmp_path), "--out", str(tmp_path / "x"))


# ---------------------------------------------------------------- files that are not what they should be


@pytest.fixture
def files(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.files, tmp_path / "files"))


def refused(made, files: Path, tmp_path: Path, match: str, bundle=None) -> None:
    bundle = bundle or made.bundle
    with pytest.raises(UserError, match=match) as error:
        import_bundle(bundle, locate(bundle, files), tmp_path / "model")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_damaged_weights(made, files, tmp_path):
    path = files / made.bundle.weights.path
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(made, files, tmp_path, "no file of weights, or a damaged one")
    torch.save([1, 2], path)
    refused(made, files, tmp_path, "something else than weights")


def test_weights_that_run_code_are_refused(made, files, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    torch.save({"transcriber.input_linear.weight": Evil()}, files / made.bundle.weights.path)
    refused(made, files, tmp_path, "no file of weights")
    assert not (tmp_path / "touched").exists()


def test_other_weights(made, files, tmp_path):
    path = files / made.bundle.weights.path
    state = dict(made.theirs.state_dict())
    torch.save({k: v for k, v in state.items() if k != "joiner.linear.bias"}, path)
    refused(made, files, tmp_path, "lacks joiner.output.bias")
    key_value = "transcriber.transformer.emformer_layers.0.attention.emb_to_key_value.weight"
    torch.save({k: v for k, v in state.items() if k != key_value}, path)
    refused(made, files, tmp_path, "without its emb_to_key_value")
    torch.save(state | {"decoder.weight": torch.zeros(2)}, path)
    refused(made, files, tmp_path, "unknown entry 'decoder.weight'")
    torch.save(state | {"joiner.linear.bias": torch.zeros(7)}, path)
    refused(made, files, tmp_path, r"joiner.output.bias has shape \(7,\), not \(301,\)")
    torch.save(state | {"joiner.linear.bias": torch.full((301,), float("nan"))}, path)
    refused(made, files, tmp_path, "joiner.output.bias holds NaN")


def test_other_pieces(made, files, tmp_path):
    model = dataclasses.replace(made.bundle.model, vocab_size=500)
    bundle = dataclasses.replace(made.bundle, model=model)
    refused(made, files, tmp_path, "has 300 pieces, not 499", bundle)
    (files / made.bundle.pieces.path).write_bytes(b"<html>")
    refused(made, files, tmp_path, "is not a SentencePiece model")


@pytest.mark.parametrize(
    "blob, match",
    [
        ("<html>", "no feature statistics"),
        ("[1]", "no feature statistics"),
        (json.dumps({"mean": [0.0] * 80}), "no feature statistics"),
        (json.dumps({"mean": [0.0] * 80, "invstddev": [1.0] * 40}), "80 and 40 bins, not of 80"),
        (json.dumps({"mean": [0.0] * 80, "invstddev": [0.0] * 80}), "not positive"),
        (json.dumps({"mean": [float("nan")] * 80, "invstddev": [1.0] * 80}), "NaN"),
    ],
)
def test_other_statistics(tmp_path, blob, match):
    file = tmp_path / "stats.json"
    file.write_text(blob)
    with pytest.raises(UserError, match=match):
        read_statistics(file)


def test_names_of_assets():
    assert Asset("a/b.pt").name == "b.pt" and Asset("b.pt").name == "b.pt"
