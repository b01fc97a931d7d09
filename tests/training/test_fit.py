"""A whole run: it learns, it reports, it starts from other weights, it makes a model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr.data.loader import make_dev_loader
from asr.decoding.greedy import greedy_search
from asr.errors import UserError
from asr.models.folder import load_model
from asr.training.checkpoint import best_checkpoints
from asr.training.export import export_folder
from asr.training.fit import fit
from asr.training.recipe import Recipe

RecipeMaker = Callable[..., Recipe]

LEARNING = {
    "trainer.max_steps": 200,
    "trainer.validate_every_steps": 100,
    "trainer.log_every_steps": 10,
    "trainer.keep_best": 1,
    "optim.lr": 0.02,
    "model.encoder": {
        "dim": 32,
        "heads": 2,
        "ffn_dim": 64,
        "layers": 1,
        "dropout": 0.0,
        "left_context_ms": 320,
    },
    "model.predictor": {"kind": "stateless", "embed_dim": 32, "dropout": 0.0},
    "model.joiner": {"dim": 32},
}


def test_overfitting_a_few_utterances_lowers_loss_and_wer(
    make_recipe: RecipeMaker, corpus: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        **LEARNING,
        "data.dev": [str(corpus[0])],
        "data.disjoint_speakers": False,
        "trainer.progress_seconds": 0.2,
    }
    recipe = make_recipe("run", changes)
    result = fit(recipe)
    dev = [json.loads(line) for line in (recipe.folder() / "dev.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in dev] == [100, 200]
    assert dev[-1]["loss"] < 0.2 and dev[-1]["wer"] < 10 and dev[-1]["words"] > 40
    assert dev[-1]["loss"] < dev[0]["loss"]
    lines = capsys.readouterr().err.splitlines()  # without a terminal: whole lines, with rate and ETA
    assert any("audio-s/s" in line and "ETA 0:00:0" in line and "step 1" in line for line in lines)
    assert any(line.startswith("step 200  dev loss") for line in lines)
    assert len(best_checkpoints(recipe.folder())) == 1

    # The model folder recognises what the run says it does.
    assert result.model is not None
    loaded = load_model(result.model)
    wrong = 0
    for batch in make_dev_loader(recipe.data, loaded.tokenizer):
        out = loaded.model.encode(batch.features, batch.feature_lengths)
        texts = [loaded.tokenizer.decode(h.tokens) for h in greedy_search(loaded.model, *out)]
        wrong += sum(text != ref for text, ref in zip(texts, batch.texts, strict=True))
    assert wrong <= dev[-1]["ins"] + dev[-1]["del"] + dev[-1]["sub"]


def test_tensorboard_file_has_the_tags(make_recipe: RecipeMaker) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {
        "trainer.max_steps": 6,
        "trainer.log_every_steps": 2,
        "trainer.validate_every_steps": 3,
        "loss.kind": "pruned",
    }
    recipe = make_recipe("run", {**changes, "model.ctc": True, "loss.ctc_weight": 0.3})
    fit(recipe)
    events = EventAccumulator(str(recipe.folder() / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    parts = {f"train/{name}" for name in ("loss", "transducer", "simple", "ctc")}
    rates = {"train/learning_rate", "train/gradient_norm", "train/audio_seconds_per_second"}
    assert parts | rates | {"dev/loss", "dev/wer"} <= set(tags["scalars"])
    assert "dev/sample/text_summary" in tags["tensors"]
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("dev/wer")] == [3, 6]
    assert all(event.value > 0 for event in events.Scalars("train/audio_seconds_per_second"))
    sample = events.Tensors("dev/sample/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "reference" in sample and any(word in sample for word in ("low", "mid", "high"))


def test_weights_to_start_from_and_what_is_said(
    make_recipe: RecipeMaker, caplog: pytest.LogCaptureFixture
) -> None:
    source = fit(make_recipe("source", {"trainer.max_steps": 2})).model
    assert source is not None
    changes = {
        "trainer.max_steps": 1,
        "optim.lr": 1e-12,
        "model.joiner": {"dim": 24},
        "init_from.path": str(source),
    }
    with caplog.at_level(logging.INFO, "asr.training"):
        result = fit(make_recipe("target", {**changes, "init_from.parts": ["encoder", "joiner"]}))
    assert result.model is not None
    old, new = load_model(source).model.state_dict(), load_model(result.model).model.state_dict()
    for name, value in new.items():
        if name.startswith("encoder."):  # the feature statistics among them
            torch.testing.assert_close(value, old[name], rtol=0, atol=1e-9)
    assert not torch.equal(new["predictor.embedding.weight"], old["predictor.embedding.weight"])
    said = next(message for message in caplog.messages if message.startswith("weights from"))
    assert "(encoder" in said and "joiner.encoder_linear.weight ((16, 16) there, (24, 16) here)" in said


def test_card_tells_the_dev_result_of_the_weights_it_comes_with(make_recipe: RecipeMaker) -> None:
    recipe = make_recipe(
        "run", {"trainer.max_steps": 4, "trainer.validate_every_steps": 2, "trainer.keep_best": 3}
    )
    folder, result = recipe.folder(), fit(recipe)
    dev = {int(x["step"]): x for x in map(json.loads, (folder / "dev.jsonl").read_text().splitlines())}
    assert sorted(dev) == [2, 4]
    assert result.model is not None

    def told(model: Path) -> list[str]:
        return [line for line in (model / "README.md").read_text().splitlines() if line.startswith("- Dev")]

    (line,) = told(result.model)
    assert "at step 4" in line and f"{dev[4]['wer']:.2f} %" in line
    early = next(path for path in best_checkpoints(folder) if path.name.endswith("step-00000002.ckpt"))
    (line,) = told(export_folder(early, folder / "early"))
    assert "at step 2" in line
    # Nobody has measured the weights without their running average, nor a mean over checkpoints.
    assert told(export_folder(folder, folder / "plain", average=False)) == []
    assert told(export_folder(best_checkpoints(folder), folder / "mean")) == []


def test_mistakes_are_found_before_the_preparation(make_recipe: RecipeMaker, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for changes, words in (
        ({"data.dev": [nowhere]}, "nowhere"),
        ({"data.augment": {"noise": {"probability": 0.5, "sources": [nowhere]}}}, "nowhere"),
        ({"trainer.devices": "abc"}, "trainer.devices is 'abc'"),
    ):
        recipe = make_recipe("run", changes)
        with pytest.raises(UserError, match=words):
            fit(recipe)
        assert not (recipe.folder() / "prepared").exists()
