"""Where the time of a chunk goes, in every runtime: the encoder's matrix products alone, its whole step, and everything.

    python benchmarks/streaming.py --manifest DATA/phone_numbers --work exp/speed          # makes the exports
    python benchmarks/streaming_profile.py --work exp/speed --manifest DATA/phone_numbers

For each target and precision, on one thread, median milliseconds a chunk:

- products: the encoder's linear layers and nothing else, exported to the same runtime by the same code;
- encoder: the exported encoder step, state in and out;
- all: PCM to symbols as an application calls it.

products / encoder is the share of the step that is matrix products with weights; attention's own products, norms, copies
of the state and the runtime's own work are the rest. all - encoder is features, search and the driving loop.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.errors import UserError
from asr.features import FRAME_SHIFT
from asr.models.folder import load_model
from asr.models.transducer import Transducer
from asr.streaming.bench import machine
from benchmarks.streaming import BASE, TARGETS, prepare, read_audio
from export.bundle import read_manifest as read_export
from export.pte import file_name as pte_name
from export.pte import load_program, set_threads, write_program
from export.pte_runtime import zeros
from export.quantize import quantize_onnx, quantize_torch
from export.runtime import Clock, alone
from export.sherpa import ort_session, write_onnx
from export.torchscript import file_name as pt_name
from export.torchscript import pack_linear_layers, use_engine
from export.worker import load

WARM_UP, CHUNKS = 15, 100


class Products(nn.Module):
    """Linear layers of the encoder in their order; the sum with the input keeps numbers around 1."""

    inputs, outputs = ("x",), ("y",)

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.layers = model.encoder.layers
        self.project = model.joiner.encoder_linear
        self.dim = model.encoder.dim
        self.rows = model.encoder.window_frames // model.encoder.stacking

    def example(self) -> tuple[Tensor, ...]:
        """One chunk."""
        return (torch.randn(1, self.rows, self.dim, generator=torch.Generator().manual_seed(0)),)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x (1, U+R, D) -> (1, U+R, J)."""
        for layer in self.layers:
            x = x + layer.ffn_out(layer.ffn_in(layer.out(layer.qkv(x)[:, :, : self.dim])))
        return (self.project(x),)


def milliseconds(run: Callable[[], Any]) -> float:
    """Median of many."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(CHUNKS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def products(target: str, precision: str, model: Transducer, place: Path) -> float:
    """Milliseconds of the linear layers in a runtime."""
    module = Products(model).eval()
    if target == "executorch":
        write_program({"products": module}, {}, precision, place / "products.pte")
        method = load_program(place / "products.pte").load_method("products")
        return milliseconds(lambda: method.execute([*module.example()]))
    x = module.example()[0]
    if target == "torchscript":
        scripted = torch.jit.script(quantize_torch(module) if precision == "int8" else module)
        program = scripted if precision == "int8" else pack_linear_layers(scripted, [])
        return milliseconds(lambda: program(x))
    path = place / "products.onnx"
    write_onnx(module, (x,), ("x",), ("y",), {"x": 0, "y": 0}, {}, path)
    if precision == "int8":
        quantize_onnx(path, place / "products.int8.onnx")
        path = place / "products.int8.onnx"
    session = ort_session(path)
    return milliseconds(lambda: session.run(None, {"x": x.numpy()}))


def encoder(target: str, precision: str, model: Transducer, folder: Path) -> float:
    """Milliseconds of the exported step."""
    features = torch.randn(1, model.encoder.window_frames, 80)
    states: list[Any]
    if target == "executorch":
        method = load_program(folder / pte_name(precision)).load_method("encode")
        states = zeros(method)

        def run() -> None:
            states[:] = method.execute([features, *states])[1:]
    elif target == "torchscript":
        program = torch.jit.load(str(folder / pt_name(precision)))
        states = [program.initial_encoder_state(1)]

        def run() -> None:
            states[0] = program.encode(features, states[0])[1]
    else:
        session = ort_session(folder / f"encoder{'.int8' if precision == 'int8' else ''}.onnx")
        inputs = session.get_inputs()
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        shapes = [[n if isinstance(n, int) else 1 for n in i.shape] for i in inputs]  # a name: the batch axis
        feed = {i.name: np.zeros(n, kinds[i.type]) for i, n in zip(inputs, shapes, strict=True)}
        feed["x"] = features.numpy()
        carried = [i.name for i in inputs[1:]][: len(session.get_outputs()) - 1]

        def run() -> None:
            feed.update(zip(carried, session.run(None, feed)[1:], strict=True))

    return milliseconds(run)


def everything(target: str, precision: str, model: Transducer, folder: Path, audio: np.ndarray) -> float:
    """Milliseconds a chunk from PCM to symbols."""
    job = {
        "runtime": target,
        "folder": str(folder),
        "precision": precision,
        "blank_penalty": 0.0,
        "engine": None,
    }
    clock = Clock()
    alone(load(job)[0], audio, [model.encoder.chunk_frames * FRAME_SHIFT], clock)
    return 1000 * float(np.median(clock.chunks[WARM_UP:]))


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="of benchmarks/streaming.py; left out: made here, which takes minutes",
    )
    parser.add_argument("--manifest", metavar="FILE", help="recordings to stream; left out: noise")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="streaming-profile-") as made:
        return report(options, Path(options.work or made))


def report(options: argparse.Namespace, work: Path) -> int:
    """Measure and print."""
    try:
        if options.work is None:
            prepare(
                argparse.Namespace(model=BASE, manifest=options.manifest, rate=4.0, targets=options.targets),
                work,
            )
        exports = {target: read_export(work / target) for target in options.targets}
        model = load_model(next(iter(exports.values()))["model"]["folder"]).model
        audio = read_audio(options.manifest, 20.0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{machine()}, torch {torch.__version__}, one thread, median ms a chunk")
    print(f"{'':20}{'products':>10}{'encoder':>10}{'all':>10}   products / encoder")
    with warnings.catch_warnings(), torch.inference_mode(), tempfile.TemporaryDirectory() as place:
        warnings.simplefilter("ignore")  # torch says that scripting will be replaced
        use_engine()
        set_threads(1)
        for target, manifest in exports.items():
            for precision in manifest["precisions"]:
                a = products(target, precision, model, Path(place))
                b = encoder(target, precision, model, work / target)
                c = everything(target, precision, model, work / target, audio)
                name = f"{target} {precision}"
                print(f"{name:20}{a:10.2f}{b:10.2f}{c:10.2f}{100 * a / b:15.0f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
