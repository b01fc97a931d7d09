"""Readers of every layout, and one clear sentence for each way a corpus can be wrong."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut

from asr.data.audio_cache import read_cut
from asr.data.config import CorpusConfig, DataConfig
from asr.data.corpora import (
    assert_disjoint_speakers,
    cut_speaker,
    download_fsdd,
    download_librispeech,
    load_cuts,
)
from asr.errors import UserError
from tests.data.speech import tone, write_manifest


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for part, speaker in (("train-clean-5", "19"), ("dev-clean-2", "84")):
        chapter = tmp_path / "LibriSpeech" / part / speaker / "7"
        chapter.mkdir(parents=True)
        lines = []
        for n in range(2):
            name = f"{speaker}-7-{n:04d}"
            soundfile.write(chapter / f"{name}.flac", tone(0.5, n), 16000)
            lines.append(f"{name} HELLO NUMBER {n}\n")
        (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def fsdd(tmp_path: Path) -> Path:
    folder = tmp_path / "free-spoken-digit-dataset-1.0.10" / "recordings"
    folder.mkdir(parents=True)
    for digit, speaker, number in ((0, "theo", 0), (7, "theo", 12), (3, "lucas", 49)):
        soundfile.write(folder / f"{digit}_{speaker}_{number}.wav", tone(0.4, digit)[::2], 8000)
    return folder.parent


def test_manifest_folder(corpus: Path) -> None:
    cuts = list(load_cuts(corpus))
    assert len(cuts) == 46
    assert (cuts[1].supervisions[0].text, cut_speaker(cuts[1])) == ("ONE", "s1")
    assert cuts[1].supervisions[0].custom == {"split": "train"}
    dev = list(load_cuts(CorpusConfig(str(corpus), split="dev")))
    assert [cut.id for cut in dev] == [f"u{n}" for n in range(40, 46)]
    assert len(load_cuts(CorpusConfig(str(corpus), split="dev, train", limit=43))) == 43
    assert {cut_speaker(c) for c in load_cuts(CorpusConfig(str(corpus), speakers=["s1", "s9"]))} == {
        "s1",
        "s9",
    }
    assert {cut_speaker(c) for c in load_cuts(CorpusConfig(str(corpus), exclude_speakers=["s1", "s9"]))} == {
        "s0",
        "s2",
        "s3",
    }
    samples, _ = soundfile.read(corpus / "u1.wav", dtype="float32")
    assert np.array_equal(read_cut(cuts[1]), samples)


def test_manifest_elsewhere_with_absolute_audio(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"audio": str(corpus / "u3.wav"), "text": ""}) + "\n\n")
    (cut,) = load_cuts(path)
    assert cut.id == "u3" and cut_speaker(cut) is None and len(read_cut(cut)) == round(cut.duration * 16000)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"audio": "gone.wav", "text": "a"}',
            r"manifest.jsonl, line 2: audio file .*gone.wav does not exist.",
        ),
        ('{"audio": "u1.wav", "text": "a"', r"manifest.jsonl, line 2: not valid JSON"),
        ('{"audio": "u1.wav"}', r"manifest.jsonl, line 2: needs a 'text'"),
        ('["u1.wav"]', r"manifest.jsonl, line 2: needs an object with an 'audio' path"),
        (
            '{"audio": "manifest.jsonl", "text": "a"}',
            r"manifest.jsonl, line 2: .*manifest.jsonl is not readable audio",
        ),
        ('{"audio": "empty.wav", "text": "a"}', r"manifest.jsonl, line 2: .*empty.wav is not readable audio"),
    ],
)
def test_bad_manifest_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    soundfile.write(tmp_path / "u1.wav", tone(0.4, 0), 16000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    (tmp_path / "manifest.jsonl").write_text('{"audio": "u1.wav", "text": "a"}\n' + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_cuts(tmp_path)
    assert "\n" not in str(caught.value)


def test_manifest_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b'{"audio": "a.wav", "text": "caf\xe9"}\n')
    with pytest.raises(UserError, match="manifest.jsonl, line 1: not UTF-8"):
        load_cuts(tmp_path)


def test_nothing_there_is_said(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_cuts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no manifest.jsonl, no LibriSpeech part and no FSDD"):
        load_cuts(tmp_path)
    with pytest.raises(UserError, match="no line of split tset; it has dev, train"):
        load_cuts(CorpusConfig(str(corpus), split="tset"))
    with pytest.raises(UserError, match="no utterance is left with {'speakers': \\['nobody'\\]}"):
        load_cuts(CorpusConfig(str(corpus), speakers=["nobody"]))
    write_manifest(tmp_path, [])
    with pytest.raises(UserError, match="no utterance is left"):
        load_cuts(tmp_path)
    with pytest.raises(UserError, match="unknown kind 'kaldi'"):
        load_cuts(CorpusConfig(str(corpus), kind="kaldi"))


def test_librispeech_layout(librispeech: Path) -> None:
    for folder in (librispeech, librispeech / "LibriSpeech"):
        assert [cut.id for cut in load_cuts(folder)] == ["19-7-0000", "19-7-0001", "84-7-0000", "84-7-0001"]
    part = librispeech / "LibriSpeech" / "dev-clean-2"
    for source in (str(part), CorpusConfig(str(librispeech), split="dev-clean-2")):
        cuts = list(load_cuts(source))
        assert [cut_speaker(cut) for cut in cuts] == ["84", "84"]
        assert cuts[1].supervisions[0].text == "HELLO NUMBER 1"
        assert len(read_cut(cuts[1])) == 8000
    with pytest.raises(
        UserError, match="no LibriSpeech part train-clean-100; it has train-clean-5, dev-clean-2"
    ):
        load_cuts(CorpusConfig(str(librispeech), split="train-clean-100"))
    with pytest.raises(UserError, match="unknown LibriSpeech part train-clean-1000"):
        download_librispeech(librispeech, ["train-clean-1000"])


def test_fsdd_layout_is_resampled_when_read(fsdd: Path) -> None:
    cuts = {cut.id: cut for cut in load_cuts(fsdd)}
    assert {i: (c.supervisions[0].text, cut_speaker(c)) for i, c in cuts.items()} == {
        "0_theo_0": ("zero", "fsdd-theo"), "7_theo_12": ("seven", "fsdd-theo"), "3_lucas_49": ("three", "fsdd-lucas"),
    }  # fmt: skip
    assert cuts["7_theo_12"].sampling_rate == 8000
    samples = read_cut(cuts["7_theo_12"])
    assert len(samples) == 6400 and samples.dtype == np.float32
    assert np.corrcoef(samples[100:-100], tone(0.4, 7)[100:-100])[0, 1] > 0.99
    assert [cut.id for cut in load_cuts(CorpusConfig(str(fsdd / "recordings"), split="test"))] == ["0_theo_0"]


def test_fsdd_download(fsdd: Path, tmp_path: Path) -> None:
    archive = tmp_path / "fsdd.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(fsdd, arcname=fsdd.name)
    target = tmp_path / "target"
    folder = download_fsdd(target, archive.as_uri())
    assert len(load_cuts(folder)) == 3 and [p.name for p in target.iterdir()] == [folder.name]
    assert download_fsdd(target, "file:///nowhere") == folder
    (tmp_path / "bad.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="Cannot download"):
        download_fsdd(tmp_path / "other", (tmp_path / "bad.tar.gz").as_uri())
    assert not list((tmp_path / "other").iterdir())


def test_cut_files_with_parts_of_recordings(corpus: Path, tmp_path: Path) -> None:
    cuts = load_cuts(corpus)
    for name in ("all.jsonl", "all.jsonl.gz"):
        cuts.to_file(tmp_path / name)
        assert [cut.id for cut in load_cuts(tmp_path / name)] == [cut.id for cut in cuts]
    assert len(load_cuts(CorpusConfig(str(tmp_path / "all.jsonl"), split="dev"))) == 6
    whole = next(cut for cut in cuts if cut.duration > 1.5)
    part = whole.truncate(offset=0.5, duration=0.75, preserve_id=True)
    CutSet.from_cuts([part]).to_file(tmp_path / "part.jsonl")
    (read,) = load_cuts(tmp_path / "part.jsonl")
    assert np.array_equal(read_cut(read), read_cut(whole)[8000:20000])
    mixed = whole.append(whole)
    assert np.allclose(read_cut(mixed), np.tile(read_cut(whole), 2), atol=1e-6)
    (tmp_path / "all.jsonl").write_text((tmp_path / "all.jsonl").read_text().replace("u7.wav", "u700.wav"))
    with pytest.raises(UserError, match="u700.wav of cut u7 does not exist"):
        load_cuts(tmp_path / "all.jsonl")
    (tmp_path / "rel").mkdir()
    text = (tmp_path / "part.jsonl").read_text()
    source = Path(part.recording.sources[0].source)
    (tmp_path / "rel" / source.name).write_bytes(source.read_bytes())
    (tmp_path / "rel" / "cuts.jsonl").write_text(text.replace(str(source), source.name))  # relative to the file
    assert np.array_equal(read_cut(load_cuts(tmp_path / "rel" / "cuts.jsonl")[0]), read_cut(read))
    (tmp_path / "bad.jsonl.gz").write_bytes(io.BytesIO(b"nonsense").read())
    with pytest.raises(UserError, match="not a lhotse cut file"):
        load_cuts(tmp_path / "bad.jsonl.gz")


def test_bad_samples_name_the_file(tmp_path: Path) -> None:
    samples = tone(0.4, 0)
    samples[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    write_manifest(tmp_path, [{"audio": "nan.wav", "text": "a"}])
    (cut,) = load_cuts(tmp_path)
    with pytest.raises(UserError, match="nan.wav: the audio holds NaN"):
        read_cut(cut)
    (tmp_path / "nan.wav").unlink()
    with pytest.raises(UserError, match="nan.wav: the audio cannot be read"):
        read_cut(cut)


def test_channels_of_a_manifest_recording_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.4, 0), tone(0.4, 1)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    write_manifest(tmp_path, [{"audio": "stereo.wav", "text": "a", "speaker": "s"}])
    (cut,) = load_cuts(tmp_path)
    np.testing.assert_allclose(read_cut(cut), (left + right) / 2, atol=1e-6)


def test_disjoint_speakers(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    train, dev = (load_cuts(CorpusConfig(str(corpus), split=split)) for split in ("train", "dev"))
    assert assert_disjoint_speakers(train, dev, names=["train", "dev"]) == [4, 1]
    assert capsys.readouterr().out == "speakers: train 4, dev 1, disjoint\n"
    with pytest.raises(UserError, match="4 speakers are in both train and set 2: s0, s1, s2, s3."):
        assert_disjoint_speakers(train, dev, train)


def test_real_corpora(real_data: Path) -> None:
    sets = [
        load_cuts(CorpusConfig(str(real_data / "librispeech"), split=s, limit=20)) for s in ("train", "dev")
    ]
    assert_disjoint_speakers(*sets)
    cut = next(iter(sets[0]))
    assert abs(len(read_cut(cut)) - cut.duration * 16000) <= 1
    assert len(load_cuts(CorpusConfig(str(real_data / "noise"), split="test", limit=3), need_text=False)) == 3


def test_no_data_file_runs_a_command(corpus: Path, tmp_path: Path) -> None:
    """A cut file may come from anywhere; its recordings may name shell commands, also deep inside a mixture."""
    cut = list(load_cuts(corpus))[0]
    done = tmp_path / "done"

    def hidden(kind: str, source: str) -> MonoCut:
        evil = {"sources": [{"type": kind, "channels": [0], "source": source}]}
        return MonoCut.from_dict(cut.to_dict() | {"recording": cut.recording.to_dict() | evil})

    command = hidden("command", f"touch {done}")
    for cuts in ([command], [cut.append(command)], [hidden("url", f"pipe:touch {done}")]):
        CutSet.from_cuts(cuts).to_file(tmp_path / "evil.jsonl")
        with pytest.raises(UserError, match="is the output of a command, and data files run none") as caught:
            load_cuts(tmp_path / "evil.jsonl")
        assert "\n" not in str(caught.value) and not done.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_utterances", -1),
        ("statistics_seconds", 0.0),
        ("augment.concatenate.max_cuts", 1),
        ("augment.concatenate.max_seconds", -1.0),
        ("augment.specaugment.time_masks", -1),
        ("augment.specaugment.max_time_fraction", 1.5),
    ],
)
def test_ranges_of_the_settings(key: str, value: float) -> None:
    config = DataConfig(train=["x"])
    node: Any = config
    *parents, leaf = key.split(".")
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, leaf, value)
    with pytest.raises(UserError, match=leaf):
        config.validate()


def test_manifest_with_a_byte_order_mark_and_with_a_start(corpus: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()][:2]
    for line in lines:
        line["audio"] = str(corpus / line["audio"])
    text = "\n".join(map(json.dumps, lines)) + "\n"
    (tmp_path / "manifest.jsonl").write_text(text, encoding="utf-8-sig")
    assert [cut.id for cut in load_cuts(tmp_path)] == [line["id"] for line in lines]
    lines[1]["start"] = 0.25
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="line 2: has a 'start'"):
        load_cuts(tmp_path)
