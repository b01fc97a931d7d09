"""The beam in plain Python lists against the one in tensors, and what it remembers between blocks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from asr.decoding import beam_lists
from asr.decoding.beam import BeamSearch, SearchConfig
from asr.decoding.beam_state import BeamState
from asr.decoding.fusion import Fusion, FusionSum
from asr.decoding.nbest import beam_search, blocks_of
from asr.decoding.state import batch_axes, concatenate, leaves, rebuild, select
from asr.models.emformer import EmformerConfig
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from tests.decoding.test_beam import Table, history_of

KINDS = ["modified_beam", "beam"]
DIM, SYMBOLS, END = 16, 12, 11
OPTIONS = [
    {"beam": 6, "blank_penalty": 3.0},
    {"beam": 4, "blank_penalty": 5.0, "ilm_scale": 0.3, "prune": 4.0},
    {"beam": 1, "blank_penalty": 2.0},
    {"beam": 9, "blank_penalty": -1.0, "prune": 30.0},
]
# not the last with one symbol of context: in a wide full beam, other orders of the same pairs of symbols have exactly the same score
CASES = [
    (predictor, context, options)
    for predictor, context in (("lstm", 1), ("stateless", 1), ("stateless", 3))
    for options in range(4)
    if (context, options, predictor) != (1, 3, "stateless")
]


def random_model(predictor, context=2, peaked=3.0, blank=0.0, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=SYMBOLS,
        encoder=EmformerConfig(dim=DIM, heads=2, ffn_dim=16, layers=1, chunk_ms=160, look_ahead_ms=40, left_context_ms=160),
        predictor=PredictorConfig(kind=predictor, embed_dim=8, hidden_dim=8, layers=2, context_size=context),
        joiner=JoinerConfig(dim=12),
    )  # fmt: skip
    model = Transducer(config).eval()
    with torch.no_grad():
        model.joiner.output.weight *= peaked
        model.joiner.output.bias[0] += blank
    return model


def frames(streams, count, seed=0):
    return torch.randn(streams, count, DIM, generator=torch.Generator().manual_seed(seed)) * 2


def pair(model, kind, fusion=None, **options):
    """The search in lists and the one in tensors."""
    searches = [BeamSearch(model, SearchConfig(kind, **options), fusion, endpoint_id=END) for _ in range(2)]
    searches[1].lists = False
    return searches


def same(a, b):
    """Two states of the same hypotheses; what is at places without one does not matter."""
    live = b.scores > -torch.inf
    assert torch.equal(a.scores > -torch.inf, live)
    for name, one, two in zip(BeamState._fields, a, b, strict=True):
        if name == "limits":
            assert torch.equal(one, two)
            continue
        for x, y in zip(leaves(one), leaves(two), strict=True):
            assert x.shape == y.shape and x.dtype == y.dtype, name
            torch.testing.assert_close(x[live], y[live], atol=2e-3, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    return True


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("predictor", "context", "options"), CASES)
def test_lists_and_tensors_are_one_search(kind, predictor, context, options):
    """Three streams of different lengths in blocks of four, with ends of segments, endpoint tokens and fusions."""
    model = random_model(predictor, context, seed=options)
    tables = [Table(SYMBOLS, 5), Table(SYMBOLS, 6)]
    fusion = [None, FusionSum(tables), tables[0], None][options]
    searches = pair(model, kind, fusion, **OPTIONS[options])
    out, lengths = frames(3, 30, seed=options), torch.tensor([30, 25, 3])
    states = [search.initial_state(3, quiet=3, age=15) for search in searches]
    settled = symbols = 0
    for begin in range(0, out.size(1), 4):
        part = out[:, begin : begin + 4]
        valid = (lengths - begin).clamp(0, part.size(1))
        blocks = []
        for i, search in enumerate(searches):
            block, states[i] = search.step(part, valid, states[i])
            blocks.append(block)
        assert history_of(blocks[0]) == history_of(blocks[1])
        assert same(states[0], states[1])
        torch.testing.assert_close(searches[0].ranking(states[0]), searches[1].ranking(states[1]), atol=2e-3, rtol=1e-4)
        settled += int(blocks[0].settled.sum())
        symbols += int((blocks[0].tokens > 0).sum())
    assert settled >= 2 and symbols > 20


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_log_probabilities_are_those_of_the_tensors(kind, predictor):
    model = random_model(predictor)
    for options in OPTIONS[:2]:
        searches = pair(model, kind, Table(SYMBOLS, 5), **options)
        a, b = (beam_search(search, frames(2, 20), torch.tensor([20, 13])) for search in searches)
        for one, two in zip([h for row in a for h in row], [h for row in b for h in row], strict=True):
            assert (one.tokens, one.frames) == (two.tokens, two.frames)
            assert one.log_probs == pytest.approx(two.log_probs, abs=1e-3) and one.score == pytest.approx(two.score, abs=1e-3)


def steps(search, state, out, block=4):
    found = []
    for begin in range(0, out.size(1), block):
        part = out[:, begin : begin + block]
        result, state = search.step(part, torch.full((out.size(0),), part.size(1)), state)
        found.append(history_of(result))
    return found, state


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle", "rebuilt", "selected", "twice", "replaced"])
def test_a_state_is_its_tensors(kind, predictor, way):
    """A state may be copied, taken apart and used again: what a stream remembers beside it is no part of it."""
    search = BeamSearch(random_model(predictor), SearchConfig(kind, beam=4, blank_penalty=3.0), Table(SYMBOLS, 3), END)
    out = frames(2, 32)
    before, state = steps(search, search.initial_state(2, quiet=4), out[:, :16])
    axes = batch_axes(search.initial_state)
    rows = [select(state, torch.tensor([i]), axes) for i in range(2)]
    other = {
        "copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda s: pickle.loads(pickle.dumps(s)),
        "rebuilt": lambda s: rebuild(s, leaves(s)), "selected": lambda s: concatenate(rows, axes), "twice": lambda s: s,
        "replaced": lambda s: s._replace(scores=s.scores.clone()),
    }[way](state)  # fmt: skip
    first, a = steps(search, state, out[:, 16:])
    second, b = steps(search, other, out[:, 16:])
    assert first == second and same(a, b)
    assert before != first


@torch.no_grad()
def test_a_changed_state_is_seen():
    """What is remembered is not what was changed."""
    search = BeamSearch(random_model("stateless"), SearchConfig("modified_beam", beam=4, blank_penalty=3.0))
    out = frames(1, 16)
    _, state = steps(search, search.initial_state(1), out[:, :8])
    scores = state.scores.clone()
    scores[:, 1:] = -torch.inf
    changed = state._replace(scores=scores + 1.0)
    result, after = search.step(out[:, 8:9], torch.tensor([1]), changed)
    plain, reference = search.step(out[:, 8:9], torch.tensor([1]), state)
    assert {head for head, _ in history_of(result)[0][0].values()} == {0}
    assert {head for head, _ in history_of(plain)[0][0].values()} != {0}
    assert float(after.scores[0, 0]) != pytest.approx(float(reference.scores[0, 0]), abs=0.1)


@torch.no_grad()
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_weights_may_change_between_streams(predictor):
    """Nothing that was computed outlives its stream."""
    model = random_model(predictor)
    search = BeamSearch(model, SearchConfig("modified_beam", beam=4, blank_penalty=3.0))
    out, length = frames(1, 20), torch.tensor([20])
    beam_search(search, out, length)
    for parameter in (*model.predictor.parameters(), *model.joiner.parameters()):
        parameter.data.mul_(1.3)  # not counted by autograd
    fresh = BeamSearch(model, SearchConfig("modified_beam", beam=4, blank_penalty=3.0))
    assert [h.score for h in beam_search(search, out, length)[0]] == [h.score for h in beam_search(fresh, out, length)[0]]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_a_stream_is_bounded_and_does_not_matter(kind, monkeypatch):
    search = BeamSearch(random_model("stateless", 2), SearchConfig(kind, beam=4, blank_penalty=3.0))
    out = frames(1, 200)
    expected, state = steps(search, search.initial_state(1), out)
    stream = state.streams[0][0]
    assert len(stream.contexts) > 40
    assert not any(len(context.rows.log_probs) for context in stream.contexts.values())
    monkeypatch.setattr(beam_lists, "MANY_CONTEXTS", 5)
    monkeypatch.setattr(beam_lists, "MANY_HISTORIES", 1)
    found, state = steps(search, search.initial_state(1), out)
    stream = state.streams[0][0]
    assert len(stream.contexts) <= 40
    assert found == expected


@torch.no_grad()
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_what_is_remembered_is_not_computed_again(predictor, monkeypatch):
    """The predictor runs once for a history; a stateless one, once for the symbols that it sees."""
    model = random_model(predictor, 1)
    seen = []
    step = model.predictor.step

    def counted(tokens, state):
        seen.extend(zip(tokens.tolist(), *(part.transpose(0, 1).flatten(1).tolist() for part in state if predictor == "lstm"), strict=True))
        return step(tokens, state)

    monkeypatch.setattr(model.predictor, "step", counted)
    search = BeamSearch(model, SearchConfig("modified_beam", beam=4, blank_penalty=3.0))
    found, _ = steps(search, search.initial_state(1), frames(1, 60))
    emitted = sum(len(path) for heads, _ in (row for block in found for row in block) for _, path in heads.values())
    assert emitted > 30
    keys = [str(item) for item in seen]
    assert len(keys) == len(set(keys))
    if predictor == "stateless":
        assert len(keys) <= SYMBOLS


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_streams_together_are_streams_alone(kind):
    """Requests of all streams are one batch; nobody gets what is another's."""
    search = BeamSearch(random_model("stateless", 2), SearchConfig(kind, beam=5, blank_penalty=3.0), Table(SYMBOLS, 8), END)
    out, lengths = frames(6, 24), torch.tensor([24, 1, 0, 17, 8, 24])
    together = beam_search(search, out, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = beam_search(search, out[row : row + 1, :length], lengths[row : row + 1])[0]
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]], abs=1e-3)


def test_gradients_are_not_needed():
    """`step` works on a model whose parameters ask for gradients, outside no_grad."""
    search = BeamSearch(random_model("lstm"), SearchConfig("beam", beam=3))
    state = search.initial_state(1)
    block, state = search.step(frames(1, 6), torch.tensor([6]), state)
    assert len(blocks_of(block)) == 1
    _, state = search.step(frames(1, 6), torch.tensor([6]), state)
    assert not state.projected.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_endpoint_token_ends_a_segment_as_soon_as_its_hypothesis_is_the_best(kind, lists):
    """In the frame of the token, or in a later one of blanks that makes it the best."""
    late = 0
    for seed in range(12):
        model = random_model("stateless", 1, seed=seed)
        model.joiner.output.bias[END] += 1.5
        search = BeamSearch(model, SearchConfig(kind, beam=6, blank_penalty=-4.0), endpoint_id=END)
        search.lists = lists
        state = search.initial_state(1)
        said = [()] * 6  # symbols of each hypothesis since the last end, with their frames
        at = 0
        for block in frames(1, 40, seed=seed).split(4, 1):
            found, state = search.step(block, torch.tensor([block.size(1)]), state)
            for parents, tokens, _, ranks, settled in zip(*blocks_of(found)[0], strict=True):
                said = [(*said[p], *((t, at) for t in new if t)) for p, new in zip(parents, tokens, strict=True)]
                best = max(range(6), key=ranks.__getitem__)
                ended = bool(said[best]) and said[best][-1][0] == END
                assert settled == ended
                if ended:
                    late += said[best][-1][1] < at
                    said = [()] * 6
                at += 1
    assert late > 0


@torch.no_grad()
def test_the_internal_language_model_knows_no_endpoint_token():
    """As the other language models: it says how likely words are among words."""
    model = random_model("lstm")
    search = BeamSearch(model, SearchConfig("modified_beam", beam=2, ilm_scale=0.5), endpoint_id=END)
    out = torch.randn(5, 8)
    found = search.internal(out)
    assert found.shape == (5, SYMBOLS) and bool((found[:, [0, END]] == 0).all())
    words = (found[:, 1:END] / -0.5).exp()
    torch.testing.assert_close(words.sum(1), torch.ones(5))
    all_symbols = model.joiner.internal_lm_logits(out)[:, : END - 1].softmax(-1)
    torch.testing.assert_close(words, all_symbols)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_without_state_adds_nothing(kind):
    model, out = random_model("stateless", 2), frames(1, 12)
    config = SearchConfig(kind, beam=4)
    plain, summed = (BeamSearch(model, config, fusion) for fusion in (None, FusionSum([Fusion()])))
    assert beam_search(plain, out, torch.tensor([12])) == beam_search(summed, out, torch.tensor([12]))
