"""`asr tune`: its figures are those of `asr evaluate`, nothing is searched twice, and nothing is lost."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.cli import main
from asr.decoding.added import LanguageModels, fused, load_language_model
from asr.decoding.beam import SearchConfig
from asr.decoding.fusion import FusionSum
from asr.decoding.ngram import NgramModel
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.scoring import tune_command
from asr.scoring.manifest import read_manifest
from asr.scoring.trials import Scales, Trial, TrialLog, best_trial, grid
from asr.scoring.tune import Tuner, encode_set, read_utterances, search_set
from asr.scoring.wer import score
from asr.streaming import Recognizer
from asr.tokens import Tokenizer
from asr.training.ngram import estimate
from benchmarks import decoding
from tests.toy import TEXTS, babble, toy_model, toy_tokenizer

SPEAKERS = ["anna", "ben", "anna", "carl", "dora", "ben"]


def ngram(tokenizer: Tokenizer, texts: list[str], order: int) -> NgramModel:
    made = estimate([tokenizer.encode(text) for text in texts], order, tokenizer.vocab_size, tokenizer.endpoint_id)
    return NgramModel.from_grams(made.grams, tokenizer)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy model, six utterances and two language models."""
    folder = tmp_path_factory.mktemp("toy")
    save_model(folder / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "card")
    lines = []
    for i, speaker in enumerate(SPEAKERS):
        soundfile.write(folder / f"{i}.wav", babble(1.2 + 0.2 * i, seed=i), 16000)
        text = " ".join(TEXTS[i % 2].split()[i : i + 4])
        lines.append({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "split": "dev", "speaker": speaker})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ngram(toy_tokenizer(), TEXTS * 3, 3).save(folder / "lm.npz")
    ngram(toy_tokenizer(), TEXTS, 2).save(folder / "bigram.npz")
    return folder


def command(toy: Path, output: Path, *extra: object) -> list[str]:
    words = ["tune", "--model", toy / "model", "--manifest", toy, "--split", "dev", "--beam", 3, "--output", output, *extra]
    return [str(word) for word in words]


LM = ("--lm-scale", 0, 0.5, "--ilm-scale", 0, 0.3)


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert main(["evaluate", "--report", "", "--format", "json", *(str(word) for word in words)]) == 0
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- the figures are true


@pytest.mark.parametrize("search", ["modified_beam", "beam"])
def test_every_figure_is_that_of_evaluate(toy, tmp_path, capsys, search):
    scales = ("--lm-scale", 0, 0.5, "--ilm-scale", 0.3, "--lodr-scale", 0.2, "--blank-penalty", 0, 1)
    extra = ("--lm", toy / "lm.npz", "--lodr", toy / "bigram.npz", *scales, "--search", search)
    assert main(command(toy, tmp_path / "out", *extra)) == 0
    found = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert len(found["trials"]) == 4
    assert len({(t["ins"], t["del"], t["sub"]) for t in found["trials"]}) > 2  # the scales make a difference
    options = tune_command._parser().parse(command(toy, tmp_path / "out", *extra)[1:])
    for trial in (found["trials"][-1], found["best"]):
        words = tune_command.best_options(options, Scales(**trial["scales"]))
        for streaming in [[], ["--streaming"]][: 2 if trial is found["best"] else 1]:
            scores = evaluated(capsys, "--model", toy / "model", "--manifest", toy, *words, *streaming)
            assert {name: scores[name] for name in ("wer", "ins", "del", "sub", "words")} == {
                name: trial[name] for name in ("wer", "ins", "del", "sub", "words")
            }
    assert found["best"] in found["trials"]
    assert found["best"]["wer"] == min(t["wer"] for t in found["trials"])


def test_digits_offline_and_streaming(real_data, tmp_path, capsys):
    """Real speech: the command that is printed gives the rate that is printed."""
    items = read_manifest(real_data / "phone_numbers", "dev")[:5]
    manifest = tmp_path / "five.jsonl"
    manifest.write_text("".join(json.dumps({"id": i.id, "audio": str(i.audio), "text": i.text}) + "\n" for i in items))
    recognizer = Recognizer.load("digits")
    ngram(recognizer.tokenizer, ["one two three", "eight eight five", "nine one zero zero"], 2).save(tmp_path / "lm.npz")
    words = ["--model", "digits", "--manifest", str(manifest), "--map", "oh=zero", "o=zero"]
    tuned = ["tune", *words, "--lm", str(tmp_path / "lm.npz"), "--lm-scale", "0.4", "0", "--ilm-scale", "0", "0.2"]
    assert main([*tuned, "--beam", "3", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    printed = shlex.split(next(line for line in out.splitlines() if line.startswith("options: "))[9:])
    best = json.loads((tmp_path / "tune.json").read_text())
    assert shlex.split(best["options"]) == printed
    for streaming in ([], ["--streaming"]):
        scores = evaluated(capsys, *words, *printed, *streaming)
        assert scores["wer"] == best["best"]["wer"]
        assert f"best: WER {scores['wer']:.2f} %" in out


def test_half_precision_is_near(toy):
    recognizer = Recognizer.load(str(toy / "model"))
    items = read_utterances([toy])
    whole, half = encode_set(recognizer, items), encode_set(recognizer, items, half_precision=True)
    assert half.bytes * 2 == whole.bytes and half.batches[0].frames.dtype == torch.float16
    for a, b in zip(whole.batches, half.batches, strict=True):
        assert a.rows == b.rows
        torch.testing.assert_close(b.frames.float(), a.frames, atol=1e-2, rtol=1e-2)


def test_replayed_words_are_those_of_recognition(toy):
    """Whatever the batches are; the words are put back into the order of the manifest."""
    recognizer = Recognizer.load(str(toy / "model"), search=SearchConfig("modified_beam", beam=4))
    items = read_utterances([toy])
    expected = [result.text for result in recognizer.transcribe([item.audio for item in items])]
    assert len(set(expected)) == len(items)
    for batch_seconds in (0.1, 6.0, 120.0):
        encoded = encode_set(recognizer, items, batch_seconds=batch_seconds)
        assert search_set(recognizer, encoded) == expected
    assert encoded.refs == [item.text for item in items]
    greedy = Recognizer.load(str(toy / "model"))
    assert search_set(greedy, encoded) == [result.text for result in greedy.transcribe([item.audio for item in items])]


def test_rescoring_is_tuned_too(toy, tmp_path, capsys):
    assert main(command(toy, tmp_path, "--rescore", toy / "lm.npz", "--rescore-scale", 0, 1, 4, "--beam", 6)) == 0
    trials = json.loads((tmp_path / "tune.json").read_text())["trials"]
    assert len({(t["ins"], t["del"], t["sub"]) for t in trials}) > 1
    words = ["--model", toy / "model", "--manifest", toy, "--beam", 6, "--rescore", toy / "lm.npz", "--rescore-scale"]
    for trial in (trials[0], trials[2]):
        scores = evaluated(capsys, *words, trial["scales"]["rescore_scale"], "--streaming")
        assert {name: scores[name] for name in ("ins", "del", "sub")} == {name: trial[name] for name in ("ins", "del", "sub")}


def test_fused_scales():
    tokenizer = toy_tokenizer()
    lm, lodr = ngram(tokenizer, TEXTS, 3), ngram(tokenizer, TEXTS, 2)
    from asr.decoding.ngram import NgramFusion

    a, b = NgramFusion(lm, 0.0), NgramFusion(lodr, 0.0)
    assert fused([(a, 0.0), (None, 0.3)]) is None
    assert fused([(a, 0.3), (b, 0.0)]) is a and a.scale == 0.3
    both = fused([(a, 0.4), (b, -0.2)])
    assert isinstance(both, FusionSum)
    state = both.initial_state(1)
    torch.testing.assert_close(
        both.scores(state), NgramFusion(lm, 0.4).scores(state[:1]) + NgramFusion(lodr, -0.2).scores(state[1:])
    )


def test_language_models_from_files_have_their_scales(toy):
    tokenizer = toy_tokenizer()
    made = LanguageModels(toy / "lm.npz", 0.4, toy / "bigram.npz", 0.2).fusion(tokenizer)
    assert isinstance(made, FusionSum) and [part.scale for part in made.parts] == [0.4, -0.2]
    assert LanguageModels(toy / "lm.npz", 0.0).fusion(tokenizer) is None
    assert load_language_model(toy / "lm.npz", 0.7, tokenizer).scale == 0.7


# ---------------------------------------------------------------- the benchmark that reports them


def test_rows_of_the_benchmark(toy, capsys, monkeypatch):
    rows = {"fusion": f"--beam 3 --lm {toy / 'lm.npz'} --lm-scale 0.5", "rescoring": f"--beam 3 --rescore {toy / 'lm.npz'} --rescore-scale 2"}
    given = [word for name, words in rows.items() for word in ("--row", f"{name}={words}")]
    common = ["--model", str(toy / "model"), "--manifest", str(toy)]
    assert decoding.main([*common, *given, "--beam", "3", "--timed", "2", "--rounds", "1", "--parallel", "3"]) == 0
    out = capsys.readouterr().out
    table = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for line in out.splitlines() if len(cells := line.split("|")) == 8}
    assert list(table)[2:] == ["greedy", "modified beam", "full beam", "fusion", "rescoring"]
    for name, words in (("greedy", ""), ("fusion", rows["fusion"])):
        assert table[name][0] == f"{evaluated(capsys, *common, *words.split())['wer']:.2f}"
    assert all(row[4] == "0 / 0" for row in list(table.values())[2:])
    assert all(0 < float(row[3]) < 1 for row in list(table.values())[2:])
    # a stream with other words is told, and is the exit status
    monkeypatch.setattr(decoding, "streamed", lambda recognizer, items, parallel: ["something"] * len(items))
    assert decoding.main([*common, "--timed", "0"]) == 1
    assert "| 6 / 6 |" in capsys.readouterr().out
    with pytest.raises(UserError, match="NAME=OPTIONS"):
        decoding.main([*common, "--row", "greedy"])
    with pytest.raises(UserError, match="without --half"):
        decoding.main([*common, "--row", "a=--beam 2", "--beam 3", "--half", "1"])


def test_row_with_options_for_each_half(toy, capsys):
    """The errors of all are the sum of those of the halves."""
    common = ["--model", str(toy / "model"), "--manifest", str(toy), "--timed", "0", "--no-streams"]
    one, two = f"--beam 3 --lm {toy / 'lm.npz'} --lm-scale 1", "--beam 4 --blank-penalty 1"

    def counts(*words: str) -> np.ndarray:
        assert decoding.main([*common, *words]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| tuned"))
        return np.array([int(number) for number in row.split("|")[3].split("/")])

    both = counts("--row", f"tuned={one}", two)
    np.testing.assert_array_equal(both, counts("--row", f"tuned={one}", "--half", "1") + counts("--row", f"tuned={two}", "--half", "2"))
    assert (both != counts("--row", f"tuned={one}")).any()


def test_interval_of_a_difference():
    refs = ["a b c d"] * 60
    first = score(refs, ["a b c x"] * 60)
    assert decoding.difference(first, first) == (0.0, 0.0)
    assert decoding.difference(score(refs, ["a b x x"] * 60), first) == (25.0, 25.0)  # one more in each: no doubt
    mixed = score(refs, ["a b c d"] * 20 + ["a b c x"] * 40)  # one less in a third of them: p (1 - p) / n
    low, high = decoding.difference(mixed, first)
    deviation = 25 * (1 / 3 * 2 / 3 / 60) ** 0.5
    assert low == pytest.approx(-25 / 3 - 1.96 * deviation, abs=0.6) and high == pytest.approx(-25 / 3 + 1.96 * deviation, abs=0.6)


# ---------------------------------------------------------------- parts


def test_grid_and_best():
    assert grid({"lm_scale": [0.2, 0.0, 0.2], "blank_penalty": [1.0]}) == [Scales(0.0, 0, 0, 1.0), Scales(0.2, 0, 0, 1.0)]
    assert len(grid({"lm_scale": [0, 1, 2], "ilm_scale": [0, 1], "lodr_scale": []})) == 6
    with pytest.raises(UserError, match="--ilm-scale must be finite"):
        grid({"ilm_scale": [0.1, float("nan")]})

    def trial(errors, *scales):
        return Trial(Scales(*scales), 0, 0, errors, 100, 1.0)

    small = trial(5, 0.2, 0.1)
    assert best_trial([trial(6, 0.0), trial(5, 0.3, 0.1), small, trial(5, 0.1, 0.3), trial(5, 0.2, 0.1, 0.1)]) is small
    assert best_trial([trial(5, 0.3, 0.1), trial(4, 0.9, 0.9), small]).errors == 4
    assert best_trial([trial(3, -0.5), trial(3, 0.1)]).scales.lm_scale == 0.1  # small, not low
    assert trial(5).wer == 5.0


def test_halves_share_no_speaker(toy):
    parts = [read_utterances([toy], "dev", half) for half in (1, 2)]
    assert [[item.id for item in part] for part in parts] == [["u0", "u2", "u3"], ["u1", "u4", "u5"]]  # anna, carl; ben, dora
    assert len(read_utterances([toy, toy])) == 12


def test_halves_of_real_sets(real_data):
    for name in ("librispeech", "speechocean762"):
        lines = [json.loads(line) for line in open(real_data / name / "manifest.jsonl")]
        speaker = {line["id"]: line["speaker"] for line in lines}
        parts = [{item.id for item in read_utterances([real_data / name], "dev", half)} for half in (1, 2)]
        assert not {speaker[i] for i in parts[0]} & {speaker[i] for i in parts[1]}
        assert parts[0] | parts[1] == {line["id"] for line in lines if line["split"] == "dev"}
        assert min(map(len, parts)) > 0.3 * max(map(len, parts))


def test_halves_without_speakers(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    lines = [{"id": name, "audio": "a.wav", "text": "one"} for name in "cab"]
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [item.id for item in read_utterances([file], None, 1)] == ["c", "a"]  # every other by name: a, c
    file.write_text("".join(json.dumps(line | {"speaker": "anna"}) + "\n" for line in lines))
    assert [item.id for item in read_utterances([file], None, 2)] == ["b"]
    file.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(UserError, match="one utterance only"):
        read_utterances([file], None, 2)


# ---------------------------------------------------------------- going on


class Counter:
    """Counts the searches, and stops before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None):
        self.scales: list[Scales] = []
        original = Tuner.trial

        def trial(tuner, encoded, scales, progress=None):
            if stop is not None and len(self.scales) == stop:
                raise KeyboardInterrupt
            self.scales.append(scales)
            return original(tuner, encoded, scales, progress)

        monkeypatch.setattr(Tuner, "trial", trial)


def test_stopped_and_started_again(toy, tmp_path, capsys, monkeypatch):
    words = command(toy, tmp_path / "a", "--lm", toy / "lm.npz", *LM)
    assert main(words) == 0
    whole = capsys.readouterr().out
    words[words.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    with monkeypatch.context() as patch:
        first = Counter(patch, stop=2)
        assert main(words) == 130
    log = tmp_path / "b" / "tune.jsonl"
    assert len(log.read_text().splitlines()) == 3 and not (tmp_path / "b" / "tune.json").exists()
    with open(log, "a") as file:
        file.write('{"settings": "0123", "sca')  # cut off in the middle of a line
    with monkeypatch.context() as patch:
        second = Counter(patch)
        assert main(words) == 0
    assert len(first.scales) == len(second.scales) == 2 and not set(first.scales) & set(second.scales)
    told = capsys.readouterr()
    assert "done before: 2" in told.out and "1 damaged lines" in told.err
    table = whole[whole.index("WER %") : whole.index("written")]
    assert table in told.out
    a, b = (json.loads((tmp_path / name / "tune.json").read_text()) for name in "ab")
    for trial in [*a["trials"], *b["trials"], a["best"], b["best"]]:
        trial.pop("seconds")
    assert a == b


def test_only_what_is_new_is_searched(toy, tmp_path, monkeypatch):
    words = command(toy, tmp_path, "--lm", toy / "lm.npz", "--lm-scale", 0, 0.5)
    assert main(words) == 0
    counter = Counter(monkeypatch)
    assert main(words) == 0 and counter.scales == []
    assert main([*words, "0.7"]) == 0 and counter.scales == [Scales(0.7)]
    lines = (tmp_path / "tune.jsonl").read_text().splitlines()
    other = [str(4) if word == "3" else word for word in words]  # another beam: other settings
    assert main(other) == 0 and counter.scales[1:] == [Scales(0.0), Scales(0.5)]
    assert (tmp_path / "tune.jsonl").read_text().splitlines()[: len(lines)] == lines
    assert main([*words, "--half", "1"]) == 0 and len(counter.scales) == 5
    (tmp_path / "copy.npz").write_bytes((toy / "lm.npz").read_bytes())
    assert main([str(tmp_path / "copy.npz") if word == str(toy / "lm.npz") else word for word in words]) == 0
    assert main([str(toy / "bigram.npz") if word == str(toy / "lm.npz") else word for word in words]) == 0
    assert len(counter.scales) == 7  # a copy is the same model, the bigram is another


def test_log_reads_what_it_wrote(tmp_path):
    log = TrialLog(tmp_path / "new" / "folder", {"beam": 4})
    trial = Trial(Scales(0.1, 0.2, 0.30000000000000004, -1.0), 1, 2, 3, 40, 0.5)
    log.add(trial)
    assert TrialLog(tmp_path / "new" / "folder", {"beam": 4}).trials == {trial.scales: trial}
    assert TrialLog(tmp_path / "new" / "folder", {"beam": 5}).trials == {}
    assert sum('"beam"' in line for line in log.file.read_text().splitlines()) == 2  # each settings told once


# ---------------------------------------------------------------- what is printed and drawn


def test_table_and_notes(capsys):
    options = tune_command._parser().parse(["--model", "m", "--manifest", "f", "--lm", "my lm.npz"])
    trials = [
        Trial(Scales(lm, ilm, 0.0, penalty), 0, 0, round(10 * (1 + abs(lm - 0.2) + abs(ilm - 0.1) + penalty)), 100, 1.0)
        for lm in (0.0, 0.2, 0.4)
        for ilm in (0.0, 0.1)
        for penalty in (0.0, 1.0)
    ]
    best = best_trial(trials)
    axes = ["lm_scale", "ilm_scale", "blank_penalty"]
    tune_command._print_results(options, trials, best, axes)
    out = capsys.readouterr().out
    assert out.startswith("at blank-penalty 0, as the best\n\nWER %: lm-scale down, ilm-scale across\n")
    assert out.splitlines()[3].split() == ["0", "0.1"]
    assert out.splitlines()[5].split() == ["0.2", "11.00", "10.00*"]
    assert out.count("*") == 1
    assert "best: WER 10.00 % (10 / 100 words: 0 insertions, 0 deletions, 10 substitutions) at lm-scale 0.2, ilm-scale 0.1" in out
    assert "at 0: WER 13.00 %" in out
    assert "note: the best ilm-scale is at the end of those tried" in out and "note: the best lm-scale" not in out
    assert "options: --search modified_beam --beam 4 --lm 'my lm.npz' --lm-scale 0.2 --ilm-scale 0.1\n" in out


def test_pictures(toy, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    assert main(command(toy, tmp_path / "two", "--lm", toy / "lm.npz", *LM)) == 0
    assert (tmp_path / "two" / "tune.png").read_bytes()[:4] == b"\x89PNG"
    assert main(command(toy, tmp_path / "one", "--blank-penalty", -1, 0, 1)) == 0
    assert (tmp_path / "one" / "tune.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(command(toy, tmp_path / "none", "--blank-penalty", 0, 1)) == 0
    told = capsys.readouterr()
    assert "best: WER" in told.out and "no picture: matplotlib is not installed" in told.err
    assert not (tmp_path / "none" / "tune.png").exists() and (tmp_path / "none" / "tune.json").exists()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "extra, sentence",
    [
        ((), "nothing to tune"),
        (("--lm-scale", 0, 1), "--lm-scale needs --lm"),
        (("--lodr-scale", 0, 1), "--lodr-scale needs --lodr"),
        (("--rescore-scale", 0, 1), "--rescore-scale needs --rescore"),
        (("--lm", "none.npz"), "none.npz"),
        (("--ilm-scale", 0, "nan"), "--ilm-scale must be finite"),
        (("--ilm-scale", 0, "x"), "invalid float"),
        (("--ilm-scale", 0, -0.1), "--ilm-scale must be 0 or more, not -0.1"),
        (("--lm", "none.npz", "--lm-scale", -1, 0), "--lm-scale must be 0 or more, not -1"),
        (("--ilm-scale", 0, 1, "--max-symbols", 2), "--max-symbols needs --search beam"),
        (("--ilm-scale", 0, 1, "--beam", 0), "beam must be"),
        (("--ilm-scale", 0, 1, "--memory", 0), "--memory must be above 0"),
        (("--ilm-scale", 0, 1, "--memory", 1e-5), "take .* GB, more than the 1e-05 of --memory"),
        (("--ilm-scale", 0, 1, "--split", "test"), "no utterance of split 'test'"),
        (("--ilm-scale", 0, 1, "--map", "oh"), "--map takes"),
        (("--ilm-scale", 0, 1, "--model", "none"), "none"),
        (("--ilm-skale", 0, 1), "did you mean --ilm-scale"),
    ],
)
def test_bad_input(toy, tmp_path, capsys, extra, sentence):
    import re

    before = TrialLog(tmp_path, {"other": 1}).file.read_text()
    words = command(toy, tmp_path, *extra)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert re.search(sentence, told) and len(told.strip().splitlines()) == 1
    assert (tmp_path / "tune.jsonl").read_text().startswith(before)
    assert not (tmp_path / "tune.json").exists()


def test_output_that_cannot_be(toy, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(command(toy, tmp_path / "file", "--ilm-scale", 0, 1)) == 2
    assert "cannot use" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


def test_a_damaged_recording_is_told_and_left_out(toy, tmp_path, capsys):
    lines = [json.loads(line) for line in (toy / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        line["audio"] = str(toy / line["audio"])
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    lines[1]["audio"] = str(tmp_path / "bad.wav")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(command(tmp_path, tmp_path / "out", "--ilm-scale", 0, 0.3, "--model", toy / "model")) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and "bad.wav" in told.err and "best: WER" in told.out
    trial = json.loads((tmp_path / "out" / "tune.json").read_text())["best"]
    assert trial["words"] == sum(len(line["text"].split()) for line in lines[:1] + lines[2:])


def test_references_without_words(toy, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", babble(1.0), 16000)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"id": "a", "audio": "a.wav", "text": "..."}) + "\n")
    assert main(["tune", "--model", str(toy / "model"), "--manifest", str(tmp_path), "--ilm-scale", "0", "1", "--output", str(tmp_path)]) == 2
    assert "no reference words" in capsys.readouterr().err


def test_no_speaker_of_several_manifests_is_in_both_halves(toy, tmp_path):
    rows = [json.loads(line) for line in (toy / "manifest.jsonl").read_text().splitlines()]
    manifests = []
    for name, part in (("a", rows[:-1]), ("b", rows[1:])):
        manifests.append(tmp_path / f"{name}.jsonl")
        lines = [json.dumps({**row, "audio": str((toy / row["audio"]).resolve()), "speaker": f"s{rows.index(row)}"}) for row in part]
        manifests[-1].write_text("\n".join(lines) + "\n")
    one, two = ({item.speaker for item in read_utterances(manifests, half=half)} for half in (1, 2))
    assert one and two and not one & two and len(one | two) == len(rows)
