"""Segments: nothing lost, nothing doubled, the same cuts for any chunk."""

from __future__ import annotations

import pytest

from asr.errors import UserError
from asr.streaming import NO_ENDPOINT, EndpointConfig
from asr.streaming.endpointing import Segmenter
from tests.toy import babble, toy_recognizer, toy_tokenizer


def run(events, last, config, step=1):
    """Segments of (frame, text) words whose frames are told ``step`` frames at a time."""
    tokenizer = toy_tokenizer()
    segmenter = Segmenter(tokenizer, config)
    at = {}
    for frame, text in events:
        for i, token in enumerate(tokenizer.encode(text)):
            at[frame + i] = token
    segments = []
    for begin in range(0, last, step):
        for frame in range(begin, begin + step):
            if frame in at:
                segments += segmenter.emit(frame, at[frame], -0.1)
        segments += segmenter.advance(begin + step - 1)
    return [segment.text for segment in segments + segmenter.flush()]


@pytest.mark.parametrize("step", [1, 4, 16])
def test_silence_after_a_word_ends_a_segment(step):
    spoken = [(0, "one"), (12, "two"), (60, "three")]
    assert run(spoken, 160, EndpointConfig(0.8, None), step) == ["one two", "three"]
    assert run(spoken, 160, EndpointConfig(3.0, None), step) == ["one two three"]
    assert run(spoken, 160, NO_ENDPOINT, step) == ["one two three"]


def test_silence_is_counted_from_the_last_symbol_and_ends_with_the_exact_frame():
    tokenizer = toy_tokenizer()
    token = next(i for i in range(1, tokenizer.vocab_size) if len(tokenizer.pieces[i]) > 1)
    segmenter = Segmenter(tokenizer, EndpointConfig(0.8, None))
    assert segmenter.advance(1000) == []  # silence before any word ends nothing
    assert segmenter.emit(1000, token, 0.0) == []
    assert segmenter.advance(1019) == []
    assert len(segmenter.advance(1020)) == 1 and segmenter.advance(2000) == []


@pytest.mark.parametrize("step", [1, 4])
def test_long_segments_are_cut_between_words(step):
    spoken = [
        (8 * i, word) for i, word in enumerate("one two three four five six seven eight nine zero".split())
    ]
    found = run(spoken, 100, EndpointConfig(None, 1.0), step)
    assert len(found) > 2
    assert " ".join(found) == "one two three four five six seven eight nine zero"


def test_a_pause_ends_a_segment_that_is_too_long():
    assert run([(0, "one"), (30, "two")], 500, EndpointConfig(None, 1.0)) == ["one", "two"]


def test_an_endless_word_is_cut_at_twice_the_length():
    tokenizer = toy_tokenizer()
    middle = next(i for i in range(1, tokenizer.vocab_size) if not tokenizer.is_word_start(i))
    segmenter = Segmenter(tokenizer, EndpointConfig(None, 1.0))
    segments = [segment for frame in range(500) for segment in segmenter.emit(frame, middle, 0.0)]
    text = "".join(segment.text for segment in segments + segmenter.flush())
    assert len(segments) == 9 and text == tokenizer.decode([middle] * 500).replace(" ", "")


def test_cutting_changes_no_word():
    recognizer = toy_recognizer()
    audio = babble(8.0, seed=2)
    whole = recognizer.transcribe(audio, endpoint=NO_ENDPOINT)[0]
    for config in (EndpointConfig(), EndpointConfig(0.08, 2.0), EndpointConfig(None, 0.5)):
        cut = recognizer.transcribe(audio, streaming=True, endpoint=config)[0]
        assert "".join(w.word for w in cut.words) == "".join(w.word for w in whole.words)
        assert cut.text == " ".join(segment.text for segment in cut.segments)
        assert all(a.end <= b.start for a, b in zip(cut.segments, cut.segments[1:], strict=False))
    assert len(cut.segments) > 3


def test_bad_numbers():
    with pytest.raises(UserError, match="trailing_silence"):
        EndpointConfig(trailing_silence=0.0)
    with pytest.raises(UserError, match="max_segment"):
        EndpointConfig(max_segment=float("nan"))
    with pytest.raises(UserError, match="max_segment.* finite"):
        EndpointConfig(max_segment=float("inf"))
