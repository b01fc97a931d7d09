"""The neural language model in search: what it adds along a path is the log-likelihood of the path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr.decoding.beam import BeamSearch, SearchConfig
from asr.decoding.fusion import Fusion, FusionSum
from asr.decoding.nbest import Hypothesis, beam_search
from asr.decoding.neural_lm import NeuralFusion, lm_scores
from asr.decoding.rescoring import Rescorer
from asr.features import Fbank
from asr.models.lm import LanguageModel, LanguageModelConfig
from tests.toy import babble, toy_model

V, SCALE = 7, 0.3
PATHS = torch.tensor([[1, 2, 3, 4], [6, 6, 1, 5], [2, 1, 2, 1]])


@pytest.fixture
def lm() -> LanguageModel:
    torch.manual_seed(3)
    model = LanguageModel(V, LanguageModelConfig(8, 12, 2, 0.1, True))
    torch.nn.init.normal_(model.bias)
    return model.eval()


def likelihood(lm: LanguageModel, tokens: list[int]) -> float:
    """ln P of tokens and end, summed by hand over the rows of `forward`."""
    with torch.no_grad():
        rows, _ = lm(torch.tensor([tokens], dtype=torch.int64), torch.tensor([len(tokens)]))
    return sum(float(rows[0, u, y]) for u, y in enumerate([*tokens, 0]))


def walk(fusion: Fusion, paths: Tensor) -> Tensor:
    """What is added along whole paths (N, U), the end included."""
    state = fusion.initial_state(len(paths))
    total = torch.zeros(len(paths))
    for u in range(paths.size(1)):
        total += fusion.scores(state).gather(1, paths[:, u : u + 1])[:, 0]
        state = fusion.step(paths[:, u], state)
    return total + fusion.final(state)


def test_sums_along_a_path_are_its_log_likelihood(lm: LanguageModel) -> None:
    expected = SCALE * torch.tensor([likelihood(lm, path) for path in PATHS.tolist()])
    fusion = NeuralFusion(lm, SCALE)
    torch.testing.assert_close(walk(fusion, PATHS), expected)
    torch.testing.assert_close(walk(torch.jit.script(fusion), PATHS), expected)
    fusion.scale = 2 * SCALE  # as while it is tuned
    torch.testing.assert_close(walk(fusion, PATHS), 2 * expected)


def test_blank_adds_nothing_and_states_are_rows(lm: LanguageModel) -> None:
    fusion = NeuralFusion(lm, SCALE)
    state = fusion.initial_state(3)
    assert all(x.size(0) == 3 and x.is_contiguous() and not x.requires_grad for x in state)
    scores = fusion.scores(state)
    assert scores.shape == (3, V) and scores.dtype == torch.float32
    assert scores[:, 0].tolist() == [0.0] * 3 and bool((scores[:, 1:] < 0).all())
    assert float(fusion.final(state)[0]) < 0  # reading the scores has not touched the state
    # Rows are picked and reordered as the beam does, and go on alone.
    state = fusion.step(PATHS[:, 0], state)
    picked = [x.index_select(0, torch.tensor([2, 0])) for x in state]
    a = fusion.scores(fusion.step(PATHS[[2, 0], 1], picked))
    b = fusion.scores(fusion.step(PATHS[:, 1], state))[[2, 0]]
    torch.testing.assert_close(a, b)


def test_endpoint_token_is_neutral(lm: LanguageModel) -> None:
    fusion = NeuralFusion(lm, SCALE, endpoint_id=6)
    paths = torch.tensor([[1, 6, 2, 6], [6, 6, 1, 2]])
    torch.testing.assert_close(walk(fusion, paths), torch.full((2,), SCALE * likelihood(lm, [1, 2])))
    assert lm_scores(lm, paths.tolist(), endpoint_id=6) == pytest.approx([likelihood(lm, [1, 2])] * 2, abs=1e-4)


def test_with_another_fusion_the_scores_add_up(lm: LanguageModel) -> None:
    both = FusionSum([NeuralFusion(lm, SCALE), NeuralFusion(lm, -0.1)])
    torch.testing.assert_close(walk(both, PATHS), walk(NeuralFusion(lm, SCALE - 0.1), PATHS))


def test_lm_scores_in_one_batch_are_those_alone(lm: LanguageModel) -> None:
    hypotheses = [[1, 2, 3], [], [5], [4, 4, 4, 4, 4, 2]]
    expected = [likelihood(lm, tokens) for tokens in hypotheses]
    lm.train()
    assert lm_scores(lm, hypotheses) == pytest.approx(expected, abs=1e-4)  # dropout is off inside …
    assert lm.training  # … and as it was after it
    assert lm_scores(lm, []) == []


def test_rescoring_is_fusion_afterwards(lm: LanguageModel) -> None:
    nbest = [
        Hypothesis(path, [0] * 4, [-0.1] * 4, -1.0 - 0.1 * i) for i, path in enumerate(PATHS.tolist())
    ]
    added = walk(NeuralFusion(lm, SCALE), PATHS).tolist()
    expected = sorted(((h.score + x, h.tokens) for h, x in zip(nbest, added, strict=True)), reverse=True)
    found = Rescorer(lm, SCALE)(nbest)
    assert [h.tokens for h in found] == [tokens for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert [h.tokens for h in found] != [h.tokens for h in nbest]  # the order did change


def test_beam_search_takes_it_scripted_too() -> None:
    model = toy_model()
    torch.manual_seed(0)
    lm = LanguageModel(model.config.vocab_size, LanguageModelConfig(16, 16, 1, 0.0, True))
    features, lengths = Fbank()(torch.from_numpy(babble(3.0))[None])
    with torch.inference_mode():
        encoded = model.encode(features, lengths)
    plain = beam_search(BeamSearch(model, SearchConfig(kind="modified_beam")), *encoded)[0]
    search = BeamSearch(model, SearchConfig(kind="modified_beam"), NeuralFusion(lm, 0.5))
    fused = beam_search(search, *encoded)[0]
    assert fused[0].tokens != plain[0].tokens and fused[0].score < plain[0].score
    scripted = beam_search(torch.jit.script(search), *encoded)[0]
    assert [h.tokens for h in scripted] == [h.tokens for h in fused]
    assert [h.score for h in scripted] == pytest.approx([h.score for h in fused], abs=1e-4)


def test_a_sum_is_scripted_too(lm: LanguageModel) -> None:
    both = FusionSum([NeuralFusion(lm, SCALE), NeuralFusion(lm, -0.1)])
    torch.testing.assert_close(walk(torch.jit.script(both), PATHS), walk(both, PATHS))
