"""Weight averages: running, over checkpoints, and in the exported folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from asr.errors import UserError
from asr.models.folder import load_model
from asr.training.averaging import WeightAverage, average_state_dicts
from asr.training.checkpoint import read_checkpoint, step_checkpoints
from asr.training.export import export_folder, main
from asr.training.fit import fit
from asr.training.recipe import AverageConfig, Recipe


def walk(average: WeightAverage, module: nn.Linear, values: list[float]) -> None:
    for step, value in enumerate(values, start=1):
        nn.init.constant_(module.weight, value)
        average.update(step)


def test_running_average_ema_follows_the_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, AverageConfig(kind="ema", decay=0.5))
    walk(average, module, [1.0, 2.0, 4.0, 8.0])
    expected = 1.0
    for n, value in enumerate([2.0, 4.0, 8.0], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    state = average.state_dict()["values"]["weight"]
    assert state.dtype == torch.float32 and float(state) == pytest.approx(expected)


def test_running_average_tail_is_the_uniform_mean_from_its_start() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, AverageConfig(kind="tail", start_step=3))
    walk(average, module, [100.0, 50.0, 1.0, 2.0, 6.0])
    assert float(average.state_dict()["values"]["weight"]) == pytest.approx(3.0)
    with average.swapped_in():
        assert float(module.weight.detach()) == pytest.approx(3.0)
    assert float(module.weight.detach()) == 6.0


def test_running_average_is_kept_in_fp32_beside_half_precision_weights() -> None:
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = WeightAverage(module, AverageConfig(kind="tail"))
    walk(average, module, [1.0, 1.0078125])
    assert float(average.state_dict()["values"]["weight"]) == pytest.approx(1.00390625)  # no bf16 number


def test_checkpoint_averaging_is_the_mean_and_keeps_types() -> None:
    states = [
        {"w": torch.tensor([v], dtype=torch.float16), "n": torch.tensor(int(v))} for v in (1.0, 2.0, 6.0)
    ]
    mean = average_state_dicts(states)
    assert mean["w"].dtype == torch.float16 and float(mean["w"]) == 3.0 and int(mean["n"]) == 6
    with pytest.raises(ValueError, match="different models"):
        average_state_dicts([{"w": torch.zeros(1)}, {"w": torch.zeros(2)}])


def test_export_of_one_and_of_several_checkpoints(make_recipe: Callable[..., Recipe]) -> None:
    result = fit(
        make_recipe("run", {"trainer.max_steps": 6, "trainer.checkpoint_every_steps": 2, "trainer.keep": 3})
    )
    folder = result.checkpoint.parent.parent
    paths = step_checkpoints(folder)
    assert [path.name for path in paths] == [f"step-0000000{n}.ckpt" for n in (2, 4, 6)]
    contents = [read_checkpoint(path) for path in paths]
    averages = [content["asr"]["average"]["values"] for content in contents]
    name = "joiner.output.weight"
    assert result.model is not None
    torch.testing.assert_close(
        load_model(result.model).model.state_dict()[name], averages[-1][f"model.{name}"]
    )
    one = load_model(export_folder(folder, folder / "plain", average=False)).model.state_dict()[name]
    assert torch.equal(one, contents[-1]["state_dict"][f"model.{name}"])
    assert main([str(folder), "--last", "3", "--output", str(folder / "mean")]) == 0
    mean = load_model(folder / "mean").model.state_dict()[name]
    torch.testing.assert_close(mean, sum(a[f"model.{name}"] for a in averages) / 3)
    assert not torch.equal(mean, one)
    assert main([str(folder), "--last", "9", "--output", str(folder / "more")]) == 2
    with pytest.raises(UserError, match="cannot be read"):
        damaged = folder / "damaged.ckpt"
        damaged.write_bytes(paths[0].read_bytes()[:1000])
        export_folder(damaged, folder / "no")
