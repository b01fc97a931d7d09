"""``asr train-confidence``: labels, cross-validation, and the whole command on real speech."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import sys

import numpy as np
import pytest
import soundfile

from asr.decoding.confidence import ConfidenceModel
from asr.decoding.greedy import Hypothesis
from asr.decoding.word_features import word_features
from asr.errors import UserError
from asr.pretrained import list_pretrained
from asr.scoring.calibration import normalised_cross_entropy
from asr.training.confidence import (
    Decoded,
    LabelledWords,
    beam_decoder,
    collect_words,
    confidence_command,
    cross_validated,
    figures,
    greedy_decoder,
    label_words,
    table,
)
from tests.toy import babble, toy_recognizer, toy_tokenizer

TOKENIZER = toy_tokenizer()


def test_words_are_labelled_by_the_alignment():
    assert label_words("one two three", ["one", "nine", "three", "four"]) == [True, False, True, False]
    assert label_words("", ["one"]) == [False]
    assert label_words("one", []) == []
    assert label_words("ONE, oh two!", ["one", "zero", "two"], {"oh": "zero"}) == [True, True, True]


def test_words_that_normalisation_changes_keep_their_labels():
    # one recognised word becomes two, another none
    assert label_words("twenty one ok", ["twenty-one", "--", "no"]) == [True, None, False]
    assert label_words("twenty two ok", ["twenty-one", "ok"]) == [False, True]
    assert label_words("i do not", ["i", "don't"], {"don't": "do not"}) == [True, True]


@pytest.fixture
def corpus(tmp_path):
    """Twelve recordings of three speakers and one that is no audio."""
    lines = []
    for k in range(12):
        soundfile.write(tmp_path / f"{k}.wav", babble(1.0 + 0.2 * k, seed=k), 16000)
        line = {"id": f"u{k}", "audio": f"{k}.wav", "text": f"one {k}", "split": "dev" if k % 3 else "test"}
        lines.append(line | ({"speaker": f"s{k % 2}"} if k < 10 else {}))
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    lines.append({"id": "bad", "audio": "bad.wav", "text": "one", "split": "dev"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_collect_words(corpus):
    recognizer = toy_recognizer()
    seen = []
    words = collect_words(
        greedy_decoder(recognizer), recognizer.tokenizer, [corpus], batch_seconds=4.0, progress=lambda *a: seen.append(a)
    )
    assert seen == [(k, 13) for k in range(1, 14)]
    assert words.utterances == 12 and len(words.errors) == 1 and "bad" in words.errors[0]
    assert len(words.features.words) == len(words.correct) == len(words.speakers) > 10
    assert {"s0", "s1"} < set(words.speakers) and any(name.endswith(":u11") for name in words.speakers)
    transcripts = recognizer.transcribe([str(corpus / f"{k}.wav") for k in range(12)])
    assert sorted(words.features.words) == sorted(w.word for t in transcripts for w in t.words)
    some = collect_words(greedy_decoder(recognizer), recognizer.tokenizer, [corpus], splits=["test"])
    assert some.utterances == 4 and not some.errors
    with gzip.open(corpus / "again.jsonl.gz", "wt") as file:
        file.write((corpus / "manifest.jsonl").read_text())
    again = collect_words(greedy_decoder(recognizer), recognizer.tokenizer, [corpus / "again.jsonl.gz"], splits=["test"])
    assert np.allclose(again.features.matrix, some.features.matrix, atol=1e-4)
    with pytest.raises(UserError, match="no utterance of split train"):
        collect_words(greedy_decoder(recognizer), recognizer.tokenizer, [corpus], splits=["train"])


def test_a_decoder_with_nbest_lists(corpus):
    """Whatever searches: the call takes n-best lists from it."""
    recognizer = toy_recognizer()

    def decoder(audio):
        best = Hypothesis(TOKENIZER.encode("one"), list(range(3, 3 + len(TOKENIZER.encode("one")))), [-0.1] * 9, 0.0)
        other = Hypothesis(TOKENIZER.encode("two"), list(range(3, 3 + len(TOKENIZER.encode("two")))), [-0.1] * 9, -1.0)
        return [Decoded(best, [best, other]) for _ in audio]

    words = collect_words(decoder, recognizer.tokenizer, [corpus])
    assert words.correct == [True] * 12
    assert words.features.column("slot_posterior") == pytest.approx(np.full(12, 1 / (1 + math.exp(-1))))
    with pytest.raises(UserError, match="greedy search has no n-best lists"):
        beam_decoder(recognizer)


def made(count=600, speakers=12, seed=0):
    """Words whose log-probability says how likely they are right, as a sigmoid that has to be learnt."""
    rng = np.random.default_rng(seed)
    words = LabelledWords(utterances=speakers)
    token = TOKENIZER.encode("one")
    for k in range(count):
        log_prob = -float(rng.exponential(0.4))
        hypothesis = Hypothesis(token, list(range(5, 5 + len(token))), [log_prob] * len(token))
        words.parts.append(word_features(hypothesis, TOKENIZER))
        odds = words.parts[-1].column("log_odds")[0]
        words.correct.append(bool(rng.random() < 1 / (1 + math.exp(-2 - odds))))
        words.speakers.append(f"s{k % speakers}")
    return words


def test_cross_validation_learns_and_says_so():
    words = made()
    kinds = cross_validated(words, 5)
    assert list(kinds) == ["log-probability", "model", "log-probability, calibrated"]
    scores = {name: normalised_cross_entropy(found, words.correct) for name, found in kinds.items()}
    assert scores["model"] > 0.1 and scores["model"] > scores["log-probability"]
    rows = figures(kinds, words)
    text = table("cross-validation", rows)
    assert len(text.splitlines()) == 4 and f"{scores['model']:.3f}" in text
    assert all(row.nce[0] <= row.scores.nce <= row.nce[1] for row in rows)
    assert json.loads(json.dumps(rows[1].to_dict()))["nce"] == pytest.approx(scores["model"], abs=1e-6)


def test_no_word_is_judged_by_a_model_that_knows_its_speaker(monkeypatch):
    words = made(200, 6)
    seen = []
    fit = ConfidenceModel.fit

    def watched(features, correct, groups, **options):
        model = fit(features, correct, groups, **options)
        seen.append(set(groups))
        return model

    monkeypatch.setattr("asr.training.confidence.ConfidenceModel.fit", staticmethod(watched))
    cross_validated(words, 3)
    assert seen and all(len(groups) == 4 for groups in seen)


def test_one_speaker_cannot_be_cross_validated():
    with pytest.raises(UserError, match="at least two speakers"):
        cross_validated(made(50, 1), 5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--folds", "1"], "--folds must be"),
        (["--batch-seconds", "nan"], "--batch-seconds must be"),
        (["--picture", "/nowhere/a.png"], "no folder /nowhere"),
        (["--picture", "a.xyz"], "--picture must end in .png, .svg or .pdf, not a.xyz|needs matplotlib"),
        (["--beam", "0"], "beam must be"),
        (["--mapp", "a=b"], "did you mean --map"),
        (["--model", "digitz"], "no model 'digitz'"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, options, sentence):
    arguments = ["--model", "digits", "--manifest", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(UserError, match=sentence):
        confidence_command(arguments)
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_a_picture_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["--model", "digits", "--manifest", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--picture needs matplotlib, which is not installed"):
        confidence_command([*arguments, "--picture", str(tmp_path / "a.png")])
    assert not list(tmp_path.iterdir())


def test_the_command_on_real_speech(real_data, tmp_path, capsys):
    if "digits" not in list_pretrained():
        pytest.skip("the digits model is not here yet: train recipes/digits")
    source = real_data / "phone_numbers"
    lines = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    for name, part in (("train", lines[:18]), ("test", lines[18:24])):
        text = "".join(json.dumps({**line, "audio": str(source / line["audio"])}) + "\n" for line in part)
        (tmp_path / f"{name}.jsonl").write_text(text)
    common = ["--model", "digits", "--manifest", str(tmp_path / "train.jsonl"), "--map", "oh=zero", "o=zero"]
    common += ["--out", str(tmp_path / "out"), "--folds", "3", "--threads", "1"]
    with pytest.raises(UserError, match="in the training and in the test"):
        confidence_command([*common, "--test", str(tmp_path / "train.jsonl")])
    assert confidence_command([*common, "--test", str(tmp_path / "test.jsonl"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] > 100 and 0.6 < found["right"] / found["words"] < 1
    blocks = list(found["figures"].items())
    assert [title.split(",")[0] for title, _ in blocks] == ["cross-validation", "test"]
    for title, rows in blocks:
        by_name = {row["name"]: row for row in rows}
        assert set(by_name) >= {"log-probability", "entropy", "model"}, title
        assert by_name["model"]["nce"] > by_name["log-probability"]["nce"]
        assert by_name["model"]["auc"] > 0.5
    model = ConfidenceModel.load(tmp_path / "out")
    assert model.known == ("has_statistics",)


def test_the_command_with_a_beam(real_data, tmp_path, capsys):
    if "digits" not in list_pretrained():
        pytest.skip("the digits model is not here yet: train recipes/digits")
    source = real_data / "phone_numbers"
    lines = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()][:12]
    text = "".join(json.dumps({**line, "audio": str(source / line["audio"])}) + "\n" for line in lines)
    (tmp_path / "manifest.jsonl").write_text(text)
    picture = tmp_path / "picture.svg"
    arguments = ["--model", "digits", "--manifest", str(tmp_path), "--out", str(tmp_path / "out"), "--folds", "3"]
    drawn = importlib.util.find_spec("matplotlib") is not None
    wanted = ["--picture", str(picture)] if drawn else []
    assert confidence_command([*arguments, "--beam", "4", "--threads", "1", *wanted]) == 0
    shown = capsys.readouterr().out
    assert "cross-validation" in shown and "12 speakers" in shown and "confidence      mean   correct" in shown
    assert ConfidenceModel.load(tmp_path / "out").known == ("has_nbest", "has_statistics")
    assert picture.is_file() == drawn
