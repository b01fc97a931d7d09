"""Post-training int8: weights per output channel, activations measured as they come (dynamic quantisation)."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from asr.errors import UserError

FLOAT_LAYERS = ("input_linear",)  # sees raw features, whose range is widest, and is a fraction of the weights


def quantize_onnx(source: Path, target: Path, kept: Sequence[np.ndarray] = ()) -> None:
    """Write an int8 version of an ONNX file; names, order and metadata stay.

    Products of two activations (attention) stay float, as do norms and embeddings.

    Args:
        source, target: the files.
        kept: weights (O, I) of the linear layers that stay float, known by their values: the exporter renames them.
    """
    import logging

    import onnx
    import onnxruntime.quantization as ort

    model = onnx.load(str(source))
    gemm_to_matmul(model)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    excluded = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and any(np.array_equal(weights[node.input[1]], weight.T) for weight in kept)
    ]
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises a pre-processing that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as temporary:
            plain = Path(temporary) / source.name
            onnx.save(model, str(plain))
            ort.quantize_dynamic(
                str(plain),
                str(target),
                op_types_to_quantize=["MatMul"],
                weight_type=ort.QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=excluded,
            )
    finally:
        logging.root.setLevel(level)
    written = onnx.load(str(target))
    written.ir_version = min(written.ir_version, model.ir_version)
    del written.metadata_props[:]  # the quantiser adds a note of its own
    written.metadata_props.extend(model.metadata_props)
    onnx.save(written, str(target))


def gemm_to_matmul(model: Any) -> None:
    """Rewrite ``Gemm(x, W^T) + b``, what a linear layer on two axes becomes, as MatMul and Add: the quantiser knows
    MatMul only."""
    import onnx
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or node.input[1] not in weights or attributes.get("transA", 0) or not plain:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        name = f"{node.name}_weight"
        weight = weight.T.copy() if attributes.get("transB", 0) else weight
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
        bias = len(node.input) > 2
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(
            onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}_matmul")
        )
        if bias:
            nodes.append(
                onnx.helper.make_node(
                    "Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_add"
                )
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


Model = TypeVar("Model", bound=nn.Module)


class Int8Linear(DynamicLinear):
    """torch's dynamic int8 layer with all 8 bits of the activations.

    torch's own gives one bit away, for x86 processors without VNNI, whose 16-bit sums may saturate; ARM's engine ignores
    that request, and processors with VNNI do not need it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, I) float -> (…, O) float."""
        return torch.ops.quantized.linear_dynamic(x, self._packed_params._packed_params, reduce_range=False)


def check_float_layers(model: nn.Module, chosen: Sequence[str]) -> None:
    """Refuse a name that no linear layer has.

    Raises:
        UserError: it names the first such name, and a layer there is.
    """
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for part in chosen:
        if not part or not any(part in name for name in names):
            raise UserError(
                f"no linear layer has {part!r} in its name; there are {names[1]}, {names[-1]} and others"
            )


def int8_layers(model: nn.Module, chosen: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers whose weights become int8: all but those with a name or part of a name in
    `FLOAT_LAYERS` or ``chosen``."""
    kept = (*FLOAT_LAYERS, *chosen)
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not any(part in name for part in kept)
    ]


def float_weights(model: nn.Module, chosen: Sequence[str] = ()) -> list[np.ndarray]:
    """Weights (O, I) of the other linear layers."""
    names = set(int8_layers(model, chosen))
    return [
        module.weight.detach().numpy()
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name not in names
    ]


def quantize_torch(model: Model, chosen: Sequence[str] = ()) -> Model:
    """A copy of a model whose linear layers are int8, per output channel, all but those `int8_layers` leaves out."""
    names = dict.fromkeys(int8_layers(model, chosen), per_channel_dynamic_qconfig)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao says that it will move
        quantized: Model = quantize_dynamic(model, names, torch.qint8, {nn.Linear: Int8Linear})
    return quantized
