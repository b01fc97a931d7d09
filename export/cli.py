"""``asr export`` and ``asr verify``."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asr.cli import Parser, hint
from asr.errors import UserError
from export.bundle import TARGETS, Progress, check_target, silent


def export_command(argv: Sequence[str]) -> int:
    """``asr export MODEL --to TARGET --out FOLDER``: files that phones run."""
    parser = Parser(prog="asr export", description="Make files of a model that other runtimes run.")
    parser.add_argument("model", metavar="MODEL", help="a shipped model or a model folder")
    parser.add_argument("--to", required=True, metavar="TARGET", help=" or ".join(TARGETS))
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--quantize", choices=("int8", "none"), default="int8", help="also write int8 files, or not"
    )
    parser.add_argument(
        "--float-layers",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="linear layers that stay float in int8 files, by name or part of it: joiner.output, encoder.layers.0.",
    )
    parser.add_argument(
        "--blank-penalty",
        type=float,
        default=0.0,
        help="nats the files take off the blank, as in asr transcribe (0 if left out)",
    )
    parser.add_argument(
        "--contract",
        default=None,
        help="sherpa-onnx: the encoder type, conformer or lstm (conformer if left out)",
    )
    parser.add_argument(
        "--context",
        type=int,
        default=None,
        help="sherpa-onnx: tokens an LSTM predictor sees (16 if left out)",
    )
    parser.add_argument(
        "--chunk-ms", type=int, default=None, help="refused unless the model was trained with this chunk"
    )
    options = parser.parse(argv)
    if options.to not in TARGETS:
        raise UserError(
            f"unknown target {options.to!r}{hint(options.to, TARGETS) or ': there are ' + ', '.join(TARGETS)}"
        )
    if options.float_layers and options.quantize == "none":
        raise UserError("--float-layers is about int8 files, and --quantize none writes none")
    if options.to != "sherpa-onnx":
        for name in ("contract", "context"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} belongs to the target sherpa-onnx, not to {options.to}")

    from asr.models.folder import load_model
    from asr.pretrained import resolve

    if not math.isfinite(options.blank_penalty):
        raise UserError(f"--blank-penalty must be a finite number, not {options.blank_penalty}")
    interruptible()
    out = Path(options.out)
    check_target(out)
    loaded = load_model(resolve(options.model))
    if options.context is not None and loaded.model.config.predictor.kind == "stateless":
        raise UserError("--context is for LSTM predictors: this model's sees what it was trained with")
    trained = loaded.model.config.encoder.chunk_ms
    if options.chunk_ms is not None and options.chunk_ms != trained:
        raise UserError(
            f"{options.model} was trained with chunks of {trained} ms, not of {options.chunk_ms}: "
            f"leave --chunk-ms out or train with model.encoder.chunk_ms {options.chunk_ms}"
        )
    special = {}
    if options.to == "sherpa-onnx":
        from export.history import DEFAULT_CONTEXT

        special["contract"] = options.contract or "conformer"
        special["context"] = DEFAULT_CONTEXT if options.context is None else options.context
    manifest = exporter(options.to)(
        loaded,
        out,
        quantize=options.quantize,
        float_layers=options.float_layers,
        blank_penalty=options.blank_penalty,
        progress=_progress(),
        **special,
    )
    for name, entry in manifest["files"].items():
        print(f"{entry['bytes'] / 1e6:9.3f} MB  {out / name}")
    print(f"now prove it: asr verify {out} --manifest MANIFEST, or --audio FILES")
    return 0


def exporter(target: str) -> Callable[..., dict[str, Any]]:
    """The function that writes the folder of a target; its libraries are loaded only now."""
    if target == "sherpa-onnx":
        from export.sherpa import export_sherpa

        return export_sherpa
    if target == "executorch":
        from export.pte import export_executorch

        return export_executorch
    from export.torchscript import export_torchscript

    return export_torchscript


def verify_command(argv: Sequence[str]) -> int:
    """``asr verify FOLDER --audio FILES… | --manifest F``: the same words in every runtime, or exit status 1."""
    parser = Parser(
        prog="asr verify",
        description="Compare every runtime of an export with torch, on real audio, and measure.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="an export, or a folder of exports of one model")
    parser.add_argument("--audio", nargs="+", action="extend", default=[], metavar="FILES", help="recordings")
    parser.add_argument(
        "--manifest",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="manifest.jsonl or its folder",
    )
    parser.add_argument("--split", default=None, help="only this split of the manifests")
    parser.add_argument(
        "--limit", type=int, default=None, help="utterances in all, shared evenly among the sources"
    )
    parser.add_argument(
        "--model", default=None, metavar="NAME|FOLDER", help="the exported model, if it has moved"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the result")
    options = parser.parse(argv)
    if not options.audio and not options.manifest:
        raise UserError("asr verify needs --audio FILES or --manifest FILE")
    if options.split is not None and not options.manifest:
        raise UserError("--split chooses from manifests: there is none")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit must be at least 1, not {options.limit}")

    from asr.scoring.manifest import Item, read_manifest
    from export.ladder import table
    from export.verify import verify

    interruptible()
    items = [Item(name, "", Path(name)) for name in options.audio]
    sources = [items, *(read_manifest(name, options.split) for name in options.manifest)]
    items = spread(sources, options.limit)
    ladder = verify(Path(options.folder), items, model=options.model, progress=_progress())
    if options.format == "json":
        print(json.dumps(ladder.to_dict(), indent=2))
    else:
        print(table(ladder), end="")
    return 0 if ladder.passed else 1


def interruptible() -> None:
    """Let SIGTERM end a command as Ctrl-C does, so that temporary folders go."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def spread(sources: list[list[Any]], limit: int | None) -> list[Any]:
    """At most ``limit`` items in all: equal shares of every source, evenly spaced; what a short one leaves goes to the
    longer ones."""
    left = sum(map(len, sources)) if limit is None else limit
    chosen: dict[int, list[Any]] = {}
    by_size = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for turn, i in enumerate(by_size):
        count = min(len(sources[i]), -(-left // (len(sources) - turn)))
        chosen[i] = [sources[i][k * len(sources[i]) // count] for k in range(count)]
        left -= count
    return [item for i in range(len(sources)) for item in chosen[i]]


def _progress() -> Progress:
    """Tells somebody at a terminal what is being done."""
    return _say if sys.stderr.isatty() else silent


def _say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)
