"""Which layers become int8, and which stay float because they must or because somebody said so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from asr.errors import UserError
from export.quantize import Int8Linear, check_float_layers, float_weights, int8_layers, quantize_torch
from tests.toy import toy_model


def linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) is nn.Linear]


@pytest.mark.parametrize("chosen", [(), ("joiner.output",), ("encoder.layers.0.", "ffn_out")])
def test_every_linear_layer_is_either_int8_or_float(chosen):
    model = toy_model()
    int8 = int8_layers(model, chosen)
    names = linear_names(model)
    assert set(int8) < set(names)
    assert "encoder.input_linear" not in int8
    assert not any(part in name for part in chosen for name in int8)
    kept = [name for name in names if name not in int8]
    assert [name for name in kept if not any(p in name for p in ("input_linear", *chosen))] == []
    for name, weight in zip(kept, float_weights(model, chosen), strict=True):
        assert np.array_equal(weight, model.get_submodule(name).weight.detach().numpy())
    quantized = quantize_torch(model, chosen)
    assert all(isinstance(quantized.get_submodule(name), Int8Linear) for name in int8)
    assert all(type(quantized.get_submodule(name)) is nn.Linear for name in kept)


@pytest.mark.parametrize("name", ["encoder.layers.99.", "", "Joiner"])
def test_a_name_that_no_layer_has_is_refused(name):
    with pytest.raises(UserError, match="no linear layer has .* in its name; there are encoder"):
        check_float_layers(toy_model(), ["joiner.output", name])


def test_chosen_layers_stay_float_in_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from export.quantize import quantize_onnx
    from export.sherpa import ConformerEncoder, write_onnx

    model = toy_model()
    encoder = ConformerEncoder(model).eval()
    example = (torch.zeros(2, model.encoder.window_frames, 80), *encoder.initial_states(2))
    path = tmp_path / "encoder.onnx"
    write_onnx(encoder, example, encoder.inputs, encoder.outputs, encoder.batch_axes, {}, path)
    counts = {}
    for chosen in ((), ("encoder.layers.0.ffn_",)):
        quantize_onnx(path, tmp_path / "int8.onnx", float_weights(model, chosen))
        graph = onnx.load(str(tmp_path / "int8.onnx")).graph
        stored = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        counts[chosen] = sum(node.op_type == "MatMulInteger" for node in graph.node)
        for layer in ("ffn_in", "ffn_out"):
            weight = getattr(model.encoder.layers[0], layer).weight.detach().numpy().T
            assert any(np.array_equal(weight, array) for array in stored) == bool(chosen)
    assert counts[("encoder.layers.0.ffn_",)] == counts[()] - 2
