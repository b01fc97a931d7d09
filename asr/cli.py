"""The command line: ``asr transcribe | evaluate | train | tune | …``; `COMMANDS` has them all.

Every command wraps one library call and its options are that call's keywords. Nothing heavy is imported before the
arguments have been checked. Bad input ends with ``error: <one sentence>`` on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from asr.errors import UserError
from asr.files import write_text
from asr.memory import keep_freed_memory

FORMATS = ("txt", "json", "srt", "vtt", "ctm")
ONE_RECORDING = ("srt", "vtt")  # formats whose files hold one recording
MOST_THREADS = 1024  # CPU threads; far larger numbers end the process when torch starts them
LONGEST_BENCH = 86400  # seconds; the audio is made in memory
TRAIN_OPTIONS = ("--resume", "--print_recipe", "--help")  # of `asr train`; all others are keys of the recipe
AFTER_DASHES = "\0"  # marks the words after `--`; no argument of a process can hold it


class _Help(argparse.HelpFormatter):
    """Help with the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        return (
            text
            if action.default in (None, False, argparse.SUPPRESS, [])
            else f"{text} (default: %(default)s)"
        )


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence with the nearest option, and which takes no prefixes."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_Help)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Options and files in any order; after ``--`` there are only files.

        Raises:
            UserError: an unknown option (the nearest is suggested), a missing or ill-typed value.
        """
        words = list(argv)
        before = words[: words.index("--")] if "--" in words else words
        if not {"-h", "--help"} & set(before):  # first: an option that is missing may be the one that is misspelt
            self._refuse_unknown([word for word in before if _is_option(word)])
        if "--" in words:  # argparse reads the words twice, and the second time it no longer knows what followed `--`
            at = words.index("--") + 1
            words[at:] = [AFTER_DASHES + word for word in words[at:]]
        namespace, unknown = self.parse_known_intermixed_args(words)
        unknown = [word.removeprefix(AFTER_DASHES) for word in unknown if word != "--"]
        for action in self._get_positional_actions():
            value = getattr(namespace, action.dest)
            if isinstance(value, list):
                setattr(namespace, action.dest, [word.removeprefix(AFTER_DASHES) for word in value])
            elif isinstance(value, str):
                setattr(namespace, action.dest, value.removeprefix(AFTER_DASHES))
        if unknown:
            name = next((item for item in unknown if item.startswith("-")), unknown[0])
            raise UserError(f"{self.prog} has no {'option' if name.startswith('-') else 'argument'} {name}")
        return namespace

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Raises UserError for the first of these options that there is not."""
        known = [string for action in self._actions for string in action.option_strings]
        for option in (word.partition("=")[0] for word in words):
            if option not in known:
                raise UserError(f"{self.prog} has no option {option}{hint(option, known, cutoff=0.7)}")

    def error(self, message: str) -> NoReturn:
        """Argparse's own complaints, without the usage text."""
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def _is_option(word: str) -> bool:
    """Whether argparse takes a word for the name of an option: negative numbers and words with a space are values."""
    try:
        float(word)
    except ValueError:
        return len(word) > 1 and word.startswith("-") and " " not in word
    return False


def hint(word: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """``; did you mean …?`` if a known word is near: of a likeness of at least ``cutoff``, 1 being the same."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a name or a word that the terminal cannot show stops nothing
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, `head` for instance, has gone; the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: the output does not fit: no space left on the device", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help of a command
        return stop.code if isinstance(stop.code, int) else 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from asr import __version__

        print(f"asr {__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = ["--help", "--version"] if name.startswith("-") else list(COMMANDS)
        raise UserError(f"asr has no {kind} {name}{hint(name, known) or ' (see asr --help)'}")
    return COMMANDS[name][1](rest)


def _overview() -> str:
    lines = ["usage: asr COMMAND [options]\n\nStreaming speech recognition.\n\ncommands:\n"]
    lines += [f"  {name:<18}{text}\n" for name, (text, _) in COMMANDS.items()]
    lines += ["\n  asr COMMAND --help   the options of a command\n  asr --version\n"]
    return "".join(lines)


def _model(value: str) -> str:
    """The value of ``--model``: empty, it would be the current folder."""
    if not value:
        raise argparse.ArgumentTypeError("a name or a folder is needed, not ''")
    return value


def _threads(value: str) -> int:
    """The value of ``--threads``."""
    if not value.isdecimal() or not 1 <= int(value) <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST_THREADS}, not {value!r}")
    return int(value)


def _model_options(parser: Parser) -> None:
    parser.add_argument(
        "--model", required=True, type=_model, metavar="NAME|FOLDER", help="a shipped model or a model folder"
    )
    parser.add_argument("--threads", type=_threads, default=None, help="CPU threads (torch's choice if left out)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def _decoding_options(parser: Parser) -> None:
    """How to recognise: streaming or in batches, and the search."""
    parser.add_argument(
        "--streaming", action="store_true", help="chunk by chunk, as a live session; the same words"
    )
    parser.add_argument(
        "--batch-seconds", type=float, default=120.0, help="seconds of audio in an offline batch"
    )
    parser.add_argument("--parallel", type=int, default=8, help="streams stepped as one batch")
    _search_options(parser)


def _search_options(parser: Parser) -> None:
    """How to search; `_recognizer` reads them, and those of `_model_options`."""
    parser.add_argument(
        "--blank-penalty", type=float, default=0.0, help="> 0: fewer deletions, more insertions"
    )
    parser.add_argument(
        "--search", choices=("greedy", "modified_beam", "beam"), default=None,
        help="modified_beam: one symbol a frame, as greedy (the default, or modified_beam if --beam is given); beam: up to --max-symbols",
    )  # fmt: skip
    parser.add_argument("--beam", type=int, default=None, metavar="K", help="hypotheses of a beam (4)")
    parser.add_argument("--max-symbols", type=int, default=None, metavar="N", help="with --search beam: most symbols of a frame (3)")
    parser.add_argument("--prune", type=float, default=None, metavar="NATS", help="with a beam: drop hypotheses so far below the best (10)")
    parser.add_argument("--ilm-scale", type=float, default=0.0, help="subtract the internal language model, so much of it (ILME)")
    parser.add_argument("--lm", default=None, metavar="FOLDER|FILE", help="a language model: a folder of asr train, or .arpa, .arpa.gz, .npz")
    parser.add_argument("--lm-scale", type=float, default=None, help="of --lm (0.3)")
    parser.add_argument("--lodr", default=None, metavar="FILE", help="a bigram of the training text, subtracted (LODR)")
    parser.add_argument("--lodr-scale", type=float, default=None, help="of --lodr (0.2)")
    parser.add_argument("--rescore", default=None, metavar="FOLDER|FILE", help="a language model that chooses among the hypotheses of each segment when it ends")
    parser.add_argument("--rescore-scale", type=float, default=None, help="of --rescore (0.3)")
    parser.add_argument(
        "--phrases", default=None, metavar="FILE", help="phrases to prefer, a line each: phrase[<TAB>boost]; [name boost] begins a class"
    )
    parser.add_argument("--phrase-boost", type=float, default=None, metavar="B", help="of phrases without one of their own or of their class (1.5)")
    parser.add_argument("--class-boost", nargs="+", action="extend", default=[], metavar="NAME=B", help="boosts of the classes of --phrases, before the file's")


def _recognizer(options: argparse.Namespace) -> Any:
    """The recogniser that the options ask for. A language model, phrases or a width are meant for a beam."""
    from asr.decoding.added import LanguageModels
    from asr.decoding.beam import SearchConfig
    from asr.decoding.phrases import read_phrases
    from asr.streaming import Recognizer

    wanted = [name for name in ("beam", "lm", "lodr", "rescore", "phrases") if getattr(options, name) is not None]
    wanted += ["ilm-scale"] * (options.ilm_scale != 0.0)
    kind = options.search or ("modified_beam" if wanted else "greedy")
    if kind == "greedy" and (wanted or options.prune is not None):
        raise UserError(f"--{(wanted or ['prune'])[0]} needs --search modified_beam or beam")
    if kind != "beam" and options.max_symbols is not None:
        raise UserError("--max-symbols needs --search beam")
    check_scales(options, "lm_scale", "ilm_scale", "lodr_scale", "rescore_scale")
    numbers = {name: value for name in ("beam", "max_symbols", "prune") if (value := getattr(options, name)) is not None}
    search = SearchConfig(kind, **numbers, blank_penalty=options.blank_penalty, ilm_scale=options.ilm_scale)
    given: dict[str, Any] = {}
    for name in ("lm", "lodr", "rescore"):
        scale = getattr(options, f"{name}_scale")
        if scale is not None and getattr(options, name) is None:
            raise UserError(f"--{name}-scale needs --{name}")
        given |= {name: getattr(options, name)} | ({} if scale is None else {f"{name}_scale": scale})
    models = LanguageModels(**given)
    phrases = None
    if options.phrases is not None:
        phrases = read_phrases(options.phrases, options.phrase_boost, options.class_boost)
    elif options.phrase_boost is not None or options.class_boost:
        raise UserError("--phrase-boost and --class-boost need --phrases")
    return Recognizer.load(
        options.model, options.threads, options.device, search=search, language_models=models, phrases=phrases
    )


def check_scales(options: argparse.Namespace, *names: str) -> None:
    """Scales, or lists of them, are not negative: what is subtracted is subtracted by a scale above 0.

    Raises:
        UserError: one is.
    """
    for name in names:
        value = getattr(options, name)
        for scale in value if isinstance(value, list) else [value]:
            if scale is not None and scale < 0:
                raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {scale:g}")


def check_token(recognizer: Any, *thresholds: float) -> None:
    """A threshold of the endpoint token needs a model that has the token.

    Raises:
        UserError: it has none.
    """
    if any(thresholds) and recognizer.tokenizer.endpoint_id is None:
        raise UserError(f"--token-threshold needs a model with an endpoint token: {recognizer.name} has none")


# ---------------------------------------------------------------- transcribe


def transcribe_command(argv: Sequence[str]) -> int:
    """``asr transcribe FILES… --model M``: recognise recordings and write what was said."""
    parser = Parser(
        prog="asr transcribe", description="Recognise recordings; '-' reads WAV or 16 kHz PCM from stdin."
    )
    parser.add_argument("files", nargs="+", metavar="FILES", help="audio files, or - for standard input: WAV, anything else is taken for raw PCM")
    _model_options(parser)
    _decoding_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="txt", help="of the output")
    parser.add_argument(
        "--output", default=None, metavar="FILE|FOLDER", help="a file, or a folder for one file a recording"
    )
    parser.add_argument(
        "--partials", action="store_true", help="with --streaming: show words as they come, on stderr"
    )
    parser.add_argument(
        "--trailing-silence", type=float, default=0.8, help="seconds of silence that end a segment"
    )
    parser.add_argument(
        "--max-segment", type=float, default=20.0, help="seconds after which a segment is cut"
    )
    parser.add_argument(
        "--min-speech", type=float, default=0.0, help="seconds from the first to the last symbol before silence may end a segment; a lone short word waits for more"
    )
    parser.add_argument(
        "--token-threshold", type=float, default=0.0, help="least probability of the model's endpoint token, 0 to 1"
    )
    parser.add_argument(
        "--aligned-times", action="store_true",
        help="words begin and end where they were said, not where the model wrote them; needs a model with an alignment branch",
    )  # fmt: skip
    parser.add_argument(
        "--confidence", action="store_true", help="of words, as the probability that they are right (json, ctm)"
    )
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="N",
        help="the N best readings of every segment and its confusion network (json); needs a beam",
    )  # fmt: skip
    parser.add_argument(
        "--itn", nargs="?", const="prose", default=None, metavar="PROFILE",
        help="write it as people write it ($25, not twenty five dollars): prose if no profile is named, nemo, or a folder",
    )  # fmt: skip
    parser.add_argument(
        "--itn-lexicon", default=None, metavar="FILE", help="with --itn: phrases of your own, lines of phrase<TAB>written"
    )
    options = parser.parse(_itn_value(argv))
    keep_freed_memory()
    if options.itn_lexicon is not None and options.itn is None:
        raise UserError("--itn-lexicon needs --itn")
    if options.partials and not options.streaming:
        raise UserError("--partials needs --streaming")
    if options.alternatives and options.format != "json":
        raise UserError(f"--alternatives are written with --format json, not {options.format}")
    if options.confidence and options.format not in ("json", "ctm"):
        raise UserError(f"--confidence is written with --format json or ctm, not {options.format}")
    targets = _targets(options)

    from asr.decoding.results import WRITERS, Transcript
    from asr.streaming import Details, EndpointConfig
    from asr.streaming.written import load_normalizer

    endpoint = EndpointConfig(
        options.trailing_silence,
        options.max_segment,
        min_speech=options.min_speech,
        token_threshold=options.token_threshold,
    )
    itn = None if options.itn is None else load_normalizer(options.itn, options.itn_lexicon)
    details = Details(options.aligned_times, options.confidence, options.alternatives)
    recognizer = _recognizer(options)
    check_token(recognizer, options.token_threshold)
    if recognizer.search.kind != "greedy" and options.alternatives > recognizer.search.beam:
        told = f"the beam has {recognizer.search.beam} hypotheses, so a segment may have fewer than {options.alternatives} alternatives"
        print(f"note: {told} (--beam)", file=sys.stderr)
    writer = WRITERS[options.format]
    several = len(options.files) > 1
    live = options.streaming and (options.partials or sys.stdout.isatty() or "-" in options.files)
    if live:
        from asr.streaming.live import transcribe_live

        stdout_text = options.format == "txt" and options.output is None
        results = transcribe_live(recognizer, options.files, endpoint, options.partials, stdout_text, itn, details)
    else:
        stdout_text = False
        results = recognizer.transcribe_each(
            options.files,
            streaming=options.streaming,
            batch_seconds=options.batch_seconds,
            parallel=options.parallel,
            endpoint=endpoint,
            itn=itn,
            details=details,
        )
    kept: list[Transcript] = []
    failed = False
    for i, result in enumerate(results):
        if isinstance(result, UserError):
            failed = True
            print(f"error: {result}", file=sys.stderr)
        elif stdout_text:
            pass  # printed while it was recognised
        elif targets and several and len(targets) == len(options.files):
            write_text(targets[i], writer.render([result]))
        elif options.format == "txt" and not targets:
            print(writer.render([result], several), end="", flush=True)
        else:
            kept.append(result)
    if kept:
        text = writer.render(kept, several)
        if targets:
            write_text(targets[0], text)
        else:
            print(text, end="")
    return 2 if failed else 0


def _itn_value(argv: Sequence[str]) -> list[str]:
    """``--itn`` takes the word after it only if that is a profile: in ``--itn talk.wav`` it is a recording.

    Raises:
        UserError: it is neither, and near the name of a profile.
    """
    words = list(argv)
    if "--itn" in words[: words.index("--") if "--" in words else len(words)]:
        at = words.index("--itn")
        from itn.normalizer import is_profile, near_profile

        value = words[at + 1] if at + 1 < len(words) else "-"
        if not is_profile(value):
            near = "" if value.startswith("-") or os.path.exists(value) else near_profile(value)
            if near:
                raise UserError(f"no such audio file: {value}; did you mean the profile {near}?")
            words[at] = "--itn=prose"
    return words


def _targets(options: argparse.Namespace) -> list[Path]:
    """Where the output goes: nothing (stdout), one file, or a file in a folder for each recording; checked first."""
    several = len(options.files) > 1
    if options.output is None:
        if several and options.format in ONE_RECORDING:
            raise UserError(
                f"a {options.format} file holds one recording: give --output FOLDER for {len(options.files)}"
            )
        return []
    path = Path(options.output)
    if not path.is_dir() and not options.output.endswith(("/", os.sep)):
        if several and options.format in ONE_RECORDING:
            raise UserError(
                f"a {options.format} file holds one recording: --output must be a folder, not {path}"
            )
        targets = [path]
    else:
        names = ["stdin" if file == "-" else Path(file).stem for file in options.files]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UserError(f"two recordings would be written to {path / double}.{options.format}")
        _check_folder(path)
        targets = [path / f"{name}.{options.format}" for name in names]
    read = [*options.files, options.lm, options.lodr, options.rescore, options.phrases, options.itn_lexicon]
    for target in targets:
        check_output(target, read, folder=target.parent if target is path else None)
    return targets


def _check_folder(path: Path) -> None:
    """A folder is there or can be made; it is made when there is something to write."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"cannot make the folder {path}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {path}: no permission")


def check_output(
    path: Path, read: Iterable[str | os.PathLike[str] | None], folder: Path | None = None, kind: str = "files that are read"
) -> None:
    """A file that is to be written is none of those that are read, and no folder.

    Args:
        path: of the file.
        read: files; ``-`` and None are none.
        folder: that must be there.
        kind: what to call those that are read.

    Raises:
        UserError: it is, or its folder is not there.
    """
    if folder is not None and not folder.absolute().is_dir():
        raise UserError(f"cannot write {path}: no folder {folder}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if not path.is_file():  # /dev/stdout, a named pipe: nothing is lost
        return
    for name in read:
        if name is not None and name != "-" and os.path.exists(name) and path.samefile(name):
            raise UserError(f"{path} would be written over: it is one of the {kind}")


# ---------------------------------------------------------------- evaluate


def evaluate_command(argv: Sequence[str]) -> int:
    """``asr evaluate --model M --manifest F``: word error rate and real-time factor."""
    if "--endpoints" in argv:
        from asr.scoring.endpoint_command import endpoints_command

        return endpoints_command([word for word in argv if word != "--endpoints"])
    parser = Parser(
        prog="asr evaluate",
        description="Score a model on the utterances of a manifest; with --endpoints its endpoints instead (see asr evaluate "
        "--endpoints --help).",
    )
    _model_options(parser)
    parser.add_argument(
        "--manifest", required=True, nargs="+", action="extend", metavar="FILE",
        help="manifest.jsonl, its folder, or lhotse cuts; several are scored as one",
    )  # fmt: skip
    parser.add_argument("--split", default=None, help="only this split of the manifest")
    parser.add_argument(
        "--half", type=int, choices=(1, 2), default=None, help="only every other speaker: asr tune on 1 and report on 2"
    )
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N utterances")
    _decoding_options(parser)
    parser.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="a=b",
        help="replace word a by b on both sides",
    )
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="of the scores")
    parser.add_argument(
        "--report", default="errors.txt", metavar="FILE",
        help="aligned errors of every utterance, in the current folder if left out; '' for none",
    )  # fmt: skip
    options = parser.parse(argv)
    keep_freed_memory()

    from asr.scoring.wer import parse_map

    mapping = parse_map(options.map)
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit must be above 0, not {options.limit}")
    if options.report:
        report = Path(options.report)
        inside = [Path(name) / "manifest.jsonl" for name in options.manifest]  # of those that are folders
        read = [*options.manifest, *inside, options.lm, options.lodr, options.rescore, options.phrases]
        check_output(report, read, folder=report.parent)

    import json

    from asr.scoring.evaluate import evaluate

    recognizer = _recognizer(options)
    evaluation = evaluate(
        recognizer,
        options.manifest,
        split=options.split,
        half=options.half,
        limit=options.limit,
        streaming=options.streaming,
        map=mapping,
        batch_seconds=options.batch_seconds,
        parallel=options.parallel,
        report=options.report or None,
        progress=_progress if sys.stderr.isatty() else None,
    )
    for sentence in evaluation.errors:
        print(f"error: {sentence}", file=sys.stderr)
    if options.format == "json":
        scores = evaluation.to_dict()
        manifest = options.manifest[0] if len(options.manifest) == 1 else options.manifest
        scores |= {"model": options.model, "manifest": manifest, "split": options.split}
        scores |= {name: value for name in ("half", "limit") if (value := getattr(options, name)) is not None}
        scores |= {"streaming": options.streaming, "report": options.report or None}
        print(json.dumps(scores, indent=2, ensure_ascii=False))
    else:
        print(evaluation.result)
        print(
            f"{len(evaluation.result.utterances)} utterances, {evaluation.seconds:.1f} s of audio in "
            f"{evaluation.wall_seconds:.1f} s: real-time factor {evaluation.rtf:.4f}"
        )
        if options.report:
            print(f"aligned errors: {options.report}")
    return 2 if evaluation.errors else 0


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} utterances", end="\n" if done == total else "", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- train, bench


def train_command(argv: Sequence[str]) -> int:
    """``asr train RECIPE.yaml [--key value …]``."""
    if not argv:
        raise UserError("asr train needs a recipe: asr train RECIPE.yaml [--key value …] (see asr train --help)")
    for word in argv:  # a misspelt option that is no key of the recipe: the recipe's own hints do not know it
        option = word.partition("=")[0]
        near = hint(option, TRAIN_OPTIONS, cutoff=0.8) if option.startswith("--") else ""
        if near and option not in TRAIN_OPTIONS:
            raise UserError(f"asr train has no option {option}{near}")
    try:
        from asr.training.command import train_command as run

        return int(run(list(argv)))
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != "asr":
            raise UserError(f"training needs {error.name}: pip install 'emformer-asr[train]'") from None
        raise


def bench_command(argv: Sequence[str]) -> int:
    """``asr bench --model M``: speed, latency and memory of streaming."""
    parser = Parser(prog="asr bench", description="Stream through a model one chunk at a time and measure.")
    parser.add_argument(
        "--model", required=True, type=_model, metavar="NAME|FOLDER", help="a shipped model or a model folder"
    )
    parser.add_argument(
        "--audio", default=None, metavar="FILE", help="a recording to stream (noise if left out)"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio to stream")
    parser.add_argument("--threads", type=_threads, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the figures")
    options = parser.parse(argv)
    keep_freed_memory()
    if not 1 <= options.seconds <= LONGEST_BENCH:
        raise UserError(f"--seconds must be from 1 to {LONGEST_BENCH}, not {options.seconds:g}")

    import json

    from asr.streaming.bench import bench

    figures = bench(
        options.model,
        audio=options.audio,
        seconds=options.seconds,
        threads=options.threads,
        device=options.device,
    )
    if options.format == "json":
        print(json.dumps(figures, indent=2))
    else:
        print("".join(f"{name.replace('_', ' '):<20}{value}\n" for name, value in figures.items()), end="")
    return 0


def elsewhere(module: str, name: str) -> Callable[[Sequence[str]], int]:
    """A command that lives in another module, which is imported when it is run: most of them need torch."""

    def run(argv: Sequence[str]) -> int:
        command: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
        return command(argv)

    return run


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "transcribe": ("recognise recordings or a live stream", transcribe_command),
    "evaluate": ("word error rate and real-time factor on a manifest", evaluate_command),
    "train": ("train a model from a recipe", train_command),
    "ngram": ("estimate an n-gram language model from text", elsewhere("asr.training.ngram", "ngram_command")),
    "perplexity": ("perplexity of a language model on text", elsewhere("asr.training.perplexity", "perplexity_command")),
    "tune": ("find the best scales of language models on a dev set", elsewhere("asr.scoring.tune_command", "tune_command")),
    "align": ("find when each word of a known text was said", elsewhere("asr.decoding.align", "align_command")),
    "train-branch": ("train a model's branch for word times", elsewhere("asr.training.branch", "branch_command")),
    "train-confidence": ("train and calibrate the confidence of words", elsewhere("asr.training.confidence", "confidence_command")),
    "import": ("make a model folder of a public model", elsewhere("asr.importing.command", "import_command")),
    "export": ("make files of a model that phones run", elsewhere("export.cli", "export_command")),
    "verify": ("prove that an export gives the words of the model, and measure it", elsewhere("export.cli", "verify_command")),
    "bench": ("real-time factor, latency, start-up and memory of a model", bench_command),
}


if __name__ == "__main__":
    sys.exit(main())
