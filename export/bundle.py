"""An export on disk: a folder written whole or not at all, with a manifest of what is in it and where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from asr import __version__
from asr.errors import UserError
from asr.features import FeatureConfig, feature_hash
from asr.models.folder import WEIGHTS_FILE, LoadedModel, streaming_numbers
from asr.pretrained import CONFIG
from asr.tokens import MODEL_FILE

FORMAT_VERSION = 1
TARGETS = ("sherpa-onnx", "torchscript", "executorch")
MANIFEST = "manifest.json"
README = "README.md"
PACKAGES = ("torch", "onnx", "onnxruntime", "sherpa-onnx", "executorch", "torchao", "sentencepiece", "numpy")
Progress = Callable[[str], None]  # called with what is being done


def silent(what: str) -> None:
    """Tell nobody."""


def precisions_of(quantize: str) -> list[str]:
    """What an export with ``--quantize int8`` or ``none`` holds."""
    return ["fp32", "int8"] if quantize == "int8" else ["fp32"]


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What made the export: this package, Python, and the libraries that are installed."""
    found = {"emformer-asr": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_target(folder: Path) -> None:
    """Refuse a target that is there already.

    Raises:
        UserError: it is, or its parent is not a folder.
    """
    try:
        exists = folder.exists() or folder.is_symlink()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    if exists:
        raise UserError(f"{folder} exists already: choose another folder, nothing was written")
    parent = folder.absolute().parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"cannot write {folder}: {parent} is not a folder")


def write_bundle(
    folder: Path, loaded: LoadedModel, target: str, fill: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Make an export folder, whole or not at all.

    Args:
        folder: the folder to make; its parents are made too.
        loaded: the model that is exported.
        target: name of the target, kept in the manifest.
        fill: writes the files into the (temporary) folder it is given, README included, and returns what the manifest
            says beside the common part.

    Returns:
        The manifest.

    Raises:
        UserError: the folder exists, or the disk does not take it; whatever ``fill`` raises.
    """
    check_target(folder)
    description = describe_model(loaded)  # before the work: the model on disk may be replaced meanwhile
    missing = next((p for p in reversed(folder.absolute().parents) if not p.exists()), None)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".tmp", dir=folder.absolute().parent
        ) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            special = fill(new)
            manifest = {
                "format_version": FORMAT_VERSION,
                "target": target,
                "model": description,
                "features": {
                    "kind": loaded.features.kind,
                    "hash": feature_hash(loaded.features),
                },
                "streaming": streaming_numbers(loaded.model.config),
                **special,
                "versions": versions(),
                "files": {
                    file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
                    for file in sorted(new.iterdir())
                },
            }
            (new / MANIFEST).write_text(_text(manifest), "utf-8")
            check_target(folder)  # somebody may have made it meanwhile
            new.rename(folder)
    except OSError as error:
        _remove_empty(folder, missing)
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    except BaseException:
        _remove_empty(folder, missing)
        raise
    return manifest


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """Where the model is, and by which bytes it is known."""
    return {
        "folder": str(loaded.folder.resolve()),
        "weights_sha256": sha256(loaded.folder / WEIGHTS_FILE),
        "parameters": loaded.model.num_parameters(),
        "vocab_size": loaded.tokenizer.vocab_size,
        "config_sha256": sha256(loaded.folder / CONFIG),
        "tokens_sha256": sha256(loaded.folder / MODEL_FILE),
    }


def read_features(folder: Path) -> FeatureConfig:
    """Which features the model of an export takes; the only kind there once was if it has no manifest."""
    path = folder / MANIFEST
    return FeatureConfig(json.loads(path.read_text("utf-8"))["features"]["kind"]) if path.is_file() else FeatureConfig()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export, its files checked.

    Raises:
        UserError: not an export, of another format version, or with a file that is missing or changed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder} is not an export: it has no readable {MANIFEST}") from None
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path} is of another format version than {FORMAT_VERSION}: export the model again")
    damaged = _damage(manifest)
    if damaged:
        raise UserError(f"{path} is damaged ({damaged}): export the model again")
    for name, entry in manifest["files"].items():
        if name == README:  # may be written on; no runtime reads it
            continue
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing, export the model again")
        if sha256(folder / name) != entry["sha256"]:
            raise UserError(f"{folder}: {name} is not the file that was exported (another SHA-256)")
    return manifest


def _damage(manifest: dict[str, Any]) -> str:
    """What is missing or of another type in a manifest; empty if nothing is."""
    needed: dict[str, Any] = {
        "target": str,
        "model": dict,
        "files": dict,
        "precisions": list,
        "blank_penalty": (int, float),
        "verified": dict,
    }
    for key, kind in needed.items():
        if not isinstance(manifest.get(key), kind):
            return f"no {key}"
    if manifest["target"] not in TARGETS:
        return f"unknown target {manifest['target']!r}"
    for key in ("folder", "weights_sha256", "config_sha256", "tokens_sha256"):
        if not isinstance(manifest["model"].get(key), str):
            return f"no model.{key}"
    for name, entry in manifest["files"].items():
        if not (isinstance(entry, dict) and "sha256" in entry and "bytes" in entry):
            return f"no hash of {name}"
    return ""


def record_words(folder: Path, words: dict[str, Any]) -> bool:
    """Put the result of the ladder into the manifest, ``verified.words``; whether the folder can be written."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    manifest["verified"]["words"] = words
    temporary = folder / f".{MANIFEST}.tmp"
    try:
        temporary.write_text(_text(manifest), "utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def _remove_empty(folder: Path, topmost: Path | None) -> None:
    """Take back the parents that were made for a folder that was not."""
    if topmost is None:
        return
    parent = folder.absolute().parent
    while parent.exists() and not any(parent.iterdir()):
        parent.rmdir()
        if parent == topmost:
            return
        parent = parent.parent
