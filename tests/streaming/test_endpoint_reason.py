"""Why a segment ended, told with it."""

from __future__ import annotations

from asr.streaming import EndpointConfig, Final
from asr.streaming.endpointing import Segmenter
from tests.toy import babble, toy_recognizer, toy_tokenizer


def test_each_rule_says_its_name():
    tokenizer = toy_tokenizer(True)
    piece = next(i for i, p in enumerate(tokenizer.pieces) if len(p) > 1 and tokenizer.is_word_start(i))
    segmenter = Segmenter(tokenizer, EndpointConfig(0.8, 2.0))
    found = []
    #         token at 5      silence from 10 on   25 words in a row: length        the rest: end
    frames = [(0, piece), (5, tokenizer.endpoint_id), (10, piece), *((f, piece) for f in range(40, 102, 3))]
    for frame, token in frames:
        found += segmenter.emit(frame, token, -0.1)
    found += segmenter.advance(101) + segmenter.flush(102)
    assert [segment.reason for segment in found] == ["token", "silence", "length", "end"]
    # too little speech for silence: a pause beyond the longest segment is a matter of length
    segmenter = Segmenter(tokenizer, EndpointConfig(0.8, 2.0, min_speech=1.0))
    assert segmenter.emit(0, piece, -0.1) == [] and segmenter.advance(49) == []
    assert [segment.reason for segment in segmenter.advance(50)] == ["length"]


def test_events_and_transcripts_have_the_reason():
    recognizer = toy_recognizer()
    audio = babble(6.0, seed=5)
    config = EndpointConfig(0.2, 1.5)
    offline = recognizer.transcribe(audio, endpoint=config)[0]
    session = recognizer.session(endpoint=config)
    finals = [event for event in session.accept(audio) + session.finish() if isinstance(event, Final)]
    assert [event.reason for event in finals] == [segment.reason for segment in offline.segments]
    assert [event.segment.reason for event in finals] == [event.reason for event in finals]
    assert {"silence", "length"} & {event.reason for event in finals} and finals[0].reason != "end"
