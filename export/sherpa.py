"""ONNX files for an unmodified sherpa-onnx: encoder, decoder and joiner in a contract it already knows.

The encoder's state is packed into the tensors of sherpa-onnx's `conformer` type (default) or `lstm` type; the arithmetic
is the model's own ``step``. In both, the memory and the left context's keys and values are C = M + 2 LC rows of one
tensor (keys and values head by head, as attention takes them; the runtime never looks), and the counter of past frames
is a float tensor of its own: the runtime starts all states at zero, batches streams of different ages, and forgets its
own frame count at an endpoint.

Shapes: N streams, T = 4(U+R) feature frames of a window, U encoder frames of a chunk, L layers, D encoder width, C =
M + 2 LC cached rows, J joiner width, V symbols, K tokens of predictor context.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr import __version__
from asr.errors import UserError
from asr.features import FRAME_MS, SAMPLE_RATE, SUBSAMPLING
from asr.models.emformer import Emformer, EmformerState
from asr.models.folder import LoadedModel
from asr.models.predictor import StatelessPredictor
from asr.models.transducer import Transducer
from asr.tokens import BLANK, BLANK_PIECE, TABLE_FILE, Tokenizer
from export.bundle import Progress, precisions_of, silent, write_bundle
from export.history import DEFAULT_CONTEXT, ExportedDecoder, start_tokens
from export.quantize import check_float_layers, float_weights, quantize_onnx
from export.readme import sherpa_readme
from export.worker import WorkerFailure, run_worker

TARGET = "sherpa-onnx"
CONTRACTS = ("conformer", "lstm")
OPSET = 17
LARGEST_IR = 8  # the newest file version every mobile build of ONNX Runtime reads
PARTS = ("encoder", "decoder", "joiner")
HOTWORDS_FILE, CONFIG_FILE = "bpe.vocab", "config.json"
LONGEST_CONTEXT = 512  # tokens; the decoder runs them all at every symbol
TOLERANCE = 1e-4  # ONNX Runtime against torch, on values around 1


class PackedEncoder(nn.Module):
    """What the contracts share: encoder and projection, and the numbers of the chunks."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.joiner = model.encoder, model.joiner

    def metadata(self) -> dict[str, int]:
        """What sherpa-onnx makes the initial states of."""
        encoder = self.encoder
        return {
            "num_encoder_layers": encoder.num_layers,
            "T": encoder.window_frames,
            "decode_chunk_len": encoder.chunk_frames,
        }


class ConformerEncoder(PackedEncoder):
    """The step in sherpa-onnx's `conformer` contract."""

    inputs = ("x", "attn_cache", "conv_cache", "processed_lens")
    outputs = ("encoder_out", "new_attn_cache", "new_conv_cache")
    batch_axes = {"x": 0, "attn_cache": 2, "conv_cache": 2, "processed_lens": 0, "encoder_out": 0,
                  "new_attn_cache": 2, "new_conv_cache": 2}  # fmt: skip

    def metadata(self) -> dict[str, int]:
        """What sherpa-onnx makes the initial states of."""
        encoder = self.encoder
        return {
            **super().metadata(),
            "left_context": cache_rows(encoder),
            "encoder_dim": encoder.dim,
            "pad_length": encoder.window_frames - encoder.chunk_frames,  # required, unused
            "cnn_module_kernel": 2,  # conv_cache then has one row
        }

    def initial_states(self, batch: int) -> tuple[Tensor, ...]:
        """The zeros the runtime starts with."""
        encoder = self.encoder
        return (
            torch.zeros(encoder.num_layers, cache_rows(encoder), batch, encoder.dim),
            torch.zeros(encoder.num_layers, 1, batch, encoder.dim),
            torch.zeros(batch, dtype=torch.int64),
        )

    def forward(
        self, x: Tensor, attn_cache: Tensor, conv_cache: Tensor, processed_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, T, 80), attn_cache (L, C, N, D), conv_cache (L, 1, N, D) full of the counter, processed_lens (N,)."""
        # The runtime's count restarts at every endpoint while the state lives on, so ours travels in the state. The
        # input must stay in the graph: the runtime passes four whatever the graph has.
        past = conv_cache[0, 0, :, 0].round().to(torch.int64) + 0 * processed_lens
        out, state = self.encoder.step(x, unpack(attn_cache.transpose(1, 2), past, self.encoder))
        counter = state.past.to(x.dtype)[None, None, :, None]
        return (
            self.joiner.project_encoder(out),
            pack(state).transpose(1, 2),
            torch.zeros_like(conv_cache) + counter,
        )


class LstmEncoder(PackedEncoder):
    """The step in sherpa-onnx's `lstm` contract."""

    inputs = ("x", "h", "c")
    outputs = ("encoder_out", "new_h", "new_c")
    batch_axes = {"x": 0, "h": 1, "c": 1, "encoder_out": 0, "new_h": 1, "new_c": 1}

    def metadata(self) -> dict[str, int]:
        """What sherpa-onnx makes the initial states of."""
        encoder = self.encoder
        return {
            **super().metadata(),
            "d_model": cache_rows(encoder) * encoder.dim,
            "rnn_hidden_size": 1,
        }

    def initial_states(self, batch: int) -> tuple[Tensor, ...]:
        """The zeros the runtime starts with."""
        encoder = self.encoder
        return (
            torch.zeros(encoder.num_layers, batch, cache_rows(encoder) * encoder.dim),
            torch.zeros(encoder.num_layers, batch, 1),
        )

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, T, 80), h (L, N, C D) cached rows, c (L, N, 1) the counter."""
        encoder = self.encoder
        cache = h.reshape(encoder.num_layers, -1, cache_rows(encoder), encoder.dim)
        out, state = encoder.step(x, unpack(cache, c[0, :, 0].round().to(torch.int64), encoder))
        counter = state.past.to(x.dtype)[None, :, None]
        return self.joiner.project_encoder(out), pack(state).flatten(2), torch.zeros_like(c) + counter


class ExportedJoiner(nn.Module):
    """joiner.onnx: projected encoder frame and projected predictor output, (N, J) each -> logits (N, V)."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = model.joiner

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """(N, J), (N, J) -> (N, V)."""
        return self.joiner.join(encoder_out, decoder_out)


def cache_rows(encoder: Emformer) -> int:
    """C = M + 2 LC: rows of state a layer and stream."""
    return encoder.memory_size + 2 * encoder.left_context


def pack(state: EmformerState) -> Tensor:
    """The state without its counter as (L, N, C, D): the rows of memory; what keys and then values hold, as it is."""
    layers, n, m, dim = state.memory.shape
    parts = [state.memory] if m > 0 else []
    if state.keys.size(3) > 0:
        parts += [part.reshape(layers, n, state.keys.size(3), dim) for part in (state.keys, state.values)]
    return torch.cat(parts, dim=2)


def unpack(cache: Tensor, past: Tensor, encoder: Emformer) -> EmformerState:
    """(L, N, C, D) and counter (N,) -> the state of `Emformer.step`."""
    m, left = encoder.memory_size, encoder.left_context
    shape = (encoder.num_layers, cache.size(1), encoder.heads, left, encoder.dim // encoder.heads)
    keys, values = cache[:, :, m : m + left].reshape(shape), cache[:, :, m + left :].reshape(shape)
    return EmformerState(cache[:, :, :m], keys, values, past)


def export_sherpa(
    loaded: LoadedModel,
    folder: Path,
    *,
    contract: str = "conformer",
    quantize: str = "int8",
    context: int = DEFAULT_CONTEXT,
    float_layers: Sequence[str] = (),
    blank_penalty: float = 0.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write an export folder for sherpa-onnx.

    Args:
        loaded: the model.
        folder: the folder to make.
        contract: which encoder type of sherpa-onnx carries the state: "conformer" or "lstm".
        quantize: "int8" writes `*.int8.onnx` beside the float files, "none" does not.
        context: tokens an LSTM predictor sees (a stateless one has its own number).
        float_layers: names, or parts of names, of linear layers that stay float in the int8 files.
        blank_penalty: what the files hold for applications, as in `Recognizer`.
        progress: told what is being done.

    Returns:
        The manifest.

    Raises:
        UserError: the folder exists, a package is missing, or the contract cannot carry the model.
    """
    check_exportable(loaded, contract, context)
    check_float_layers(loaded.model, float_layers)
    require("onnx", "onnxruntime")
    precisions = precisions_of(quantize)
    model = loaded.model
    encoder = (ConformerEncoder if contract == "conformer" else LstmEncoder)(model).eval()
    decoder, joiner = ExportedDecoder(model, context).eval(), ExportedJoiner(model).eval()
    context = decoder.history.context_size

    def fill(new: Path) -> dict[str, Any]:
        dim = model.config.joiner.dim
        common = {"version": "1", "model_author": "emformer-asr", "comment": f"emformer-asr {__version__}"}
        x = torch.zeros(2, model.encoder.window_frames, model.config.encoder.input_dim)
        progress("tracing encoder, decoder and joiner")
        write_onnx(
            encoder, (x, *encoder.initial_states(2)), encoder.inputs, encoder.outputs, encoder.batch_axes,
            {"model_type": contract, **encoder.metadata(), **common}, new / "encoder.onnx",
        )  # fmt: skip
        write_onnx(
            decoder, (start_tokens(2, context),), ("y",), ("decoder_out",), {"y": 0, "decoder_out": 0},
            {"vocab_size": model.config.vocab_size, "context_size": context, **common}, new / "decoder.onnx",
        )  # fmt: skip
        write_onnx(
            joiner, (torch.zeros(2, dim), torch.zeros(2, dim)), ("encoder_out", "decoder_out"), ("logit",),
            {"encoder_out": 0, "decoder_out": 0, "logit": 0}, {"joiner_dim": dim, **common}, new / "joiner.onnx",
        )  # fmt: skip
        progress("checking the graphs")
        difference = check_graphs(new, encoder, decoder, joiner)
        if quantize == "int8":
            kept = float_weights(model, float_layers)
            for part in PARTS:
                progress(f"quantising the {part}")
                quantize_onnx(new / f"{part}.onnx", new / f"{part}.int8.onnx", kept)
        (new / TABLE_FILE).write_text(loaded.tokenizer.table(), "utf-8")
        (new / HOTWORDS_FILE).write_text(hotwords_vocabulary(loaded.tokenizer), "utf-8")
        settings = runtime_settings(loaded, contract, context, blank_penalty)
        (new / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        progress("loading the files in sherpa-onnx")
        manifest = {
            "contract": contract,
            "context_size": context,
            "precisions": precisions,
            "float_layers": list(float_layers),
            "blank_penalty": blank_penalty,
            "onnx": {"opset": OPSET, "ir_version": LARGEST_IR},
            "verified": {
                "onnxruntime_fp32_largest_difference": difference,
                "how": "encoder, decoder and joiner in ONNX Runtime against torch, 8 chunks of 3 streams of different ages",
                "runtime": check_runtime(new, precisions),
                "words": "not yet: run asr verify on real audio",
            },
        }
        (new / "README.md").write_text(sherpa_readme(loaded, manifest, settings), "utf-8")
        return manifest

    return write_bundle(folder, loaded, TARGET, fill)


def check_exportable(loaded: LoadedModel, contract: str, context: int) -> None:
    """What sherpa-onnx hard-codes, checked against the model.

    Raises:
        UserError: the first thing that does not fit.
    """
    if contract not in CONTRACTS:
        raise UserError(
            f"sherpa-onnx contract {contract!r} is not built: choose one of {', '.join(CONTRACTS)}"
        )
    if loaded.features.kind != "kaldi":
        raise UserError(
            f"sherpa-onnx computes kaldi features only, this model was trained on {loaded.features.kind!r}"
        )
    model = loaded.model
    if loaded.tokenizer.pieces[BLANK] != BLANK_PIECE:
        raise UserError("sherpa-onnx needs the blank as symbol 0")
    if "<unk>" in loaded.tokenizer.pieces:
        raise UserError("sherpa-onnx takes a symbol called <unk> for the blank: this model has one")
    if SUBSAMPLING * FRAME_MS != 40 or model.encoder.chunk_frames != SUBSAMPLING * model.encoder.chunk:
        raise UserError("sherpa-onnx needs encoder frames of 40 ms")
    if cache_rows(model.encoder) == 0:
        raise UserError(
            f"the {contract} contract carries left context or memory, this model has neither: "
            "train one with encoder.left_context_ms > 0"
        )
    if not 2 <= context <= LONGEST_CONTEXT and not isinstance(model.predictor, StatelessPredictor):
        raise UserError(
            f"--context must be 2 to {LONGEST_CONTEXT} tokens for an LSTM predictor, not {context}"
        )


def require(*packages: str) -> None:
    """Raise a UserError that says how to install what is missing."""
    import importlib.util

    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"this needs {name.replace('_', '-')}, which is not installed: pip install 'emformer-asr[export]'"
            )


def write_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    batch_axes: dict[str, int],
    metadata: dict[str, Any],
    path: Path,
) -> None:
    """Trace a module into an ONNX file with a dynamic batch axis, and check what the runtime relies on: the number and
    order of inputs and outputs, the file version, and that every metadata value is a string."""
    import onnx

    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns that shapes become constants: only N varies, and check_graphs runs another N than this.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {axis: "N"} for name, axis in batch_axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    found = [tensor.name for tensor in model.graph.input], [tensor.name for tensor in model.graph.output]
    if found != (list(inputs), list(outputs)):
        raise UserError(f"{path.name}: inputs and outputs are {found}, not {inputs}, {outputs}")
    name_shared_weights(model)
    model.ir_version = min(model.ir_version, LARGEST_IR)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def name_shared_weights(model: Any) -> None:
    """Let every user of a shared weight name it: the exporter hides all but the first behind Identity nodes, where the
    quantiser does not find it."""
    weights = {tensor.name for tensor in model.graph.initializer}
    hidden = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    hidden = {name: source for name, source in hidden.items() if source in weights}
    nodes = [node for node in model.graph.node if node.output[0] not in hidden]
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = hidden.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check_graphs(
    folder: Path, encoder: ConformerEncoder | LstmEncoder, decoder: ExportedDecoder, joiner: ExportedJoiner
) -> float:
    """Run the three float files in ONNX Runtime beside torch: three streams, the last two joining chunks later.

    Returns:
        The largest absolute difference of any output, states included.

    Raises:
        UserError: more than rounding.
    """
    sessions = {part: ort_session(folder / f"{part}.onnx") for part in PARTS}
    worst = 0.0

    def both(part: str, module: nn.Module, *x: Tensor) -> tuple[Tensor, ...]:
        nonlocal worst
        names = [tensor.name for tensor in sessions[part].get_inputs()]
        got = sessions[part].run(None, {name: value.numpy() for name, value in zip(names, x)})
        wanted = module(*x)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for a, b in zip(got, wanted, strict=True):
            worst = max(worst, float(np.abs(a - b.numpy()).max()) / max(1.0, float(b.abs().max())))
        return wanted

    generator = torch.Generator().manual_seed(0)
    config = encoder.encoder.config
    axes = [encoder.batch_axes[name] for name in encoder.inputs[1:]]
    context = decoder.history.context_size
    with torch.no_grad():
        states = encoder.initial_states(1)
        for chunk in range(8):
            if chunk in (2, 5):  # another stream joins
                fresh = encoder.initial_states(1)
                states = tuple(torch.cat([a, b], axis) for a, b, axis in zip(states, fresh, axes))
            batch = states[0].size(axes[0])
            x = torch.randn(batch, encoder.encoder.window_frames, config.input_dim, generator=generator)
            x = x / encoder.encoder.istd + encoder.encoder.mean
            out, *new = both("encoder", encoder, x, *states)
            # processed_lens of the conformer contract is an input only
            states = (*new, *states[len(new) :])
            y = start_tokens(batch, context)
            symbols = torch.randint(
                1, decoder.joiner.output.out_features, (batch, context), generator=generator
            )
            age = min(chunk, context)  # tokens emitted so far
            y = torch.cat([y, symbols], 1)[:, age : age + context]
            (predicted,) = both("decoder", decoder, y)
            both("joiner", joiner, out[:, 0], predicted)
    if worst > TOLERANCE:
        raise UserError(f"the ONNX files differ from the model by {worst:.2g}: this is a bug of the export")
    return worst


def check_runtime(folder: Path, precisions: Sequence[str]) -> str:
    """Load the files in sherpa-onnx itself, in a process that may crash, and send silence through; says what was done.

    Raises:
        UserError: it did not survive.
    """
    import importlib.util

    if importlib.util.find_spec("sherpa_onnx") is None:
        return "Not loaded in sherpa-onnx, which is not installed here"
    with tempfile.TemporaryDirectory() as temporary:
        audio = Path(temporary) / "silence.f32"
        np.zeros(2 * SAMPLE_RATE, np.float32).tofile(audio)
        case = {"kind": "ragged", "parts": [(0, SAMPLE_RATE), (0, 2 * SAMPLE_RATE)], "lag": 1}
        for precision in precisions:
            job = Path(temporary) / f"{precision}.json"
            work = {"runtime": TARGET, "folder": str(folder), "precision": precision, "blank_penalty": None}
            job.write_text(json.dumps(work | {"audio": str(audio), "block": 2560, "cases": [case]}), "utf-8")
            try:
                done = run_worker(job)
            except WorkerFailure as error:
                raise UserError(f"sherpa-onnx does not run the {precision} files: {error}") from None
            decoded = [stream["decoded"] for stream in done["results"][0]]
            if decoded[0] < 25 or decoded[1] < 50:
                raise UserError(
                    f"sherpa-onnx decoded {decoded} frames of 25 and 50: this is a bug of the export"
                )
    from importlib.metadata import version

    return f"Loaded and run on silence in sherpa-onnx {version('sherpa-onnx')}, {' and '.join(precisions)}"


def ort_session(path: Path) -> Any:
    """An ONNX Runtime session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def hotwords_vocabulary(tokenizer: Tokenizer) -> str:
    """bpe.vocab: ``piece<TAB>score`` a line, with which sherpa-onnx splits hotwords into tokens."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(tokenizer.model)
    return "".join(f"{piece}\t{pieces.GetScore(i):g}\n" for i, piece in enumerate(tokenizer.pieces))


def runtime_settings(
    loaded: LoadedModel, contract: str, context: int, blank_penalty: float
) -> dict[str, Any]:
    """config.json: what an application sets, and the zeros it has to append at the end of the audio."""
    encoder = loaded.model.encoder
    return {
        "sample_rate": SAMPLE_RATE,
        "feature_dim": loaded.model.config.encoder.input_dim,
        "model_type": contract,
        "decoding_method": "greedy_search",
        "blank_penalty": blank_penalty,
        "modeling_unit": "bpe",
        "context_size": context,
        "window_frames": encoder.window_frames,
        "chunk_frames": encoder.chunk_frames,
        "tail_padding_samples": tail_padding(encoder),
    }


def tail_padding(encoder: Any) -> int:
    """Zero samples to append after the last block: a window and a chunk, or the runtime keeps the last words to itself
    (it decodes whole windows only, and only once one more frame than a window is there)."""
    return (encoder.window_frames + encoder.chunk_frames) * FRAME_MS * SAMPLE_RATE // 1000
