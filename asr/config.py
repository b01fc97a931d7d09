"""Recipes and model configurations: YAML and ``--a.b value`` overrides -> nested typed dataclasses, strictly.

Every key is checked against the dataclass: an unknown one names itself and the nearest real one, an ill-typed
value names the key, the value and the expected type. A partial mapping keeps the other values of the field's
default. The checking is done here and not by jsonargparse: jsonargparse 4.53
takes a dataclass inside a list, an Optional or a Union for a class to be looked up and rejects ``[{}]``,
accepts ``model: 5`` for a nested dataclass, and reports in many lines.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from asr.errors import UserError

T = TypeVar("T")
_MISSING = dataclasses.MISSING


def parse_config(cls: type[T], path: str | os.PathLike[str] | None = None, args: Sequence[str] = ()) -> T:
    """An instance of the dataclass ``cls`` from a YAML file and overrides.

    Args:
        cls: a dataclass; its fields may be dataclasses, lists, dicts, tuples, Optional, Union and Literal of
            such.
        path: YAML file; without it everything not overridden has its default.
        args: ``["--a.b", "value", "--c=value", …]``; later ones win. Values are YAML (``[1, 2]``, ``null``,
            ``true``); for a field of type str they are taken as they are.

    Raises:
        UserError: no such file, not YAML, an unknown key, an ill-typed value, a missing key.
    """
    mapping: dict[str, Any] = {} if path is None else load_yaml(path)
    source = _Source(f"in {path}" if path is not None else "on the command line")
    _check(cls, mapping, "", source)
    for key, text in _pairs(args):
        hint = _type_at(cls, key)
        if hint is _MISSING:
            raise _unknown_key(cls, key, "on the command line", option=True)
        value: Any = text if _takes_text(hint, text) else _yaml_value(key, text)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(mapping, value)
        source.options.add(key)
    _check(cls, mapping, "", source)
    return _build(cls, mapping, None, "", source)


def from_dict(cls: type[T], mapping: Mapping[str, Any], source: str = "the configuration") -> T:
    """An instance of the dataclass ``cls`` from nested plain values; ``source`` appears in errors.

    Raises:
        UserError: as ``parse_config``.
    """
    where = _Source(f"in {source}")
    _check(cls, mapping, "", where)
    return _build(cls, mapping, None, "", where)


def to_dict(obj: Any) -> Any:
    """Plain values (dict, list, str, numbers, None) of a dataclass, fit for YAML and for ``from_dict``."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_dict(getattr(obj, f.name)) for f in dataclasses.fields(obj) if f.init}
    if isinstance(obj, Mapping):
        return {key: to_dict(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_dict(value) for value in obj]
    return str(obj) if isinstance(obj, os.PathLike) else obj


def dump_yaml(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write a dataclass or mapping as YAML, keys in their order; the file appears whole or not at all."""
    target = Path(path)
    text = yaml.safe_dump(to_dict(obj), sort_keys=False, allow_unicode=True, width=120)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file; ``1e-4`` is a number (plain PyYAML reads a string), a key given twice is an
    error.

    Raises:
        UserError: no such file, not YAML, not a mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no such configuration file: {file}")
    try:
        value = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {_one_line(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold keys and values, not a {type(value).__name__}")
    return value


def keys(cls: type) -> list[str]:
    """All dotted keys of a dataclass, nested ones included."""
    return [key for key, _, _ in _walk(cls, "", (), _MISSING)]


def describe(cls: type) -> str:
    """One line a key: ``--a.b TYPE (default)``; what a command prints as help for its overrides."""
    lines = []
    for key, hint, default in _walk(cls, "", (), _MISSING):
        lines.append(
            f"  --{key} {_name(hint)} "
            + ("(required)" if default is _MISSING else f"(default: {to_dict(default)!r})")
        )
    return "\n".join(lines)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _one_line(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    text = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    return text if mark is None else f"{text} (line {mark.line + 1})"


# ---- the types of a dataclass --------------------------------------------------------------------


def _fields(cls: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    return _read_fields(cls)


@functools.cache
def _read_fields(cls: Any) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return {f.name: (f, hints[f.name]) for f in dataclasses.fields(cls) if f.init}


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass that a mapping stands for: the type itself, or the only one in an Optional or Union."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    found = [
        t for t in _members(hint) if t is not hint and isinstance(t, type) and dataclasses.is_dataclass(t)
    ]
    return found[0] if len(found) == 1 else None


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _default(field: dataclasses.Field[Any], base: Any) -> Any:
    """A field's value where nothing is said: the base instance's, else the class's default, else MISSING."""
    if base is not None and base is not _MISSING:
        return getattr(base, field.name)
    return field.default if field.default_factory is _MISSING else field.default_factory()


def _walk(cls: type, prefix: str, above: tuple[type, ...], base: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, type, default) of every leaf."""
    for name, (field, hint) in _fields(cls).items():
        inner = _dataclass_of(hint)
        default = _default(field, base)
        if inner is None or inner in above:
            yield prefix + name, hint, default
        else:
            yield from _walk(
                inner, f"{prefix}{name}.", (*above, cls), default if isinstance(default, inner) else _MISSING
            )


def _type_at(cls: type, key: str) -> Any:
    """Type of a dotted key, MISSING when there is none."""
    hint: Any = cls
    for part in key.split("."):
        inner = _dataclass_of(hint)
        if inner is not None:
            if part not in _fields(inner):
                return _MISSING
            hint = _fields(inner)[part][1]
            continue
        dicts = [t for t in _members(hint) if (typing.get_origin(t) or t) is dict]
        if not dicts or not part:
            return _MISSING
        hint = (typing.get_args(dicts[0]) or (str, Any))[1]
    return hint


def _takes_text(hint: Any, text: str) -> bool:
    """Whether text from the command line is the value itself (``--name 5`` is "5") and not YAML."""
    members = [t for t in _members(hint) if not (isinstance(t, type) and dataclasses.is_dataclass(t))]
    if (
        not members
        or any(t not in (str, Path, type(None)) for t in members)
        or not {str, Path} & set(members)
    ):
        return False
    return not (type(None) in members and text in ("null", "~")) and not (
        text.startswith("{") and len(members) < len(_members(hint))
    )


def _name(hint: Any) -> str:
    """How an expected type is called in an error."""
    if hint is None or hint is type(None):
        return "null"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(_name(t) for t in arguments)
    if origin is not None and arguments:
        return f"{origin.__name__}[{', '.join('…' if a is Ellipsis else _name(a) for a in arguments)}]"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"a mapping ({hint.__name__})"
    return getattr(hint, "__name__", str(hint))


# ---- command line --------------------------------------------------------------------------------


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(f"unexpected argument {word!r}: overrides are written --key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"the option --{key} needs a value")
            value = rest.pop(0)
        yield key, value


def _yaml_value(key: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"the value of --{key}, {text!r}, is not valid YAML: {_one_line(error)}") from None


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


# ---- checking and building -----------------------------------------------------------------------


@dataclasses.dataclass
class _Source:
    """Where values come from, for errors."""

    place: str  # "in FILE"
    options: set[str] = dataclasses.field(default_factory=set)  # keys given on the command line

    def at(self, key: str) -> str:
        given = any(key == option or key.startswith((option + ".", option + "[")) for option in self.options)
        return "on the command line" if given else self.place

    def of(self, key: str) -> str:
        """ "FILE, key" for a fault of several values together."""
        name = self.place.removeprefix("in ").removeprefix("on ")
        return f"{name}, {key}" if key else name


def _unknown_key(cls: type, key: str, source: str, option: bool = False) -> UserError:
    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return max(whole, 0.9 * last + 0.1 * whole)

    known = keys(cls)
    best = max(known, key=likeness, default=None)
    dash = "--" if option else ""
    text = f"unknown {'option' if option else 'key'} '{dash}{key}' {source}"
    if best is not None and likeness(best) >= 0.6:
        return UserError(f"{text}: did you mean '{dash}{best}'?")
    top = dict.fromkeys(k.partition(".")[0] for k in known)
    return UserError(f"{text}: the keys are {', '.join(top)}")


def _check(
    cls: type, mapping: Mapping[str, Any], prefix: str, source: _Source, root: type | None = None
) -> None:
    """Unknown keys, anywhere below, before anything is built."""
    root = root or cls
    for key, value in mapping.items():
        if key not in _fields(cls):
            full = f"{prefix}{key}"
            while isinstance(value, Mapping) and value:  # modl: {dim: 3} is the unknown key modl.dim
                inner, value = next(iter(value.items()))
                full = f"{full}.{inner}"
            raise _unknown_key(root, full, source.at(full))
        inner_class = _dataclass_of(_fields(cls)[key][1])
        if inner_class is not None and isinstance(value, Mapping):
            _check(inner_class, value, f"{prefix}{key}.", source, root)


def _build(cls: type[T], mapping: Mapping[str, Any], base: Any, key: str, source: _Source) -> T:
    """``base``: an instance whose values stand where the mapping is silent."""
    values: dict[str, Any] = {}
    for name, (field, hint) in _fields(cls).items():
        full = f"{key}.{name}" if key else name
        default = _default(field, base)
        if name in mapping:
            values[name] = _value(hint, mapping[name], default, full, source)
        elif default is not _MISSING:
            values[name] = default
        else:
            raise UserError(f"missing key '{full}' {source.place}")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{source.of(key)}: {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source.of(key)}: {_one_line(error)}") from None


class _WrongType(Exception):
    pass


def _value(hint: Any, value: Any, default: Any, key: str, source: _Source) -> Any:
    try:
        return _convert(hint, value, default, key, source)
    except _WrongType:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…"
        raise UserError(f"key '{key}' {source.at(key)}: expected {_name(hint)}, not {shown}") from None


def _convert(hint: Any, value: Any, default: Any, key: str, source: _Source) -> Any:
    inner = _dataclass_of(hint)
    if inner is not None and isinstance(value, inner):
        return value
    if inner is not None and (
        isinstance(value, Mapping) or value is None and hint is inner
    ):  # `model:` with nothing below it
        _check(inner, value or {}, f"{key}.", source, root=inner)
        return _build(inner, value or {}, default if isinstance(default, inner) else None, key, source)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for member in sorted(
            arguments, key=lambda t: t is float
        ):  # an int stays an int where both are allowed
            try:
                return _convert(member, value, default, key, source)
            except _WrongType:
                continue
        raise _WrongType
    if origin is typing.Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
        raise _WrongType
    if origin in (list, Sequence) and isinstance(value, (list, tuple)):
        item = arguments[0] if arguments else Any
        return [_value(item, v, _MISSING, f"{key}[{i}]", source) for i, v in enumerate(value)]
    if origin is tuple and isinstance(value, (list, tuple)):
        if not arguments or arguments[-1] is Ellipsis:
            hints: tuple[Any, ...] = (arguments[0] if arguments else Any,) * len(value)
        else:
            hints = arguments
        if len(hints) != len(value):
            raise _WrongType
        return tuple(
            _value(h, v, _MISSING, f"{key}[{i}]", source)
            for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        key_hint, item = arguments if arguments else (Any, Any)
        return {
            _value(key_hint, k, _MISSING, key, source): _value(item, v, _MISSING, f"{key}.{k}", source)
            for k, v in value.items()
        }
    if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        return float(value)  # NaN is no value: it would pass every check of a range
    if origin is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if origin in (bool, str, type(None)) and isinstance(value, origin):
        return value
    if origin is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise _WrongType
