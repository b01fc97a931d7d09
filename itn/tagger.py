"""The streaming tagger at run time: int8 weights, numpy only.

A small causal transformer over words. Word i is the sum of its sub-word pieces; three heads look at position i and say the label of word i,
of word i - 1 and of word i - 2, so a look-ahead of two words is a delay of the answer and not a second computation: every word goes
through the network once, whatever the stream does later.

Numbers: every product is one of integers (int8 weights, rounded activations, attention weights of 10 bits), held in float32, which is exact up
to 2**24. Sums of exact integers do not depend on their order, so a word pushed alone and a word in a block of fifty give the same bits:
streaming = whole is an equality here, not a tolerance, and holds on every machine. Rows are brought to one length before they are rounded,
so the weights alone bound everything behind them, and the scales in the file are as fine as 2**24 allows (`scaled`): nothing has to
be clipped or measured at run time. A word alone costs some 40 calls of numpy a layer, and they, not the products, are most of its time.

Legend: n words of a call, D model width, H heads, W attention window (words), L labels.
Source: the on-device ITN paper (arXiv 2211.03721) for the place of the tagger; ALiBi (arXiv 2108.12409) for distances.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(__file__).parent / "models" / "tagger.npz"
LOOKAHEAD = 2
FORMAT = 2
MAX_PIECES = 12  # of a word; the rest of a longer word is not looked at
SHAPES = ("lower", "capitalised", "upper", "mixed", "digit", "symbol")
UNKNOWN, END = 0, 1  # rows of the embedding: a character outside the vocabulary, the edge of the stream
BLOCK = 64  # words of one pass through the network
WORDS_KEPT = 2048  # words whose first rows are kept: at most 5 MB
ATTENTION_STEPS = 1023.0
ROW = 4096.0  # the length of a row of integers
TINY = 1e-6  # is added to a row's squared length, so that a row of zeros has one
SMALL = 8  # rows of one product: OpenBLAS first copies the weights for larger ones, which 20 words do not pay for
FINER = 4.0  # steps of a mixture of values in one of a value; a power of two
EXACT = 2**24  # the largest sum of integers in float32
LARGEST = 4096  # of every size in a tagger file: more is damage, not a tagger


def shape_of(word: str) -> int:
    """Index into SHAPES: how the word is written."""
    if any(c.isdigit() for c in word):
        return 4
    if not any(c.isalpha() for c in word):
        return 5
    if word == word.lower():
        return 0
    if len(word) > 1 and word == word.upper():
        return 2
    return 1 if word[0].isupper() and word[1:] == word[1:].lower() else 3


class Pieces:
    """A word to the indices of its pieces: the longest known piece first, "▁" before the word's first letter."""

    def __init__(self, vocabulary: list[str]):
        self.index = {piece: i for i, piece in enumerate(vocabulary)}
        self.longest = max(map(len, vocabulary))

    def __call__(self, word: str) -> list[int]:
        text = "▁" + unicodedata.normalize("NFC", word[: 8 * MAX_PIECES]).lower()
        found: list[int] = []
        at = 0
        while at < len(text) and len(found) < MAX_PIECES:
            for end in range(min(len(text), at + self.longest), at, -1):
                piece = self.index.get(text[at:end])
                if piece is not None:
                    found.append(piece)
                    at = end
                    break
            else:
                if not found or found[-1] != UNKNOWN:
                    found.append(UNKNOWN)
                at += 1
        return found


def check_meta(meta: Any) -> None:
    """Check what a tagger file says of itself.

    Raises:
        ValueError: what is wrong, without the name of the file.
    """
    if not isinstance(meta, dict):
        raise ValueError("its description is no table")
    missing = [key for key in ("format", "labels", "pieces", "confidence", "width", "layers", "heads", "window") if key not in meta]
    if missing:
        raise ValueError(f"its description has no {missing[0]}")
    labels, pieces, confidence = meta["labels"], meta["pieces"], meta["confidence"]
    for name, values in (("labels", labels), ("pieces", pieces)):
        if not isinstance(values, list) or not values or not all(isinstance(x, str) and x for x in values):
            raise ValueError(f"its {name} are no list of words")
        if len(set(values)) < len(values):
            raise ValueError(f"one of its {name} is there twice")
    if labels[0] != "O":
        raise ValueError(f"its first label is {labels[0]!r}, not 'O'")
    wrong = [label for label in labels[1:] if not re.fullmatch(r"[BI]-\S+", label)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no label")
    if len(pieces) <= END:
        raise ValueError("it has no pieces of words")
    if not isinstance(confidence, list) or not all(type(x) in (int, float) and 0 <= x <= 1 for x in confidence):
        raise ValueError("its confidence is no list of numbers from 0 to 1")
    for name, least in (("width", 1), ("layers", 1), ("heads", 1), ("window", 2)):
        if type(meta[name]) is not int or not least <= meta[name] <= LARGEST:
            raise ValueError(f"its {name} is {str(meta[name])[:40]}, no whole number from {least} to {LARGEST}")
    if meta["width"] % meta["heads"]:
        raise ValueError(f"its width {meta['width']} is no multiple of its {meta['heads']} heads")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of a file; ValueError: it has none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from None
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    except Exception:  # whatever numpy and zlib say of bytes that are no arrays helps nobody
        raise ValueError("no .npz file of plain arrays") from None
    if "meta" not in arrays:
        raise ValueError("it has no description (meta)")
    try:
        meta = json.loads(arrays.pop("meta").tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("its description is no JSON") from None
    if not isinstance(meta, dict) or "format" not in meta:
        raise ValueError("its description has no format")
    return meta, arrays


def _check_arrays(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check names, shapes, types and numbers of the arrays against the description; ValueError: what is wrong."""
    width, pieces, labels = meta["width"], len(meta["pieces"]), len(meta["labels"])

    def check(name: str, shape: tuple[int | None, ...], kind: type) -> tuple[int, ...]:
        array = arrays.get(name)
        if array is None:
            raise ValueError(f"it has no {name}")
        if array.dtype != kind:
            raise ValueError(f"{name} holds {array.dtype}, not {np.dtype(kind)}")
        if array.ndim != len(shape) or any(n not in (None, found) for n, found in zip(shape, array.shape)) or not array.size:
            expected = tuple("any" if n is None else n for n in shape)
            raise ValueError(f"{name} has shape {array.shape}, not {expected}".replace("'", ""))
        if kind is np.float32 and not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        return tuple(array.shape)

    def product(name: str, rows: int, columns: int | None) -> int:
        found = check(f"{name}.weight", (rows, columns), np.int8)[1]
        check(f"{name}.scale", (found,), np.float32)
        check(f"{name}.bias", (found,), np.float32)
        return found

    check("embedding", (pieces, width), np.int8)
    check("embedding_scale", (pieces,), np.float32)
    check("shape", (len(SHAPES), width), np.float32)
    check("score", (meta["layers"],), np.float32)
    for i in range(meta["layers"]):
        product(f"{i}.qkv", width, 3 * width)
        product(f"{i}.out", width, width)
        product(f"{i}.down", product(f"{i}.up", width, None), width)
    product("head", width, (LOOKAHEAD + 1) * labels)


def scaled(arrays: Mapping[str, np.ndarray], heads: int, window: int) -> dict[str, np.ndarray]:
    """The arrays of a file from a quantised network: scales and biases in its own units become those of the integers behind them.

    A row of length ROW times a column of weights is at most the product of their lengths (Cauchy-Schwarz), so every later sum has a bound
    that holds for any words; the units are chosen such that it is 2**24.

    Args:
        arrays: as in the file, but with y = x @ weight * scale + bias of RMS-normalised or plain real rows x, and without "score".

    Raises:
        ValueError: the network is too wide for exact sums.
    """
    made = dict(arrays)
    width = arrays["shape"].shape[1]
    depth, root = width // heads, math.sqrt(width)
    room = 0.98 * EXACT  # rounding adds a little

    def weight(name: str) -> np.ndarray:
        return np.abs(arrays[f"{name}.weight"].astype(np.float64))

    def largest(name: str) -> np.ndarray:
        """(out,): bound of the product of a normalised row."""
        length = np.sqrt((weight(name) ** 2).sum(0))
        if ROW * length.max() > room:
            raise ValueError(f"a width of {width} is too much for exact sums")
        return length * arrays[f"{name}.scale"] * root + np.abs(arrays[f"{name}.bias"])

    def put(name: str, rows: float, outputs: float | np.ndarray = 1.0) -> None:
        """`rows`: integers in one real unit of the input, `outputs`: steps in one of the output."""
        made[f"{name}.scale"] = (arrays[f"{name}.scale"] * outputs / rows).astype(np.float32)
        made[f"{name}.bias"] = (arrays[f"{name}.bias"] * outputs).astype(np.float32)

    unit, scores = float(ROW) / root, []
    for i in range(sum(name.endswith(".qkv.weight") for name in arrays)):
        query, key, value = largest(f"{i}.qkv").reshape(3, width)
        match = math.sqrt(room / (query * key).reshape(heads, depth).sum(1).max())
        mixed = (weight(f"{i}.out") * value[:, None]).sum(0).max()
        steps = min(room / (ATTENTION_STEPS * window * value.max()), room / (FINER * mixed))
        put(f"{i}.qkv", unit, np.repeat([match, match, steps], width))
        put(f"{i}.out", FINER * steps)
        scores.append(1 / (match * match * math.sqrt(depth)))
        steps = room / (weight(f"{i}.down") * largest(f"{i}.up")[:, None]).sum(0).max()
        put(f"{i}.up", unit, steps)
        put(f"{i}.down", steps)
    largest("head")
    put("head", unit)
    made["score"] = np.array(scores, np.float32)
    return made


@dataclass
class State:
    """Where a stream stands: keys and values of its last W - 1 words, a layer, in a buffer that is made anew when it is full."""

    kept: np.ndarray  # (layers, 2, H, W - 1 + BLOCK, D / H + 1); the last column is 1 / FINER
    end: int = 0  # rows of the buffer in use
    words: int = 0  # positions so far: words and edges


@dataclass
class _Product:
    """y = x @ weight * scale + bias with integer-valued weight and x."""

    weight: np.ndarray  # (in, out)
    scale: np.ndarray  # (out,)
    bias: np.ndarray  # (out,)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        n = len(rows)
        if n > SMALL:
            y = np.empty((n, self.weight.shape[1]), np.float32)
            for i in range(0, n, SMALL):
                np.matmul(rows[i : i + SMALL], self.weight, out=y[i : i + SMALL])
        else:
            y = rows @ self.weight
        y *= self.scale
        y += self.bias
        return y


@dataclass
class _Layer:
    qkv: _Product
    out: _Product
    up: _Product
    down: _Product
    score: float  # what one unit of an integer q.k is worth


class Tagger:
    """A trained tagger; `labels[0]` is "O", then "B-cardinal", "I-cardinal", ...

    One object serves any number of streams: `state = tagger.initial_state()`, then `step`.
    """

    lookahead = LOOKAHEAD

    def __init__(self, meta: dict, arrays: dict[str, np.ndarray]):
        self.labels: tuple[str, ...] = tuple(meta["labels"])
        self.confidence: tuple[float, ...] = tuple(meta["confidence"])
        self.heads: int = meta["heads"]
        self.window: int = meta["window"]
        self.width: int = meta["width"]
        self.meta = meta
        self.pieces = Pieces(meta["pieces"])
        self._embedding = arrays["embedding"]  # int8 (pieces, D)
        self._embedding_scale = arrays["embedding_scale"]  # (pieces,)
        self._shape = arrays["shape"]  # (len(SHAPES), D)

        def product(name: str) -> _Product:
            weight = arrays[f"{name}.weight"].astype(np.float32)
            return _Product(weight, arrays[f"{name}.scale"], arrays[f"{name}.bias"])

        self._layers = [
            _Layer(product(f"{i}.qkv"), product(f"{i}.out"), product(f"{i}.up"), product(f"{i}.down"), float(arrays["score"][i]))
            for i in range(meta["layers"])
        ]
        self._head = product("head")
        slopes = (2.0 ** (-8.0 * np.arange(1, self.heads + 1) / self.heads)).astype(np.float32)
        # distance of key column j from query row i when W - 1 earlier words are there
        distance = (self.window - 1 + np.arange(BLOCK))[:, None] - np.arange(self.window - 1 + BLOCK)[None, :]
        seen = (distance >= 0) & (distance < self.window)
        self._bias = np.where(seen, -slopes[:, None, None] * distance, -np.inf).astype(np.float32)
        self._edge = self._first_rows([self._embedding[END] * self._embedding_scale[END]])[0]
        self._known: dict[str, np.ndarray] = {}
        self._begun = State(self._buffer(0))
        if meta.get("start"):
            self._run(self._edge[None], self._begun)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Tagger:
        """Read a tagger; without a path the one that ships with the package. Raises ValueError saying what is wrong with the file."""
        path = Path(path) if path is not None else MODEL
        if not path.is_file():
            raise ValueError(f"no tagger at {path}")
        try:
            meta, arrays = _read(path)
            if meta.get("format", FORMAT) == FORMAT:
                check_meta(meta)
                _check_arrays(meta, arrays)
        except ValueError as error:
            raise ValueError(f"{path} is not a tagger: {error}") from None
        if meta["format"] != FORMAT:
            raise ValueError(f"{path} has format {meta['format']!r}, this package reads format {FORMAT}")
        return cls(meta, arrays)

    def initial_state(self) -> State:
        """Of a new stream. Its start is a position, too: without it "five", "five five" and "five five five" look the same to sums of what was said."""
        return State(self._begun.kept, self._begun.end, self._begun.words)  # full: the first words bring a buffer of their own

    def _buffer(self, rows: int) -> np.ndarray:
        depth = self.width // self.heads
        kept = np.empty((len(self._layers), 2, self.heads, rows, depth + 1), np.float32)
        kept[..., depth] = 1 / FINER  # attention weights times this column are their sum
        return kept

    def step(self, words: list[str], state: State, end: bool = False) -> np.ndarray:
        """(n, 3, L): log-probabilities of the label of the word k words before word i, at [i, k]. Moves `state` on.

        With `end` two positions of the end of the stream follow, (n + 2, 3, L), which give the last words their later rows. Rows that point
        before the first word of the stream mean nothing.
        """
        rows = self._rows(words)
        if end:
            rows += [self._edge] * LOOKAHEAD
        if not rows:
            return np.zeros((0, LOOKAHEAD + 1, len(self.labels)), np.float32)
        out = [self._run(np.concatenate(rows[i : i + BLOCK]).reshape(-1, 4 * self.width), state) for i in range(0, len(rows), BLOCK)]
        return np.concatenate(out) if len(out) > 1 else out[0]

    def _rows(self, words: list[str]) -> list[np.ndarray]:
        """What the network starts from, a row (4 D) a word: see `_first_rows`. It is the same wherever the word is said, so it is kept."""
        known = self._known
        if any(word not in known for word in words):
            if len(known) + len(words) > WORDS_KEPT:
                known = {}  # a new one: another thread may be reading the old one
            new = list(dict.fromkeys(word for word in words if word not in known))
            for i in range(0, len(new), BLOCK):
                block = new[i : i + BLOCK]
                known.update(zip(block, self._first_rows([self._embed(word) for word in block])))
            self._known = known if len(known) <= WORDS_KEPT else {}
        return [known[word] for word in words]

    def _embed(self, word: str) -> np.ndarray:
        x = self._shape[shape_of(word)].copy()
        for row in self.pieces(word):  # one after the other: the same sum in every call
            x += self._embedding[row] * self._embedding_scale[row]
        return x

    def _first_rows(self, embedded: list[np.ndarray]) -> np.ndarray:
        """(n, 4 D): embedded words, and their queries, keys and values of the first layer."""
        x = np.stack(embedded)
        return np.concatenate([x, np.rint(self._layers[0].qkv(_integers(x)))], axis=1)

    def _run(self, rows: np.ndarray, state: State) -> np.ndarray:
        """One pass of n <= BLOCK words, (n, 4 D) of `_first_rows`."""
        n = len(rows)
        x, qkv = rows[:, : self.width], rows[:, self.width :]
        before = min(state.words, self.window - 1)
        if state.end + n > state.kept.shape[-2]:
            # the first block's buffer has room for no more: most texts are one block
            kept = self._buffer(self.window - 1 + BLOCK if state.words > 1 else before + n)
            kept[..., :before, :] = state.kept[..., state.end - before : state.end, :]
            state.kept = kept
            state.end = before
        first, last = state.end - before, state.end + n
        bias = self._bias[:, :n, self.window - 1 - before : self.window - 1 + n]
        heads, depth = self.heads, self.width // self.heads
        for i, layer in enumerate(self._layers):
            if i:
                qkv = layer.qkv(_integers(x))
                np.rint(qkv, out=qkv)
            qkv = qkv.reshape(n, 3, heads, depth)
            kept = state.kept[i]
            kept[:, :, state.end : last, :depth] = qkv[:, 1:].transpose(1, 2, 0, 3)
            keys, values = kept[:, :, first:last]
            scores = qkv[:, 0].transpose(1, 0, 2) @ keys[..., :depth].transpose(0, 2, 1)
            scores *= layer.score
            scores += bias
            scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
            weights = np.exp(scores, dtype=np.float64)
            weights *= ATTENTION_STEPS
            np.rint(weights, out=scores, casting="same_kind")
            mixed = scores @ values
            mixed = mixed[..., :depth] / mixed[..., depth:]
            mixed = mixed.transpose(1, 0, 2).reshape(n, self.width)
            np.rint(mixed, out=mixed)
            x = x + layer.out(mixed)
            hidden = layer.up(_integers(x))
            np.maximum(hidden, 0.0, out=hidden)
            np.rint(hidden, out=hidden)
            x = x + layer.down(hidden)
        state.end = last
        state.words += n
        logits = self._head(_integers(x)).reshape(n, LOOKAHEAD + 1, len(self.labels))
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits


def _integers(x: np.ndarray) -> np.ndarray:
    """Rows of x at length ROW, rounded. The products' scales undo ROW, so that this is RMS normalisation."""
    wide = x.astype(np.float64)  # in double precision the order of a sum does not show, whichever library adds
    length = np.add.reduce(wide * wide, axis=-1, keepdims=True, initial=TINY)
    np.sqrt(length, out=length)
    rows = x * np.divide(ROW, length).astype(np.float32)
    np.rint(rows, out=rows)
    return rows
