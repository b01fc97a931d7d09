"""Words from symbols, and the five formats."""

from __future__ import annotations

import json

import pytest

from asr.decoding.results import WRITERS, Segment, Transcript, Word, clock
from asr.decoding.words import WordBuilder
from tests.toy import toy_tokenizer

FIRST = Segment.of([Word("hello", 0.4, 0.64, 0.91234567), Word("there", 0.8, 1.0, 0.5)])
SECOND = Segment.of([Word("again", 3661.0, 3661.04, 1.0)])
TRANSCRIPT = Transcript.of("a b/take one.wav", [FIRST, SECOND], duration=3700.0)


def test_txt():
    assert WRITERS["txt"].render([TRANSCRIPT]) == "hello there again\n"
    empty = Transcript.of("x.wav", [])
    assert WRITERS["txt"].render([empty]) == "\n"
    assert WRITERS["txt"].render([TRANSCRIPT, empty]) == "a b/take one.wav: hello there again\nx.wav:\n"


def test_json_has_exactly_the_documented_keys():
    found = json.loads(WRITERS["json"].render([TRANSCRIPT]))
    assert set(found) == {"audio", "text", "words", "segments"}
    assert found["words"][0] == {"word": "hello", "start": 0.4, "end": 0.64, "confidence": 0.9123}
    assert found["segments"][1] == {"text": "again", "start": 3661.0, "end": 3661.04, "closed": 0.0, "reason": "end"}
    assert json.loads(WRITERS["json"].render([TRANSCRIPT], several=True)) == [found]
    assert len(json.loads(WRITERS["json"].render([TRANSCRIPT, TRANSCRIPT]))) == 2


def test_srt_and_vtt():
    assert WRITERS["srt"].render([TRANSCRIPT]) == (
        "1\n00:00:00,400 --> 00:00:01,000\nhello there\n\n2\n01:01:01,000 --> 01:01:01,500\nagain\n\n"
    )
    assert (
        WRITERS["vtt"]
        .render([TRANSCRIPT])
        .startswith("WEBVTT\n\n00:00:00.400 --> 00:00:01.000\nhello there\n\n")
    )
    with pytest.raises(ValueError, match="one recording"):
        WRITERS["srt"].render([TRANSCRIPT, TRANSCRIPT])


def test_subtitles_of_a_recording_without_a_word():
    silence = Transcript.of("x.wav", [])
    assert WRITERS["srt"].render([silence]) == ""
    assert WRITERS["vtt"].render([silence]) == "WEBVTT\n\n"


def test_subtitles_are_cut_between_words_and_never_overlap():
    words = [Word("word" * 3, i * 0.5, i * 0.5 + 0.3, 1.0) for i in range(60)]
    cues = WRITERS["srt"].cues(Transcript.of("x", [Segment.of(words)]))
    assert " ".join(text for _, _, text in cues) == " ".join(word.word for word in words)
    for (start, end, text), (following, _, _) in zip(cues, cues[1:], strict=False):
        assert start < end <= following and len(text) <= 84 and end - start <= 6.0


def test_ctm():
    assert WRITERS["ctm"].render([TRANSCRIPT]).splitlines() == [
        "take_one 1 0.40 0.24 hello 0.9123",
        "take_one 1 0.80 0.20 there 0.5000",
        "take_one 1 3661.00 0.04 again 1.0000",
    ]


def test_clock_rounds_to_milliseconds():
    assert clock(0.0004, ",") == "00:00:00,000"
    assert clock(59.9996, ".") == "00:01:00.000"


def test_words_from_pieces():
    tokenizer = toy_tokenizer()
    builder = WordBuilder(tokenizer)
    assert not builder and builder.words() == ()
    for i, token in enumerate(tokenizer.encode("seven eight zero")):
        builder.add(token, 10 + 2 * i, -0.1)
    words = builder.words()
    assert [word.word for word in words] == ["seven", "eight", "zero"]
    assert words[0].start == 0.4 and all(w.start < w.end for w in words)
    assert all(a.end <= b.start for a, b in zip(words, words[1:], strict=False))
    assert words[0].confidence == pytest.approx(0.904837, abs=1e-5)
    assert len(builder.done) == 2
    assert builder.take() == words and not builder


def test_a_stream_may_open_in_the_middle_of_a_word():
    tokenizer = toy_tokenizer()
    middle = next(i for i in range(1, tokenizer.vocab_size) if not tokenizer.is_word_start(i))
    builder = WordBuilder(tokenizer)
    builder.add(middle, 0, 0.0)
    assert [word.word for word in builder.words()] == [tokenizer.decode([middle])]
