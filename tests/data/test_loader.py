"""Order, budget, sharding and resuming of batches; every comparison is bit for bit."""

from __future__ import annotations

import logging
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.data.config import CorpusConfig, DataConfig
from asr.data.dataset import Batch, too_long_for_audio
from asr.data.loader import make_dev_loader, make_train_loader, training_statistics
from asr.data.plan import Corpus, bucket_batches, plan_epoch
from asr.errors import UserError
from asr.features import Fbank
from asr.tokens import Tokenizer
from tests.data.speech import tone, write_manifest


def same(a: Batch, b: Batch) -> bool:
    tensors = all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
    return tensors and a[4:] == b[4:]


def assert_equal_batches(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) > 1
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("cache", [False, True])
def test_workers_change_nothing(config: DataConfig, tokenizer: Tokenizer, cache: bool) -> None:
    """Two epochs with 0 and with 2 workers, with and without the shared audio cache."""
    alone = make_train_loader(config, tokenizer, seed=1)
    expected = [list(alone), list(alone)]
    assert not same(expected[0][0], expected[1][0])
    config.workers, config.cache_audio = 2, cache
    workers = make_train_loader(config, tokenizer, seed=1)
    for epoch in (0, 1):
        assert_equal_batches(list(workers), expected[epoch])


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_mid_epoch_at_the_next_batch(config: DataConfig, tokenizer: Tokenizer, workers: int) -> None:
    config.workers = workers
    first = make_train_loader(config, tokenizer, seed=1)
    list(first)  # epoch 0
    begun = iter(first)
    for _ in range(3):
        next(begun)
    state = first.state_dict()
    assert (state["epoch"], state["consumed"]) == (1, 3)
    expected = list(begun)
    resumed = make_train_loader(config, tokenizer, seed=1)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # what a training loop calls at the start of the epoch it is in
    assert resumed.remaining == len(expected)
    assert_equal_batches(list(resumed), expected)
    assert (resumed.epoch, resumed.consumed) == (2, 0)
    # A trainer interrupted while working on the third batch says so and gets it again.
    again = make_train_loader(config, tokenizer, seed=1)
    again.load_state_dict({**state, "consumed": 2})
    assert len(list(again)) == len(expected) + 1


def test_resuming_reads_no_skipped_audio(
    config: DataConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    loader = make_train_loader(config, tokenizer, seed=1)
    total = len(loader)
    original = loader.dataset.audio.read
    monkeypatch.setattr(
        loader.dataset.audio, "read", lambda index, cut: read.append(cut.id) or original(index, cut)
    )
    loader.load_state_dict(loader.state_dict(consumed=total - 1))
    (last,) = list(loader)
    assert len(read) == sum(name.count("+") + 1 for name in last.ids)


def test_the_random_state_of_training_is_left_alone(config: DataConfig, tokenizer: Tokenizer) -> None:
    """Dropout after a resume must draw what it would have drawn: neither workers nor epochs touch torch's stream."""
    for workers in (0, 2):
        config.workers = workers
        loader = make_train_loader(config, tokenizer, seed=1)
        before = torch.get_rng_state()
        list(loader)
        assert torch.equal(before, torch.get_rng_state())


def test_another_batch_budget_resumes_at_the_same_fraction(
    config: DataConfig, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_train_loader(config, tokenizer, seed=1).state_dict()
    state["consumed"] = state["batches"] // 2
    config.max_seconds = 6.0
    other = make_train_loader(config, tokenizer, seed=1)
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(state)
    assert abs(other.consumed / len(other) - 0.5) < 0.1
    assert "differ from the checkpoint" in caplog.text


def test_epoch_holds_every_utterance_once_within_the_budget(config: DataConfig, tokenizer: Tokenizer) -> None:
    loader = make_train_loader(config, tokenizer, seed=1)
    names = []
    for batch in loader:
        names += [name for joined in batch.ids for name in joined.split("+")]
        rows, frames = batch.features.shape[:2]
        assert frames == int(batch.feature_lengths.max())
        assert rows * frames <= config.max_seconds * 100 + rows
        assert batch.features.dtype == torch.float32 and batch.tokens.dtype == torch.int64
        for text, tokens, length in zip(batch.texts, batch.tokens, batch.token_lengths, strict=True):
            assert tokens[:length].tolist() == tokenizer.encode(text) and not tokens[length:].any()
        assert batch.seconds == pytest.approx(float(batch.feature_lengths.sum()) / 100, abs=0.01 * rows)
    assert sorted(names) == sorted(f"u{n}" for n in range(40))


def test_ranks_share_the_epoch_evenly(config: DataConfig, tokenizer: Tokenizer) -> None:
    ranks = [list(make_train_loader(config, tokenizer, seed=1, rank=r, world_size=3)) for r in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    names = [n for batches in ranks for b in batches for joined in b.ids for n in joined.split("+")]
    assert sorted(names) == sorted(f"u{n}" for n in range(40))


def test_plan_of_any_size_is_even_and_complete() -> None:
    rng = np.random.default_rng(0)
    for count, world in ((1, 1), (7, 4), (50, 8), (203, 5)):
        corpus = Corpus(rng.uniform(1, 15, count), rng.integers(0, 5, count), [(0, count, 1.0)])
        batches = plan_epoch(corpus, DataConfig(max_seconds=60.0, num_buckets=6), 0, 0, world)
        assert len(batches) % world == 0
        assert sorted(c for batch in batches for item in batch for c in item.cuts) == list(range(count))
        assert all(len(b) * max(i.seconds for i in b) <= 60.0 for b in batches)
    with pytest.raises(UserError, match="2 utterances cannot be shared among 4"):
        plan_epoch(Corpus(np.ones(2), np.zeros(2)), DataConfig(), 0, 0, 4)


def test_buckets_save_padding() -> None:
    rng = np.random.default_rng(0)
    corpus = Corpus(rng.uniform(1, 20, 2000), np.zeros(2000), [(0, 2000, 1.0)])
    waste = {}
    for buckets in (1, 20):
        batches = plan_epoch(corpus, DataConfig(max_seconds=100.0, num_buckets=buckets), 0, 0)
        padded = sum(len(b) * max(i.seconds for i in b) for b in batches)
        waste[buckets] = 1 - corpus.seconds.sum() / padded
    assert waste[20] < 0.08 < 0.3 < waste[1]
    assert bucket_batches(batches[0], 1.0, 0, 4) and all(
        len(b) == 1 for b in bucket_batches(batches[0], 1.0, 0, 4)
    )


def test_sources_repeat_and_the_fraction_changes_with_the_epoch() -> None:
    corpus = Corpus(np.ones(30), np.zeros(30), [(0, 10, 2.0), (10, 30, 0.5)])
    seen = []
    for epoch in (0, 1):
        batches = plan_epoch(corpus, DataConfig(), 0, epoch)
        seen.append(sorted(c for batch in batches for item in batch for c in item.cuts))
    for cuts in seen:
        assert [c for c in cuts if c < 10] == sorted([*range(10)] * 2) and len(cuts) == 30
    assert seen[0] != seen[1]


def test_joins_respect_speaker_length_and_count() -> None:
    rng = np.random.default_rng(0)
    corpus = Corpus(rng.uniform(0.3, 0.9, 400), rng.integers(0, 6, 400), [(0, 400, 1.0)])
    config = DataConfig()
    joining = config.augment.concatenate
    joining.probability, joining.max_seconds, joining.max_cuts, joining.same_speaker = 1.0, 6.0, 5, True
    items = [item for batch in plan_epoch(corpus, config, 0, 0) for item in batch]
    assert max(len(item.cuts) for item in items) == 5 and any(len(item.cuts) == 1 for item in items)
    assert sorted(c for item in items for c in item.cuts) == list(range(400))
    for item in items:
        assert len({int(corpus.speakers[c]) for c in item.cuts}) == 1
        assert item.seconds <= 6.0 and len(item.pauses) == len(item.cuts) - 1
        assert all(0.1 <= pause <= 0.8 for pause in item.pauses)


def test_untrainable_utterances_are_dropped_and_named(
    config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config.min_utterance_seconds, config.max_utterance_seconds = 0.6, 2.0
    partial = Tokenizer.train(["zero one two three four five six seven"], 9, "word")
    with caplog.at_level(logging.WARNING):
        loader = make_train_loader(config, partial)
    dropped = loader.dropped
    lengths = {n: 0.4 + 2.0 * ((n * 7) % 40) / 40 for n in range(40)}
    assert dropped.too_short == [f"u{n}" for n, seconds in lengths.items() if seconds < 0.6]
    assert dropped.too_long == [f"u{n}" for n, seconds in lengths.items() if seconds > 2.0]
    assert dropped.unwritable and all(cut.id not in dropped.unwritable for cut in loader.cuts)
    assert len(loader.cuts) + len(dropped) == 40
    assert f"{len(dropped.unwritable)} unwritable ({dropped.unwritable[0]}" in caplog.text
    config.strict_text = False
    assert not make_train_loader(config, partial).dropped.unwritable


def test_more_tokens_than_frames(config: DataConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert not too_long_for_audio(5, 5) and too_long_for_audio(6, 5)
    assert too_long_for_audio(torch.tensor([3, 9]), torch.tensor([4, 4])).tolist() == [False, True]
    # 0.5 s at speed 1.1 are 12 encoder frames: 12 words fit, 13 don't.
    soundfile.write(tmp_path / "a.wav", tone(0.5, 0), 16000)
    texts = {"fits": "one " * 12, "too-many": "one " * 13}
    write_manifest(
        tmp_path, [{"id": i, "audio": "a.wav", "text": t, "speaker": "a"} for i, t in texts.items()]
    )
    config.train = [str(tmp_path)]
    loader = make_train_loader(config, tokenizer)
    assert loader.dropped.more_tokens_than_frames == ["too-many"] and [cut.id for cut in loader.cuts] == [
        "fits"
    ]


def test_endpoint_token_ends_every_utterance(config: DataConfig, tokenizer: Tokenizer) -> None:
    config.endpoint = True
    batch = next(iter(make_train_loader(config, tokenizer)))
    counts = (batch.tokens == tokenizer.endpoint_id).sum(1).tolist()
    assert counts == [name.count("+") + 1 for name in batch.ids]
    assert all(
        row[n - 1] == tokenizer.endpoint_id for row, n in zip(batch.tokens, batch.token_lengths, strict=True)
    )
    plain = Tokenizer.train(["zero one"], 3, "word")
    with pytest.raises(UserError, match="no endpoint token"):
        make_train_loader(config, plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_audio_stops_with_one_sentence_or_is_skipped(
    config: DataConfig, tokenizer: Tokenizer, tmp_path: Path, workers: int
) -> None:
    entries = []
    for n in range(4):
        soundfile.write(tmp_path / f"{n}.wav", tone(1.0, n), 16000)
        entries.append({"id": f"x{n}", "audio": f"{n}.wav", "text": "one", "speaker": "a"})
    write_manifest(tmp_path, entries)
    good = tmp_path / "good"
    shutil.copytree(tmp_path, good)
    config.train, config.workers = [str(tmp_path)], workers
    config.augment.concatenate.probability = 0.0
    config.skip_unreadable = False
    loader = make_train_loader(config, tokenizer)
    (tmp_path / "2.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value).startswith(str(tmp_path / "2.wav")) and "\n" not in str(caught.value)
    skipping = DataConfig(**{**vars(config), "skip_unreadable": True, "train": [str(good)]})
    loader = make_train_loader(skipping, tokenizer)
    skipping.max_seconds = skipping.max_utterance_seconds = 1.5  # every utterance is a batch: one of them is empty
    alone = make_train_loader(skipping, tokenizer)
    shutil.copy(tmp_path / "2.wav", good / "2.wav")
    batches = list(loader)
    loader.close()
    assert sorted(i for batch in batches for i in batch.ids) == ["x0", "x1", "x3"]
    (named,) = [name for batch in batches for name in batch.unreadable]
    assert named.startswith(f"x2: {good / '2.wav'}")
    empty = [batch for batch in alone if not batch.ids]
    alone.close()
    assert [batch.unreadable for batch in empty] == [(named,)] and empty[0].features.shape[0] == 0


def test_statistics_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    for n in range(3):
        samples = tone(1.0, n)
        samples[50] = np.nan if n == 1 else 0.0
        soundfile.write(tmp_path / f"{n}.wav", samples, 16000, subtype="FLOAT")
    entries = [{"id": f"x{n}", "audio": f"{n}.wav", "text": "one", "speaker": "a"} for n in range(3)]
    write_manifest(tmp_path, entries)
    config = DataConfig(train=[str(tmp_path)])
    assert training_statistics(config).frames == 200
    write_manifest(tmp_path, entries[1:2])
    with pytest.raises(UserError, match=r"Not one training utterance can be read; the first: .*1\.wav"):
        training_statistics(config)
    config.skip_unreadable = False
    with pytest.raises(UserError, match=r"1\.wav: the audio holds NaN"):
        training_statistics(config)


def test_dev_is_whole_sorted_and_as_recorded(config: DataConfig, tokenizer: Tokenizer, corpus: Path) -> None:
    loader = make_dev_loader(config, tokenizer)
    batches = list(loader)
    assert [same(a, b) for a, b in zip(batches, loader, strict=True)] == [True] * len(batches)
    assert sorted(i for b in batches for i in b.ids) == [f"u{n}" for n in range(40, 46)]
    lengths = [n for b in batches for n in b.feature_lengths.tolist()]
    assert lengths == sorted(lengths)
    audio = torch.from_numpy(soundfile.read(corpus / f"{batches[0].ids[0]}.wav", dtype="float32")[0])
    expected = Fbank()(audio[None], torch.tensor([len(audio)]))[0][0]
    assert torch.allclose(batches[0].features[0, : len(expected)], expected, atol=1e-4)
    halves = [list(make_dev_loader(config, tokenizer, rank=r, world_size=2)) for r in range(2)]
    assert len(halves[0]) == len(halves[1])
    assert sorted(i for h in halves for b in h for i in b.ids) == [f"u{n}" for n in range(40, 46)]


def test_settings_that_contradict_are_refused(config: DataConfig, tokenizer: Tokenizer) -> None:
    config.max_utterance_seconds = 50.0
    with pytest.raises(UserError, match="longer than a whole batch"):
        make_train_loader(config, tokenizer)
    config.max_utterance_seconds = 5.0
    config.dev = list(config.train)
    with pytest.raises(UserError, match="4 speakers are in both train and dev: s0, s1, s2, s3"):
        make_train_loader(config, tokenizer)
    with pytest.raises(UserError, match="No data source"):
        make_train_loader(DataConfig(), tokenizer)
    config.augment.noise.sources = []
    with pytest.raises(UserError, match="noise has a probability but no sources"):
        make_train_loader(config, tokenizer)


def test_statistics_normalise_the_features(config: DataConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = training_statistics(config)
    config.train = [CorpusConfig(config.train[0].path, split="train")]
    for part in vars(config.augment).values():
        part.probability = 0.0
    rows = [
        f[:n]
        for b in make_train_loader(config, tokenizer)
        for f, n in zip(b.features, b.feature_lengths, strict=True)
    ]
    frames = torch.cat(rows).double()
    assert found.frames == len(frames)
    assert torch.allclose(found.mean.double(), frames.mean(0), atol=1e-3)
    assert torch.allclose(found.std.double(), frames.std(0, correction=0), atol=1e-3)
    found.save(tmp_path / "statistics.json")
    config.statistics = str(tmp_path / "statistics.json")
    assert torch.equal(training_statistics(config).mean, found.mean)
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(UserError, match="holds no feature statistics"):
        training_statistics(config)


def test_real_speech_resumes_bit_for_bit(real_data: Path, tokenizer: Tokenizer) -> None:
    """Opus files, recorded noise, all augmentations but reverb, 2 workers, the cache on."""
    config = DataConfig(
        train=[CorpusConfig(str(real_data / "fsdd"), split="train", limit=60)],
        max_seconds=20.0, num_buckets=3, workers=2, cache_audio=True,
    )  # fmt: skip
    config.augment.noise.sources = [CorpusConfig(str(real_data / "noise"), split="train", limit=5)]
    config.augment.concatenate.max_seconds = 4.0
    for name in ("noise", "speed", "concatenate", "padding", "volume", "specaugment"):
        getattr(config.augment, name).probability = 0.8
    expected = list(make_train_loader(config, tokenizer, seed=2))
    config.workers = 0
    resumed = make_train_loader(config, tokenizer, seed=2)
    resumed.load_state_dict(resumed.state_dict(consumed=2))
    assert_equal_batches(list(islice(resumed, 3)), expected[2:5])
