"""Features of words, confidences without training, and the calibrated model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from asr.decoding import greedy
from asr.decoding.confidence import CONFIG_FILE, WEIGHTS_FILE, ConfidenceModel, split_groups, word_confidences
from asr.decoding.confusion import ConfusionNetwork
from asr.decoding.word_features import (
    CERTAIN,
    FAR,
    FEATURES,
    EmissionStatistics,
    WordFeatures,
    emission_statistics,
    entropy_confidence,
    log_prob_confidence,
    word_features,
)
from asr.errors import UserError
from asr.scoring.calibration import normalised_cross_entropy, roc_auc
from tests.toy import babble, toy_model, toy_recognizer, toy_tokenizer

TOKENIZER = toy_tokenizer()


@dataclass(frozen=True)
class Hyp:
    tokens: list[int]
    frames: list[int]
    log_probs: list[float]
    score: float = 0.0


def said(*words, score=0.0):
    """Hypothesis of (word, first frame, log-probabilities of its pieces); the pieces follow frame by frame."""
    tokens, frames, log_probs = [], [], []
    for word, frame, values in words:
        pieces = TOKENIZER.encode(word)
        values = [values] * len(pieces) if isinstance(values, float) else values
        assert len(values) == len(pieces), (word, pieces)
        tokens += pieces
        frames += range(frame, frame + len(pieces))
        log_probs += values
    return Hyp(tokens, frames, log_probs, score)


def row(features, i):
    return dict(zip(features.names, features.matrix[i], strict=True))


# ---------------------------------------------------------------- entropy

DISTRIBUTIONS = st.lists(st.floats(-20, 20), min_size=2, max_size=12).map(lambda x: torch.tensor(x).double())
KINDS = [(kind, alpha, form) for kind in ("tsallis", "renyi") for alpha in (0.2, 1 / 3, 1, 2) for form in ("linear", "exponential")]


@pytest.mark.parametrize(("kind", "alpha", "form"), KINDS)
def test_entropy_confidence_is_1_for_one_symbol_and_0_for_all_alike(kind, alpha, form):
    sure = torch.full((50,), -500.0).index_fill(0, torch.tensor([7]), 0.0)
    assert entropy_confidence(sure, kind, alpha, form) == pytest.approx(1.0)
    assert entropy_confidence(torch.zeros(3, 50), kind, alpha, form).tolist() == pytest.approx([0.0] * 3, abs=1e-9)


@given(DISTRIBUTIONS, st.sampled_from(KINDS))
def test_entropy_confidence_by_its_definition(logits, way):
    kind, alpha, form = way
    p = logits.softmax(-1).numpy()
    size, power = len(p), (p**alpha).sum()
    if alpha == 1:
        entropy, most = -(p * np.log(np.maximum(p, 1e-300))).sum(), math.log(size)
    elif kind == "tsallis":
        entropy, most = (1 - power) / (alpha - 1), (1 - size ** (1 - alpha)) / (alpha - 1)
    else:
        entropy, most = math.log(power) / (1 - alpha), math.log(size)
    if form == "linear":
        expected = 1 - entropy / most
    else:
        expected = (math.exp(-entropy) - math.exp(-most)) / (1 - math.exp(-most))
    found = float(entropy_confidence(logits, kind, alpha, form))
    assert 0 <= found <= 1 and found == pytest.approx(expected, abs=1e-9)


def test_unknown_entropies_are_refused():
    for options in ({"kind": "gini"}, {"normalisation": "none"}, {"alpha": 0.0}):
        with pytest.raises(ValueError):
            entropy_confidence(torch.zeros(3), **options)


# ---------------------------------------------------------------- features


def test_features_of_the_hypothesis_alone():
    pieces = len(TOKENIZER.encode("segments"))
    assert pieces > 1
    values = [-0.2] * (pieces - 1) + [-1.0]
    features = word_features(said(("one", 10, -0.1), ("segments", 20, values), ("nine", 99, -3.0)), TOKENIZER)
    assert features.words == ("one", "segments", "nine") and features.names == FEATURES
    middle = row(features, 1)
    assert middle["mean_log_prob"] == pytest.approx(np.mean(values)) and middle["min_log_prob"] == -1.0
    assert middle["log_odds"] == pytest.approx(np.log(np.exp(np.mean(values)) / (1 - np.exp(np.mean(values)))))
    assert (middle["tokens"], middle["duration"], middle["frames_per_token"]) == (pieces, pieces, 1.0)
    first_end = 10 + len(TOKENIZER.encode("one"))
    assert (middle["gap_before"], middle["gap_after"]) == (20 - first_end, min(FAR, 99 - 20 - pieces))
    assert row(features, 0)["gap_before"] == FAR and row(features, 2)["gap_after"] == FAR
    assert not features.select([n for n in FEATURES[8:]]).matrix.any()  # not collected: 0, and so are the indicators
    assert log_prob_confidence(features) == pytest.approx(np.exp([-0.1, -1.0, -3.0]))


def test_features_of_the_network():
    nbest = [
        said(("one", 10, -0.1), ("nine", 40, -0.1), score=0.0),
        said(("one", 10, -0.1), ("five", 40, -0.1), score=-1.5),
        said(("one", 11, -0.1), score=-2.5),
        said(("one", 10, -0.1), ("nine", 41, -0.1), score=-3.0),
    ]
    features = word_features(nbest[0], TOKENIZER, nbest=nbest)
    p = np.exp([0.0, -1.5, -2.5, -3.0])
    p /= p.sum()
    one, nine = row(features, 0), row(features, 1)
    assert one["has_nbest"] == nine["has_nbest"] == 1
    assert (one["margin"], one["agreement"]) == (CERTAIN, 1.0)
    assert one["slot_posterior"] == pytest.approx(1) and one["slot_entropy"] == pytest.approx(0)
    assert (nine["margin"], nine["agreement"]) == (1.5, 0.5)
    shares = np.array([p[0] + p[3], p[1], p[2]])
    assert nine["slot_posterior"] == pytest.approx(shares[0])
    assert nine["slot_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    network = ConfusionNetwork.of(nbest, TOKENIZER)
    assert (word_features(nbest[0], TOKENIZER, nbest=nbest, network=network).matrix == features.matrix).all()
    with pytest.raises(ValueError, match="not those"):
        word_features(nbest[2], TOKENIZER, nbest=nbest)
    with pytest.raises(ValueError, match="not those"):
        word_features(nbest[0], TOKENIZER, nbest=nbest[:3], network=network)


def test_features_of_the_statistics():
    hypothesis = said(("one", 3, -0.5), ("nine", 7, -0.25))
    tokens, first_frame = len(hypothesis.tokens), 2
    count = len(TOKENIZER.encode("one"))
    blanks = np.linspace(0.3, 0.9, 12)
    statistics = EmissionStatistics(
        np.linspace(0.1, 0.4, tokens).tolist(), np.linspace(0.9, 0.6, tokens).tolist(), blanks.tolist(), first_frame
    )
    one = row(word_features(hypothesis, TOKENIZER, statistics=statistics), 0)
    assert one["has_statistics"] == 1 and one["has_nbest"] == 0
    assert one["mean_entropy"] == pytest.approx(np.mean(statistics.entropies[:count]))
    assert one["max_entropy"] == pytest.approx(max(statistics.entropies[:count]))
    assert one["entropy_confidence"] == pytest.approx(min(statistics.confidences[:count]))
    assert one["blank_before"] == pytest.approx(blanks[3 - 2 - 1])  # frame 2 only: the stream's part begins there
    end = 3 + count - first_frame
    assert one["blank_after"] == pytest.approx(np.mean(blanks[end : min(end + 3, 7 - first_frame)]))
    lowest = min(-0.5 - np.log(1 - blanks[3 - 2 + k]) for k in range(count))
    p = min(np.exp(lowest), 1)
    assert one["symbol_odds"] == pytest.approx(np.log(p / (1 - p)) if p < 1 else CERTAIN)


def test_words_without_room_beside_them():
    hypothesis = said(("one", 0, -0.5), ("nine", len(TOKENIZER.encode("one")), -0.5))
    count = len(hypothesis.tokens)
    statistics = EmissionStatistics([0.1] * count, [0.9] * count, [0.2] * count)
    features = word_features(hypothesis, TOKENIZER, statistics=statistics)
    assert features.select(["blank_before", "blank_after"]).matrix.tolist() == [[1, 1], [1, 1]]
    assert features.select(["gap_before", "gap_after"]).matrix.tolist() == [[FAR, 0], [0, FAR]]


def test_no_words_no_rows():
    silent = Hyp([], [], [])
    statistics = EmissionStatistics([], [], [0.9] * 5)
    assert word_features(silent, TOKENIZER, nbest=[silent], statistics=statistics).matrix.shape == (0, len(FEATURES))


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@torch.inference_mode()
def test_statistics_of_a_model_are_those_of_its_search(predictor):
    recognizer = toy_recognizer(predictor=predictor)
    model = toy_model(predictor)
    encoded, lengths = recognizer.encode([babble(6.0, seed=2), babble(3.0, seed=3)])
    hypotheses = greedy.greedy_search(model, encoded, lengths)
    assert sum(len(hypothesis.tokens) for hypothesis in hypotheses) > 5
    for row_, hypothesis in enumerate(hypotheses):
        length = int(lengths[row_])
        found = emission_statistics(model, encoded[row_, :length], hypothesis)
        assert len(found.blanks) == length
        state, probabilities = greedy.initial_state(model, 1), []
        for t in range(length):  # frame by frame, as the search goes
            logits = model.joiner.join(model.joiner.project_encoder(encoded[row_, t]), state.projected[0])
            probabilities.append(logits.float().softmax(-1))
            _, _, state = greedy.step(model, encoded[row_ : row_ + 1, t : t + 1], torch.ones(1, dtype=torch.int64), state)
        p = torch.stack(probabilities)
        assert found.blanks == pytest.approx(p[:, 0].tolist(), abs=1e-5)
        at = p[hypothesis.frames]
        assert found.confidences == pytest.approx(entropy_confidence(at[:, 1:].log()).tolist(), abs=1e-4)
        entropy = -(at * at.clamp(min=1e-30).log()).sum(1) / math.log(p.size(1))
        assert found.entropies == pytest.approx(entropy.tolist(), abs=1e-4)
        assert at.gather(1, torch.tensor(hypothesis.tokens)[:, None])[:, 0].log().tolist() == pytest.approx(
            hypothesis.log_probs, abs=1e-3
        )
        features = word_features(hypothesis, TOKENIZER, statistics=found)
        assert np.isfinite(features.matrix).all() and features.column("has_statistics").all()


# ---------------------------------------------------------------- the model


def synthetic(count, seed, names=("log_odds", "gap_before", "tokens"), groups=20):
    """Words whose log-odds of being right are 1.5 + 1.2 * first - 0.8 * second feature; the third says nothing."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(count, len(names))) * [1.0, 5.0, 2.0] + [0.0, 20.0, 3.0]
    odds = 1.5 + 1.2 * matrix[:, 0] - 0.8 * (matrix[:, 1] - 20) / 5
    right = rng.random(count) < 1 / (1 + np.exp(-odds))
    return WordFeatures(tuple(names), matrix, ("word",) * count), right, rng.integers(groups, size=count).tolist(), odds


def test_fit_finds_what_made_the_labels():
    features, right, groups, _ = synthetic(4000, 0)
    model = ConfidenceModel.fit(features, right, groups)
    test, test_right, _, odds = synthetic(4000, 1)
    confidences = model.confidences(test)
    truth = 1 / (1 + np.exp(-odds))
    assert np.abs(confidences - truth).mean() < 0.02
    best = normalised_cross_entropy(truth, test_right)
    assert normalised_cross_entropy(confidences, test_right) == pytest.approx(best, abs=0.01) and best > 0.2
    single = ConfidenceModel.fit(features.select(["log_odds"]), right, groups)
    assert roc_auc(single.confidences(test), test_right) < roc_auc(confidences, test_right)


def test_what_says_nothing_gives_the_base_rate():
    rng = np.random.default_rng(3)
    features = WordFeatures(("tokens",), rng.normal(size=(500, 1)), ("w",) * 500)
    right = rng.random(500) < 0.8
    confidences = ConfidenceModel.fit(features, right).confidences(features)
    assert confidences == pytest.approx(np.full(500, right.mean()), abs=0.06)


def test_overconfident_inputs_are_calibrated_on_held_out_words():
    """Few words, many features of noise: unpenalised weights would tell training words apart that nobody could."""
    rng = np.random.default_rng(4)
    names = FEATURES[:8]
    matrix = rng.normal(size=(120, 8))
    right = rng.random(120) < 0.85
    model = ConfidenceModel.fit(WordFeatures(names, matrix, ("w",) * 120), right, decays=(1e-3,))
    bare = replace(model, slope=1.0, offset=0.0)
    fresh = WordFeatures(names, rng.normal(size=(3000, 8)), ("w",) * 3000)
    fresh_right = rng.random(3000) < 0.85
    calibrated = normalised_cross_entropy(model.confidences(fresh), fresh_right)
    assert calibrated > normalised_cross_entropy(bare.confidences(fresh), fresh_right)
    assert calibrated > -0.05


def test_fit_is_deterministic_and_does_not_mind_separable_words():
    features = WordFeatures(("log_odds",), np.arange(20.0)[:, None], ("w",) * 20)
    right = np.arange(20) >= 8
    models = [ConfidenceModel.fit(features, right) for _ in range(2)]
    confidences = [model.confidences(features) for model in models]
    assert (confidences[0] == confidences[1]).all()
    assert ((confidences[0] > 0) & (confidences[0] < 1)).all() and roc_auc(confidences[0], right) == 1
    ConfidenceModel.fit(features, right, ["one speaker"] * 20)


@pytest.mark.parametrize("wrong", [0, 1, 9, 10])
def test_one_sided_words_are_refused(wrong):
    features = WordFeatures(("tokens",), np.zeros((10, 1)), ("w",) * 10)
    with pytest.raises(UserError, match="needs right and wrong words"):
        ConfidenceModel.fit(features, np.arange(10) >= wrong)


def test_constant_features_have_no_weight():
    features, right, *_ = synthetic(300, 5)
    features.matrix[:, 2] = 7.0
    model = ConfidenceModel.fit(features, right)
    moved = WordFeatures(features.names, features.matrix + [0, 0, 5.0], features.words)
    assert model.confidences(moved) == pytest.approx(model.confidences(features), abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60), st.integers(1, 9), st.randoms())
def test_groups_stay_whole(groups, folds, random):
    fold = split_groups(groups, folds)
    by_group = {}
    for group, k in zip(groups, fold, strict=True):
        assert by_group.setdefault(group, k) == k
    assert set(fold) == set(range(min(folds, len(set(groups)))))
    order = list(range(len(groups)))
    random.shuffle(order)
    shuffled = split_groups([groups[i] for i in order], folds)
    assert shuffled.tolist() == [fold[i] for i in order]


def test_the_best_confidence_there_is():
    hypothesis = said(("one", 3, -0.5), ("nine", 17, -0.25))
    count = len(hypothesis.tokens)
    bare = word_features(hypothesis, TOKENIZER)
    assert word_confidences(bare) == pytest.approx(np.exp([-0.5, -0.25]))
    told = word_features(hypothesis, TOKENIZER, statistics=EmissionStatistics([0.1] * count, [0.7] * count, [0.5] * 40))
    assert word_confidences(told) == pytest.approx([0.7, 0.7])
    model, _ = trained()
    assert (word_confidences(told, model) == model.confidences(told)).all()
    assert word_confidences(word_features(Hyp([], [], []), TOKENIZER), model).shape == (0,)


# ---------------------------------------------------------------- on disk


def trained():
    features, right, groups, _ = synthetic(300, 6)
    return ConfidenceModel.fit(features, right, groups), features


def test_saved_and_loaded_is_the_same(tmp_path):
    model, features = trained()
    assert model.save(tmp_path / "new", {"words": 300}) == tmp_path / "new" / WEIGHTS_FILE
    loaded = ConfidenceModel.load(tmp_path / "new")
    assert (loaded.confidences(features) == model.confidences(features)).all()
    assert loaded.names == model.names and loaded.known == model.known
    assert yaml.safe_load((tmp_path / "new" / CONFIG_FILE).read_text())["notes"] == {"words": 300}
    model.save(tmp_path / "new")  # once more, in its place
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [WEIGHTS_FILE, CONFIG_FILE]
    assert (tmp_path / "new" / WEIGHTS_FILE).stat().st_mode & 0o077 == 0o044


def test_indicators_say_what_a_search_must_collect(tmp_path):
    rng = np.random.default_rng(7)
    matrix = np.zeros((200, len(FEATURES)))
    matrix[:, FEATURES.index("has_nbest")] = 1
    matrix[:, FEATURES.index("slot_posterior")] = p = rng.random(200)
    features = WordFeatures(FEATURES, matrix, ("w",) * 200)
    ConfidenceModel.fit(features, rng.random(200) < p).save(tmp_path)
    model = ConfidenceModel.load(tmp_path)
    assert model.known == ("has_nbest",)
    with pytest.raises(UserError, match=r"trained with n-best lists .* this search has not"):
        model.confidences(word_features(said(("one", 3, -0.1)), TOKENIZER))
    nothing = word_features(Hyp([], [], []), TOKENIZER)
    assert model.confidences(nothing).shape == (0,)


def test_features_are_checked_by_name():
    model, features = trained()
    with pytest.raises(UserError, match="no feature 'tokens'"):
        model.confidences(features.select(["log_odds", "gap_before"]))
    assert (model.confidences(features.select(features.names[::-1])) == model.confidences(features)).all()
    with pytest.raises(ValueError, match="different names"):
        WordFeatures.stack([features, features.select(["tokens"])])


def spoil(folder, **changes):
    config = yaml.safe_load((folder / CONFIG_FILE).read_text()) | changes
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config))


def arrays(folder, **changes):
    found = {k: v for k, v in (load_file(folder / WEIGHTS_FILE) | changes).items() if v is not None}
    save_file(found, folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / CONFIG_FILE).unlink(), "no such configuration file"),
        (lambda f: (f / WEIGHTS_FILE).unlink(), "cannot read"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes(b"nothing"), "cannot read"),
        (lambda f: spoil(f, format_version=2), "format version 2"),
        (lambda f: spoil(f, features=["log_odds", "pitch", "tokens"]), "no feature 'pitch'"),
        (lambda f: spoil(f, features=["log_odds", "tokens"]), "does not fit"),
        (lambda f: spoil(f, features="log_odds"), "must be a list"),
        (lambda f: spoil(f, known=["has_pitch"]), "no feature 'has_pitch'"),
        (lambda f: arrays(f, weight=None), "its 'weight' is wrong"),
        (lambda f: arrays(f, more=np.zeros(1)), "its 'more' is wrong"),
        (lambda f: arrays(f, bias=np.array([np.nan])), "its 'bias' is wrong"),
        (lambda f: arrays(f, deviation=np.zeros(3)), "deviation is not positive"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, damage, sentence):
    trained()[0].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        ConfidenceModel.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot save the confidence model"):
        trained()[0].save(tmp_path / "file" / "folder")
