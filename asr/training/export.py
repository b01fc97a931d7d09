"""From checkpoints to a model folder: averaged weights, architecture, tokens and a card.

python -m asr.training.export exp/run --output model                # newest checkpoint, its running average
python -m asr.training.export exp/run --best 3 --output model       # mean of the 3 checkpoints of the lowest dev WER
python -m asr.training.export a.ckpt b.ckpt --output model          # mean of these
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.config import from_dict
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.models.transducer import ModelConfig, Transducer
from asr.tokens import Tokenizer
from asr.training.averaging import average_state_dicts, module_state
from asr.training.checkpoint import DEV_LOG, FOLDER, best_checkpoints, read_checkpoint, step_checkpoints


def export_folder(
    checkpoint: str | Path | Sequence[str | Path], folder: str | Path, average: bool = True, card: str = ""
) -> Path:
    """Makes a model folder from one checkpoint, or from the mean of several.

    Args:
        checkpoint: checkpoint file, or run folder (its newest checkpoint), or a list of files.
        folder: where the model goes; a model folder that is there is replaced.
        average: use each checkpoint's running average of the weights, if it has one.
        card: text of README.md; empty = one made from the recipe and the dev results.

    Raises:
        UserError: unreadable or mutually different checkpoints, or the folder cannot be written.
    """
    given = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    paths = [_newest(Path(path)) for path in given]
    first = read_checkpoint(paths[0])
    info = first["asr"]
    states = (_weights(first if i == 0 else read_checkpoint(path), average) for i, path in enumerate(paths))
    try:
        weights = average_state_dicts(states) if len(paths) > 1 else _weights(first, average)
    except ValueError as error:
        raise UserError(f"cannot average {', '.join(map(str, paths))}: {error}.") from None
    model = Transducer(from_dict(ModelConfig, info["model"]))
    model.load_state_dict(weights)
    tokenizer = Tokenizer(bytes(info["tokens"].tolist()))
    features = from_dict(FeatureConfig, info["recipe"]["features"])
    extra = {
        "recipe": info["recipe"]["name"],
        "step": int(info["step"]),
        "checkpoints": [path.name for path in paths],
        "rnnt_type": info["recipe"].get("loss", {}).get("rnnt_type", "regular"),
    }
    text = card or _card(info, paths, model, _measured(info, paths, average))
    return save_model(folder, model.eval(), tokenizer, features, text, extra=extra, overwrite=True)


def _newest(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = step_checkpoints(path)
    if not found:
        raise UserError(f"{path} has no checkpoint.")
    return found[-1]


def _weights(content: dict[str, Any], average: bool) -> dict[str, Tensor]:
    return module_state(content["state_dict"], content["asr"].get("average") if average else None, "model.")


def _card(info: dict[str, Any], paths: list[Path], model: Transducer, dev: dict[str, Any]) -> str:
    """What is known of the model; numbers that nobody has measured are not in it. ``dev``: see `_measured`."""
    recipe, encoder = info["recipe"], model.config.encoder
    sources = [s if isinstance(s, str) else s.get("path", "") for s in recipe["data"]["train"]]
    lines = [
        f"# {recipe['name']}",
        "",
        f"Streaming Emformer transducer, {model.num_parameters() / 1e6:.1f} M parameters, "
        f"chunk {encoder.chunk_ms} ms + look-ahead {encoder.look_ahead_ms} ms, {model.config.vocab_size} symbols.",
        "",
        f"- Trained for {int(info['step'])} steps in {float(info['minutes']):.1f} minutes on: {', '.join(sources)}",
        f"- Weights: {_origin(paths, recipe)}",
    ]
    if dev.get("words"):
        lines.append(
            f"- Dev: WER {dev['wer']:.2f} % of {int(dev['words'])} words, greedy, whole utterances, at step "
            f"{int(dev['step'])} (`asr train`, validation)"
        )
    lines += ["- Licence: that of the training data applies", ""]
    return "\n".join(lines)


def _origin(paths: list[Path], recipe: dict[str, Any]) -> str:
    running = recipe["trainer"]["average"]["kind"]
    kind = {"ema": "exponential moving average", "tail": "uniform average", "none": "last weights"}[running]
    if len(paths) == 1:
        return f"{kind} at {paths[0].name}"
    return f"mean over {len(paths)} checkpoints ({', '.join(path.name for path in paths)}), {kind} of each"


def _measured(info: dict[str, Any], paths: list[Path], average: bool) -> dict[str, Any]:
    """The dev result of exactly the weights that are exported; empty when nobody has measured them.

    Validation comes after the checkpoint of its step, so that its result is a line of the run's dev.jsonl; only the
    ``best-…`` files hold their own.
    """
    step, kept = int(info["step"]), info.get("average")
    if len(paths) > 1:
        return {}
    if kept and kept["values"] and average != info["recipe"]["trainer"]["validate_average"]:
        return {}  # validation used the other weights
    if info["dev"].get("step") == step:
        return dict(info["dev"])
    folder = paths[0].parent
    log = (folder.parent if folder.name == FOLDER else folder) / DEV_LOG  # moved aside, it is with the checkpoints
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return {}
    # The last one, if the run was killed after the validation and has come to this step a second time.
    return next((x for x in reversed(lines) if isinstance(x, dict) and x.get("step") == step), {})


def main(argv: Sequence[str] | None = None) -> int:
    """The command of the module's docstring; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.training.export", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("checkpoints", nargs="+", help="a run folder, or checkpoint files")
    parser.add_argument("--output", required=True, help="model folder to make")
    parser.add_argument("--last", type=int, default=1, help="of a run folder: mean of the last N checkpoints")
    parser.add_argument(
        "--best", type=int, default=0, help="of a run folder: mean of the N of the lowest dev WER"
    )
    parser.add_argument(
        "--no-running-average", action="store_true", help="use the plain weights of each checkpoint"
    )
    args = parser.parse_args(argv)
    try:
        paths = [Path(path) for path in args.checkpoints]
        if len(paths) == 1 and paths[0].is_dir():
            wanted = args.best or args.last
            found = best_checkpoints(paths[0])[:wanted] if args.best else step_checkpoints(paths[0])[-wanted:]
            if len(found) < wanted:
                kind = "validated (best-…)" if args.best else "resumable (step-…)"
                raise UserError(f"{paths[0]} has {len(found)} {kind} checkpoints, not {wanted}.")
            paths = found
        made = export_folder(paths, args.output, average=not args.no_running_average)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{made} from {', '.join(str(path) for path in paths)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
