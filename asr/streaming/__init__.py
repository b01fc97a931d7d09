"""What an application holds: recogniser, sessions, events, endpoints."""

from __future__ import annotations

from asr.streaming.details import Details
from asr.streaming.endpointing import NO_ENDPOINT, EndpointConfig
from asr.streaming.events import Event, Final, Partial
from asr.streaming.recognizer import Recognizer
from asr.streaming.session import Session

__all__ = ["NO_ENDPOINT", "Details", "EndpointConfig", "Event", "Final", "Partial", "Recognizer", "Session"]
