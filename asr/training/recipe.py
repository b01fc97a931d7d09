"""The recipe of a training run: one tree of dataclasses, read from YAML and `--key value` overrides.

A recipe says everything a run depends on, so that the same recipe and seed give the same numbers. `load_recipe`
reads one; `differences` tells which keys of two recipes differ, so that a resumed run cannot silently become another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from asr.config import from_dict, load_yaml, parse_config
from asr.data.config import DataConfig
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.losses.criterion import LossConfig
from asr.models.lm import LanguageModelConfig
from asr.models.transducer import ModelConfig, named_config
from asr.training.text import TextDataConfig

TASKS = ("transducer", "language_model")


@dataclass
class RecipeModel(ModelConfig):
    """A model: every key of ModelConfig; with `base`, keys not given come from a named configuration."""

    base: str = ""  # tiny | small | emformer_rnnt_base; empty = ModelConfig's own defaults


@dataclass
class TokenConfig:
    """Where the tokens come from: a file, or training on the transcripts of the training data."""

    path: str = ""  # tokens.model, or a folder with one; empty = train it on the transcripts
    vocab_size: int = 500  # symbols, blank and endpoint token included (used when training)
    type: str = "bpe"  # bpe | unigram | word (used when training)
    endpoint: bool = False  # reserve the endpoint token <eou> as the last id (used when training)
    text: list[str] = field(default_factory=list)  # text files (a sentence a line) instead


@dataclass
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate that is a function of the step alone."""

    lr: float = 1e-3  # peak learning rate, for gradients of the loss per token
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # decay of the first and second moment
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.01  # decoupled; never on biases, norms and other vectors
    warmup_steps: int = 1000  # optimizer steps of linear increase from 0 to lr
    schedule: str = "cosine"  # after the warm-up: cosine | linear | inverse-sqrt | eden | constant
    decay_steps: int = 0  # where cosine/linear end, time scale of eden; 0 = trainer.max_steps
    decay_by: str = "steps"  # steps | time: cosine/linear also end at trainer.max_minutes
    final_lr: float = 0.02  # cosine/linear end at this fraction of lr
    clip: float = 5.0  # largest gradient norm (of the loss per token); 0 = no clipping


@dataclass
class AverageConfig:
    """Running average of the weights, in fp32: what validation, the model folder and `export` use."""

    kind: str = "ema"  # ema (exponential) | tail (uniform from start_step on) | none
    decay: float = 0.999  # ema: weight of the past per optimizer step; warms up as (1 + n) / (10 + n)
    start_step: int = 0  # optimizer step from which the average runs; before it, the average is the weights
    every: int = 1  # optimizer steps between two updates (ema: decay is taken to this power)


@dataclass
class TrainerConfig:
    """How long, on what, how exactly; devices, nodes and strategy are Lightning's own flags."""

    max_steps: int = 10000  # optimizer steps
    max_minutes: float = 0.0  # wall-clock limit in minutes, preparation and resumed parts included; 0 = none
    precision: int | str = 32  # 32 | bf16 | 16 (autocast; weights and averages stay fp32)
    accelerator: str = "auto"  # auto | cpu | gpu …
    devices: int | str = 1  # processes (GPUs) per node; "auto" = all GPUs
    nodes: int = 1  # machines; start the same command on each, as Lightning's documentation says
    strategy: str = "auto"  # auto | ddp | ddp_find_unused_parameters_true … (tested: one process, and ddp)
    threads: int = 0  # CPU threads of the training process; 0 = leave as it is (OMP_NUM_THREADS)
    accumulate: int = 1  # batches per optimizer step and process
    validate_every_steps: int = 1000  # optimizer steps between two validations; 0 = only at the end
    validate_average: bool = True  # validate (and choose the best) with the averaged weights
    log_every_steps: int = 50  # optimizer steps between two points in TensorBoard
    progress_seconds: float = 10.0  # seconds between two progress lines without a terminal; 0 = quiet
    checkpoint_every_steps: int = 0  # optimizer steps between two checkpoints; 0 = by time only
    checkpoint_every_minutes: float = 15.0  # minutes between two checkpoints; 0 = by steps only
    keep: int = 3  # newest resumable checkpoints kept
    keep_best: int = 3  # weights-only checkpoints of the lowest dev WER kept (for checkpoint averaging)
    average: AverageConfig = field(default_factory=AverageConfig)
    max_bad_steps: int = 100  # stop when this many steps in a row had a non-finite loss or gradient


@dataclass
class InitConfig:
    """Weights to start from: those of equal name and shape are copied; what was copied is printed."""

    path: str = ""  # model folder or name of a pretrained model; empty = random weights
    parts: list[str] = field(default_factory=list)  # encoder, predictor, joiner, ctc_head; empty = all


@dataclass
class Recipe:
    """One training run of an acoustic model; a language model has its own keys (`LanguageModelRecipe`)."""

    task: str = TASKS[0]  # what is trained: transducer | language_model
    name: str = "unnamed"  # shown in the card of the model
    seed: int = 1  # weights, dropout, data order and augmentation
    output_dir: str = ""  # checkpoints, TensorBoard, tokens and the model go here; empty = exp/<name>
    model: RecipeModel = field(default_factory=RecipeModel)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    init_from: InitConfig = field(default_factory=InitConfig)

    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.output_dir or f"exp/{self.name}")


@dataclass
class LanguageModelRecipe:
    """One training run of a language model."""

    task: str = TASKS[1]  # what is trained
    name: str = "unnamed"  # shown in the card of the model
    seed: int = 1  # weights, dropout and the order of the sentences
    output_dir: str = ""  # checkpoints, TensorBoard and the model go here; empty = exp/<name>
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)  # path: the folder of the acoustic model it is for
    data: TextDataConfig = field(default_factory=TextDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(keep_best=0))
    init_from: str = ""  # language-model folder whose weights to start from; same tokens and architecture

    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.output_dir or f"exp/{self.name}")


# Keys that may change between a run and its resumption: they decide where, how long and how loudly, not what.
FREE_KEYS = (
    "name",
    "output_dir",
    "init_from",
    "trainer.max_minutes",
    "trainer.precision",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.threads",
    "trainer.validate_every_steps",
    "trainer.validate_average",
    "trainer.log_every_steps",
    "trainer.progress_seconds",
    "trainer.checkpoint_every_steps",
    "trainer.checkpoint_every_minutes",
    "trainer.keep",
    "trainer.keep_best",
    "trainer.max_bad_steps",
    "tokens.path",
    "data.dev",
    "data.workers",
    "data.prefetch",
    "data.cache_audio",
    "data.disjoint_speakers",
    "data.statistics",
    "data.statistics_seconds",
    "loss.backend",
)


def load_recipe(path: str | Path, args: Sequence[str] = ()) -> Recipe | LanguageModelRecipe:
    """Reads a recipe from YAML and applies overrides.

    Returns:
        a Recipe, or what else `task` in the file asks for.

    Args:
        path: a YAML file; keys it does not name keep their defaults, those of `model.base` if it is given.
        args: overrides, ``["--optim.lr", "0.002", "--model.base=small"]``; values are YAML.

    Raises:
        UserError: unreadable file, unknown (the nearest is named) or ill-typed key, contradicting values.
    """
    if load_yaml(path).get("task") == TASKS[1]:
        recipe = parse_config(LanguageModelRecipe, path, args)
        check_language_model_recipe(recipe)
        return recipe
    return _with_base(lambda cls: parse_config(cls, path, args))


def recipe_from_dict(mapping: dict[str, Any], source: str = "the recipe") -> Recipe:
    """The same from nested plain values, such as `to_dict(recipe)`; `source` appears in errors."""
    return _with_base(lambda cls: from_dict(cls, mapping, source))


def _with_base(parse: Callable[[type[Recipe]], Recipe]) -> Recipe:
    """Parses once to learn `model.base`, and again with that configuration as the defaults of `model`."""
    recipe = parse(Recipe)
    base = recipe.model.base
    if base:
        named = named_config(base)
        values = {item.name: getattr(named, item.name) for item in fields(ModelConfig)}
        default = field(default_factory=lambda: RecipeModel(base=base, **copy.deepcopy(values)))
        parsed = parse(make_dataclass("Recipe", [("model", RecipeModel, default)], bases=(Recipe,)))
        recipe = Recipe(**{item.name: getattr(parsed, item.name) for item in fields(Recipe)})
    check_recipe(recipe)
    return recipe


def check_run(recipe: Recipe | LanguageModelRecipe) -> None:
    """Raises UserError for the keys that every task has: tokens, optim, trainer."""
    optim, trainer = recipe.optim, recipe.trainer
    choices = (
        ("task", recipe.task, TASKS),
        ("tokens.type", recipe.tokens.type, ("bpe", "unigram", "word")),
        ("optim.schedule", optim.schedule, ("cosine", "linear", "inverse-sqrt", "eden", "constant")),
        ("optim.decay_by", optim.decay_by, ("steps", "time")),
        ("trainer.precision", str(trainer.precision), ("32", "bf16", "16")),
        ("trainer.average.kind", trainer.average.kind, ("ema", "tail", "none")),
    )
    for key, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{key} is {value!r}: it must be one of {', '.join(allowed)}.")
    positive = (
        "trainer.max_steps",
        "trainer.accumulate",
        "trainer.nodes",
        "trainer.keep",
        "trainer.average.every",
    )
    for key in (*positive, "trainer.log_every_steps"):
        if _get(recipe, key) < 1:
            raise UserError(f"{key} is {_get(recipe, key)}: it must be at least 1.")
    for key in (
        "seed",
        "trainer.max_minutes",
        "optim.warmup_steps",
        "optim.final_lr",
        "optim.weight_decay",
        "optim.clip",
        "trainer.threads",
    ):
        if _get(recipe, key) < 0:
            raise UserError(f"{key} is {_get(recipe, key)}: it must not be negative.")
    if optim.lr <= 0:
        raise UserError(f"optim.lr is {optim.lr}: it must be positive.")
    if len(optim.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in optim.betas):
        raise UserError(f"optim.betas is {optim.betas}: it must be two numbers in [0, 1).")
    if optim.eps <= 0:
        raise UserError(f"optim.eps is {optim.eps}: it must be positive.")
    if not 0.0 <= trainer.average.decay <= 1.0:
        raise UserError(f"trainer.average.decay is {trainer.average.decay}: it must be in [0, 1].")
    if optim.decay_by == "time" and not trainer.max_minutes:
        raise UserError("optim.decay_by is time, but trainer.max_minutes sets no time: give both or neither.")
    if trainer.checkpoint_every_steps <= 0 and trainer.checkpoint_every_minutes <= 0:
        raise UserError(
            "trainer.checkpoint_every_steps and …_minutes are both 0: no run without checkpoints."
        )


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError, naming the key, for values no run can have."""
    check_run(recipe)
    if recipe.task != TASKS[0]:
        raise UserError(f"task is {recipe.task!r}, but the keys are those of a {TASKS[0]}: set it in the recipe file.")
    if recipe.loss.endpoint_penalty and not recipe.data.endpoint:
        raise UserError("loss.endpoint_penalty is set, but data.endpoint is not: no transcript has an endpoint token.")
    if not recipe.data.train:
        raise UserError("data.train names no corpus: give at least one folder or manifest.")
    known = ("encoder", "predictor", "joiner", "ctc_head")
    for part in recipe.init_from.parts:
        if part not in known:
            raise UserError(f"init_from.parts has {part!r}: it must be one of {', '.join(known)}.")
    recipe.data.validate()


def check_language_model_recipe(recipe: LanguageModelRecipe) -> None:
    """The same for a language model."""
    check_run(recipe)
    if recipe.task != TASKS[1]:
        raise UserError(f"task is {recipe.task!r}, but the keys are those of a {TASKS[1]}: set it in the recipe file.")
    if not recipe.data.train:
        raise UserError("data.train names no text: give at least one file.")
    if recipe.trainer.keep_best:
        raise UserError("trainer.keep_best is of acoustic models (by word error rate): leave it out or set it to 0.")
    recipe.data.validate()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys outside FREE_KEYS whose values differ: (dotted key, old value, new value); both are `to_dict(recipe)`."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    result = []
    for key in sorted({*flat_old, *flat_new}):
        if any(key == free or key.startswith(free + ".") for free in FREE_KEYS):
            continue
        if key == "trainer.max_steps" and not _max_steps_matters(new):
            continue
        if flat_old.get(key) != flat_new.get(key):
            result.append((key, flat_old.get(key), flat_new.get(key)))
    return result


def _max_steps_matters(recipe: dict[str, Any]) -> bool:
    """Whether the learning rate of a step depends on the number of steps planned."""
    optim = recipe.get("optim", {})
    return optim.get("schedule") in ("cosine", "linear", "eden") and not optim.get("decay_steps")


def _flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _get(recipe: Recipe | LanguageModelRecipe, key: str) -> Any:
    node: Any = recipe
    for name in key.split("."):
        node = getattr(node, name)
    return node
