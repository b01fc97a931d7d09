"""The importer at full size: ``torchaudio.models.emformer_rnnt_base(4097)`` and 4096 pieces, through the command."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import soundfile
import torch

from asr.importing.command import import_command
from asr.importing.torchaudio_bundle import LIBRISPEECH
from asr.streaming import NO_ENDPOINT, Recognizer
from tests.importing.bundles import extractor, greedy, speaking, spell, write_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A random model of torchaudio's factory in files, and the folder that `asr import` makes of them."""
    models = pytest.importorskip("torchaudio.models")
    torch.manual_seed(0)
    theirs = speaking(models.emformer_rnnt_base(4097).eval())
    folder = tmp_path_factory.mktemp("base")
    files = write_files(LIBRISPEECH, theirs, folder / "files")
    out = folder / "model"
    assert import_command([LIBRISPEECH.name, "--from", str(files), "--out", str(out)]) == 0
    sizes = {asset.path: (files / asset.path).stat().st_size for asset in LIBRISPEECH.assets}
    (files / LIBRISPEECH.weights.path).unlink()  # 300 MB
    yield SimpleNamespace(theirs=theirs, files=files, ours=Recognizer.load(str(out)), sizes=sizes)
    shutil.rmtree(folder)


@torch.inference_mode()
def test_same_tokens(made, real_data):
    with open(real_data / "librispeech" / "manifest.jsonl") as lines:
        record = min(map(json.loads, lines), key=lambda r: abs(r["duration"] - 2.5))
    audio = soundfile.read(real_data / "librispeech" / record["audio"], dtype="float32")[0]
    features, length = extractor(LIBRISPEECH, made.files)(torch.from_numpy(audio))
    expected, _ = made.theirs.transcribe(features[None], length)
    encoded, _ = made.ours.encode([audio])
    actual = made.ours.model.joiner.project_encoder(encoded)
    same = (expected.size(1) - 1) // 4 * 4  # torchaudio pads the last chunk otherwise
    torch.testing.assert_close(actual[:, :same], expected[:, :same], atol=1e-4, rtol=0)
    tokens, frames = greedy(made.theirs, actual)
    text = " ".join(spell(LIBRISPEECH, made.files, tokens).split())
    assert len(set(tokens)) > 5
    offline = made.ours.transcribe([audio], endpoint=NO_ENDPOINT)[0]
    assert offline.text == text
    assert made.ours.transcribe([audio], streaming=True, endpoint=NO_ENDPOINT)[0].text == text
    before = [token for token, frame in zip(tokens, frames, strict=True) if frame < same]
    of_theirs, at = greedy(made.theirs, expected)
    assert before == [token for token, frame in zip(of_theirs, at, strict=True) if frame < same]


def test_sizes_agree_with_what_torchaudio_documents(made):
    """76.7 M weights in single precision are the 293 MiB that its documentation shows, to a thousandth."""
    asset = LIBRISPEECH.weights
    assert made.sizes[asset.path] == pytest.approx(asset.size, rel=1e-3)
    assert made.ours.model.num_parameters() == 76_738_049
