"""Sessions and transcripts with written text: the words stay, spans have times, live and offline agree."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import asr
import itn.normalizer
from asr.cli import main
from asr.decoding.results import WRITERS, Segment, Transcript, Word
from asr.errors import UserError
from asr.pretrained import list_pretrained
from asr.streaming import EndpointConfig, Final, Partial
from asr.streaming.written import as_normalizer, load_normalizer, written_transcript
from itn import Normalizer
from itn.stream import Span
from tests.itn.toy import DIGITS, ChanceTagger, RuleTagger, ToyTagger, write_profile
from tests.toy import babble, toy_recognizer

CUT = EndpointConfig(trailing_silence=0.4, max_segment=2.0)


def joined(finals, name):
    """The texts of segments, where no word of a number was cut in two."""
    return "".join(("" if final.continues else " ") + getattr(final, name) for final in finals).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_profile(tmp_path_factory.mktemp("itn") / "toy", {"number_threshold": 0})


def session_events(recognizer, audio, **options):
    session = recognizer.session(**options)
    events = []
    for block in np.array_split(audio, 40):
        events += session.accept(block)
    return events + session.finish()


@pytest.mark.parametrize("seed", [1, 2])
def test_sessions_write_what_the_normaliser_writes(tmp_path, seed):
    # what the toy recogniser says is babble, so the grammars are about babble
    tables = {"cardinal": {"n": "5", "fix": "6"}, "money": {"n n": "$55", "n": "$5", "tw n": "$1"}}
    tagger = ChanceTagger(tables, seed, 0.7)
    folder = write_profile(tmp_path / "toy", {"number_threshold": 0}, tables)
    normalizer = Normalizer(folder, tagger=tagger, lexicon={"ou n": "OUN"})
    recognizer, audio = toy_recognizer(), babble(12.0, seed=1)
    events = session_events(recognizer, audio, itn=normalizer, endpoint=CUT)
    plain = session_events(recognizer, audio, endpoint=CUT)
    assert [(event.text, event.words) for event in events] == [(event.text, event.words) for event in plain]
    assert all(event.written is None and event.shown == event.text for event in plain)
    finals = [event for event in events if isinstance(event, Final)]
    assert len(finals) > 2 and any(final.spans for final in finals)
    for final in finals:
        result = normalizer.normalize(final.text)
        assert final.written == final.shown == result.text
        assert tuple(replace(span, start_time=None, end_time=None) for span in final.spans) == result.spans
        for span in final.spans:
            words = final.words[span.start : span.end]
            assert " ".join(word.word for word in words) == span.spoken
            assert (span.start_time, span.end_time) == (words[0].start, words[-1].end)
    for event in events:
        if isinstance(event, Partial):
            stable = [word.word for word in event.words[: event.stable]]
            stream = normalizer.stream()
            stream.extend(stable)
            rest = [word.word for word in event.words[event.stable :]]
            assert event.written == event.shown == " ".join([stream.known, *rest]).strip()
            assert bool(event.written) == bool(event.text)  # never nothing while words are known
            assert event.written.startswith(stream.shown) and event.written.endswith(tuple(rest[-1:]) or stream.known)
    offline = recognizer.transcribe(audio, itn=normalizer, endpoint=CUT)[0]
    live = recognizer.transcribe(audio, itn=normalizer, endpoint=CUT, streaming=True)[0]
    assert offline.written == live.written == joined(finals, "written")
    assert offline.text == joined(finals, "text")
    assert [segment.spans for segment in offline.segments] == [final.spans for final in finals]
    for span in offline.spans:  # they count the words of the recording
        assert span.spoken == " ".join(word.word for word in offline.words[span.start : span.end])


WORDS = "it costs twenty five dollars and seven percent now".split()
SEGMENT = Segment.of([Word(word, i * 0.5, i * 0.5 + 0.4, 0.5) for i, word in enumerate(WORDS)])
AGAIN = Segment.of([Word("ten", 10.0, 10.4, 1.0), Word("people", 10.5, 11.0, 1.0)])


@pytest.fixture(scope="module")
def transcript(folder):
    normalizer = Normalizer(folder, tagger=RuleTagger())
    return written_transcript(normalizer, Transcript.of("a.wav", [SEGMENT, AGAIN], 12.0))


def test_writers_show_written_text(transcript):
    assert WRITERS["txt"].render([transcript]) == "it costs $25 and 7% now 10 people\n"
    assert WRITERS["txt"].render([transcript, transcript]).startswith("a.wav: it costs $25")
    assert WRITERS["srt"].render([transcript]).startswith("1\n00:00:00,000 --> 00:00:04,400\nit costs $25 and 7% now\n\n2\n")
    assert "10 people" in WRITERS["vtt"].render([transcript])
    assert WRITERS["ctm"].render([transcript]).split()[4] == "it" and "twenty" in WRITERS["ctm"].render([transcript])


def test_json(transcript):
    found = json.loads(WRITERS["json"].render([transcript]))
    assert set(found) == {"audio", "text", "spoken", "words", "spans", "segments"}
    assert found["text"] == "it costs $25 and 7% now 10 people" and found["spoken"] == " ".join([*WORDS, "ten", "people"])
    assert [word["word"] for word in found["words"]] == [*WORDS, "ten", "people"]
    assert found["spans"][0] == {
        "start": 2, "end": 5, "category": "money", "spoken": "twenty five dollars", "written": "$25",
        "start_time": 1.0, "end_time": 2.4,
    }  # fmt: skip
    assert found["spans"][2]["start"] == 9
    assert found["segments"][1] == {
        "text": "10 people", "spoken": "ten people", "start": 10.0, "end": 11.0, "closed": 0.0, "reason": "end",
    }  # fmt: skip


def test_no_subtitle_is_cut_inside_a_span():
    words = tuple(Word("number", i * 0.5, i * 0.5 + 0.4, 1.0) for i in range(40))
    spans = tuple(Span(i, i + 7, "cardinal", "x", f"<{i}>") for i in range(3, 33, 10))
    segment = Segment("x", 0.0, 20.0, words, "y", spans)
    cues = WRITERS["srt"].cues(Transcript.of("x", [segment]))
    assert " ".join(text for _, _, text in cues) == " ".join(text for text, _, _ in segment.pieces())
    for (start, end, _), (following, _, _) in zip(cues, cues[1:], strict=False):
        assert start < end <= following and end - start <= 6.0


def test_what_itn_may_be(folder, monkeypatch):
    normalizer = Normalizer(folder, tagger=RuleTagger())
    assert as_normalizer(None) is as_normalizer(False) is None and as_normalizer(normalizer) is normalizer
    for bad, words in ((7, "not a int"), ("no-such-profile", "no profile 'no-such-profile'")):
        with pytest.raises(UserError, match=words):
            toy_recognizer().session(itn=bad)
    monkeypatch.setattr(itn.normalizer, "_load_tagger", lambda tagger: RuleTagger())
    load_normalizer.cache_clear()
    assert as_normalizer(str(folder)) is as_normalizer(folder)
    load_normalizer.cache_clear()


def test_asr_does_not_load_itn_until_it_is_asked_for():
    program = "import sys, asr, asr.streaming, asr.cli\nprint([name for name in sys.modules if name.partition('.')[0] == 'itn'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class DigitStrings(ToyTagger):
    """Digits are telephone numbers."""

    def __init__(self):
        super().__init__(("telephone",))

    def probabilities(self, words, at, delay):
        p = np.full(3, 1e-6)
        inside = 0 <= at < len(words) and words[at] in DIGITS
        p[(2 if at and words[at - 1] in DIGITS else 1) if inside else 0] = 1.0
        return p / p.sum()


@pytest.mark.skipif("digits" not in list_pretrained(), reason="the digits model is not here yet")
def test_command_line(tmp_path, monkeypatch, capsys, request):
    audio = request.config.rootpath / "recipes/digits/demo/phone_number.flac"
    (plain,) = asr.load("digits").transcribe(audio)
    digits = "".join(str(DIGITS.index(word.word)) for word in plain.words)
    monkeypatch.setattr(itn.normalizer, "_load_tagger", lambda tagger: DigitStrings())
    monkeypatch.setattr(itn.normalizer, "PROFILES", tmp_path)
    for profile, sign in (("prose", "-"), ("nemo", "")):
        table = {" ".join(word.word for word in segment.words): sign.join(
            str(DIGITS.index(word.word)) for word in segment.words) for segment in plain.segments}  # fmt: skip
        write_profile(tmp_path / profile, tables={"telephone": table})
    monkeypatch.chdir(tmp_path)
    load_normalizer.cache_clear()

    def run(*arguments):
        status = main(["transcribe", "--model", "digits", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    try:
        for streaming in ([], ["--streaming"]):
            for arguments in (["--itn", audio], [audio, "--itn"], [audio, "--itn", "prose"], ["--itn=prose", audio]):
                status, out, err = run(*arguments, *streaming)
                assert (status, out.replace("-", "").replace(" ", "").strip(), err) == (0, digits, "") and "-" in out
            assert run(audio, "--itn", "nemo", *streaming)[1].replace(" ", "").strip() == digits
        status, out, err = run(audio, "--itn", "--streaming", "--partials")
        assert status == 0 and "final " in err and "-" in out
        found = json.loads(run(audio, "--itn", "--format", "json")[1])
        assert found["spoken"] == plain.text and found["spans"][0]["category"] == "telephone"
        (tmp_path / "mine.tsv").write_text("five\tV\n")
        assert "V" in run(audio, "--itn", "--itn-lexicon", "mine.tsv")[1]
        (tmp_path / "bad.tsv").write_text("five V\n")
        for arguments, words in (
            (["--itn", "--itn-lexicon", "bad.tsv"], "bad.tsv:1: no tab"),
            (["--itn-lexicon", "mine.tsv"], "--itn-lexicon needs --itn"),
            (["--itn=prosa"], "did you mean prose?"),
            (["--itn", "prosa"], "error: no such audio file: prosa; did you mean the profile prose?"),
            (["--itn", "nope.wav"], "nope.wav"),
        ):
            status, out, err = run(audio, *arguments)
            assert status == 2 and (out == "" or "nope.wav" in err) and words in err and err.count("\n") == 1
    finally:
        load_normalizer.cache_clear()
