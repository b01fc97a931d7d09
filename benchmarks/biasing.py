"""Phrase boosting on real speech: recall of rare words or of whole numbers, and what lists do to everything else.

    python benchmarks/biasing.py --model exp/english/run/model --text DATA/text/librispeech_lm.txt.gz \
        --manifest DATA/librispeech DATA/speechocean762 --split dev --streaming
    python benchmarks/biasing.py --sentences --model digits --manifest DATA/phone_numbers --others DATA/speechocean762 DATA/fsdd \
        --map oh=zero o=zero --limit 40 --boosts 0.5 1 1.5 2 3 --streaming
    python benchmarks/biasing.py --sentences --parts --model digits --manifest DATA/phone_numbers --others DATA/speechocean762 DATA/fsdd \
        --map oh=zero o=zero --limit 40 --boosts 0.25 0.5 1 1.5 2 --distractors 0 10 100 --choose-with 10 100 --streaming

Recall, by the protocol of Le et al. 2021 (arXiv 2104.02194): rare words are those outside the `--common` most frequent words of `--text`. The
list of an utterance holds its own rare words and D others, drawn with a fixed seed from the rare words of the text and of all references; D =
"all" is one list of all of them, and the last row one list of `--session-list` words for everything. WER is split into errors of rare words
(B-WER, with inserted words of the list) and of the others (U-WER), each in percent of its own reference words; "false" counts words of the
list in the output that were not said there, in percent of all reference words. The speakers of each corpus are split into two halves of about
as many utterances: the boost is chosen on one (lowest WER, mean over the lists) and used on the other, and the other way round; the report
counts both. `--streaming` repeats it in sessions, each with its own list, eight to a batch, and compares the words.

`--sentences`: the phrase of an utterance is all that is said, as with phone numbers of contacts; with `--parts` its first three and its last four
words are two phrases. The others are made of the same words, as many as in real ones. "found" counts phrases that were said and came out
right, "false" utterances that came out with a phrase of the list that was not said. In the rows "not on it" the list has only others; so it is
for `--others`, whose sentences are on no list. Sentences that the tokens cannot spell are left out.
"""

from __future__ import annotations

import argparse
import gzip
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asr.decoding.added import LanguageModels
from asr.decoding.beam import SearchConfig
from asr.decoding.biasing import BiasGraph
from asr.decoding.nbest import decode
from asr.errors import UserError
from asr.scoring.manifest import read_manifest
from asr.scoring.wer import Utterance, normalise, parse_map, score
from asr.streaming import NO_ENDPOINT, Final, Recognizer

PARALLEL = 8  # sessions stepped as one batch


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", default="digits", help="a model")
    parser.add_argument("--manifest", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--split", default=None)
    parser.add_argument("--limit", type=int, default=None, help="utterances of each manifest")
    parser.add_argument("--text", default=None, metavar="FILE", help="a sentence a line, .txt or .txt.gz: which words are rare, and others of them")
    parser.add_argument("--sentences", action="store_true", help="phrases are whole sentences; no --text")
    parser.add_argument("--parts", action="store_true", help="with --sentences: phrases are the first three words and the last four")
    parser.add_argument("--others", nargs="+", default=[], metavar="FILE", help="with --sentences: manifests whose sentences are on no list")
    parser.add_argument("--others-splits", nargs="+", default=["dev", "test"], metavar="SPLIT", help="of --others (dev test)")
    parser.add_argument("--map", nargs="+", default=[], metavar="a=b", help="words of references to replace")
    parser.add_argument("--common", type=int, default=5000, help="words of the text that are not rare (5000)")
    parser.add_argument("--distractors", nargs="+", default=None, metavar="D", help="(0 100 500 1000 all; with --sentences 0 100 1000 10000)")
    parser.add_argument("--choose-with", nargs="+", default=["100", "1000"], metavar="D", help="the lists with which the boost is chosen (100 1000)")
    parser.add_argument("--boosts", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--session-list", type=int, default=1000, metavar="N", help="words of the one list for everything (1000)")
    parser.add_argument("--choose-only", action="store_true", help="stop after the boost has been chosen")
    parser.add_argument("--inside-words", action="store_true", help="boost phrases inside longer words, too")
    parser.add_argument("--advance-from", type=int, default=1, metavar="N", help="the token from which on an unfinished phrase is boosted (1)")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--lm", default=None)
    parser.add_argument("--lm-scale", type=float, default=0.3)
    parser.add_argument("--ilm-scale", type=float, default=0.0)
    parser.add_argument("--blank-penalty", type=float, default=0.0)
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--errors", default=None, metavar="FILE", help="write the sentences with rare words, without and with lists of 100 others")
    options = parser.parse_args(argv)
    options.distractors = options.distractors or (["0", "100", "1000", "10000"] if options.sentences else ["0", "100", "500", "1000", "all"])
    if options.text is None and not options.sentences:
        parser.error("--text is needed")
    return options


def read_lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise UserError(f"no such text: {path}")
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as file:
        return [normalise(line) for line in file]


def text_of(recognizer: Recognizer, tokens: list[int]) -> str:
    return normalise(recognizer.tokenizer.decode(tokens))


def progress(text: str) -> None:
    print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- recall


class Corpus:
    """A manifest: utterances with their words, their phrases, and the half that their speaker is in."""

    def __init__(self, path: str, options, common: set[str], tokenizer, other: bool = False):
        self.name = Path(path).name if Path(path).is_dir() else Path(path).parent.name
        items = read_manifest(path, split=None if other else options.split)
        if other:
            items = [item for item in items if item.split in options.others_splits]
        words = [normalise(item.text, parse_map(options.map)).split() for item in items]
        if options.sentences:
            kept = [i for i, sentence in enumerate(words) if spelled(sentence, tokenizer)]
            items, words = [items[i] for i in kept], [words[i] for i in kept]
        self.items, self.words = items[: options.limit], words[: options.limit]
        if other:
            self.own: list[list[str]] = [[] for _ in self.words]
        elif options.sentences:
            self.own = [phrases_of(sentence, options.parts) for sentence in self.words]
        else:
            self.own = [sorted({word for word in sentence if word not in common}) for sentence in self.words]
        speakers = [item.speaker or item.id for item in self.items]
        counts = Counter(speakers)
        half, filled = {}, [0, 0]
        for speaker, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
            half[speaker] = filled.index(min(filled)) if not other else 1 - filled[::-1].index(min(filled))  # others: the report first
            filled[half[speaker]] += count
        self.half = [half[speaker] for speaker in speakers]
        self.speakers = [sum(1 for value in half.values() if value == which) for which in (0, 1)]


def spelled(sentence: list[str], tokenizer) -> bool:
    try:
        return bool(tokenizer.encode(" ".join(sentence), strict=True))
    except UserError:
        return False


def phrases_of(sentence: list[str], parts: bool) -> list[str]:
    return [" ".join(part) for part in ((sentence[:3], sentence[-4:]) if parts and len(sentence) > 6 else (sentence,))]


class Lists:
    """The list of an utterance by its name: a number of other phrases ("-100": without its own), "all", "session" or "none"."""

    def __init__(self, pool: list[str], said: list[str], tokenizer, options):
        """``pool``: phrases that may be drawn; ``said``: those of the references that the shared list is for."""
        self.pool, self.tokenizer, self.options = pool, tokenizer, options
        self.drawn = random.Random(options.seed).sample(pool, len(pool))
        others = [word for word in self.drawn if word not in set(said)]
        self.shared = {"all": pool, "session": said + others[: max(0, options.session_list - len(said))], "none": []}
        self._graphs: dict[tuple[str, str], BiasGraph] = {}

    def words(self, name: str, key: str, own: list[str]) -> list[str]:
        """The list of the utterance ``key`` with these phrases; a larger one holds the smaller ones."""
        if name in self.shared:
            return self.shared[name]
        if name.startswith("-"):
            return self.drawn[: int(name[1:])]
        count = int(name)
        others = random.Random(f"{self.options.seed} {key}").sample(self.pool, min(count + len(own), len(self.pool))) if own else self.drawn
        return own + [word for word in others if word not in own][:count]

    def graph(self, name: str, key: str, own: list[str]) -> BiasGraph:
        where = (name, "" if name in self.shared or name.startswith("-") or not own else key)
        if where not in self._graphs:
            boosts = dict.fromkeys(self.words(name, key, own), 1.0)
            self._graphs[where] = BiasGraph.build(boosts, self.tokenizer, not self.options.inside_words, self.options.advance_from)
        return self._graphs[where]


class Counts:
    """Errors of words on lists and of others."""

    def __init__(self) -> None:
        self.words = self.errors = self.rare = self.rare_errors = self.said = self.false = self.utterances = 0

    def add_phrases(self, aligned: Utterance, own: list[str], listed: set[str]) -> None:
        ref = [(word, op) for word, op in zip(aligned.ref, aligned.op, strict=True) if op != "I"]
        hyp = [(word, op) for word, op in zip(aligned.hyp, aligned.op, strict=True) if op != "D"]
        self.words += len(ref)
        self.errors += aligned.errors
        self.rare += len(own)
        said = " ".join(word for word, _ in hyp if word)
        self.said += sum(f" {phrase} " in f" {said} " for phrase in own)
        listed = listed - set(own)
        lengths = {phrase.count(" ") + 1 for phrase in listed}
        spans = (hyp[at : at + length] for length in lengths for at in range(len(hyp) - length + 1))
        self.false += any(
            any(op != "C" for _, op in span) and " ".join(word or "" for word, _ in span) in listed for span in spans
        )  # fmt: skip
        self.utterances += 1

    def phrase_row(self) -> str:
        found = f"{100 * self.said / self.rare:.1f}" if self.rare else "-"
        return f"{self.wer:.2f} | {found} | {100 * self.false / max(self.utterances, 1):.1f}"

    def add(self, aligned: Utterance, rare: set[str], listed: set[str]) -> None:
        for ref, hyp, op in zip(aligned.ref, aligned.hyp, aligned.op, strict=True):
            self.words += op != "I"
            self.errors += op != "C"
            self.rare += ref in rare
            self.said += ref in rare and op == "C"
            self.rare_errors += op != "C" and (ref in rare or (op == "I" and hyp in listed))
            self.false += op != "C" and hyp in listed

    def row(self) -> str:
        others = self.words - self.rare
        return (
            f"{self.wer:.2f} | {100 * (self.errors - self.rare_errors) / max(others, 1):.2f} | "
            f"{100 * self.rare_errors / max(self.rare, 1):.2f} | {100 * self.said / max(self.rare, 1):.1f} | {100 * self.false / max(self.words, 1):.2f}"
        )

    @property
    def wer(self) -> float:
        return 100 * self.errors / max(self.words, 1)


def evaluate(recognizer: Recognizer, corpora: list[Corpus], half: int, lists: Lists, grid: list[tuple[str, float]]):
    """The words of every utterance of a half for each (D, boost) of ``grid``; boost 0: no list. {(D, boost): {(corpus, index): text}}."""
    search, bias = recognizer.beam, recognizer.bias
    assert search is not None and bias is not None
    names = list(dict.fromkeys(name for name, _ in grid))
    found: dict = {setting: {} for setting in grid}
    chosen = [(c, i) for c, corpus in enumerate(corpora) for i in range(len(corpus.items)) if corpus.half[i] == half]
    began = time.perf_counter()
    for count, (c, i) in enumerate(chosen, 1):
        item = corpora[c].items[i]
        out, lengths = recognizer.encode([item.source.load()])
        for name in names:
            slot = bias.add(lists.graph(name, item.id, corpora[c].own[i]))
            for setting in grid:
                if setting[0] == name:
                    bias.slot, bias.scale = slot, setting[1]
                    symbols = decode(search, out, lengths, search.initial_state(1))[0][0]
                    found[setting][c, i] = text_of(recognizer, [symbol.token for symbol in symbols])
            bias.remove(slot)
        left = (time.perf_counter() - began) / count * (len(chosen) - count)
        progress(f"{count} of {len(chosen)} utterances, {left:.0f} s left")
    progress("")
    return found


def evaluate_streams(recognizer: Recognizer, corpora: list[Corpus], half: int, lists: Lists, grid: list[tuple[str, float]]):
    """As `evaluate`, in sessions with lists of their own, several to a batch."""
    bias = recognizer.bias
    assert bias is not None
    found: dict = {setting: {} for setting in grid}
    chosen = [(c, i) for c, corpus in enumerate(corpora) for i in range(len(corpus.items)) if corpus.half[i] == half]
    for at in range(0, len(chosen), PARALLEL):
        group = chosen[at : at + PARALLEL]
        audio = [corpora[c].items[i].source.load() for c, i in group]
        for setting in grid:
            name, bias.scale = setting
            sessions = []
            for (c, i), samples in zip(group, audio, strict=True):
                graph = lists.graph(name, corpora[c].items[i].id, corpora[c].own[i])
                session = recognizer.session(endpoint=NO_ENDPOINT, partials=False, phrases=graph)
                session.feed(samples)
                session.end()
                sessions.append(session)
            texts = [""] * len(sessions)
            while not all(session.finished for session in sessions):
                for k, events in enumerate(recognizer.step_sessions(sessions)):
                    texts[k] += "".join(("" if event.continues else " ") + event.text for event in events if isinstance(event, Final))
            for (c, i), text in zip(group, texts, strict=True):
                found[setting][c, i] = normalise(text)
        progress(f"streams: {at + len(group)} of {len(chosen)}")
    progress("")
    return found


def counts_of(corpora: list[Corpus], lists: Lists, name: str, texts: dict, which: int | None = None) -> Counts:
    """The errors in one corpus or in all."""
    total = Counts()
    chosen = [key for key in texts if which is None or key[0] == which]
    refs = [" ".join(corpora[c].words[i]) for c, i in chosen]
    for (c, i), aligned in zip(chosen, score(refs, [texts[key] for key in chosen]).utterances, strict=True):
        own = corpora[c].own[i]
        listed = lists.words(name, corpora[c].items[i].id, own)
        if lists.options.sentences:
            total.add_phrases(aligned, [] if name.startswith("-") else own, set(listed))
        else:
            total.add(aligned, set(own), set(listed))
    return total


def made_phrases(corpora: list[Corpus], options, count: int) -> list[str]:
    """Phrases of sentences of random words of the references, as many as in real ones; none that is on a real list."""
    rng = random.Random(options.seed)
    words = [word for corpus in corpora for sentence in corpus.words for word in sentence]
    lengths = [len(sentence) for corpus in corpora for sentence in corpus.words]
    real = {phrase for corpus in corpora for own in corpus.own for phrase in own}
    found: set[str] = set()
    for _ in range(100 * count):
        found.update(phrases_of(rng.choices(words, k=rng.choice(lengths)), options.parts))
        if len(found) >= count:
            break
    return sorted(found - real)


def recall(options) -> int:
    names = options.distractors + options.choose_with
    if options.common < 1 or any(not name.isdigit() and (name != "all" or options.sentences) for name in names):
        raise UserError("--common is at least 1; --distractors and --choose-with take numbers and, without --sentences, all")
    counts = Counter() if options.sentences else Counter(word for line in read_lines(options.text) for word in line.split())
    common = {word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: options.common]}
    models = LanguageModels(options.lm, options.lm_scale)
    config = SearchConfig("modified_beam", beam=options.beam, ilm_scale=options.ilm_scale, blank_penalty=options.blank_penalty)
    recognizer = Recognizer.load(options.model, 1, search=config, language_models=models, phrases=[])
    corpora = [Corpus(path, options, common, recognizer.tokenizer) for path in options.manifest]
    if options.sentences:
        pool = made_phrases(corpora, options, 2 * max(map(int, names)) + 10)
    else:
        pool = sorted({word for word in counts if word not in common} | {word for corpus in corpora for own in corpus.own for word in own})
    said = sorted({word for corpus in corpora for own in corpus.own for word in own})
    corpora += [Corpus(path, options, common, recognizer.tokenizer, other=True) for path in options.others]
    lists = Lists(pool, said, recognizer.tokenizer, options)
    print(f"{options.model}, beam {options.beam}; {len(common)} common words, {len(pool)} phrases to draw from, {len(said)} said")
    for corpus in corpora:
        parts = [corpus.half.count(which) for which in (0, 1)]
        print(f"{corpus.name}: {parts[0]} utterances of {corpus.speakers[0]} speakers, {parts[1]} of {corpus.speakers[1]}")

    columns = ["WER", "found", "false"] if options.sentences else ["WER", "U-WER", "B-WER", "rare words found", "false"]

    def head(*names: str) -> None:
        print("\n| " + " | ".join((*names, *columns)) + " |\n" + "|---" * (len(names) + len(columns)) + "|")

    def line(total: Counts, *cells: object) -> None:
        row = total.phrase_row() if options.sentences else total.row()
        print("| " + " | ".join(map(str, cells)) + f" | {row} |", flush=True)

    without = [f"-{name}" for name in options.choose_with] if options.sentences else []
    last = [f"-{name}" for name in options.distractors if name != "0"] if options.sentences else ["session"]
    labels = {"session": f"one list of {len(lists.shared['session'])} for everything", "all": f"all {len(pool)}", "none": "no list"}
    labels |= {name: f"not on it, {name[1:]} others" for name in without + last if name.startswith("-")}
    reported: dict[str, dict] = {}
    streamed: dict[str, dict] = {}
    chosen = []
    for half in (0, 1):
        head(f"half {half + 1}: own phrases and", "boost")
        tried = [("none", 0.0), *((name, boost) for boost in options.boosts for name in options.choose_with + without)]
        found = evaluate(recognizer, corpora, half, lists, tried)
        rates: dict[float, list[float]] = {}
        for (name, boost), texts in found.items():
            total = counts_of(corpora, lists, name, texts)
            rates.setdefault(boost, []).append(total.wer)
            line(total, labels.get(name, name), boost or "")
        del rates[0.0]
        chosen.append(min(rates, key=lambda boost: (statistics.mean(rates[boost]), boost)))
        print(f"\nchosen on half {half + 1}: {chosen[-1]:g}", flush=True)
    if options.choose_only:
        return 0

    for half, boost in ((1, chosen[0]), (0, chosen[1])):
        grid = [("none", 0.0), *((name, boost) for name in options.distractors + last)]
        for run, into in ((evaluate, reported), (evaluate_streams, streamed)) if options.streaming else ((evaluate, reported),):
            for (name, _), texts in run(recognizer, corpora, half, lists, grid).items():
                into.setdefault(name, {}).update(texts)
    head("corpus", "list: own phrases and", "phrases" if options.sentences else "rare words")
    for which in (*range(len(corpora)), *([None] if len(corpora) > 1 else [])):
        other = which is not None and not any(corpora[which].own)
        for name, texts in reported.items():
            if other and name in options.distractors or which is None and options.others and name in last:
                continue
            total = counts_of(corpora, lists, name, texts, which)
            corpus = corpora[which].name if which is not None else "together"
            line(total, corpus, labels.get(name, name), total.rare if options.sentences else f"{total.rare} of {total.words}")
    if options.errors:
        write_examples(options.errors, corpora, reported["none"], reported[[*options.distractors, *last][-1]])
    if options.streaming:
        pairs = [(texts[key], streamed[name][key]) for name, texts in reported.items() for key in texts]
        print(f"\nstreaming: {sum(a != b for a, b in pairs)} of {len(pairs)} results differ from offline ({len(reported)} lists)")
        return int(any(a != b for a, b in pairs))
    return 0


def write_examples(path: str, corpora: list[Corpus], without: dict, with_list: dict) -> None:
    """The utterances that the shared list changes."""
    lines = []
    for (c, i), text in without.items():
        if with_list[c, i] != text:
            rare = ", ".join(corpora[c].own[i])
            lines += [f"{corpora[c].items[i].id} ({rare})", "  " + " ".join(corpora[c].words[i]), "  " + text, "  " + with_list[c, i], ""]
    Path(path).write_text("\n".join(lines), encoding="utf-8")


@torch.inference_mode()
def main(argv=None) -> int:
    options = arguments(argv)
    torch.set_num_threads(1)
    return recall(options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/biasing.py: {error}", file=sys.stderr)
        sys.exit(2)
