"""Aligned times, confidence, alternatives and rescoring of segments: the same while streaming and for whole recordings."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from asr.cli import main
from asr.decoding import greedy
from asr.decoding.alignment import Aligner
from asr.decoding.beam import SearchConfig
from asr.decoding.confidence import ConfidenceModel
from asr.decoding.nbest import beam_search, decode
from asr.decoding.rescoring import Rescorer
from asr.decoding.results import Symbol, Transcript
from asr.decoding.word_features import FEATURES, emission_statistics, word_features
from asr.errors import UserError
from asr.features import FeatureConfig
from asr.models.branch import AlignmentBranch, BranchConfig, letter_ids
from asr.models.lm import LanguageModel, LanguageModelConfig
from asr.streaming import NO_ENDPOINT, Details, EndpointConfig, Final, Recognizer
from asr.streaming.details import LEAD_SECONDS
from tests.decoding.test_beam import Table
from tests.streaming.test_session import stream
from tests.toy import babble, toy_model, toy_recognizer, toy_tokenizer

ALL = Details(aligned_times=True, confidence=True, alternatives=3)
CUTS = EndpointConfig(trailing_silence=0.2, max_segment=1.0)  # many segments, some of them cut within a piece of the search


@lru_cache
def recogniser(kind="modified_beam", predictor="lstm", layer=1, endpoint=False):
    """With a branch of random weights that listens to a layer."""
    options = {}
    if kind != "greedy":
        fusion = Table(toy_tokenizer(endpoint).vocab_size, 0)
        fusion.table[:, 1:] += 4.0
        if endpoint:
            fusion.table[:, toy_tokenizer(True).endpoint_id] += 8.0
        options = {"search": SearchConfig(kind, beam=4, max_symbols=2), "fusion": fusion}
    found = toy_recognizer(predictor=predictor, endpoint=endpoint, **options)
    torch.manual_seed(1)
    branch = AlignmentBranch(BranchConfig(input_dim=32, layer=layer, hidden=16)).eval()
    with torch.no_grad():
        branch.output.weight *= 8.0
    found.aligner = Aligner(branch, letter_ids)
    return found


def same(a, b):
    """Whether two JSON values are equal but for the last digits of scores, which depend on the size of the blocks."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or isinstance(a, float) and abs(a - b) < 0.005


def alike(a: Transcript, b: Transcript) -> bool:
    """Exactly the same words, times and segments, and nearly the same scores."""
    exact = [[[(w.word, w.start, w.end) for w in s.words] + [s.closed] for s in t.segments] for t in (a, b)]
    return exact[0] == exact[1] and same(a.to_dict(), b.to_dict())


@pytest.mark.parametrize(
    ("kind", "predictor", "layer", "endpoint"),
    [("modified_beam", "lstm", 1, False), ("beam", "stateless", 3, False), ("modified_beam", "stateless", 2, True), ("beam", "lstm", 0, True)],
)
def test_streams_give_what_whole_recordings_give(kind, predictor, layer, endpoint):
    recognizer = recogniser(kind, predictor, layer, endpoint)
    audios = [babble(seconds, seed=i) for i, seconds in enumerate((3.3, 0.7, 4.9))]
    silence = np.zeros(8000, np.float32)
    audios.append(np.concatenate([silence, babble(1.5, seed=5), silence, babble(0.4, seed=6), silence]))
    for config in (CUTS, NO_ENDPOINT, EndpointConfig(0.4, None, min_speech=0.5)):
        offline = recognizer.transcribe(audios, endpoint=config, details=ALL)
        together = recognizer.transcribe(audios, streaming=True, parallel=3, endpoint=config, details=ALL)
        assert all(map(alike, offline, together))
        for audio, expected in zip(audios, offline, strict=True):
            _, events = stream(recognizer, audio, [1777, 5000], endpoint=config, details=ALL)
            assert alike(Transcript.of(expected.audio, [e.segment for e in events if isinstance(e, Final)]), expected)
        assert sum(len(s.alternatives) > 1 for t in offline for s in t.segments) > 2
    if endpoint:
        assert sum(s.token == recognizer.tokenizer.endpoint_id for t in offline for g in t.segments for s in g.symbols) > 2


@pytest.mark.parametrize("kind", ["greedy", "modified_beam"])
def test_words_stay_and_times_are_in_order(kind):
    recognizer = recogniser(kind)
    audio = babble(6.0, seed=8)
    details = Details(aligned_times=True, confidence=True)
    before = recognizer.transcribe(audio, endpoint=CUTS)[0]
    after = recognizer.transcribe(audio, endpoint=CUTS, details=details)[0]
    assert [w.word for w in before.words] == [w.word for w in after.words] and len(after.segments) > 2
    assert [w.start for w in before.words] != [w.start for w in after.words]
    assert [w.confidence for w in before.words] != [w.confidence for w in after.words]
    end = 0.0
    for segment in after.segments:
        for word in segment.words:
            assert end <= word.start < word.end <= segment.closed + 1e-9 and 0 <= word.confidence <= 1
            end = word.end
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)


def test_an_event_says_when_its_segment_was_closed():
    recognizer = recogniser("greedy")
    audio = babble(6.0, seed=5)
    config = EndpointConfig(trailing_silence=0.36, max_segment=0.4)
    segments = recognizer.transcribe(audio, endpoint=config)[0].segments
    assert {segment.reason for segment in segments} >= {"silence", "length"}
    for segment in segments:
        if segment.reason == "silence":  # the frame whose silence ends it is heard
            assert segment.closed == pytest.approx(segment.end + 0.36)
    assert [s.closed for s in segments] == sorted(s.closed for s in segments)
    received, closed = 0, []
    session = recognizer.session(endpoint=config)
    for at in range(0, len(audio), 1600):
        received += len(audio[at : at + 1600])
        events = session.accept(audio[at : at + 1600])
        for event in events:
            if isinstance(event, Final):
                assert event.closed <= received / 16000
                closed.append(event.closed)
    assert closed + [event.closed for event in session.finish()] == [s.closed for s in segments]


def test_alternatives_are_those_of_the_search():
    """A segment without an endpoint within it is one piece of the search: its readings are the n-best list."""
    recognizer = recogniser("beam")
    audio = babble(2.5, seed=4)
    segment = recognizer.transcribe(audio, endpoint=NO_ENDPOINT, details=Details(alternatives=4))[0].segments[0]
    (nbest,) = recognizer.nbest([audio])
    texts = list(dict.fromkeys(" ".join(recognizer.tokenizer.decode(h.tokens).split()) for h in nbest))
    assert [a.text for a in segment.alternatives] == texts and segment.text == texts[0]
    assert segment.alternatives[0].score == pytest.approx(nbest[0].score)
    assert sum(a.posterior for a in segment.alternatives) == pytest.approx(1.0)
    assert [entry.word for entry in segment.confusion.slots[0].entries]


def test_nbest_of_a_recording_goes_on_after_an_endpoint_token():
    recognizer = recogniser("modified_beam", "stateless", 2, True)
    audio = babble(6.0, seed=0)
    encoded, lengths = recognizer.encode([audio])
    symbols, (pieces,) = decode(recognizer.beam, encoded, lengths, recognizer.beam.initial_state(1))
    (found,) = recognizer.nbest([audio])
    assert len(pieces) > 2 and 1 < len(found) <= 4
    assert found[0].tokens == [symbol.token for symbol in symbols[0]]
    assert found[0].score == pytest.approx(pieces[-1].nbest[0].score)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_scores_of_segments_add_up_to_that_of_the_recording():
    recognizer = recogniser("modified_beam")
    audio = babble(5.0, seed=5)
    segments = recognizer.transcribe(audio, endpoint=CUTS, details=Details(alternatives=1))[0].segments
    encoded, lengths = recognizer.encode([audio])
    state = recognizer.beam.initial_state(1, quiet=5, age=25)
    _, ((*_, last),) = decode(recognizer.beam, encoded, lengths, state)
    assert len(segments) > 1
    assert sum(s.alternatives[0].score for s in segments) == pytest.approx(last.nbest[0].score, abs=0.01)


def test_scores_begin_anew_where_the_predictor_does():
    recognizer = toy_recognizer(search=SearchConfig("modified_beam", beam=4, blank_penalty=7.0))
    config = EndpointConfig(trailing_silence=0.2, max_segment=1.0, reset_predictor=True)
    segments = recognizer.transcribe(babble(8.0, seed=4), endpoint=config, details=Details(alternatives=4))[0].segments
    assert len(segments) > 3
    assert all(reading.score <= 0 for segment in segments for reading in segment.alternatives)


def test_confidence_is_that_of_the_whole_recording():
    """Through a session, segment by segment, the features are those that the confidence model was trained with."""
    for kind in ("greedy", "modified_beam"):
        recognizer = recogniser(kind, "lstm")
        audio = babble(3.0, seed=2)
        encoded, lengths = recognizer.encode([audio])
        if kind == "greedy":
            nbest = greedy.greedy_search(recognizer.model, encoded, lengths)
        else:
            nbest = beam_search(recognizer.beam, encoded, lengths)[0]
        statistics = emission_statistics(recognizer.model, encoded[0], nbest[0])
        features = word_features(
            nbest[0], recognizer.tokenizer, nbest=() if kind == "greedy" else nbest, statistics=statistics
        )
        rng = np.random.default_rng(0)
        known = ("has_statistics",) if kind == "greedy" else ("has_nbest", "has_statistics")
        model = ConfidenceModel(
            FEATURES, known, np.zeros(len(FEATURES)), np.ones(len(FEATURES)), rng.normal(0, 0.02, len(FEATURES)), 0.1
        )
        recognizer = toy_copy(recognizer)
        for confidence_model in (model, None):
            recognizer.confidence_model = confidence_model
            session_words, _ = stream(recognizer, audio, [2000], endpoint=NO_ENDPOINT, details=Details(confidence=True))
            expected = features.column("entropy_confidence") if confidence_model is None else model.confidences(features)
            assert len(session_words) > 3
            assert [w.confidence for w in session_words] == pytest.approx(list(expected), abs=1e-4)


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_statistics_of_a_later_part_are_those_of_the_whole(predictor):
    """With the state of the predictor after what was said before."""
    recognizer = recogniser("greedy", predictor)
    encoded, lengths = recognizer.encode([babble(6.0, seed=3)])
    model = recognizer.model
    (h,) = greedy.greedy_search(model, encoded, lengths)
    whole = emission_statistics(model, encoded[0], h)
    k, frame = 1, h.frames[1]
    state = model.predictor.step(torch.zeros(1, dtype=torch.int64), model.predictor.initial_state(1))
    for token in h.tokens[:k]:
        state = model.predictor.step(torch.tensor([token]), state[1])
    rest = replace(h, tokens=h.tokens[k:], frames=h.frames[k:], log_probs=h.log_probs[k:])
    part = emission_statistics(model, encoded[0, frame:], rest, frame, state)
    assert len(part.entropies) == len(h.tokens) - 1 > 0 and part.first_frame == frame
    for name, skip in (("entropies", k), ("confidences", k), ("blanks", frame)):
        assert getattr(part, name) == pytest.approx(getattr(whole, name)[skip:], abs=1e-4)
    alone = emission_statistics(model, encoded[0, frame:], rest, frame)  # as if nothing had been said
    assert alone.entropies != pytest.approx(part.entropies, abs=1e-2)


def shortest_first(nbest):
    """A stand-in of a language model: fewer symbols are better."""
    return sorted((replace(h, score=h.score - 3.0 * len(h.tokens)) for h in nbest), key=lambda h: -h.score)


def test_rescoring_changes_the_words_everywhere():
    recognizer = toy_copy(recogniser("beam"))
    audio = babble(5.0, seed=7)
    kept = recognizer.transcribe(audio, endpoint=CUTS)[0]
    recognizer.rescore = shortest_first
    for details in (None, ALL):
        changed = recognizer.transcribe(audio, endpoint=CUTS, details=details)[0]
        assert alike(changed, recognizer.transcribe(audio, endpoint=CUTS, details=details, streaming=True)[0])
    assert len(kept.segments) == len(changed.segments) and kept.text != changed.text
    assert len("".join(kept.text.split())) > len("".join(changed.text.split()))
    for segment in changed.segments:
        assert segment.words and segment.alternatives[0].text == segment.text


def test_an_endless_silence_holds_no_memory():
    recognizer = recogniser()
    session = recognizer.session(endpoint=EndpointConfig(trailing_silence=0.3, max_segment=1.0), details=ALL)
    for i in range(8):
        session.accept(babble(1.0, seed=i))
        session.accept(np.zeros(16000 * 4, np.float32))
    details = session.details
    for frames in (details._encoded, details._layer):
        assert sum(map(len, frames._blocks)) <= (LEAD_SECONDS + 2.5) * 25
    session.finish()
    assert not details._pieces


def test_what_is_missing_is_said():
    audio = babble(1.0)
    with pytest.raises(UserError, match=r"no alignment branch.*asr train-branch"):
        toy_recognizer().session(details=Details(aligned_times=True))
    with pytest.raises(UserError, match="need a beam"):
        toy_recognizer().transcribe(audio, details=Details(alternatives=2))
    with pytest.raises(UserError, match="from 0 to 1000"):
        Details(alternatives=-1)
    recognizer = toy_copy(recogniser("greedy"))
    recognizer.confidence_model = ConfidenceModel(
        ("margin", "has_nbest"), ("has_nbest",), np.zeros(2), np.ones(2), np.ones(2), 0.0
    )
    with pytest.raises(UserError, match="trained with n-best lists"):
        recognizer.session(details=Details(confidence=True))


def toy_copy(recognizer):
    """One whose parts can be exchanged."""
    found = toy_recognizer(**({"search": recognizer.search, "fusion": recognizer.beam.fusion} if recognizer.beam else {}))
    found.aligner = recognizer.aligner
    return found


def test_the_command(tmp_path, capsys):
    import soundfile

    path = tmp_path / "digits.wav"
    soundfile.write(path, babble(2.0, seed=1), 16000)
    assert main(["transcribe", str(path), "--model", "digits", "--alternatives", "2", "--beam", "4"]) == 2
    assert "--format json" in capsys.readouterr().err
    assert main(["transcribe", str(path), "--model", "digits", "--alternatives", "2", "--format", "json"]) == 2
    assert "need a beam" in capsys.readouterr().err
    options = ["--model", "digits", "--alternatives", "2", "--beam", "4", "--confidence", "--aligned-times", "--format", "json"]
    assert main(["transcribe", str(path), *options]) == 0
    offline = json.loads(capsys.readouterr().out)
    assert main(["transcribe", str(path), *options, "--streaming"]) == 0
    assert [w["start"] for w in json.loads(capsys.readouterr().out)["words"]] == [w["start"] for w in offline["words"]]
    for segment in offline["segments"]:
        assert 1 <= len(segment["alternatives"]) <= 2 and segment["confusion"]
        assert math.isfinite(segment["alternatives"][0]["score"])


def test_an_endpoint_token_after_silence_does_not_wait_for_the_next_words(caplog):
    """It ends no segment and belongs to the next one, which may begin long after what was kept of its frame is forgotten."""
    recognizer = recogniser(endpoint=True)
    end = recognizer.tokenizer.endpoint_id
    word = next(i for i in range(1, end) if recognizer.tokenizer.is_word_start(i) and len(recognizer.tokenizer.pieces[i]) > 1)
    session = recognizer.session(endpoint=EndpointConfig(trailing_silence=0.2), details=replace(ALL, alternatives=0))
    encoded, layer = torch.randn(600, 32), torch.randn(600, 32)
    finals = []
    for first in range(0, 600, 4):
        symbols = [Symbol(token, frame, -0.1) for frame, token in ((10, word), (20, end), (300, word), (301, word)) if first <= frame < first + 4]
        session.details.accept(encoded[first : first + 4], layer[first : first + 4], [])
        finals += [event for event in session.take_symbols(4, symbols)[0] if isinstance(event, Final)]
    assert [len(final.words) for final in finals] == [1, 2]
    assert 300 * 0.04 - LEAD_SECONDS <= finals[1].start < 301 * 0.04 and finals[1].symbols[0].token == end
    assert all(0 < w.confidence <= 1 for final in finals for w in final.words)


def test_rescoring_changes_no_word_that_was_stable():
    """Also where the search settles within a segment, which waits for more speech."""
    torch.manual_seed(0)
    model = LanguageModel(toy_tokenizer().vocab_size, LanguageModelConfig(8, 8, 1)).eval()
    torch.nn.init.normal_(model.bias, std=2)
    plain = Recognizer(toy_model(), toy_tokenizer(), FeatureConfig(), search=SearchConfig("modified_beam", beam=6))
    rescored = Recognizer(plain.model, plain.tokenizer, FeatureConfig(), search=plain.search, rescore=Rescorer(model, 1.0))
    config = EndpointConfig(trailing_silence=0.2, min_speech=1.5)
    finals, changed, promised = 0, 0, 0
    for seed in range(8):
        stable = []
        audio = babble(4.0, seed=seed)
        same = [s.text for s in plain.transcribe(audio, endpoint=config)[0].segments]
        for event in stream(rescored, audio, [2560], endpoint=config)[1]:
            words = [word.word for word in event.words]
            assert words[: len(stable)] == stable
            promised += len(stable)
            stable = [] if isinstance(event, Final) else words[: event.stable]
            finals += isinstance(event, Final)
            changed += isinstance(event, Final) and event.text not in same
    assert finals > 8 and changed > 4 and promised > 0
