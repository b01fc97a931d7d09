"""The aligned paths of recipes/english: one symbol a frame, in order, inside the recording."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy import toy_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def onpath():
    paths = [str(ROOT / "recipes" / "english"), str(ROOT / "recipes" / "digits")]
    sys.path[:0] = paths
    import onpath as module

    yield module
    for path in paths:
        sys.path.remove(path)


def test_symbols_share_the_time_of_their_word(onpath):
    tokenizer = toy_tokenizer()
    pieces = tokenizer.encode("seven")
    tokens, frames = onpath.targets([["seven", 0.2, 1.0]], tokenizer, 50)
    assert tokens == pieces and len(pieces) > 1
    expected = [round((0.2 + 0.8 * i / len(pieces) + 0.04) * 25 - 0.5 + 0.499) for i in range(1, len(pieces) + 1)]
    assert all(abs(frame - goal) <= 1 for frame, goal in zip(frames, expected, strict=True))


def test_paths_are_in_order_and_inside(onpath):
    words = st.lists(st.tuples(st.sampled_from(["one", "two", "seven"]), st.floats(-0.2, 2.0), st.floats(0, 0.5)), max_size=6)

    @given(words, st.integers(1, 60))
    def check(said, count):
        said = sorted(said, key=lambda word: word[1])
        aligned = [(word, start, start + length) for word, start, length in said]
        found = onpath.targets(aligned, toy_tokenizer(), count)
        spelled = [token for word, *_ in said for token in toy_tokenizer().encode(word)]
        if found is None:
            assert not spelled or len(spelled) > count
        else:
            tokens, frames = found
            assert tokens == spelled
            assert all(a < b for a, b in zip(frames, frames[1:])) and 0 <= frames[0] and frames[-1] < count

    check()
