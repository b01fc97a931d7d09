"""`build(profile, out)`: the grammars of one profile as files, and a manifest that says what they are.

    out/cardinal.fst ... out/whitelist.fst    vector StdArc FSTs over bytes, read by kaldifst
    out/manifest.json                         format, version, profile, style, run-time options, and of every file hash and size

The same sources give the same bytes. The folder appears whole or not at all: it is written beside `out` and then takes its place.
Beside `out`, `itn build` also writes the drop-in FST of sherpa-onnx, dropin-PROFILE.fst (see dropin.py).
Command line: `itn build [--profile NAME] [--out DIR] [--categories a,b]`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itn.errors import ItnError
from itn.normalizer import FORMAT, MANIFEST
from itn.normalizer import PROFILES as BUILT
from itn.style import Options

from . import CATEGORIES, grammar, require_pynini
from .style import PROFILES, Style, load_style

if TYPE_CHECKING:
    from .base import Fst

VERSION = "1"  # of the grammars; raise it when what they write changes


def options(profile: str) -> dict[str, Any]:
    """The run-time options of a profile: the keys of its yaml beside `style`. Raises ItnError if one is unknown or wrong."""
    import yaml

    path = Path(profile) if profile.endswith((".yaml", ".yml")) else PROFILES / f"{profile}.yaml"
    try:
        loaded = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ItnError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    # a bare `off` is a boolean in YAML 1.1
    values = {"off" if key is False else key: value for key, value in loaded.items() if key != "style"}
    Options().changed(values, f"{path}: ")
    return values


def build(profile: str, out: str | Path, categories: Sequence[str] | None = None) -> dict[str, Any]:
    """Build the grammars of `profile` (a name, or the path of a yaml file) into the folder `out`; returns the manifest.

    An earlier build in `out` is replaced as a whole, also when only some `categories` are asked for. Raises ItnError without pynini, for
    an unknown profile or category, and if `out` holds anything that is not of a build.
    """
    require_pynini()
    try:
        style = load_style(profile)
    except ValueError as error:
        raise ItnError(str(error)) from None
    chosen = CATEGORIES if categories is None else tuple(categories)
    unknown = [name for name in chosen if name not in CATEGORIES]
    if unknown:
        raise ItnError(f"no category {unknown[0]!r}; there are: {', '.join(CATEGORIES)}")
    out = Path(out)
    _check(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ItnError(f"cannot write {out}: {error.strerror or error}") from None
    try:
        work.chmod(0o755)
        files = {name: _write(name, style, work) for name in CATEGORIES if name in chosen}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "profile": Path(profile).stem,
            "style": asdict(style),
            "options": options(profile),
            "files": files,
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def write(fst: Fst, path: str | Path) -> Fst:
    """Write a transducer as kaldifst reads it fastest: type `vector`, arcs sorted by input. Returns what was written."""
    fst = fst.copy().arcsort("ilabel")
    fst.write(str(path))
    return fst


def dropin_file(folder: Path) -> Path:
    """Where the drop-in FST of the profile in `folder` is: beside it, as it is no part of the span pipeline."""
    return folder.with_name(f"dropin-{folder.name}.fst")


def build_dropin(style: Style, path: Path) -> None:
    """Write the drop-in FST of a style (see dropin.py). Raises ItnError without pynini."""
    require_pynini()
    from .dropin import dropin

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(dropin(style), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(category: str, style: Style, folder: Path) -> dict[str, Any]:
    path = folder / f"{category}.fst"
    fst = write(grammar(category, style), path)
    content = path.read_bytes()
    return {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "states": fst.num_states(),
        "arcs": sum(fst.num_arcs(state) for state in fst.states()),
    }


def _check(out: Path) -> None:
    """Refuse to replace what is not a build."""
    if out.exists() and not out.is_dir():
        raise ItnError(f"{out} is not a folder")
    ours = {MANIFEST, *(f"{name}.fst" for name in CATEGORIES)}
    if out.is_dir():
        others = sorted(path.name for path in out.iterdir() if path.name not in ours)
        if others:
            raise ItnError(f"{out} holds files that are not of a build ({others[0]}); choose another folder")


def _replace(work: Path, out: Path) -> None:
    """Put the folder `work` in the place of `out`. An interruption between the two renames leaves the old folder beside it."""
    old = Path(f"{work}.old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(work, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def main(argv: Sequence[str]) -> int:
    """`itn build`: without --out into the package, where the run time looks for it. Returns the exit status."""
    from itn.cli import Parser

    parser = Parser("itn build", "compile the grammars of a profile into FST files (needs pynini)")
    parser.add_argument(
        "--profile",
        action="append",
        help="a name, or a yaml file; may be given again (default: all that are shipped)",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder that gets a folder PROFILE (default: the package)"
    )
    parser.add_argument("--categories", help="only these, separated by commas")
    given = parser.parse(argv)
    categories = given.categories.split(",") if given.categories else None
    for profile in given.profile or sorted(path.stem for path in PROFILES.glob("*.yaml")):
        folder = (given.out or BUILT) / Path(profile).stem
        files = build(profile, folder, categories)["files"]
        size = sum(entry["bytes"] for entry in files.values())
        print(f"{folder}: {len(files)} grammars, {size / 1024:.0f} KiB")
        if categories is None:
            path = dropin_file(folder)
            build_dropin(load_style(profile), path)
            print(f"{path}: the drop-in of sherpa-onnx, {path.stat().st_size / 1024:.0f} KiB")
    return 0
