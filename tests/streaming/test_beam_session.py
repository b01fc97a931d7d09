"""Streams with a beam give the words of offline decoding; what was shown as settled stays."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.decoding.beam import SearchConfig
from asr.decoding.fusion import Fusion
from asr.errors import UserError
from asr.streaming import NO_ENDPOINT, EndpointConfig, Final, Partial
from tests.decoding.test_beam import Table
from tests.streaming.test_session import stream, times
from tests.toy import babble, cut_words, toy_recognizer, toy_tokenizer

KINDS = ["modified_beam", "beam"]


def recogniser(kind, predictor="lstm", seed=0):
    """A random model hardly emits with a beam: every symbol gets a bonus, beside a bigram of random numbers."""
    fusion = Table(toy_tokenizer().vocab_size, seed)
    fusion.table[:, 1:] += 4.0
    return toy_recognizer(predictor=predictor, search=SearchConfig(kind, beam=4, max_symbols=2), fusion=fusion)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_streams_of_different_ages_equal_offline_batches(kind, predictor):
    recognizer = recogniser(kind, predictor)
    audios = [babble(seconds, seed=i) for i, seconds in enumerate((3.3, 0.7, 2.9))]
    endpoint = EndpointConfig(trailing_silence=0.24, max_segment=1.2)
    for config in (endpoint, NO_ENDPOINT):
        offline = recognizer.transcribe(audios, endpoint=config)
        assert sum(len(t.words) for t in offline) > 12
        together = recognizer.transcribe(audios, streaming=True, parallel=2, endpoint=config)
        alone = [stream(recognizer, audio, [1777, 5000], endpoint=config)[0] for audio in audios]
        for a, b, c in zip(offline, together, alone, strict=True):
            assert times(cut_words(a)) == times(cut_words(b)) == times(c)
            assert [times(s.words) for s in a.segments] == [times(s.words) for s in b.segments]
    assert max(len(t.segments) for t in recognizer.transcribe(audios, endpoint=endpoint)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_stable_words_stay_and_finals_follow_partials(kind):
    recognizer = recogniser(kind)
    audio = babble(5.0, seed=1)
    words, events = stream(recognizer, audio, [2560], endpoint=EndpointConfig(trailing_silence=0.4))
    stable: list = []
    revised = shown = 0
    previous = ""
    for event in events:
        if isinstance(event, Final):
            assert times(event.words)[: len(stable)] == stable
            stable, previous = [], ""
        else:
            assert times(event.words)[: len(stable)] == stable
            stable = times(event.words)[: event.stable]
            revised += not event.text.startswith(previous)
            shown += 1
            previous = event.text
    assert shown > 5 and len(words) > 5
    assert any(isinstance(event, Partial) and len(event.words) > event.stable for event in events)


def together(recognizer, sessions, audio):
    """The events of sessions that hear the same audio, stepped as one batch."""
    found: list[list] = [[] for _ in sessions]
    for at in range(0, len(audio), 2560):
        for session in sessions:
            session.feed(audio[at : at + 2560])
        for i, events in enumerate(recognizer.step_sessions(sessions)):
            found[i] += events
    for i, session in enumerate(sessions):
        found[i] += session.finish()
    return found


def test_sessions_with_other_endpoints_share_a_batch():
    recognizer = recogniser("modified_beam")
    audio = babble(4.0, seed=2)
    configs = [EndpointConfig(trailing_silence=0.2), EndpointConfig(trailing_silence=0.6), NO_ENDPOINT]
    sessions = [recognizer.session(endpoint=config) for config in configs]
    for config, events in zip(configs, together(recognizer, sessions, audio), strict=True):
        segments = [times(event.words) for event in events if isinstance(event, Final)]
        assert segments == [times(s.words) for s in recognizer.transcribe(audio, endpoint=config)[0].segments]


def test_a_fusion_changes_the_words_the_same_way_in_streams():
    audio = babble(3.0, seed=3)
    plain, fused = recogniser("modified_beam"), recogniser("modified_beam", seed=3)
    offline = fused.transcribe(audio)[0]
    assert times(cut_words(offline)) != times(cut_words(plain.transcribe(audio)[0]))
    assert times(stream(fused, audio, [3000])[0]) == times(cut_words(offline))


def test_nbest_lists_and_what_needs_a_beam():
    recognizer = recogniser("beam")
    audio = babble(2.0, seed=4)
    (found,) = recognizer.nbest([audio])
    assert len(found) == 4 and [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    best = recognizer.tokenizer.decode(found[0].tokens)
    assert recognizer.transcribe(audio, endpoint=NO_ENDPOINT)[0].text == best
    with pytest.raises(UserError, match="n-best list needs"):
        toy_recognizer().nbest([audio])
    with pytest.raises(UserError, match="need a beam"):
        toy_recognizer(fusion=Fusion())
    with pytest.raises(UserError, match="need a beam"):
        toy_recognizer(search=SearchConfig(ilm_scale=0.2))


def test_nbest_and_encode_take_what_transcribe_takes(tmp_path):
    recognizer = recogniser("modified_beam")
    audio = np.round(babble(2.0, seed=4) * 32768).clip(-32768, 32767) / 32768
    samples = (audio * 32768).astype(np.int16)
    soundfile.write(tmp_path / "babble.wav", samples, 16000, "PCM_16")
    expected = recognizer.nbest([audio])
    stereo = np.stack([samples, samples], 1)
    for same in (audio, samples, [samples], (samples, 16000), [stereo], torch.from_numpy(audio), tmp_path / "babble.wav"):
        assert recognizer.nbest(same) == expected
        assert [segment.words for segment in recognizer.recognise(same)[0]] == [s.words for s in recognizer.recognise([audio])[0]]
        assert torch.equal(recognizer.encode(same)[0], recognizer.encode([audio])[0])
    assert recognizer.encode([samples, samples[:8000]])[1].tolist() == [50, 13]
    assert recognizer.nbest([]) == []
    with pytest.raises(UserError, match="no recording"):
        recognizer.encode([])
    with pytest.raises(UserError, match="transpose"):
        recognizer.nbest(np.stack([audio, audio]))
    with pytest.raises(UserError, match="object of type list"):
        recognizer.nbest([[0.1, 0.2]])
    with pytest.raises(UserError, match="audio-0: sample 3 .* not a finite number"):
        recognizer.nbest([np.array([0, 0, 0, np.nan], np.float32)])


def test_a_search_by_its_name():
    for search in (None, "greedy", "modified_beam", "beam"):
        assert toy_recognizer(search=search).search == SearchConfig(search or "greedy")
    assert toy_recognizer(search="beam", blank_penalty=0.5).blank_penalty == 0.5
    with pytest.raises(UserError, match="unknown search 'beem': use greedy, modified_beam, beam"):
        toy_recognizer(search="beem")
    with pytest.raises(UserError, match="search must be a SearchConfig or one of greedy"):
        toy_recognizer(search=4)
    with pytest.raises(UserError, match="unknown search 'beem'"):  # before the model is read
        asr.load("digits", search="beem")


def test_a_reset_predictor_starts_afresh():
    recognizer = recogniser("modified_beam")
    audio = np.concatenate([babble(2.0, seed=5), np.zeros(16000, np.float32), babble(2.0, seed=6)])
    endpoint = EndpointConfig(trailing_silence=0.2, reset_predictor=True)
    words, _ = stream(recognizer, audio, [1000], endpoint=endpoint)
    other, _ = stream(recognizer, audio, [16000, 77], endpoint=endpoint)
    assert times(words) == times(other) and words


def test_silence_holds_no_memory():
    recognizer = recogniser("modified_beam")
    session = recognizer.session(endpoint=EndpointConfig(trailing_silence=0.3, max_segment=1.0))
    for i in range(12):
        session.accept(babble(1.0, seed=i))
        session.accept(np.zeros(16000, np.float32))
    chain, count = session.history._heads[0], 0
    while chain is not None:
        chain, count = chain.before, count + 1
    assert count < 60  # of some hundred symbols


def biased(phrases=()):
    return toy_recognizer(search=SearchConfig("modified_beam", beam=4, blank_penalty=3.0), phrases=phrases)


PHRASES = {"nothing is lost": 4.0, "seven eight": 4.0, "stream": 6.0}


def test_phrases_are_followed_and_streams_agree():
    audio = babble(4.0, seed=8)
    plain, preferred = biased(), biased(PHRASES)
    offline = preferred.transcribe(audio)[0]
    assert times(cut_words(offline)) != times(cut_words(plain.transcribe(audio)[0]))
    assert times(stream(preferred, audio, [3000])[0]) == times(cut_words(offline))
    own, _ = stream(plain, audio, [3000], phrases=PHRASES)
    assert times(own) == times(cut_words(offline))


def test_sessions_with_phrases_of_their_own_share_a_batch_and_leave_nothing():
    recognizer = biased()
    audio = babble(4.0, seed=8)
    lists = [PHRASES, {"zero": 5.0}, None]
    sessions = [recognizer.session(phrases=phrases) for phrases in lists]
    for phrases, events in zip(lists, together(recognizer, sessions, audio), strict=True):
        found = [word for event in events if isinstance(event, Final) for word in event.words]
        assert times(found) == times(biased(phrases or ()).transcribe(audio)[0].words)
    held = len(recognizer.bias._held)
    del sessions
    gc.collect()
    assert len(recognizer.bias._held) == held - 2


def test_phrases_change_while_the_stream_goes_on():
    recognizer = biased()
    audio = babble(6.0, seed=8)
    session, half = recognizer.session(), 2560 * 18
    events = session.accept(audio[:half])
    before = [word.word for event in events for word in event.words[: event.stable]][-8:]
    session.set_phrases(PHRASES)
    events += session.accept(audio[half:])
    events += session.finish()
    words = times([word for event in events if isinstance(event, Final) for word in event.words])
    plain = times(cut_words(recognizer.transcribe(audio)[0]))
    assert words != plain and before
    same = [word for word in plain if word[2] < half / 16000 - 1.0]
    assert words[: len(same)] == same
    session = recognizer.session(phrases=PHRASES)
    session.accept(audio[:half])
    session.set_phrases([])  # and none any more: unfinished ones are taken back
    session.accept(audio[half:])
    assert session.finish() is not None


def test_phrases_need_a_beam_and_those_that_cannot_be_spelled_are_told(caplog):
    with pytest.raises(UserError, match="need a beam"):
        toy_recognizer(phrases=["seven"])
    plain = recogniser("modified_beam")
    with pytest.raises(UserError, match="load the model with a beam and phrases"):
        plain.session(phrases=["seven"])
    graph = biased().session().set_phrases(["seven", "東京"])
    assert list(graph.refused) == ["東京"] and "東京" in caplog.text
