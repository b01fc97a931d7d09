"""Our modules against torchaudio's with copied weights: the same numbers, forward and streaming."""

from __future__ import annotations

import pytest
import torch

from asr.errors import UserError
from asr.models.emformer import Emformer, EmformerConfig
from asr.models.torchaudio_weights import (
    blank_first,
    emformer_layers_from_torchaudio,
    transducer_from_torchaudio,
)
from asr.models.transducer import Transducer, named_config

GEOMETRIES = [  # chunk, look-ahead, left context in 40 ms frames, memory slots, memory activation
    (4, 1, 30, 0, "tanh"),
    (4, 1, 6, 3, "tanh"),
    (4, 2, 5, 2, "clamp"),
    (2, 3, 4, 0, "clamp"),
    (3, 2, 1, 40, "tanh"),
    (5, 1, 0, 2, "tanh"),
]


def make_pair(chunk: int, look_ahead: int, left: int, memory: int, activation: str):
    """(ours, torchaudio's) with the same random weights; memory entries large enough for clamp and tanh to
    bite."""
    models = pytest.importorskip("torchaudio.models")
    config = EmformerConfig(
        input_dim=8,
        dim=32,
        heads=4,
        ffn_dim=48,
        layers=3,
        dropout=0.1,
        chunk_ms=40 * chunk,
        look_ahead_ms=40 * look_ahead,
        left_context_ms=40 * left,
        memory_size=memory,
        memory_activation=activation,
    )
    theirs = models.Emformer(
        32,
        4,
        48,
        3,
        chunk,
        dropout=0.1,
        activation="gelu",
        left_context_length=left,
        right_context_length=look_ahead,
        max_memory_size=memory,
        tanh_on_mem=activation == "tanh",
    )
    for name, value in theirs.named_parameters():
        scale = 20.0 if "out_proj" in name and memory else 1.0  # else no memory entry would reach 10
        value.data = scale * (0.3 * torch.randn_like(value) + 0.1)
    ours = Emformer(config)
    missing = ours.load_state_dict(emformer_layers_from_torchaudio(theirs.state_dict()), strict=False)
    assert missing.unexpected_keys == []
    assert set(missing.missing_keys) == {"mean", "istd", "input_linear.weight"}
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_forward_equals_torchaudio(geometry):
    ours, theirs = make_pair(*geometry)
    chunk, look_ahead = geometry[:2]
    frames = 5 * chunk
    x = torch.randn(2, 4 * frames, 8)
    lengths = torch.full((2,), 4 * frames)
    with torch.no_grad():
        y, y_lengths = ours(x, lengths)
        h = ours.front(torch.cat([x, torch.zeros(2, 4 * look_ahead, 8)], 1))
        expected, _ = theirs(h, lengths // 4)
    assert y_lengths.tolist() == [frames, frames]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_step_equals_torchaudio_infer(geometry):
    ours, theirs = make_pair(*geometry)
    x = torch.randn(2, 6 * ours.chunk_frames + ours.window_frames, 8)
    state, their_state = ours.initial_state(2), None
    with torch.no_grad():
        for start in range(0, 6 * ours.chunk_frames, ours.chunk_frames):
            window = x[:, start : start + ours.window_frames]
            y, state = ours.step(window, state)
            h = ours.front(window)
            expected, _, their_state = theirs.infer(h, torch.full((2,), h.size(1)), their_state)
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


def test_gradients_equal_torchaudio():
    ours, theirs = make_pair(4, 1, 6, 2, "tanh")
    x = torch.randn(2, 80, 8)
    weight = torch.randn(2, 20, 32)
    (ours(x, torch.tensor([80, 80]))[0] * weight).sum().backward()
    h = ours.front(torch.cat([x, torch.zeros(2, 4, 8)], 1)).detach()
    (theirs(h, torch.tensor([20, 20]))[0] * weight).sum().backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    # torchaudio's last layer computes summaries that nothing reads: those get no gradient there and here.
    expected = emformer_layers_from_torchaudio(grads)
    for name, p in ours.layers.named_parameters():
        torch.testing.assert_close(p.grad, expected[f"layers.{name}"], rtol=1e-4, atol=1e-4)


def test_weights_mapping_names_what_it_does_not_know():
    with pytest.raises(UserError, match="emformer_layers.0.attention.extra.weight"):
        emformer_layers_from_torchaudio({"emformer_layers.0.attention.extra.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="decoder.weight"):
        transducer_from_torchaudio({"decoder.weight": torch.zeros(1)})


def test_emformer_rnnt_base_equals_torchaudio():
    """The whole base model: 76.738 M parameters, the same transcriber, predictor and joiner outputs."""
    models = pytest.importorskip("torchaudio.models")
    with torch.device("meta"):
        ours = Transducer(named_config("emformer_rnnt_base", 4097))
        reference = models.emformer_rnnt_base(4097)
    assert ours.num_parameters() == sum(p.numel() for p in reference.parameters()) == 76_738_049
    # Random weights straight into both, rather than two slow initialisations.
    state = {name: 0.04 * torch.randn(p.shape) for name, p in reference.state_dict().items()}
    reference.load_state_dict(state, assign=True)
    mapped = transducer_from_torchaudio(state)
    mapped["encoder.mean"], mapped["encoder.istd"] = torch.zeros(80), torch.ones(80)
    ours.load_state_dict(mapped, assign=True)
    ours.eval()
    reference.eval()
    x = torch.randn(1, 32, 80)
    tokens = torch.tensor([[5, 17, 3]])
    with torch.no_grad():
        source, _ = reference.transcribe(torch.cat([x, torch.zeros(1, 4, 80)], 1), torch.tensor([32]))
        encoder_out, lengths = ours.encode(x, torch.tensor([32]))
        torch.testing.assert_close(ours.joiner.project_encoder(encoder_out), source, rtol=0, atol=1e-5)
        theirs = torch.cat([torch.tensor([[4096]]), tokens - 1], 1)  # blank last there, first here
        target, _, _ = reference.predict(theirs, torch.tensor([4]), None)
        predictor_out = ours.predict(tokens)
        torch.testing.assert_close(ours.joiner.project_predictor(predictor_out), target, rtol=0, atol=1e-5)
        logits, _, _ = reference.join(source, lengths, target, torch.tensor([4]))
        expected = blank_first(logits.movedim(-1, 0)).movedim(0, -1)
        torch.testing.assert_close(ours.joiner(encoder_out, predictor_out), expected, rtol=0, atol=1e-5)
