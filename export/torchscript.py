"""One self-contained TorchScript file: PCM in, symbols and their times out, and doors below for decoders of one's own.

The state is explicit: every method takes it and returns the next one, and the caller hands it back unopened (an
``IValue`` in C++). One loaded file then serves any number of streams, and a stream can be copied or
stopped by keeping or dropping its state. Features, normalisation, encoder, predictor and joiner are the model's own
modules, scripted; only the greedy loop is written again, in the words TorchScript has, after `asr.decoding.greedy`.

Shapes: N streams, S samples, W = 4(U+R) feature frames of a window, U encoder frames of a chunk, K symbols found, D
encoder width, J joiner width, V symbols.
"""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of this file.
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.errors import UserError
from asr.features import NUM_MEL_BINS, Fbank, FbankState
from asr.models.emformer import EmformerState
from asr.models.folder import LoadedModel, streaming_numbers
from asr.models.predictor import LSTMPredictor, LSTMState, StatelessPredictor, StatelessState
from asr.models.transducer import Transducer
from export.bundle import Progress, precisions_of, silent, write_bundle
from export.quantize import check_float_layers, quantize_torch
from export.readme import torchscript_readme

TARGET = "torchscript"
TOLERANCE = 1e-4
DOORS = (
    "initial_state", "accept", "finish", "initial_model_state", "step", "initial_encoder_state", "encode",
    "initial_predictor_state", "predict", "join", "search", "pieces",
)  # fmt: skip
NUMBERS = (
    "blank_penalty",
    "chunk_frames",
    "window_frames",
    "subsampling",
)  # readable, the first one settable


class SearchState(NamedTuple):
    """Greedy search of N streams: the predictor's state, batch axis 0, and its projected output (N, J)."""

    predictor: list[Tensor]
    projected: Tensor


class ModelState(NamedTuple):
    """Everything behind the features, N streams of any ages: encoder (its batch axes are 1, 1, 1, 0) and search."""

    encoder: EmformerState
    search: SearchState


class StreamState(NamedTuple):
    """Streams fed with PCM in lockstep: the filterbank's carry, features of the unfinished chunk (N, F, 80), encoder
    frames decoded so far, and the model's state."""

    fbank: FbankState
    features: Tensor
    frame: int
    model: ModelState


class Symbols(NamedTuple):
    """Symbols found, ordered by stream, then time: all (K,). frames: encoder frames of 40 ms from the start of the
    stream; log_probs: natural logarithm of each symbol's probability; streams: row of the batch."""

    tokens: Tensor
    frames: Tensor
    log_probs: Tensor
    streams: Tensor


class LSTMDoor(nn.Module):
    """A predictor whose state is a list of tensors with batch axis 0."""

    def __init__(self, predictor: LSTMPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def initial_state(self, batch: int) -> list[Tensor]:
        """Before the leading blank."""
        state = self.predictor.initial_state(batch)
        return [state.hidden.transpose(0, 1), state.cell.transpose(0, 1)]

    def forward(self, y: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """y (N,) -> (N, P), new state."""
        old = LSTMState(state[0].transpose(0, 1), state[1].transpose(0, 1))
        out, new = self.predictor.step(y, old)
        return out, [new.hidden.transpose(0, 1), new.cell.transpose(0, 1)]


class StatelessDoor(nn.Module):
    """As `LSTMDoor`, for a stateless predictor."""

    def __init__(self, predictor: StatelessPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def initial_state(self, batch: int) -> list[Tensor]:
        """Before the leading blank."""
        return [self.predictor.initial_state(batch).tokens]

    def forward(self, y: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """y (N,) -> (N, P), new state."""
        out, new = self.predictor.step(y, StatelessState(state[0]))
        return out, [new.tokens]


class StreamingTransducer(nn.Module):
    """What the file holds.

    Args:
        model: a transducer, float or quantised.
        fbank: its features.
        blank_penalty: subtracted from the blank's log-probability; ``blank_penalty`` can be set on the loaded module.
        pieces: text of every symbol, returned by `pieces`.
    """

    def __init__(self, model: Transducer, fbank: Fbank, blank_penalty: float, pieces: list[str]) -> None:
        super().__init__()
        self.fbank = fbank
        self.encoder = model.encoder
        predictor = model.predictor
        self.predictor = (
            LSTMDoor(predictor) if isinstance(predictor, LSTMPredictor) else StatelessDoor(predictor)
        )
        self.joiner = model.joiner
        self.blank_penalty = blank_penalty
        self.symbols: list[str] = pieces
        self.chunk_frames: int = model.encoder.chunk_frames
        self.window_frames: int = model.encoder.window_frames
        self.subsampling: int = model.encoder.stacking

    # ------------------------------------------------------------- PCM

    @torch.jit.export
    def initial_state(self, batch: int) -> StreamState:
        """State of ``batch`` streams that have heard nothing."""
        features = torch.zeros([batch, 0, self.fbank.mels])
        return StreamState(self.fbank.initial_state(batch), features, 0, self.initial_model_state(batch))

    @torch.jit.export
    def accept(self, pcm: Tensor, state: StreamState) -> tuple[Symbols, StreamState]:
        """pcm (N, S) float32 in [-1, 1] at 16 kHz, any S -> the symbols it completes, new state."""
        y, fbank = self.fbank.step(pcm, state.fbank)
        return self.advance(torch.cat([state.features, y], dim=1), fbank, state.frame, state.model, False)

    @torch.jit.export
    def finish(self, state: StreamState) -> tuple[Symbols, StreamState]:
        """The symbols of the audio that is left, padded with zero features; the state that comes back is spent."""
        y = self.fbank.finish(state.fbank)
        features = torch.cat([state.features, y], dim=1)
        return self.advance(features, state.fbank, state.frame, state.model, True)

    def advance(
        self, features: Tensor, fbank: FbankState, frame: int, model: ModelState, last: bool
    ) -> tuple[Symbols, StreamState]:
        """Decode every whole chunk of the features (N, F, 80), at the end of the stream all of them."""
        batch = features.size(0)
        first = frame
        found: list[Tensor] = [torch.zeros([batch, 0], dtype=torch.int64)]
        scores: list[Tensor] = [torch.zeros([batch, 0])]
        at = 0
        total = features.size(1)
        while (at < total) if last else (at + self.window_frames <= total):
            window = features[:, at : at + self.window_frames]
            missing = self.window_frames - window.size(1)
            if missing > 0:
                window = torch.cat([window, window.new_zeros([batch, missing, window.size(2)])], dim=1)
            count = (min(self.chunk_frames, total - at) + self.subsampling - 1) // self.subsampling
            valid = torch.full([batch], count, dtype=torch.int64)
            tokens, log_probs, model = self.step(window, valid, model)
            found.append(tokens[:, :count])
            scores.append(log_probs[:, :count])
            at += self.chunk_frames
            frame += count
        dense = torch.cat(found, dim=1)
        where = dense.nonzero()
        rows, columns = where[:, 0], where[:, 1]
        symbols = Symbols(
            dense[rows, columns], columns + first, torch.cat(scores, dim=1)[rows, columns], rows
        )
        rest = features[:, min(at, total) :].clone()  # a view would keep all features alive
        return symbols, StreamState(fbank, rest, frame, model)

    # ------------------------------------------------------------- features

    @torch.jit.export
    def initial_model_state(self, batch: int) -> ModelState:
        """State of ``batch`` streams behind the features."""
        start = torch.zeros([batch], dtype=torch.int64)
        out, predictor = self.predictor(start, self.predictor.initial_state(batch))
        return ModelState(
            self.encoder.initial_state(batch), SearchState(predictor, self.joiner.project_predictor(out))
        )

    @torch.jit.export
    def step(self, features: Tensor, valid: Tensor, state: ModelState) -> tuple[Tensor, Tensor, ModelState]:
        """One chunk of streams of any ages: features (N, W, 80), valid (N,) encoder frames that exist -> tokens (N, U),
        0 where there is none, log-probabilities (N, U), new state. The next window begins 4U frames later."""
        encoded, encoder = self.encoder.step(features, state.encoder)
        tokens, log_probs, search = self.search(encoded, valid, state.search)
        return tokens, log_probs, ModelState(encoder, search)

    # ------------------------------------------------------------- encoder

    @torch.jit.export
    def initial_encoder_state(self, batch: int) -> EmformerState:
        """State of ``batch`` streams for `encode`."""
        return self.encoder.initial_state(batch)

    @torch.jit.export
    def encode(self, features: Tensor, state: EmformerState) -> tuple[Tensor, EmformerState]:
        """For decoders of one's own: features (N, W, 80) -> (N, U, J) projected for `join`, new state."""
        encoded, state = self.encoder.step(features, state)
        return self.joiner.project_encoder(encoded), state

    @torch.jit.export
    def predict(self, y: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """y (N,) symbols -> (N, J) projected for `join`, new state."""
        out, state = self.predictor(y, state)
        return self.joiner.project_predictor(out), state

    @torch.jit.export
    def initial_predictor_state(self, batch: int) -> list[Tensor]:
        """State before the leading blank, which is the first symbol to `predict` from."""
        return self.predictor.initial_state(batch)

    @torch.jit.export
    def join(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """(…, J) and (…, J) -> logits (…, V)."""
        return self.joiner.join(encoder, predictor)

    @torch.jit.export
    def search(
        self, encoded: Tensor, valid: Tensor, state: SearchState
    ) -> tuple[Tensor, Tensor, SearchState]:
        """Greedy search in a chunk: encoded (N, U, D), valid (N,) -> tokens (N, U), log-probabilities (N, U), new state.

        At most one symbol a frame. All frames are joined with the same predictor output until one of them emits.
        """
        block = encoded.size(1)
        encoder = self.joiner.project_encoder(encoded)
        predictor, projected = state.predictor, state.projected
        tokens = torch.zeros([encoded.size(0), block], dtype=torch.int64)
        log_probs = torch.zeros([encoded.size(0), block])
        frame = torch.arange(block)[None]
        start = torch.zeros_like(valid)  # the first undecided frame of each stream
        first = 0  # of all of them
        while True:
            logits = self.joiner.join(encoder[:, first:], projected.unsqueeze(1))
            scores = logits.log_softmax(-1)
            if self.blank_penalty != 0.0:
                blank = scores[:, :, :1] - self.blank_penalty
                ids = torch.cat([blank, scores[:, :, 1:]], dim=2).argmax(-1)
            else:
                ids = scores.argmax(-1)
            best = scores.gather(2, ids.unsqueeze(2)).squeeze(2)
            at = frame[:, first:]
            undecided = (at >= start[:, None]) & (at < valid[:, None])
            hit = torch.where(undecided & (ids != 0), at, torch.full_like(at, block)).amin(1)  # (N,) or U
            emitted = hit < block
            here = undecided & (at == hit[:, None])
            tokens[:, first:] = torch.where(here, ids, tokens[:, first:])
            log_probs[:, first:] = torch.where(here, best, log_probs[:, first:])
            if not bool(emitted.any()):
                break
            symbol = tokens.gather(1, hit.clamp(max=block - 1)[:, None]).squeeze(1)
            out, new = self.predictor(symbol, predictor)
            kept: list[Tensor] = []
            for i, old in enumerate(predictor):
                mask = emitted.view([-1] + [1] * (old.dim() - 1))
                kept.append(torch.where(mask, new[i], old))
            predictor = kept
            projected = torch.where(emitted[:, None], self.joiner.project_predictor(out), projected)
            start = torch.where(emitted, hit + 1, torch.full_like(hit, block))
            first = int(start.min())
            if first >= block or not bool((start < valid).any()):
                break
        return tokens, log_probs, SearchState(predictor, projected)

    @torch.jit.export
    def pieces(self) -> list[str]:
        """Text of every symbol; U+2581 stands for a space."""
        return self.symbols


def export_torchscript(
    loaded: LoadedModel,
    folder: Path,
    *,
    quantize: str = "int8",
    float_layers: Sequence[str] = (),
    blank_penalty: float = 0.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write an export folder with one file a precision.

    Args:
        loaded: the model.
        folder: the folder to make.
        quantize: "int8" writes ``model.int8.pt`` beside ``model.pt``, "none" does not.
        float_layers: names, or parts of names, of linear layers that stay float in the int8 files.
        blank_penalty: what the files hold for applications, as in `Recognizer`.
        progress: told what is being done.

    Returns:
        The manifest.

    Raises:
        UserError: the folder exists, or this torch has no int8 engine.
    """
    check_float_layers(loaded.model, float_layers)
    precisions = precisions_of(quantize)
    if quantize == "int8":
        use_engine()

    def fill(new: Path) -> dict[str, Any]:
        settings = {**streaming_numbers(loaded.model.config), "blank_penalty": blank_penalty}
        difference = 0.0
        for precision in precisions:
            progress(f"scripting the {precision} program")
            model = loaded.model if precision == "fp32" else quantize_torch(loaded.model, float_layers)
            program = StreamingTransducer(
                model,
                Fbank(loaded.features),
                blank_penalty,
                loaded.tokenizer.pieces,
            )
            path = new / file_name(precision)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that scripting will be replaced by torch.export
                scripted = torch.jit.script(program.eval())
                scripted = (
                    pack_linear_layers(scripted, [*DOORS, *NUMBERS]) if precision == "fp32" else scripted
                )
                # Through a buffer: torch aborts the whole process when its own writing fails, on a full disk for one.
                path.write_bytes(scripted.save_to_buffer(_extra_files={"config.json": json.dumps(settings)}))
                if precision == "fp32":
                    difference = check_program(path, program)
                else:
                    check_runs(path)
        manifest = {
            "precisions": precisions,
            "float_layers": list(float_layers),
            "blank_penalty": blank_penalty,
            "verified": {
                "fp32_largest_difference": difference,
                "how": "the file as loaded again against the model in torch, 8 chunks of 3 streams",
                "words": "not yet: run asr verify on real audio",
            },
        }
        (new / "README.md").write_text(torchscript_readme(loaded, manifest, settings), "utf-8")
        return manifest

    return write_bundle(folder, loaded, TARGET, fill)


def pack_linear_layers(scripted: Any, kept: list[str]) -> Any:
    """The program with its linear layers on XNNPACK, weights packed for it as they are loaded, where this torch has it.

    For a chunk of few rows that is 1.6 (small models) to 3.4 times (76.7 M) as fast as torch's own product on x86. The
    int8 products gain nothing and are left alone.

    Args:
        scripted: the program.
        kept: its methods and attributes that must stay, beside ``forward``.
    """
    from torch.backends import xnnpack
    from torch.utils.mobile_optimizer import optimize_for_mobile

    if not xnnpack.enabled:  # type: ignore[attr-defined]
        return scripted
    return optimize_for_mobile(scripted, preserved_methods=kept)


def file_name(precision: str) -> str:
    """The program's file."""
    return "model.pt" if precision == "fp32" else f"model.{precision}.pt"


def engines() -> list[str]:
    """torch's int8 engines to prove a program with here: the machine's own first, then the one of ARM."""
    supported = torch.backends.quantized.supported_engines
    own = [name for name in ("x86", "fbgemm") if name in supported][:1]
    return own + [name for name in ("qnnpack",) if name in supported]


def use_engine(name: str | None = None) -> None:
    """Choose torch's int8 engine, the machine's own if none is named.

    Raises:
        UserError: this torch has none.
    """
    known = engines()
    if not known:
        raise UserError("this torch was built without an int8 engine: export with --quantize none")
    torch.backends.quantized.engine = name or known[0]


def check_runs(path: Path) -> None:
    """Send noise through a program; UserError if the file does not give numbers."""
    loaded = torch.jit.load(str(path))
    with torch.no_grad():
        features = torch.randn(1, loaded.window_frames, NUM_MEL_BINS)
        encoded, _ = loaded.encode(features, loaded.initial_encoder_state(1))
        pcm = 0.1 * torch.randn(1, 16000)
        symbols, _ = loaded.finish(loaded.accept(pcm, loaded.initial_state(1))[1])
    if not bool(torch.isfinite(encoded).all()) or not bool(torch.isfinite(symbols.log_probs).all()):
        raise UserError(f"{path.name} gives NaN or infinity: this is a bug of the export")


def check_program(path: Path, program: StreamingTransducer) -> float:
    """Largest difference between the file as loaded again and the model's own modules; UserError if not rounding."""
    loaded = torch.jit.load(str(path))
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.no_grad():
        state, wanted_state = program.encoder.initial_state(3), program.encoder.initial_state(3)
        for _ in range(8):
            x = torch.randn(3, program.window_frames, program.fbank.mels, generator=generator)
            x = x / program.encoder.istd + program.encoder.mean
            got, state = loaded.encode(x, state)
            wanted, wanted_state = program.encoder.step(x, wanted_state)
            worst = max(worst, float((got - program.joiner.project_encoder(wanted)).abs().max()))
    if worst > TOLERANCE:
        raise UserError(f"{path.name} differs from the model by {worst:.2g}: this is a bug of the export")
    return worst
