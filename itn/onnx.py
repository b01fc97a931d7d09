"""The tagger as an ONNX file: `write` makes it, `OnnxTagger` runs it by onnxruntime in place of numpy.

The graph is the step of `itn.tagger`, operator by operator: the products are of integers held in float32, whose sums are exact in any order, so
an ONNX runtime gives the answers of numpy. Weights are stored as int8 and cast when a session is made, once. The state goes in and comes out
with one shape for all calls, zeros at the start of a stream:

    pieces (n, 12) int64                  pieces of n words, -1 where there are no more; [END, -1 ...] is a position of the end
    shapes (n,) int64                     index into SHAPES; -1 at the end
    keys, values (layers, W - 1, D)       of the last words, the latest in the last row
    words (1,) int64                      words so far
    -> log_probabilities (n, 3, L), new_keys, new_values, new_words

Pieces, labels and the other numbers of the tagger are in the file's metadata under "itn", so one file is a tagger.

Legend: n words of a call, D model width, H heads, W attention window (words), L labels.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itn.errors import ItnError
from itn.tagger import (
    ATTENTION_STEPS,
    BLOCK,
    END,
    FINER,
    FORMAT,
    LOOKAHEAD,
    MAX_PIECES,
    ROW,
    TINY,
    Pieces,
    Tagger,
    check_meta,
    shape_of,
)

OPSET = 17
IR_VERSION = 8  # the newest that every mobile build of ONNX Runtime reads
METADATA = "itn"
INPUTS = ("pieces", "shapes", "keys", "values", "words")
OUTPUTS = ("log_probabilities", "new_keys", "new_values", "new_words")


def encode(words: list[str], pieces: Pieces, end: bool = False, start: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Words as the graph takes them, pieces (n, 12) and shapes (n,).

    With `start` the position of the start of the stream stands before them, with `end` two positions of its end follow.
    """
    n = len(words)
    rows = np.full((start + n + LOOKAHEAD * end, MAX_PIECES), -1, np.int64)
    shapes = np.full(len(rows), -1, np.int64)
    rows[:start, 0] = rows[start + n :, 0] = END
    for i, word in enumerate(words, int(start)):
        found = pieces(word)
        rows[i, : len(found)] = found
        shapes[i] = shape_of(word)
    return rows, shapes


@dataclass
class State:
    """Where a stream stands; the arrays of the last call."""

    keys: np.ndarray
    values: np.ndarray
    words: np.ndarray


class OnnxTagger:
    """A tagger that onnxruntime runs; the interface of `itn.tagger.Tagger`."""

    lookahead = LOOKAHEAD

    def __init__(self, session: Any, meta: dict[str, Any]):
        self.labels: tuple[str, ...] = tuple(meta["labels"])
        self.confidence: tuple[float, ...] = tuple(meta["confidence"])
        self.pieces = Pieces(meta["pieces"])
        self.start = bool(meta.get("start"))
        self.meta = meta
        self._session = session
        self._cache = (meta["layers"], meta["window"] - 1, meta["width"])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OnnxTagger:
        """Read a file of `write`.

        Raises:
            ItnError: no onnxruntime, no such file, or something else than a tagger.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ItnError(
                f"a tagger of type .onnx needs onnxruntime ({error}): pip install onnxruntime"
            ) from None
        if not Path(path).is_file():
            raise ItnError(f"no tagger at {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # products this small only lose by sharing
        )
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
            meta = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
            found = meta["format"]
            if found == FORMAT:
                check_meta(meta)
                _check_graph(session, meta)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0] if not isinstance(error, KeyError) else f"no metadata {error}"
            raise ItnError(f"{path} is not a tagger: {reason}") from None
        except Exception as error:  # onnxruntime's own classes derive from Exception alone
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ItnError(f"{path} is not a tagger: {str(error).splitlines()[0]}") from None
        if found != FORMAT:
            raise ItnError(f"{path} has format {found}, this package reads format {FORMAT}")
        return cls(session, meta)

    @property
    def signature(self) -> dict[str, dict[str, Any]]:
        """Inputs and outputs of the graph: name -> type and shape."""

        def told(values: Any) -> dict[str, Any]:
            return {v.name: {"type": v.type.removeprefix("tensor(")[:-1], "shape": v.shape} for v in values}

        return {"inputs": told(self._session.get_inputs()), "outputs": told(self._session.get_outputs())}

    def initial_state(self) -> State:
        """Of a new stream."""
        return State(
            np.zeros(self._cache, np.float32), np.zeros(self._cache, np.float32), np.zeros(1, np.int64)
        )

    def step(self, words: list[str], state: State, end: bool = False) -> np.ndarray:
        """(n, 3, L), or (n + 2, 3, L): see `itn.tagger.Tagger.step`."""
        if not words and not end:
            return np.zeros((0, LOOKAHEAD + 1, len(self.labels)), np.float32)
        start = self.start and not state.words[0]
        pieces, shapes = encode(words, self.pieces, end, start)
        blocks = [slice(i, i + BLOCK) for i in range(0, len(pieces), BLOCK)]
        return np.concatenate([self._run(pieces[block], shapes[block], state) for block in blocks])[start:]

    def _run(self, pieces: np.ndarray, shapes: np.ndarray, state: State) -> np.ndarray:
        given = dict(zip(INPUTS, (pieces, shapes, state.keys, state.values, state.words)))
        logp, state.keys, state.values, state.words = self._session.run(list(OUTPUTS), given)
        return np.asarray(logp)


def _check_graph(session: Any, meta: dict[str, Any]) -> None:
    """Whether inputs and outputs are those of the description; ValueError: which is not."""
    cache, words = [meta["layers"], meta["window"] - 1, meta["width"]], [1]
    answer = ["n", LOOKAHEAD + 1, len(meta["labels"])]
    inputs: list[list[Any]] = [["n", MAX_PIECES], ["n"], cache, cache, words]
    outputs: list[list[Any]] = [answer, cache, cache, words]
    for kind, names, shapes, values in (
        ("input", INPUTS, inputs, session.get_inputs()),
        ("output", OUTPUTS, outputs, session.get_outputs()),
    ):
        found = {value.name: list(value.shape) for value in values}
        for name, shape in zip(names, shapes):
            if name not in found:
                raise ValueError(f"its graph has no {kind} {name}")
            if len(found[name]) != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, found[name])):
                raise ValueError(f"its {kind} {name} has shape {found[name]}, not {shape}")


def write(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Tagger:
    """Write a tagger of `itn.tagger` (an .npz file) as ONNX; returns it as numpy runs it.

    Raises:
        ItnError: no package onnx, or no tagger at ``source``.
    """
    try:
        import onnx
    except ImportError as error:
        raise ItnError(
            f"writing ONNX files needs onnx ({error}): pip install 'emformer-asr[export]'"
        ) from None
    try:
        tagger = Tagger.load(Path(source))
        with np.load(source, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "meta"}
    except ValueError as error:
        raise ItnError(str(error)) from None
    model = _Graph(tagger, arrays).model()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, os.fspath(path))
    return tagger


class _Graph:
    """The step as ONNX operators; a method of `Tagger` has its counterpart here."""

    def __init__(self, tagger: Tagger, arrays: dict[str, np.ndarray]):
        self.tagger, self.arrays = tagger, arrays
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def model(self) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        tagger = self.tagger
        cache = (len(self.arrays["score"]), tagger.window - 1, tagger.width)
        self._step()
        real, integer = TensorProto.FLOAT, TensorProto.INT64
        answer = ("n", LOOKAHEAD + 1, len(tagger.labels))
        inputs: list[tuple[Any, tuple[Any, ...]]] = [
            (integer, ("n", MAX_PIECES)),
            (integer, ("n",)),
            (real, cache),
            (real, cache),
            (integer, (1,)),
        ]
        outputs: list[tuple[Any, tuple[Any, ...]]] = [
            (real, answer),
            (real, cache),
            (real, cache),
            (integer, (1,)),
        ]
        graph = helper.make_graph(
            self.nodes,
            "tagger",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in zip(INPUTS, inputs)],
            [
                helper.make_tensor_value_info(name, kind, shape)
                for name, (kind, shape) in zip(OUTPUTS, outputs)
            ],
            [
                numpy_helper.from_array(np.asarray(value, order="C"), name)
                for name, value in self.constants.items()
            ],
        )
        model = helper.make_model(
            graph, producer_name="emformer-asr itn", opset_imports=[helper.make_opsetid("", OPSET)]
        )
        model.ir_version = IR_VERSION
        helper.set_model_props(model, {METADATA: json.dumps(tagger.meta, ensure_ascii=False)})
        return model

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        from onnx import helper

        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, value: Any, kind: Any = np.float32, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, kind)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, name: str) -> str:
        """An int8 array of the file, as float32."""
        return self.op("Cast", self.constant(self.arrays[name], np.int8, name), to=1)

    def integers_of(self, x: str) -> str:
        """`itn.tagger._integers`."""
        wide = self.op("Cast", x, to=11)
        square = self.op("ReduceSum", self.op("Mul", wide, wide), self.integers(-1), keepdims=1)
        length = self.op("Sqrt", self.op("Add", square, self.constant(TINY, np.float64)))
        factor = self.op("Cast", self.op("Div", self.constant(ROW, np.float64), length), to=1)
        return self.op("Round", self.op("Mul", x, factor))

    def product(self, rows: str, name: str) -> str:
        """`itn.tagger._Product`: rows @ weight * scale + bias, in this order."""
        y = self.op("Mul", self.op("MatMul", rows, self.weight(f"{name}.weight")), self.constant(self.arrays[f"{name}.scale"]))
        return self.op("Add", y, self.constant(self.arrays[f"{name}.bias"]))

    def embedded(self) -> str:
        """(n, D): the sum of a word's shape and pieces, one after the other. Index -1 is the last row, which is zero."""
        empty = np.zeros((1, self.tagger.width))
        embedding = self.constant(np.concatenate([self.arrays["embedding"], empty]), np.int8)
        scale = self.constant(np.append(self.arrays["embedding_scale"], 0.0))
        rows = self.op("Cast", self.op("Gather", embedding, "pieces", axis=0), to=1)
        scales = self.op("Unsqueeze", self.op("Gather", scale, "pieces", axis=0), self.integers(-1))
        parts = self.op("Mul", rows, scales)  # (n, 12, D)
        x = self.op("Gather", self.constant(np.concatenate([self.arrays["shape"], empty])), "shapes", axis=0)
        for i in range(MAX_PIECES):
            x = self.op("Add", x, self.op("Gather", parts, self.constant(i, np.int64), axis=1))
        return x

    def bias(self, n: str) -> str:
        """(H, n, W - 1 + n): what distance costs; far more where a word does not look."""
        tagger = self.tagger
        past = self.integers(tagger.window - 1)
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        count = self.op("Squeeze", n)
        total = self.op("Squeeze", self.op("Add", n, past))
        query = self.op(
            "Unsqueeze", self.op("Add", self.op("Range", zero, count, one), past), self.integers(1)
        )
        key = self.op("Unsqueeze", self.op("Range", zero, total, one), self.integers(0))
        distance = self.op("Sub", query, key)
        before = self.op("Less", distance, self.integers(0))
        beyond = self.op("GreaterOrEqual", distance, self.integers(tagger.window))
        unwritten = self.op("Less", key, self.op("Sub", past, "words"))
        hidden = self.op("Or", self.op("Or", before, beyond), unwritten)
        slopes = -(2.0 ** (-8.0 * np.arange(1, tagger.heads + 1) / tagger.heads))
        cost = self.op("Mul", self.op("Cast", distance, to=1), self.constant(slopes[:, None, None]))
        return self.op("Where", hidden, self.constant(-np.inf), cost)

    def _step(self) -> None:
        """`Tagger._run`."""
        tagger = self.tagger
        heads, depth = tagger.heads, tagger.width // tagger.heads
        first, last = self.integers(-(tagger.window - 1)), self.integers(2**62)
        rows, split = self.integers(0), self.integers(0, heads, depth)
        n = self.op("Shape", "shapes")
        x, bias = self.embedded(), self.bias(n)
        new_keys: list[str] = []
        new_values: list[str] = []
        for i, score in enumerate(self.arrays["score"]):
            qkv = self.op("Round", self.product(self.integers_of(x), f"{i}.qkv"))
            query, key, value = (
                self.op(
                    "Slice",
                    qkv,
                    self.integers(j * tagger.width),
                    self.integers((j + 1) * tagger.width),
                    self.integers(1),
                )
                for j in range(3)
            )
            layer = self.constant(i, np.int64)
            keys = self.op("Concat", self.op("Gather", "keys", layer, axis=0), key, axis=0)
            values = self.op("Concat", self.op("Gather", "values", layer, axis=0), value, axis=0)
            for kept, found in ((new_keys, keys), (new_values, values)):
                kept.append(
                    self.op("Unsqueeze", self.op("Slice", found, first, last, rows), self.integers(0))
                )
            query = self.op("Transpose", self.op("Reshape", query, split), perm=[1, 0, 2])
            keys = self.op("Transpose", self.op("Reshape", keys, split), perm=[1, 2, 0])
            values = self.op("Transpose", self.op("Reshape", values, split), perm=[1, 0, 2])
            scores = self.op(
                "Add", self.op("Mul", self.op("MatMul", query, keys), self.constant(score)), bias
            )
            scores = self.op("Sub", scores, self.op("ReduceMax", scores, axes=[-1], keepdims=1))
            # in double precision no two libraries round exp to another step
            weights = self.op("Exp", self.op("Cast", scores, to=11))
            weights = self.op("Round", self.op("Mul", weights, self.constant(ATTENTION_STEPS, np.float64)))
            scores = self.op("Cast", weights, to=1)
            total = self.op("ReduceSum", scores, self.integers(-1), keepdims=1)
            total = self.op("Mul", total, self.constant(1 / FINER))
            mixed = self.op(
                "Transpose", self.op("Div", self.op("MatMul", scores, values), total), perm=[1, 0, 2]
            )
            mixed = self.op("Round", self.op("Reshape", mixed, self.integers(0, tagger.width)))
            x = self.op("Add", x, self.product(mixed, f"{i}.out"))
            hidden = self.op("Round", self.op("Relu", self.product(self.integers_of(x), f"{i}.up")))
            x = self.op("Add", x, self.product(hidden, f"{i}.down"))
        self.op("Concat", *new_keys, out="new_keys", axis=0)
        self.op("Concat", *new_values, out="new_values", axis=0)
        self.op("Add", "words", n, out="new_words")
        answer = self.integers(0, LOOKAHEAD + 1, len(tagger.labels))
        self.op(
            "LogSoftmax", self.op("Reshape", self.product(self.integers_of(x), "head"), answer), out="log_probabilities", axis=-1
        )
