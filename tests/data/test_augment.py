"""Each augmentation does what its name says, and the same thing for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.data.audio_cache import AudioCache
from asr.data.augment import (
    Augmenter,
    Rooms,
    add_noise,
    background,
    change_speed,
    convolve,
    reverberate,
    spec_augment,
)
from asr.data.config import AugmentConfig, SpecAugmentConfig
from asr.data.corpora import load_cuts
from asr.data.loader import make_train_loader
from asr.data.plan import Item, item_rng
from tests.data.speech import tone


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power(x: np.ndarray) -> float:
    return float(np.mean(np.square(x, dtype=np.float64)))


def peak_hertz(x: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(x))) * 16000 / len(x))


def test_speed_changes_length_and_pitch() -> None:
    sine = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    for factor in (0.9, 1.1):
        changed = change_speed(sine, factor)
        assert len(changed) == round(16000 / factor) and changed.dtype == np.float32
        assert peak_hertz(changed) == pytest.approx(440 * factor, abs=2)
        assert power(changed) == pytest.approx(power(sine), rel=0.01)
    assert change_speed(sine, 1.0) is sine


@pytest.mark.parametrize(("length", "taps"), [(50, 7), (16000, 1), (16384, 4000), (70000, 12000)])
def test_convolution_is_the_definition(length: int, taps: int) -> None:
    a, b = rng().standard_normal(length).astype(np.float32), rng(1).standard_normal(taps).astype(np.float32)
    size = length + taps - 1
    exact = np.fft.irfft(np.fft.rfft(a.astype(float), size) * np.fft.rfft(b.astype(float), size), size)
    assert np.abs(convolve(a, b) - exact).max() < 1e-5 * np.abs(exact).max()


def test_background_has_the_level_and_colour_of_the_quiet_part() -> None:
    hum = 0.003 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    speech = hum.copy()
    speech[:8000] += 0.3 * rng().standard_normal(8000)
    noise = background(speech.astype(np.float32), 16000, rng())
    assert power(noise) == pytest.approx(power(hum), rel=0.5)
    assert peak_hertz(noise) == pytest.approx(1000, abs=30)
    loud = background((0.3 * rng().standard_normal(16000)).astype(np.float32), 16000, rng())
    assert 10 * np.log10(power(loud) / 0.09) == pytest.approx(-26, abs=1)
    assert not background(np.zeros(16000, np.float32), 800, rng()).any()
    assert (
        len(background(speech.astype(np.float32), 0, rng())) == 0
        and len(background(hum[:100], 50, rng())) == 50
    )


def test_noise_is_added_at_the_ratio_asked_for() -> None:
    speech, noise = tone(1.0, 0), rng().standard_normal(16000).astype(np.float32)
    for ratio in (-5.0, 0.0, 20.0):
        added = add_noise(speech, noise, ratio) - speech
        assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(ratio, abs=0.01)
    assert add_noise(np.zeros(16000, np.float32), noise, 10.0).any() == False  # noqa: E712
    assert np.array_equal(add_noise(speech, np.zeros(16000, np.float32), 10.0), speech)


def test_reverb_keeps_length_power_and_place() -> None:
    pytest.importorskip("torchaudio", exc_type=ImportError)
    rooms = Rooms(3, 0.5)
    click = np.zeros(16000, np.float32)
    click[4000] = 0.5
    for room in range(3):
        wet = reverberate(click, rooms.response(room))
        assert len(wet) == 16000 and np.argmax(np.abs(wet)) == 4000
        assert power(wet) == pytest.approx(power(click), rel=1e-3)
        assert power(wet[4100:8000]) > 0
    before = torch.get_rng_state()
    assert np.array_equal(Rooms(3, 0.5).response(2), rooms.response(2))
    assert not np.array_equal(rooms.response(1), rooms.response(2))
    assert torch.equal(before, torch.get_rng_state())
    assert not np.array_equal(Rooms(4, 0.5).response(2), rooms.response(2))


def test_specaugment_masks_with_the_mean_and_within_its_limits() -> None:
    config = SpecAugmentConfig(1.0)
    widths = []
    for seed in range(50):
        features = rng(seed).standard_normal((800, 80)).astype(np.float32)
        mean = features.mean(axis=0)
        masked = features.copy()
        spec_augment(masked, config, rng(seed))
        changed = masked != features
        rows, columns = changed.all(axis=1), changed.all(axis=0)
        assert rows.sum() <= 0.15 * 800 and columns.sum() <= 2 * 27
        assert np.array_equal(changed, rows[:, None] | columns[None])
        assert np.allclose(masked[changed], np.broadcast_to(mean, masked.shape)[changed])
        widths.append((rows.sum(), columns.sum()))
    assert np.mean([r for r, _ in widths]) > 40 and np.mean([c for _, c in widths]) > 15
    for frames in (1, 5):
        spec_augment(np.zeros((frames, 80), np.float32), config, rng())


ITEM = Item((0, 1), 5, 0.9, (0.3,), 0.2, 0.4, 0.0)


@pytest.mark.parametrize("name", ["volume", "noise", "reverb", "none"])
def test_augmenter_is_seeded_and_each_part_changes_the_audio(name: str, corpus) -> None:
    if name == "reverb":
        pytest.importorskip("torchaudio", exc_type=ImportError)
    parts = [tone(0.5, 1), tone(0.7, 2)]
    noise = list(load_cuts(corpus / "noise", need_text=False))
    plain = Augmenter(AugmentConfig(), noise, 0).samples(parts, ITEM, item_rng(0, 0, 5))
    assert len(plain) == round(0.2 * 16000) + round(8000 / 0.9) + 4800 + round(11200 / 0.9) + 6400
    config = AugmentConfig()
    if name != "none":
        getattr(config, name).probability = 1.0
    runs = [Augmenter(config, noise, 0).samples(parts, ITEM, item_rng(0, 0, number)) for number in (5, 5, 6)]
    assert runs[0].dtype == np.float32 and np.abs(runs[0]).max() <= 1.0
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    assert np.array_equal(runs[0], plain) == (name == "none") and len(runs[0]) == len(plain)


@pytest.mark.parametrize("name", ["speed", "concatenate", "padding", "specaugment", "volume", "noise"])
def test_each_switch_of_the_config_changes_the_batches(name: str, config, tokenizer) -> None:
    for part in vars(config.augment).values():
        part.probability = 0.0
    plain = next(iter(make_train_loader(config, tokenizer)))
    getattr(config.augment, name).probability = 1.0
    changed = next(iter(make_train_loader(config, tokenizer)))
    again = next(iter(make_train_loader(config, tokenizer)))
    other = next(iter(make_train_loader(config, tokenizer, seed=1)))
    assert torch.equal(changed.features, again.features)
    assert changed.features.shape != plain.features.shape or not torch.equal(changed.features, plain.features)
    assert changed.features.shape != other.features.shape or not torch.equal(changed.features, other.features)


def test_audio_cache_gives_the_same_samples_and_reads_once(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = list(load_cuts(corpus))[:3]
    off, on = AudioCache(cuts, False), AudioCache(cuts, True)
    expected = [off.read(i, cut) for i, cut in enumerate(cuts)]
    for _ in range(2):
        for i, cut in enumerate(cuts):
            assert np.array_equal(on.read(i, cut), expected[i])
        monkeypatch.setattr("asr.data.audio_cache.read_cut", lambda cut: pytest.fail("read again"))
