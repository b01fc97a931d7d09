"""Writes the phrases that show what boosts of classes are for (docs/decoding.md): a contact list and short strings that any number may hold.

    python recipes/lm/digit_phrases.py --manifest DATA/phone_numbers/manifest.jsonl --split dev --output exp/phrases.txt
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from digit_texts import DIGITS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--manifest", type=Path, required=True, help="of spoken numbers, which become contacts")
    parser.add_argument("--split", default=None)
    parser.add_argument("--output", type=Path, default=Path("exp/phrases.txt"))
    args = parser.parse_args(argv)
    if not args.manifest.is_file():
        parser.error(f"no such manifest: {args.manifest}")
    rows = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts = [row["text"] for row in rows if args.split in (None, row.get("split"))]
    said = {" ".join("zero" if word in ("oh", "o") else word for word in text.split()) for text in texts}
    generator = random.Random(2)
    made = {" ".join(generator.choice(DIGITS) for _ in range(10)) for _ in range(1000)}
    codes = {" ".join(generator.choice(DIGITS) for _ in range(3)) for _ in range(100)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = ["[contacts]", *sorted(said | made), "[codes]", *sorted(codes)]
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.output}: {len(said)} numbers and {len(made - said)} others in [contacts], {len(codes)} strings in [codes]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
