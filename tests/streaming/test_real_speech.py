"""Real recordings: streaming equals offline, and no last word is lost."""

from __future__ import annotations

import numpy as np
import pytest

import asr
from asr.audio import load_audio
from asr.pretrained import list_pretrained
from asr.scoring.calibration import normalised_cross_entropy
from asr.scoring.manifest import read_manifest
from asr.streaming import Details, Final
from asr.training.confidence import label_words
from tests.toy import cut_words, toy_recognizer


def times(words):
    return [(word.word, word.start, word.end) for word in words]


def live(recognizer, audio, seed=0):
    """Words of a session fed with blocks of random size."""
    rng = np.random.default_rng(seed)
    session = recognizer.session()
    events, at = [], 0
    while at < len(audio):
        size = int(rng.integers(1, 6000))
        events += session.accept(audio[at : at + size])
        at += size
    events += session.finish()
    return [word for event in events if isinstance(event, Final) for word in event.words]


@pytest.fixture(scope="module")
def digits():
    if "digits" not in list_pretrained():
        pytest.skip("the digits model is not here yet: train recipes/digits")
    return asr.load("digits")


@pytest.mark.parametrize("corpus", ["librispeech", "an4_part"])
def test_random_model_on_real_speech(real_data, corpus):
    recognizer = toy_recognizer()
    items = read_manifest(real_data / corpus)[:3]
    audio = [load_audio(item.audio)[: 8 * 16000] for item in items]
    offline = recognizer.transcribe(audio)
    for transcript, samples in zip(offline, audio, strict=True):
        assert times(live(recognizer, samples)) == times(cut_words(transcript))


def test_word_that_ends_50_ms_before_the_recording_is_kept(real_data, digits):
    """Recordings of fsdd are cut at the edges of the word; what is recognised with a second of silence after it is
    recognised with 50 ms after it, in a stream that nobody padded."""
    items = read_manifest(real_data / "fsdd", "test")[::10]
    lead, short, long = (np.zeros(round(16000 * seconds), np.float32) for seconds in (0.3, 0.05, 1.0))
    words = [load_audio(item.audio) for item in items]
    with_silence = [t.text for t in digits.transcribe([np.concatenate([lead, w, long]) for w in words])]
    clipped = [np.concatenate([lead, w, short]) for w in words]
    streamed = [live(digits, samples, seed) for seed, samples in enumerate(clipped)]
    assert [times(found) for found in streamed] == [times(cut_words(t)) for t in digits.transcribe(clipped)]
    right = [k for k, item in enumerate(items) if with_silence[k] == item.text.lower()]
    kept = [k for k in right if " ".join(word.word for word in streamed[k]) == with_silence[k]]
    assert len(right) >= 0.8 * len(items) and len(kept) >= 0.96 * len(right)


def test_digits_in_batches_and_streams(real_data, digits):
    items = read_manifest(real_data / "phone_numbers", "dev")[:6]
    audio = [load_audio(item.audio) for item in items]
    offline = digits.transcribe(audio)
    together = digits.transcribe(audio, streaming=True, parallel=4)
    assert [times(cut_words(t)) for t in offline] == [times(cut_words(t)) for t in together]
    assert sum(len(cut_words(t)) for t in offline) > 20


def test_details_of_real_digits(real_data, digits):
    """Streams give the times and confidences of whole recordings; the shipped confidence says more than the plain probability."""
    items = read_manifest(real_data / "phone_numbers", split="dev")
    mapping = {"oh": "zero", "o": "zero"}
    details = Details(aligned_times=True, confidence=True)
    audio = [item.audio for item in items]
    offline = digits.transcribe(audio, details=details)
    streamed = digits.transcribe(audio, details=details, streaming=True)
    assert [times(cut_words(t)) for t in offline] == [times(cut_words(t)) for t in streamed]
    right, sure, plain = [], [], []
    for item, transcript, emitted in zip(items, offline, digits.transcribe(audio), strict=True):
        assert [w.word for w in transcript.words] == [w.word for w in emitted.words]
        right += label_words(item.text, [w.word for w in transcript.words], mapping)
        sure += [w.confidence for w in transcript.words]
        plain += [w.confidence for w in emitted.words]
    assert normalised_cross_entropy(sure, right) > max(0.0, normalised_cross_entropy(plain, right))
