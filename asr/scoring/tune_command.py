"""``asr tune``: search a dev set with every combination of scales and tell the best."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli import Parser, check_scales
from asr.errors import UserError
from asr.files import write_text
from asr.memory import keep_freed_memory
from asr.scoring.picture import new_figure, save_figure

if TYPE_CHECKING:
    from asr.scoring.trials import Scales, Trial, TrialLog
    from asr.scoring.tune import EncodedSet, Tuner

SAY_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
LM_SCALES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
LODR_SCALES = [0.0, 0.1, 0.2, 0.3]
MAX_SYMBOLS = 3  # of a frame, where --max-symbols is left out


def tune_command(argv: Sequence[str]) -> int:
    """``asr tune --model M --manifest F --lm L --lm-scale 0 0.1 … --ilm-scale 0 0.1 …``.

    Raises:
        UserError: a bad option, manifest, model or language model.
    """
    options = _parser().parse(argv)
    values = _values(options)
    keep_freed_memory()

    from asr.decoding.added import LanguageModels
    from asr.decoding.beam import SearchConfig
    from asr.scoring.trials import TrialLog, best_trial, grid
    from asr.scoring.tune import Tuner, encode_set, read_utterances
    from asr.scoring.wer import parse_map
    from asr.streaming import Recognizer

    mapping = parse_map(options.map)
    combinations = grid(values)
    search = SearchConfig(options.search, options.beam, options.max_symbols, options.prune)
    models = LanguageModels(options.lm, 0.0, options.lodr, 0.0, options.rescore, 0.0)
    items = read_utterances(options.manifest, options.split, options.half)[: options.limit]
    recognizer = Recognizer.load(options.model, options.threads, options.device)
    tuner = Tuner(recognizer, search, models, mapping)
    log = TrialLog(options.output, _settings(options, mapping))
    if log.damaged:
        print(f"{log.file}: {log.damaged} damaged lines are passed over", file=sys.stderr)
    todo = [scales for scales in combinations if scales not in log.trials]
    kind, before = options.search.replace("_", " "), len(combinations) - len(todo)
    print(f"{len(combinations)} searches ({kind}, {options.beam} hypotheses) of {len(items)} utterances; done before: {before}")
    errors: list[str] = []
    if todo:
        encoded = encode_set(
            recognizer,
            items,
            batch_seconds=options.batch_seconds,
            most_bytes=options.memory * 1e9,
            half_precision=options.half_precision,
            progress=_encoding if sys.stderr.isatty() else None,
        )
        errors = encoded.errors
        for sentence in errors:
            print(f"error: {sentence}", file=sys.stderr)
        print(f"{encoded.seconds:.1f} s of speech, encoded in {encoded.wall_seconds:.1f} s, {encoded.bytes / 1e6:.1f} MB kept")
        _search_all(tuner, encoded, todo, log)
    trials = [log.trials[scales] for scales in combinations]
    best = best_trial(trials)
    axes = _axes(values)
    _print_results(options, trials, best, axes)
    folder = Path(options.output)
    report = {"options": shlex.join(best_options(options, best.scales)), **_report(options, trials, best)}
    write_text(folder / "tune.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    files = [str(folder / "tune.json"), str(log.file)]
    if axes:
        picture = folder / "tune.png"
        if plot(picture, trials, best, axes):
            files.append(str(picture))
        else:
            print("no picture: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    print(f"written: {', '.join(files)}")
    return 2 if errors else 0


def _parser() -> Parser:
    parser = Parser(
        prog="asr tune",
        description="Tune scales on a dev set: every utterance is encoded once and searched with each combination of scales. Started again, "
        "the command goes on where it was stopped.",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME|FOLDER", help="a shipped model or a model folder")
    add("--manifest", required=True, nargs="+", action="extend", metavar="FILE", help="manifest.jsonl, its folder, or lhotse cuts; several are scored as one")
    add("--split", default=None, help="only this split of the manifest")
    add("--half", type=int, choices=(1, 2), default=None, help="only every other speaker: tune on 1 and report on 2")
    add("--limit", type=int, default=None, metavar="N", help="only the first N utterances")
    add("--lm", default=None, metavar="FOLDER|FILE", help="a language model: a folder of asr train, or .arpa, .arpa.gz, .npz")
    add("--lm-scale", type=float, nargs="+", default=None, metavar="X", help="of --lm (0 to 0.6 by 0.1)")
    add("--ilm-scale", type=float, nargs="+", default=None, metavar="X", help="of the internal language model, subtracted (0)")
    add("--lodr", default=None, metavar="FILE", help="a bigram of the training text, subtracted (LODR)")
    add("--lodr-scale", type=float, nargs="+", default=None, metavar="X", help="of --lodr (0 to 0.3 by 0.1)")
    add("--blank-penalty", type=float, nargs="+", default=None, metavar="X", help="> 0: fewer deletions, more insertions (0)")
    add("--rescore", default=None, metavar="FOLDER|FILE", help="a language model that orders the n-best list of each segment")
    add("--rescore-scale", type=float, nargs="+", default=None, metavar="X", help="of --rescore (0 to 0.6 by 0.1)")
    add("--search", choices=("modified_beam", "beam"), default="modified_beam", help="one symbol a frame, or up to --max-symbols")
    add("--beam", type=int, default=4, metavar="K", help="hypotheses")
    add("--max-symbols", type=int, default=None, metavar="N", help="with --search beam: most symbols of a frame (3)")
    add("--prune", type=float, default=10.0, metavar="NATS", help="drop hypotheses so far below the best")
    add("--map", nargs="+", action="extend", default=[], metavar="a=b", help="replace word a by b on both sides")
    add("--batch-seconds", type=float, default=120.0, help="seconds of audio in a batch")
    add("--memory", type=float, default=4.0, metavar="GB", help="most memory for encoder outputs")
    add("--half-precision", action="store_true", help="keep encoder outputs as float16: half the memory, now and then another word")
    add("--threads", type=int, default=None, help="CPU threads (torch's choice if left out)")
    add("--device", default="cpu", help="cpu or cuda")
    add("--output", default="exp/tune", metavar="FOLDER", help="for tune.jsonl (every search), tune.json and tune.png")
    return parser


def _values(options: Namespace) -> dict[str, list[float]]:
    """The values of each scale; options that do not go together are refused, and --max-symbols is filled in."""
    for scale, model in (("lm_scale", "lm"), ("lodr_scale", "lodr"), ("rescore_scale", "rescore")):
        if getattr(options, scale) is not None and getattr(options, model) is None:
            raise UserError(f"--{scale.replace('_', '-')} needs --{model}")
    check_scales(options, "lm_scale", "ilm_scale", "lodr_scale", "rescore_scale")
    if options.max_symbols is None:
        options.max_symbols = MAX_SYMBOLS
    elif options.search != "beam":
        raise UserError("--max-symbols needs --search beam")
    for name in ("limit", "batch_seconds", "memory"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {value:g}")
    if not options.model:
        raise UserError("--model needs a name or a folder, not ''")
    found = {
        "lm_scale": options.lm_scale or (LM_SCALES if options.lm else [0.0]),
        "ilm_scale": options.ilm_scale or [0.0],
        "lodr_scale": options.lodr_scale or (LODR_SCALES if options.lodr else [0.0]),
        "blank_penalty": options.blank_penalty or [0.0],
        "rescore_scale": options.rescore_scale or (LM_SCALES if options.rescore else [0.0]),
    }
    if all(len(set(values)) == 1 for values in found.values()):
        raise UserError("nothing to tune: give several values of a scale, --lm or --rescore")
    return found


def _settings(options: Namespace, mapping: dict[str, str]) -> dict[str, Any]:
    """All that the errors depend on but the scales; contents of files and not their places."""
    from asr import __version__
    from asr.pretrained import resolve
    from asr.scoring.trials import file_hash

    def content(path: str | Path | None) -> str | None:
        return None if path is None else file_hash(path)

    manifests = [Path(name) / "manifest.jsonl" if Path(name).is_dir() else name for name in options.manifest]
    full = options.search == "beam"
    return {
        "version": __version__,
        "model": content(resolve(options.model)),
        "manifest": [content(name) for name in manifests],
        "split": options.split,
        "half": options.half,
        "limit": options.limit,
        "map": mapping,
        "lm": content(options.lm),
        "lodr": content(options.lodr),
        "search": [options.search, options.beam, options.max_symbols if full else 1, options.prune],
        "half_precision": options.half_precision,
        **({} if options.rescore is None else {"rescore": content(options.rescore)}),
    }


def _search_all(tuner: Tuner, encoded: EncodedSet, todo: Sequence[Scales], log: TrialLog) -> None:
    """Search with each combination, note it at once, and tell how far it is."""
    from asr.scoring.trials import best_trial

    terminal = sys.stderr.isatty()
    began = said = time.monotonic()
    utterances = len(encoded.refs)
    for count, scales in enumerate(todo):

        def show(done: int, count: int = count) -> None:
            share = (count + done / utterances) / len(todo)
            left = (time.monotonic() - began) * (1.0 / share - 1.0)
            told = f"search {count + 1} of {len(todo)}, {done} of {utterances} utterances, {_clock(left)} left"
            if log.trials:
                best = best_trial(list(log.trials.values()))
                told += f"; best so far {best.wer:.2f} %"
            print(f"\r\x1b[K{told}", end="", file=sys.stderr, flush=True)

        log.add(tuner.trial(encoded, scales, show if terminal else None))
        now = time.monotonic()
        if not terminal and (now - said > SAY_EVERY or count == 0) and count + 1 < len(todo):
            said = now
            left = (now - began) / (count + 1) * (len(todo) - count - 1)
            print(f"{count + 1} of {len(todo)} searches, {_clock(left)} left", file=sys.stderr, flush=True)
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _encoding(done: int, total: int) -> None:
    print(f"\r\x1b[Kencoding: {done} of {total} utterances", end="\r\x1b[K" if done == total else "", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- results


def best_options(options: Namespace, scales: Scales) -> list[str]:
    """What to give to asr transcribe or asr evaluate for these scales."""
    words = ["--search", options.search, "--beam", str(options.beam)]
    if options.search == "beam" and options.max_symbols is not None:
        words += ["--max-symbols", str(options.max_symbols)]
    if options.prune != 10.0:
        words += ["--prune", f"{options.prune:g}"]
    for name in ("lm", "lodr", "rescore"):
        path, scale = getattr(options, name), getattr(scales, f"{name}_scale")
        if path is not None and scale != 0.0:
            words += [f"--{name}", os.fspath(path), f"--{name}-scale", repr(scale)]
    for name in ("ilm_scale", "blank_penalty"):
        if getattr(scales, name) != 0.0:
            words += [f"--{name.replace('_', '-')}", repr(getattr(scales, name))]
    return words


def _axes(values: dict[str, list[float]]) -> list[str]:
    """The scales with several values."""
    return [name for name, numbers in values.items() if len(set(numbers)) > 1]


def _plane(trials: Sequence[Trial], best: Trial, axes: Sequence[str]) -> list[Trial]:
    """Those that differ from the best in the first two axes only."""
    rest = [name for name in best.scales._fields if name not in axes[:2]]
    return [t for t in trials if all(getattr(t.scales, name) == getattr(best.scales, name) for name in rest)]


def _print_results(options: Namespace, trials: Sequence[Trial], best: Trial, axes: Sequence[str]) -> None:
    names = [_label(name) for name in axes]
    plane = _plane(trials, best, axes)
    for name in axes[2:]:
        print(f"at {_label(name)} {getattr(best.scales, name):g}, as the best")
    rows = sorted({getattr(t.scales, axes[0]) for t in plane})
    columns = sorted({getattr(t.scales, axes[1]) for t in plane}) if len(axes) > 1 else [None]
    found = {(getattr(t.scales, axes[0]), getattr(t.scales, axes[1]) if len(axes) > 1 else None): t for t in plane}
    head = f"WER %: {names[0]}" + (f" down, {names[1]} across" if len(axes) > 1 else "")
    print(f"\n{head}")
    if len(axes) > 1:
        print(" " * 8 + "".join(f"{column:>9g}" for column in columns))
    for row in rows:
        cells = (found[row, column] for column in columns)
        print(f"{row:>8g}" + "".join(f"{t.wer:>8.2f}" + ("*" if t is best else " ") for t in cells))
    print(f"\nbest: {_wer_line(best)} at {', '.join(f'{_label(name)} {getattr(best.scales, name):g}' for name in axes)}")
    plain = next((t for t in trials if not any(t.scales)), None)
    if plain is not None and plain is not best:
        print(f"at 0: {_wer_line(plain)}")
    for name in axes:
        numbers = [getattr(t.scales, name) for t in trials]
        if getattr(best.scales, name) == max(numbers) or getattr(best.scales, name) == min(numbers) != 0.0:
            print(f"note: the best {_label(name)} is at the end of those tried; one beyond it may be better")
    print(f"options: {shlex.join(best_options(options, best.scales))}")


def _label(name: str) -> str:
    return name.replace("_", "-")


def _wer_line(trial: Trial) -> str:
    return (
        f"WER {trial.wer:.2f} % ({trial.errors} / {trial.words} words: {trial.ins} insertions, {trial.dels} deletions, "
        f"{trial.sub} substitutions)"
    )


def _report(options: Namespace, trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    from asr.scoring.trials import trial_dict

    told = ("model", "manifest", "split", "half", "limit", "search", "beam", "max_symbols", "prune", "lm", "lodr", "rescore", "map")
    return {"best": trial_dict(best), **{name: getattr(options, name) for name in told}, "trials": [trial_dict(t) for t in trials]}


def plot(path: Path, trials: Sequence[Trial], best: Trial, axes: Sequence[str]) -> bool:
    """Draw WER over the first two of ``axes``, the others as in the best; over one, a curve.

    Returns:
        Whether there is a picture: False if matplotlib is not installed.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(6.4, 4.8)
    if figure is None:
        return False
    plane = _plane(trials, best, axes)
    picture = figure.subplots()
    x = sorted({getattr(t.scales, axes[0]) for t in plane})
    if len(axes) == 1:
        wer = {getattr(t.scales, axes[0]): t.wer for t in plane}
        picture.plot(x, [wer[value] for value in x], marker="o")
        picture.plot(getattr(best.scales, axes[0]), best.wer, marker="*", markersize=16, color="tab:red")
        picture.set(xlabel=_label(axes[0]), ylabel="WER %")
        picture.grid(alpha=0.3)
    else:
        y = sorted({getattr(t.scales, axes[1]) for t in plane})
        table = [[0.0] * len(x) for _ in y]
        for trial in plane:
            table[y.index(getattr(trial.scales, axes[1]))][x.index(getattr(trial.scales, axes[0]))] = trial.wer
        finite = sorted(value for row in table for value in row)
        # the far end of a grid is of no interest: colours are for what is near the best
        shown = picture.imshow(table, origin="lower", cmap="viridis_r", aspect="auto", vmin=finite[0], vmax=finite[(3 * len(finite)) // 4])
        size = 8 if len(x) <= 11 else 6
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                light = value < (finite[0] + finite[(3 * len(finite)) // 4]) / 2
                picture.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=size, color="black" if light else "white")
        at = (x.index(getattr(best.scales, axes[0])), y.index(getattr(best.scales, axes[1])))
        picture.add_patch(_frame(at))
        picture.set_xticks(range(len(x)), [f"{value:g}" for value in x])
        picture.set_yticks(range(len(y)), [f"{value:g}" for value in y])
        picture.set(xlabel=_label(axes[0]), ylabel=_label(axes[1]))
        figure.colorbar(shown, label="WER %", extend="max")
    where = ", ".join(f"{_label(name)} {getattr(best.scales, name):g}" for name in axes)
    picture.set_title(f"best: {best.wer:.2f} % at {where}", fontsize=10)
    save_figure(figure, path)
    return True


def _frame(at: tuple[int, int]) -> Any:
    from matplotlib.patches import Rectangle  # type: ignore[import-not-found, unused-ignore]

    return Rectangle((at[0] - 0.5, at[1] - 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5)
