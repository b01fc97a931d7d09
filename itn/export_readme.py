"""The README of an export: for the makers of an app who have never seen this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .stream import CLEAR, PATIENCE

START = """
A new stream begins with one such position, [{0}, -1, ...] and shape -1, before its first word; its answers are not looked at."""


def readme(manifest: dict[str, Any], folder: Path) -> str:
    """Text of README.md beside the files of `itn.export`."""
    tagger, options = manifest["tagger"], manifest["options"]
    grammars = sum(entry["bytes"] for entry in manifest["files"].values())
    off = options["off"]
    first, second = tagger["confidence"]
    cache = tagger["inputs"]["keys"]["shape"]
    layers, kept, width = cache
    count = tagger["labels"]["count"]

    def size(entry: dict[str, Any]) -> str:
        return f"{entry['bytes'] / 1e6:.2f} MB"

    return f"""# Inverse text normalisation for phones, profile {manifest["profile"]}

Spoken English words in (`twenty five percent`), written English out (`{_percent(manifest)}`). Two ways to use this folder; take one:

| way | files | size | what it does |
| --- | --- | --- | --- |
| **rule** | `rule.fst` | {size(manifest["rule"])} | one line in the settings of sherpa-onnx; converts plain numbers only |
| **spans** | `tagger.onnx`, `pieces.txt`, `labels.txt`, `CATEGORY.fst` | {(tagger["bytes"] + tagger["pieces"]["bytes"] + tagger["labels"]["bytes"] + grammars) / 1e6:.2f} MB | everything, word by word, with the place of every conversion; needs some glue |

`manifest.json` has the hash and size of every file, shapes and settings. `cases.jsonl` has sentences with the result of every step, to test
glue with.

## The rule: `rule_fsts` of sherpa-onnx

Needs nothing but an unmodified sherpa-onnx. The option stands in the settings of the recogniser, streaming or not:

| | |
| --- | --- |
| Python | `sherpa_onnx.OnlineRecognizer.from_transducer(..., rule_fsts="rule.fst")`, also `OfflineRecognizer.from_...` |
| Kotlin | `OnlineRecognizerConfig(..., ruleFsts = "itn/rule.fst")`, `OfflineRecognizerConfig`; a path in the assets if the recogniser gets an `assetManager` |
| Swift | `sherpaOnnxOnlineRecognizerConfig(..., ruleFsts: path("rule.fst"))`, `sherpaOnnxOfflineRecognizerConfig` |
| C, C++ | `SherpaOnnxOnlineRecognizerConfig.rule_fsts`, `SherpaOnnxOfflineRecognizerConfig.rule_fsts` |
| command line | `--rule-fsts=rule.fst` |

Several files are separated by commas and applied in order. What to know:

- **It has no context.** So it converts only what is safe without one: amounts of dollars, euros, yen, rupees and yuan, percent, decimals,
  times with "a m" or "p m", and numbers from 13 on that stand alone. Years ("nineteen eighty four"), dates, ordinals, telephone numbers,
  e-mail addresses and small numbers stay as spoken. Use the spans for those.
- **It flickers.** sherpa-onnx applies it to every partial result, to the whole segment: "twenty" is shown as 20, and a word later "twenty five
  percent" as {_percent(manifest)}. An app that minds shows partial results from `tokens`, which stay as spoken, or only final texts.
- It accepts every text, and words that it does not convert stay byte for byte. Lower case, capitals and a capital first letter are understood.
- `text` changes; `tokens` and `timestamps` stay those of the spoken words.

## Spans: tagger and grammars

The tagger (ONNX Runtime) says which words are a span and of which category; the FST of that category (kaldifst, or OpenFst: bytes, type
`vector`, standard arcs) writes the span. Python has it ready: `itn.Normalizer(FOLDER, tagger="FOLDER/tagger.onnx")` of the package emformer-asr. In
another language:

**1. Words to numbers.** Words are what white space separates, as the recogniser gives them.
`pieces`: take "▁" and the word in lower case (NFC), and cut off the longest line of `pieces.txt` again and again; its number counts from 0. A
character in no line is {tagger["unknown_piece"]}, several in a row are one. At most {tagger["max_pieces"]} pieces; -1 fills the row.
`shapes`: the first that fits: {", ".join(f"{i} {text}" for i, text in sorted(_SHAPES.items(), key=lambda item: _ORDER.index(item[0])))}.

**2. The step.** Any number n of words at once, at least one; word by word and all at once give the same.

| input | type | shape | |
| --- | --- | --- | --- |
| `pieces` | int64 | n, {tagger["max_pieces"]} | |
| `shapes` | int64 | n | |
| `keys`, `values` | float32 | {layers}, {kept}, {width} | zeros at the start of a stream, then `new_keys`, `new_values` of the last call |
| `words` | int64 | 1 | 0 at the start, then `new_words` |

`log_probabilities` (n, {tagger["lookahead"] + 1}, {count}): at [i, k] those of the label of the word k words **before** word i, `labels.txt` has the
labels. So a word gets {tagger["lookahead"] + 1} answers, each with one more word of what follows. Rows that point before the first word mean nothing. At the end of a
sentence or stream run two more positions with pieces [{tagger["end_piece"]}, -1, ...] and shape -1: they give the last words their later answers.{START.format(tagger["end_piece"]) if tagger["start"] else ""}

**3. The decision.** Words are decided strictly in order: is it outside, does it begin a span, or continue one? With p = exp(answer k):
outside = p(O){" + p of all labels of " + ", ".join(off) if off else ""}; continue = the sum of p(I-...) of the other categories, or 0 if the
word before is outside; begin = 1 - outside - continue. The largest wins as soon as it reaches {first:g} (k = 0) or {second:g} (k = 1). From k = 2 on
multiply each by how well the words after it go with it (from the last word back: the sum over what the next word may be, where a word outside is never followed by
continue; with the latest answer of every word); the largest wins as soon as it has {CLEAR:g} of their sum, and anyway at k = {PATIENCE} or at the end.
A span ends before the next word that does not continue it, or after {tagger["max_span_words"]} words. Its category is decided now: in the latest answer for its **last** word
add p(B-x) and p(I-x) of every category x, and try x from the most probable down to a tenth of them all.
`itn/stream.py` of the package is the reference, and `cases.jsonl` has its answers.

**4. The grammar.** The words of the span in lower case, hyphens turned to spaces, ’ to ', with single spaces, through `CATEGORY.fst` (kaldifst:
`TextNormalizer(file)(text)`). **An empty answer means no: try the next category, and if there is none keep the words as they are.** Never show the empty text.
If every category refuses, cut at the last `and`, `or`, `to` or `plus` whose left part one accepts (its last word's categories), keep that word, and go on
with the rest: "five dollars and six" is $5 and six. Digits that follow a span of {tagger["max_span_words"]} digits are its rest, whatever the tagger says.
A span in which a word has a digit is written already: keep it. If the last word ends in punctuation and the answer is empty, try without it and put it back.

**5. House style** (`options` in the manifest). A cardinal below {options["number_threshold"]} stays words, an ordinal below {options["ordinal_threshold"]}, and a
measure of time ("seven hours") below {options["number_threshold"]}; all are seen in the written form.{" Off, so never converted: " + ", ".join(off) + "." if off else ""}

Words outside spans are shown as soon as they are decided, unless an undecided or open span stands before them.

## Made with

{", ".join(f"{name} {version}" for name, version in manifest["versions"].items())}; grammars {manifest["version"]}. Checked when written: {tagger["file"]} in onnxruntime against
numpy, {manifest["verified"]["positions"]} positions word by word, {100 * manifest["verified"]["share"]:.1f} % within {manifest["verified"]["within"]:g}, largest difference
{manifest["verified"]["largest_difference"]:.1e}. ONNX opset {tagger["opset"]}, IR version {tagger["ir_version"]}. A session holds the
int8 weights of the products as floats, four times the size.
"""


_SHAPES = {
    4: "a digit in it",
    5: "no letter in it",
    0: "all lower case",
    2: "all upper case, two characters or more",
    1: "a capital first, the rest lower case",
    3: "anything else",
}
_ORDER = list(_SHAPES)


def _percent(manifest: dict[str, Any]) -> str:
    return f"25{manifest.get('style', {}).get('percent_space', '')}%"
