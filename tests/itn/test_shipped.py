"""The profiles and the tagger that ship: whole = word by word, nothing lost, written text stays, load time and memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from itn import Normalizer
from itn.normalizer import MANIFEST, PROFILES
from itn.style import CATEGORIES
from itn.tagger import MODEL

SENTENCES = [
    "it costs twenty five dollars and thirty cents",
    "call me at six one nine eight two two four four oh seven after nine forty p m",
    "on may third nineteen ninety nine we sold seventy one chairs and four point one percent of the tables",
    "write to kim at fastmail dot com or look at kernel dot org slash docs",
    "one of you may march on the second floor and point at the dash",
    "Flight B seven four two leaves gate four oh two at ten o'clock",
    "the company made sixty million dollars in the third quarter of twenty eighteen eleven percent more",
    "a hundred people and a couple of dogs",
    "\U0001f600 été noughts \ud800 and crosses",
]


def test_an_installation_has_all_parts():
    """They are in the repository: a check-out without them is broken, so nothing here is skipped."""
    assert MODEL.is_file() and all((PROFILES / name / MANIFEST).is_file() for name in ("prose", "nemo"))


@pytest.fixture(scope="module", params=["prose", "nemo"])
def normalizer(request):
    return Normalizer(request.param)


def test_word_by_word_is_the_whole(normalizer):
    words = " ".join(SENTENCES).split()
    rng = random.Random(0)
    texts = [*SENTENCES, " ".join(words), *(" ".join(rng.sample(words, 60)) for _ in range(10))]
    for text in texts:
        stream, spans = normalizer.stream(), []
        for word in text.split():
            spans += stream.push(word).spans
            assert len(stream.pending) <= 12
        spans += stream.finish().spans
        result = normalizer.normalize(text)
        assert (stream.text, tuple(spans)) == (result.text, result.spans)
        rest, at = [], 0
        for span in spans:
            rest += [*text.split()[at : span.start], span.written]
            at = span.end
        assert " ".join([*rest, *text.split()[at:]]) == result.text


def test_what_everybody_expects(normalizer):
    texts = [normalizer.normalize(sentence).text for sentence in SENTENCES]
    assert texts[0] == "it costs $25.30"
    assert "619-822-4407" in texts[1] and "9:40 p.m." in texts[1]
    assert "kim@fastmail.com" in texts[3] and "kernel.org/docs" in texts[3]
    assert texts[8] == SENTENCES[8]
    if normalizer.profile == "prose":
        assert texts[4] == SENTENCES[4] and texts[7] == SENTENCES[7]


def test_written_text_stays(normalizer):
    for sentence in SENTENCES:
        written = normalizer.normalize(sentence).text
        assert normalizer.normalize(written).text == written


def test_every_category_has_a_grammar(normalizer):
    labels = {label.partition("-")[2] for label in normalizer.tagger.labels} - {""}
    assert labels <= set(CATEGORIES)
    for category in CATEGORIES:
        assert normalizer.convert("no such thing at all", category) is None


PROGRAM = """
import json, time
def rss():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
before, began = rss(), time.process_time()
from itn import Normalizer
normalizer = Normalizer("prose")
loaded = time.process_time() - began
for sentence in json.loads(input()):
    normalizer.normalize(sentence)
print(json.dumps([loaded, rss() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_load_time_and_memory():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(SENTENCES), capture_output=True, text=True, check=True
    )
    seconds, megabytes = json.loads(done.stdout)
    assert seconds < 1.0  # 0.3 s on an idle machine; tests share theirs
    assert megabytes < 40


def test_the_demo_recording(request, capsys):
    from asr.cli import main

    audio = request.config.rootpath / "recipes/digits/demo/phone_number.flac"
    assert main(["transcribe", str(audio), "--model", "digits", "--itn"]) == 0
    assert capsys.readouterr().out == "555-018-2697\n"


@pytest.mark.parametrize(
    "spoken, written",
    [
        ("on march third, twenty twenty, we left at ten a.m., not nine p.m.", "on march 3, 2020, we left at 10 a.m., not 9 p.m."),
        ("he paid “twenty five dollars” (thirty percent)", "he paid “$25” (30%)"),
        ("Write kim-lee at fastmail dot com today.", "Write kim-lee@fastmail.com today."),
    ],
)
def test_punctuated_text(spoken, written):
    assert Normalizer("prose").normalize(spoken).text == written
