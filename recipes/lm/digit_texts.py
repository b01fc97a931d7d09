"""Writes the texts that the language models of digits in docs/decoding.md have read.

    python recipes/lm/digit_texts.py --speech exp/digits/data/train/manifest.jsonl --output exp/lm/digits

ten.txt, ten_dev.txt: 20,000 and 1,000 random numbers of ten digits, for which a model can know no more than the length; one.txt: single
digits; source.txt: what the acoustic model was trained on, for LODR.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

DIGITS = "zero one two three four five six seven eight nine".split()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--speech", type=Path, required=True, help="manifest of the acoustic model's training")
    parser.add_argument("--output", type=Path, default=Path("exp/lm/digits"))
    args = parser.parse_args(argv)
    if not args.speech.is_file():
        parser.error(f"no such manifest: {args.speech} (recipes/digits/prepare.py makes it)")
    generator = random.Random(1)
    ten = [" ".join(generator.choice(DIGITS) for _ in range(10)) for _ in range(21_000)]
    source = [json.loads(line)["text"] for line in args.speech.read_text(encoding="utf-8").splitlines() if line.strip()]
    args.output.mkdir(parents=True, exist_ok=True)
    for name, lines in (("ten", ten[:20_000]), ("ten_dev", ten[20_000:]), ("one", DIGITS * 100), ("source", source)):
        (args.output / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{args.output / name}.txt: {len(lines)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
