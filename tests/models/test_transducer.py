"""Predictors, joiner and the transducer built from them."""

from __future__ import annotations

import pytest
import torch

from asr.errors import UserError
from asr.models.joiner import Joiner, JoinerConfig
from asr.models.predictor import PredictorConfig, StatelessPredictor, make_predictor
from asr.models.transducer import ModelConfig, Transducer, named_config

PREDICTORS = [
    PredictorConfig("lstm", 8, 12, 2),
    PredictorConfig("lstm", 8, 12, 1, layer_norm=False),
    PredictorConfig("stateless", 8, context_size=2),
    PredictorConfig("stateless", 8, context_size=1),
    PredictorConfig("stateless", 6, context_size=3),
]


@pytest.mark.parametrize("config", PREDICTORS)
def test_predictor_forward_equals_step_and_scripted_step(config):
    predictor = make_predictor(config, 11).eval()
    y = torch.randint(0, 11, (3, 7))
    y[:, 0] = 0
    lengths = torch.tensor([7, 4, 1])
    with torch.no_grad():
        expected, out_lengths = predictor(y, lengths)
        assert expected.shape == (3, 7, predictor.output_dim) and torch.equal(out_lengths, lengths)
        for door in (predictor, torch.jit.script(predictor)):
            state = door.initial_state(3)
            for u in range(7):
                out, state = door.step(y[:, u], state)
                torch.testing.assert_close(out, expected[:, u], rtol=0, atol=1e-6)


def test_predictor_output_does_not_depend_on_later_tokens():
    for config in PREDICTORS:
        predictor = make_predictor(config, 11).eval()
        a, b = torch.randint(1, 11, (2, 1, 6))
        b[:, :3] = a[:, :3]
        same = predictor(a, torch.tensor([6]))[0][:, :3] - predictor(b, torch.tensor([6]))[0][:, :3]
        assert same.abs().max() < 1e-6


def test_stateless_predictor_sees_exactly_its_context():
    predictor = make_predictor(PredictorConfig("stateless", 8, context_size=2), 11).eval()
    lengths = torch.tensor([4])
    full = predictor(torch.tensor([[0, 3, 5, 7]]), lengths)[0]
    assert torch.equal(full[:, 3], predictor(torch.tensor([[9, 9, 5, 7]]), lengths)[0][:, 3])
    assert not torch.allclose(full[:, 3], predictor(torch.tensor([[0, 3, 4, 7]]), lengths)[0][:, 3])
    # Start symbol, blank and sherpa-onnx's -1 padding are the same nothing.
    assert torch.equal(full[:, :1], predictor(torch.tensor([[-1]]), lengths)[0])
    assert not full[:, 0].any()


@pytest.mark.parametrize(("embed_dim", "context_size"), [(128, 2), (30, 3), (8, 1), (6, 4)])
def test_stateless_predictor_at_one_position(embed_dim, context_size):
    """Without the convolution, scripted or not: groups of four channels, or one group."""
    predictor = StatelessPredictor(20, PredictorConfig(kind="stateless", embed_dim=embed_dim, context_size=context_size)).eval()
    tokens = torch.randint(-1, 20, (7, context_size))
    expected = predictor.context(tokens)[:, 0]
    assert expected.shape == (7, embed_dim) and bool((expected > 0).any())
    for run in (predictor, torch.jit.script(predictor)):
        torch.testing.assert_close(run.context_once(tokens), expected, atol=1e-6, rtol=1e-5)


def test_lstm_predictor_without_norm_equals_torch_lstm():
    predictor = make_predictor(PredictorConfig("lstm", 8, 12, 2, dropout=0.0, layer_norm=False), 11).eval()
    lstm = torch.nn.LSTM(8, 12, 2)
    for i, layer in enumerate(predictor.layers):
        getattr(lstm, f"weight_ih_l{i}").data.copy_(layer.x2g.weight)
        getattr(lstm, f"weight_hh_l{i}").data.copy_(layer.p2g.weight)
        getattr(lstm, f"bias_ih_l{i}").data.copy_(layer.x2g.bias)
        getattr(lstm, f"bias_hh_l{i}").data.zero_()
    y = torch.randint(0, 11, (3, 6))
    expected = lstm(predictor.norm(predictor.embedding(y)).transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(predictor(y, torch.tensor([6, 6, 6]))[0], expected)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("norm", [True, False])
def test_joiner_is_its_parts_and_holds_the_internal_lm(activation, norm):
    joiner = Joiner(6, 5, 9, JoinerConfig(7, activation, norm))
    x, y = torch.randn(2, 4, 6), torch.randn(2, 3, 5)
    logits = joiner(x, y)
    assert logits.shape == (2, 4, 3, 9)
    e, p = joiner.project_encoder(x), joiner.project_predictor(y)
    act = torch.relu if activation == "relu" else torch.tanh
    torch.testing.assert_close(logits[1, 2, 1], joiner.output(act(e[1, 2] + p[1, 1])))
    torch.testing.assert_close(joiner.join(e[:, 2], p[:, 1]), logits[:, 2, 1])
    internal = joiner.internal_lm_logits(y)
    assert internal.shape == (2, 3, 8)
    torch.testing.assert_close(internal, joiner.join(torch.zeros(7), p)[..., 1:])
    scripted = torch.jit.script(joiner)
    torch.testing.assert_close(scripted.join(scripted.project_encoder(x)[:, :, None], p[:, None]), logits)


def small_config(**options) -> ModelConfig:
    config = named_config("tiny", 13)
    config.encoder.layers = 1
    for name, value in options.items():
        setattr(config, name, value)
    return config


def test_transducer_shapes_and_gradients_reach_every_parameter():
    model = Transducer(small_config(ctc=True))
    features, lengths = torch.randn(2, 50, 80), torch.tensor([50, 31])
    logits, out_lengths = model(features, lengths, torch.randint(1, 13, (2, 5)))
    assert logits.shape == (2, 13, 6, 13) and out_lengths.tolist() == [13, 8]
    encoder_out, _ = model.encode(features, lengths)
    assert model.ctc_head(encoder_out).shape == (2, 13, 13)
    (logits.square().sum() + model.ctc_head(encoder_out).square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert Transducer(small_config()).ctc_head is None


def test_predict_prepends_a_blank():
    model = Transducer(small_config()).eval()
    tokens = torch.tensor([[4, 7, 2]])
    expected, _ = model.predictor(torch.tensor([[0, 4, 7, 2]]), torch.tensor([4]))
    assert torch.equal(model.predict(tokens), expected)
    assert model.predict(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 1, 128)


def test_named_configurations_have_the_stated_sizes():
    sizes = {("small", 500): (14e6, 16e6), ("tiny", 500): (1.8e6, 2.0e6), ("tiny", 30): (0, 2_000_000)}
    for (name, vocabulary), (low, high) in sizes.items():
        with torch.device("meta"):
            model = Transducer(named_config(name, vocabulary))
        assert low <= model.num_parameters() <= high  # tiny with a small vocabulary: at most 8 MB in fp32
        assert (model.encoder.chunk_frames, model.encoder.window_frames) == (16, 20)


def test_errors_are_one_clear_sentence():
    with pytest.raises(UserError, match="unknown model 'huge'"):
        named_config("huge", 10)
    with pytest.raises(UserError, match="vocab_size is 0"):
        Transducer(named_config("tiny"))
    with pytest.raises(UserError, match="predictor kind is 'gru'"):
        PredictorConfig(kind="gru")
    with pytest.raises(UserError, match="joiner activation"):
        JoinerConfig(activation="gelu")
