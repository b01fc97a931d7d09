"""The encoder's two doors give the same numbers, whatever the geometry, batch and age of the streams."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import UserError
from asr.models.emformer import Emformer, EmformerConfig, EmformerState

BINS = 6

geometries = st.builds(
    lambda chunk, look_ahead, left, memory, activation, positions: EmformerConfig(
        input_dim=BINS,
        dim=16,
        heads=2,
        ffn_dim=24,
        layers=3,
        chunk_ms=40 * chunk,
        look_ahead_ms=40 * look_ahead,
        left_context_ms=40 * left,
        memory_size=memory,
        memory_activation=activation,
        activation="relu",
        relative_positions=positions,
    ),
    st.integers(1, 6),
    st.integers(0, 7),
    st.integers(0, 15),
    st.sampled_from([0, 0, 1, 2, 5]),
    st.sampled_from(["tanh", "clamp"]),
    st.booleans(),
)


def make(config: EmformerConfig, seed: int = 0) -> Emformer:
    torch.manual_seed(seed)
    encoder = Emformer(config)
    for p in encoder.parameters():  # biases and norms away from their neutral start
        p.data += 0.1 * torch.randn_like(p)
    encoder.set_statistics(torch.randn(BINS), 0.5 + torch.rand(BINS))
    return encoder.eval()


def feed(encoder: Emformer, x: torch.Tensor, stepper=None) -> torch.Tensor:
    """One utterance (T, F) through ``step``, padded with zeros at its end, frames (ceil(T/4), D)."""
    stepper = stepper or encoder
    state = stepper.initial_state(1)
    x = torch.cat([x, x.new_zeros(encoder.window_frames, BINS)])
    total = x.size(0) - encoder.window_frames
    outputs = []
    for start in range(0, total, encoder.chunk_frames):
        window = x[start : start + encoder.window_frames]
        window = torch.cat([window, x.new_zeros(encoder.window_frames - window.size(0), BINS)])
        y, state = stepper.step(window[None], state)
        outputs.append(y[0])
    return torch.cat(outputs)[: -(-total // 4)]


@settings(max_examples=40, deadline=None)
@given(geometries, st.lists(st.integers(1, 150), min_size=1, max_size=3), st.integers(0, 9))
def test_forward_equals_step(config, lengths, extra):
    """Ragged batches, padding full of junk, lengths that fill neither a frame nor a chunk."""
    encoder = make(config)
    x = torch.randn(len(lengths), max(lengths) + extra, BINS)
    with torch.no_grad():
        y, y_lengths = encoder(x, torch.tensor(lengths))
        assert y.shape == (len(lengths), -(-x.size(1) // 4), 16)
        assert y_lengths.tolist() == [-(-n // 4) for n in lengths]
        for i, n in enumerate(lengths):
            expected = feed(encoder, x[i, :n])
            torch.testing.assert_close(y[i, : y_lengths[i]], expected, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(geometries, st.lists(st.integers(0, 12), min_size=2, max_size=4))
def test_streams_of_different_ages_share_a_batch(config, ages):
    """Streams that have heard 0 … 12 chunks are joined into one batch and go on as if alone."""
    encoder = make(config)
    chunks = max(ages) + 3
    x = torch.randn(len(ages), chunks * encoder.chunk_frames + encoder.window_frames, BINS)

    def window(i: int, k: int) -> torch.Tensor:
        return x[i : i + 1, k * encoder.chunk_frames :][:, : encoder.window_frames]

    states, expected = [], []
    with torch.no_grad():
        for i, age in enumerate(ages):
            state = encoder.initial_state(1)
            for k in range(age):
                _, state = encoder.step(window(i, k), state)
            states.append(state)
            outputs = []
            for k in range(age, age + 3):
                y, state = encoder.step(window(i, k), state)
                outputs.append(y)
            expected.append(torch.cat(outputs, 1))
        joined = EmformerState(
            *(torch.cat(part, 1) for part in list(zip(*states, strict=True))[:3]),
            torch.cat([s.past for s in states]),
        )
        outputs = []
        for k in range(3):
            y, joined = encoder.step(torch.cat([window(i, age + k) for i, age in enumerate(ages)]), joined)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), torch.cat(expected), rtol=0, atol=1e-5)
    assert joined.past.tolist() == [(age + 3) * config.chunk for age in ages]


@pytest.mark.parametrize("memory", [0, 2])
def test_resetting_past_restarts_one_stream(memory):
    """Only ``past`` says what is valid: zeroing it forgets everything, whatever the other tensors hold."""
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 2, memory_size=memory, left_context_ms=240))
    x = torch.randn(2, encoder.window_frames, BINS)
    with torch.no_grad():
        state = encoder.initial_state(2)
        for _ in range(4):
            _, state = encoder.step(torch.randn_like(x), state)
        y, _ = encoder.step(x, state._replace(past=state.past * torch.tensor([0, 1])))
        fresh, _ = encoder.step(x, encoder.initial_state(2))
    torch.testing.assert_close(y[0], fresh[0], rtol=0, atol=1e-6)
    assert (y[1] - fresh[1]).abs().max() > 1e-2


def test_only_relative_positions_tell_the_order_of_frames():
    """Two encoder frames of a chunk swapped: without positions the others see the same set, with them they do not."""
    for positions in (False, True):
        config = EmformerConfig(BINS, 16, 2, 24, 1, dropout=0.0, left_context_ms=80, relative_positions=positions)
        encoder = make(config)
        x = torch.randn(1, 4 * 8, BINS)
        swapped = x.unflatten(1, (8, 4))[:, [0, 2, 1, 3, 4, 5, 6, 7]].flatten(1, 2)
        with torch.no_grad():
            change = encoder(x, torch.tensor([32]))[0] - encoder(swapped, torch.tensor([32]))[0]
        assert (change[0, 3].abs().max() > 1e-3) == positions


SCRIPTED = [(160, 40, 1200, 0), (80, 80, 120, 2), (160, 0, 0, 0), (40, 40, 0, 3), (120, 0, 80, 0)]


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("chunk,look_ahead,left,memory", SCRIPTED)
def test_scripted_and_saved_step_equals_eager(chunk, look_ahead, left, memory, positions):
    encoder = make(
        EmformerConfig(
            BINS,
            16,
            2,
            24,
            2,
            chunk_ms=chunk,
            look_ahead_ms=look_ahead,
            left_context_ms=left,
            memory_size=memory,
            relative_positions=positions,
        )
    )
    x = torch.randn(130, BINS)
    with torch.no_grad():
        expected = feed(encoder, x)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(encoder), file)
        file.seek(0)
        scripted = torch.jit.load(file)
        torch.testing.assert_close(feed(encoder, x, scripted), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("positions", [False, True])
def test_exported_step_equals_eager_for_any_batch(positions):
    encoder = make(
        EmformerConfig(BINS, 16, 2, 24, 2, memory_size=2, left_context_ms=200, relative_positions=positions)
    )

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x, memory, keys, values, past):
            y, state = self.encoder.step(x, EmformerState(memory, keys, values, past))
            return (y, *state)

    batch = torch.export.Dim("batch", min=1, max=64)
    axes = ({0: batch}, {1: batch}, {1: batch}, {1: batch}, {0: batch})
    example = (torch.randn(2, encoder.window_frames, BINS), *encoder.initial_state(2))
    exported = torch.export.export(Step().eval(), example, dynamic_shapes=axes).module()
    state = encoder.initial_state(3)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(3, encoder.window_frames, BINS)
            expected, new_state = encoder.step(x, state)
            got = exported(x, *state)
            for a, b in zip((expected, *new_state), got, strict=True):
                torch.testing.assert_close(b, a, rtol=0, atol=1e-6)
            state = new_state


def test_state_shapes_never_change_and_the_counter_saturates():
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 2, memory_size=3, left_context_ms=200))
    state = encoder.initial_state(2)
    shapes = [(2, 2, 3, 16), (2, 2, 2, 5, 8), (2, 2, 2, 5, 8), (2,)]
    assert [tuple(t.shape) for t in state] == shapes
    x = torch.randn(2, encoder.window_frames, BINS)
    with torch.no_grad():
        _, state = encoder.step(x, state._replace(past=torch.tensor([0, encoder.max_past - 1])))
    assert [tuple(t.shape) for t in state] == shapes
    assert state.past.dtype == torch.int64 and state.past.tolist() == [4, encoder.max_past]


def test_output_depends_on_context_exactly_as_configured():
    """Frame t of one layer sees its chunk, the look-ahead and left_context frames before the chunk, nothing
    else."""
    config = EmformerConfig(BINS, 16, 2, 24, 1, chunk_ms=120, look_ahead_ms=80, left_context_ms=160)
    encoder = make(config)
    x = torch.randn(1, 4 * 30, BINS, requires_grad=True)
    y, _ = encoder(x, torch.tensor([120]))
    for chunk, row in itertools.product((0, 1, 4, 9), (0, 2)):
        (grad,) = torch.autograd.grad(y[0, 3 * chunk + row].square().sum(), x, retain_graph=True)
        seen = grad[0].reshape(30, -1).abs().sum(1).nonzero().flatten().tolist()
        assert seen == list(range(max(0, 3 * chunk - 4), min(30, 3 * chunk + 3 + 2)))


def test_look_ahead_does_not_grow_with_depth():
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 4, chunk_ms=80, look_ahead_ms=40, left_context_ms=80))
    x = torch.randn(1, 80, BINS, requires_grad=True)
    y, _ = encoder(x, torch.tensor([80]))
    (grad,) = torch.autograd.grad(y[0, 4:6].square().sum(), x)
    assert grad[0].reshape(20, -1).abs().sum(1).nonzero().max() == 6


def test_zero_length_and_empty_input():
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 2))
    y, lengths = encoder(torch.randn(2, 0, BINS), torch.tensor([0, 0]))
    assert y.shape == (2, 0, 16) and lengths.tolist() == [0, 0]
    y, lengths = encoder(torch.randn(2, 9, BINS), torch.tensor([9, 0]))
    assert y.shape == (2, 3, 16) and lengths.tolist() == [3, 0] and bool(torch.isfinite(y).all())


def test_padding_and_neighbours_full_of_nan_do_no_harm():
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 2, memory_size=2))
    x = torch.randn(3, 70, BINS)
    lengths = torch.tensor([70, 33, 70])
    with torch.no_grad():
        expected, _ = encoder(x, lengths)
        spoiled = x.clone()
        spoiled[1, 33:] = float("nan")
        spoiled[2] = float("nan")
        y, _ = encoder(spoiled, lengths)
    torch.testing.assert_close(y[:2], expected[:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"chunk_ms": 150}, "chunk_ms is 150"),
        ({"chunk_ms": 0}, "chunk_ms is 0"),
        ({"look_ahead_ms": -40}, "look_ahead_ms is -40"),
        ({"left_context_ms": 1210}, "left_context_ms is 1210"),
        ({"memory_size": -1}, "memory_size"),
        ({"dim": 510}, "dim is 510"),
        ({"activation": "gellu"}, "activation is 'gellu'"),
        ({"memory_activation": "none"}, "memory_activation"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_geometry_is_one_clear_sentence(options, message):
    with pytest.raises(UserError, match=message) as caught:
        EmformerConfig(**options)
    assert "\n" not in str(caught.value)


def test_statistics_are_checked_and_used():
    encoder = make(EmformerConfig(BINS, 16, 2, 24, 1))
    mean, std = torch.randn(BINS), torch.rand(BINS) + 0.5
    x = torch.randn(1, 8, BINS)
    encoder.set_statistics(mean, std)
    expected = encoder.input_linear((x - mean) / std).reshape(1, 2, 16)
    torch.testing.assert_close(encoder.front(x), expected)
    encoder.set_statistics(mean, torch.zeros(BINS))
    assert bool(torch.isfinite(encoder.istd).all())
    with pytest.raises(UserError, match="bins"):
        encoder.set_statistics(torch.zeros(3), torch.ones(3))
    with pytest.raises(UserError, match="NaN"):
        encoder.set_statistics(mean * float("nan"), std)


def test_depth_scaled_initialisation():
    """Xavier gain 1/sqrt(layer+1) on query and key|value apart, as torchaudio's "depthwise"."""
    torch.manual_seed(0)
    encoder = Emformer(EmformerConfig(dim=64, heads=4, ffn_dim=64, layers=4))
    for i, layer in enumerate(encoder.layers):
        query, key_value = layer.qkv.weight[:64], layer.qkv.weight[64:]
        for weight, fan in ((query, 128), (key_value, 192)):
            bound = (6.0 / fan) ** 0.5 / (i + 1) ** 0.5
            assert 0.98 * bound < weight.abs().max() <= bound


def test_a_length_beyond_the_features_is_refused():
    encoder = Emformer(EmformerConfig(dim=16, heads=2, ffn_dim=32, layers=1))
    with pytest.raises(ValueError, match="a length of 21 frames in a batch of 20"):
        encoder(torch.zeros(2, 20, 80), torch.tensor([20, 21]))
