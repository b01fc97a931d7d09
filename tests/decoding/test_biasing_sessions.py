"""Phrases of sessions that change while words are being said, beside language models, and what the commands say of them."""

from __future__ import annotations

import pytest
import soundfile
import torch

from asr.cli import main
from asr.decoding.beam import SearchConfig
from asr.features import FeatureConfig
from asr.models.folder import save_model
from asr.streaming import NO_ENDPOINT, Final
from tests.decoding.test_beam import Table
from tests.streaming.test_session import times
from tests.toy import babble, cut_words, toy_model, toy_recognizer, toy_tokenizer

PHRASES = {"nothing is lost": 4.0, "seven eight": 4.0, "stream": 6.0, "segments when": 3.0}
CHUNK = 2560  # samples of a step of the toy model


def recogniser(phrases=(), kind="modified_beam", fusion=None, ilm_scale=0.0):
    config = SearchConfig(kind, beam=4, blank_penalty=3.0 if kind == "modified_beam" else 9.0, max_symbols=2, ilm_scale=ilm_scale)
    return toy_recognizer(search=config, phrases=phrases, fusion=fusion)


def words_of(session, audio, block=CHUNK, before=lambda session, count: None):
    """The words of a session; ``before`` is called before every block."""
    events = []
    for count, at in enumerate(range(0, len(audio), block)):
        before(session, count)
        events += session.accept(audio[at : at + block])
    events += session.finish()
    return times([word for event in events if isinstance(event, Final) for word in event.words])


@pytest.mark.parametrize("kind", ["modified_beam", "beam"])
@pytest.mark.parametrize("endpoint", [None, NO_ENDPOINT])
def test_the_same_list_before_every_block_changes_no_word(kind, endpoint):
    audio = babble(2.0, seed=8)
    phrases = {phrase: boost * (1 if kind == "modified_beam" else 3) for phrase, boost in PHRASES.items()}
    offline = times(cut_words(recogniser(phrases, kind).transcribe(audio, endpoint=endpoint)[0]))
    assert offline != times(recogniser((), kind).transcribe(audio, endpoint=endpoint)[0].words)
    recognizer = recogniser((), kind)
    for options in ({}, {"phrases": phrases}):
        session = recognizer.session(endpoint=endpoint, **options)
        assert words_of(session, audio, before=lambda session, count: session.set_phrases(phrases)) == offline
    held = recognizer.bias.arena[0].size(0)
    assert held <= 1 + 1 + 2  # no slot, the recogniser's, those of the sessions


def test_a_list_that_is_taken_away_leaves_nothing_behind():
    """The score of every hypothesis is what the model gives it, and what complete phrases have earned."""
    audio = babble(3.0, seed=8)
    recognizer = recogniser()
    for blocks in range(4, 18, 4):
        session = recognizer.session(endpoint=NO_ENDPOINT, phrases=PHRASES)
        for at in range(blocks):
            session.accept(audio[at * CHUNK : (at + 1) * CHUNK])
        state = recognizer._row(session)[1]
        expected = recognizer.beam.ranking(state)
        session.set_phrases([])
        after = recognizer._row(session)[1]
        assert torch.allclose(after.scores, expected, atol=1e-4)  # unfinished matches are taken back
        assert not after.bonus.any()  # and nothing is added to the symbol that follows


def test_sessions_that_change_their_lists_do_not_disturb_each_other():
    recognizer, audio = recogniser(), babble(2.0, seed=8)
    lists = [PHRASES, {"zero": 5.0}, {"stream": 2.0, "cut into": 5.0}]
    sessions = [recognizer.session(endpoint=NO_ENDPOINT) for _ in lists]
    texts: list[list] = [[] for _ in lists]
    for count, at in enumerate(range(0, len(audio), CHUNK)):
        for k, session in enumerate(sessions):
            if count == 2 * k:
                session.set_phrases(lists[k])
            session.feed(audio[at : at + CHUNK])
        recognizer.step_sessions(sessions)
    for k, session in enumerate(sessions):
        for event in session.finish():
            texts[k] += times(event.words)
        alone = recogniser().session(endpoint=NO_ENDPOINT)
        change = lambda session, count, k=k: session.set_phrases(lists[k]) if count == 2 * k else None  # noqa: E731
        assert texts[k] == words_of(alone, audio, before=change)
        assert k == 2 or texts[k] != times(cut_words(recogniser().transcribe(audio, endpoint=NO_ENDPOINT)[0]))


def test_phrases_beside_a_language_model_and_without_the_internal_one():
    audio = babble(2.0, seed=8)

    def model():
        table = Table(toy_tokenizer().vocab_size, 3)
        table.table[:, 1:] *= 0.3
        return table

    plain = times(recogniser((), fusion=model(), ilm_scale=0.2).transcribe(audio)[0].words)
    offline = times(recogniser(PHRASES, fusion=model(), ilm_scale=0.2).transcribe(audio)[0].words)
    alone = times(cut_words(recogniser(PHRASES).transcribe(audio)[0]))
    assert offline != plain and offline != alone
    recognizer = recogniser((), fusion=model(), ilm_scale=0.2)
    assert words_of(recognizer.session(phrases=PHRASES), audio) == offline
    session = recognizer.session()
    assert words_of(session, audio, before=lambda session, count: session.set_phrases(PHRASES)) == offline
    assert words_of(recognizer.session(phrases=[]), audio) == plain


def test_a_compiled_list_is_shared():
    audio = babble(1.5, seed=8)
    recognizer = recogniser()
    graph = recognizer.phrases(PHRASES)
    assert recognizer.phrases(graph) is graph
    assert times(cut_words(recogniser(graph).transcribe(audio)[0])) == words_of(recognizer.session(phrases=graph), audio)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    save_model(folder / "model", toy_model(), toy_tokenizer(), FeatureConfig(), "toy")
    soundfile.write(folder / "talk.wav", babble(3.0, seed=8), 16000)
    (folder / "phrases.txt").write_text("seven eight\nroute 66\n[names]\nstream\n東京\n", encoding="utf-8")
    return folder


def transcribed(files, capsys, *options):
    command = ["transcribe", str(files / "talk.wav"), "--model", str(files / "model"), "--blank-penalty", "3"]
    status = main([*command, *options])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_commands_take_boosts_and_say_what_cannot_be_boosted(files, capsys, caplog):
    phrases = ["--phrases", str(files / "phrases.txt")]
    plain = transcribed(files, capsys, "--beam", "4")
    faint = transcribed(files, capsys, *phrases, "--phrase-boost", "0.001")
    assert plain[0] == faint[0] == 0 and plain[1] == faint[1] != ""
    assert "2 phrases cannot be boosted" in caplog.text and "route 66" in caplog.text and "東京" in caplog.text
    strong = transcribed(files, capsys, *phrases, "--phrase-boost", "0.001", "--class-boost", "names=30")
    assert strong[0] == 0 and strong[1].split().count("stream") > plain[1].split().count("stream")
    assert transcribed(files, capsys, *phrases, "--class-boost", "name=6")[::2] == (
        2, "error: no class of phrases is called 'name': did you mean 'names'?\n"
    )  # fmt: skip
    status, _, problem = transcribed(files, capsys, "--phrase-boost", "2")
    assert status == 2 and "need --phrases" in problem
    assert transcribed(files, capsys, *phrases, "--phrase-boost", "-1")[0] == 2
