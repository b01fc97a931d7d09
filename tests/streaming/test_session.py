"""Streaming gives the words of offline decoding, whatever the blocks, the batch and the age of the stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.beam import SearchConfig
from asr.errors import UserError
from asr.streaming import NO_ENDPOINT, EndpointConfig, Final, Partial, Recognizer
from tests.toy import babble, cut_words, toy_recognizer


def times(words):
    return [(word.word, word.start, word.end) for word in words]


def stream(recognizer, audio, sizes, rate=16000, **options):
    """The words and all events of one session; block sizes are used round and round."""
    session = recognizer.session(**options)
    events, at, turn = [], 0, 0
    while at < len(audio):
        size = sizes[turn % len(sizes)]
        events += session.accept(audio[at : at + size], rate)
        at, turn = at + size, turn + 1
    events += session.finish()
    assert session.finished and session.finish() == []
    return [word for event in events if isinstance(event, Final) for word in event.words], events


AUDIO = babble(6.0, seed=1)


@settings(max_examples=12)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=4), st.integers(0, len(AUDIO)))
def test_any_block_size_and_length_equals_offline(sizes, length):
    recognizer = toy_recognizer()
    audio = AUDIO[:length]
    if max(sizes) < 100:
        sizes = [*sizes, 3000]  # thousands of tiny blocks say nothing new
    offline = recognizer.transcribe(audio)[0]
    words, _ = stream(recognizer, audio, sizes)
    assert times(words) == times(cut_words(offline))
    assert [w.confidence for w in words] == pytest.approx([w.confidence for w in cut_words(offline)], abs=1e-3)


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@pytest.mark.parametrize("memory", [0, 2])
def test_offline_batches_equal_streams_of_different_ages(predictor, memory):
    recognizer = toy_recognizer(predictor=predictor, memory=memory)
    audios = [babble(seconds, seed=i) for i, seconds in enumerate((3.3, 0.7, 5.0, 1.9, 2.6))]
    offline = recognizer.transcribe(audios)
    assert sum(len(cut_words(t)) for t in offline) > 20
    together = recognizer.transcribe(audios, streaming=True, parallel=3)
    alone = [stream(recognizer, audio, [1777])[0] for audio in audios]
    for a, b, c in zip(offline, together, alone, strict=True):
        assert times(cut_words(a)) == times(cut_words(b)) == times(c)
        assert [times(s.words) for s in a.segments] == [times(s.words) for s in b.segments]


def test_sessions_join_and_leave_a_batch():
    """Random audio for random subsets: batches are regrouped all the time."""
    recognizer = toy_recognizer()
    rng = np.random.default_rng(5)
    audios = [babble(2.0 + i, seed=20 + i) for i in range(5)]
    sessions = [recognizer.session() for _ in audios]
    at = [0] * len(audios)
    words = [[] for _ in audios]
    while not all(session.finished for session in sessions):
        for i in rng.permutation(len(audios))[:3]:
            if at[i] >= len(audios[i]):
                sessions[i].end()
            else:
                size = int(rng.integers(1, 8000))
                sessions[i].feed(audios[i][at[i] : at[i] + size])
                at[i] += size
        order = rng.permutation(len(audios))
        for i, events in zip(order, recognizer.step_sessions([sessions[i] for i in order]), strict=True):
            words[i] += [word for event in events if isinstance(event, Final) for word in event.words]
    for found, audio in zip(words, audios, strict=True):
        assert times(found) == times(cut_words(recognizer.transcribe(audio)[0]))
    assert all(session.states is None for session in sessions)


def test_int16_bytes_float64_tensor_and_stereo_are_the_same_stream():
    recognizer = toy_recognizer()
    pcm = np.round(babble(2.0, seed=3) * 32767).astype(np.int16)
    expected = times(stream(recognizer, pcm, [4000])[0])
    assert expected
    real = pcm / 32768
    for same in (real, real.astype(np.float32), torch.from_numpy(pcm), np.stack([pcm, pcm], 1)):
        assert times(stream(recognizer, same, [4000])[0]) == expected
    assert times(stream(recognizer, pcm.tobytes(), [4001])[0]) == expected  # samples split between blocks


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_do_not_depend_on_blocks(rate):
    recognizer = toy_recognizer()
    audio = babble(2.0, seed=4, rate=rate)
    expected = times(stream(recognizer, audio, [len(audio)], rate)[0])
    assert expected and times(stream(recognizer, audio, [999, 5, 12000], rate)[0]) == expected
    assert times(cut_words(recognizer.transcribe((audio, rate))[0])) == expected


def test_finish_pads_so_that_the_last_frames_are_decoded():
    """Symbols of the last 50 ms are there, for every length of the stream around the chunk grid."""
    recognizer = toy_recognizer(emit=0.6)
    late = 0
    for length in range(16000, 16000 + 2560, 333):
        audio = babble(2.0, seed=6)[:length]
        words, _ = stream(recognizer, audio, [1600], endpoint=NO_ENDPOINT)
        encoded, lengths = recognizer.encode([audio])
        assert times(words) == times(cut_words(recognizer.transcribe(audio, endpoint=NO_ENDPOINT)[0]))
        frames = int(lengths[0])
        assert frames == -(-((length + 80) // 160) // 4)
        late += words[-1].end > length / 16000 - 0.05
    assert late >= 3


def test_partials_grow_and_only_the_last_word_changes():
    recognizer = toy_recognizer()
    _, events = stream(recognizer, AUDIO, [2560])
    partials = [event for event in events if isinstance(event, Partial)]
    assert len(partials) > 5
    before = None
    for event in events:
        assert event.text == " ".join(word.word for word in event.words)
        if isinstance(event, Partial):
            assert len(event.words) - event.stable in (0, 1)
        if before is not None:
            assert times(event.words[: before.stable]) == times(before.words[: before.stable])
        before = event if isinstance(event, Partial) else None
    _, events = stream(recognizer, AUDIO, [2560], partials=False)
    assert all(isinstance(event, Final) for event in events)


def test_silence_nothing_and_two_samples():
    recognizer = toy_recognizer()
    for audio in (
        np.zeros(0, np.float32),
        np.zeros(2, np.int16),
        np.ones(2, np.float32),
        np.zeros(30000, np.float32),
    ):
        words, _ = stream(recognizer, audio, [700])
        assert times(words) == times(cut_words(recognizer.transcribe(audio)[0]))
    assert recognizer.session().finish() == []
    loud = np.sign(babble(1.0)).astype(np.float32)  # clipped to the last bit
    assert times(stream(recognizer, loud, [700])[0]) == times(cut_words(recognizer.transcribe(loud)[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_samples_are_refused_and_the_session_lives_on(bad):
    recognizer = toy_recognizer()
    session = recognizer.session()
    events = session.accept(AUDIO[:32000])
    broken = AUDIO[32000:40000].copy()
    broken[123] = bad
    with pytest.raises(UserError, match="sample 32123"):
        session.accept(broken)
    events += session.accept(AUDIO[32000:]) + session.finish()
    words = [word for event in events if isinstance(event, Final) for word in event.words]
    assert times(words) == times(cut_words(recognizer.transcribe(AUDIO)[0]))


def test_refusals():
    recognizer = toy_recognizer()
    session = recognizer.session()
    with pytest.raises(UserError, match="resample"):
        session.accept(AUDIO, rate=0)
    session.accept(AUDIO[:1000], 8000)
    with pytest.raises(UserError, match="rate"):
        session.accept(AUDIO[:1000], 16000)
    with pytest.raises(UserError, match="channels of a session cannot change: it was 1, now 2"):
        session.accept(np.zeros((10, 2), np.float32), 8000)
    with pytest.raises(UserError, match="shape"):
        session.accept(np.zeros((1, 1000), np.float32), 8000)  # torchaudio's (channels, samples)
    with pytest.raises(UserError, match="type"):
        session.accept(np.zeros(10, np.complex64), 8000)
    session.finish()
    with pytest.raises(UserError, match="finished"):
        session.accept(AUDIO[:1000], 8000)


def test_a_reused_buffer_is_copied():
    recognizer = toy_recognizer()
    session = recognizer.session()
    buffer = np.zeros(1000, np.float32)
    events = []
    for i in range(0, 32000, 1000):
        buffer[:] = AUDIO[i : i + 1000]
        events += session.accept(buffer)
    events += session.finish()
    words = [word for event in events if isinstance(event, Final) for word in event.words]
    assert times(words) == times(cut_words(recognizer.transcribe(AUDIO[:32000])[0]))


def test_a_session_does_not_grow():
    """Everything reachable from a session stays as large as it was after the first half."""
    recognizer = toy_recognizer()
    session = recognizer.session()

    def size():
        seen, total, todo = set(), 0, [session.__dict__]
        while todo:
            item = todo.pop()
            if id(item) in seen or item is recognizer:
                continue
            seen.add(id(item))
            if isinstance(item, torch.Tensor):
                total += item.untyped_storage().nbytes()
            elif isinstance(item, dict):
                todo += item.values()
            elif isinstance(item, list | tuple):
                total += len(item)
                todo += item
            elif hasattr(item, "__dict__") and type(item).__module__.startswith("asr.streaming"):
                todo.append(item.__dict__)
            elif type(item).__name__ == "WordBuilder":
                todo.append({k: v for k, v in item.__dict__.items() if k != "tokenizer"})
        return total

    sizes = []
    for _ in range(20):
        session.accept(AUDIO[:40000])
        sizes.append(size())
    assert max(sizes[10:]) <= 1.05 * max(sizes[:10])


def test_long_recordings_are_streamed_with_the_same_words():
    recognizer = toy_recognizer()
    audios = [babble(3.0, seed=30), babble(7.0, seed=31), babble(2.0, seed=32)]
    short = recognizer.transcribe(audios, batch_seconds=4.0)
    assert [times(cut_words(t)) for t in short] == [times(cut_words(t)) for t in recognizer.transcribe(audios)]
    assert [t.duration for t in short] == [3.0, 7.0, 2.0]


def test_endpoint_token_ends_a_segment_and_is_no_word():
    recognizer = toy_recognizer(endpoint=True)
    with torch.no_grad():
        recognizer.model.joiner.output.bias[-1] += 25.0
    try:
        offline = recognizer.transcribe(AUDIO, endpoint=NO_ENDPOINT)[0]
        assert len(offline.segments) > 2 and "<eou>" not in offline.text
        words, _ = stream(recognizer, AUDIO, [900], endpoint=NO_ENDPOINT)
        assert times(words) == times(cut_words(offline))
    finally:
        with torch.no_grad():
            recognizer.model.joiner.output.bias[-1] -= 25.0


def test_resetting_the_predictor_is_the_same_in_files_and_sessions():
    recognizer = toy_recognizer()
    endpoint = EndpointConfig(trailing_silence=0.2, max_segment=1.0, reset_predictor=True)
    offline = recognizer.transcribe([AUDIO, AUDIO[:40000]], endpoint=endpoint)
    assert times(stream(recognizer, AUDIO, [555], endpoint=endpoint)[0]) == times(cut_words(offline[0]))
    plain = recognizer.transcribe(AUDIO, endpoint=EndpointConfig(0.2, 1.0))[0]
    assert times(plain.words) != times(cut_words(offline[0]))  # the option does something


@pytest.mark.parametrize("search", [SearchConfig(), SearchConfig("modified_beam", beam=3)])
def test_nothing_is_reset_under_words_that_have_begun(search, monkeypatch):
    """A segment may begin in the chunk in which the one before it ended: its words need their own beginning as context."""
    speaking = []
    reset = Recognizer._reset

    def spy(self, state, rows, sessions):
        speaking.extend(bool(session._segmenter.current) for session in sessions)
        return reset(self, state, rows, sessions)

    monkeypatch.setattr(Recognizer, "_reset", spy)
    endpoint = EndpointConfig(trailing_silence=0.2, max_segment=1.0, reset_predictor=True)
    found = toy_recognizer(search=search).transcribe(babble(8.0, seed=2), endpoint=endpoint, streaming=True)[0]
    assert len(found.segments) > len(speaking) > 0 and not any(speaking)


def test_channels_are_those_of_the_first_audio():
    recognizer = toy_recognizer()
    stereo = np.stack([AUDIO, AUDIO], 1)
    session = recognizer.session()
    assert session.accept(np.zeros(0, np.float32)) == []  # says nothing about channels
    session.accept(stereo[:1600])
    with pytest.raises(UserError, match="it was 2, now 1"):
        session.accept(AUDIO[1600:3200])  # not taken for interleaved samples
    assert recognizer.transcribe(torch.from_numpy(AUDIO).bfloat16())[0].words


def test_what_cannot_be_transcribed_is_said():
    recognizer = toy_recognizer()
    for bad in (None, 5, [0.1, 0.2]):
        with pytest.raises(UserError, match="cannot transcribe an object of type"):
            recognizer.transcribe(bad)
    for bad in ((AUDIO, 0), (AUDIO, -1)):
        with pytest.raises(UserError, match="cannot resample"):
            recognizer.transcribe(bad)
    for bad in (np.float32(1.0), AUDIO[None], AUDIO[None, None]):
        with pytest.raises(UserError, match="must be of shape"):
            recognizer.transcribe(bad)
    expected = recognizer.transcribe(AUDIO)
    for rate in (16000, 16000.0, np.int64(16000)):
        assert recognizer.transcribe((AUDIO, rate)) == expected
    with pytest.raises(UserError, match="blank_penalty"):
        toy_recognizer(blank_penalty=float("nan"))
