"""`asr train RECIPE.yaml [--key value …]`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from asr.errors import UserError

USAGE = """usage: asr train RECIPE.yaml [--resume auto|never|force] [--print_recipe] [--KEY VALUE …]

Trains what the recipe's task says: transducer (the default) or language_model. Any key of the recipe can be given on
the command line: --optim.lr 2e-3, --data.workers=4, --output_dir exp/second. Run it again to continue an interrupted
run from its last checkpoint.

  --resume auto    continue if output_dir has a checkpoint of the same recipe (default)
  --resume force   continue although the recipe has changed
  --resume never   start again; old checkpoints are moved aside
  --print_recipe   print the whole recipe as it would run, and stop

Ctrl-C stops at the next step with a checkpoint (exit code 130). Keys and their defaults:
"""


def train_command(argv: Sequence[str]) -> int:
    """Runs `asr train`; prints to stderr.

    Args:
        argv: what follows `train` on the command line.

    Returns:
        0 finished, 130 stopped by a signal with a checkpoint, 2 an error of the user's (one sentence on stderr).
    """
    try:
        return _train(list(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint, if there is one, continues the run.", file=sys.stderr)
        return 130


def _train(argv: list[str]) -> int:
    from asr.training.recipe import load_recipe

    if not argv or "-h" in argv or "--help" in argv:
        print(USAGE + _keys())
        return 0
    resume, argv = _take(argv, "--resume")
    show = "--print_recipe" in argv
    argv = [word for word in argv if word != "--print_recipe"]
    paths = [word for i, word in enumerate(argv) if not word.startswith("--") and not _is_value(argv, i)]
    if len(paths) != 1:
        raise UserError(
            f"asr train takes one recipe, not {len(paths)}: asr train RECIPE.yaml [--key value …]."
        )
    argv.remove(paths[0])
    recipe = load_recipe(paths[0], argv)
    if show:
        import yaml

        from asr.config import to_dict

        print(yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True, width=120), end="")
        return 0
    from asr.training.fit import fit
    from asr.training.recipe import Recipe

    first = is_first_process()
    with _log_to_stderr(logging.INFO if first else logging.WARNING):
        if isinstance(recipe, Recipe):
            result = fit(recipe, resume or "auto")
        else:
            from asr.training.language_model import fit_language_model

            result = fit_language_model(recipe, resume or "auto")
    if not first:
        return 0 if result.finished else 130
    if not result.finished:
        print(
            f"stopped at step {result.step}: {result.checkpoint} is written; "
            "run the same command again to continue from there.",
            file=sys.stderr,
        )
        return 130
    print(
        f"finished at step {result.step} after {result.minutes:.1f} minutes: {result.model}", file=sys.stderr
    )
    return 0


def is_first_process() -> bool:
    """Whether this process speaks for the run: Lightning starts the same command again for each further rank."""
    return all(
        int(os.environ.get(name, "0")) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    )


def _keys() -> str:
    from asr.config import describe
    from asr.training.recipe import LanguageModelRecipe, Recipe

    return f"{describe(Recipe)}\n\nKeys with task: language_model:\n{describe(LanguageModelRecipe)}"


def _take(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option that is not a key of the recipe, and the rest."""
    value, rest, words = None, [], list(argv)
    while words:
        word = words.pop(0)
        if word == option:
            if not words or words[0].startswith("--"):
                raise UserError(f"{option} needs a value: auto, never or force.")
            value = words.pop(0)
        elif word.startswith(option + "="):
            value = word[len(option) + 1 :]
        else:
            rest.append(word)
    return value, rest


def _is_value(argv: list[str], index: int) -> bool:
    """Whether the word is the value of the option before it."""
    return index > 0 and argv[index - 1].startswith("--") and "=" not in argv[index - 1]


class _Handler(logging.StreamHandler):
    """Messages on stderr, on a line of their own even while the progress line is updating."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.isatty():
            self.stream.write("\r\x1b[K")
        super().emit(record)


@contextmanager
def _log_to_stderr(level: int) -> Iterator[None]:
    """What the toolkit reports, on stderr as plain sentences, inside this context."""
    logger = logging.getLogger("asr")
    before = (logger.level, logger.propagate)
    handler = _Handler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
