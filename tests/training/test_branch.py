"""Training of the alignment branch: what it learns, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from asr.decoding.alignment import Aligner
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.branch import (
    BOUNDARY,
    CONFIG_FILE,
    WEIGHTS_FILE,
    AlignmentBranch,
    BranchConfig,
    letter_ids,
    load_branch,
    save_branch,
    speller,
    symbol_count,
)
from asr.models.folder import load_model, save_model
from asr.training.branch import (
    CHECKPOINT,
    BranchTraining,
    branch_command,
)
from asr.training.branch_data import Example, join, quiet_stretches, silence_votes, speech_edges, vary
from tests.toy import toy_model, toy_tokenizer

WORDS = ("one", "two", "see")


def tone(pitch: float, seconds: float) -> np.ndarray:
    t = np.arange(round(16000 * seconds)) / 16000
    return (0.2 * np.sin(2 * np.pi * pitch * t)).astype(np.float32)


def examples(count: int = 40, seed: int = 0) -> tuple[list[Example], list[list[tuple[int, int]]]]:
    """Encoder outputs in which every letter has a direction of its own, and the frames (40 ms) of each word."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(29, 24))
    found, spans = [], []
    for _ in range(count):
        words = [WORDS[i] for i in rng.integers(0, len(WORDS), size=int(rng.integers(1, 5)))]
        said, where = [BOUNDARY] * int(rng.integers(3, 8)), []
        for word in words:
            first = len(said)
            for symbol in letter_ids(word):
                said += [symbol] * int(rng.integers(2, 5))
            where.append((first, len(said)))
            said += [BOUNDARY] * int(rng.integers(2, 9))
        encoded = directions[said] + 0.3 * rng.normal(size=(len(said), 24))
        votes = np.repeat(np.where(np.array(said) == BOUNDARY, 4.0, -4.0), 2).astype(np.float32)
        edges = [(0, "start", where[0][0] * 0.04), (len(words) - 1, "end", where[-1][1] * 0.04)]
        found.append(Example(torch.from_numpy(encoded).half(), words, votes, edges))
        spans.append(where)
    return found, spans


def training(data: list[Example], seed: int = 0) -> BranchTraining:
    torch.manual_seed(seed)
    branch = AlignmentBranch(BranchConfig(input_dim=24, layer=0, hidden=32, context=0))
    return BranchTraining(branch, data, letter_ids, seed)


def test_it_learns_where_words_are():
    run = training(examples()[0])
    run.run(160, 60.0)
    branch = run.finish()
    aligner = Aligner(branch, letter_ids)
    data, spans = examples(15, seed=1)
    errors = []
    for example, where in zip(data, spans, strict=True):
        words = aligner.align(aligner.log_probs(example.encoded.float()), example.words)
        errors += [(w.start - a * 0.04, w.end - b * 0.04) for w, (a, b) in zip(words, where, strict=True)]
    assert np.abs(errors).mean() < 0.02
    assert branch(data[0].encoded.float()[None]).exp()[..., 0].max() < 1e-6  # no blanks


@pytest.mark.parametrize("stop", [10, 40])  # in the first part, in the second
def test_it_goes_on_exactly_where_it_stopped(tmp_path, stop):
    data = examples(16)[0]
    whole = training(data)
    whole.run(60, 60.0)
    first = training(data)
    with pytest.raises(KeyboardInterrupt):
        first.run(60, 60.0, progress=lambda run, share: interrupt(run, stop))
    first.save(tmp_path / "state")
    second = training(data, seed=0)
    second.branch.load_state_dict({k: torch.zeros_like(v) for k, v in second.branch.state_dict().items()})
    assert second.restore(tmp_path / "state") and second.step == stop
    second.run(60, 60.0)
    resumed = second.finish().state_dict()
    for name, value in whole.finish().state_dict().items():
        assert torch.equal(resumed[name], value), name


def interrupt(run, stop):
    if run.step == stop:
        raise KeyboardInterrupt


def test_a_checkpoint_of_other_data_is_not_taken(tmp_path):
    run = training(examples(4)[0])
    run.identity = "a"
    run.save(tmp_path / "state")
    other = training(examples(4)[0])
    other.identity = "b"
    assert not other.restore(tmp_path / "state") and not other.restore(tmp_path / "none")
    (tmp_path / "state").write_bytes(b"broken")
    assert not run.restore(tmp_path / "state")


def test_loudness_tells_speech_from_silence():
    rng = np.random.default_rng(0)
    audio = 1e-4 * rng.standard_normal(16000).astype(np.float32)
    audio[4000:9600] += tone(300, 0.35)
    first, last = speech_edges(audio)
    assert abs(first - 4000) <= 160 and abs(last - 9600) <= 160
    votes = silence_votes(audio)
    assert (votes[:46] > 0.9).all() and (votes[54:116] == -1).all() and (votes[124:] > 0.9).all()
    assert (silence_votes(tone(300, 0.35)) == -1).all()  # cut to its sound
    quiet = quiet_stretches(audio)
    assert (
        len(quiet) == 1 and len(quiet[0]) == 16000 - last - 800
    )  # 0.25 s before the speech are too short with the margin


def test_joined_recordings_know_where_they_begin():
    parts = [tone(300, 0.3), tone(500, 0.2)]
    audio, votes, begins = join(parts, [1e-3 * np.ones(4000, np.float32)], np.random.default_rng(0))
    for part, begin in zip(parts, begins, strict=True):
        assert np.array_equal(audio[begin : begin + len(part)], part)
        assert (votes[begin // 80 : (begin + len(part)) // 80] == -1).all()
    assert len(votes) == len(audio) // 80 and (votes[: begins[0] // 80] == 1).all() and votes[-1] == 1
    assert 0 < np.abs(audio[: begins[0]]).max() < 0.15 * np.abs(parts[0]).max()


def test_a_varied_copy_is_another_voice_of_about_that_length():
    sound = tone(300, 0.5)
    for seed in range(5):
        copy = vary(sound, np.random.default_rng(seed))
        assert copy.dtype == np.float32 and 0.8 < len(copy) / len(sound) < 1.25 and len(copy) != len(sound)


def test_letters_and_tokens_spell():
    assert letter_ids("Three") == letter_ids("thre") and len(letter_ids("don\u2019t")) == 5
    assert letter_ids("café") == letter_ids("cafe") and letter_ids("well-known") == letter_ids("wellknown")
    assert letter_ids("25") == letter_ids("…") == letter_ids("'") == letter_ids("мир") == letter_ids("b2b") == []
    tokenizer = toy_tokenizer()
    config = BranchConfig(symbols="tokens", vocab_size=symbol_count("tokens", tokenizer), input_dim=32)
    ids = speller(config, tokenizer)("nothing")
    assert min(ids) > BOUNDARY and max(ids) < config.vocab_size == tokenizer.vocab_size + 1
    assert speller(config, tokenizer)("25") == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("m") / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "card")


@pytest.fixture
def manifest(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for i in range(12):
        word = ("one", "two", "nine")[i % 3]
        audio = np.concatenate([tone(200 + 100 * (i % 3) + 50 * j, 0.12) for j in range(3)])
        soundfile.write(data / f"{i}.wav", audio, 16000)
        rows.append({"id": str(i), "audio": f"{i}.wav", "text": word.upper(), "split": "train"})
    rows.append({"id": "odd", "audio": "0.wav", "text": "ÆØÅ", "split": "train"})
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return data


def test_command_makes_a_folder_with_model_and_branch(folder, manifest, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    out = tmp_path / "out"
    arguments = ["--model", str(folder), "--manifest", str(manifest), "--out", str(out), "--steps", "40"]
    assert branch_command(arguments) == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before  # the model's own folder is untouched
    assert "40 steps" in capsys.readouterr().out and not (out / CHECKPOINT).exists()
    loaded = load_model(out)
    aligner = Aligner.load(out, loaded.model, loaded.tokenizer)
    assert aligner is not None and aligner.layer == 1
    assert Aligner.load(folder, loaded.model, loaded.tokenizer) is None
    first = (out / WEIGHTS_FILE).read_bytes()
    assert branch_command(arguments) == 0 and (out / WEIGHTS_FILE).read_bytes() == first  # the same again


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--layer", "7"], "the encoder has 3 layers"),
        (["--manifest", "/nowhere"], "no such manifest"),
        (["--model", "/nowhere"], "no model"),
        (["--split", "test"], "no utterance of split 'test': it has train"),
        (["--joim", "3"], "did you mean --join"),
        (["--join", "99"], "--join must be from 0 to 30"),
    ],
)
def test_bad_arguments_are_one_sentence(folder, manifest, tmp_path, extra, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        branch_command(["--model", str(folder), "--manifest", str(manifest), "--out", str(tmp_path / "o"), *extra])
    assert "\n" not in str(error.value)


def test_nothing_to_train_on(folder, manifest, tmp_path):
    rows = [{"id": "a", "audio": "0.wav", "text": "ÆØÅ", "split": "train"}]
    (manifest / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="can write none of the 1 transcripts"):
        branch_command(["--model", str(folder), "--manifest", str(manifest), "--out", str(tmp_path / "o")])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="another model"):
        branch_command(["--model", str(folder), "--manifest", str(manifest), "--out", str(tmp_path / "full")])


def test_a_damaged_branch_is_refused(tmp_path):
    branch = AlignmentBranch(BranchConfig(input_dim=32, layer=1, hidden=8))
    with pytest.raises(UserError, match="asr train-branch"):
        load_branch(tmp_path)
    save_branch(tmp_path, branch, {"note": 1})
    torch.testing.assert_close(load_branch(tmp_path, toy_model().encoder).state_dict(), branch.state_dict())
    text = (tmp_path / CONFIG_FILE).read_text()
    for old, new, sentence in (
        ("input_dim: 32", "input_dim: 64", "width 64, this one has 32"),
        ("layer: 1", "layer: 9", "layer 9, the encoder has 3"),
        ("hidden: 8", "hidden: 9", "does not fit"),
        ("format_version: 1", "format_version: 2", "another format version"),
        ("split: 2", "split: 3", "must be 1, 2 or 4"),
        ("split: 2", "spilt: 2", "spilt"),
    ):
        (tmp_path / CONFIG_FILE).write_text(text.replace(old, new))
        with pytest.raises(UserError, match=sentence):
            load_branch(tmp_path, toy_model().encoder)
    (tmp_path / CONFIG_FILE).write_text(text)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(UserError, match="cannot read"):
        load_branch(tmp_path)
    with torch.no_grad():
        branch.output.bias[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        save_branch(tmp_path, branch)
