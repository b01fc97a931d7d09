"""Training data: written sentences said aloud with labels, slots, noise, splits."""

import random
import re

import numpy as np
import pytest

pytest.importorskip("pynini")

from itn import data, values
from itn.written import Spoken, label_numbers, plain, span, speak


@pytest.fixture(scope="module")
def say():
    return data.Verbaliser()


def tagged(sentence: Spoken) -> str:
    """"at [time nine a m] sharp": labels in a form to read."""
    out = []
    for word, label in zip(sentence.words, sentence.labels):
        if label.startswith("B-"):
            out.append(f"[{label[2:]} {word}")
        elif label.startswith("I-"):
            out.append(word)
        else:
            out.append(word)
    text, open_ = [], False
    for piece, label, following in zip(out, sentence.labels, [*sentence.labels[1:], "O"]):
        open_ = open_ or label.startswith("B-")
        text.append(piece + ("]" if open_ and not following.startswith("I-") else ""))
        if not following.startswith("I-"):
            open_ = False
    return " ".join(text)


class Usual:
    """Always the usual way of saying, so that examples can be written down."""

    def __init__(self, say):
        self.say = say
        self.accepts = say.accepts

    def __call__(self, category, written, rng):
        found = self.say.ways(category, written)
        return found[0][0] if found else None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("We grew 16% in 2020.", "We grew [measure sixteen percent] in [date twenty twenty]"),
        ("It cost $3.5 million, or €18.", "It cost [money three point five million dollars] or [money eighteen euros]"),
        ("Call 619-822-4407 at 9:40 a.m. today", "Call [telephone six one nine eight two two four four oh seven] at [time nine forty a m] today"),
        ("On March 8th, 2019 the 21st one", "On [date march eighth twenty nineteen] the [ordinal twenty first] one"),
        ("10,000 people; 7 million more", "[cardinal ten thousand] people [cardinal seven million] more"),
        ("Let's meet at half past 6 or 7 o'clock.", "Let's meet at [time half past six] or [time seven o'clock]"),
        ("I may have twenty-five of them", "I may have [cardinal twenty five] of them"),
        ("Ten percent of two people", "[measure Ten percent] of [cardinal two] people"),
        ("in the third quarter of 2018 we did", "in the [date third quarter of twenty eighteen] we did"),
        ("Mr. Lee, wait a second.", "[whitelist mister] Lee wait a second"),
        ("The U.S. has long-term plans", "The U S has long term plans"),
        ("on the sixth of march", "on [date the sixth of march]"),
        ("In the 1990s, Q3 2018", "In the [date nineteen nineties] [date q three twenty eighteen]"),
        ("Write to kim@fastmail.com now", "Write to [electronic kim at fastmail dot com] now"),
        ("two and a half", "two and a half"),
        ("one of the first", "one of the first"),
    ],
)
def test_speak(say, written, expected):
    sentence = speak(written, Usual(say), random.Random(0))
    assert sentence is not None
    got = tagged(sentence)
    assert got.replace(" zero ", " oh ") == expected
    assert len(sentence.words) == len(sentence.labels) == len(sentence.written)


@pytest.mark.parametrize("written", ["Comment #3", "a 10/12 ratio", "x²", "v2.0.1beta", "R2D2 is here", "12-34", "twenty nineteen oh four"])
def test_what_is_not_understood_is_dropped(say, written):
    assert speak(written, say, random.Random(0)) is None


def test_every_slot_gives_words_its_grammar_reads(say):
    rng = random.Random(0)
    for slot in values.SLOTS:
        made = [v for v in (values.sample(slot, rng, say) for _ in range(30)) if v is not None]
        assert len(made) >= 15, slot
        category = slot.split(".")[0]
        for value in made:
            assert value.labels[0] == f"B-{category}" and set(value.labels[1:]) <= {f"I-{category}"}
            assert not re.search(r"[^a-z' .]", " ".join(value.words)), (slot, value.words)


def test_hand_written_lines_are_sound(say):
    """Every carrier can be filled, every marked span has a known category."""
    rng = random.Random(0)
    for name in ("carriers", "negatives", "pairs"):
        lines = data.hand_written(name)
        assert len(lines) > 500
        for line in lines:
            for slot in re.findall(r"\{([^}]*)\}", line):
                assert slot in values.SLOTS, line
            for category in re.findall(r"\[([^:\]]*):", line):
                assert f"B-{category}" in data.LABELS, line
            assert not re.search(r"[0-9,;?!$%\"]", re.sub(r"\{[^}]*\}", "", line).replace(":", "")), line
        filled = [data.carrier(line, say, rng) for line in rng.sample(lines, 100)]
        assert sum(s is not None for s in filled) > 85


def test_label_numbers_leaves_what_is_unsure(say):
    assert label_numbers(plain("nineteen ninety four".split())) is None
    assert label_numbers(plain("at six thirty p m".split())) is None
    assert label_numbers(plain("seventy chairs".split())).labels == ["B-cardinal", "O"]


def test_noise_keeps_labels_beside_words():
    sentence = plain("we met".split()) + span("time", "nine a m") + plain("at the gate".split())
    rng = random.Random(0)
    for _ in range(300):
        got = data.cased(data.noisy(sentence, rng), rng)
        assert len(got.words) == len(got.labels)
        at = got.labels.index("B-time")
        assert got.labels[at : at + 3] == ["B-time", "I-time", "I-time"]
        assert " ".join(got.words[at : at + 3]).lower() == "nine a m"


def test_pack_and_read_back(tmp_path):
    from itn.tagger import END, Pieces

    train = pytest.importorskip("itn.train")
    sentences = [plain("a b".split()) + span("time", "nine a m"), plain(["c"])]
    assert data.pack(sentences, tmp_path / "train_1.npz") == 2
    pieces = Pieces(["<unk>", "<end>", *("▁" + c for c in "abcmnie"), *"nie"])
    examples = train.Examples(tmp_path / "train_1.npz", pieces)
    batch, shapes, targets = examples.batch(np.array([0, 1]))
    assert batch.shape[:2] == shapes.shape == (2, 8) and targets.shape == (2, 8, 3)
    first = [data.LABELS[i] for i in targets[0, 1:6, 0].tolist()]
    assert first == ["O", "O", "B-time", "I-time", "I-time"]
    assert targets[0, 3:, 2].tolist() == targets[0, 1:6, 0].tolist()  # two words later the same labels
    assert targets[0, :1, 0].tolist() == [-100] and targets[0, 6:, 0].tolist() == [-100, -100]
    assert batch[0, 0, 0] == batch[0, 6, 0] == END and shapes[0, 0] == shapes[0, 6] == -1
    assert targets[1, 2:, 0].tolist() == [-100] * 6


def test_the_split_is_by_sentence_and_stable():
    share = sum(data.held_out(f"sentence number {i}") for i in range(4000)) / 4000
    assert 0.03 < share < 0.07
    assert data.held_out("Hello, World!") == data.held_out("hello world")
