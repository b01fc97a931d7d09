"""Comparing what runtimes found with what they should have found, and the table of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asr.features import encoder_frames, num_frames
from asr.models.folder import LoadedModel
from asr.scoring.wer import WerResult, score
from export.cases import RUNGS, Case
from export.runtime import Result

WER_ABSOLUTE, WER_RELATIVE = 0.3, 0.03  # percent, share: how much worse int8 may be than fp32
ONE_SIDED = 1.645  # standard deviations that chance exceeds once in twenty times
TOKEN_ERROR_LIMIT = 5.0  # percent, of int8 against fp32 where there is no reference text


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: runtime, contract, precision.
        equal: per rung, (streams equal to the reference, streams).
        token_error: percent against the reference; for int8 against the same runtime in fp32.
        wer: percent against the manifest's text; None without text.
        problems: what failed, one sentence each.
        skipped: rungs that say nothing about this runtime.
        over_context: WER of torch by the number of tokens an LSTM predictor sees.
        figures: size, load time, real-time factor, latency, memory.
    """

    name: str
    equal: dict[str, tuple[int, int]] = field(default_factory=dict)
    token_error: float | None = None
    wer: float | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: tuple[str, ...] = ()
    over_context: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Ladder:
    """All rows; ``passed`` if none has a problem."""

    rows: list[Row]
    utterances: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every rung holds."""
        return not any(row.problems for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [
            {
                "name": row.name,
                "equal": {rung: list(counts) for rung, counts in row.equal.items()},
                "token_error": row.token_error,
                "wer": row.wer,
                "problems": row.problems,
                "notes": row.notes,
                **({"wer_over_context": row.over_context} if row.over_context else {}),
                **row.figures,
            }
            for row in self.rows
        ]
        return {
            "passed": self.passed,
            "utterances": self.utterances,
            "seconds": round(self.seconds, 1),
            "rows": rows,
        }


def results(cases: Sequence[Case], found: Any, rung: str) -> list[list[Result]]:
    return [[Result(**r) for r in part] for case, part in zip(cases, found) if case["rung"] == rung]


def compare(row: Row, cases: Sequence[Case], found: Any, expected: Any, against: str) -> None:
    """Symbols and frames of every rung; the first difference is named."""
    errors = total = 0
    for rung in RUNGS:
        equal = count = 0
        first = ""
        pairs = zip(results(cases, found, rung), results(cases, expected, rung), strict=True)
        for number, (streams, wanted) in enumerate(pairs):
            for got, want in zip(streams, wanted, strict=True):
                want = want.until(got.decoded) if got.decoded else want
                count += 1
                if got.same(want):
                    equal += 1
                else:
                    first = first or _difference(number, got, want)
                if rung == "words":
                    errors += edits(want.tokens, got.tokens)
                    total += len(want.tokens)
        if rung not in row.skipped:
            row.equal[rung] = (equal, count)
        if equal < count:
            row.problems.append(
                f"{rung}: {row.name} differs from {against} in {count - equal} of {count} streams ({first})"
            )
    row.token_error = _percent(errors, total)


def _difference(number: int, got: Result, want: Result) -> str:
    """Where two results part."""
    ours, theirs = list(zip(got.frames, got.tokens)), list(zip(want.frames, want.tokens))
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    a = f"symbol {ours[at][1]} at {ours[at][0] * 0.04:.2f} s" if at < len(ours) else "nothing"
    b = f"symbol {theirs[at][1]} at {theirs[at][0] * 0.04:.2f} s" if at < len(theirs) else "nothing"
    return f"stream {number}: {a} where {b} is expected"


def compare_int8(row: Row, cases: Sequence[Case], found: Any, plain: Any) -> None:
    """Symbols against the float form's; a reset must not matter, silence must stay silent.

    Args:
        plain: results of the same runtime in fp32 (of torch, if that did not run).
    """
    errors = total = 0
    for rung in RUNGS:
        equal = count = 0
        pairs = zip(results(cases, found, rung), results(cases, plain, rung), strict=True)
        for streams, wanted in pairs:
            for got, want in zip(streams, wanted, strict=True):
                count += 1
                equal += got.same(want)
                if rung == "silence" and got.tokens and not want.tokens:
                    row.problems.append(f"silence: {row.name} hears {len(got.tokens)} symbols in silence")
                if rung == "words":
                    errors += edits(want.tokens, got.tokens)
                    total += len(want.tokens)
        if rung not in row.skipped:
            row.equal[rung] = (equal, count)
    pairs = zip(results(cases, found, "reset"), results(cases, found, "words"))
    for number, (reset, own) in enumerate(pairs):
        if not reset[0].same(own[0]):
            difference = _difference(number, reset[0], own[0])
            row.problems.append(f"reset: {row.name} differs from itself without the reset ({difference})")
            break
    row.token_error = _percent(errors, total)


def compare_words(row: Row, int8: WerResult | None, plain: WerResult | None) -> None:
    """Hold an int8 form to the error rate of its float form, or where there is no text to its symbols.

    It fails if it is worse by more than the limit and by more than chance would have it: on a short list a word or two
    decide nothing (paired one-sided test over utterances, 5 %).
    """
    if int8 is None or plain is None:
        if row.token_error is not None and row.token_error > TOKEN_ERROR_LIMIT:
            row.problems.append(
                f"words: {row.name} differs from fp32 in {row.token_error:.1f} % of the symbols"
            )
        return
    more = [a.errors - b.errors for a, b in zip(int8.utterances, plain.utterances, strict=True)]
    allowed = max(WER_ABSOLUTE, WER_RELATIVE * plain.wer) * plain.words / 100
    chance = ONE_SIDED * math.sqrt(sum(n * n for n in more))
    if sum(more) > max(allowed, chance):
        row.problems.append(f"words: {row.name} has a WER of {int8.wer:.2f} %, fp32 {plain.wer:.2f} %")


def check_reach(row: Row, cases: Sequence[Case], found: Any) -> None:
    """Every frame of the audio must have gone through the model."""
    for case, streams in zip(cases, found, strict=True):
        for (begin, end), result in zip(case["parts"], streams, strict=True):
            needed = encoder_frames(num_frames(end - begin))
            if result["decoded"] < needed:
                row.problems.append(
                    f"{case['rung']}: {row.name} decoded {result['decoded']} of {needed} frames: the end is lost"
                )
                return


def note_ends(row: Row, cases: Sequence[Case], found: Any, plain: Any) -> None:
    """How many utterances the appended zeros change against `Session.finish`, which needs none."""
    pairs = list(zip(results(cases, found, "words"), results(cases, plain, "words"), strict=True))
    changed = sum(got[0].until(want[0].decoded).tokens != want[0].tokens for got, want in pairs)
    row.notes.append(
        f"{row.name}: the zeros at the end change the symbols of {changed} of {len(pairs)} utterances"
    )


def note_history(row: Row, context: int, rates: dict[str, float]) -> None:
    """What a shorter history of an LSTM predictor costs: error rates of torch, without appended zeros.

    Args:
        context: tokens the export's predictor sees.
        rates: percent by number of tokens; "all" is the model as it was trained.
    """
    row.over_context = rates
    listed = ", ".join(f"{tokens} {rate:.2f} %" for tokens, rate in rates.items())
    over = f"; WER over the tokens it sees: {listed}" if rates else ""
    row.notes.append(f"{row.name}: the predictor sees {context} tokens{over}")


def edits(reference: Sequence[int], hypothesis: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions between two sequences."""
    if list(reference) == list(hypothesis):
        return 0
    previous = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        current = [i]
        for j, got in enumerate(hypothesis, 1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (wanted != got)))
        previous = current
    return previous[-1]


def _percent(errors: int, total: int) -> float | None:
    return round(100.0 * errors / total, 4) if total else None


def scored(loaded: LoadedModel, texts: Sequence[str], found: Sequence[Result]) -> WerResult | None:
    """The words of utterances with text; None without any."""
    pairs = [
        (text, loaded.tokenizer.decode(result.tokens))
        for text, result in zip(texts, found, strict=True)
        if text.strip()
    ]
    result = score([text for text, _ in pairs], [words for _, words in pairs])
    return result if result.words else None


def figures(done: dict[str, Any], size: int | None, timed: bool = True) -> dict[str, float | None]:
    memory = done["peak_memory_mb"]
    return {
        "size_mb": None if size is None else round(size / 1e6, 3),
        "load_seconds": round(done["load_seconds"], 3),
        "rtf": round(done["rtf"], 5) if timed else None,
        "chunk_p50_ms": round(done["chunk_p50_ms"], 3) if timed else None,
        "chunk_p99_ms": round(done["chunk_p99_ms"], 3) if timed else None,
        "peak_memory_mb": None if memory is None else round(memory, 1),
    }


def table(ladder: Ladder) -> str:
    """The ladder as text, one line a runtime, problems and notes below."""
    head = ["", *RUNGS, "token err %", "WER %", "MB", "load s", "RTF", "p50 ms", "p99 ms", "peak MB"]
    lines = [head]
    for row in ladder.rows:
        marks = ["{}/{}".format(*row.equal[rung]) if rung in row.equal else "-" for rung in RUNGS]
        figures = [row.figures.get(name) for name in _COLUMNS]
        numbers = [_number(value, form) for value, form in zip(figures, _COLUMNS.values(), strict=True)]
        lines.append([row.name, *marks, _number(row.token_error, ".2f"), _number(row.wer, ".2f"), *numbers])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    ]
    text.append("")
    text.append(
        f"{ladder.utterances} utterances, {ladder.seconds:.1f} s; streams equal to the reference (fp32: torch; "
        "int8: the same runtime in fp32); one thread"
    )
    text += [note for row in ladder.rows for note in row.notes]
    text += [f"FAILED {problem}" for row in ladder.rows for problem in row.problems]
    text.append("every rung holds" if ladder.passed else "the ladder does not hold")
    return "\n".join(text) + "\n"


_COLUMNS = {
    "size_mb": ".2f", "load_seconds": ".2f", "rtf": ".4f", "chunk_p50_ms": ".2f", "chunk_p99_ms": ".2f",
    "peak_memory_mb": ".0f",
}  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
