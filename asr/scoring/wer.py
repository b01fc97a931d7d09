"""Word error rate, the way every number of this project is counted.

Both sides are lower-cased and lose their punctuation except apostrophes; nothing else happens unless a word map says
so (``o=zero``). Rates are in percent of the reference words of the whole set.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import punctuation
from typing import Any

from asr.errors import UserError
from asr.files import whole_file

_ASCII = frozenset(punctuation)


@dataclass(frozen=True)
class Utterance:
    """One reference and hypothesis after normalisation, aligned word by word.

    Attributes:
        id: name of the utterance.
        ref, hyp: aligned words, None where the other side has an inserted or deleted word.
        op: one letter an aligned pair: ``C`` correct, ``S`` substituted, ``I`` inserted, ``D`` deleted.
    """

    id: str
    ref: tuple[str | None, ...]
    hyp: tuple[str | None, ...]
    op: str

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions."""
        return len(self.op) - self.op.count("C")


@dataclass(frozen=True)
class WerResult:
    """Counts over a set of utterances; ``wer`` in percent of ``words`` reference words.

    Without any reference word the rate is 0 if nothing was inserted, else infinite (``null`` in JSON).
    """

    wer: float
    ins: int
    dels: int
    sub: int
    words: int
    utterances: tuple[Utterance, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """``{wer, ins, del, sub, words}``."""
        wer = None if self.wer == float("inf") else round(self.wer, 4)
        return {"wer": wer, "ins": self.ins, "del": self.dels, "sub": self.sub, "words": self.words}

    def __str__(self) -> str:
        errors = self.ins + self.dels + self.sub
        return (
            f"WER {self.wer:.2f} % ({errors} / {self.words} words: {self.ins} insertions, "
            f"{self.dels} deletions, {self.sub} substitutions)"
        )


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """``["o=zero", "oh=zero"]`` as a mapping; ``uh=`` deletes a word.

    Raises:
        UserError: a pair without ``=`` or without a left side.
    """
    mapping = {}
    for pair in pairs:
        left, equals, right = pair.partition("=")
        if not equals or not left.strip() or len(left.split()) != 1:
            raise UserError(f"--map takes WORD=REPLACEMENT, not {pair!r}")
        mapping[left.strip().lower()] = right.strip().lower()
    return mapping


def normalise(text: str, map: Mapping[str, str] | None = None) -> str:
    """Lower case, punctuation except apostrophes to spaces, single spaces, then whole words replaced by ``map``.

    >>> normalise("Twenty-one, don’t STOP.", {"stop": "halt"})
    "twenty one don't halt"
    """
    text = text.lower().replace("’", "'")
    kept = (c if c == "'" or not _is_punctuation(c) else " " for c in text)
    words = "".join(kept).split()
    if map:
        words = [part for word in words for part in map.get(word, word).split()]
    return " ".join(words)


def _is_punctuation(character: str) -> bool:
    if character.isascii():
        return character in _ASCII
    return unicodedata.category(character).startswith("P")


def score(
    refs: Sequence[str],
    hyps: Sequence[str],
    map: Mapping[str, str] | None = None,
    ids: Sequence[str] | None = None,
) -> WerResult:
    """Align hypotheses with references by the fewest errors (jiwer) and count.

    Args:
        refs, hyps: one text an utterance, normalised here; either may be empty.
        map: whole-word replacements for both sides.
        ids: names for the report; the position by default.

    Raises:
        ValueError: the numbers of references, hypotheses and ids differ.
    """
    names = [str(i) for i in range(len(refs))] if ids is None else list(ids)
    utterances = tuple(
        _align(name, normalise(ref, map).split(), normalise(hyp, map).split())
        for name, ref, hyp in zip(names, refs, hyps, strict=True)
    )
    ops = "".join(utterance.op for utterance in utterances)
    ins, dels, sub = ops.count("I"), ops.count("D"), ops.count("S")
    words = len(ops) - ins
    errors = ins + dels + sub
    wer = 100.0 * errors / words if words else (float("inf") if errors else 0.0)
    return WerResult(wer, ins, dels, sub, words, utterances)


def _align(name: str, ref: list[str], hyp: list[str]) -> Utterance:
    if not ref or not hyp:  # jiwer refuses empty references
        nothing: tuple[None, ...] = (None,) * (len(ref) + len(hyp))
        return Utterance(name, tuple(ref) or nothing, tuple(hyp) or nothing, "D" * len(ref) + "I" * len(hyp))
    import jiwer

    chunks = jiwer.process_words(" ".join(ref), " ".join(hyp)).alignments[0]
    left: list[str | None] = []
    right: list[str | None] = []
    op = ""
    for chunk in chunks:
        r = ref[chunk.ref_start_idx : chunk.ref_end_idx]
        h = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
        length = max(len(r), len(h))
        left += r or [None] * length
        right += h or [None] * length
        op += {"equal": "C", "substitute": "S", "insert": "I", "delete": "D"}[chunk.type] * length
    return Utterance(name, tuple(left), tuple(right), op)


def error_report(result: WerResult) -> str:
    """Totals, the commonest confusions, then every utterance aligned (errors in capitals, as sclite prints them)."""
    lines = [str(result), f"{len(result.utterances)} utterances, {_with_errors(result)} with errors", ""]
    confusions: dict[str, int] = {}
    for utterance in result.utterances:
        for ref, hyp, op in zip(utterance.ref, utterance.hyp, utterance.op, strict=True):
            if op != "C":
                kind = {"S": f"{ref} -> {hyp}", "D": f"{ref} -> (deleted)", "I": f"(inserted) -> {hyp}"}[op]
                confusions[kind] = confusions.get(kind, 0) + 1
    if confusions:
        lines.append("Commonest errors")
        ranked = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"{count:6d}  {kind}" for kind, count in ranked[:50]] + [""]
    for utterance in result.utterances:
        lines += _aligned(utterance)
    return "\n".join(lines).rstrip("\n") + "\n"


def _with_errors(result: WerResult) -> int:
    return sum(1 for utterance in result.utterances if utterance.errors)


def _aligned(utterance: Utterance) -> list[str]:
    op = utterance.op
    header = f"id: {utterance.id}"
    scores = f"scores: (C S D I) {op.count('C')} {op.count('S')} {op.count('D')} {op.count('I')}"
    ref, hyp, evaluation = ["REF:"], ["HYP:"], ["EVAL:"]
    for r, h, o in zip(utterance.ref, utterance.hyp, op, strict=True):
        left, right = (r or "").upper() if o != "C" else r or "", (h or "").upper() if o != "C" else h or ""
        width = max(len(left), len(right), 1)
        ref.append((left or "*" * width).ljust(width))
        hyp.append((right or "*" * width).ljust(width))
        evaluation.append(("" if o == "C" else o).ljust(width))
    # every column starts at the same place in the three lines
    rows = [f"{row[0]:<6}" + " ".join(row[1:]) for row in (ref, hyp, evaluation)]
    return [header, scores, *(row.rstrip() for row in rows), ""]


def write_report(path: str | Path, result: WerResult) -> None:
    """Write `error_report` to a file, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as file:
        file.write(error_report(result).encode("utf-8", "surrogateescape"))
