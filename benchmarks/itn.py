"""Inverse text normalisation against NeMo-text-processing and WeText: accuracy, streaming, speed, memory, size. One Markdown table.

    python benchmarks/itn.py --text FOLDER [--json FILE] [--peers-env FOLDER] [--no-peers] [--errors N]

The peers are installed from PyPI into environments of their own (kept in ~/.cache/emformer-asr/itn-peers; the first run takes a few
minutes). Every system runs in processes of its own, one thread on one CPU, one after the other, on the same inputs. Speed is by the
CPU time of a process that sees every text once, in rounds (--repeat) in which the systems follow one another closely: medians, and medians of the
ratios of a round, since a shared machine is fast in one minute and slow in the next. The load is by the clock.

Sets: *context*, sentences of our own (tests/itn/data/context.tsv, profile prose, half with nothing to convert); *earnings*, the
held-out sentences of earnings calls, made from FOLDER (it holds earnings22.jsonl.gz); *expressions* of our own for the nemo formats
(tests/itn/data/nemo.tsv), exact, end to end and, for us, with the category given: its grammar alone, words that stay left out.

Lenient, revision, hold, I-WER: see itn/scoring.py. A peer streams by running again on all words so far at each word; nothing it shows is
final before the end, so its hold is the rest of the sentence. Load ends with a first sentence. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, where itn.py is this file

from itn.scoring import Score, StreamScore, percentile, score

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("itn_worker.py")
DATA = ROOT / "tests" / "itn" / "data"
THREADS = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
    )
}
# environment -> (packages, modules to find in it); NeMo pins a release of pynini of its own
ENVIRONMENTS = {
    "nemo": (("nemo_text_processing==1.2.0",), ("nemo_text_processing", "pynini")),
    "wetext": (("wetext==0.1.8",), ("wetext", "kaldifst")),
}
# system -> (environment, column). WeText: the package that runs its compiled grammars by kaldifst. WeTextProcessing 1.2.0, the same grammars
# in pynini, wrote the same for every context sentence, took a third longer, and grew to 7 GB when streaming.
PEERS = {
    "nemo": ("nemo", "NeMo 1.2.0"),
    "wetext": ("wetext", "wetext 0.1.8 (kaldifst)"),
}


class BenchError(Exception):
    """One clear sentence for the user."""


def read_tsv(path: Path) -> list[list[str]]:
    """The rows of a file; lines that begin with # are comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


# ---- environments of the peers


def environment(name: str, folder: Path) -> str:
    """The interpreter of a peer's environment, made and filled if it is not there yet."""
    packages, modules = ENVIRONMENTS[name]
    python = folder / name / "bin" / "python"

    def complete() -> bool:
        found = "; ".join(
            f"assert version({p.partition('==')[0]!r}) == {p.partition('==')[2]!r}" for p in packages
        )
        program = f"from importlib.metadata import version; {found}; import {', '.join(modules)}"
        return subprocess.run([python, "-c", program], cwd="/", capture_output=True).returncode == 0

    if python.exists() and complete():
        return str(python)
    print(f"installing {' and '.join(packages)} into {folder / name} (a few minutes)", file=sys.stderr)
    (folder / name).mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(folder / name)],
        [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *packages],
    ]
    with open(log, "w") as file:
        for step in steps:
            if subprocess.run(step, stdout=file, stderr=subprocess.STDOUT).returncode:
                reason = next(
                    (
                        line
                        for line in reversed(log.read_text().splitlines())
                        if "ERROR" in line or "Error" in line
                    ),
                    "no reason",
                )
                raise BenchError(
                    f"peer {name} could not be installed: {reason.strip()} (all of it: {log}); --no-peers runs without peers"
                )
    if not complete():
        raise BenchError(
            f"peer {name} is installed in {folder / name} but does not import; delete that folder and run again"
        )
    return str(python)


# ---- running a system


def ask(python: str, job: dict, name: str) -> dict:
    """The answers of a fresh process to a job."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(job))
        process = subprocess.run(
            [python, "-E", "-s", str(WORKER), str(question), str(answer)],
            env=os.environ | THREADS,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if process.returncode or not answer.exists():
            last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BenchError(f"{name} failed: {last}")
        return json.loads(answer.read_text())


def measure(python: str, job: dict, name: str, loads: int) -> dict:
    """The answers to a job, with the figures of the load as medians of fresh processes that only load."""
    print(f"running {name}", file=sys.stderr)
    small = {key: value for key, value in job.items() if key not in ("sets", "given", "streams")}
    ask(python, small, name)  # fills the caches
    fresh = [ask(python, small, name) for _ in range(loads)]
    result = ask(python, job, name)
    return result | {
        key: statistics.median(one[key] for one in fresh)
        for key in ("import_s", "load_s", "resident", "disk")
    }


def figures(result: dict, sets: dict[str, list[list[str]]], streams: list[str]) -> dict:
    """All figures of a system from its answers."""
    out: dict = {}
    for name, rows in sets.items():
        if name not in result["sets"]:
            continue
        written = result["sets"][name]["written"]
        if name == "expressions":
            out[name] = {
                "end_to_end": sum(row[1] == w for row, w in zip(rows, written)) / len(rows),
                "by_category": by_category(rows, written),
            }
            continue
        out[name] = score([row[0] for row in rows], [row[1] for row in rows], written).figures()
        words = sum(len(row[0].split()) for row in rows)
        seconds = statistics.median(result["rounds"][name])
        out[name] |= {
            "sentences_per_s": len(rows) / seconds,
            "words_per_s": words / seconds,
            "ms_per_word": 1000 * seconds / words,
        }
    if result["streams"]:
        stream = StreamScore()
        for text, (steps, whole, _) in zip(streams, result["streams"]):
            stream.add(text.split(), [tuple(step) for step in steps], whole)
        pushes = [push_seconds(result), *result["pushes"]]
        out["stream"] = stream.figures() | {
            "ms_per_push": 1000 * statistics.median(sum(seconds) / len(seconds) for seconds in pushes),
            "ms_per_push_p99": 1000 * statistics.median(percentile(seconds, 99) for seconds in pushes),
        }
        if not any(
            step[0] for steps, _, _ in result["streams"] for step in steps
        ):  # shows all it has, none of it final
            out["stream"] = {key: value for key, value in out["stream"].items() if not key.startswith("held")}
    for key in ("import_s", "load_s", "resident", "disk"):
        out[key] = result[key]
    return out


def push_seconds(result: dict) -> list[float]:
    """The CPU time of every push of a process."""
    return [second for _, _, seconds in result["streams"] for second in seconds]


def by_category(rows: list[list[str]], written: list[str]) -> dict[str, float]:
    """Share of exact expressions of each category."""
    right, total = (
        Counter(row[2] for row, w in zip(rows, written) if row[1] == w),
        Counter(row[2] for row in rows),
    )
    return {category: right[category] / total[category] for category in total}


# ---- the table


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def number(digits: int, unit: str = ""):
    return lambda value: f"{value:,.{digits}f}{unit}"


MIB = 1 << 20
ROWS = [  # (title, path in the figures, format, target)
    ("context: exact, lenient", "context.lenient", percent, ">= 92 %"),
    ("context: exact, strict", "context.strict", percent, ""),
    ("context: untouched kept", "context.kept", percent, ">= 95 %"),
    ("context: with entities right", "context.right", percent, ""),
    ("context: I-WER", "context.i_wer", percent, ""),
    ("context: NI-WER", "context.ni_wer", percent, ""),
    ("earnings: exact, lenient", "earnings.lenient", percent, ">= 95 %"),
    ("earnings: exact, strict", "earnings.strict", percent, ""),
    ("earnings: untouched kept", "earnings.kept", percent, ">= 99 %"),
    ("earnings: with entities right", "earnings.right", percent, ""),
    ("earnings: I-WER", "earnings.i_wer", percent, ""),
    ("earnings: NI-WER", "earnings.ni_wer", percent, ""),
    ("expressions (nemo): category given", "expressions.given", percent, ">= 97 %"),
    ("expressions (nemo): end to end", "expressions.end_to_end", percent, ">= 90 %"),
    ("context: sentences/s", "context.sentences_per_s", number(0), ""),
    ("context: words/s", "context.words_per_s", number(0), ""),
    ("context: our speed is so many times theirs", "context.slower", number(1, "x"), ">= 10x (NeMo)"),
    ("context: ms a word", "context.ms_per_word", number(3), "<= 0.3"),
    ("earnings: sentences/s", "earnings.sentences_per_s", number(0), ""),
    ("earnings: words/s", "earnings.words_per_s", number(0), ""),
    ("earnings: our speed is so many times theirs", "earnings.slower", number(1, "x"), ">= 10x (NeMo)"),
    ("earnings: ms a word", "earnings.ms_per_word", number(3), "<= 0.3"),
    ("stream: revised pushes", "stream.revision_rate", percent, "<= 2 %"),
    ("stream: mean hold, words", "stream.hold_mean", number(2), "<= 2"),
    ("stream: p99 hold, words", "stream.hold_p99", number(0), "<= 12"),
    ("stream: words not shown yet, mean", "stream.held_mean", number(2), ""),
    ("stream: words not shown yet, p99", "stream.held_p99", number(0), ""),
    ("stream: ms a push, mean", "stream.ms_per_push", number(3), "<= 0.3"),
    ("stream: ms a push, p99", "stream.ms_per_push_p99", number(3), ""),
    ("load without imports, s", "load_s", number(3), "<= 0.3"),
    ("load with imports, s", "imported_s", number(3), ""),
    ("resident over the interpreter, MiB", "resident_mib", number(1), "<= 40"),
    ("data files, MiB", "disk_mib", number(2), "<= 3"),
]


def look(values: dict, path: str) -> float | None:
    found: object = values
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, (int, float)) else None


def table(systems: dict[str, dict], notes: list[str]) -> str:
    """The Markdown table: a row a figure, a column a system."""
    lines = ["| figure | " + " | ".join(systems) + " | target |", "|---" * (len(systems) + 2) + "|"]
    for title, path, form, target in ROWS:
        cells = [look(values, path) for values in systems.values()]
        if any(cell is not None for cell in cells):
            lines.append(
                f"| {title} | "
                + " | ".join("-" if cell is None else form(cell) for cell in cells)
                + f" | {target} |"
            )
    return "\n".join(lines + [""] + notes)


def show_errors(name: str, rows: list[list[str]], written: list[str], limit: int) -> None:
    """Print the first sentences that are wrong, as spoken, wanted and got."""
    wrong = [
        (row, w)
        for row, w in zip(rows, written)
        if (row[1] != w if len(row) > 2 else not Score().add(row[0], row[1], w))
    ]
    print(f"\n{name}: {len(wrong)} wrong of {len(rows)}", file=sys.stderr)
    for row, w in wrong[:limit]:
        print("\n".join([f"  spoken {row[0]}", f"  wanted {row[1]}", f"  got    {w}", ""]), file=sys.stderr)


# ---- main


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--text", type=Path, help="folder of the text corpora; without it the earnings set is left out"
    )
    parser.add_argument(
        "--earnings-limit", type=int, default=1500, help="sentences of the earnings set (default 1500)"
    )
    parser.add_argument(
        "--stream-limit",
        type=int,
        default=200,
        help="earnings sentences that are streamed, too (default 200)",
    )
    parser.add_argument(
        "--peers-env",
        type=Path,
        default=Path.home() / ".cache" / "emformer-asr" / "itn-peers",
        help="folder of the peers' environments",
    )
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out; the table says so")
    parser.add_argument("--no-ours", action="store_true", help="the peers only")
    parser.add_argument("--repeat", type=int, default=3, help="timed rounds; medians (default 3)")
    parser.add_argument(
        "--loads", type=int, default=3, help="fresh processes for load time and memory; medians (default 3)"
    )
    parser.add_argument(
        "--cpu",
        type=int,
        default=max(os.sched_getaffinity(0)),
        help="the CPU that everything runs on (default: the last)",
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument(
        "--errors",
        type=int,
        default=0,
        metavar="N",
        help="print the first N wrong sentences of each set and system",
    )
    arguments = parser.parse_args(argv)
    if arguments.no_peers and arguments.no_ours:
        parser.error("--no-peers and --no-ours leave nothing to measure")
    return arguments


def load_sets(arguments: argparse.Namespace, notes: list[str]) -> dict[str, list[list[str]]]:
    """The sets by name; a note for each that is missing."""
    sets = {"context": read_tsv(DATA / "context.tsv"), "expressions": read_tsv(DATA / "nemo.tsv")}
    if arguments.text is None:
        notes.append("Earnings set left out: no --text FOLDER.")
    elif not (arguments.text / "earnings22.jsonl.gz").is_file():
        raise BenchError(f"no earnings22.jsonl.gz in {arguments.text}")
    else:
        try:
            from itn.data import earnings_dev

            sets["earnings"] = [list(pair) for pair in earnings_dev(arguments.text, arguments.earnings_limit)]
        except ImportError as error:
            notes.append(f"Earnings set left out: it is made by the grammars ({error}).")
    return sets


def bench(arguments: argparse.Namespace) -> tuple[dict[str, dict], list[str]]:
    """The figures of every system, by column, and the notes."""
    notes: list[str] = []
    peers = (
        {} if arguments.no_peers else {name: environment(name, arguments.peers_env) for name in ENVIRONMENTS}
    )
    sets = load_sets(arguments, notes)
    streams = [row[0] for row in sets["context"]] + [
        row[0] for row in sets.get("earnings", [])[: arguments.stream_limit]
    ]
    texts = {name: [row[0] for row in rows] for name, rows in sets.items()}
    job = {"root": str(ROOT), "cpu": arguments.cpu, "warm": texts["context"][::5], "sets": texts, "streams": streams}
    runs: dict[str, tuple[str, dict]] = {}  # column -> (interpreter, job)
    if not arguments.no_ours:
        prose = {name: texts[name] for name in texts if name != "expressions"}
        runs["itn (ours)"] = (sys.executable, job | {"system": "ours", "profile": "prose", "sets": prose})
    for system, (where, column) in PEERS.items():
        if where in peers:
            cache = arguments.peers_env / "cache" / system
            cache.mkdir(parents=True, exist_ok=True)
            runs[column] = (peers[where], job | {"system": system, "cache": str(cache)})
    results = {column: measure(*run, column, arguments.loads) for column, run in runs.items()}
    timed = [name for name in sets if name != "expressions"]
    for result in results.values():
        result |= {"rounds": {name: [] for name in timed}, "pushes": []}
    for count in range(arguments.repeat):
        print(f"round {count + 1} of {arguments.repeat}", file=sys.stderr)
        for column, (python, whole) in runs.items():
            # a peer runs again on every prefix, which takes it minutes: its pushes were timed above
            again = {"sets": {name: texts[name] for name in timed}, "streams": streams if whole["system"] == "ours" else []}
            answer = ask(python, whole | again, column)
            for name in timed:
                results[column]["rounds"][name].append(answer["sets"][name]["seconds"])
            if answer["streams"]:
                results[column]["pushes"].append(push_seconds(answer))
    columns = {column: figures(result, sets, streams) for column, result in results.items()}
    for column, result in results.items():
        columns[column] |= {
            "imported_s": result["import_s"] + result["load_s"], "resident_mib": result["resident"] / MIB, "disk_mib": result["disk"] / MIB,
        }  # fmt: skip
        for name in timed if "itn (ours)" in results and column != "itn (ours)" else ():
            pairs = zip(result["rounds"][name], results["itn (ours)"]["rounds"][name])
            ratios = sorted(theirs / ours for theirs, ours in pairs)
            columns[column][name] |= {"slower": statistics.median(ratios), "slower_rounds": ratios}
        for name in sets if arguments.errors else ():
            if name in result["sets"]:
                show_errors(f"{column}, {name}", sets[name], result["sets"][name]["written"], arguments.errors)
    if not arguments.no_ours:
        expressions = sets["expressions"]
        wanted = [row for row in expressions if row[2] != "word"]
        small = {"sets": {"expressions": texts["expressions"]}, "given": [[row[2], row[0]] for row in wanted], "streams": []}
        nemo = ask(sys.executable, job | {"system": "ours", "profile": "nemo"} | small, "itn, profile nemo")
        written = nemo["sets"]["expressions"]["written"]
        columns["itn (ours)"]["expressions"] = {
            "end_to_end": sum(row[1] == w for row, w in zip(expressions, written)) / len(expressions),
            "by_category": by_category(expressions, written),
            "given": sum(row[1] == w for row, w in zip(wanted, nemo["given"])) / len(wanted),
            "given_by_category": by_category(wanted, nemo["given"]),
        }
        if arguments.errors:
            show_errors("itn (ours), expressions", expressions, written, arguments.errors)
            show_errors("itn (ours), expressions with the category given", wanted, nemo["given"], arguments.errors)
    if not peers:
        notes.append("**Peers left out (--no-peers): this table compares nothing.**")
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in sets.items())
    notes.append(
        f"Sets: {sizes}; {sum(row[0] == row[1] for row in sets['context'])} of the context sentences have nothing to convert; "
        f"{len(streams)} sentences streamed; {arguments.repeat} rounds. {platform.processor() or platform.machine()}, CPU {arguments.cpu} alone, "
        f"Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}."
    )
    return columns, notes


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        columns, notes = bench(arguments)
    except (BenchError, OSError) as error:
        print(f"benchmarks/itn.py: {error}", file=sys.stderr)
        return 2
    print(table(columns, notes))
    if arguments.json:
        arguments.json.write_text(json.dumps({"systems": columns, "notes": notes}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
