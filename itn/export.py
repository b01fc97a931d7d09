"""`itn export`: a folder a phone runs. What needs the tagger beside what needs nothing but sherpa-onnx.

    cardinal.fst ... whitelist.fst   the span pipeline: the grammars of a profile
    tagger.onnx                      … and what says where their spans are; pieces.txt and labels.txt name its numbers
    cases.jsonl                      … sentences with what every step gives, for who writes the glue in another language
    rule.fst                         the drop-in for `rule_fsts` of sherpa-onnx: whole texts, no tagger, low-risk classes only
    manifest.json, README.md         hashes, shapes, settings; how both are used

The folder appears whole or not at all, and never over another. It is also a profile: `Normalizer(FOLDER, tagger=f"{FOLDER}/tagger.onnx")`
runs what was exported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from itn.errors import ItnError
from itn.export_readme import readme
from itn.lexicon import MAX_WORDS
from itn.normalizer import MANIFEST, Normalizer, check_files, find_profile, read_manifest
from itn.onnx import IR_VERSION, OPSET, OnnxTagger, encode, write
from itn.style import Options, hint
from itn.tagger import END, MAX_PIECES, MODEL, SHAPES, UNKNOWN, Tagger

TARGETS = ("sherpa-onnx",)
TAGGER, PIECES, LABELS, CASES, RULE, README = (
    "tagger.onnx", "pieces.txt", "labels.txt", "cases.jsonl", "rule.fst", "README.md",
)  # fmt: skip
PACKAGES = ("emformer-asr", "numpy", "onnx", "onnxruntime", "kaldifst", "pynini")
CLOSE = 1e-4  # log-probabilities of onnxruntime and numpy that count as equal
# An exp that numpy and onnxruntime round differently in its last bit can move an attention weight by one of its 1023 steps
SENTENCES = (
    "it costs twenty five dollars and thirty cents",
    "we met at nine forty a m on march third nineteen ninety nine",
    "call me at six one nine eight two two four four oh seven after lunch",
    "four point one percent of the sixty million people agreed",
    "the company made six million dollars in the third quarter of twenty eighteen",
    "write to kim at fastmail dot com or look at kernel dot org slash docs",
    "one of you may march to the second floor at that point",
    "flight b seven four two leaves gate four oh two at ten o'clock",
    "seven hours later it was minus twenty two degrees celsius",
    "doctor lee lives at nine forty five oak street on the eleventh floor",
    "Twenty-five people came. It cost seven dollars.",
    "in nineteen eighty four eleven percent more",
    "a hundred people and a couple of dogs",
    "you owe me one thousand two hundred and thirty four euros",
    "her p i n is oh oh seven three",
    "we need two thirds of a cup and a half",
    "été \U0001f600 42 $5 B2B",
)


def export(profile: str | Path, out: str | Path, tagger: str | Path | None = None) -> dict[str, Any]:
    """Write the folder `out`; returns its manifest.

    Args:
        profile: a name, or a profile folder of `itn build`.
        out: the folder to make; its parents are made too.
        tagger: an .npz file of `itn train`; None: the one that ships with the package.

    Raises:
        ItnError: no such profile or tagger, `out` is there already or cannot be written, or onnx or onnxruntime is missing.
    """
    out = Path(out)
    _check_target(out)
    source = find_profile(profile)
    manifest = read_manifest(source)
    grammars = check_files(source, manifest)
    options = Options().changed(manifest.get("options", {}), f"{source / MANIFEST}: ")
    if manifest.get("target"):
        raise ItnError(f"{source} is an export already: export a profile, such as prose")
    made = next((path for path in reversed(out.absolute().parents) if not path.exists()), None)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent
        ) as temporary:
            new = Path(temporary) / out.name
            new.mkdir()
            for category, path in grammars.items():
                shutil.copyfile(path, new / path.name)
                manifest["files"][category] |= _entry(new / path.name)
            rule(source, manifest, new / RULE)
            numpy_tagger = write(MODEL if tagger is None else tagger, new / TAGGER)
            manifest |= {
                "target": TARGETS[0],
                "options": asdict(options) | {"off": sorted(options.off)},
                "tagger": _tagger(new, numpy_tagger),
                "rule": _entry(new / RULE),
                "versions": _versions(),
            }
            (new / MANIFEST).write_text(_json(manifest), "utf-8")
            manifest["verified"] = _prove(new, numpy_tagger)
            manifest["cases"] = _entry(new / CASES)
            (new / MANIFEST).write_text(_json(manifest), "utf-8")
            (new / README).write_text(readme(manifest, new), "utf-8")
            _check_target(out)  # somebody may have made it meanwhile
            new.rename(out)
    except OSError as error:
        _remove_empty(out, made)
        raise ItnError(f"cannot write {out}: {error.strerror or error}") from None
    except BaseException:
        _remove_empty(out, made)
        raise
    return manifest


def rule(source: Path, manifest: dict[str, Any], path: Path) -> None:
    """Write the drop-in FST of a profile: the one `itn build` put beside its folder, else a new one, which needs pynini."""
    from itn.grammars.build import build_dropin, dropin_file
    from itn.grammars.style import Style

    built = dropin_file(source)
    if built.is_file():
        shutil.copyfile(built, path)
        return
    try:
        style = Style(**manifest["style"])
    except (KeyError, TypeError):
        raise ItnError(
            f"no {built}, and {source / MANIFEST} has no style to build it from: run itn build"
        ) from None
    build_dropin(style, path)


def _tagger(folder: Path, tagger: Tagger) -> dict[str, Any]:
    """Write pieces and labels; what the manifest says of the tagger."""
    (folder / PIECES).write_text("".join(f"{piece}\n" for piece in tagger.meta["pieces"]), "utf-8")
    (folder / LABELS).write_text("".join(f"{label}\n" for label in tagger.labels), "utf-8")
    return {
        **_entry(folder / TAGGER),
        "pieces": _entry(folder / PIECES),
        "labels": {**_entry(folder / LABELS), "count": len(tagger.labels)},
        "parameters": tagger.meta.get("parameters"),
        "opset": OPSET,
        "ir_version": IR_VERSION,
        **OnnxTagger.load(folder / TAGGER).signature,
        "lookahead": tagger.lookahead,
        "confidence": list(tagger.confidence),
        "window": tagger.window,
        "max_pieces": MAX_PIECES,
        "max_span_words": MAX_WORDS,
        "shapes": list(SHAPES),
        "unknown_piece": UNKNOWN,
        "start": bool(tagger.meta.get("start")),
        "end_piece": END,
    }


def _prove(folder: Path, tagger: Tagger) -> dict[str, Any]:
    """Run what is in the folder against numpy, write the cases; what the manifest says of it.

    Raises:
        ItnError: onnxruntime gives other answers than numpy.
    """
    onnx_tagger = OnnxTagger.load(folder / TAGGER)
    normalizer = Normalizer(folder, tagger=onnx_tagger)
    differences, lines = [], []
    for sentence in SENTENCES:
        words = sentence.split()
        expected = tagger.step(words, tagger.initial_state(), end=True)
        state = onnx_tagger.initial_state()
        rows = [onnx_tagger.step([word], state) for word in words]
        got = np.concatenate([*rows, onnx_tagger.step([], state, end=True)])
        differences.append(np.abs(got - expected).max(axis=(1, 2)))
        pieces, shapes = encode(words, onnx_tagger.pieces, end=True, start=onnx_tagger.start)
        result = normalizer.normalize(sentence)
        case = {
            "words": words,
            "pieces": [[piece for piece in row if piece >= 0] for row in pieces.tolist()],
            "shapes": shapes.tolist(),
            "labels": [onnx_tagger.labels[i] for i in got[2:, 2].argmax(-1)],
            "spans": [[s.start, s.end, s.category, s.written] for s in result.spans],
            "written": result.text,
        }
        lines.append(json.dumps(case, ensure_ascii=False) + "\n")
    difference = np.concatenate(differences)
    if difference.max() > CLOSE:
        raise ItnError(
            f"onnxruntime runs {TAGGER} unlike numpy (a difference of {difference.max():.3g}): tell its makers"
        )
    (folder / CASES).write_text("".join(lines), "utf-8")
    return {
        "how": "onnxruntime word by word against numpy, log-probabilities",
        "positions": len(difference),
        "within": CLOSE,
        "share": float(np.mean(difference <= CLOSE)),
        "largest_difference": float(difference.max()),
    }


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _json(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def _check_target(folder: Path) -> None:
    try:
        exists = folder.exists() or folder.is_symlink()
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be read
        raise ItnError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}") from None
    if exists:
        raise ItnError(f"{folder} exists already: choose another folder, nothing was written")
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir():
        raise ItnError(f"cannot write {folder}: {parent} is not a folder")


def _remove_empty(folder: Path, topmost: Path | None) -> None:
    """Take back the parents that were made for a folder that was not."""
    for parent in folder.absolute().parents if topmost is not None else ():
        if parent.exists() and not any(parent.iterdir()):
            parent.rmdir()
        if parent == topmost:
            return


def main(argv: Sequence[str]) -> int:
    """``itn export --to sherpa-onnx --out FOLDER``; returns the exit status."""
    from itn.cli import Parser

    parser = Parser("itn export", "write the files a phone runs")
    parser.add_argument("--to", required=True, metavar="TARGET", help=" or ".join(TARGETS))
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--profile", default="prose", metavar="NAME|FOLDER", help="prose, nemo, or a folder (default: prose)"
    )
    parser.add_argument(
        "--tagger",
        default=None,
        metavar="FILE",
        help="another tagger than the one that ships with the package",
    )
    given = parser.parse(argv)
    if given.to not in TARGETS:
        raise ItnError(
            f"unknown target {given.to!r}{hint(given.to, TARGETS) or ': there is ' + ', '.join(TARGETS)}"
        )
    manifest = export(given.profile, given.out, given.tagger)
    out = Path(given.out)
    grammars = sum(entry["bytes"] for entry in manifest["files"].values())
    print(
        f"{grammars / 1e6:9.3f} MB  {out}/*.fst: {len(manifest['files'])} grammars of the profile {manifest['profile']}"
    )
    for name in ("tagger", "rule"):
        print(f"{manifest[name]['bytes'] / 1e6:9.3f} MB  {out / manifest[name]['file']}")
    print(f"how an app uses them: {out / README}")
    return 0
