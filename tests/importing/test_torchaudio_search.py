"""Our searches on the imported model against `torchaudio.models.RNNTBeamSearch`, its bundle's decoder, on real speech.

Both are time-synchronous searches over the same lattice that add up the paths of a symbol sequence, so with hypotheses
ranked by their score they find the same symbols. The bundle's decoder ranks by score / (symbols + 1) unless told
otherwise, at every frame: of random weights, which never say a symbol with certainty, that makes long sequences of low
probability, so with its default only the scores are compared.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.decoding.beam import BeamSearch, SearchConfig
from asr.decoding.nbest import beam_search
from asr.streaming import NO_ENDPOINT, Recognizer
from asr.streaming.events import Final
from tests.importing.bundles import extractor, normalise, spell

MAX_SYMBOLS = 10  # of a frame, on both sides


@pytest.fixture(scope="module")
def whole(speech) -> list[np.ndarray]:
    """Recordings of whole chunks, whose last frames torchaudio need not pad."""
    return [audio[: len(audio) // 2560 * 2560 - 160] for audio in speech[:3]]


def decoder(made, **options):
    from torchaudio.models import RNNTBeamSearch

    return RNNTBeamSearch(made.theirs, made.bundle.model.vocab_size - 1, step_max_tokens=MAX_SYMBOLS, **options)


def by_score(hypothesis) -> float:
    return hypothesis[3]


def features_of(made, audio: np.ndarray) -> torch.Tensor:
    """torchaudio's features (T, 80) and a look-ahead of silence."""
    features, _ = extractor(made.bundle, made.files, streaming=True)(torch.from_numpy(audio))
    assert len(features) % 16 == 0
    return torch.cat([features, normalise(torch.zeros(4, 80))])


def words(made, tokens: list[int]) -> str:
    """What torchaudio's tokens say, in our tokens' way of writing."""
    return " ".join(spell(made.bundle, made.files, tokens).split())


@torch.inference_mode()
@pytest.mark.parametrize("beam", [4, 10])
def test_the_full_beam_finds_torchaudios_symbols_and_scores(made, whole, beam):
    """Offline, `forward` on the left: the best sequence, its score, and the list behind it."""
    theirs = decoder(made, hypo_sort_key=by_score)
    search = BeamSearch(made.ours.model, SearchConfig("beam", beam=beam, max_symbols=MAX_SYMBOLS, prune=1000.0))
    said = set()
    for audio in whole:
        features = features_of(made, audio)
        expected = theirs(features, torch.tensor(len(features)), beam)
        found = beam_search(search, *made.ours.encode([audio]))[0]
        assert [token + 1 for token in expected[0][0][1:]] == found[0].tokens
        assert found[0].score == pytest.approx(expected[0][3], abs=0.02)
        assert {tuple(h.tokens) for h in found} == {tuple(token + 1 for token in h[0][1:]) for h in expected}
        said |= set(found[0].tokens)
    assert len(said) > 5


@torch.inference_mode()
def test_streaming_words_are_torchaudios(made, whole):
    """`infer` chunk by chunk on the left, a live session that hears blocks of 77 ms on the right."""
    theirs = decoder(made, hypo_sort_key=by_score)
    ours = Recognizer.load(str(made.folder), search=SearchConfig("beam", beam=4, max_symbols=MAX_SYMBOLS, prune=1000.0))
    for audio in whole[:2]:
        features = features_of(made, audio)
        state = hypotheses = None
        for start in range(0, len(features) - 4, 16):
            hypotheses, state = theirs.infer(features[start : start + 20], torch.tensor(20), 4, state, hypotheses)
        session = ours.session(endpoint=NO_ENDPOINT)
        events = [event for at in range(0, len(audio), 1232) for event in session.accept(audio[at : at + 1232])]
        text = " ".join(event.segment.text for event in [*events, *session.finish()] if isinstance(event, Final))
        assert text == words(made, hypotheses[0][0][1:]) != ""
        assert ours.transcribe([audio], endpoint=NO_ENDPOINT)[0].text == text


@torch.inference_mode()
def test_our_best_score_is_no_lower_than_that_of_the_default_decoder(made, whole):
    theirs = decoder(made)
    search = BeamSearch(made.ours.model, SearchConfig("beam", beam=4, max_symbols=MAX_SYMBOLS))
    for audio in whole:
        features = features_of(made, audio)
        expected = max(theirs(features, torch.tensor(len(features)), 4), key=by_score)
        assert beam_search(search, *made.ours.encode([audio]))[0][0].score >= expected[3] - 0.02
