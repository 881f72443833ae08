"""What every router promises: prompts in, win rates in [0, 1] out, saved and restored without loss."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from routellm_core.calibration import Calibration
from routellm_core.encoders.base import Encoder, checked_texts
from routellm_core.errors import ConfigurationError, RouteLLMError, ScoringError
from routellm_core.folders import replace_folder
from routellm_core.persistence import FILES, FORMAT, digests_of_files, write_config, write_tensors

__all__ = ["Router", "checked_win_rates", "pair_name"]


class Router(ABC):
    """Estimates, for each prompt, the chance that the strong model's answer beats the weak one's.

    A new router implements `_score`; to be saved it also implements `settings`, `tensors` and `restore`.
    One that works on its encoder's vectors puts that part into `_score_vectors`: with an encoder that
    awaits its service, `awin_rate` then does too.

    Attributes:
        kind: Its name in the table of routers.
        name: What records and messages call it; the kind unless something better is known.
        encoder: What turns prompts into vectors; None for routers that need none.
        calibration: The win rates it was calibrated on; gives thresholds for strong shares.
        is_quick: A single prompt takes well under a millisecond, so it may be scored on an event loop.
        natural_threshold: Where its scale itself says that strong begins; a policy of two routes cuts there if it is
            given no threshold and the router no calibration.
        metadata_columns: What else it wants to know of each prompt; none for most. A router that names columns takes
            them in `win_rate`, `awin_rate` and `model_scores` as `metadata={column: one value a prompt}`, and policies
            hand over what a call knows of them (see `RouteRequest`).
        maps_tensors: Whether its tensors stay in the file they are loaded from, see `persistence.read_tensors`.
        source: What `load_router` was given, folders as absolute paths, or the folder it was saved to last; None for
            a router that exists in memory only.
    """

    kind: ClassVar[str]
    maps_tensors: ClassVar[bool] = False
    is_quick: bool = False
    metadata_columns: tuple[str, ...] = ()
    natural_threshold: ClassVar[float | None] = None
    encoder: Encoder | None = None
    source: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "kind"):
            cls.kind = cls.__name__

    def __init__(self, *, name: str | None = None, calibration: Calibration | None = None) -> None:
        self.name = name or self.kind
        self.calibration = calibration

    @abstractmethod
    def _score(self, prompts: list[str]) -> NDArray[np.float64]:
        """Win rates of at least one prompt, shape (len(prompts),). Every element is a str."""

    def _score_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """`_score` from the encoder's vectors of the prompts, shape (n, encoder.dim)."""
        raise NotImplementedError

    def win_rate(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Chance that the strong model's answer beats the weak one's; a tie counts for the weak model.

        Args:
            prompts: Texts of any length, the empty text included; the encoder cuts long ones.

        Returns:
            Shape (len(prompts),), float64, each in [0, 1]. An empty list gives shape (0,).

        Raises:
            DataError: `prompts` is one str, or an element is not a str.
            ScoringError: Scoring failed, or gave a wrong count or a value that is no probability;
                `is_retryable` says whether to try again.
        """
        texts = checked_texts(prompts, what="prompt")
        if not texts:
            return np.zeros(0)
        try:
            win_rates = self._score(texts)
        except RouteLLMError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return checked_win_rates(win_rates, len(texts), self.name)

    @property
    def is_async(self) -> bool:
        """Whether `awin_rate` awaits a service of its own accord; else it takes a thread."""
        cls = type(self)
        if cls.awin_rate is not Router.awin_rate:
            return True
        if self.encoder is None or self.metadata_columns:  # `Router.awin_rate` takes no metadata
            return False
        return self.encoder.is_async and cls._score_vectors is not Router._score_vectors

    async def awin_rate(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """`win_rate` without blocking the event loop: awaits the encoder's service if it has one, else in a thread."""
        if self.encoder is None or not self.is_async:
            return await asyncio.to_thread(self.win_rate, prompts)
        texts = checked_texts(prompts, what="prompt")
        if not texts:
            return np.zeros(0)
        try:
            win_rates = await asyncio.to_thread(self._score_vectors, await self.encoder.aencode(texts))
        except RouteLLMError:
            raise
        except Exception as error:
            raise self._failure(error) from error
        return checked_win_rates(win_rates, len(texts), self.name)

    def _failure(self, error: Exception) -> ScoringError:
        # the type only: somebody else's message may quote the prompt, and ours go into records and logs
        return ScoringError(f"router {self.name!r} failed with {type(error).__name__}")

    # -- saving
    def settings(self) -> dict[str, Any]:
        """What config.json keeps beside the tensors; plain JSON."""
        raise ConfigurationError(f"a router of kind {self.kind!r} cannot be saved")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What model.safetensors keeps."""
        return {}

    def save_files(self, folder: Path) -> None:  # noqa: B027 - most routers have no files
        """Write what settings and tensors cannot hold, such as a transformer, to an empty folder."""

    @classmethod
    def restore(
        cls, settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], encoder: Encoder | None
    ) -> Router:
        """The router that had these settings and tensors. Reads known keys only."""
        raise ConfigurationError(f"a router of kind {cls.kind!r} cannot be loaded")

    @classmethod
    def restore_with_files(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        encoder: Encoder | None,
        files: Path,
    ) -> Router:
        """`restore` for routers that also wrote files; `files` holds what `save_files` wrote."""
        return cls.restore(settings, tensors, encoder)

    def save(self, folder: str | Path) -> None:
        """Write the router to a folder, whole or not at all; a saved router there is replaced.

        Raises:
            ConfigurationError: The folder holds something else, or this kind cannot be saved.
        """
        tensors = dict(self.tensors())
        config: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "settings": self.settings(),
            "encoder": self.encoder.describe() if self.encoder else None,
            "calibration": None,
        }
        if self.calibration is not None:
            config["calibration"] = self.calibration.to_dict()
            tensors |= {f"calibration.{name}": array for name, array in self.calibration.tensors().items()}

        def fill(target: Path) -> None:
            config["tensors_sha256"] = write_tensors(target, tensors)
            if self.encoder is not None:
                self.encoder.save_files(target / "encoder")
            (target / FILES).mkdir()
            self.save_files(target / FILES)
            if digests := digests_of_files(target / FILES):
                config["files_sha256"] = digests
            else:
                (target / FILES).rmdir()
            write_config(target, config)

        replace_folder(Path(folder), fill)
        self.source = str(Path(folder).resolve())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


_PAIR = " ({} over {})"


def pair_name(base: str, strong: str, weak: str, *, own: tuple[str, str] | None = None) -> str:
    """What records call the router that `for_pair` makes, so that two pairs of one router can be told apart.

    Args:
        base: Name of the router it is made of.
        strong: The pair's strong model.
        weak: Its weak model.
        own: The pair of the router it is made of, which may be in its name and is not kept there.
    """
    if own is not None:
        base = base.removesuffix(_PAIR.format(*own))
    return base + _PAIR.format(strong, weak)


def checked_win_rates(win_rates: Any, n_prompts: int, router: str) -> NDArray[np.float64]:
    """What a router gave, as float64 of shape (n_prompts,).

    Raises:
        ScoringError: It is no array of numbers, has another shape, or holds a value outside [0, 1].
    """
    try:
        array = np.asarray(win_rates, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"router {router!r} gave {type(win_rates).__name__}, not win rates") from error
    if array.shape != (n_prompts,):
        raise ScoringError(f"router {router!r} gave shape {array.shape} for {n_prompts} prompts")
    valid = (array >= 0.0) & (array <= 1.0)  # False for NaN too
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise ScoringError(f"router {router!r} gave {array[row]} for prompt {row}, not a value in [0, 1]")
    return array
