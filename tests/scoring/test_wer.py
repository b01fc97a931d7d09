"""Word error rate on cases counted by hand."""

from __future__ import annotations

import pytest

from asr.errors import UserError
from asr.scoring.wer import error_report, normalise, parse_map, score, write_report


def test_normalise():
    assert normalise("  Hello,   WORLD! ") == "hello world"
    assert normalise("Don’t stop; it's o'clock…") == "don't stop it's o'clock"
    assert normalise("twenty-one") == "twenty one"
    assert normalise("Ça Œuvre") == "ça œuvre"
    assert normalise("three oh o zero", {"o": "zero", "oh": "zero"}) == "three zero zero zero"
    assert normalise("uh well ok", {"uh": "", "ok": "all right"}) == "well all right"


def test_parse_map():
    assert parse_map(["o=zero", "OH=Zero", "uh="]) == {"o": "zero", "oh": "zero", "uh": ""}
    for bad in ("zero", "=zero", "two words=x"):
        with pytest.raises(UserError, match="--map"):
            parse_map([bad])


def test_known_counts():
    result = score(["the cat sat on the mat"], ["the bat sat the mat today"])
    assert (result.ins, result.dels, result.sub, result.words) == (1, 1, 1, 6)
    assert result.wer == pytest.approx(50.0)
    assert result.to_dict() == {"wer": 50.0, "ins": 1, "del": 1, "sub": 1, "words": 6}


def test_rate_is_over_all_words_not_the_mean_of_utterances():
    result = score(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"])
    assert result.wer == pytest.approx(10.0)


def test_empty_references_and_hypotheses():
    result = score(["", "one two", "", "three"], ["uh oh", "", "", "three"])
    assert (result.ins, result.dels, result.sub, result.words) == (2, 2, 0, 3)
    assert score([""], [""]).wer == 0.0
    nothing = score([""], ["word"])
    assert nothing.wer == float("inf") and nothing.to_dict()["wer"] is None
    assert score([], []).words == 0


def test_map_applies_to_both_sides():
    assert score(["oh one"], ["o one"], {"o": "zero", "oh": "zero"}).wer == 0.0


def test_different_numbers_of_texts_are_refused():
    with pytest.raises(ValueError):
        score(["a"], ["a", "b"])


def test_report_aligns_every_utterance(tmp_path):
    result = score(["the cat sat", "quite right"], ["the big bat sat", "quite right"], ids=["u1", "u2"])
    write_report(tmp_path / "errors.txt", result)
    text = (tmp_path / "errors.txt").read_text()
    assert text == error_report(result)
    assert "id: u1" in text and "scores: (C S D I) 2 1 0 1" in text and "id: u2" in text
    block = text[text.index("id: u1") :].splitlines()[2:5]
    assert block[0].startswith("REF:") and block[1].startswith("HYP:") and block[2].startswith("EVAL:")
    assert block[0].index("CAT") in (block[1].index("BIG"), block[1].index("BAT"))
    assert "1  (inserted) -> " in text and "1  cat -> " in text
    with pytest.raises(UserError, match="cannot write"):
        write_report(tmp_path / "nowhere" / "x.txt", result)


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    result = score(["one two"], ["one"])
    write_report(tmp_path / "report.txt", result)
    old = (tmp_path / "report.txt").read_text()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_report(tmp_path / "report.txt", result)
    assert (tmp_path / "report.txt").read_text() == old and len(list(tmp_path.iterdir())) == 1
