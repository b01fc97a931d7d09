"""The normaliser: tagger, grammars of one profile, user's options and lexicon; what an application holds.

A profile is a folder: one FST a category, and ``manifest.json``::

    {"format": 1, "profile": "prose", "version": "…",              the version of the grammars
     "options": {"number_threshold": 10, "off": ["fraction"], …},  defaults of `itn.style.Options`
     "files": {"cardinal": {"file": "cardinal.fst", "sha256": "…"}, …}}

Files are checked against the manifest when a normaliser is made, and an FST is loaded when its category first occurs.
Whatever is missing is an error: text that comes back unchanged because a part is absent is the worst failure (a user's
report: kesha-voice-kit PR #756).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from itn.errors import ItnError
from itn.lexicon import Category, Lexicon, Matcher
from itn.stream import CONFIDENCE, Decider, Span, Stream, Tagger
from itn.style import CATEGORIES, Options, cased, hint, restyle

PROFILES = Path(__file__).resolve().parent / "profiles"
MANIFEST = "manifest.json"
FORMAT = 1  # of a profile folder

_WORD = re.compile(r"\S+")
_ENDING = re.compile(r"(?:['’]s)?[.,?!;:…]+$|['’]s$")  # punctuation and the possessive: twenty twenty one's -> 2021's


@dataclass(frozen=True)
class Result:
    """A text and what was converted in it; words outside spans, and all white space, are those of the input."""

    text: str
    spans: tuple[Span, ...]


class Normalizer:
    """Spoken English to written English.

    Args:
        profile: ``prose`` (newspaper style), ``nemo``, or a folder with a ``manifest.json``.
        lexicon: the user's phrases: a `Lexicon`, a mapping phrase -> written, or a file; they win over everything.
        number_threshold, ordinal_threshold, thousands, clock, units, currencies: see `itn.style.Options`; None: as the
            profile has them.
        on, off: categories to switch on or off, beside those the profile switches off.
        tagger: a file of `itn.tagger`, one of `itn.onnx` (.onnx, needs onnxruntime), or an object with its interface; None: the one that ships with the package.
        categories: FSTs of the user's own: category -> file or `Category`. A known name replaces its grammar, a new
            one needs trigger phrases.

    Raises:
        ItnError: an unknown profile, category or option, or a part that is missing or damaged.
        LexiconError: a bad line of the lexicon.
    """

    def __init__(
        self,
        profile: str | os.PathLike[str] = "prose",
        *,
        lexicon: Lexicon | Mapping[str, str] | str | os.PathLike[str] | None = None,
        number_threshold: int | None = None,
        ordinal_threshold: int | None = None,
        thousands: str | None = None,
        clock: int | None = None,
        units: str | None = None,
        currencies: str | None = None,
        on: Iterable[str] = (),
        off: Iterable[str] = (),
        tagger: Tagger | str | os.PathLike[str] | None = None,
        categories: Mapping[str, Category | str | os.PathLike[str]] | None = None,
    ):
        folder = find_profile(profile)
        self.profile = folder.name
        manifest = read_manifest(folder)
        self._files = check_files(folder, manifest)
        own = {
            name: value if isinstance(value, Category) else Category(value)
            for name, value in (categories or {}).items()
        }
        self._hooks = {name: category for name, category in own.items() if category.trigger}
        self.lexicon = Lexicon.of(lexicon)
        self.categories = tuple(dict.fromkeys((*CATEGORIES, *own)))
        given = dict(
            number_threshold=number_threshold, ordinal_threshold=ordinal_threshold, thousands=thousands,
            clock=clock, units=units, currencies=currencies,
        )  # fmt: skip
        options = Options().changed(manifest.get("options", {}), f"{folder / MANIFEST}: ").changed(given)
        self.options = options.switched(on, off, self.categories)
        self.tagger = _load_tagger(tagger)
        tagged = {label.partition("-")[2] for label in self.tagger.labels} - {""}
        for name, category in own.items():
            if name in ("lexicon", "") or not Path(category.fst).is_file():
                raise ItnError(f"category {name!r}: " + (f"no file {category.fst}" if name.strip() else "no name"))
            if name not in tagged and not category.trigger:
                raise ItnError(
                    f"the tagger does not know category {name!r}{hint(name, tagged)}; give trigger phrases: "
                    f"Category({str(category.fst)!r}, trigger=(…,))"
                )
            self._files[name] = Path(category.fst)
        missing = sorted(tagged - set(self._files) - self.options.off)
        if missing:
            raise ItnError(f"profile {folder} has no grammar for {', '.join(missing)}: build it with itn build")
        _kaldifst()
        self._fsts: dict[str, Any] = {}
        self._written = lru_cache(maxsize=4096)(self._run)

    def normalize(self, text: str) -> Result:
        """Convert a text; its white space stays, too. The words are those of ``text.split()``."""
        words = list(_WORD.finditer(text))
        stream = self.stream()
        spans = stream.extend([word[0] for word in words], finish=True).spans
        parts, at = [], 0
        for span in spans:
            parts += [text[at : words[span.start].start()], span.written]
            at = words[span.end - 1].end()
        return Result("".join([*parts, text[at:]]), spans)

    def stream(self, *, show_open: bool = False) -> Stream:
        """A new stream of words, independent of others; ``show_open``: see `Stream`."""
        tagger = self.tagger
        confidence = getattr(tagger, "confidence", CONFIDENCE)
        decider = Decider(tagger.labels, confidence, tagger.lookahead, self.options.off)
        hooks = {name: hook for name, hook in self._hooks.items() if name not in self.options.off}
        matcher = Matcher(self.lexicon, hooks, self._convert)
        return Stream(tagger, decider, matcher, self._convert, show_open=show_open)

    def convert(self, words: str, category: str) -> str | None:
        """The written form of words that are one span of a category; None if they stay as spoken.

        Raises:
            ItnError: no such category.
        """
        if category not in self._files:
            raise ItnError(f"no category {category!r}{hint(category, self._files)}; there are: {', '.join(self._files)}")
        spoken = words.split()
        written = self._convert(category, spoken) if spoken else None
        return None if written == " ".join(spoken) else written

    def _convert(self, category: str, words: Sequence[str]) -> str | None:
        """The written form; the words themselves where the style keeps them; None where the grammar refuses.

        What has digits is written already. Punctuation and a possessive behind the last word stay.
        """
        if any(character.isdigit() for word in words for character in word):
            return None
        spoken = [part for word in words for part in word.lower().replace("’", "'").replace("-", " ").split()]
        written, end = self._written(category, " ".join(spoken)), ""
        ending = _ENDING.search(words[-1])
        if not written and ending and spoken:
            end = ending[0]
            spoken[-1] = _ENDING.sub("", spoken[-1])
            written = self._written(category, " ".join(spoken))
        if not written:
            return None
        styled = restyle(category, spoken, written, self.options, self._number)
        if styled is None:
            return " ".join(words)
        return cased(words, styled, category) + (end[1:] if styled.endswith(".") and end[:1] == "." else end)

    def _number(self, spoken: str) -> str:
        """Number words in digits; "" if they are no number."""
        names = [name for name in ("cardinal", "decimal") if name in self._files]
        return next((written for name in names if (written := self._written(name, spoken))), "")

    def _run(self, category: str, spoken: str) -> str:
        """What a category's FST writes; "" if it does not accept the words."""
        fst = self._fsts.get(category)
        if fst is None:
            try:
                fst = self._fsts[category] = _kaldifst().TextNormalizer(str(self._files[category]))
            except RuntimeError:
                raise ItnError(f"cannot read {self._files[category]}: not an FST of type vector over bytes") from None
        if not spoken or "\0" in spoken:
            return ""
        try:
            spoken.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            return ""
        written: str = fst(spoken)
        return written


def find_profile(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a profile; a folder with a manifest wins over a name.

    Raises:
        ItnError: neither; the nearest name is suggested.
    """
    text = os.fspath(name_or_folder)
    try:
        if text and (Path(text) / MANIFEST).is_file():
            return Path(text)
    except (OSError, ValueError):
        pass  # too long or with a zero byte: no name of a profile either
    names = sorted(path.parent.name for path in PROFILES.glob(f"*/{MANIFEST}"))
    if text in names:
        return PROFILES / text
    if not names:
        raise ItnError(f"no profile {text!r}: the package has none in {PROFILES}: build them with itn build")
    raise ItnError(
        f"no profile {text!r}: neither a folder with a {MANIFEST} nor one of {', '.join(names)}{hint(text, names)}"
    )


def is_profile(name_or_folder: str | os.PathLike[str]) -> bool:
    """Whether there is such a profile."""
    try:
        find_profile(name_or_folder)
    except ItnError:
        return False
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a profile.

    Raises:
        ItnError: it is damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(manifest["files"], dict) and isinstance(manifest.get("options", {}), dict)
    except OSError as error:
        raise ItnError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise ItnError(f"{path} is damaged: build the profile again with itn build")
    if manifest.get("format") != FORMAT:
        raise ItnError(f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}")
    return dict(manifest)


def check_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """The FSTs a manifest lists: category -> file.

    Raises:
        ItnError: a file is missing or not the one that was built.
    """
    files = {}
    for category, entry in manifest["files"].items():
        try:
            path = folder / entry["file"]
            expected = entry["sha256"]
            content = path.read_bytes()
        except (KeyError, TypeError):
            raise ItnError(f"{folder / MANIFEST} is damaged: build the profile again with itn build") from None
        except (OSError, ValueError):
            raise ItnError(f"profile {folder}: the file {entry['file']} of category {category} is missing") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise ItnError(f"{path} is not the file its manifest describes: build the profile again with itn build")
        files[category] = path
    return files


def _load_tagger(tagger: Tagger | str | os.PathLike[str] | None) -> Tagger:
    if tagger is not None and not isinstance(tagger, (str, os.PathLike)):
        return tagger
    if tagger is not None and os.fspath(tagger).endswith(".onnx"):
        from itn.onnx import OnnxTagger

        return OnnxTagger.load(tagger)
    from itn.tagger import Tagger as Trained

    try:
        trained: Tagger = Trained.load(None if tagger is None else Path(tagger))
    except (OSError, ValueError, BadZipFile) as error:
        raise ItnError(str(error)) from None
    return trained


def _kaldifst() -> Any:
    try:
        import kaldifst
    except ImportError as error:
        raise ItnError(f"running the grammars needs kaldifst, which does not load ({error}): pip install kaldifst") from None
    return kaldifst
