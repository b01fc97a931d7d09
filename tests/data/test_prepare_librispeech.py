"""recipes/librispeech/prepare.py on a small corpus in LibriSpeech's own layout, and on a manifest folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from asr.data.config import DataConfig
from asr.data.corpora import load_cuts
from asr.data.loader import make_dev_loader, make_train_loader
from asr.data.statistics import FeatureStatistics
from asr.tokens import Tokenizer
from recipes.librispeech.prepare import main
from tests.data.speech import tone

SENTENCES = [
    "CHAPTER THIRTY FIVE SHE TRIED TO BE CONTENT",
    "WITH A CONTRADICTION IN TERMS",
    "ALL APRIL SHE KNITTED A SWEATER",
]


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for part, speakers in (("train-clean-100", ("19", "26")), ("dev-clean", ("84",))):
        for speaker in speakers:
            chapter = tmp_path / "LibriSpeech" / part / speaker / "7"
            chapter.mkdir(parents=True)
            names = [f"{speaker}-7-{n:04d}" for n in range(3)]
            for n, name in enumerate(names):
                soundfile.write(chapter / f"{name}.flac", tone(2.0, n + int(speaker)), 16000)
            lines = [f"{name} {text}\n" for name, text in zip(names, SENTENCES, strict=True)]
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return tmp_path / "LibriSpeech"


def test_what_it_writes_trains(librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    command = ["--corpus", str(librispeech), "--output", str(output), "--vocab", "40"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "train-clean-100: 6 utterances" in printed and "speakers: train 2, dev-clean 1, disjoint" in printed
    )
    tokenizer = Tokenizer.from_file(output)
    assert tokenizer.vocab_size == 40
    assert FeatureStatistics.load(output / "statistics.json").frames == 6 * 200
    config = DataConfig(
        train=[str(output / "cuts_train-clean-100.jsonl.gz")],
        dev=[str(output / "cuts_dev-clean.jsonl.gz")],
        workers=0,
    )
    (batch,) = list(make_train_loader(config, tokenizer))
    assert sorted(batch.texts) == sorted(SENTENCES * 2) and batch.features.shape == (6, 200, 80)
    (dev,) = list(make_dev_loader(config, tokenizer))
    assert sorted(dev.ids) == ["84-7-0000", "84-7-0001", "84-7-0002"]
    # Another limit is another corpus: nothing of the first run is taken for it. The limit is spread over speakers.
    assert main([*command, "--limit", "2"]) == 0
    cuts = load_cuts(output / "cuts_train-clean-100.jsonl.gz")
    assert [cut.id for cut in cuts] == ["19-7-0000", "26-7-0000"]
    # An unfinished part is finished, the finished one kept.
    kept = (output / "cuts_train-clean-100.jsonl.gz").stat().st_mtime_ns
    (output / "cuts_dev-clean.jsonl.gz").unlink()
    assert main([*command, "--limit", "2"]) == 0
    assert (output / "cuts_train-clean-100.jsonl.gz").stat().st_mtime_ns == kept
    assert len(load_cuts(output / "cuts_dev-clean.jsonl.gz")) == 2


def test_manifest_folder(real_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [
        "--corpus",
        str(real_data / "librispeech"),
        "--output",
        str(output),
        "--limit",
        "20",
        "--vocab",
        "100",
    ]
    assert main([*command, "--statistics-seconds", "20"]) == 0
    assert {p.name for p in output.iterdir()} == {
        "cuts_train.jsonl.gz", "cuts_dev.jsonl.gz", "tokens.model", "tokens.txt", "statistics.json", "prepare.json",
    }  # fmt: skip
    assert len(load_cuts(output / "cuts_dev.jsonl.gz")) == 20


def test_errors_are_one_sentence(librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = ["--output", str(tmp_path / "out")]
    assert main(["--corpus", str(tmp_path / "nowhere"), *output]) == 2
    assert capsys.readouterr().err.endswith("nowhere holds neither LibriSpeech parts nor a manifest.jsonl.\n")
    assert main(["--corpus", str(librispeech), "--parts", "dev-clean", *output]) == 2
    assert "is a train part" in capsys.readouterr().err
    assert main(["--corpus", str(librispeech), "--vocab", "5000", *output]) == 2
    assert "\nerror: the text yields at most" in capsys.readouterr().err  # after the progress bars
    with pytest.raises(SystemExit) as stopped:
        main(["--corp", "x"])
    assert stopped.value.code == 2


def test_interrupted_preparation_claims_no_cuts_of_other_settings(
    librispeech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = ["--corpus", str(librispeech), "--output", str(output), "--vocab", "40"]
    assert main([*command, "--limit", "2"]) == 0

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("asr.data.corpora.load_cuts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(command)
    assert main(command) == 0
    assert len(load_cuts(output / "cuts_train-clean-100.jsonl.gz")) == 6  # not the 2 of the limit
    (output / "prepare.json").write_text("{")  # a full disk
    assert main([*command, "--limit", "2"]) == 0
    assert len(load_cuts(output / "cuts_train-clean-100.jsonl.gz")) == 2
