"""What itn/README.md shows is what the package does."""

import io
import re
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from itn import Normalizer
from itn.cli import show_partials
from itn.tagger import MODEL

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "itn" / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason="no tagger yet: train recipes/itn")


def test_the_sentences_word_by_word():
    normalizer, shown = Normalizer("prose"), io.StringIO()
    with redirect_stderr(shown):
        for line in (ROOT / "docs" / "itn_sentences.txt").read_text().splitlines():
            show_partials(normalizer, line)
    block = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert [line.rstrip() for line in block[1].splitlines()] == [line.rstrip() for line in shown.getvalue().splitlines()]


@pytest.mark.parametrize("column", [1, 2])
def test_the_table_of_profiles(column):
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in README.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if row[0] == "spoken")
    table = []
    for row in rows[start + 2 :]:
        if len(row) != 3:
            break
        table.append(row)
    assert len(table) >= 8
    normalizer = Normalizer(("prose", "nemo")[column - 1])
    for row in table:
        for spoken, written in zip(row[0].split(", "), row[column].split(", ")):
            assert normalizer.normalize(spoken).text == written
