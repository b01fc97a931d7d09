"""The TorchScript program: PCM in, the symbols and times of a session out, whatever the blocks; doors for others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.decoding import greedy
from asr.errors import UserError
from asr.features import Fbank, FeatureConfig
from asr.models.folder import load_model, save_model
from export.runtime import alone, ragged
from export.torch_runtime import TorchRuntime
from export.torchscript import export_torchscript, use_engine
from export.torchscript_runtime import TorchScriptRuntime
from tests.toy import babble, toy_model, toy_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # torch says that torch.export will replace TorchScript

NAMES = ("lstm", "stateless")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and an export of each kind of predictor."""
    folder = tmp_path_factory.mktemp("torchscript")
    for name in NAMES:
        model = toy_model(
            predictor=name, memory=2 if name == "lstm" else 0, emit=0.25 if name == "lstm" else 0.7
        )
        save_model(folder / name, model, toy_tokenizer(), FeatureConfig(), "# A random model\n")
        penalty = 0.7 if name == "stateless" else 0.0
        export_torchscript(load_model(folder / name), folder / f"{name}-out", blank_penalty=penalty)
    return folder


@pytest.fixture
def program(place):
    return torch.jit.load(str(place / "lstm-out" / "model.pt"))


def run(program, audio: np.ndarray, blocks: list[int]):
    """Symbols of (N, S) audio: rows of (stream, frame, token, log-probability)."""
    found = []
    with torch.no_grad():
        state = program.initial_state(audio.shape[0])
        at = turn = 0
        while at < audio.shape[1]:
            size = blocks[turn % len(blocks)]
            symbols, state = program.accept(torch.from_numpy(audio[:, at : at + size]), state)
            found.append(symbols)
            at, turn = at + size, turn + 1
        symbols, state = program.finish(state)
        found.append(symbols)
    rows = [
        row
        for s in found
        for row in zip(
            s.streams.tolist(), s.frames.tolist(), s.tokens.tolist(), s.log_probs.tolist(), strict=True
        )
    ]
    return sorted(rows)


@pytest.mark.parametrize("name", NAMES)
def test_words_of_a_session_for_any_blocks(place, name):
    penalty = 0.7 if name == "stateless" else 0.0  # what the file holds
    reference = TorchRuntime(str(place / name), blank_penalty=penalty)
    program = torch.jit.load(str(place / f"{name}-out" / "model.pt"))
    audio = babble(4.0, seed=80)
    want = alone(reference, audio, [2560])
    assert len(want.tokens) > 3
    for blocks in ([2560], [77, 5000, 1], [64000]):
        rows = run(program, audio[None], blocks)
        assert [row[2] for row in rows] == want.tokens
        assert [row[1] for row in rows] == want.frames


def test_confidences_are_those_of_greedy_search(place, program):
    audio = babble(3.0, seed=81)
    recognizer = TorchRuntime(str(place / "lstm")).recognizer
    with torch.no_grad():
        encoded, lengths = recognizer.encode([audio])
        want = greedy.greedy_search(recognizer.model, encoded, lengths)[0]
    rows = run(program, audio[None], [1600])
    assert [row[1] for row in rows] == want.frames
    np.testing.assert_allclose([row[3] for row in rows], want.log_probs, atol=1e-4)


def test_streams_in_lockstep_and_ragged(place, program):
    audio = np.stack([babble(3.0, seed=seed) for seed in (82, 83)])
    together = run(program, audio, [3000])
    apart = [(stream, *row[1:3]) for stream in range(2) for row in run(program, audio[stream][None], [3000])]
    assert [row[:3] for row in together] == apart
    reference = TorchRuntime(str(place / "lstm"))
    runtime = TorchScriptRuntime(place / "lstm-out", "fp32")
    audios = [babble(seconds, seed=84) for seconds in (3.0, 1.7, 2.2)]
    for got, one in zip(ragged(runtime, audios, lag=4), audios, strict=True):
        want = alone(reference, one, [2560])
        assert (got.tokens, got.frames, got.decoded) == (want.tokens, want.frames, want.decoded)


@pytest.mark.parametrize("samples", [0, 1, 79, 80, 300, 641])
def test_short_streams(place, program, samples):
    audio = babble(1.0, seed=85)[:samples]
    want = alone(TorchRuntime(str(place / "lstm")), audio, [2560])
    assert [row[1:3] for row in run(program, audio[None], [2560])] == list(
        zip(want.frames, want.tokens, strict=True)
    )


def test_doors_for_a_decoder_of_ones_own(place, program):
    """Greedy search written with `encode`, `predict` and `join` finds what `accept` finds."""
    audio = torch.from_numpy(babble(2.0, seed=86))[None]
    rows = run(program, audio.numpy(), [32000])
    with torch.no_grad():
        features = Fbank()(audio)[0]
        window, chunk = program.window_frames, program.chunk_frames
        padded = torch.nn.functional.pad(features, (0, 0, 0, window))
        state = program.initial_encoder_state(1)
        predicted, history = program.predict(
            torch.zeros(1, dtype=torch.int64), program.initial_predictor_state(1)
        )
        found = []
        for at in range(0, features.size(1), chunk):
            encoded, state = program.encode(padded[:, at : at + window], state)
            for i in range(min(chunk, features.size(1) - at + 3) // 4):
                token = program.join(encoded[:, i], predicted).argmax(-1)
                if int(token):
                    found.append((at // 4 + i, int(token)))
                    predicted, history = program.predict(token, history)
    assert found == [row[1:3] for row in rows]
    assert program.pieces() == toy_tokenizer().pieces


def test_blank_penalty_can_be_set(program):
    audio = babble(3.0, seed=87)[None]
    before = len(run(program, audio, [2560]))
    program.blank_penalty = 6.0
    assert len(run(program, audio, [2560])) > before


def test_int8_is_smaller_and_says_nearly_the_same(place):
    float_runtime, int8 = (TorchScriptRuntime(place / "stateless-out", p) for p in ("fp32", "int8"))
    features = Fbank()(torch.from_numpy(babble(3.0, seed=88))[None])[0][:, :20]
    with torch.no_grad():
        a, b = (
            runtime.program.encode(features, runtime.program.initial_encoder_state(1))[0]
            for runtime in (float_runtime, int8)
        )
    assert 0 < float((a - b).abs().max()) < 0.2 * float(a.abs().max())
    weights = [name for name, _ in int8.program.named_parameters()]
    assert "encoder.input_linear.weight" in weights  # stays float
    assert not any(name.endswith(("ffn_in.weight", "qkv.weight", "output.weight")) for name in weights)
    assert alone(int8, babble(3.0, seed=88), [2560]).tokens


def test_readme_calls_run(place, monkeypatch, capsys):
    """The Python of the README, as it stands."""
    monkeypatch.chdir(place / "lstm-out")
    code = (place / "lstm-out" / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    blocks = torch.from_numpy(babble(3.0, seed=89)).split(3000)
    with torch.no_grad():
        exec(code, {"torch": torch, "blocks": blocks})
    runtime = TorchScriptRuntime(place / "lstm-out", "int8")
    text = "".join(toy_tokenizer().pieces[t] for t in alone(runtime, babble(3.0, seed=89), [3000]).tokens)
    assert text
    assert capsys.readouterr().out == text.replace("\u2581", " ")


def test_arm_engine_runs_the_same_file(place):
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no qnnpack engine")
    audio = babble(3.0, seed=88)
    counts = [
        len(alone(TorchScriptRuntime(place / "stateless-out", "int8", None, name), audio, [2560]).tokens)
        for name in (None, "qnnpack")
    ]
    use_engine()  # as it was, for the other tests
    assert min(counts) > 0
    assert abs(counts[0] - counts[1]) <= 0.2 * max(counts)


def test_target_that_exists_is_refused(place):
    with pytest.raises(UserError, match="exists already"):
        export_torchscript(load_model(place / "lstm"), place / "lstm-out")
