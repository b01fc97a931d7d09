"""A foreign SentencePiece model made into one of ours: ``<blk>`` as id 0, its own pieces from id 1 on.

A SentencePiece model is a protocol buffer (``sentencepiece_model.proto``): field 1 is the repeated message piece {1:
text, 2: score, 3: type}, field 2 the trainer's settings, among them which ids and names the special pieces have. It
is taken apart and put together by hand, for no dependency on protobuf; whatever is not named here stays as it was, so
that text is normalised and cut into pieces as before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from asr.errors import UserError
from asr.tokens import BLANK, BLANK_PIECE

PIECE, TRAINER = 1, 2  # fields of the model
TEXT, SCORE, TYPE = 1, 2, 3  # fields of a piece
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # types of a piece
UNKNOWN_ID, BOS_ID, EOS_ID, PAD_ID, UNKNOWN_PIECE = 40, 41, 42, 43, 45  # fields of the trainer's settings
RENAMED = {"<unk>": "<unknown>", BLANK_PIECE: "<blank>"}  # names that mean something else in tokens.txt
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def with_blank_first(model: bytes, name: str = "the SentencePiece model") -> bytes:
    """The model with ``<blk>`` put before all pieces: SentencePiece's id i becomes i + 1.

    Special pieces (unknown, begin, end, padding) keep their places, as the network has a symbol for each, but become
    *unused*: no text is encoded to them, characters that the pieces cannot spell are dropped, and what a network says
    in them is no text. ``<unk>`` is called ``<unknown>``, because runtimes take a symbol of that name for the blank.

    Args:
        name: appears in errors.

    Raises:
        UserError: not a SentencePiece model.
    """
    pieces, rest = bytearray(_piece(BLANK_PIECE, 0.0, UNKNOWN)), bytearray()
    try:
        for field, wire, value in fields(model):
            if field == PIECE and wire == BYTES:
                pieces += _field(PIECE, _retyped(value))
            else:
                rest += _field(field, value, wire)
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{name} is not a SentencePiece model") from None
    settings = b"".join(_field(field, varint(_unsigned(-1)), VARINT) for field in (BOS_ID, EOS_ID, PAD_ID))
    settings += _field(UNKNOWN_ID, varint(BLANK), VARINT) + _field(UNKNOWN_PIECE, BLANK_PIECE.encode())
    # A message that comes again is merged into the one before: later values win.
    return bytes(pieces + rest + _field(TRAINER, settings))


def fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a protocol buffer message in order: number, wire type, bytes of the value.

    Raises:
        ValueError: the message ends inside a field, or has an unknown wire type.
    """
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        wire = tag & 7
        if wire == VARINT:
            end = _read_varint(message, at)[1]
        elif wire == BYTES:
            size, at = _read_varint(message, at)
            end = at + size
        elif wire in (FIXED32, FIXED64):
            end = at + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire}")
        if tag < 8 or end > len(message):
            raise ValueError("not a protocol buffer message")
        yield tag >> 3, wire, message[at:end]
        at = end


def varint(value: int) -> bytes:
    """A number >= 0 in groups of seven bits, lowest first; the high bit says that more follow."""
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def _retyped(piece: bytes) -> bytes:
    """A piece as it stands, or unused if it was special."""
    parts = {field: (wire, value) for field, wire, value in fields(piece)}
    text = parts[TEXT][1].decode() if TEXT in parts else ""
    kind = _read_varint(parts[TYPE][1], 0)[0] if TYPE in parts else NORMAL
    if kind not in (UNKNOWN, CONTROL) and text not in RENAMED:
        return piece
    parts[TEXT] = (BYTES, RENAMED.get(text, text).encode())
    parts[TYPE] = (VARINT, varint(UNUSED))
    return b"".join(_field(field, value, wire) for field, (wire, value) in parts.items())


def _piece(text: str, score: float, kind: int) -> bytes:
    content = _field(TEXT, text.encode()) + _field(SCORE, struct.pack("<f", score), FIXED32)
    return _field(PIECE, content + _field(TYPE, varint(kind), VARINT))


def _field(number: int, value: bytes, wire: int = BYTES) -> bytes:
    size = varint(len(value)) if wire == BYTES else b""
    return varint(number << 3 | wire) + size + value


def _unsigned(value: int) -> int:
    """A negative int32 as protocol buffers write it: as the 64-bit two's complement."""
    return value & (1 << 64) - 1


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next field begins."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("not a protocol buffer message")
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return value, at
