"""Texts to vectors. `ENCODERS` maps a kind to its class; other distributions add theirs by entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routellm_core._lazy import load
from routellm_core.encoders.base import ENCODERS, Encoder, load_encoder
from routellm_core.encoders.resolve import as_encoder, resolve_encoder
from routellm_core.encoders.vectors import vectors_by_text

if TYPE_CHECKING:
    from routellm_core.encoders.hashing import HashingEncoder as HashingEncoder
    from routellm_core.encoders.onnx import OnnxEncoder as OnnxEncoder
    from routellm_core.encoders.remote import RemoteEncoder as RemoteEncoder
    from routellm_core.encoders.stacked import StackedEncoder as StackedEncoder
    from routellm_core.encoders.static import StaticEncoder as StaticEncoder
    from routellm_core.encoders.surface import SurfaceEncoder as SurfaceEncoder
    from routellm_core.encoders.transformer import TransformerEncoder as TransformerEncoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "HashingEncoder",
    "OnnxEncoder",
    "RemoteEncoder",
    "StackedEncoder",
    "StaticEncoder",
    "SurfaceEncoder",
    "TransformerEncoder",
    "as_encoder",
    "load_encoder",
    "resolve_encoder",
    "vectors_by_text",
]


def __getattr__(name: str) -> Any:
    targets = {target.partition(":")[2]: target for target in ENCODERS.table.values()}
    if name in targets:
        return load(targets[name])
    raise AttributeError(f"module 'routellm_core.encoders' has no attribute {name!r}")
