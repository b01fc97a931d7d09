"""torchaudio's public streaming model, ``torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH``, as a model folder.

Three files make the bundle: weights (a state dict), a SentencePiece model, feature statistics. torchaudio itself is
not needed. What becomes of them:

weights     renamed; the blank, torchaudio's last symbol, becomes symbol 0 (`asr.models.torchaudio_weights`)
tokens      ``<blk>`` is put before the pieces, so that torchaudio's symbol i is ours i + 1. Its four special pieces
            (``<s>``, ``<pad>``, ``</s>``, ``<unk>``) have no meaning in a transducer, were in no training target and
            are never worth emitting. They stay as unused symbols, so that every probability is torchaudio's
            (`asr.importing.pieces`)
statistics  mean and inverse standard deviation go into the model, as in every model of ours
features    ``features.kind: torchaudio_rnnt`` (`asr.features`)

The end of a recording is padded with digital silence, as in torchaudio's streaming example. torchaudio's offline
example ends with four frames of the mean instead, and with a shorter last chunk, so that its encoder output differs
from its own streaming, and from ours, in the last chunk (160 ms).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import UserError
from asr.features import NUM_MEL_BINS, FeatureConfig
from asr.importing.download import Progress, fetch
from asr.importing.pieces import with_blank_first
from asr.models.folder import save_model
from asr.models.torchaudio_weights import transducer_from_torchaudio
from asr.models.transducer import ModelConfig, Transducer, named_config
from asr.tokens import Tokenizer

SERVER = "https://download.pytorch.org/torchaudio"


@dataclass(frozen=True)
class Asset:
    """A file of a bundle: its path below the server, and its size in bytes to three digits (None: any)."""

    path: str
    size: int | None = None

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Bundle:
    """A pretrained RNN-T of torchaudio: three files, and the shapes they must have."""

    name: str  # of `asr import`
    title: str  # torchaudio's
    weights: Asset
    statistics: Asset
    pieces: Asset
    model: ModelConfig
    about: str  # of the card: data, training, published error rates

    @property
    def assets(self) -> tuple[Asset, Asset, Asset]:
        """All files, the largest last."""
        return self.statistics, self.pieces, self.weights


LIBRISPEECH = Bundle(
    name="torchaudio-emformer-rnnt-librispeech",
    title="torchaudio.pipelines.EMFORMER_RNNT_BASE_LIBRISPEECH",
    weights=Asset("models/emformer_rnnt_base_librispeech.pt", 293 * 1024**2),
    statistics=Asset("pipeline-assets/global_stats_rnnt_librispeech.json", 3900),
    pieces=Asset("pipeline-assets/spm_bpe_4096_librispeech.model", 295 * 1024),
    model=named_config("emformer_rnnt_base", 4097),
    about="""\
Trained by the authors of torchaudio (`examples/asr/emformer_rnnt` of pytorch/audio) on the 960 hours of LibriSpeech:
read English, lower case, no punctuation, 4096 BPE pieces.

Word error rates that pytorch/audio publishes, beam search of width 20 over whole recordings (nothing was measured
when this folder was made):

| dev-clean | dev-other | test-clean | test-other |
| --- | --- | --- | --- |
| 4.15 % | 11.10 % | 4.56 % | 10.66 % |
""",
)
BUNDLES = {bundle.name: bundle for bundle in (LIBRISPEECH,)}

CARD = """\
# {name}

`{title}`, converted by `asr import {name}`: a streaming Emformer transducer.
{parameters:.1f} M parameters, {symbols} symbols, chunk {chunk} ms + look-ahead {look_ahead} ms, 16 kHz.

{about}
## Features

`features.kind: {kind}`, torchaudio's own definition with its piecewise logarithm. Runtimes that compute kaldi features
(sherpa-onnx) cannot run this model; mean and inverse standard deviation are in the model. Offline and streaming use the
same frames, those of torchaudio's offline extractor.

## Symbols

`<blk>` is 0 and torchaudio's symbol i is i + 1; `<s>`, `<pad>`, `</s>` and `<unknown>` (1 to 4) are kept for their
rows in the network, but were in no training target and no text is spelt with them.

## Licence

Data: LibriSpeech (https://www.openslr.org/12), CC BY 4.0. torchaudio: BSD 2-Clause, (c) Facebook Inc. (Soumith
Chintala) and the PyTorch Audio contributors; its documentation names no other licence for these weights. Give both
attributions when you pass the model on.

## Origin

| file | bytes | SHA-256 |
| --- | --- | --- |
{origin}
"""


def locate(
    bundle: Bundle,
    given: Path | None = None,
    server: str = SERVER,
    cache: Path | None = None,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> dict[str, Path]:
    """The files of a bundle by the path of their asset, downloaded where they are not there yet.

    Args:
        given: a folder with files fetched by hand, flat or in the server's folders; nothing is downloaded then.
        server: address the assets' paths are appended to.
        cache: where downloads go; torchaudio's own place if left out, so that neither downloads what the other has.
        pause: see `fetch`.

    Raises:
        UserError: a file is missing or cannot be downloaded; says what to do by hand.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"no such folder: {given}")
        places = {asset.path: (given / asset.name, given / asset.path) for asset in bundle.assets}
        found = {path: next((file for file in two if file.is_file()), None) for path, two in places.items()}
        missing = [asset for asset in bundle.assets if found[asset.path] is None]
        if missing:
            addresses = ", ".join(f"{server}/{asset.path}" for asset in missing)
            raise UserError(f"{given} has no {', '.join(asset.name for asset in missing)}: download {addresses}")
        return {path: file for path, file in found.items() if file is not None}
    folder = cache if cache is not None else Path(torch.hub.get_dir()) / "torchaudio"
    try:
        return {
            asset.path: fetch(f"{server}/{asset.path}", folder / asset.path, asset.size, progress, pause)
            for asset in bundle.assets
        }
    except UserError as error:
        addresses = ", ".join(f"{server}/{asset.path}" for asset in bundle.assets)
        raise UserError(
            f"{error}; to do it by hand, put {addresses} into a folder and run asr import {bundle.name} "
            "--from FOLDER --out FOLDER"
        ) from None


def import_bundle(
    bundle: Bundle,
    files: dict[str, Path],
    out: Path,
    *,
    server: str = SERVER,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Transducer:
    """Convert the files of a bundle (see `locate`) and write the model folder ``out``.

    Returns:
        The model as it was written; for use, load the folder.

    Raises:
        UserError: a file is not what it should be, or ``out`` cannot be written.
    """
    weights, statistics, pieces = (files[a.path] for a in (bundle.weights, bundle.statistics, bundle.pieces))
    tokenizer = Tokenizer(with_blank_first(_read(pieces), str(pieces)), str(pieces))
    if tokenizer.vocab_size != bundle.model.vocab_size:
        raise UserError(f"{pieces} has {tokenizer.vocab_size - 1} pieces, not {bundle.model.vocab_size - 1}")
    mean, istd = read_statistics(statistics)
    model = build(bundle.model, read_weights(weights), mean, istd, str(weights))
    origin = {
        asset.path: {"bytes": os.stat(files[asset.path]).st_size, "sha256": _sha256(files[asset.path])}
        for asset in bundle.assets
    }
    features = FeatureConfig("torchaudio_rnnt")
    card = CARD.format(
        name=bundle.name,
        title=bundle.title,
        parameters=model.num_parameters() / 1e6,
        symbols=tokenizer.vocab_size,
        chunk=bundle.model.encoder.chunk_ms,
        look_ahead=bundle.model.encoder.look_ahead_ms,
        about=bundle.about,
        kind=features.kind,
        origin="\n".join(f"| {server}/{p} | {o['bytes']} | `{o['sha256']}` |" for p, o in origin.items()),
    )
    extra = {"imported": {"from": bundle.title, "server": server, "files": origin}}
    save_model(out, model, tokenizer, features, card, extra, dtype=dtype, overwrite=overwrite)
    return model


def build(
    config: ModelConfig, state: dict[str, Tensor], mean: Tensor, istd: Tensor, name: str = "the weights"
) -> Transducer:
    """Our model with torchaudio's weights; its parts that are not stored are on the meta device.

    Raises:
        UserError: a weight is missing, unknown or of another shape; ``name`` says where.
    """
    with torch.device("meta"):  # no time and memory for numbers that are replaced at once
        model = Transducer(config)
    try:
        found = transducer_from_torchaudio(state)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    found |= {"encoder.mean": mean, "encoder.istd": istd}
    expected = model.state_dict()
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has the unknown {unknown[0]}"
        raise UserError(f"{name} is not this model: it {what} ({len(missing)} missing, {len(unknown)} unknown)")
    for key, value in expected.items():
        if value.shape != found[key].shape:
            raise UserError(
                f"{name} is not this model: {key} has shape {tuple(found[key].shape)}, not {tuple(value.shape)}"
            )
    model.load_state_dict({key: value.float() for key, value in found.items()}, assign=True)
    return model.eval()


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict; nothing in the file is executed.

    Raises:
        UserError: not a state dict.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    except Exception:  # torch lets through whatever pickle, zipfile and it itself may raise
        raise UserError(f"{file} is no file of weights, or a damaged one: download it again") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds something else than weights by name")
    return state


def read_statistics(file: Path) -> tuple[Tensor, Tensor]:
    """Mean (80,) and inverse standard deviation (80,) of a ``global_stats`` JSON.

    Raises:
        UserError: not such a file.
    """
    try:
        blob: Any = json.loads(_read(file))
        mean, istd = ([float(value) for value in blob[key]] for key in ("mean", "invstddev"))
    except (ValueError, TypeError, KeyError, UnicodeDecodeError):
        raise UserError(f"{file} holds no feature statistics (lists 'mean' and 'invstddev')") from None
    if not len(mean) == len(istd) == NUM_MEL_BINS:
        raise UserError(f"{file} has statistics of {len(mean)} and {len(istd)} bins, not of {NUM_MEL_BINS}")
    if not all(map(math.isfinite, mean + istd)) or min(istd) <= 0:
        raise UserError(f"{file} has statistics that are infinite, NaN or not positive")
    return torch.tensor(mean), torch.tensor(istd)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
