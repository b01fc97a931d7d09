"""Recipes: parsing, overrides, errors, the shipped ones; and the learning rate they describe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asr.config import to_dict
from asr.errors import UserError
from asr.training.command import train_command
from asr.training.optim import learning_rate
from asr.training.recipe import OptimConfig, Recipe, differences, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {train: [nowhere]}\n" + text)
    return path


def test_unknown_key_names_itself_and_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"optim\.warmup_step'.*did you mean 'optim\.warmup_steps'"):
        load_recipe(write(tmp_path, "optim: {warmup_step: 5}\n"))
    assert train_command([str(write(tmp_path, "")), "--trainer.max_step", "5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--trainer.max_step'" in error and "--trainer.max_steps'" in error


def test_ill_typed_and_impossible_values_name_the_key(tmp_path: Path) -> None:
    for text, words in (
        ("optim: {lr: fast}", "optim.lr"),
        ("optim: {schedule: cosinus}", "optim.schedule is 'cosinus': it must be one of cosine"),
        ("trainer: {max_steps: 0}", "trainer.max_steps"),
        ("optim: {decay_by: time}", "trainer.max_minutes"),
        ("model: {base: huge}", "huge"),
        ("optim: {lr: .nan}", "key 'optim.lr'"),
        ("trainer: {max_minutes: .nan}", "key 'trainer.max_minutes'"),
        ("seed: -1", "seed is -1: it must not be negative"),
        ("trainer: {average: {decay: 2}}", "trainer.average.decay is 2.0: it must be in"),
        ("optim: {eps: 0}", "optim.eps is 0.0: it must be positive"),
    ):
        with pytest.raises(UserError, match=words.replace(".", r"\.")):
            load_recipe(write(tmp_path, text + "\n"))


def test_overrides_and_named_models(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {base: tiny, encoder: {chunk_ms: 320}}\noptim: {lr: 2e-3}\n")
    recipe = load_recipe(
        path, ["--optim.weight_decay", "1e-4", "--trainer.precision=bf16", "--model.encoder.layers", "3"]
    )
    assert (
        recipe.optim.lr == 2e-3 and recipe.optim.weight_decay == 1e-4 and recipe.trainer.precision == "bf16"
    )
    encoder = recipe.model.encoder
    assert (encoder.dim, encoder.layers, encoder.chunk_ms, encoder.left_context_ms) == (128, 3, 320, 1280)
    assert recipe.model.joiner.dim == 128 and type(recipe) is Recipe
    path.write_text(yaml.safe_dump(to_dict(recipe)))
    assert load_recipe(path) == recipe  # a resolved recipe is a recipe


def test_differences_name_only_what_matters(tmp_path: Path) -> None:
    path = write(tmp_path, "optim: {schedule: constant}\n")
    old = to_dict(load_recipe(path))
    free = [
        "--trainer.max_steps",
        "7",
        "--trainer.keep",
        "9",
        "--data.workers",
        "0",
        "--output_dir",
        "elsewhere",
    ]
    assert differences(old, to_dict(load_recipe(path, free))) == []
    changed = to_dict(load_recipe(path, ["--data.augment.volume.probability", "0.5"]))
    assert differences(old, changed) == [("data.augment.volume.probability", 0.0, 0.5)]
    cosine = ["--optim.schedule", "cosine"]
    longer = to_dict(load_recipe(path, [*cosine, "--trainer.max_steps", "7"]))
    keys = [key for key, *_ in differences(to_dict(load_recipe(path, cosine)), longer)]
    assert keys == ["trainer.max_steps"]  # the cosine would end elsewhere


def test_print_recipe_and_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_command([str(write(tmp_path, "")), "--print_recipe", "--seed", "5"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5
    assert train_command(["--help"]) == 0
    assert "--optim.warmup_steps" in capsys.readouterr().out
    assert train_command([]) == 0 and train_command(["a.yaml", "b.yaml"]) == 2


def test_learning_rates() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10, schedule="cosine", final_lr=0.1)
    assert learning_rate(config, 0, 110) == pytest.approx(0.1) and learning_rate(config, 9, 110) == 1.0
    assert learning_rate(config, 60, 110) == pytest.approx(0.55) and learning_rate(
        config, 500, 110
    ) == pytest.approx(0.1)
    config.schedule, config.decay_by = "linear", "time"
    assert learning_rate(config, 20, 110, 0.5) == pytest.approx(
        0.55
    )  # half of the time is gone, the steps are not
    config.schedule = "inverse-sqrt"
    assert learning_rate(config, 40, 110) == pytest.approx(0.5)
    config.schedule, config.decay_steps = "eden", 30
    assert learning_rate(config, 40, 110) == pytest.approx(2**-0.25)
    config.schedule = "constant"
    assert learning_rate(config, 10**6, 110) == 1.0


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name != "unnamed" and recipe.data.dev
