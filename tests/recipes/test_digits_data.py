"""The digits recipe's data: spans where it says, effects that keep lengths, sets that share no speaker."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "digits"))
import augment
import mixture
import sources
import strings
import synth


def bank() -> strings.Bank:
    """Two speakers whose digit d is a tone of 300 + 100 d Hz."""
    made = strings.Bank()
    t = np.arange(6400) / augment.RATE
    for speaker in ("a", "b"):
        for d, word in enumerate(sources.DIGITS):
            made.add(speaker, word, np.sin(2 * np.pi * (300 + 100 * d) * t).astype(np.float32))
    return made


def test_join_puts_pieces_where_it_says() -> None:
    pieces = [np.full(1600, 0.5, np.float32), np.full(800, 0.25, np.float32)]
    audio, spans = strings.join(pieces, [0.05])
    assert spans == [(0, 1600), (2400, 3200)] and len(audio) == 3200
    assert audio[800] == 0.5 and audio[2000] == 0 and audio[2800] == 0.25
    overlapped, spans = strings.join(pieces, [-0.05])
    assert spans == [(0, 1600), (800, 1600)] and overlapped[1200] == 0.75


def test_the_words_of_a_string_are_what_is_heard() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        words, audio, spans = strings.random_string(rng, bank(), (3,), "a")
        tones = []
        for start, end in spans:
            piece = audio[start:end]
            spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece))))
            tones.append(np.argmax(spectrum) * augment.RATE / len(piece))
        # one speed for the whole string: the ratios of the tones are those of the digits
        expected = np.array([300 + 100 * sources.DIGITS.index(w) for w in words])
        ratio = np.array(tones) / expected
        assert np.ptp(ratio) < 0.06 * ratio.mean()


def test_tempo_keeps_the_pitch_and_speed_moves_it() -> None:
    t = np.arange(16000) / augment.RATE
    tone = np.sin(2 * np.pi * 500 * t).astype(np.float32)

    def pitch(x: np.ndarray) -> float:
        return float(np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * augment.RATE / len(x))

    fast = augment.change_tempo(tone, 1.25)
    assert len(fast) == 12800 and abs(pitch(fast) - 500) < 15
    high = augment.change_speed(tone, 1.25)
    assert abs(len(high) - 12800) < 3 and abs(pitch(high) - 625) < 5


def test_channels_keep_length_and_stay_finite() -> None:
    speech = np.random.default_rng(1).standard_normal(8000).astype(np.float32) * 0.1
    noise = [np.ones(100, np.float32) * 0.1]
    seen = set()
    for seed in range(20):
        out = augment.channel(np.random.default_rng(seed), speech, noise)
        assert out.shape == speech.shape and out.dtype == np.float32
        assert np.isfinite(out).all() and np.abs(out).max() <= 1
        seen.add(out.tobytes())
    assert len(seen) == 20


def test_band_limit_removes_the_upper_band() -> None:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    power = np.abs(np.fft.rfft(augment.band_limit(noise, 0, 3500))) ** 2
    assert power[4000:].sum() < 1e-3 * power[:3300].sum()


def test_an_utterance_depends_on_its_number_only() -> None:
    material = {"tight": bank(), "natural": [], "voices": [], "negatives": [], "noises": []}
    first = mixture.one("tight", 3, 1, **material)
    mixture.one("mixed", 5, 1, **material)
    again = mixture.one("tight", 3, 1, **material)
    assert first is not None and again is not None
    assert first.words == again.words and np.array_equal(first.audio, again.audio)
    assert mixture.one("natural", 0, 1, **material) is None  # no material, no utterance


def test_schedule_makes_every_kind_as_often_as_asked() -> None:
    amounts = mixture.Amounts().scaled(0.1)
    made = list(mixture.schedule(amounts))
    assert Counter(kind for kind, _ in made) == {k: v for k, v in vars(amounts).items() if v}
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("count", range(1, 15))
def test_groups_add_up(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):
        groups = synth.random_groups(rng, count)
        assert sum(groups) == count and min(groups) > 0


def test_every_language_spells_ten_digits() -> None:
    for name in synth.SPELLED:
        assert len(synth._split_spelled(name)) == 10, name


def test_digit_words() -> None:
    assert sources.digit_words("OH NINE O ZERO") == ["zero", "nine", "zero", "zero"]
    assert sources.digit_words("ONE HUNDRED") is None and sources.digit_words("") is None


def test_shared_speakers_are_named() -> None:
    with pytest.raises(ValueError, match=r"dev and train: x"):
        sources.assert_disjoint({"train": ["x", "y"], "dev": ["x"], "test": ["z"]})


def test_real_sets_share_no_speaker(real_data: Path) -> None:
    speech = sources.read_training_speech(real_data)
    train = {u.speaker for u in speech if not sources.is_dev(u)}
    dev = {u.speaker for u in speech if sources.is_dev(u)}
    tests = sources.test_speakers(real_data)
    sources.assert_disjoint({"train": train, "dev": dev, **tests})
    assert tests["fsdd_test"] == {"fsdd-theo"} and len(tests["phone_numbers"]) == 30
    assert not any(u.corpus == "phone_numbers" or "/test/" in u.audio for u in speech)
