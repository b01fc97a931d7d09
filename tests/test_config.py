"""A configuration says what is wrong with it: the key, the value, the expected type, the nearest real key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from asr.config import describe, dump_yaml, from_dict, keys, load_yaml, parse_config, to_dict
from asr.errors import UserError


@dataclass
class Model:
    dim: int = 512
    dropout: float = 0.1
    activation: Literal["relu", "tanh"] = "relu"
    norm: bool = True
    kernel: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        if self.dim == 13:
            raise UserError("dim 13 brings bad luck")
        if self.dim == 14:
            raise ValueError("nor is 14 any better")


@dataclass
class Corpus:
    path: Path
    weight: float = 1.0


@dataclass
class Recipe:
    seed: int
    name: str = "x"
    model: Model = field(default_factory=lambda: Model(dim=64))
    teacher: Optional[Model] = None  # noqa: UP045 (both spellings are accepted)
    base: Model | str = "small"
    train: list[Corpus] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    output: Path | None = None
    note: Any = None


def error(mapping: dict | None = None, args: list[str] | None = None, path: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        if mapping is not None:
            from_dict(Recipe, mapping, "r.yaml")
        else:
            parse_config(Recipe, path, args or [])
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_from_dict():
    recipe = from_dict(
        Recipe,
        {
            "seed": 1,
            "model": {"dropout": 0},
            "teacher": {"dim": 3, "kernel": [1, 2]},
            "base": {"dim": 5},
            "train": [{"path": "a/b", "weight": 2}, {"path": "c"}],
            "rates": {"a": 1},
            "output": "out",
            "note": [1, {"x": None}],
        },
    )
    assert recipe == Recipe(
        seed=1,
        model=Model(dim=64, dropout=0.0),  # a partial mapping keeps the rest of the field's default
        teacher=Model(dim=3, kernel=(1, 2)),
        base=Model(dim=5),
        train=[Corpus(Path("a/b"), 2.0), Corpus(Path("c"))],
        rates={"a": 1.0},
        output=Path("out"),
        note=[1, {"x": None}],
    )
    assert isinstance(recipe.rates["a"], float) and isinstance(recipe.model.dropout, float)
    assert from_dict(Recipe, {"seed": 1, "model": None}).model == Model(
        dim=64
    )  # `model:` with nothing below it


def test_round_trip(tmp_path):
    recipe = from_dict(
        Recipe, {"seed": 3, "train": [{"path": "p"}], "model": {"dropout": 1e-5}, "name": "yes"}
    )
    dump_yaml(recipe, tmp_path / "r.yaml")
    assert parse_config(Recipe, tmp_path / "r.yaml") == recipe
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    assert list(load_yaml(tmp_path / "r.yaml"))[:3] == ["seed", "name", "model"]  # in the order of the fields
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_overrides(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("seed: 1\nmodel:\n  dim: 7\n  dropout: 1e-4\nrates: {a: 1}\n")
    recipe = parse_config(
        Recipe,
        path,
        ["--model.dim", "9", "--name=5", "--train", "[{path: x}]", "--rates.b=2e-3", "--base", "large",
         "--limit=-4", "--teacher.norm", "false", "--output=null", "--model.dim=10"],
    )  # fmt: skip
    assert recipe.model == Model(dim=10, dropout=1e-4)
    assert recipe.name == "5" and recipe.base == "large" and recipe.limit == -4 and recipe.output is None
    assert recipe.train == [Corpus(Path("x"))] and recipe.rates == {"a": 1.0, "b": 0.002}
    assert recipe.teacher == Model(norm=False)
    assert parse_config(Recipe, None, ["--seed", "4", "--base.dim=3"]).base == Model(dim=3)


def test_unknown_keys(tmp_path):
    assert error({"modl": {"dim": 3}}) == "unknown key 'modl.dim' in r.yaml: did you mean 'model.dim'?"
    assert error({"model": {"dmi": 3}}) == "unknown key 'model.dmi' in r.yaml: did you mean 'model.dim'?"
    assert error({"droput": 3}).endswith(".dropout'?")
    assert error({"qqqqq": 3}).startswith("unknown key 'qqqqq' in r.yaml: the keys are seed, name, model")
    assert error({"seed": 1, "train": [{"pth": "x"}]}).startswith("unknown key 'train[0].pth' in r.yaml")
    path = tmp_path / "r.yaml"
    path.write_text("modl:\n  dim: 3\n")
    assert error(path=path) == f"unknown key 'modl.dim' in {path}: did you mean 'model.dim'?"
    expected = "unknown option '--model.dmi' on the command line: did you mean '--model.dim'?"
    assert error(args=["--model.dmi=3"]) == expected
    assert "unknown option '--mod'" in error(args=["--mod", "3"])  # no abbreviations


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"seed": "a"}, "key 'seed' in r.yaml: expected int, not 'a'"),
        ({"seed": True}, "key 'seed' in r.yaml: expected int, not True"),
        ({"seed": 1.5}, "key 'seed' in r.yaml: expected int, not 1.5"),
        ({"seed": 1, "model": 5}, "key 'model' in r.yaml: expected a mapping (Model), not 5"),
        ({"seed": 1, "model": {"dropout": "x"}}, "key 'model.dropout' in r.yaml: expected float, not 'x'"),
        ({"seed": 1, "model": {"norm": 1}}, "key 'model.norm' in r.yaml: expected bool, not 1"),
        (
            {"seed": 1, "model": {"kernel": [1]}},
            "key 'model.kernel' in r.yaml: expected tuple[int, int], not [1]",
        ),
        (
            {"seed": 1, "model": {"activation": "gelu"}},
            "key 'model.activation' in r.yaml: expected one of 'relu', 'tanh', not 'gelu'",
        ),
        ({"seed": 1, "name": 5}, "key 'name' in r.yaml: expected str, not 5"),
        ({"seed": 1, "limit": "many"}, "key 'limit' in r.yaml: expected int or null, not 'many'"),
        ({"seed": 1, "base": {"dim": "x"}}, "key 'base.dim' in r.yaml: expected int, not 'x'"),
        ({"seed": 1, "train": {}}, "key 'train' in r.yaml: expected list[a mapping (Corpus)], not {}"),
        ({"seed": 1, "train": [{"path": 3}]}, "key 'train[0].path' in r.yaml: expected Path, not 3"),
        ({"seed": 1, "train": [{}]}, "missing key 'train[0].path' in r.yaml"),
        ({"seed": 1, "rates": {"a": "b"}}, "key 'rates.a' in r.yaml: expected float, not 'b'"),
        ({"name": "y"}, "missing key 'seed' in r.yaml"),
        ({"seed": 1, "model": {"dim": 13}}, "r.yaml, model: dim 13 brings bad luck"),
        ({"seed": 1, "model": {"dim": 14}}, "r.yaml, model: nor is 14 any better"),
    ],
)
def test_wrong_values(mapping, expected):
    assert error(mapping) == expected


def test_wrong_arguments(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("seed: 1\n")
    wrong = error(path=path, args=["--model.dim", "wide"])
    assert wrong == "key 'model.dim' on the command line: expected int, not 'wide'"
    assert error(args=["--seed"]) == "the option --seed needs a value"
    assert error(args=["--seed", "--name", "x"]) == "the option --seed needs a value"
    assert error(args=["seed"]).startswith("unexpected argument 'seed'")
    assert "is not valid YAML" in error(args=["--train=[", "--seed=1"])


def test_bad_files(tmp_path):
    path = tmp_path / "r.yaml"
    assert "no such configuration file" in error(path=path)
    for text, pattern in (
        ("seed: [1", "is not valid YAML"),
        ("- 1", "must hold keys and values, not a list"),
        ("seed: 1\nseed: 2\n", "key 'seed' is given twice (line 2)"),
        ("seed: !!python/object:os.system 1", "is not valid YAML"),
    ):
        path.write_text(text)
        assert pattern in error(path=path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not" in error(path=path)


def test_help_lists_every_key():
    names = keys(Recipe)
    assert "model.dim" in names and "seed" in names and "model" not in names
    text = describe(Recipe)
    assert "--model.dim int (default: 64)" in text and "--seed int (required)" in text
    assert len(text.splitlines()) == len(names)
