"""Routed calls on the disk: what was decided, what it took, how it was liked; to calibrate and to train on later."""

from __future__ import annotations

from routellm_core.recording.call import Feedback, RecordedCall, prompt_digest
from routellm_core.recording.reading import Recording, read_recording
from routellm_core.recording.sinks import JsonlSink, Sink, SqliteSink, open_sink

__all__ = [
    "Feedback",
    "JsonlSink",
    "RecordedCall",
    "Recording",
    "Sink",
    "SqliteSink",
    "open_sink",
    "prompt_digest",
    "read_recording",
]
