"""The digits recipe's data: labels where the sound is, effects that keep lengths, sets that share no speaker."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "digits"))
import align
import augment
import mixture
import prepare
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
        words, take, spans = strings.random_string(rng, bank(), (3,), "a")
        assert [name for name, _, _ in take.labels] == words
        tones = []
        for start, end in spans:
            piece = take.audio[start:end]
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


def burst(silence: float = 0.3, sound: float = 0.2) -> strings.Take:
    """Silence, a labelled burst of noise, silence."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, int(sound * augment.RATE)).astype(np.float32)
    quiet = np.zeros(int(silence * augment.RATE), np.float32)
    return strings.Take(np.concatenate([quiet, noise, quiet]), (("S", silence, silence + sound),))


def where_loud(take: strings.Take) -> tuple[float, float]:
    """First and last second of the sound in it."""
    loud = np.flatnonzero(np.abs(take.audio) > 0.1)
    return loud[0] / augment.RATE, loud[-1] / augment.RATE


def test_labels_stay_on_the_sound() -> None:
    rng = np.random.default_rng(3)
    makers = {
        "cut": lambda: burst().cut(1600, 12000),
        "trim": lambda: strings.trim(burst()),
        "speed": lambda: burst().warped(1.2, 1.0),
        "tempo": lambda: burst().warped(1.0, 0.8),
        "surround": lambda: strings.surround(rng, burst(), tight=0.0),
        "second of two": lambda: strings.join_takes(
            [strings.Take(np.zeros(4000, np.float32)), burst()], [0.1]
        )[0],
    }
    for name, make in makers.items():
        take = make()
        [(label, start, end)] = take.labels
        assert label == "S"
        np.testing.assert_allclose(where_loud(take), (start, end), atol=0.015, err_msg=name)


def test_tight_surroundings_cut_into_the_sound_at_most_20_ms() -> None:
    rng = np.random.default_rng(0)
    take = strings.trim(burst(), keep_s=0.0)
    lengths = [len(strings.surround(rng, take, tight=1.0).audio) - len(take.audio) for _ in range(200)]
    assert -0.04 * augment.RATE <= min(lengths) < -0.01 * augment.RATE and max(lengths) <= 0.06 * augment.RATE


def material(**changes: object) -> dict:
    empty = {name: [] for name in ("natural", "voices", "negatives", "speech", "noises")}
    return empty | {"tight": bank(), "words": bank()} | changes


def test_an_utterance_depends_on_its_number_only() -> None:
    first = mixture.one("tight", 3, 1, **material())
    mixture.one("mixed", 5, 1, **material())
    again = mixture.one("tight", 3, 1, **material())
    assert first is not None and again is not None
    assert first.words == again.words and np.array_equal(first.take.audio, again.take.audio)
    for kind in ("natural", "cut", "synthetic", "speech", "negative"):  # no material, no utterance
        assert mixture.one(kind, 0, 1, **material()) is None


def test_doubled_digits_are_common() -> None:
    rng = np.random.default_rng(0)
    strings_made = [strings.random_string(rng, bank(), (5,), "a")[0] for _ in range(100)]
    doubled = sum(a == b for words in strings_made for a, b in zip(words, words[1:], strict=False))
    assert 0.28 < doubled / 400 < 0.48  # 0.1 by chance


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


def test_words_cut_out_of_speech(tmp_path: Path) -> None:
    import soundfile

    audio = np.random.default_rng(0).uniform(-0.3, 0.3, 32000)
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    u = sources.Utterance("a", str(tmp_path / "a.wav"), 2.0, "ONE MAN SAID OH", "anna", "train", "c")
    line = {
        "words": [["one", 0.1, 0.35], ["man", 0.4, 0.6], ["said", 0.6, 1.0], ["oh", 1.5, 1.7]],
        "phones": [["W", 0.1, 0.2], ["AH", 0.2, 0.3], ["N", 0.3, 0.35], ["OW", 1.5, 1.7]],
    }
    made = strings.Bank()
    prepare.cut_digits(made, u, line)
    assert {w: len(takes) for w, takes in made.words["anna"].items() if takes} == {"one": 1, "zero": 1}
    [take] = made.words["anna"]["one"]
    assert len(take.audio) == pytest.approx(0.29 * 16000, abs=2)  # 20 ms wider on both sides
    assert [(n, round(s, 2), round(e, 2)) for n, s, e in take.labels] == [
        ("W", 0.02, 0.12),
        ("AH", 0.12, 0.22),
        ("N", 0.22, 0.27),
    ]


def test_share_gives_vowels_more() -> None:
    assert align.share(["S", "IH", "K", "S"], 1.0, 1.9) == [
        ["S", 1.0, 1.2], ["IH", 1.2, 1.5], ["K", 1.5, 1.7], ["S", 1.7, 1.9],
    ]  # fmt: skip


def test_alignments_with_a_line_cut_off_by_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "words": [], "phones": []}\n{"id": "y", "wor')
    assert set(align.read_alignments(path)) == {"x"}
    assert align.read_alignments(None) == {}


def test_aligner_finds_the_words_of_real_speech(real_data: Path) -> None:
    pytest.importorskip("pocketsphinx")
    align._start_worker()
    speech = [
        u
        for u in sources.read_training_speech(real_data)
        if u.corpus == "speechocean762" and len(sources.digit_words(u.text) or []) >= 4
    ][:5]
    assert speech
    for u in speech:
        line = align.align(u)
        assert [w for w, _, _ in line["words"]] == u.text.lower().split()
        edges = [t for _, s, e in line["words"] for t in (s, e)]
        assert edges == sorted(edges) and -0.3 < edges[0] and edges[-1] <= u.duration + 0.3
        # the words are where the sound is
        audio = mixture.load(u)
        inside = np.zeros(len(audio), bool)
        for _, s, e in line["words"]:
            inside[max(0, int(s * 16000)) : int(e * 16000)] = True
        assert np.mean(audio[inside] ** 2) > 20 * np.mean(audio[~inside] ** 2)
        assert {p for p, _, _ in line["phones"]} <= set(align.PHONES)


@pytest.mark.parametrize("line", [b'{"id": "caf\xe9"}', b"[1]", b'{"id": "x"}', b"{"])
def test_a_bad_manifest_line_is_named(tmp_path: Path, line: bytes) -> None:
    good = b'{"id": "a", "audio": "a.wav", "duration": 1.0}\n'
    (tmp_path / "manifest.jsonl").write_bytes(good + line)
    with pytest.raises(ValueError, match=r"manifest.jsonl, line 2"):
        list(sources.read_manifest(tmp_path))
