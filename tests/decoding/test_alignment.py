"""Forced alignment: the best path against brute force and torchaudio, times in order, long audio, impossible texts."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import load_audio
from asr.decoding.align import (
    align_command,
    doubt,
    layer_output,
    read_text,
    stream_layer,
    textgrid,
    to_transcript,
)
from asr.decoding.alignment import (
    AlignedWord,
    Aligner,
    align_words,
    correct_times,
)
from asr.decoding.results import Word
from asr.decoding.viterbi import AlignmentError, build_graph, viterbi
from asr.errors import UserError
from asr.features import Fbank
from asr.models.branch import AlignmentBranch, BranchConfig, has_branch, letter_ids, load_branch
from asr.models.folder import load_model
from asr.pretrained import resolve
from asr.scoring.manifest import read_manifest
from asr.training.branch_data import speech_edges
from tests.toy import babble, toy_model


def random_log_probs(frames: int, symbols: int, seed: int = 0, sharp: float = 3.0) -> np.ndarray:
    logits = torch.randn(frames, symbols, generator=torch.Generator().manual_seed(seed)) * sharp
    return logits.log_softmax(-1).numpy()


def with_wildcard(log_probs: np.ndarray) -> np.ndarray:
    return np.concatenate([log_probs, log_probs.max(1, keepdims=True) - 1], axis=1)


def path_score(log_probs, graph, path) -> float:
    return float(log_probs[np.arange(len(path)), graph.symbols[path]].sum())


def collapse(symbols, blank=0) -> list[int]:
    return [s for s, _ in itertools.groupby(symbols) if s != blank]


cases = st.tuples(
    st.integers(1, 6),
    st.lists(st.integers(1, 2), min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 64]),
)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_ctc_path_is_the_best_of_all_labelings(case):
    frames, text, seed, block = case
    log_probs = random_log_probs(frames, 3, seed)
    labelings = [y for y in itertools.product(range(3), repeat=frames) if collapse(y) == text]
    graph = build_graph([text], 3, 0, None, False)
    if not labelings:
        with pytest.raises(AlignmentError, match=rf"at least \d+ frames and the audio has {frames}"):
            viterbi(with_wildcard(log_probs), graph, block=block)
        return
    best = max(sum(log_probs[t, s] for t, s in enumerate(y)) for y in labelings)
    path = viterbi(with_wildcard(log_probs), graph, block=block)
    assert collapse(graph.symbols[path]) == text
    assert path_score(log_probs, graph, path) == pytest.approx(best, abs=1e-4)


def expansions(words, frames, boundary=1):
    """All ways to fill the frames without blank: every letter at least once, boundaries anywhere between words or not."""
    for used in itertools.product((False, True), repeat=len(words) + 1):
        symbols = [boundary] if used[0] else []
        for word, silence in zip(words, used[1:], strict=True):
            symbols = [*symbols, *word, *([boundary] if silence else [])]
        if any(a == b for a, b in itertools.pairwise(symbols)):
            continue  # cannot be told from one held symbol
        for cuts in itertools.combinations(range(1, frames), len(symbols) - 1):
            edges = [0, *cuts, frames]
            yield [s for s, a, b in zip(symbols, edges, edges[1:], strict=False) for _ in range(b - a)]


@given(
    st.integers(1, 7),
    st.lists(st.sampled_from([(2,), (3,), (2, 3), (3, 2)]), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_path_without_blank_is_the_best_of_all(frames, words, seed):
    log_probs = random_log_probs(frames, 4, seed)
    graph = build_graph(words, 4, None, 1, False)
    scores = [sum(log_probs[t, s] for t, s in enumerate(y)) for y in expansions(words, frames)]
    if not scores:
        with pytest.raises(AlignmentError, match="frames"):
            viterbi(with_wildcard(log_probs), graph)
        return
    path = viterbi(with_wildcard(log_probs), graph, block=2)
    assert path_score(log_probs, graph, path) == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_same_score_as_torchaudio(seed):
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio does not load: {error}")
    rng = np.random.default_rng(seed)
    text = rng.integers(1, 20, size=60).tolist()
    log_probs = random_log_probs(300, 20, seed)
    reference, scores = forced_align(
        torch.from_numpy(log_probs)[None], torch.tensor([text], dtype=torch.int32), blank=0
    )
    graph = build_graph([text], 20, 0, None, False)
    path = viterbi(with_wildcard(log_probs), graph, block=37)
    assert path_score(log_probs, graph, path) == pytest.approx(float(scores.sum()), rel=1e-5)
    assert np.mean(graph.symbols[path] == reference[0].numpy()) > 0.98  # ties may be broken otherwise


def test_repeated_letters_need_a_blank_between_them():
    log_probs = np.log(np.array([[0.05, 0.95], [0.05, 0.95], [0.05, 0.95], [0.05, 0.95]]))
    graph = build_graph([[1, 1]], 2, 0, None, False)
    path = viterbi(with_wildcard(log_probs), graph)
    assert collapse(graph.symbols[path]) == [1, 1] and 0 in graph.symbols[path]
    with pytest.raises(AlignmentError, match="at least 3 frames and the audio has 2"):
        viterbi(with_wildcard(log_probs[:2]), graph)


def planted(words, frames_each, gap, lead=10, symbols=29, seed=0, sure=6.0):
    """Log-probabilities in which the words are said one after another, and their (first, last) frames."""
    rng = np.random.default_rng(seed)
    said, spans = [1] * lead, []
    for word in words:
        first = len(said)
        for symbol in letter_ids(word):
            said += [symbol] * frames_each
        spans.append((first, len(said)))
        said += [1] * int(rng.integers(0, gap + 1))
    said += [1] * lead
    logits = torch.from_numpy(rng.normal(size=(len(said), symbols)))
    logits[torch.arange(len(said)), torch.tensor(said)] += sure
    return logits.log_softmax(-1).float(), spans


def no_blank(log_probs, words, **options):
    return align_words(log_probs, words, letter_ids, frame_seconds=0.02, blank=None, boundary=1, **options)


def check_order(aligned, total):
    at = 0.0
    for word in aligned:
        assert at <= word.start < word.end
        at = word.end
    assert at <= total + 1e-6


def test_words_are_where_they_were_said():
    words = "three eight hello two can't three three".split()
    log_probs, spans = planted(words, 4, 8)
    found = no_blank(log_probs, words)
    for word, (first, last) in zip(found, spans, strict=True):
        assert word.start == pytest.approx(first * 0.02) and word.end == pytest.approx(last * 0.02)
        assert word.score > -0.5
    check_order(found, len(log_probs) * 0.02)


def test_long_audio_in_bands_and_blocks_is_the_whole():
    rng = np.random.default_rng(1)
    vocabulary = "one two three four five six seven eight nine zero".split()
    words = [vocabulary[i] for i in rng.integers(0, 10, size=600)]
    log_probs, spans = planted(words, 3, 12, sure=5.0)
    whole = no_blank(log_probs, words)
    narrow = no_blank(log_probs, words, width=128, block=64)
    assert narrow == whole
    assert np.mean([abs(w.start - first * 0.02) <= 0.04 for w, (first, _) in zip(whole, spans, strict=True)]) > 0.97


def test_memory_is_far_from_frames_times_states():
    import tracemalloc

    words = [f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyz'[i % 6]}" for i in range(1200)]
    log_probs, spans = planted(words, 3, 10)
    log_probs = log_probs.numpy()
    tracemalloc.start()
    found = no_blank(log_probs, words, width=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    states = 4 * len(words)
    assert peak < 4 * log_probs.nbytes < len(log_probs) * states / 9  # T x S of single bytes
    assert np.mean([abs(w.start - first * 0.02) <= 0.04 for w, (first, _) in zip(found, spans, strict=True)]) > 0.97


def test_a_band_that_loses_the_end_is_widened():
    words = ["abcdef"] * 30
    log_probs, spans = planted(words, 2, 2)
    silence = np.log(np.full((400, 29), 0.001))
    silence[:, 1] = np.log(0.97)
    joined = np.concatenate([silence, log_probs.numpy(), silence])
    found = no_blank(joined, words, width=8)
    assert [round(w.start / 0.02) for w in found] == [first + 400 for first, _ in spans]


def test_speech_before_and_after_the_text_is_skipped():
    text = "seven one".split()
    log_probs, spans = planted("hello world seven one good bye".split(), 4, 6)
    found = no_blank(log_probs, text, skip_ends=True)
    for word, (first, last) in zip(found, spans[2:4], strict=True):
        assert word.start == pytest.approx(first * 0.02) and word.end == pytest.approx(last * 0.02)
    forced = no_blank(log_probs, text)  # without, the words must take what is not theirs
    assert min(word.score for word in forced) < min(word.score for word in found) - 1


def test_words_that_cannot_be_spelled_take_what_their_neighbours_leave():
    said = "one twenty two three".split()
    log_probs, spans = planted(said, 4, 0)
    found = no_blank(log_probs, ["one", "22", "three", "42"])
    assert [word.guessed for word in found] == [False, True, False, True]
    assert found[1].score == -math.inf
    assert found[1].start == pytest.approx(found[0].end) and found[1].end == pytest.approx(found[2].start)
    assert found[2].start == pytest.approx(spans[3][0] * 0.02)
    check_order(found, len(log_probs) * 0.02)
    two = no_blank(log_probs, ["11", "12", "one", "two", "three"])
    assert two[0].end == two[1].start and two[1].end <= two[2].start
    check_order(two, len(log_probs) * 0.02)


@given(st.lists(st.sampled_from(["one", "eight", "2", "three", "see"]), min_size=1, max_size=8), st.integers(0, 1000),
       st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.booleans(), st.booleans())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_times_are_in_order_whatever_the_audio_says(words, seed, start_bias, end_bias, skip_ends, ctc):
    log_probs = random_log_probs(90, 29, seed)
    options = {"skip_ends": skip_ends, "start_bias": start_bias, "end_bias": end_bias}
    if set(words) == {"2"}:
        with pytest.raises(AlignmentError, match="no word of the text can be spelled"):
            no_blank(log_probs, words, **options)
        return
    found = (
        align_words(log_probs, words, letter_ids, blank=0, **options) if ctc else no_blank(log_probs, words, **options)
    )
    assert [word.word for word in found] == words
    check_order(found, 90 * (0.04 if ctc else 0.02))


def test_biases_are_taken_off_but_not_into_neighbours():
    words = ["one", "two"]
    log_probs, spans = planted(words, 5, 0, lead=20)
    plain = no_blank(log_probs, words)
    late = no_blank(log_probs, words, start_bias=0.03, end_bias=-0.04)
    assert late[0].start == pytest.approx(plain[0].start - 0.03)
    assert late[1].end == pytest.approx(plain[1].end + 0.04)
    assert late[0].end == late[1].start == plain[1].start  # nothing between them to move into


def test_a_word_that_the_text_lacks_is_left_to_the_silence_for_a_price():
    log_probs, spans = planted("one nine two".split(), 5, 4)
    found = no_blank(log_probs, ["one", "two"], missing_price=4.0)
    for word, (first, last) in zip(found, (spans[0], spans[2]), strict=True):
        assert word.start == pytest.approx(first * 0.02) and word.end == pytest.approx(last * 0.02)


def test_text_that_is_too_long_says_so():
    with pytest.raises(AlignmentError, match="at least 9 frames and the audio has 5"):
        no_blank(random_log_probs(5, 29), ["one", "two", "six"])
    with pytest.raises(AlignmentError, match="no words"):
        no_blank(random_log_probs(5, 29), [])
    with pytest.raises(AlignmentError, match="no audio"):
        no_blank(random_log_probs(0, 29), ["a"])


def toy_aligner(layer: int = 1) -> Aligner:
    torch.manual_seed(1)
    return Aligner(AlignmentBranch(BranchConfig(input_dim=32, layer=layer, hidden=8)).eval(), letter_ids)


def test_correct_times_moves_words_and_keeps_the_rest():
    aligner = toy_aligner()
    words = (Word("one", 4.2, 4.24, 0.9), Word("two", 4.6, 4.64, 0.8))
    log_probs, spans = planted(["one", "two"], 5, 3)
    found = correct_times(words, log_probs, 100, aligner)
    assert [(w.word, w.confidence) for w in found] == [("one", 0.9), ("two", 0.8)]
    assert [w.start for w in found] == [pytest.approx(4.0 + first * 0.02) for first, _ in spans]
    assert [w.end for w in found] == [pytest.approx(4.0 + last * 0.02) for _, last in spans]
    assert correct_times(words, log_probs, 100, None) == words
    assert correct_times(words, log_probs[:3], 100, aligner) == words  # too short
    odd = (Word("1", 4.2, 4.24, 0.9),)
    assert correct_times(odd, log_probs, 100, aligner) == odd
    assert correct_times((), log_probs, 100, aligner) == ()


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_layers_are_the_same_in_a_stream(layer):
    model, fbank = toy_model(), Fbank()
    audio = babble(2.3, seed=5)
    whole = layer_output(model, fbank, audio, layer)
    parts = list(stream_layer(model, fbank, np.array_split(audio, [100, 5000, 5001, 30000]), layer))
    assert whole.shape[0] == -(-((len(audio) + 80) // 160) // 4)
    torch.testing.assert_close(torch.cat(parts), whole, atol=2e-5, rtol=1e-4)


def test_text_file_words_and_errors(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("Hello, – world!\n 25 don't", encoding="utf-8")
    assert read_text(str(file)) == ["Hello,", "world!", "25", "don't"]
    assert read_text("one two") == ["one", "two"]
    for bad in ("nothing", str(tmp_path / "no such file.txt"), str(tmp_path)):
        with pytest.raises(UserError, match="no such text file"):
            read_text(bad)
    for empty in ("", " "):
        with pytest.raises(UserError, match="the text is empty: give a text file"):
            read_text(empty)
    file.write_text(" - … \n")
    with pytest.raises(UserError, match="no words"):
        read_text(str(file))


def test_textgrid_covers_the_recording_without_gaps():
    words = [AlignedWord("a", 0.1, 0.2, -0.1), AlignedWord('b"', 0.2, 0.5, -0.3)]
    text = textgrid(to_transcript("x.wav", words, 1.0))
    edges = [float(line.split("=")[1]) for line in text.splitlines() if line.startswith(" " * 12 + "x")]
    assert edges[0] == 0 and edges[-1] == 1.0 and edges[1:-1:2] == edges[2::2]
    assert 'text = "b"""' in text and "intervals: size = 4" in text


@pytest.fixture(scope="module")
def digits():
    folder = resolve("digits")
    if not has_branch(folder):
        pytest.skip("the digits model has no alignment branch: asr train-branch --model digits")
    loaded = load_model(folder)
    return loaded, Aligner.load(folder, loaded.model, loaded.tokenizer)


def test_spliced_digits_are_found_within_50_ms(real_data, digits):
    loaded, aligner = digits
    rng = np.random.default_rng(0)
    errors = []
    for item in read_manifest(real_data / "fsdd", "test")[::7]:
        samples = load_audio(item.audio)
        first, last = speech_edges(samples, 30.0)
        samples = samples[first:last]
        lead = int(rng.integers(4000, 12000))
        audio = np.concatenate([rng.normal(size=lead), np.zeros(len(samples)), rng.normal(size=8000)]).astype(
            np.float32
        )
        audio *= 0.005 * float(np.sqrt(np.mean(samples**2)))
        audio[lead : lead + len(samples)] = samples
        log_probs = aligner.log_probs(layer_output(loaded.model, Fbank(loaded.features), audio, aligner.layer))
        word = aligner.align(log_probs, [item.text])[0]
        errors.append((word.start - lead / 16000, word.end - (lead + len(samples)) / 16000))
    start, end = np.abs(errors).mean(0)
    assert start < 0.05 and end < 0.05


def test_command_on_real_speech(real_data, digits, tmp_path, capsys):
    item = read_manifest(real_data / "phone_numbers", "dev")[0]
    words = item.text.lower().split()
    assert align_command([str(item.audio), item.text, "--model", "digits", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["words"]
    assert [w["word"].lower() for w in found] == words
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(found))
    for form in ("ctm", "textgrid"):
        out = tmp_path / f"x.{form}"
        assert (
            align_command([str(item.audio), item.text, "--model", "digits", "--format", form, "--output", str(out)])
            == 0
        )
        assert words[0].upper() in out.read_text()
    with pytest.raises(UserError, match="needs at least .* frames"):
        align_command([str(item.audio), " ".join([item.text] * 60), "--model", "digits"])
    capsys.readouterr()
    align_command([str(item.audio), item.text + " 42", "--model", "digits", "--format", "json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["words"][-1]["guessed"] is True and "42" in captured.err


def test_command_never_replaces_what_it_reads(tmp_path):
    audio, text, link = tmp_path / "talk.wav", tmp_path / "talk.txt", tmp_path / "link.ctm"
    audio.write_bytes(b"audio")
    text.write_text("one two")
    link.symlink_to(text)
    for output in (audio, text, link):
        with pytest.raises(UserError, match="would be written over"):
            align_command([str(audio), str(text), "--model", "digits", "--output", str(output)])
    with pytest.raises(UserError, match="it is a folder"):
        align_command([str(audio), str(text), "--model", "digits", "--output", str(tmp_path)])
    assert audio.read_bytes() == b"audio" and text.read_text() == "one two"


def test_command_says_what_is_wrong_with_the_text(tmp_path, capsys):
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(48000, np.float32), 16000)
    with pytest.raises(UserError, match=r"no word of the text can be spelled \(write digits as words\)"):
        align_command([str(silence), "888-511 2931", "--model", "digits"])
    assert align_command([str(silence), "one two 42", "--model", "digits"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("their times are guessed: 42 (write digits as words)")
    assert told[1].startswith(f"{silence}: the text hardly fits the recording") and len(told) == 2


def test_doubt_is_of_words_that_were_not_said():
    sure, unsure, guessed = (AlignedWord("one", 0.0, 0.2, score) for score in (math.log(0.5), math.log(0.001), -math.inf))
    assert not doubt([sure, sure, unsure]) and not doubt([guessed]) and not doubt([])
    assert "hardly fits" in doubt([sure, unsure, unsure, guessed])


def test_segments_are_closed_at_their_last_word():
    words = [AlignedWord("a", 0.1, 0.2, -0.1), AlignedWord("b", 0.3, 0.5, -0.1), AlignedWord("c", 2.0, 2.5, -0.1)]
    assert [segment.closed for segment in to_transcript("x", words, 3.0).segments] == [0.5, 2.5]


def test_the_shipped_branch_belongs_to_its_encoder(digits):
    loaded, _ = digits
    assert load_branch(loaded.folder, loaded.model.encoder).config.vocab_size == 29
