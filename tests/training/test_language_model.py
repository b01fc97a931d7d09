"""Language models through `asr train`: what is read, learned, reported, resumed and refused."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.config import dump_yaml, from_dict, to_dict
from asr.decoding.added import model_folder, read_language_model
from asr.decoding.ngram import NgramModel
from asr.errors import UserError
from asr.models.lm import LanguageModel, LanguageModelConfig, load_lm, save_lm, tokens_hash
from asr.tokens import MODEL_FILE, Tokenizer
from asr.training.checkpoint import read_checkpoint, step_checkpoints
from asr.training.command import train_command
from asr.training.fit import fit
from asr.training.language_model import export_language_model, fit_language_model
from asr.training.ngram import ngram_command
from asr.training.perplexity import main as perplexity_main
from asr.training.perplexity import measure_perplexity, perplexities
from asr.training.recipe import LanguageModelRecipe, Recipe, load_recipe
from asr.training.text import Sentences, TextDataConfig, TextSource, read_sentences
from asr.training.text_data import HeldOut, TextStream
from tests.training.helpers import differing, start_child

RecipeMaker = Callable[..., LanguageModelRecipe]


def write_text(path: Path, sentences: int, seed: int) -> Path:
    """Sentences of a tiny language: who does what to whom."""
    rng = random.Random(seed)
    who, verbs = ["the cat", "a dog", "my old uncle", "the king"], ["sees", "likes", "chases"]
    path.write_text(
        "".join(f"{rng.choice(who)} {rng.choice(verbs)} {rng.choice(who)}\n" for _ in range(sentences))
    )
    return path


@pytest.fixture
def make_text_recipe(tmp_path: Path) -> RecipeMaker:
    """`make_text_recipe(name, {"optim.lr": 0.1, …})`: a recipe of a few thousand parameters."""
    train, dev = write_text(tmp_path / "train.txt", 150, 1), write_text(tmp_path / "dev.txt", 30, 2)

    def make(name: str = "run", changes: dict[str, Any] | None = None) -> LanguageModelRecipe:
        mapping: dict[str, Any] = {
            "task": "language_model",
            "name": "tiny",
            "output_dir": str(tmp_path / name),
            "model": {"embed_dim": 16, "hidden_dim": 24, "dropout": 0.0},
            "tokens": {"vocab_size": 40},
            "data": {"train": [str(train)], "dev": [str(dev)], "max_tokens": 200, "max_sentence_tokens": 60},
            "optim": {"lr": 0.02, "warmup_steps": 2, "schedule": "constant"},
            "trainer": {
                "max_steps": 3,
                "accelerator": "cpu",
                "validate_every_steps": 0,
                "progress_seconds": 0.0,
                "average": {"kind": "ema", "decay": 0.9},
            },
        }
        for key, value in (changes or {}).items():
            *parents, leaf = key.split(".")
            node = mapping
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return from_dict(LanguageModelRecipe, mapping)

    return make


def test_training_lowers_the_loss_and_says_so(
    make_text_recipe: RecipeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"trainer.max_steps": 120, "trainer.validate_every_steps": 60, "trainer.progress_seconds": 0.1}
    recipe = make_text_recipe("run", {**changes, "trainer.log_every_steps": 10})
    dump_yaml(recipe, tmp_path / "recipe.yaml")
    assert train_command([str(tmp_path / "recipe.yaml"), "--seed", "2"]) == 0
    told = capsys.readouterr().err
    assert "tokens/s" in told and "audio" not in told and "WER" not in told and "finished at step 120" in told
    dev = [json.loads(line) for line in (recipe.folder() / "dev.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in dev] == [60, 120]
    last = dev[-1]
    # Who, what, whom are all there is to guess: 4 * 3 * 4 sentences. Pieces of a chosen word are certain.
    best = math.exp(math.log(4 * 3 * 4) * 30 / last["tokens"])
    assert best < last["perplexity"] < 1.25 * best and last["perplexity"] <= dev[0]["perplexity"]
    assert f"step 120  dev perplexity {last['perplexity']:.2f} a token, {last['word_perplexity']:.1f} a word" in told
    assert (last["words"], last["sentences"]) == (float(len(Path(recipe.data.dev[0]).read_text().split())), 30.0)

    loaded = load_lm(recipe.folder() / "model")
    again = measure_perplexity(loaded.model, loaded.tokenizer, recipe.data)
    assert again["perplexity"] == pytest.approx(last["perplexity"], rel=1e-5)  # the weights that were measured
    assert perplexity_main(["--model", str(loaded.folder), str(recipe.data.dev[0])]) == 0
    assert f"perplexity {last['perplexity']:.2f} a token, " in capsys.readouterr().out
    assert perplexity_main(["--model", str(loaded.folder), "--start", "2", str(recipe.data.dev[0])]) == 2
    card = (loaded.folder / "README.md").read_text()
    assert f"{last['perplexity']:.2f} a token" in card and "Trained for 120 steps" in card

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(recipe.folder() / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses[-1] < 0.5 * losses[0]
    tags = set(events.Tags()["scalars"])
    assert {"dev/perplexity", "dev/word_perplexity", "train/tokens_per_second"} <= tags
    assert not any("audio" in tag or "wer" in tag for tag in tags)


def content(path: Path) -> dict[str, Any]:
    found = read_checkpoint(path)
    info = found["asr"]
    return {
        "weights": found["state_dict"],
        "optimizer": found["optimizer_states"],
        "data": found["loops"]["fit_loop"]["state_dict"].get("combined_loader"),
        **{key: info[key] for key in ("average", "guard", "random", "step", "tokens", "model")},
    }


def test_resume_is_bitwise_exact_after_a_kill(make_text_recipe: RecipeMaker, tmp_path: Path) -> None:
    changes = {
        "model.dropout": 0.2,
        "model.layers": 2,
        "optim.schedule": "cosine",
        "trainer.max_steps": 11,
        "trainer.accumulate": 2,
        "trainer.validate_every_steps": 3,
        "trainer.checkpoint_every_steps": 4,
    }
    whole = content(fit_language_model(make_text_recipe("whole", changes)).checkpoint)
    recipe = make_text_recipe("killed", changes)
    child = start_child(recipe, tmp_path / "recipe.yaml", kill_at=6)  # type: ignore[arg-type]
    told = child.communicate(timeout=120)[1]
    assert child.returncode == -signal.SIGKILL, told
    (kept,) = step_checkpoints(recipe.folder())
    assert kept.name == "step-00000004.ckpt" and content(kept)["data"][0]["consumed"] == 8
    result = fit_language_model(recipe)
    assert result.finished and list(differing(content(result.checkpoint), whole)) == []


def test_a_run_of_something_else_is_not_continued(make_text_recipe: RecipeMaker, tmp_path: Path) -> None:
    fit_language_model(make_text_recipe())
    with pytest.raises(UserError, match=r"optim\.lr was 0\.02 and is 0\.01"):
        fit_language_model(make_text_recipe("run", {"optim.lr": 0.01}))
    assert fit_language_model(make_text_recipe("run", {"optim.lr": 0.01}), "never").step == 3
    write_text(tmp_path / "train.txt", 160, 1)
    with pytest.raises(UserError, match="the training text has .* tokens, but .* when the run began"):
        fit_language_model(make_text_recipe("run", {"optim.lr": 0.01, "trainer.max_steps": 5}))
    acoustic = Recipe(output_dir=str(tmp_path / "run"))
    acoustic.data.train = ["nowhere"]
    with pytest.raises(UserError):
        fit(acoustic)
    state = {"asr": {"format": 1, "recipe": to_dict(acoustic), "step": 1}}
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "other" / "checkpoints" / "step-00000001.ckpt")
    with pytest.raises(UserError, match="holds a run of an acoustic model"):
        fit_language_model(make_text_recipe("other"))
    with pytest.raises(UserError, match="no checkpoint of a language model"):
        export_language_model(tmp_path / "other", tmp_path / "lm")


def test_tokens_and_weights_of_another_model(make_text_recipe: RecipeMaker, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train((tmp_path / "train.txt").read_text().splitlines(), 32, endpoint=True)
    tokenizer.save(tmp_path / "acoustic")
    changes = {"tokens.path": str(tmp_path / "acoustic"), "optim.lr": 1e-12}
    first = fit_language_model(make_text_recipe("first", changes)).model
    assert first is not None and tokens_hash(load_lm(first, tokenizer).tokenizer) == tokens_hash(tokenizer)
    assert (first / MODEL_FILE).read_bytes() == tokenizer.model
    second = fit_language_model(make_text_recipe("second", {**changes, "seed": 2, "init_from": str(first)})).model
    assert second is not None
    for name, value in load_lm(second).model.state_dict().items():
        torch.testing.assert_close(value, load_lm(first).model.state_dict()[name], rtol=0, atol=1e-9)
    for extra, words in (({"tokens.path": ""}, "has other tokens"), ({"model.layers": 2}, "another architecture")):
        with pytest.raises(UserError, match=words):
            fit_language_model(make_text_recipe("third", {**changes, "init_from": str(first), **extra}))


def test_mistakes_in_the_recipe_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    text = "task: language_model\ndata: {train: [nowhere.txt]}\n"
    for more, args, words in (
        ("model: {hiden_dim: 5}\n", [], "unknown key 'model.hiden_dim' .*did you mean 'model.hidden_dim'"),
        ("loss: {kind: full}\n", [], "unknown key 'loss.kind'"),
        ("", ["--model.layer", "5"], "unknown option '--model.layer' .*'--model.layers'"),
        ("model: {layers: 0}\n", [], "layers is 0"),
        ("trainer: {keep_best: 2}\n", [], "trainer.keep_best"),
        ("optim: {lr: 0}\n", [], "optim.lr is 0"),
        ("", ["--data.max_tokens", "300"], "data.max_tokens 300 has no room"),
        ("", ["--data.dev", "[{path: a.txt, start: 0.5, stop: 0.2}]"], "from 0.5 to 0.2"),
        ("", ["--data.train", "[]"], "data.train names no text"),
        ("", ["--task", "transducer"], "task is 'transducer'"),
        ("", ["--output_dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"], "no text file nowhere.txt"),
    ):
        path.write_text(text + more)
        assert train_command([str(path), *args]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and error[0].startswith("error: ")
        assert re.search(words, error[0]), error[0]
    path.write_text("task: language\ndata: {train: [nowhere]}\n")
    with pytest.raises(UserError, match="task is 'language': it must be one of transducer, language_model"):
        load_recipe(path)


def test_kinds_of_text_files(tmp_path: Path) -> None:
    lines = ["ONE  two\n", "\n", "three\n", "Don\u2019t\n"]
    (tmp_path / "a.txt").write_text("".join(lines))
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.writelines(lines)
    records = [{"text": "one TWO", "split": "dev"}, {"text": "three", "split": "train"}, {"text": "don't"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz"):
        assert read_sentences(str(tmp_path / name)) == ["one two", "three", "don't"]
    assert read_sentences(TextSource(str(tmp_path / "a.jsonl"), split="dev")) == ["one two"]
    assert read_sentences(TextSource(str(tmp_path / "a.txt"), stop=0.5)) == ["one two"]
    assert read_sentences(TextSource(str(tmp_path / "a.txt"), start=0.5)) == ["three", "don't"]

    (tmp_path / "latin.txt").write_bytes("für\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "half.txt.gz").write_bytes((tmp_path / "a.txt.gz").read_bytes()[:-12])
    (tmp_path / "plain.txt.gz").write_text("not packed")
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"words": 3}\n')
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    for source, words in (
        ("nowhere.txt", "no text file"),
        ("a.csv", r"must end in \.txt"),
        ("latin.txt", "not UTF-8"),
        ("empty.txt", "holds no text"),
        ("half.txt.gz", "cannot read"),
        ("plain.txt.gz", "cannot read"),
        ("bad.jsonl", 'line 2 is not an object with "text"'),
        ("number.jsonl", '"text" is int'),
    ):
        with pytest.raises(UserError, match=words):
            read_sentences(str(tmp_path / source))
    with pytest.raises(UserError, match="no splits"):
        read_sentences(TextSource(str(tmp_path / "a.txt"), split="dev"))
    with pytest.raises(UserError, match="no text in that part"):
        read_sentences(TextSource(str(tmp_path / "a.jsonl"), split="test"))


def test_every_sentence_once_an_epoch_in_batches_that_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_text(tmp_path / "text.txt", 60, 3)
    tokenizer = Tokenizer.train(path.read_text().splitlines(), 40)
    path.write_text(path.read_text() + "a dog sees m7le\n" + "cat " * 80 + "\n")
    sentences = Sentences([str(path)], tokenizer, 60)
    told = " ".join(caplog.messages)
    assert "characters left out of 1 sentences" in told and "'7'" in told and "1 sentences left out" in told
    words = sum(len(line.split()) for line in path.read_text().splitlines()[:61])
    assert len(sentences) == 61 and sentences.words.sum() == words

    def epoch(stream: TextStream) -> list[list[str]]:
        rounds = len(stream.plan()) // stream.world
        batches = [batch for batch, _ in zip(stream, range(rounds), strict=False)]
        for batch in batches:
            rows, width = batch.tokens.shape
            assert rows * (width + 1) <= 120 and batch.lengths.max() == width
            for row, length, name in zip(batch.tokens, batch.lengths, batch.ids, strict=True):
                at = int(sentences.starts[int(name)])
                assert row[:length].tolist() == sentences.ids[at : at + int(length)].tolist()
                assert not row[length:].any()
        return [batch.ids for batch in batches]

    one = epoch(TextStream(sentences, 120, 7))
    assert sorted(int(i) for ids in one for i in ids) == list(range(61))
    ranks = [epoch(TextStream(sentences, 120, 7, rank, 2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    together = [ids for pair in zip(*ranks, strict=True) for ids in pair]
    assert together == one[: len(together)] and len(one) - len(together) < 2
    stream = TextStream(sentences, 120, 7)
    seen = [ids for batch, _ in zip(stream, range(len(one) + 3), strict=False) for ids in [batch.ids]]
    assert seen[: len(one)] == one and stream.epoch == 1 and seen[len(one) :] != one[:3]
    other = TextStream(sentences, 120, 7)
    other.load_state_dict(stream.state_dict())
    assert next(iter(other)).ids == next(iter(stream)).ids
    held = [int(i) for rank in range(2) for batch in HeldOut(sentences, 120, rank, 2) for i in batch.ids]
    assert sorted(held) == list(range(61))
    with pytest.raises(UserError, match="no sentence of .* can be used"):
        Sentences([str(path)], tokenizer, 2)


def test_perplexities_count_the_end_of_the_sentence() -> None:
    found = perplexities(nats=60.0, tokens=30.0, words=8.0, sentences=2.0)
    assert found["loss"] == 2.0 and found["perplexity"] == pytest.approx(math.exp(2.0))
    assert found["word_perplexity"] == pytest.approx(math.exp(60.0 / 10.0))
    assert math.isfinite(perplexities(1e9, 1.0, 1.0, 1.0)["word_perplexity"])


def test_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path: Path) -> None:
    path = write_text(tmp_path / "text.txt", 20, 4)
    tokenizer = Tokenizer.train(path.read_text().splitlines(), 40)
    model = LanguageModel(40, LanguageModelConfig(4, 4, 1, 0.0, False))
    with torch.no_grad():
        model.output.weight.zero_()  # type: ignore[operator]
    found = measure_perplexity(model, tokenizer, TextDataConfig(dev=[str(path)]))
    assert found["perplexity"] == pytest.approx(40.0, rel=1e-4)
    tokens = sum(len(tokenizer.encode(line)) + 1 for line in path.read_text().splitlines())
    assert found["tokens"] == tokens and np.isclose(found["loss"], math.log(40.0), rtol=1e-5)


def test_perplexity_of_an_ngram_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_text(tmp_path / "text.txt", 40, 4)
    sentences = path.read_text().splitlines()
    tokenizer = Tokenizer.train(sentences, 40)
    tokenizer.save(tmp_path / "model")
    tokens = ["--tokens", str(tmp_path / "model")]
    for name in ("lm.npz", "lm.arpa"):
        assert ngram_command(["--text", str(path), *tokens, "--out", str(tmp_path / name), "--dev", str(path)]) == 0
        told = capsys.readouterr().out.splitlines()[-1]
        assert perplexity_main(["--model", str(tmp_path / name), *tokens, str(path)]) == 0
        found = capsys.readouterr().out
        assert told.split("; ")[-1].split(" (")[0] == found.split(" (")[0]
    expected = NgramModel.load(tmp_path / "lm.npz", tokenizer).perplexity(map(tokenizer.encode, sentences))
    assert f"perplexity {expected:.2f} a token, " in found and f"{len(sentences)} sentences" in found
    assert perplexity_main(["--model", str(tmp_path / "lm.npz"), str(path)]) == 2
    assert "lm.npz is an n-gram file: name the model that it was made for with --tokens" in capsys.readouterr().err
    assert perplexity_main(["--model", str(tmp_path / "none.npz"), str(path)]) == 2
    assert "no such language-model folder" in capsys.readouterr().err


def test_what_training_wrote_is_a_language_model_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that holds model/, which is what a recipe names."""
    path = write_text(tmp_path / "text.txt", 40, 4)
    tokenizer = Tokenizer.train(path.read_text().splitlines(), 40)
    save_lm(tmp_path / "run" / "model", LanguageModel(40, LanguageModelConfig(4, 4, 1, 0.0, False)), tokenizer, "# card\n")
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        assert model_folder(folder) == tmp_path / "run" / "model"
        assert isinstance(read_language_model(folder, tokenizer), LanguageModel)
        assert perplexity_main(["--model", str(folder), str(path)]) == 0
    assert model_folder(tmp_path) == tmp_path
    with pytest.raises(UserError, match="is not a language-model folder"):
        read_language_model(tmp_path, tokenizer)


def test_marks_that_nobody_says_are_spaces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As for n-grams and phrases: words beside a comma or a hyphen stay apart, and nothing is warned of."""
    plain = "a dog sees a cat"
    tokenizer = Tokenizer.train([plain], 16)
    (tmp_path / "a.txt").write_text(f"{plain}\nA dog, sees:a-cat.\n")
    sentences = Sentences([str(tmp_path / "a.txt")], tokenizer, 60)
    assert caplog.messages == [] and sentences.ids.tolist() == tokenizer.encode(plain) * 2
