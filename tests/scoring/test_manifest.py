"""What a manifest may say, and the sentence for everything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.errors import UserError
from asr.scoring.manifest import read_manifest

CUT = {
    "id": "c7", "start": 0.5, "duration": 1.0, "channel": 0, "type": "MonoCut",
    "supervisions": [{"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "one"}],
    "recording": {
        "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
        "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
    },
}  # fmt: skip


def mixed(inner: dict[str, Any]) -> dict[str, Any]:
    """A mixed cut of one track, as lhotse writes it."""
    return {"id": "m", "type": "MixedCut", "tracks": [{"type": "MonoCut", "offset": 0.0, "cut": inner}]}


def through_lhotse() -> dict[str, Any]:
    """A cut that is not simply a piece of a file, so that lhotse reads it."""
    return {**copy.deepcopy(CUT), "channel": 1}


def written(folder: Path, *records: dict[str, Any]) -> Path:
    """A manifest of these records beside their audio."""
    soundfile.write(folder / "a.wav", np.zeros(32000, np.float32), 16000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "manifest.jsonl"


@pytest.mark.parametrize(
    ("key", "value"),
    [("duration", -1.0), ("duration", float("nan")), ("duration", float("inf")), ("duration", 0), ("duration", "long")]
    + [("start", -0.5), ("start", float("nan")), ("start", None)],
)
@pytest.mark.parametrize("kind", ["plain", "lhotse", "mixed"])
def test_times_that_no_cut_can_have(tmp_path, key, value, kind):
    cut = {**(through_lhotse() if kind == "lhotse" else copy.deepcopy(CUT)), key: value}
    file = written(tmp_path, mixed(cut) if kind == "mixed" else cut)
    with pytest.raises(UserError, match=f"line 1: the {key} of cut c7 is .* seconds") as caught:
        read_manifest(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_start_in_a_manifest_is_refused(tmp_path):
    line = {"id": "u1", "audio": "a.wav", "text": "one", "duration": 0.5}
    for whole in (line, {**line, "start": 0}, {**line, "start": None}):
        (item,) = read_manifest(written(tmp_path, whole))
        assert (item.start, item.duration) == (0.0, None)
    for start in (0.5, -1, float("nan"), "1"):
        with pytest.raises(UserError, match="line 1: utterance u1 has a start"):
            read_manifest(written(tmp_path, {**line, "start": start}))


def test_a_byte_order_mark_is_no_part_of_the_manifest(tmp_path):
    file = written(tmp_path, {"id": "u1", "audio": "a.wav", "text": "one"})
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [item.id for item in read_manifest(file)] == ["u1"]


@pytest.mark.parametrize("kind", ["command", "url"])
@pytest.mark.parametrize("place", ["cut", "track", "reverberation"])
def test_a_data_file_runs_no_command(tmp_path, kind, place):
    ran = tmp_path / "ran"
    command = f"touch {ran}; cat {tmp_path / 'a.wav'}"
    source = {"type": kind, "channels": [0], "source": command if kind == "command" else f"pipe:{command}"}
    cut = copy.deepcopy(CUT)
    if place == "reverberation":
        response = {**copy.deepcopy(CUT["recording"]), "sources": [source]}
        cut["recording"]["transforms"] = [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": response}}]
    else:
        cut["recording"]["sources"] = [source]
    file = written(tmp_path, mixed(cut) if place == "track" else cut)
    with pytest.raises(UserError, match="the audio of cut .* is the output of a command, and data files run none"):
        for item in read_manifest(file):
            item.audio()
    assert not ran.exists()


def test_what_lhotse_says_is_one_line(tmp_path):
    pytest.importorskip("lhotse")
    file = written(tmp_path, mixed(CUT))
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (item,) = read_manifest(file)
    with pytest.raises(UserError, match="line 1: cannot read the audio of cut m: .") as caught:
        item.audio()
    assert "\n" not in str(caught.value)
