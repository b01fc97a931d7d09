"""Segments: nothing lost, nothing doubled, the same cuts for any chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asr.decoding.results import WRITERS, Segment, Transcript, Word
from asr.errors import UserError
from asr.streaming import NO_ENDPOINT, EndpointConfig
from asr.streaming.endpointing import Segmenter
from itn.stream import Span
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
    return [segment.text for segment in segments + segmenter.flush(1000)]


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
    text = "".join(segment.text for segment in segments + segmenter.flush(10000))
    assert len(segments) == 9 and text == tokenizer.decode([middle] * 500).replace(" ", "")


def test_cutting_changes_no_word():
    recognizer = toy_recognizer()
    audio = babble(8.0, seed=2)
    whole = recognizer.transcribe(audio, endpoint=NO_ENDPOINT)[0]
    inside = 0
    for config in (EndpointConfig(), EndpointConfig(0.08, 2.0), EndpointConfig(None, 0.5)):
        cut = recognizer.transcribe(audio, streaming=True, endpoint=config)[0]
        assert cut.text == whole.text
        assert [(w.word, w.end) for w in cut.words] == [(w.word, w.end) for w in whole.words]  # a lone boundary piece is no start
        inside += sum(segment.continues for segment in cut.segments)
        text = "".join(("" if segment.continues else " ") + segment.text for segment in cut.segments)
        assert cut.text == text.strip() and not cut.segments[0].continues
        assert all(a.end <= b.start for a, b in zip(cut.segments, cut.segments[1:], strict=False))
    assert len(cut.segments) > 3 and inside > 0


def word_piece(tokenizer):
    """A token that is text on its own and begins a word."""
    return next(i for i, p in enumerate(tokenizer.pieces) if len(p) > 1 and tokenizer.is_word_start(i))


def symbols(config, emissions, last, endpoint=True, step=1):
    """Texts of the segments of (frame, token or "<eou>", log-probability) emissions."""
    tokenizer = toy_tokenizer(endpoint)
    segmenter = Segmenter(tokenizer, config)
    at = {f: (tokenizer.endpoint_id if t == "<eou>" else t, p) for f, t, p in emissions}
    segments = []
    for begin in range(0, last, step):
        for frame in range(begin, begin + step):
            if frame in at:
                segments += segmenter.emit(frame, *at[frame])
        segments += segmenter.advance(begin + step - 1)
    return [(segment.text, segment.end) for segment in segments + segmenter.flush(1000)]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_silence_does_not_end_a_segment_with_too_little_speech(step):
    spoken = [(0, "one"), (60, "two"), (100, "three"), (160, "four")]
    # "one" alone takes less than 0.5 s; with "two" it is 2.4 s and more
    config = EndpointConfig(0.8, None, min_speech=0.5)
    assert run(spoken, 250, config, step) == ["one two", "three four"]
    assert run(spoken, 250, EndpointConfig(0.8, None), step) == ["one", "two", "three", "four"]
    # a short one does not wait for ever: the longest segment bounds it, and the end of the stream gives what is left
    assert run(spoken, 250, EndpointConfig(0.8, 1.2, min_speech=1.0), step) == ["one", "two", "three", "four"]
    assert run(spoken[:1], 250, config, step) == ["one"]


def test_minimum_speech_is_counted_from_the_first_to_the_last_symbol():
    tokenizer = toy_tokenizer()
    piece = word_piece(tokenizer)
    for gap, ended in ((11, 0), (12, 1)):  # 12 and 13 frames from the start of the first to the end of the last symbol
        segmenter = Segmenter(tokenizer, EndpointConfig(0.8, None, min_speech=0.52))
        assert segmenter.emit(100, piece, 0.0) + segmenter.emit(100 + gap, piece, 0.0) == []
        assert len(segmenter.advance(100 + gap + 19)) == 0
        assert len(segmenter.advance(100 + gap + 20)) == ended


@pytest.mark.parametrize("step", [1, 4])
def test_the_token_counts_when_it_is_sure(step):
    piece = word_piece(toy_tokenizer(True))
    emissions = [(0, piece, -0.1), (5, "<eou>", -1.0), (8, piece, -0.1), (30, "<eou>", -0.2), (31, "<eou>", -0.1)]
    silent = {"trailing_silence": None, "max_segment": None}
    found = {
        threshold: len(symbols(EndpointConfig(**silent, token_threshold=threshold), emissions, 60, step=step))
        for threshold in (0.0, 0.3, 0.5, 0.9)
    }
    assert found == {0.0: 2, 0.3: 2, 0.5: 1, 0.9: 1}  # exp(-1) = 0.37, exp(-0.2) = 0.82
    assert len(symbols(EndpointConfig(**silent, use_token=False), emissions, 60, step=step)) == 1
    # an unsure token is no word and does not put silence off: 20 frames after the word at frame 8
    late = [*emissions[2:3], (20, "<eou>", -1.0), (29, piece, -0.1)]
    ends = [end for _, end in symbols(EndpointConfig(0.8, None, token_threshold=0.9), late, 60, step=step)]
    assert ends == pytest.approx([9 * 0.04, 30 * 0.04])


def test_the_token_ends_a_segment_however_short():
    piece = word_piece(toy_tokenizer(True))
    emissions = [(0, piece, -0.1), (1, "<eou>", -0.1), (2, piece, -0.1)]
    assert len(symbols(EndpointConfig(0.8, 20.0, min_speech=5.0), emissions, 40)) == 2


def test_every_rule_loses_and_doubles_nothing():
    recognizer = toy_recognizer(endpoint=True)
    audio = babble(8.0, seed=4)
    with torch.no_grad():
        recognizer.model.joiner.output.bias[-1] += 22.0
    try:
        never = EndpointConfig(None, None, use_token=False)
        whole = recognizer.transcribe(audio, endpoint=never)[0]
        assert len(whole.segments) == 1
        counts = []
        for config in (
            EndpointConfig(0.2, 2.0, min_speech=0.4, token_threshold=0.5),
            EndpointConfig(0.2, 2.0, min_speech=0.4, use_token=False),
            EndpointConfig(None, None, token_threshold=0.2),
        ):
            offline = recognizer.transcribe(audio, endpoint=config)[0]
            live = recognizer.transcribe(audio, streaming=True, endpoint=config)[0]
            assert [(s.text, s.start, s.end) for s in offline.segments] == [
                (s.text, s.start, s.end) for s in live.segments
            ]
            assert [s.continues for s in offline.segments] == [s.continues for s in live.segments]
            assert [w.word for w in live.words] == [w.word for w in whole.words] and live.text == whole.text
            counts.append(len(live.segments))
        assert min(counts) > 1
    finally:
        with torch.no_grad():
            recognizer.model.joiner.output.bias[-1] -= 22.0


def test_bad_numbers():
    with pytest.raises(UserError, match="trailing_silence"):
        EndpointConfig(trailing_silence=0.0)
    with pytest.raises(UserError, match="max_segment"):
        EndpointConfig(max_segment=float("nan"))
    with pytest.raises(UserError, match="max_segment.* finite"):
        EndpointConfig(max_segment=float("inf"))
    with pytest.raises(UserError, match="min_speech"):
        EndpointConfig(min_speech=-1.0)
    with pytest.raises(UserError, match="no silence would ever"):
        EndpointConfig(max_segment=1.0, min_speech=2.0)
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="token_threshold"):
            EndpointConfig(token_threshold=threshold)


def inside_piece(tokenizer):
    """A token of letters that goes on with a word."""
    return next(i for i, p in enumerate(tokenizer.pieces) if i and p.isalpha() and not tokenizer.is_word_start(i))


def test_silence_inside_a_word_is_told_and_joined():
    tokenizer = toy_tokenizer()
    start, inside = word_piece(tokenizer), inside_piece(tokenizer)
    begun, rest = tokenizer.decode([start]), tokenizer.decode([inside])
    config = EndpointConfig(0.4, None)
    segmenter = Segmenter(tokenizer, config)
    segments = []
    for frame, token in ((0, inside), (20, start), (40, inside), (41, inside), (60, start), (61, start)):
        segments += segmenter.advance(frame - 1)
        assert segmenter.continues_with(token) == (frame in (40, 41))
        segments += segmenter.emit(frame, token, -0.1 * frame)
    segments += segmenter.flush(100)
    assert [s.text for s in segments] == [rest, begun, rest + rest, f"{begun} {begun}"]
    assert [s.continues for s in segments] == [False, False, True, False]  # nothing comes before the first
    whole = Transcript.of("a", segments)
    assert whole.text == f"{rest} {begun}{rest}{rest} {begun} {begun}" == " ".join(w.word for w in whole.words)
    assert (whole.words[1].start, whole.words[1].end) == (pytest.approx(0.8), pytest.approx(42 * 0.04))
    assert whole.words[1].confidence == min(segments[1].words[0].confidence, segments[2].words[0].confidence)
    assert [s.get("continues") for s in whole.to_dict()["segments"]] == [None, None, True, None]
    cues = WRITERS["srt"].cues(whole)
    assert [text for *_, text in cues] == [rest, begun + rest + rest, f"{begun} {begun}"]


def test_a_boundary_piece_before_the_silence_begins_the_next_word():
    tokenizer = toy_tokenizer()
    boundary = tokenizer.pieces.index("\u2581")
    start, inside = word_piece(tokenizer), inside_piece(tokenizer)
    segmenter = Segmenter(tokenizer, EndpointConfig(0.4, None))
    segments = []
    for frame, token in ((0, start), (1, boundary), (30, inside), (60, boundary), (90, inside)):
        segments += segmenter.emit(frame, token, 0.0)
    segments += segmenter.flush(100)
    assert [s.continues for s in segments] == [False, False, False]
    assert len(Transcript.of("a", segments).words) == 3


def test_a_number_that_was_written_is_not_joined():
    """Written forms replace their words: the rest of a word stays one of its own there."""
    words = [Word(word, at, at + 0.5, 0.9) for at, word in enumerate(("it", "is", "six", "ty", "one"))]
    six = Span(2, 3, "cardinal", "six", "6", 2.0, 2.5)
    first = replace(Segment.of(words[:3]), written="it is 6", spans=(six,))
    second = replace(Segment.of(words[3:]), written="ty one", continues=True)
    joined = Transcript.of("a", [first, second])
    assert (joined.written, joined.text) == ("it is 6 ty one", "it is six ty one") and joined.spans == (six,)
    assert [text for *_, text in WRITERS["srt"].cues(joined)] == ["it is 6", "ty one"]
    plain = Transcript.of("a", [replace(first, written="it is six", spans=()), second])
    assert (plain.written, plain.text, len(plain.words)) == ("it is sixty one", "it is sixty one", 4)
