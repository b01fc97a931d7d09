"""A user's phrases to prefer (see `asr.decoding.biasing`): where they come from, their boosts, how they are spelled."""

from __future__ import annotations

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union

from asr.errors import UserError
from asr.tokens import Tokenizer, normalise_text

DEFAULT_BOOST = 1.5  # a token, in natural logarithms; what sherpa-onnx uses
PLAIN = str.maketrans({"ß": "ss", "œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})  # letters without an accent to lose
UNSPOKEN = re.compile(r"[.,;:!?\"()\[\]{}\u00a1\u00ab\u00bb\u00bf\u2010-\u2015\u201c-\u201f\u2026-]")
SHOWN_PROBLEMS = 5  # of a file, in one error

Items = Union[Mapping[str, "float | None"], Iterable["str | tuple[str, float | None]"]]  # noqa: UP007


class Phrases:
    """A user's list: phrases, each with a boost of its own or that of its class or the default.

    A boost is added a token (> 0, natural logarithm). The first of these counts: the phrase's own, its class's,
    ``boost``.
    """

    def __init__(
        self,
        phrases: Items = (),
        classes: Mapping[str, Items] | None = None,
        boost: float = DEFAULT_BOOST,
        class_boosts: Mapping[str, float] | None = None,
    ):
        """Take phrases as strings, as (string, boost) pairs or as a mapping from string to boost (None: not its own).

        Args:
            phrases: those without a class.
            classes: name -> phrases.
            boost: for those without another.
            class_boosts: name -> boost.

        Raises:
            UserError: a boost that is no number above 0, something that is no phrase, a boost for an unknown class.
        """
        self.boost = _boost(boost, "the boost of phrases")
        self.class_boosts: dict[str, float] = {}
        self.entries: list[tuple[str, float | None, str | None]] = []  # phrase, its own boost, its class
        self._classes: set[str] = set()
        self.extend(phrases)
        for name, members in (classes or {}).items():
            self._classes.add(name)
            self.extend(members, name)
        self.set_class_boosts(class_boosts or {})

    @classmethod
    def of(cls, source: Phrases | Items | str | os.PathLike[str], **options: Any) -> Phrases:
        """Phrases as they are, or from a mapping or an iterable, or (a string or path) from a file.

        Raises:
            UserError: as the constructor and `from_file`.
        """
        if isinstance(source, Phrases):
            return source
        if isinstance(source, (str, os.PathLike)):
            if isinstance(source, str) and not os.path.isfile(source):
                raise UserError(f"no such file of phrases: {source}; phrases themselves are given as a list: [{source!r}]")
            return cls.from_file(source, **options)
        return cls(source, **options)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        boost: float = DEFAULT_BOOST,
        class_boosts: Mapping[str, float] | None = None,
    ) -> Phrases:
        """Read a UTF-8 text file: a phrase a line, then if wanted a tab and its boost.

        ``[name]`` or ``[name boost]`` on a line of its own begins a class, which lasts to the next such line. Empty
        lines and lines that start with ``#`` are skipped. ``class_boosts`` go before the file's.

        Raises:
            UserError: no such file, not text, or lines that are none of these; they are named.
        """
        file = Path(path)
        if not os.path.isfile(file):  # False, too, for what can be no name
            raise UserError(f"no such file of phrases: {file}")
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")  # some editors begin with a byte order mark
        except UnicodeDecodeError:
            raise UserError(f"{file} is not a UTF-8 text file") from None
        except OSError as error:
            raise UserError(f"cannot read the phrases in {file}: {error.strerror}") from None
        found = cls(boost=boost)
        problems, name = [], None
        for number, line in enumerate(lines, 1):
            line = line.strip()
            try:
                if line.startswith("["):
                    name = found._header(line)
                elif line and not line.startswith("#"):
                    found._line(line, name)
            except UserError as error:
                problems.append(f"line {number}: {error}")
        if problems:
            more = len(problems) - SHOWN_PROBLEMS
            shown = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
            raise UserError(f"{file}: {shown}")
        found.set_class_boosts(class_boosts or {})
        return found

    def _header(self, line: str) -> str:
        if not line.endswith("]") or not line[1:-1].strip():
            raise UserError(f"a class begins with [name] or [name boost], not with {line!r}")
        *words, last = line[1:-1].split()
        name = " ".join(words)
        if not _is_number(last):
            name = " ".join((*words, last))
        elif not words:
            raise UserError(f"a class needs a name before its boost: [name {last}], not {line!r}")
        else:
            value = _boost(last, f"the boost of the class {name!r}")
            if self.class_boosts.setdefault(name, value) != value:
                raise UserError(f"the class {name!r} already has the boost {self.class_boosts[name]:g}")
        self._classes.add(name)
        return name

    def _line(self, line: str, name: str | None) -> None:
        phrase, *fields = (field.strip() for field in line.split("\t"))
        if len(fields) > 1:
            raise UserError(f"a phrase, a tab and a boost were expected, not {len(fields)} tabs")
        self.add(phrase, _boost(fields[0], f"the boost of {phrase!r}") if fields else None, name)

    def add(self, phrase: str, boost: float | None = None, class_name: str | None = None) -> None:
        """One more phrase; given more than once, its largest boost counts."""
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f"not a phrase: {phrase!r}")
        if boost is not None:
            boost = _boost(boost, f"the boost of {phrase!r}")
        self.entries.append((phrase.strip(), boost, class_name))
        if class_name is not None:
            self._classes.add(class_name)

    def extend(self, phrases: Items, class_name: str | None = None) -> None:
        """More phrases, as the constructor takes them."""
        if isinstance(phrases, (str, bytes)) or not isinstance(phrases, Iterable):
            raise UserError(f"a list of phrases was expected, not {phrases!r}")
        for item in phrases.items() if isinstance(phrases, Mapping) else phrases:
            if isinstance(item, str):
                self.add(item, None, class_name)
            elif isinstance(item, (tuple, list)) and len(item) == 2:
                self.add(item[0], item[1], class_name)
            else:
                raise UserError(f"not a phrase, nor a phrase and its boost: {item!r}")

    def set_class_boosts(self, boosts: Mapping[str, float]) -> None:
        """Change the boosts of classes; a class that nobody defined is an error."""
        for name, value in boosts.items():
            if name not in self._classes:
                near = difflib.get_close_matches(name, self._classes, 1)
                known = ", ".join(sorted(self._classes))
                there = f"did you mean {near[0]!r}?" if near else f"there are {known}" if known else "there are no classes"
                raise UserError(f"no class of phrases is called {name!r}: {there}")
            self.class_boosts[name] = _boost(value, f"the boost of the class {name!r}")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """(phrase, boost a token), as given and in the order given."""
        for phrase, boost, name in self.entries:
            yield phrase, self.class_boosts.get(name or "", self.boost) if boost is None else boost


def read_phrases(path: str | os.PathLike[str], boost: float | None = None, class_boosts: Iterable[str] = ()) -> Phrases:
    """A file of phrases with the boosts of a command line: ``class_boosts`` are NAME=BOOST each.

    Raises:
        UserError: a file that is none, a boost that is none, a class that the file does not have.
    """
    given = {}
    for pair in class_boosts:
        name, equals, value = pair.rpartition("=")
        if not equals or not name.strip():
            raise UserError(f"the boost of a class is given as NAME=BOOST, not {pair!r}")
        given[" ".join(name.split())] = _boost(value, f"the boost of the class {name.strip()!r}")
    return Phrases.from_file(path, DEFAULT_BOOST if boost is None else boost, given)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _boost(value: Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise UserError(f"{what} must be a number above 0, not {value!r}")
    return number


def spell(phrase: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a phrase as people write it: any case, any apostrophe.

    Where the tokens lack them, marks that are not spoken (commas, full stops, hyphens, quotes, brackets) become spaces,
    and then letters lose their accents (José: jose, Straße: strasse, Łódź: lodz). What would be spoken, such as digits or ``&``, must be written as
    words.

    Raises:
        UserError: the tokens cannot spell it, or nothing is left of it.
    """
    text = normalise_text(unicodedata.normalize("NFC", phrase))
    if ids := _encode(text, tokenizer):
        return ids
    bare = UNSPOKEN.sub(" ", text)
    if ids := _encode(bare, tokenizer) or _encode(without_accents(bare), tokenizer):
        return ids
    if not bare.strip():
        raise UserError(f"there are no words in {phrase!r}")
    try:
        return tokenizer.encode(bare, strict=True)
    except UserError as error:
        *words, last = phrase.split()
        hint = ": a boost comes after a tab" if words and _is_number(last) else ""
        raise UserError(f"{error}{hint}") from None


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens; none if they cannot spell it."""
    try:
        return tokenizer.encode(text, strict=True)
    except UserError:
        return []


def without_accents(text: str) -> str:
    """Letters without their accents."""
    parts = unicodedata.normalize("NFKD", text).translate(PLAIN)
    return unicodedata.normalize("NFC", "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Cf")))
