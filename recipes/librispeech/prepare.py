"""LibriSpeech, ready to train on: cut files, 500-piece tokens, feature statistics.

    python recipes/librispeech/prepare.py --download corpora                      # 60 GB, all parts
    python recipes/librispeech/prepare.py --corpus corpora/LibriSpeech --parts train-clean-100 dev-clean test-clean
    python recipes/librispeech/prepare.py --corpus FOLDER_WITH_MANIFEST --limit 300 --vocab 200   # a smoke run

Writes into ``--output``: ``cuts_PART.jsonl.gz`` for each part (for a folder with a ``manifest.jsonl``: for each split),
``tokens.model`` and ``tokens.txt`` trained on the train parts, ``statistics.json`` with the feature mean and deviation.
What a previous run with the same settings finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone as it is

from asr.data.config import CorpusConfig
from asr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a user's error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--download", metavar="FOLDER", help="download the parts below this folder, then prepare them"
    )
    where.add_argument(
        "--corpus", metavar="FOLDER", help="an existing LibriSpeech folder, or one with a manifest.jsonl"
    )
    parser.add_argument(
        "--parts", nargs="+", default=[], help="LibriSpeech parts or manifest splits (default: all)"
    )
    parser.add_argument("--output", default="exp/librispeech/data", help="default: %(default)s")
    parser.add_argument(
        "--vocab", type=int, default=500, help="tokens, blank included (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="utterances per part, for a smoke run (default: all)"
    )
    parser.add_argument(
        "--statistics-seconds", type=float, default=3600.0, help="audio to measure on (default: 3600)"
    )
    arguments = parser.parse_args(argv)
    try:
        prepare(**vars(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(
    download: str | None = None,
    corpus: str | None = None,
    parts: list[str] | None = None,
    output: str | Path = "exp/librispeech/data",
    vocab: int = 500,
    limit: int = 0,
    statistics_seconds: float = 3600.0,
) -> Path:
    """Prepares everything the recipe reads and returns ``output``; the arguments are the command's options."""
    from lhotse import CutSet

    from asr.data.corpora import LIBRISPEECH_PARTS, assert_disjoint_speakers, download_librispeech, load_cuts
    from asr.data.dataset import cut_text
    from asr.data.statistics import feature_statistics
    from asr.tokens import Tokenizer

    if download:
        folder = download_librispeech(download, parts or LIBRISPEECH_PARTS[:7])
    else:
        folder = Path(corpus)
    parts = list(parts or _parts(folder))
    train_parts = [part for part in parts if part.startswith("train")]
    if not train_parts:
        raise UserError(
            f"None of the parts {', '.join(parts)} is a train part: tokens and statistics need one."
        )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    _keep_only(output, {"corpus": str(folder.resolve()), "limit": limit})
    sets = {}
    for part in parts:
        path = output / f"cuts_{part}.jsonl.gz"
        if not path.is_file():
            cuts = load_cuts(CorpusConfig(str(folder), split=part))
            if limit and len(cuts) > limit:  # evenly, for many speakers: the corpus is sorted by speaker
                every = list(cuts)
                cuts = CutSet.from_cuts(every[i * len(every) // limit] for i in range(limit))
            temporary = output / f"part-cuts_{part}.jsonl.gz"
            CutSet.from_cuts(_absolute(cuts)).to_file(temporary)
            os.replace(temporary, path)
        sets[part] = load_cuts(path)
        hours = sum(cut.duration for cut in sets[part]) / 3600
        print(f"{part}: {len(sets[part])} utterances, {hours:.2f} h -> {path}", flush=True)
    train = [cut for part in train_parts for cut in sets[part]]
    others = [part for part in parts if part not in train_parts]
    assert_disjoint_speakers(train, *(sets[part] for part in others), names=["train", *others])
    tokenizer = Tokenizer.train((cut_text(cut) for cut in train), vocab)
    tokenizer.save(output)
    print(f"tokens: {tokenizer.vocab_size} -> {output / 'tokens.model'}", flush=True)
    statistics = feature_statistics(train, statistics_seconds)
    statistics.save(output / "statistics.json")
    print(f"statistics over {statistics.frames / 360000:.2f} h -> {output / 'statistics.json'}")
    return output


def _parts(folder: Path) -> list[str]:
    """The LibriSpeech parts that are there, or the splits of a manifest."""
    from asr.data.corpora import librispeech_parts

    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        found = list(librispeech_parts(folder)) if folder.is_dir() else []
        if not found:
            raise UserError(f"{folder} holds neither LibriSpeech parts nor a manifest.jsonl.")
        return found
    splits = set()
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        try:
            splits.add(json.loads(line).get("split") if line.strip() else None)
        except (json.JSONDecodeError, AttributeError) as error:
            raise UserError(f"{manifest}, line {number}: not a JSON object.") from error
    return sorted(split for split in splits if split)


def _absolute(cuts):
    """Cut files are read from anywhere: audio paths must not depend on the current folder."""
    for cut in cuts:
        for source in cut.recording.sources:
            source.source = str(Path(source.source).resolve())
        yield cut


def _keep_only(output: Path, settings: dict) -> None:
    """Removes what ``output`` holds of other settings, then notes these.

    Whenever this or the work after it is interrupted, what prepare.json says is true of every file beside it.
    """
    path = output / "prepare.json"
    try:
        if json.loads(path.read_text(encoding="utf-8")) == settings:
            return
    except (OSError, ValueError):  # not there, or half written
        pass
    path.unlink(missing_ok=True)  # first: from here on nothing claims the files that are left
    for pattern in ("cuts_*.jsonl.gz", "part-cuts_*.jsonl.gz", "tokens.*", "statistics.json"):
        for old in output.glob(pattern):
            old.unlink()
    temporary = output / "part-prepare.json"
    temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
