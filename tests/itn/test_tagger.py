"""The tagger at run time: exact sums, so that blocks of words and single words give the same bits; int8 close to the float network."""

import json
import random

import numpy as np
import pytest

from itn.tagger import (
    BLOCK,
    EXACT,
    LOOKAHEAD,
    WORDS_KEPT,
    Pieces,
    Tagger,
    _integers,
    _Product,
    scaled,
    shape_of,
)
from tests.itn.toy import run

WORDS = "we met at nine forty a m on the third of may and paid twenty five dollars for it Über naïve 東京 42 $5 ... X".split()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A network with random weights and its int8 file."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("pynini")
    from itn import data, train
    from itn.written import plain

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tagger")
    pieces = ["<unk>", "<end>", *sorted({"▁" + c for c in "abcdefghijklmnopqrstuvwxyz"} | set("abcdefghijklmnopqrstuvwxyz'.0123456789")), "▁the", "▁twenty"]
    (folder / "pieces.json").write_text(json.dumps(pieces))
    rng = random.Random(0)
    data.pack((plain(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(200)), folder / "train_1.npz")
    net = train.TaggerNet(train.TaggerConfig(), len(pieces), len(data.LABELS)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    torch.save({"net": net.state_dict()}, folder / "checkpoint.pt")
    assert train.main(["convert", "--out", str(folder)]) == 0
    return net, Tagger.load(folder / "tagger.npz")


def test_any_blocks_give_the_same_bits(pair):
    _, tagger = pair
    rng = random.Random(1)
    words = rng.choices(WORDS, k=400)
    whole = run(tagger, words, [400])
    assert whole.shape == (402, LOOKAHEAD + 1, len(tagger.labels))
    assert np.array_equal(whole, run(tagger, words, [1] * 400))
    assert np.array_equal(whole, tagger.step(words, tagger.initial_state(), end=True))
    assert tagger.step([], tagger.initial_state()).shape == (0, 3, len(tagger.labels))
    sizes = []
    while sum(sizes) < 400:
        sizes.append(rng.randint(1, 120))
    assert np.array_equal(whole, run(tagger, words, sizes))


def test_a_full_cache_changes_nothing(pair):
    _, tagger = pair
    words = [f"w{i}" for i in range(WORDS_KEPT + 500)]
    whole = run(tagger, words, [len(words)])
    assert len(tagger._known) <= WORDS_KEPT
    assert np.array_equal(whole[1000:2000], run(tagger, words[:2002], [7] * 286)[1000:2000])
    assert 0 < len(tagger._known) <= WORDS_KEPT


def test_sums_stay_exact_for_the_worst_rows(pair, monkeypatch):
    """The scales promise sums below 2**24 for any words: rows along the weights, rows of one number, and many at once."""
    _, tagger = pair
    largest: list[float] = []
    call = _Product.__call__

    def watched(self, rows):
        assert np.array_equal(rows, np.rint(rows))
        exact = rows.astype(np.float64) @ self.weight.astype(np.float64)
        largest.append(float(np.abs(exact).max()))
        y = call(self, rows)
        assert np.array_equal(y, exact.astype(np.float32) * self.scale + self.bias)
        return y

    monkeypatch.setattr(_Product, "__call__", watched)
    for layer in tagger._layers:
        for product in (layer.qkv, layer.up):
            for sign in (1, -1):
                rows = sign * product.weight.T[:BLOCK]
                first = np.concatenate([rows, np.rint(tagger._layers[0].qkv(_integers(rows)))], axis=1).astype(np.float32)
                tagger._run(first, tagger.initial_state())
    assert 2**16 < max(largest) <= EXACT


def test_scales_refuse_what_cannot_be_exact():
    width = 4096
    arrays = {"shape": np.ones((6, width), np.float32)}
    for name, rows, columns in (("0.qkv", width, 3 * width), ("0.out", width, width), ("0.up", width, 8), ("0.down", 8, width), ("head", width, 9)):
        arrays[f"{name}.weight"] = np.full((rows, columns), 127, np.int8)
        arrays[f"{name}.scale"] = arrays[f"{name}.bias"] = np.ones(columns, np.float32)
    with pytest.raises(ValueError, match="a width of 4096 is too much"):
        scaled(arrays, 4, 32)


def test_only_the_window_and_two_words_ahead_matter(pair):
    _, tagger = pair
    rng = random.Random(2)
    words = rng.choices(WORDS, k=60)
    reach = len(tagger._layers) * (tagger.window - 1)
    changed = [*words[:30], "changed", *words[31:]]
    a, b = run(tagger, words, [60]), run(tagger, changed, [60])
    assert np.array_equal(a[:30], b[:30]) and not np.array_equal(a[30], b[30])
    long = rng.choices(WORDS, k=reach + 50)
    a, b = run(tagger, long, [len(long)]), run(tagger, ["changed", *long[1:]], [len(long)])
    assert np.array_equal(a[reach + 1 :], b[reach + 1 :])


def test_int8_stays_near_the_float_network(pair):
    torch = pytest.importorskip("torch")
    net, tagger = pair
    words = random.Random(3).choices(WORDS, k=50)
    pieces = np.full((1, 53, 12), -1)
    shapes = np.full((1, 53), -1)
    for i, word in enumerate(words, 1):
        rows = tagger.pieces(word)
        pieces[0, i, : len(rows)] = rows
        shapes[0, i] = shape_of(word)
    pieces[0, [0, 51, 52], 0] = 1
    with torch.no_grad():
        expected = net(torch.from_numpy(pieces), torch.from_numpy(shapes)).softmax(-1)[0, 1:].numpy()
    got = np.exp(run(tagger, words, [50]))
    assert np.abs(got.sum(-1) - 1).max() < 1e-5
    assert np.abs(got - expected).max() < 0.02


def test_probabilities_do_not_depend_on_what_ran_before(pair):
    _, tagger = pair
    first = run(tagger, WORDS, [len(WORDS)])
    run(tagger, list(reversed(WORDS)) * 9, [len(WORDS) * 9])
    assert np.array_equal(first, run(tagger, WORDS, [len(WORDS)]))


def test_pieces_take_the_longest_and_never_fail():
    pieces = Pieces(["<unk>", "<end>", "▁t", "▁tw", "▁twenty", "e", "n", "ty"])
    assert pieces("twenty") == [4]
    assert pieces("TWENTY") == [4]
    assert pieces("twen") == [3, 5, 6]
    assert pieces("t東京n") == [2, 0, 6]
    assert pieces("") == [0]
    assert len(pieces("n" * 10_000)) <= 12


@pytest.mark.parametrize(
    ("word", "shape"), [("may", 0), ("May", 1), ("MAY", 2), ("I", 1), ("McCoy", 3), ("5g", 4), ("$", 5), ("", 5), ("don't", 0), ("東京", 0)]
)
def test_shapes(word, shape):
    assert shape_of(word) == shape


def test_a_wrong_file_says_so(tmp_path):
    with pytest.raises(ValueError, match="no tagger at"):
        Tagger.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="bad.npz is not a tagger"):
        Tagger.load(tmp_path / "bad.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="text.npz is not a tagger"):
        Tagger.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="other.npz is not a tagger"):
        Tagger.load(tmp_path / "other.npz")


def _stored():
    """A sound file's description and arrays, by hand."""
    meta = {
        "format": 2, "labels": ["O", "B-money", "I-money"], "pieces": ["<unk>", "<end>", "▁a"], "confidence": [0.98, 0.9],
        "width": 8, "layers": 1, "heads": 2, "window": 4,
    }  # fmt: skip
    arrays = {
        "embedding": np.ones((3, 8), np.int8), "embedding_scale": np.ones(3, np.float32),
        "shape": np.ones((6, 8), np.float32), "score": np.ones(1, np.float32),
    }  # fmt: skip
    for name, rows, columns in (("0.qkv", 8, 24), ("0.out", 8, 8), ("0.up", 8, 16), ("0.down", 16, 8), ("head", 8, 9)):
        arrays[f"{name}.weight"] = np.ones((rows, columns), np.int8)
        arrays[f"{name}.scale"] = arrays[f"{name}.bias"] = np.ones(columns, np.float32)
    return meta, arrays


def _save(path, meta, arrays):
    np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return path


def test_a_sound_file_by_hand(tmp_path):
    tagger = Tagger.load(_save(tmp_path / "good.npz", *_stored()))
    assert tagger.step(["a"], tagger.initial_state(), end=True).shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": None}, "has format None, this package reads format 2"),
        ({"labels": ["B-money", "O", "I-money"]}, "first label is 'B-money', not 'O'"),
        ({"labels": ["O", "money", "I-money"]}, "'money' is no label"),
        ({"labels": ["O", "B-money"]}, "head.weight has shape (8, 9), not (8, 6)"),
        ({"labels": "OBI"}, "its labels are no list of words"),
        ({"pieces": ["<unk>", "<end>"]}, "embedding has shape (3, 8), not (2, 8)"),
        ({"pieces": ["<unk>", "<end>", "<end>"]}, "one of its pieces is there twice"),
        ({"pieces": [1, 2, 3]}, "its pieces are no list of words"),
        ({"heads": 3}, "its width 8 is no multiple of its 3 heads"),
        ({"heads": 0}, "its heads is 0"),
        ({"width": "8"}, "its width is 8, no whole number"),
        ({"window": 10**9}, "its window is 1000000000"),
        ({"layers": 2}, "score has shape (1,), not (2,)"),
        ({"confidence": [2]}, "its confidence is no list of numbers"),
        ({"confidence": float("nan")}, "its confidence is no list of numbers"),
        ({"window": ...}, "its description has no window"),
        ({"format": ...}, "its description has no format"),
    ],
)
def test_a_wrong_description_says_so(tmp_path, values, words):
    meta, arrays = _stored()
    meta = {key: value for key, value in (meta | values).items() if value is not ...}
    with pytest.raises(ValueError) as caught:
        Tagger.load(_save(tmp_path / "bad.npz", meta, arrays))
    assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / "bad.npz")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("embedding", None, "it has no embedding"),
        ("0.up.bias", None, "it has no 0.up.bias"),
        ("0.qkv.weight", np.ones((8, 24), np.float32), "0.qkv.weight holds float32, not int8"),
        ("0.qkv.weight", np.ones((8, 8), np.int8), "0.qkv.weight has shape (8, 8), not (8, 24)"),
        ("0.up.weight", np.ones(8, np.int8), "0.up.weight has shape (8,), not (8, any)"),
        ("0.down.weight", np.ones((8, 8), np.int8), "0.down.weight has shape (8, 8), not (16, 8)"),
        ("shape", np.ones((6, 8)), "shape holds float64, not float32"),
        ("head.scale", np.full(9, np.nan, np.float32), "head.scale holds numbers that are not finite"),
        ("score", np.full(1, np.inf, np.float32), "score holds numbers that are not finite"),
    ],
)
def test_a_wrong_array_says_so(tmp_path, name, value, words):
    meta, arrays = _stored()
    arrays = {key: array for key, array in (arrays | {name: value}).items() if array is not None}
    with pytest.raises(ValueError) as caught:
        Tagger.load(_save(tmp_path / "bad.npz", meta, arrays))
    assert str(caught.value) == f"{tmp_path / 'bad.npz'} is not a tagger: {words}"


def test_bytes_that_are_no_tagger_say_so(tmp_path):
    good = _save(tmp_path / "good.npz", *_stored()).read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", meta=np.array([{}], object))
    np.savez(tmp_path / "text.npz", meta=np.frombuffer(b"{", np.uint8))
    np.savez(tmp_path / "list.npz", meta=np.frombuffer(b"[]", np.uint8))
    for content in (b"", b"hello", good[:200], good[:-30], (tmp_path / "array.npy").read_bytes(), (tmp_path / "objects.npz").read_bytes(),
                    (tmp_path / "text.npz").read_bytes(), (tmp_path / "list.npz").read_bytes(),
                    good.replace(b"\x01" * 24, b"\x02" * 24)):  # fmt: skip
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match="bad.npz is not a tagger: ") as caught:
            Tagger.load(tmp_path / "bad.npz")
        assert "pickle" not in str(caught.value) and "\n" not in str(caught.value)
