"""Beam search: against all paths of tiny models, against greedy, blocks of any size, fusion, endpoints, TorchScript."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from asr.decoding import greedy
from asr.decoding.beam import BeamSearch, SearchConfig
from asr.decoding.biasing import BiasFusion, BiasGraph
from asr.decoding.fusion import Fusion, FusionSum
from asr.decoding.nbest import History, beam_search, blocks_of
from asr.errors import UserError
from asr.models.emformer import EmformerConfig
from asr.models.joiner import JoinerConfig
from asr.models.predictor import PredictorConfig
from asr.models.transducer import ModelConfig, Transducer
from tests.toy import babble, toy_model, toy_recognizer

KINDS = ["modified_beam", "beam"]


def tiny(predictor="lstm", vocab=4, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=vocab,
        encoder=EmformerConfig(dim=16, heads=2, ffn_dim=16, layers=1, chunk_ms=160, look_ahead_ms=40, left_context_ms=160),
        predictor=PredictorConfig(kind=predictor, embed_dim=8, hidden_dim=8, layers=1),
        joiner=JoinerConfig(dim=8),
    )  # fmt: skip
    model = Transducer(config).eval()
    with torch.no_grad():
        model.joiner.output.weight *= 4
    return model


def exhaustive(model, encoder_out, kind, max_symbols, bonus=None, penalty=0.0, ilm_scale=0.0):
    """Logarithm of the summed probability of every history (T, D): all paths, one by one."""
    cache = {}

    def predicted(history):
        if history not in cache:
            state = model.predictor.initial_state(1)
            out, state = model.predictor.step(torch.zeros(1, dtype=torch.int64), state)
            for symbol in history:
                out, state = model.predictor.step(torch.tensor([symbol]), state)
            cache[history] = out
        return cache[history]

    def scores(t, history):
        out = predicted(history)
        logits = model.joiner.join(model.joiner.project_encoder(encoder_out[None, t]), model.joiner.project_predictor(out))
        found = logits.log_softmax(-1)[0].clone()
        found[0] -= penalty
        if ilm_scale:
            found[1:] -= ilm_scale * model.joiner.internal_lm_logits(out)[0].log_softmax(-1)
        if bonus is not None:
            found += bonus(history)
        return found.tolist()

    beams = {(): 0.0}
    for t in range(encoder_out.size(0)):
        after = {}

        def add(history, score, after=after):
            after[history] = float(torch.logaddexp(torch.tensor(after.get(history, -math.inf)).double(), torch.tensor(score).double()))

        for history, score in beams.items():
            layer = {history: score}
            for count in range((1 if kind == "modified_beam" else max_symbols) + 1):
                following = {}
                for y, s in layer.items():
                    p = scores(t, y)
                    if kind != "modified_beam" or count == 0:
                        add(y, s + p[0])
                    for symbol in range(1, len(p)):
                        following[(*y, symbol)] = s + p[symbol]
                if kind == "modified_beam":
                    for y, s in following.items():
                        add(y, s)
                    break
                layer = following
        beams = after
    return beams


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
@pytest.mark.parametrize("options", [{}, {"blank_penalty": 0.7, "ilm_scale": 0.3}])
def test_a_wide_beam_equals_all_paths(kind, predictor, options):
    model = tiny(predictor)
    torch.manual_seed(1)
    frames = 4 if kind == "modified_beam" else 2  # at most 121 histories
    out = torch.randn(2, frames, 16) * 2
    lengths = torch.tensor([frames, frames - 1])
    search = BeamSearch(model, SearchConfig(kind, beam=125, max_symbols=2, prune=1e9, **options))
    found = beam_search(search, out, lengths)
    penalty, ilm = options.get("blank_penalty", 0.0), options.get("ilm_scale", 0.0)
    for row in range(2):
        expected = exhaustive(model, out[row, : lengths[row]], kind, 2, None, penalty, ilm)
        best = sorted(expected.items(), key=lambda item: -item[1])[:50]
        assert len(found[row]) == len(expected)
        for hypothesis, (_, score) in zip(found[row], best, strict=False):
            assert hypothesis.score == pytest.approx(score, abs=1e-4)
            assert expected[tuple(hypothesis.tokens)] == pytest.approx(hypothesis.score, abs=1e-4)
        if not options:
            total = math.fsum(math.exp(score) for score in expected.values())
            assert total == pytest.approx(1.0, abs=1e-4) if kind == "modified_beam" else total < 1.0


class Table(Fusion):
    """A bigram of random numbers, and a random end."""

    def __init__(self, symbols, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(symbols, symbols, generator=generator)
        self.table[:, 0] = 0
        self.ends = torch.randn(symbols, generator=generator)

    def initial_state(self, batch):
        return [torch.zeros(batch, dtype=torch.int64)]

    def scores(self, state):
        return self.table[state[0]]

    def step(self, tokens, state):
        return [tokens]

    def final(self, state):
        return self.ends[state[0]]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_fusion_is_added_at_every_symbol_and_at_the_end(kind):
    model = tiny()
    torch.manual_seed(2)
    out = torch.randn(1, 2, 16) * 2
    one, two = Table(4, 1), Table(4, 2)
    search = BeamSearch(model, SearchConfig(kind, beam=125, max_symbols=2, prune=1e9), FusionSum([one, two]))
    found = beam_search(search, out, torch.tensor([2]))[0]

    def bonus(history):
        last = history[-1] if history else 0
        return one.table[last] + two.table[last]

    expected = exhaustive(model, out[0], kind, 2, bonus)
    expected = {h: s + float(one.ends[h[-1] if h else 0] + two.ends[h[-1] if h else 0]) for h, s in expected.items()}
    best = sorted(expected.values(), reverse=True)
    assert [h.score for h in found[:30]] == pytest.approx(best[:30], abs=1e-4)
    for hypothesis in found[:30]:
        assert expected[tuple(hypothesis.tokens)] == pytest.approx(hypothesis.score, abs=1e-4)
    # the log-probabilities of symbols are the model's own
    best = found[0]
    state = model.predictor.initial_state(1)
    y, state = model.predictor.step(torch.zeros(1, dtype=torch.int64), state)
    for symbol, frame, log_prob in zip(best.tokens, best.frames, best.log_probs, strict=True):
        logits = model.joiner.join(model.joiner.project_encoder(out[0, frame])[None], model.joiner.project_predictor(y))
        assert log_prob == pytest.approx(float(logits.log_softmax(-1)[0, symbol]), abs=1e-4)
        y, state = model.predictor.step(torch.tensor([symbol]), state)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("vocab, frames, max_symbols", [(4, 2, 2), (3, 2, 3), (2, 3, 5)])
def test_phrases_and_everything_else_equal_all_paths(kind, lists, vocab, frames, max_symbols):
    model, table = tiny(vocab=vocab), Table(vocab, 1)
    starts = [False] + [symbol % 2 == 1 for symbol in range(1, vocab)]
    phrases = BiasGraph([(1,), (1, 1, 1), (vocab - 1, 1)], [2.0, 6.0, 0.5], vocab, starts)
    fusion = FusionSum([table, BiasFusion(vocab, phrases)])
    torch.manual_seed(3)
    out = torch.randn(1, frames, 16) * 2
    config = SearchConfig(kind, beam=200, max_symbols=max_symbols, prune=1e9, blank_penalty=0.7, ilm_scale=0.3)
    search = BeamSearch(model, config, fusion)
    search.lists = lists

    def state(history):
        found = fusion.initial_state(1)
        for symbol in history:
            found = fusion.step(torch.tensor([symbol]), found)
        return found

    expected = exhaustive(model, out[0], kind, max_symbols, lambda history: fusion.scores(state(history))[0], 0.7, 0.3)
    expected = {history: score + float(fusion.final(state(history))) for history, score in expected.items()}
    found = {tuple(h.tokens): h.score for h in beam_search(search, out, torch.tensor([frames]))[0]}
    assert found == pytest.approx(expected, abs=1e-3)


def encoded(*seconds):
    with torch.no_grad():
        return toy_recognizer().encode([babble(s, seed=i) for i, s in enumerate(seconds)])


@torch.no_grad()
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_a_beam_of_one_without_merging_is_greedy(predictor):
    model = toy_model(predictor)
    out, lengths = encoded(2.0, 3.1, 0.3)
    found = beam_search(BeamSearch(model, SearchConfig("modified_beam", beam=1)), out, lengths)
    for (best,), expected in zip(found, greedy.greedy_search(model, out, lengths), strict=True):
        assert best.tokens == expected.tokens and best.frames == expected.frames
        assert best.log_probs == pytest.approx(expected.log_probs, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_any_size_and_any_batch_give_the_same(kind):
    model = toy_model()
    out, lengths = encoded(2.0, 2.6, 1.1)
    search = BeamSearch(model, SearchConfig(kind, beam=5), endpoint_id=7)
    expected = None
    for block in (8, 1, 3, 4, out.size(1)):
        state = search.initial_state(3, quiet=4, age=20)
        histories, symbols, lists = [History() for _ in range(3)], [[], [], []], [[], [], []]
        for begin in range(0, out.size(1), block):
            part = out[:, begin : begin + block]
            valid = (lengths - begin).clamp(0, part.size(1))
            result, state = search.step(part, valid, state)
            for i, (n, parts) in enumerate(zip(valid.tolist(), blocks_of(result), strict=True)):
                symbols[i] += histories[i].accept(*(p[:n] for p in parts))
                lists[i] += histories[i].settled
                # what is settled and what is pending is the best hypothesis
                assert histories[i].oldest() <= begin + n
        for i, ranks in enumerate(search.ranking(state).tolist()):
            symbols[i] += histories[i].finish(ranks)
            lists[i] += histories[i].settled
        got = [[(s.token, s.frame) for s in row] for row in symbols]
        counts = [[[h.tokens for h in nbest] for nbest in (piece.nbest for piece in row)] for row in lists]
        if expected is None:
            expected = got, counts
            assert sum(map(len, got)) > 20 and max(map(len, counts)) > 2
        assert (got, counts) == expected
    alone = search.initial_state(1, quiet=4, age=20)
    history, found = History(), []
    result, alone = search.step(out[1:2, : lengths[1]], lengths[1:2], alone)
    found += history.accept(*blocks_of(result)[0])
    found += history.finish(search.ranking(alone)[0].tolist())
    assert [(s.token, s.frame) for s in found] == expected[0][1]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_fall_with_the_beam(kind):
    model = toy_model()
    out, lengths = encoded(3.0, 2.0)
    scores = []
    for beam in (1, 2, 4, 8, 16):
        found = beam_search(BeamSearch(model, SearchConfig(kind, beam=beam)), out, lengths)
        scores.append(sum(nbest[0].score for nbest in found))
        assert all(len({tuple(h.tokens) for h in nbest}) == len(nbest) for nbest in found)
    assert scores == sorted(scores)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_torchscript_gives_the_same(kind, predictor):
    model = toy_model(predictor)
    out, lengths = encoded(1.5, 1.0)
    search = BeamSearch(model, SearchConfig(kind, beam=3, blank_penalty=0.5, ilm_scale=0.2), endpoint_id=7)
    scripted = torch.jit.script(search)
    mine, state = search.step(out, lengths, search.initial_state(2, quiet=5))
    theirs, after = scripted.step(out, lengths, scripted.initial_state(2, quiet=5))
    assert history_of(mine) == history_of(theirs)
    assert torch.allclose(state.scores, after.scores, atol=1e-4)
    mine, theirs = search.step(out, lengths, after)[0], scripted.step(out, lengths, state)[0]  # a state of one is a state of the other
    assert history_of(mine) == history_of(theirs)
    assert torch.allclose(search.ranking(state), scripted.ranking(after), atol=1e-4)


@torch.no_grad()
def test_pruning_only_drops():
    model = toy_model()
    out, lengths = encoded(2.0)
    wide = beam_search(BeamSearch(model, SearchConfig("modified_beam", beam=8, prune=1e9)), out, lengths)[0]
    narrow = beam_search(BeamSearch(model, SearchConfig("modified_beam", beam=8, prune=2.0)), out, lengths)[0]
    assert len(wide) == 8 and len(narrow) < 8
    assert all(h.score >= narrow[0].score - 2.0 - 1e-4 for h in narrow)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "bream"}, "unknown search 'bream'"), ({"beam": 0}, "beam must be"), ({"beam": 2.5}, "beam must be"),
        ({"max_symbols": 0}, "max_symbols must be"), ({"prune": 0.0}, "prune must be"), ({"prune": float("nan")}, "prune must be"),
        ({"blank_penalty": float("nan")}, "blank_penalty must be"), ({"ilm_scale": float("inf")}, "ilm_scale must be"),
    ],
)  # fmt: skip
def test_options_are_checked(options, words):
    with pytest.raises(UserError, match=words):
        SearchConfig(**options)


@torch.no_grad()
def test_no_frames_and_more_streams_than_frames():
    model = toy_model()
    search = BeamSearch(model, SearchConfig("beam", beam=3))
    assert [h.tokens for h in beam_search(search, torch.zeros(1, 0, 32), torch.tensor([0]))[0]] == [[]]
    out, lengths = (tensor.clone() for tensor in encoded(*[0.3] * 9))
    lengths[4] = 0
    found = beam_search(search, out, lengths)
    assert len(found) == 9 and [h.tokens for h in found[4]] == [[]]


def test_every_history_is_known_by_its_hash():
    """Different histories of a few symbols have different hashes."""
    from asr.decoding.beam import HASH

    seen = set()
    for length in range(5):
        for history in itertools.product(range(1, 8), repeat=length):
            value = torch.tensor(1, dtype=torch.int64)
            for symbol in history:
                value = (value + symbol + 1) * HASH
            seen.add(int(value))
    assert len(seen) == sum(7**n for n in range(5))


def history_of(block):
    """What a block says of hypotheses that are alive: where each comes from at its end, and its symbols with their frames."""
    found = []
    for parents, tokens, _, ranks, settled in blocks_of(block):
        heads = {k: (k, ()) for k in range(len(parents[0]))} if parents else {}
        for t, parent in enumerate(parents):
            alive = [k for k, rank in enumerate(ranks[t]) if rank > -math.inf]
            heads = {
                k: (heads[parent[k]][0], (*heads[parent[k]][1], *((t, y) for y in tokens[t][k] if y))) for k in alive if parent[k] in heads
            }
            if settled[t]:
                heads = {0: heads[0]}
        found.append((heads, settled))
    return found
