"""One optimizer step: normalisation over ranks and accumulation, precision, guards."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr.data.dataset import Batch
from asr.errors import UserError
from asr.training.fit import fit
from asr.training.guard import drop_impossible
from asr.training.recipe import Recipe
from tests.training.helpers import differing, join_batches, make_batch, train_on, train_ranks

STEPS = 20
RecipeMaker = Callable[..., Recipe]


@pytest.fixture
def batches() -> list[Batch]:
    """Batches of quite different token counts, so that a wrong normaliser shows."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 40, 3), (5, 64, 8), (3, 48, 6), (1, 32, 2)]
    return [make_batch(generator, n, t, u, f"b{i}") for i, (n, t, u) in enumerate(shapes)]


def worst(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Largest difference of two models' weights.

    Without the biases of keys: they shift all scores of a query alike, so that their gradient is zero but for rounding,
    and Adam divides that rounding by its own size.
    """

    def clean(name: str, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value[:16], value[32:]]) if name.endswith("qkv.bias") else value

    return max(float((clean(name, a[name]) - clean(name, b[name])).abs().max()) for name in a)


def test_two_gloo_processes_equal_one_process_with_both_batches(
    make_recipe: RecipeMaker, batches: list[Batch]
) -> None:
    settings = {"trainer.max_steps": STEPS, "loss.kind": "pruned", "optim.clip": 2.0}
    both = [join_batches(batches[:2]), join_batches(batches[2:])]
    _, one = train_on(make_recipe("one", settings), both)
    ranks = {"trainer.devices": 2, "trainer.strategy": "ddp_fork"}
    two = train_ranks(make_recipe("two", {**settings, **ranks}), batches)
    assert len(one["rows"]) == len(two["rows"]) == STEPS
    torch.testing.assert_close(torch.tensor(two["rows"]), torch.tensor(one["rows"]), rtol=1e-4, atol=1e-4)
    assert worst(one["weights"], two["weights"]) < 1e-4
    assert one["rows"][-1][1] < 0.9 * one["rows"][0][1]  # and something was learned


def test_accumulation_equals_a_big_batch(make_recipe: RecipeMaker, batches: list[Batch]) -> None:
    _, big = train_on(make_recipe("big", {"trainer.max_steps": 6}), [join_batches(batches)])
    settings = {"trainer.max_steps": 6, "trainer.accumulate": 4}
    _, small = train_on(make_recipe("small", settings), batches)
    torch.testing.assert_close(torch.tensor(small["rows"]), torch.tensor(big["rows"]), rtol=1e-4, atol=1e-4)
    assert worst(big["weights"], small["weights"]) < 1e-4


def test_bf16_step_runs_and_is_near_fp32(make_recipe: RecipeMaker, batches: list[Batch]) -> None:
    settings = {"trainer.max_steps": 3, "trainer.precision": "bf16"}
    _, half = train_on(make_recipe("bf16", settings), batches)
    _, full = train_on(make_recipe("fp32", {"trainer.max_steps": 3}), batches)
    assert all(value.dtype == torch.float32 for value in half["weights"].values())
    assert 0 < worst(half["weights"], full["weights"])
    torch.testing.assert_close(torch.tensor(half["rows"]), torch.tensor(full["rows"]), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_batch_is_skipped_counted_and_named(
    make_recipe: RecipeMaker, batches: list[Batch], value: float, caplog: pytest.LogCaptureFixture
) -> None:
    bad = batches[1]._replace(features=batches[1].features.clone())
    bad.features[2, 5, 7] = value
    with caplog.at_level(logging.WARNING, "asr.training"):
        task, with_bad = train_on(
            make_recipe("bad", {"trainer.max_steps": 5}), [batches[0], bad, batches[2], bad, batches[3]]
        )
    _, without = train_on(make_recipe("good", {"trainer.max_steps": 3}), [batches[0], batches[2], batches[3]])
    assert task.guard.steps == 2
    assert list(differing(with_bad["weights"], without["weights"])) == []  # as if it had not been there
    assert "b1-2" in caplog.text and "b0-0" not in caplog.text
    lines = [json.loads(line) for line in (task.recipe.folder() / "skipped.jsonl").read_text().splitlines()]
    assert [line["ids"] for line in lines] == [bad.ids, bad.ids]
    assert [line["step"] for line in lines] == [2, 4]


def test_non_finite_batch_on_one_rank_is_skipped_by_all(
    make_recipe: RecipeMaker, batches: list[Batch]
) -> None:
    bad = batches[1]._replace(features=batches[1].features.clone())
    bad.features[0, 0, 0] = float("nan")
    both_ranks = {"trainer.devices": 2, "trainer.strategy": "ddp_fork", "optim.warmup_steps": 0}
    recipe = make_recipe("ranks", {"trainer.max_steps": 2, **both_ranks})
    ranks = train_ranks(recipe, [batches[0], bad, batches[2], batches[3]])
    _, good = train_on(
        make_recipe("good", {"trainer.max_steps": 1, "optim.warmup_steps": 0}), [join_batches(batches[2:])]
    )
    assert worst(ranks["weights"], good["weights"]) < 1e-4
    lines = [json.loads(line) for line in (recipe.folder() / "skipped.jsonl").read_text().splitlines()]
    assert [line["ids"] for line in lines] == [bad.ids]  # the other rank's batch is not blamed


def test_diverged_run_stops_with_a_sentence(make_recipe: RecipeMaker, batches: list[Batch]) -> None:
    bad = batches[0]._replace(features=torch.full_like(batches[0].features, float("nan")))
    with pytest.raises(UserError, match="diverged"):
        train_on(make_recipe("bad", {"trainer.max_steps": 50, "trainer.max_bad_steps": 4}), [bad])


def test_more_tokens_than_frames_is_skipped_counted_and_named(
    make_recipe: RecipeMaker, batches: list[Batch], caplog: pytest.LogCaptureFixture
) -> None:
    batch = batches[1]
    crowded = batch._replace(feature_lengths=batch.feature_lengths.clone())
    crowded.feature_lengths[0] = 4 * int(batch.token_lengths[0]) - 4  # one encoder frame too few
    left, dropped = drop_impossible(crowded)
    assert dropped == ["b1-0"] and left.ids == batch.ids[1:] and left.features.shape[0] == 4
    assert drop_impossible(left) == (left, [])
    exact = batch._replace(feature_lengths=crowded.feature_lengths + 1)  # just enough
    assert drop_impossible(exact)[1] == []
    with caplog.at_level(logging.WARNING, "asr.training"):
        task, with_bad = train_on(make_recipe("crowded", {"trainer.max_steps": 4}), [batches[0], crowded])
    _, without = train_on(make_recipe("left", {"trainer.max_steps": 4}), [batches[0], left])
    assert task.guard.utterances == 2 and task.guard.steps == 0
    assert "b1-0" in caplog.text and "more tokens than encoder frames" in caplog.text
    assert list(differing(with_bad["weights"], without["weights"])) == []


def test_batch_of_nothing_but_impossible_utterances_is_survived_by_ddp(
    make_recipe: RecipeMaker, batches: list[Batch]
) -> None:
    nothing = batches[3]._replace(token_lengths=batches[3].token_lengths + 100)
    recipe = make_recipe(
        "ranks", {"trainer.max_steps": 2, "trainer.devices": 2, "trainer.strategy": "ddp_fork"}
    )
    ranks = train_ranks(recipe, [batches[0], nothing, batches[2], batches[1]])
    _, one = train_on(
        make_recipe("one", {"trainer.max_steps": 2}), [batches[0], join_batches([batches[2], batches[1]])]
    )
    assert worst(ranks["weights"], one["weights"]) < 1e-4


def test_unreadable_audio_is_skipped_counted_and_named(
    make_recipe: RecipeMaker, batches: list[Batch], caplog: pytest.LogCaptureFixture
) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = Batch(
        torch.zeros(0, 0, 80), none, none.reshape(0, 0), none, [], [], 0.0, ("x1: a.wav: NaN", "x2: b.wav")
    )
    part = batches[2]._replace(unreadable=("x3: c.wav",))
    with caplog.at_level(logging.WARNING, "asr.training"):
        task, with_empty = train_on(
            make_recipe("some", {"trainer.max_steps": 4}), [batches[0], empty, part, batches[3]]
        )
    _, without = train_on(make_recipe("all", {"trainer.max_steps": 3}), [batches[0], batches[2], batches[3]])
    assert list(differing(with_empty["weights"], without["weights"])) == []  # as if it had not been there
    assert (task.guard.utterances, task.guard.steps) == (3, 1)
    assert "unreadable audio: x1: a.wav: NaN, x2: b.wav" in caplog.text
    lines = [json.loads(line) for line in (task.recipe.folder() / "skipped.jsonl").read_text().splitlines()]
    assert [(line["step"], line["ids"]) for line in lines] == [
        (2, list(empty.unreadable)),
        (3, ["x3: c.wav"]),
    ]
    with pytest.raises(UserError, match="not one utterance of the last 4 steps could be used"):
        train_on(make_recipe("none", {"trainer.max_steps": 50, "trainer.max_bad_steps": 4}), [empty])


def test_a_broken_recording_does_not_end_the_run(
    make_recipe: RecipeMaker, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(corpus[0], broken)
    samples, rate = soundfile.read(broken / "anna-003.wav", dtype="float32")
    samples[100] = float("nan")
    soundfile.write(broken / "anna-003.wav", samples, rate, subtype="FLOAT")
    result = fit(make_recipe("run", {"data.train": [str(broken)], "trainer.max_steps": 40}))
    assert result.finished and result.step == 40
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert {name.split(":")[0] for line in lines for name in line["ids"]} == {"anna-003"}
