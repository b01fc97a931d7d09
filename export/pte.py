"""An ExecuTorch program: encoder step, predictor and joiner as methods of one ``.pte`` file, on XNNPACK.

Its shapes are fixed, one stream a call: a phone has one microphone, and streams that share a program are interleaved.
The search is the application's own loop of a few lines (`export.pte_runtime` and the README have it), the features are
those of kaldi-native-fbank. State goes in and comes out, and begins as zeros.

Shapes: W = 4(U+R) feature frames of a window, U encoder frames of a chunk, L layers, D encoder width, C = M + 2 LC
cached rows, J joiner width, V symbols, P predictor width.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.errors import UserError
from asr.features import SAMPLE_RATE
from asr.models.folder import LoadedModel
from asr.models.predictor import LSTMPredictor, LSTMState, StatelessState
from asr.models.transducer import Transducer
from asr.tokens import BLANK, TABLE_FILE
from export.bundle import Progress, precisions_of, silent, write_bundle
from export.quantize import check_float_layers, int8_layers
from export.readme import executorch_readme
from export.sherpa import cache_rows, pack, require, unpack

TARGET = "executorch"
METHODS = ("encode", "predict", "join")
TOLERANCE = 1e-4  # XNNPACK against torch, on values around 1


class Encode(nn.Module):
    """Method ``encode``: the encoder's step and the joiner's projection of what it gives."""

    inputs = ("features", "cache", "past")
    outputs = ("encoded", "cache", "past")

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.joiner = model.encoder, model.joiner

    def initial_state(self) -> tuple[Tensor, ...]:
        """cache (L, 1, C, D), past (1,) int64."""
        encoder = self.encoder
        return (
            torch.zeros(encoder.num_layers, 1, cache_rows(encoder), encoder.dim),
            torch.zeros(1, dtype=torch.int64),
        )

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        return (
            torch.zeros(1, self.encoder.window_frames, self.encoder.config.input_dim),
            *self.initial_state(),
        )

    def forward(self, features: Tensor, cache: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (1, W, 80), cache (L, 1, C, D), past (1,) -> encoded (1, U, J), cache, past."""
        out, state = self.encoder.step(features, unpack(cache, past, self.encoder))
        return self.joiner.project_encoder(out), pack(state), state.past


class Predict(nn.Module):
    """Method ``predict``: one symbol through the predictor, and the joiner's projection of what it gives.

    A state without elements (of a stateless predictor that sees one symbol) is no argument.
    """

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.predictor, self.joiner = model.predictor, model.joiner
        state = self.predictor.initial_state(1)
        self.names = tuple(name for name, value in zip(state._fields, state) if value.numel())
        self.inputs = ("symbol", *self.names)
        self.outputs = ("predicted", *self.names)

    def initial_state(self) -> tuple[Tensor, ...]:
        """hidden and cell (layers, 1, P) of an LSTM; tokens (1, context - 1) int64 of a stateless predictor."""
        return tuple(value.clone() for value in self.predictor.initial_state(1) if value.numel())

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        return (torch.full((1,), BLANK, dtype=torch.int64), *self.initial_state())

    def forward(self, symbol: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """symbol (1,) int64, state -> predicted (1, J), state."""
        if isinstance(self.predictor, LSTMPredictor):
            out, new = self.predictor.step(symbol, LSTMState(*state))
            return self.joiner.project_predictor(out), new.hidden, new.cell
        tokens = state[0] if state else symbol.new_zeros(1, 0)
        out, history = self.predictor.step(symbol, StatelessState(tokens))
        return (self.joiner.project_predictor(out), *((history.tokens,) if state else ()))


class Join(nn.Module):
    """Method ``join``: logits of all frames of a chunk for one predictor output; the weights are then read once a chunk
    and once a symbol more."""

    inputs = ("encoded", "predicted")
    outputs = ("logits",)

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = model.joiner
        self.frames, self.width = model.encoder.chunk, model.config.joiner.dim

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        return torch.zeros(1, self.frames, self.width), torch.zeros(1, self.width)

    def forward(self, encoded: Tensor, predicted: Tensor) -> tuple[Tensor]:
        """encoded (1, U, J), predicted (1, J) -> logits (1, U, V)."""
        return (self.joiner.join(encoded, predicted[:, None]),)


def export_executorch(
    loaded: LoadedModel,
    folder: Path,
    *,
    quantize: str = "int8",
    float_layers: Sequence[str] = (),
    blank_penalty: float = 0.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write an export folder with one program a precision.

    Args:
        loaded: the model.
        folder: the folder to make.
        quantize: "int8" writes ``model.int8.pte`` beside ``model.pte``, "none" does not.
        float_layers: names, or parts of names, of linear layers that stay float in the int8 files.
        blank_penalty: what the files hold for applications, as in `Recognizer`.
        progress: told what is being done; lowering takes a minute or two for 20 layers.

    Returns:
        The manifest.

    Raises:
        UserError: the folder exists, ExecuTorch is not installed, or the model has neither left context nor memory.
    """
    if cache_rows(loaded.model.encoder) == 0:
        raise UserError(
            "the ExecuTorch program carries left context or memory, this model has neither: "
            "train one with encoder.left_context_ms > 0"
        )
    check_float_layers(loaded.model, float_layers)
    require("executorch", "torchao")
    precisions = precisions_of(quantize)
    methods: dict[str, Any] = {
        name: kind(loaded.model).eval() for name, kind in zip(METHODS, (Encode, Predict, Join))
    }
    encoder = loaded.model.encoder
    constants: dict[str, Any] = {
        "sample_rate": SAMPLE_RATE,
        "chunk_frames": encoder.chunk_frames,
        "window_frames": encoder.window_frames,
        "vocab_size": loaded.tokenizer.vocab_size,
        "blank_penalty": blank_penalty,
    }

    def fill(new: Path) -> dict[str, Any]:
        for precision in precisions:
            progress(f"lowering the {precision} program")
            write_program(methods, constants, precision, new / file_name(precision), float_layers)
            if precision == "int8":
                check_runs(new / file_name(precision), methods)
        progress("checking the program")
        difference = check_program(new / file_name("fp32"), methods)
        (new / TABLE_FILE).write_text(loaded.tokenizer.table(), "utf-8")
        manifest = {
            "precisions": precisions,
            "float_layers": list(float_layers),
            "blank_penalty": blank_penalty,
            "backend": "XNNPACK",
            "methods": {name: describe(method) for name, method in methods.items()},
            "constants": constants,
            "verified": {
                "fp32_largest_difference": difference,
                "how": "the methods in the ExecuTorch runtime against torch, 8 chunks and 8 symbols",
                "words": "not yet: run asr verify on real audio",
            },
        }
        (new / "README.md").write_text(executorch_readme(loaded, manifest), "utf-8")
        return manifest

    return write_bundle(folder, loaded, TARGET, fill)


def file_name(precision: str) -> str:
    """The program's file."""
    return "model.pte" if precision == "fp32" else f"model.{precision}.pte"


def describe(method: nn.Module) -> dict[str, Any]:
    """Names, shapes and types of what a method takes and gives."""
    example = method.example()  # type: ignore[operator]
    with torch.no_grad():
        given = method(*example)

    def entries(names: Any, values: Any) -> list[dict[str, Any]]:
        return [
            {"name": name, "shape": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}
            for name, value in zip(names, values, strict=True)
        ]

    return {"inputs": entries(method.inputs, example), "outputs": entries(method.outputs, given)}


def write_program(
    methods: dict[str, Any],
    constants: dict[str, Any],
    precision: str,
    path: Path,
    float_layers: Sequence[str] = (),
) -> None:
    """Lower the methods to one file; in int8, the linear layers' weights are int8 per output channel."""
    with quiet():
        from executorch.backends.xnnpack.partition.config.xnnpack_config import (
            ConfigPrecisionType,
        )
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower

        partitioners = [XnnpackPartitioner()]
        programs = {}
        with torch.no_grad():
            for name, method in methods.items():
                module = graph_of(method, method.example())
                if precision == "int8":
                    module = quantize_graph(module, int8_layers(method, float_layers), method.example())
                    # Alone, a quantised product keeps the measuring of its input in the same delegate.
                    dynamic = ConfigPrecisionType.DYNAMIC_QUANT
                    partitioners = [
                        XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True),
                        XnnpackPartitioner(),
                    ]
                programs[name] = torch.export.export(module, method.example(), strict=False)
            lowered = to_edge_transform_and_lower(
                programs,
                transform_passes=[without_copies()],
                partitioner=partitioners,
                constant_methods=constants,
            )
            buffer = lowered.to_executorch().buffer
    path.write_bytes(buffer)


def graph_of(method: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """A method as a graph module, without the dropout that does nothing: XNNPACK refuses what hands its input on."""
    graph: Any = torch.export.export(method, example, strict=False).module()
    for node in list(graph.graph.nodes):
        if node.target == torch.ops.aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def without_copies() -> Any:
    """A pass over the graph that is about to be lowered: no copies that change nothing, and slices, which XNNPACK knows,
    for splits, which it does not. Its kernels for these are slow: a fifth of the step of the 76.7 M model."""
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import ExportPass, PassResult

    aten = ops.edge.aten
    copies = (aten.expand_copy.default, aten.alias_copy.default)

    class WithoutCopies(ExportPass):  # type: ignore[misc]
        def call(self, graph_module: Any) -> Any:
            graph = graph_module.graph
            for node in list(graph.nodes):
                if node.target in copies:
                    if node.args[0].meta["val"].shape == node.meta["val"].shape:
                        node.replace_all_uses_with(node.args[0])
                        graph.erase_node(node)
                elif node.target == aten.split_with_sizes_copy.default:
                    x, sizes, *rest = node.args
                    for part in list(node.users):
                        index = part.args[1]
                        begin = sum(sizes[:index])
                        with graph.inserting_before(part):
                            where = (x, rest[0] if rest else 0, begin, begin + sizes[index])
                            piece = graph.call_function(aten.slice_copy.Tensor, where)
                        piece.meta = dict(part.meta)
                        part.replace_all_uses_with(piece)
                        graph.erase_node(part)
                    graph.erase_node(node)
            graph_module.recompile()
            return PassResult(graph_module, True)

    return WithoutCopies()


def quantize_graph(graph: Any, layers: list[str], example: tuple[Tensor, ...]) -> nn.Module:
    """The graph with int8 linear layers; all else, the counter of past frames above all, stays.

    Args:
        graph: of `graph_of`; it is used up.
        layers: names of the linear layers, in the module the graph is of.
        example: arguments of the right shapes.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_pt2e,
    )

    # Weights are named, not modules: the model also applies linear layers by their weights alone.
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr" and node.users}
    chosen = {f"{name}.weight" for name in layers} & used
    seen = set()

    def is_chosen(node: Any) -> bool:
        if node.target != torch.ops.aten.linear.default or node.args[1].target not in chosen:
            return False
        seen.add(node.args[1].target)
        return True

    class LinearQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def transform_for_annotation(self, model: Any) -> Any:
            return model  # its own turns the numbers in sums into float tensors, and with them the counter of frames

    quantizer = LinearQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    quantizer.set_filter_function(is_chosen)
    prepared = prepare_pt2e(graph, quantizer)
    if left := chosen - seen:
        raise UserError(f"the int8 program would leave {min(left)} in float: this is a bug of the export")
    prepared(*example)  # observers of weights look at them now; activations are measured at run time
    quantized: nn.Module = convert_pt2e(prepared)
    return quantized


def check_program(path: Path, methods: dict[str, Any]) -> float:
    """Run the float file in the ExecuTorch runtime beside torch: a stream of 8 chunks, 8 symbols, and their logits.

    Returns:
        The largest absolute difference of any output, states included, relative to values around 1.

    Raises:
        UserError: more than rounding.
    """
    program = load_program(path)
    run = {name: program.load_method(name) for name in methods}
    worst = 0.0

    def both(name: str, *x: Tensor) -> Any:
        nonlocal worst
        wanted = methods[name](*x)
        for a, b in zip(run[name].execute([*x]), wanted, strict=True):
            worst = max(worst, float((a - b).abs().max()) / max(1.0, float(b.abs().max())))
        return wanted

    generator = torch.Generator().manual_seed(0)
    encoder = methods["encode"].encoder
    with torch.no_grad():
        states, history = methods["encode"].initial_state(), methods["predict"].initial_state()
        symbol = torch.full((1,), BLANK, dtype=torch.int64)
        for _ in range(8):
            x = torch.randn(1, encoder.window_frames, encoder.config.input_dim, generator=generator)
            encoded, *states = both("encode", x / encoder.istd + encoder.mean, *states)
            predicted, *history = both("predict", symbol, *history)
            (logits,) = both("join", encoded, predicted)
            symbol = logits[:, 0, 1:].argmax(-1) + 1
    if worst > TOLERANCE:
        raise UserError(f"{path.name} differs from the model by {worst:.2g}: this is a bug of the export")
    return worst


def check_runs(path: Path, methods: dict[str, Any]) -> None:
    """Run every method of a program once; UserError if what comes out is no number."""
    program = load_program(path)
    for name, method in methods.items():
        for value in program.load_method(name).execute([*method.example()]):
            if not bool(torch.isfinite(value).all()):
                raise UserError(f"{path.name}: {name} gives NaN or infinity: this is a bug of the export")


def load_program(path: Path) -> Any:
    """The file in the ExecuTorch runtime."""
    with quiet():
        from executorch.runtime import Runtime

        return Runtime.get().load_program(path)


def set_threads(threads: int) -> None:
    """How many threads XNNPACK uses in this process; torch's setting does not reach it."""
    with quiet():
        from executorch.extension.pybindings import portable_lib

        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)  # unsafe while something runs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes and warnings of the libraries, and with the compiler of schemas, which comes with them."""
    if shutil.which("flatc") is None and "FLATC_EXECUTABLE" not in os.environ:
        beside = Path(sys.executable).parent / "flatc"
        if not beside.is_file():
            raise UserError(
                "ExecuTorch needs its compiler of schemas: flatc is neither on PATH nor beside this Python"
            )
        os.environ["FLATC_EXECUTABLE"] = str(beside)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
