"""An imported model with all that a model of ours has: fusion, phrases, endpoints, n-best lists, times, confidence, alignment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.decoding.added import LanguageModels
from asr.decoding.align import align_command
from asr.decoding.beam import SearchConfig
from asr.streaming import NO_ENDPOINT, EndpointConfig, Recognizer
from asr.streaming.details import Details
from asr.training.branch import branch_command
from asr.training.ngram import ngram_command
from tests.importing.bundles import sentences

ENDPOINT = EndpointConfig(trailing_silence=0.2, max_segment=2.0)


@pytest.fixture(scope="module")
def added(made, real_data, tmp_path_factory) -> Path:
    """Language models over the imported pieces, and an alignment branch beside the imported model, by the commands."""
    folder = tmp_path_factory.mktemp("added")
    (folder / "text.txt").write_text("\n".join(sentences(300)))
    for name, order in (("lm.npz", "3"), ("source.arpa", "2")):
        words = ["--text", str(folder / "text.txt"), "--tokens", str(made.folder), "--order", order, "--out", str(folder / name)]
        assert ngram_command(words) == 0
    lines = [line for line in open(real_data / "librispeech" / "manifest.jsonl") if json.loads(line)["duration"] < 6][:4]
    records = [json.loads(line) for line in lines]
    for record in records:
        record["audio"] = str(real_data / "librispeech" / record["audio"])
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = folder / "model"
    assert branch_command([
        "--model", str(made.folder), "--manifest", str(folder), "--split", "", "--out", str(out),
        "--steps", "8", "--copies", "1", "--hidden", "16", "--any-text",
    ]) == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def ours(made, added) -> Recognizer:
    """Everything at once."""
    return Recognizer.load(
        str(added / "model"),
        search=SearchConfig("modified_beam", beam=4, ilm_scale=0.1),
        language_models=LanguageModels(lm=added / "lm.npz", lm_scale=0.2, lodr=added / "source.arpa", lodr_scale=0.1),
        phrases=[],
    )


def described(transcript):
    return [(s.text, s.reason, [(w.word, w.start, w.end, round(w.confidence, 4)) for w in s.words]) for s in transcript.segments]


def test_streams_and_files_agree_with_everything_on(ours, speech):
    """Words, aligned times, confidences and alternatives of segments; two recordings of different length side by side."""
    details = Details(aligned_times=True, confidence=True, alternatives=3)
    audio = [speech[0], speech[-1]]
    whole = ours.transcribe(audio, endpoint=ENDPOINT, details=details)
    streamed = ours.transcribe(audio, endpoint=ENDPOINT, details=details, streaming=True)
    assert [described(t) for t in streamed] == [described(t) for t in whole]
    assert sum(len(transcript.segments) for transcript in whole) > 2
    for transcript, samples in zip(whole, audio, strict=True):
        assert transcript.segments
        for segment in transcript.segments:
            assert segment.alternatives and segment.alternatives[0].text == segment.text
            assert all(0 <= w.start < w.end <= len(samples) / 16000 + 0.2 and 0 <= w.confidence <= 1 for w in segment.words)


def test_language_model_and_phrases_change_the_words(made, ours, speech):
    plain = Recognizer.load(str(made.folder), search=SearchConfig("modified_beam", beam=4))
    before, fused = (r.transcribe([speech[0]], endpoint=NO_ENDPOINT)[0].text for r in (plain, ours))
    assert before != fused
    wanted = sentences(1)[0].split()[0]
    session = ours.session(endpoint=NO_ENDPOINT, phrases={wanted: 60.0})
    session.accept(speech[0])
    heard = " ".join(event.segment.text for event in session.finish())
    assert heard.count(wanted) > fused.count(wanted)


def test_nbest_lists(ours, speech):
    found = ours.nbest([speech[0]])[0]
    assert 1 < len(found) <= 4 and [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert len({tuple(h.tokens) for h in found}) == len(found)
    assert ours.tokenizer.decode(found[0].tokens) == ours.transcribe([speech[0]], endpoint=NO_ENDPOINT)[0].text
    assert all(np.isfinite(h.log_probs).all() for h in found)


def test_align_command(added, tmp_path, speech, capsys):
    soundfile.write(tmp_path / "a.wav", speech[0], 16000)
    assert align_command([str(tmp_path / "a.wav"), "one two three", "--model", str(added / "model")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[4] for line in lines] == ["one", "two", "three"]
    starts = [float(line[2]) for line in lines]
    assert starts == sorted(starts) and 0 <= starts[0] and starts[-1] < len(speech[0]) / 16000
