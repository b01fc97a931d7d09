"""The drop-in FST of ITN on real sentences, in kaldifst and inside an unmodified sherpa-onnx: nothing emptied, every word kept.

    python benchmarks/itn_rule_fst.py --text FOLDER [--profile prose|nemo] [--rule FILE] [--count 1000] [--sample 15] [--seed 0]

FOLDER holds the text corpora (ami.txt.gz ...). As many sentences of each, none with digits, as a recogniser gives them; half have number
words. sherpa-onnx applies rule FSTs to what a recogniser recognises, so it gets a model that recognises whatever we like: a CTC graph that
takes the length of the audio for the number of a sentence. Its text with the rule has to be kaldifst's answer for its text without.

Exit status 1 if a text is emptied, a word outside a conversion is lost, changed or added, or sherpa-onnx writes something else. Milliseconds
are CPU time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # before this folder, where itn.py is a benchmark

import numpy as np

CORPORA = (
    "ami.txt",
    "librispeech_lm.txt",
    "masc.txt",
    "speeches.txt",
    "voice_commands.txt",
    "earnings22.jsonl",
    "sgd.jsonl",
)
SCALES = ("hundred", "thousand", "million", "billion", "trillion")
NUMBERS = (
    "zero oh o one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety"
).split()
# what a conversion may take: numbers, what stands in them, and the units of the drop-in
CONVERTED = frozenset((
    *NUMBERS, *SCALES, *"and a point half quarter quarters minus negative past to o'clock in a m p am pm a.m. p.m. per cent percent".split(),
    *"dollar dollars cent cents euro euros us american yen rupee rupees yuan crore lakh".split(),
))  # fmt: skip
_NUMBER = re.compile(rf"\b({'|'.join([*NUMBERS[3:], *SCALES])})\b", re.IGNORECASE)


class LostError(Exception):
    """A word is not where it was."""


def corpus(path: Path) -> list[str]:
    """The sentences of a file, single spaces; slot marks are taken off."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line)["text"] if path.name.endswith(".jsonl.gz") else line for line in file]
    return [" ".join(re.sub(r"\[\w+ : ([^\]]*)\]", r"\1", line).split()) for line in lines]


def sentences(folder: Path, count: int, seed: int) -> list[str]:
    """`count` sentences without digits, the same share of every corpus; half have number words where there are as many."""
    rng = random.Random(seed)
    chosen: list[str] = []
    for turn, name in enumerate(CORPORA):
        lines = [
            line
            for line in corpus(folder / f"{name}.gz")
            if not re.search(r"\d", line) and 3 <= len(line.split()) <= 60
        ]
        rng.shuffle(lines)
        lines.sort(key=lambda line: _NUMBER.search(line) is None)
        share = (count - len(chosen)) // (len(CORPORA) - turn)
        chosen += lines[: share // 2] + lines[len(lines) - (share - share // 2) :]
    rng.shuffle(chosen)
    return chosen


def conversions(spoken: str, written: str) -> list[tuple[str, str]]:
    """What was converted to what.

    Raises:
        LostError: a word was lost, changed or added that is no part of a number.
    """
    a, b = spoken.split(" "), written.split(" ")
    changes: list[list[int]] = []
    for kind, *at in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        # "six million dollars" -> "$6 million": the words between two changes belong to the conversion
        if changes and _plain(a[changes[-1][1]]) in SCALES and at[0] - changes[-1][1] == 1:
            changes[-1] = [changes[-1][0], at[1], changes[-1][2], at[3]]
        else:
            changes.append(list(at))
    found = []
    for i, j, k, m in changes:
        before, after = a[i:j], b[k:m]
        if not before or not after or not any(c.isdigit() for c in after[0]):
            raise LostError(f"{' '.join(before)!r} -> {' '.join(after)!r} in {spoken!r} -> {written!r}")
        if not all(part in CONVERTED for word in before for part in _plain(word).split("-")):
            raise LostError(f"{' '.join(before)!r} is more than a number in {spoken!r}")
        found.append((" ".join(before), " ".join(after)))
    return found


def _plain(word: str) -> str:
    return word.lower().rstrip(",;:?!").removesuffix("." if word.lower() not in ("a.m.", "p.m.") else "\0")


class Parrot:
    """A recogniser of sherpa-onnx that says a text of ours: its number is the number of 10 ms frames of the audio."""

    def __init__(self, texts: Sequence[str], folder: Path, rule_fsts: str = ""):
        import sherpa_onnx

        model, tokens = folder / "model.onnx", folder / "tokens.txt"
        _write_model(texts, model, tokens)
        self._recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
            str(model), str(tokens), rule_fsts=rule_fsts
        )

    def say(self, number: int) -> str:
        """The text of a result of sherpa-onnx; numbers count from 0."""
        stream = self._recognizer.create_stream()
        stream.accept_waveform(16000, np.zeros(160 * (number + 1), np.float32))
        self._recognizer.decode_stream(stream)
        text: str = stream.result.text
        return text


def _write_model(texts: Sequence[str], model: Path, tokens: Path) -> None:
    """A CTC graph with a table of texts; a token is a word, every second frame is blank."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    words = {
        word: i for i, word in enumerate(sorted({word for text in texts for word in text.split(" ")}), 1)
    }
    tokens.write_text("<blk> 0\n" + "".join(f"\u2581{word} {i}\n" for word, i in words.items()), "utf-8")
    longest = max(len(text.split(" ")) for text in texts)
    table = np.zeros((len(texts) + 1, 2 * longest), np.int64)
    for row, text in zip(table[1:], texts):
        ids = [words[word] for word in text.split(" ")]
        row[: 2 * len(ids) : 2] = ids
    constants = {
        "axis": np.array(1), "depth": np.array(len(words) + 1), "values": np.array([-20.0, 0.0], np.float32), "table": table,
        "first": np.array([0]), "none": np.array([0]), "frames_out": np.array([2 * longest]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["frames"]),
        helper.make_node("Gather", ["table", "frames"], ["ids"]),
        helper.make_node("Unsqueeze", ["ids", "first"], ["row"]),
        helper.make_node("OneHot", ["row", "depth", "values"], ["log_probs"]),
        helper.make_node("Mul", ["x_lens", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "frames_out"], ["log_probs_len"]),
    ]
    graph = helper.make_graph(
        nodes,
        "parrot",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 80]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, [1, 2 * longest, len(words) + 1]),
            helper.make_tensor_value_info("log_probs_len", TensorProto.INT64, ["N"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    helper.set_model_props(
        made, {"model_type": "zipformer2_ctc", "subsampling_factor": "4", "vocab_size": str(len(words) + 1)}
    )
    onnx.save(made, str(model))


def through_sherpa(
    texts: Sequence[str], rule: Path, normalize: Callable[[str], str]
) -> list[tuple[str, str, str]]:
    """(text without the rule, with the rule, what it should be) where the last two differ."""
    with tempfile.TemporaryDirectory() as folder:
        plain, ruled = Parrot(texts, Path(folder)), Parrot(texts, Path(folder), str(rule))
        said = [(plain.say(i), ruled.say(i)) for i in range(len(texts))]
    return [
        (without, got, normalize(without)) for without, got in said if not got or got != normalize(without)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--text", required=True, type=Path, metavar="FOLDER", help="the text corpora")
    parser.add_argument("--profile", default="prose")
    parser.add_argument("--rule", type=Path, default=None, metavar="FILE", help="a rule.fst of itn export")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=15, help="conversions to show")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)

    import kaldifst

    from itn.grammars.build import dropin_file
    from itn.normalizer import find_profile

    rule = given.rule or dropin_file(find_profile(given.profile))
    normalize = kaldifst.TextNormalizer(str(rule))
    texts = sentences(given.text, given.count, given.seed)
    start = time.process_time()
    written = [normalize(text) for text in texts]
    seconds = time.process_time() - start
    emptied = sum(not text for text in written)
    found: list[tuple[str, str]] = []
    lost: list[str] = []
    for spoken, text in zip(texts, written):
        try:
            found += conversions(spoken, text)
        except LostError as error:
            lost.append(str(error))
    changed = sum(a != b for a, b in zip(texts, written))
    words = sum(len(text.split()) for text in texts)
    differ = through_sherpa(texts, rule, normalize)
    print(f"{rule}: {rule.stat().st_size / 1e6:.2f} MB")
    print(
        f"{len(texts)} sentences, {words} words: {emptied} emptied, {len(lost)} with a word lost, {changed} changed, {len(found)} conversions"
    )
    print(f"{1e3 * seconds / len(texts):.2f} ms a sentence in kaldifst")
    print(f"sherpa-onnx: {len(texts) - len(differ)} of {len(texts)} as kaldifst writes them")
    for line in [*lost[:20], *map(str, differ[:20])]:
        print(f"  WRONG {line}")
    for before, after in random.Random(given.seed).sample(found, min(given.sample, len(found))):
        print(f"  {before} -> {after}")
    return int(bool(emptied or lost or differ))


if __name__ == "__main__":
    sys.exit(main())
