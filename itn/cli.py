"""The command line: ``itn < spoken > written``, a line each; ``itn build | export | train`` for who makes the parts.

Bad input ends with ``error: <one sentence>`` on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn

from itn.errors import ItnError
from itn.style import hint

# command -> module with a function `main(argv) -> int`, what it does, and the extra it needs
COMMANDS = {
    "build": ("itn.grammars.build", "compile the grammars of a profile", "grammar"),
    "export": ("itn.export", "write the files a phone runs", "export"),
    "train": ("itn.train", "train the tagger", "train"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence with the nearest option, and which takes no prefixes."""

    def __init__(self, prog: str, description: str, epilog: str = ""):
        super().__init__(
            prog=prog, description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options.

        Raises:
            ItnError: an unknown option (the nearest is suggested), a missing or ill-typed value.
        """
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            name = next((item for item in unknown if item.startswith("-")), unknown[0])
            option = name.partition("=")[0]
            known = [string for action in self._actions for string in action.option_strings]
            if not option.startswith("-"):
                known = list(COMMANDS)
            kind = "option" if option.startswith("-") else "command"
            raise ItnError(f"{self.prog} has no {kind} {option}{hint(option, known)}")
        return namespace

    def error(self, message: str) -> NoReturn:
        """Argparse's own complaints, without the usage text."""
        raise ItnError(f"{self.prog}: {message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in COMMANDS:
            status = _command(arguments[0])(arguments[1:])
        else:
            status = normalize_command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except ItnError as error:
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
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0


def _command(name: str) -> Callable[[Sequence[str]], int]:
    module, _, extra = COMMANDS[name]
    try:
        run: Callable[[Sequence[str]], int] = importlib.import_module(module).main
        return run
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing.partition(".")[0] == "itn":
            raise ItnError(f"itn {name} is not part of this version: no module {missing}") from None
        raise ItnError(f"itn {name} needs {missing}: pip install 'emformer-asr[{extra}]'") from None


def _parser() -> Parser:
    commands = "".join(f"  itn {name:<8}{text}\n" for name, (_, text, _) in COMMANDS.items())
    parser = Parser(
        "itn",
        "Spoken English from standard input, written English to standard output, a line each.",
        f"commands:\n{commands}\n  itn COMMAND --help   the options of a command",
    )
    add = parser.add_argument
    add("--profile", default="prose", metavar="NAME|FOLDER", help="prose (newspaper style), nemo, or a folder (default: prose)")
    add("--lexicon", default=None, metavar="FILE", help="phrases of your own, lines of phrase<TAB>written; they win over everything")
    add("--format", choices=("txt", "json"), default="txt", help="txt, or json: text and spans, an object a line (default: txt)")
    add("--number-threshold", type=int, default=None, metavar="N", help="numbers and durations below N stay words")
    add("--ordinal-threshold", type=int, default=None, metavar="N", help="ordinals below N stay words")
    add("--thousands", default=None, metavar="SIGN", help="between groups of three digits, e.g. ,")
    add("--clock", type=int, default=None, metavar="12|24", help="24 writes 9:40 p.m. as 21:40")
    add("--units", default=None, metavar="symbols|words", help="8 km or 8 kilometers")
    add("--currencies", default=None, metavar="symbols|words", help="$7 or 7 dollars")
    add("--on", nargs="+", action="extend", default=[], metavar="CATEGORY", help="convert these categories, too")
    add("--off", nargs="+", action="extend", default=[], metavar="CATEGORY", help="leave these categories as spoken")
    add("--tagger", default=None, metavar="FILE", help="another tagger than the one that ships with the package")
    add("--category", default=None, metavar="CATEGORY", help="every line is one span of this category: no tagger decides")
    add("--version", action="store_true", help="say which version this is")
    add("--partials", action="store_true", help="show on standard error what each word makes final | the tail")
    return parser


def normalize_command(argv: Sequence[str]) -> int:
    """``itn [options] < lines > lines``: as many lines out as in, each as soon as it is there."""
    options = _parser().parse(argv)
    if options.version:
        print(f"itn {_version()}")
        return 0
    if sys.stdin is None or sys.stdout is None:
        raise ItnError(f"standard {'input' if sys.stdin is None else 'output'} is closed")
    if options.partials and options.category:
        raise ItnError("--partials shows what the tagger decides, --category leaves it nothing to decide")
    from itn.normalizer import Normalizer

    names = ("lexicon", "number_threshold", "ordinal_threshold", "thousands", "clock", "units", "currencies", "on", "off", "tagger")
    normalizer = Normalizer(options.profile, **{name: getattr(options, name) for name in names})
    if options.category is not None:
        normalizer.convert("", options.category)  # is there such a category?
    out = sys.stdout.buffer
    for count, raw in enumerate(_lines(sys.stdin.buffer)):
        raw = raw if count else raw.removeprefix(codecs.BOM_UTF8)
        end = b"\n" if raw.endswith(b"\n") else b""
        line = raw[: len(raw) - len(end)].decode("utf-8", "surrogateescape")
        if options.partials:
            show_partials(normalizer, line)
        text, spans = _converted(normalizer, line, options.category)
        if options.format == "json":
            out.write(json.dumps({"text": text, "spans": spans}, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        else:
            out.write(text.encode("utf-8", "surrogateescape") + end)
        out.flush()
    return 0


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("emformer-asr")
    except PackageNotFoundError:
        raise ItnError("this copy is not installed, so it has no version: pip install emformer-asr") from None


def _lines(stream: BinaryIO) -> Any:
    return iter(stream.readline, b"")


def _converted(normalizer: Any, line: str, category: str | None) -> tuple[str, list[dict[str, Any]]]:
    if category is None:
        result = normalizer.normalize(line)
        return result.text, [
            {name: getattr(span, name) for name in ("start", "end", "category", "spoken", "written")}
            for span in result.spans
        ]
    words, written = line.split(), normalizer.convert(line, category)
    if written is None:
        return line, []
    span = {"start": 0, "end": len(words), "category": category, "spoken": " ".join(words), "written": written}
    blanks = len(line) - len(line.lstrip())
    return line[:blanks] + written + line[len(line.rstrip()) :], [span]


def show_partials(normalizer: Any, line: str) -> None:
    """Push the words of a line one by one and show, for each, what is final and what may still change."""
    stream = normalizer.stream()
    for word in line.split():
        update = stream.push(word)
        print(f"{word:<16}{stream.text} |{update.tail}", file=sys.stderr)
    stream.finish()
    print(f"{'':<16}{stream.text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
