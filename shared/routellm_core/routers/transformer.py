"""What routers that run a transformer share: where and how precisely it runs, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from routellm_core.encoders.pretrained import cast, resolve_device, save_pretrained
from routellm_core.routers.base import Router

__all__ = ["TransformerRouter"]


class TransformerRouter(Router):
    """A router with a model of transformers.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        dtype: Of the model's weights, as a name.
    """

    model: Any
    tokenizer: Any
    dtype: str

    def to(self, *, dtype: str | None = None, device: str | None = None) -> None:
        """Run elsewhere or in another precision from now on; it is then also saved in that precision.

        Half precision cannot be undone: load the router again for that. Win rates change by about 1e-2, so calibrate
        anew where that matters.

        Args:
            dtype: "float32", "bfloat16" or "float16"; None leaves it.
            device: "cpu", "cuda", ...; None leaves it.

        Raises:
            ConfigurationError: torch knows no such device, or the dtype is none of these.
        """
        if dtype is not None:
            cast(self.model, dtype)
            self.dtype = dtype
        if device is not None:
            self.model.to(resolve_device(device))

    def save_files(self, folder: Path) -> None:
        save_pretrained(self.model, self.tokenizer, folder)
