"""What every router and every encoder must do, as test classes: subclass one and say how to `make` yours.

Needs pytest. In your conftest.py, `pytest.register_assert_rewrite("routellm_core.testing")` makes the
failures readable.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from routellm_core.encoders.base import Encoder, load_encoder
from routellm_core.errors import DataError
from routellm_core.routers.base import Router
from routellm_core.routers.loading import load_router

__all__ = ["ODD_TEXTS", "EncoderContract", "RouterContract"]

PLAIN_TEXTS = (
    "hi",
    "What is the capital of France?",
    "Prove that every finite integral domain is a field.",
    "A farmer has 17 sheep. All but 9 run away. How many are left?",
)

ODD_TEXTS = (
    "",
    " ",
    "\n\t ",
    "\x00",
    "a\x00b",
    "\ud800",
    "ok \udfff ok",
    "🙂" * 50,
    "👩‍👩‍👧‍👦",
    "مرحبا بالعالم",
    "שלום",
    "\u202eabc",
    "你好，世界",
    "e\u0301" * 20,
    "x" * 100_000,
    "a b " * 30_000,
    "\ufeffbom",
    "٣ + ٤",
)
"""Texts that broke somebody's tokenizer."""


def _raises_data_error(call: Any, argument: Any) -> bool:
    try:
        call(argument)
    except DataError:
        return True
    return False


class EncoderContract:
    """Subclass it in a test module and implement `make`."""

    def make(self) -> Encoder:
        """A new encoder, the same every time."""
        raise NotImplementedError("subclasses of EncoderContract say how to make their encoder")

    def test_a_batch_gives_float32_rows_of_the_declared_width(self) -> None:
        encoder = self.make()
        vectors = encoder.encode(PLAIN_TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(PLAIN_TEXTS), encoder.dim)

    def test_different_texts_get_different_vectors(self) -> None:
        assert len(np.unique(self.make().encode(PLAIN_TEXTS), axis=0)) == len(PLAIN_TEXTS)

    def test_a_batch_agrees_with_single_calls_and_with_the_async_twin(self) -> None:
        encoder = self.make()
        texts = [*PLAIN_TEXTS, *ODD_TEXTS]
        batch = encoder.encode(texts)
        np.testing.assert_allclose(batch, np.concatenate([encoder.encode([t]) for t in texts]), atol=1e-5)
        np.testing.assert_array_equal(batch, asyncio.run(encoder.aencode(texts)))

    def test_no_texts_give_no_rows(self) -> None:
        encoder = self.make()
        assert encoder.encode([]).shape == (0, encoder.dim)

    def test_any_text_gives_a_finite_vector(self) -> None:
        assert np.isfinite(self.make().encode(ODD_TEXTS)).all()

    def test_what_is_not_a_list_of_str_is_a_data_error(self) -> None:
        encoder = self.make()
        for wrong in ("one text", [None], [1], [b"bytes"], ["fine", None], 3):
            assert _raises_data_error(encoder.encode, wrong), wrong

    def test_two_made_alike_have_one_digest(self) -> None:
        digest = self.make().digest
        assert digest == self.make().digest
        assert len(digest) == 64

    def test_it_is_restored_from_its_description_and_files(self, tmp_path: Path) -> None:
        encoder = self.make()
        encoder.save_files(tmp_path)
        restored = load_encoder(encoder.describe(), tmp_path)
        assert restored.digest == encoder.digest
        np.testing.assert_array_equal(restored.encode(PLAIN_TEXTS), encoder.encode(PLAIN_TEXTS))


class RouterContract:
    """Subclass it in a test module and implement `make`."""

    def make(self) -> Router:
        """A new router, the same every time."""
        raise NotImplementedError("subclasses of RouterContract say how to make their router")

    def test_win_rates_are_one_float64_a_prompt_between_0_and_1(self) -> None:
        win_rates = self.make().win_rate(PLAIN_TEXTS)
        assert win_rates.dtype == np.float64
        assert win_rates.shape == (len(PLAIN_TEXTS),)
        assert ((win_rates >= 0) & (win_rates <= 1)).all()

    def test_different_prompts_get_different_win_rates(self) -> None:
        assert len(np.unique(self.make().win_rate(PLAIN_TEXTS))) > 1

    def test_a_batch_agrees_with_single_calls_and_with_the_async_twin(self) -> None:
        router = self.make()
        prompts = [*PLAIN_TEXTS, *ODD_TEXTS]
        batch = router.win_rate(prompts)
        np.testing.assert_allclose(batch, [router.win_rate([p])[0] for p in prompts], atol=1e-5)
        np.testing.assert_array_equal(batch, asyncio.run(router.awin_rate(prompts)))

    def test_no_prompts_give_no_win_rates(self) -> None:
        assert self.make().win_rate([]).shape == (0,)

    def test_any_text_gets_a_win_rate(self) -> None:
        win_rates = self.make().win_rate(ODD_TEXTS)
        assert ((win_rates >= 0) & (win_rates <= 1)).all()

    def test_what_is_not_a_list_of_str_is_a_data_error(self) -> None:
        router = self.make()
        for wrong in ("one prompt", [None], [1], [b"bytes"], ["fine", None], 3):
            assert _raises_data_error(router.win_rate, wrong), wrong

    def test_a_saved_router_gives_the_same_win_rates_and_thresholds(self, tmp_path: Path) -> None:
        router = self.make()
        router.save(tmp_path / "router")
        loaded = load_router(tmp_path / "router")
        np.testing.assert_array_equal(loaded.win_rate(PLAIN_TEXTS), router.win_rate(PLAIN_TEXTS))
        assert (loaded.calibration is None) == (router.calibration is None)
        if router.calibration is not None and loaded.calibration is not None:
            assert loaded.calibration.to_dict() == router.calibration.to_dict()

    def test_saving_again_replaces_and_leaves_nothing_else_behind(self, tmp_path: Path) -> None:
        self.make().save(tmp_path / "router")
        self.make().save(tmp_path / "router")
        assert [path.name for path in tmp_path.iterdir()] == ["router"]
