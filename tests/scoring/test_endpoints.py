"""Endpoint scores of hand-made streams, long recordings whose truth can be heard, and the whole path on a toy model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile

from asr.activity import speech_bounds
from asr.decoding.beam import SearchConfig
from asr.decoding.ngram import NgramModel
from asr.decoding.results import Segment, Word
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.scoring.endpoint_command import endpoints_command
from asr.scoring.endpoints import (
    BLOCK,
    UNCUT,
    Endpoint,
    EndpointEvaluation,
    EndpointScore,
    endpoint_table,
    evaluate_endpoints,
    listen,
    score_endpoints,
)
from asr.scoring.recordings import Spoken, make_recordings
from asr.streaming import EndpointConfig
from asr.training.ngram import estimate
from tests.toy import TEXTS, babble, toy_model, toy_recognizer, toy_tokenizer

RATE = 16000
SPOKEN = (Spoken("one two", 1.0, 2.0), Spoken("three", 4.0, 4.5), Spoken("four five", 7.0, 9.0))


def endpoint(time, text, end):
    words = text.split()
    return Endpoint(time, Segment.of([Word(w, end - 0.2 * (len(words) - i), end, 1.0) for i, w in enumerate(words)]))


def counts(found):
    return {name: getattr(found, name) for name in ("early", "cuts", "misses", "extra", "lost", "doubled")}


def test_latencies_of_a_perfect_stream():
    heard = [endpoint(2.5, "one two", 1.9), endpoint(5.1, "three", 4.4), endpoint(9.8, "four five", 9.0)]
    found = score_endpoints(SPOKEN, heard)
    assert found.latencies == pytest.approx((0.5, 0.6, 0.8))
    assert set(counts(found).values()) == {0}
    assert found.p50 == pytest.approx(0.6) and found.p90 == pytest.approx(0.76) and found.result.wer == 0.0
    assert found.to_dict()["p50"] == 0.6 and found.to_dict()["measured"] == 3


def test_an_endpoint_inside_an_utterance_is_an_early_cut():
    heard = [
        endpoint(1.6, "one", 1.4), endpoint(2.6, "two", 2.0), endpoint(5.0, "three", 4.5),
        endpoint(7.5, "four", 7.4), endpoint(8.0, "five", 7.9),
    ]  # fmt: skip
    found = score_endpoints(SPOKEN, heard)
    assert counts(found) == {"early": 2, "cuts": 3, "misses": 0, "extra": 0, "lost": 0, "doubled": 0}
    assert found.latencies == pytest.approx((0.6, 0.5))  # the third was cut early and had no endpoint after its end


def test_an_endpoint_after_the_next_utterance_has_begun_is_a_miss_and_no_early_cut():
    found = score_endpoints(SPOKEN, [endpoint(4.2, "one two", 2.0), endpoint(5.0, "three", 4.4), endpoint(math.inf, "four five", 9.0)])
    assert counts(found) == {"early": 0, "cuts": 0, "misses": 2, "extra": 0, "lost": 0, "doubled": 0}
    assert found.latencies == pytest.approx((0.5,))
    # with a word of the next utterance in it, it cuts that one
    assert score_endpoints(SPOKEN, [endpoint(4.4, "one two three", 4.3)]).early == 1


def test_words_lost_doubled_and_heard_in_noise():
    heard = [endpoint(0.5, "nine", 0.4), endpoint(2.5, "one one two", 2.0), endpoint(3.0, "eight", 2.9), endpoint(9.5, "five", 9.0)]
    found = score_endpoints(SPOKEN, heard, uncut="one two three four five")
    assert found.extra == 2 and found.misses == 1
    # nine and a second one are too many, four is gone, and three has become eight
    assert (found.lost, found.doubled) == (2, 2) and found.result.words == 5
    # a recogniser's own errors are no fault of the endpoints
    same = score_endpoints(SPOKEN, heard, uncut="nine one one two eight five")
    assert (same.lost, same.doubled) == (0, 0) and same.result.dels == 1


def test_maps_pools_and_empty_streams():
    nothing = score_endpoints(SPOKEN, [])
    assert nothing.misses == 3 and nothing.p50 is None and nothing.result.dels == 5
    good = score_endpoints(SPOKEN[:1], [endpoint(2.4, "one oh", 2.0)], map={"oh": "two"})
    assert good.result.wer == 0
    both = EndpointScore.pool([nothing, good])
    assert both.utterances == 4 and both.misses == 3 and both.latencies == pytest.approx((0.4,))
    assert both.result.words == 7 and both.result.wer == pytest.approx(100 * 5 / 7)
    empty = score_endpoints([], [])
    assert empty.utterances == 0 and empty.result.wer == 0
    table = endpoint_table([EndpointEvaluation(EndpointConfig(None, None), s, 10.0) for s in (nothing, both, empty)])
    assert len(table.splitlines()) == 4 and "75.0 %" in table and len({len(line) for line in table.splitlines()}) == 1
    with pytest.raises(ValueError, match="order"):
        score_endpoints(SPOKEN[::-1], [])


@pytest.fixture
def corpus(tmp_path):
    """Six utterances, 0.3 s of room noise at each edge; each has its own pitch, so that it can be found again."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(6):
        length = 0.5 + 0.1 * i
        t = np.arange(round(length * RATE)) / RATE
        audio = np.concatenate([np.zeros(4800), 0.2 * np.sin(2 * np.pi * 200 * (i + 1) * t), np.zeros(4800)])
        soundfile.write(tmp_path / f"{i}.wav", audio + 5e-4 * rng.standard_normal(len(audio)), RATE)
        lines.append({"id": str(i), "audio": f"{i}.wav", "text": f"word{i}", "split": "test"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_truth_of_a_recording_is_where_its_sound_is(corpus):
    recordings = make_recordings(corpus, split="test", utterances=4, pauses=(0.5, 1.5), seed=3)
    assert [len(recording.spoken) for recording in recordings] == [4, 2]
    assert sorted(s.text for r in recordings for s in r.spoken) == [f"word{i}" for i in range(6)]
    for recording in recordings:
        ends = [0.0]
        for spoken in recording.spoken:
            assert 0.5 - 1e-3 <= spoken.start - ends[-1] <= 1.5 + 1e-3
            ends.append(spoken.end)
            number = int(spoken.text[-1])
            assert spoken.end - spoken.start == pytest.approx(0.5 + 0.1 * number, abs=0.03)
            said = recording.audio[round(spoken.start * RATE) : round(spoken.end * RATE)]
            spectrum = np.abs(np.fft.rfft(said))
            assert np.argmax(spectrum) * RATE / len(said) == pytest.approx(200 * (number + 1), abs=5)
            # alone between two pauses, it has the bounds that the truth says
            first, last = round((spoken.start - 0.25) * RATE), round((spoken.end + 0.25) * RATE)
            bounds = np.array(speech_bounds(recording.audio[first:last])) + first
            np.testing.assert_allclose(bounds / RATE, (spoken.start, spoken.end), atol=0.025)
        assert recording.seconds - ends[-1] == pytest.approx(1.5, abs=1e-3)
        quiet = recording.audio[: round((recording.spoken[0].start - 0.06) * RATE)]
        assert np.sqrt(np.mean(quiet**2)) == pytest.approx(5e-4, rel=0.3)  # room noise, not silence


def test_recordings_depend_on_the_seed_alone(corpus):
    first, again, other = (make_recordings(corpus, seed=seed, pauses=(0.3, 0.9))[0] for seed in (1, 1, 2))
    assert np.array_equal(first.audio, again.audio) and first.spoken == again.spoken
    assert first.spoken != other.spoken
    assert len(make_recordings(corpus, limit=2)[0].spoken) == 2


def test_noise_lies_under_the_whole_recording(corpus, tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    soundfile.write(folder / "n.wav", 0.1 * np.random.default_rng(1).standard_normal(8000), RATE)
    (folder / "manifest.jsonl").write_text('{"audio": "n.wav"}\n')
    for place in (folder, folder / "n.wav"):
        plain = make_recordings(corpus, seed=1, noise=None)[0]
        noisy = make_recordings(corpus, seed=1, noise=place, snr_db=20.0)[0]
        assert noisy.spoken == plain.spoken
        added = noisy.audio - plain.audio
        speech = np.concatenate([plain.audio[round(s.start * RATE) : round(s.end * RATE)] for s in plain.spoken])
        ratio = 10 * np.log10(np.mean(speech**2) / np.mean(added**2))
        assert ratio == pytest.approx(20.0, abs=0.3)
        assert np.mean(added[:4000] ** 2) > 0.5 * np.mean(added**2)


def test_recordings_that_cannot_be_made(corpus, tmp_path):
    with pytest.raises(UserError, match="pauses"):
        make_recordings(corpus, pauses=(2.0, 1.0))
    with pytest.raises(UserError, match="at least 1"):
        make_recordings(corpus, utterances=0)
    with pytest.raises(UserError, match="no noise at"):
        make_recordings(corpus, noise=tmp_path / "absent")
    tight = tmp_path / "tight"
    tight.mkdir()
    soundfile.write(tight / "a.wav", 0.2 * np.sin(np.arange(8000) / 10), RATE)
    (tight / "manifest.jsonl").write_text('{"id": "a", "audio": "a.wav", "text": "a"}\n')
    with pytest.raises(UserError, match="give a folder of noise"):
        make_recordings(tight)
    soundfile.write(tight / "a.wav", np.zeros(8000), RATE)
    with pytest.raises(UserError, match="no utterance has any sound"):
        make_recordings(tight)


def test_listening_gives_the_segments_of_transcribe_and_when():
    recognizer = toy_recognizer()
    audio = [babble(4.0, seed=1), babble(2.5, seed=2)]
    config = EndpointConfig(0.2, 1.5)
    found = listen(recognizer, audio, [config, config])
    for cut, whole in zip(found, listen(recognizer, audio, [UNCUT, UNCUT]), strict=True):
        assert len(whole) == 1 and whole[0].time == math.inf
        letters = ["".join(e.segment.text for e in endpoints).replace(" ", "") for endpoints in (cut, whole)]
        assert letters[0] == letters[1]  # nothing lost, nothing doubled
    for heard, transcript in zip(found, recognizer.transcribe(audio, endpoint=config), strict=True):
        assert [e.segment.text for e in heard] == [s.text for s in transcript.segments]
        times = [e.time for e in heard]
        assert times == sorted(times) and len(times) > 1
        for e in heard:
            # heard of once the chunk and the look-ahead behind the last symbol were there
            assert e.time >= e.segment.end
        assert all(e.time < e.segment.end + 1.5 + 0.5 for e in heard if e.time < math.inf)


@pytest.mark.parametrize("search", [SearchConfig(), SearchConfig("modified_beam", beam=3)])
def test_endpoints_have_the_times_of_the_stream_and_come_a_chunk_and_a_look_ahead_later(search):
    recognizer = toy_recognizer(endpoint=True, search=search)
    audio = np.concatenate([babble(3.0, seed=5), np.zeros(RATE, np.float32), babble(3.0, seed=6), np.zeros(RATE, np.float32)])
    config = EndpointConfig(0.2, 1.0)
    (found,) = listen(recognizer, [audio], [config])
    wait = recognizer.chunk_seconds + recognizer.look_ahead_seconds + 0.025 + BLOCK  # 0.025: the window of a feature frame
    ended = [e for e in found if e.segment.reason != "end"]
    assert len(ended) > 2
    for e in ended:
        assert e.segment.closed <= e.time <= e.segment.closed + wait
        if e.segment.reason == "silence":
            assert e.segment.closed == pytest.approx(e.segment.words[-1].end + 0.2, abs=0.021)
    assert all(a.segment.closed <= b.segment.start + 1e-9 for a, b in zip(found, found[1:], strict=False))


def test_configurations_are_scored_on_the_same_recordings(tmp_path):
    lines = []
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.concatenate([babble(1.5, seed=i), 1e-3 * babble(0.5, seed=9)]), RATE)
        lines.append(json.dumps({"id": str(i), "audio": f"{i}.wav", "text": "one two"}) + "\n")
    (tmp_path / "manifest.jsonl").write_text("".join(lines))
    configs = [EndpointConfig(0.2), EndpointConfig(0.2, 1.0), EndpointConfig(1.0, min_speech=0.5)]
    evaluations = evaluate_endpoints(toy_recognizer(), tmp_path, configs, utterances=2, pauses=(0.5, 1.0))
    assert [e.config for e in evaluations] == configs
    for evaluation in evaluations:
        assert evaluation.score.utterances == 3 and evaluation.score.result.words == 6
        assert evaluation.to_dict()["trailing_silence"] == evaluation.config.trailing_silence
    assert evaluations[0].score.cuts >= evaluations[2].score.cuts


def test_command(corpus, capsys):
    arguments = ["--model", "digits", "--manifest", str(corpus), "--limit", "2", "--pauses", "0.3", "0.6"]
    assert endpoints_command([*arguments, "--trailing-silence", "0.4", "none", "--min-speech", "0.2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "2 utterances" in out[0] and "p50" in out[1] and len(out) == 4
    assert endpoints_command([*arguments, "--format", "json", "--no-token"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["trailing_silence"] for row in found] == [0.5, 0.8, 1.2] and not found[0]["use_token"]
    for wrong, message in ((["--trailing-silence", "soon"], "seconds or none"), (["--pause", "1"], "no option --pause; did you mean --pauses"),
                           (["--token-threshold", "0", "0.9"], "a model with an endpoint token: digits has none"),
                           (["--token-threshold", "0.9", "--no-token"], "of no use with --no-token"),
                           (["--snr", "10"], "--snr needs --noise"), (["--lm-scale", "0.1"], "--lm-scale needs --lm")):
        with pytest.raises(UserError, match=message):
            endpoints_command([*arguments, *wrong])


def test_command_with_a_token_a_language_model_and_phrases(tmp_path, capsys):
    lines = []
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", np.concatenate([babble(2.0, seed=i), 1e-3 * babble(0.5, seed=9)]), RATE)
        lines.append(json.dumps({"id": str(i), "audio": f"{i}.wav", "text": "one two"}) + "\n")
    (tmp_path / "manifest.jsonl").write_text("".join(lines))
    tokenizer = toy_tokenizer(endpoint=True)
    save_model(tmp_path / "model", toy_model(endpoint=True), tokenizer, FeatureConfig(), "card")
    made = estimate([tokenizer.encode(text) for text in TEXTS], 2, tokenizer.vocab_size, tokenizer.endpoint_id)
    NgramModel.from_grams(made.grams, tokenizer).save(tmp_path / "lm.npz")
    (tmp_path / "phrases.txt").write_text(" ".join(TEXTS[0].split()[:2]) + "\n")
    common = ["--model", str(tmp_path / "model"), "--manifest", str(tmp_path), "--pauses", "0.3", "0.6", "--format", "json"]
    grid = ["--trailing-silence", "0.4", "none", "--token-threshold", "0", "0.9"]
    added = ["--lm", str(tmp_path / "lm.npz"), "--lm-scale", "2", "--phrases", str(tmp_path / "phrases.txt")]
    found = []
    for extra in (["--beam", "2"], ["--beam", "2", *added]):
        assert endpoints_command([*common, *grid, *extra]) == 0
        found.append(json.loads(capsys.readouterr().out))
        rows = [(row["trailing_silence"], row["token_threshold"]) for row in found[-1]]
        assert rows == [(0.4, 0.0), (0.4, 0.9), (None, 0.0), (None, 0.9)]
    assert found[0] != found[1]


def test_shipped_digits_on_real_phone_numbers(real_data):
    import asr

    found = evaluate_endpoints(
        asr.load("digits"), real_data / "phone_numbers", [EndpointConfig(0.5), EndpointConfig(1.2)], split="dev", limit=4,
        map={"oh": "zero"},
    )  # fmt: skip
    short, long = (evaluation.score for evaluation in found)
    assert short.utterances == long.utterances == 4 and short.lost == short.doubled == long.lost == long.doubled == 0
    assert short.cuts > long.cuts and short.p50 < long.p50
    assert 0.8 < long.p50 < 1.7
