"""``asr import``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from asr.cli import Parser, hint
from asr.errors import UserError

MODELS = ("torchaudio-emformer-rnnt-librispeech",)


def import_command(argv: Sequence[str]) -> int:
    """``asr import MODEL --out FOLDER``: a public model of another toolkit as a model folder."""
    parser = Parser(prog="asr import", description="Download a public model and make a model folder of it.")
    parser.add_argument("model", metavar="MODEL", help=" or ".join(MODELS))
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the model folder to make")
    parser.add_argument(
        "--from", dest="given", default=None, metavar="FOLDER", help="take files downloaded by hand from here"
    )
    parser.add_argument("--url", default=None, help="another server with the same files")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="how weights are stored"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder")
    options = parser.parse(argv)
    if options.model not in MODELS:
        known = f": there is {', '.join(MODELS)}"
        raise UserError(f"cannot import {options.model!r}{hint(options.model, MODELS) or known}")
    out = Path(options.out)
    if os.path.lexists(out) and not options.overwrite:  # before minutes of downloading
        raise UserError(f"{out} exists already: choose another folder, or add --overwrite")

    from asr.importing.download import ShowProgress
    from asr.importing.torchaudio_bundle import BUNDLES, SERVER, import_bundle, locate

    bundle = BUNDLES[options.model]
    server = SERVER if options.url is None else options.url.rstrip("/")
    given = None if options.given is None else Path(options.given)
    files = locate(bundle, given, server, progress=ShowProgress())
    model = import_bundle(bundle, files, out, server=server, dtype=options.dtype, overwrite=options.overwrite)
    print(f"{out}: {bundle.title}, {model.num_parameters() / 1e6:.1f} M parameters")
    print(f"try it: asr transcribe FILE --model {out}")
    return 0
