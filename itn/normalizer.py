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

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from itn.errors import ItnError
from itn.lexicon import ENDING, Category, Lexicon, Matcher, behind
from itn.stream import CONFIDENCE, Decider, Span, Stream, Tagger
from itn.style import CATEGORIES, Options, cased, hint, restyle

PROFILES = Path(__file__).resolve().parent / "profiles"
MANIFEST = "manifest.json"
FORMAT = 1  # of a profile folder
LONGEST = 300  # bytes of a span: 12 words that people say; a grammar takes seconds over a hundred thousand letters

_WORD = re.compile(r"\S+")
_OPENING = re.compile(r"""^["“‘'(\[{«]+(?=\w)""")
_POSSESSIVE = re.compile(r"['’]s$")  # twenty twenty one's -> 2021's
_JOINT = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_TENS = re.compile(r"(?<=ty)-(?=(?:one|two|three|four|five|six|seven|eight|nine)\b)")
_DASHES = re.compile(r"[-\u2010-\u2015\u2212]")


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
        if categories is not None and not isinstance(categories, Mapping):
            raise ItnError(f"categories is a mapping of names to FSTs, not a {type(categories).__name__}")
        if not all(isinstance(name, str) for name in categories or ()):
            raise ItnError("the name of a category is a text")
        own = {
            name: value if isinstance(value, Category) else Category(value)
            for name, value in (categories or {}).items()
        }
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
        confidence = getattr(self.tagger, "confidence", CONFIDENCE)
        self._decider = Decider(self.tagger.labels, confidence, self.tagger.lookahead, self.options.off)
        self._hooks = {name: hook for name, hook in own.items() if hook.trigger and name not in self.options.off}
        _kaldifst()
        self._fsts: dict[str, Any] = {}
        for name in own:
            self._open(name)
        self._written = lru_cache(maxsize=4096)(self._run)

    def normalize(self, text: str) -> Result:
        """Convert a text; its white space stays, too. The words are those of ``text.split()``."""
        if not isinstance(text, str):
            raise ItnError(f"normalize takes a text, not {type(text).__name__}")
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
        matcher = Matcher(self.lexicon, self._hooks, self._convert)
        return Stream(self.tagger, copy(self._decider), matcher, self._convert, show_open=show_open)

    def convert(self, words: str, category: str) -> str | None:
        """The written form of words that are one span of a category; None if they stay as spoken.

        Raises:
            ItnError: no such category.
        """
        if not isinstance(words, str):
            raise ItnError(f"convert takes a text, not {type(words).__name__}")
        if category not in self._files:
            raise ItnError(f"no category {category!r}{hint(category, self._files)}; there are: {', '.join(self._files)}")
        spoken = words.split()
        written = self._convert(category, spoken) if spoken else None
        return None if written == " ".join(spoken) else written

    def _convert(self, category: str, words: Sequence[str]) -> str | None:
        """The written form; the words themselves where the style keeps them; None where the grammar refuses.

        What has digits is written already. Quotes and brackets around the words stay, and so do punctuation and a possessive
        behind them, as little of it as it takes: "ten a.m.," is "ten a.m." and a comma.
        """
        if sum(map(len, words)) > LONGEST or any(character.isdigit() for word in words for character in word):
            return None
        opening = _OPENING.match(words[0])
        start = len(opening[0]) if opening else 0
        for begin, end in [(0, 0), *((start, end) for end in _ends(words[-1]) if start or end)]:
            bare = [*words[:-1], words[-1][: len(words[-1]) - end]]
            bare[0] = bare[0][begin:]
            spoken = _spoken(category, bare)
            written = self._written(category, " ".join(spoken)) if spoken else ""
            if written:
                styled = restyle(category, spoken, written, self.options, self._number)
                if styled is None:
                    return " ".join(words)
                styled = words[0][:begin] + cased(bare, styled, category)
                return behind(styled, words[-1][len(words[-1]) - end :] if end else "")
        return None

    def _number(self, spoken: str) -> str:
        """Number words in digits; "" if they are no number."""
        names = [name for name in ("cardinal", "decimal") if name in self._files]
        return next((written for name in names if (written := self._written(name, spoken))), "")

    def _run(self, category: str, spoken: str) -> str:
        """What a category's FST writes; "" if it does not accept the words."""
        if not spoken or "\0" in spoken:
            return ""
        try:
            if len(spoken.encode()) > LONGEST:
                return ""
        except UnicodeEncodeError:  # half a surrogate pair
            return ""
        written: str = self._open(category)(spoken)
        return written

    def _open(self, category: str) -> Any:
        """The FST of a category, read once."""
        fst = self._fsts.get(category)
        if fst is None:
            path = self._files[category]
            try:
                fst = self._fsts[category] = _kaldifst().TextNormalizer(str(path))
            except RuntimeError:
                raise ItnError(f"cannot read {path}: not an FST of type vector over bytes") from None
        return fst


def _spoken(category: str, words: Sequence[str]) -> list[str]:
    """Words as a grammar takes them: lower case, "twenty-five" in two; none where a dash is left, which may be a sign.

    In what an address on the net is made of, "kim-lee", a hyphen is one: "kim dash lee".
    """
    text = " ".join(words).lower().replace("’", "'")
    if category == "electronic":
        text = _JOINT.sub(" dash ", _TENS.sub(" ", text))
    text = _JOINT.sub(" ", text)
    return [] if _DASHES.search(text) else text.split()


def _ends(word: str) -> list[int]:
    """How many characters may be taken from the end of a word: none, a sign, two signs ... the possessive."""
    found = ENDING.search(word)
    signs = len(found[0]) if found else 0
    ends = list(range(signs + 1))
    possessive = _POSSESSIVE.search(word[: len(word) - signs])
    return [*ends, signs + len(possessive[0])] if possessive else ends


def find_profile(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a profile; a folder with a manifest wins over a name.

    Raises:
        ItnError: neither; the nearest name is suggested.
    """
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise ItnError(f"a profile is a name or a folder, not {name_or_folder!r}")
    text = os.fspath(name_or_folder)
    try:
        if text and (Path(text) / MANIFEST).is_file():
            return Path(text)
    except (OSError, ValueError):
        pass  # too long or with a zero byte: no name of a profile either
    names = profile_names()
    if text in names:
        return PROFILES / text
    inside = sorted(path.parent for path in Path(text).glob(f"*/{MANIFEST}")) if "\0" not in text and os.path.isdir(text) else []
    if inside:
        raise ItnError(f"{text} holds profiles and is none itself: give {inside[0]}")
    if not names:
        raise ItnError(f"no profile {text!r}: the package has none in {PROFILES}: build them with itn build")
    raise ItnError(
        f"no profile {text!r}: neither a folder with a {MANIFEST} nor one of {', '.join(names)}{hint(text, names)}"
    )


def profile_names() -> list[str]:
    """The profiles that ship with the package."""
    return sorted(path.parent.name for path in PROFILES.glob(f"*/{MANIFEST}"))


def is_profile(name_or_folder: str | os.PathLike[str]) -> bool:
    """Whether there is such a profile."""
    try:
        find_profile(name_or_folder)
    except ItnError:
        return False
    return True


def near_profile(name: str) -> str:
    """The profile whose name is nearest to a mistyped one; "" if none is near."""
    near = difflib.get_close_matches(name, profile_names(), n=1)
    return near[0] if near else ""


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
        if not all(hasattr(tagger, name) for name in ("labels", "lookahead", "initial_state", "step")):
            raise ItnError(f"a tagger is a file or has the interface of itn.tagger.Tagger, not a {type(tagger).__name__}")
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
