"""Every error this package raises on purpose.

RouteLLMError
├── MissingExtraError (ImportError)      an optional dependency is not installed
├── UnknownKindError (LookupError)       no such router, encoder, policy or route
├── ConfigurationError (ValueError)      arguments that contradict each other or are out of range
├── RouterFormatError (ValueError)       a saved router that cannot be read as what it claims to be
├── DataError (ValueError)               prompts or rows that cannot be used; names the row
├── CalibrationError (ValueError)        a threshold that the data cannot give
├── ScoringError (RuntimeError)          no usable win rate came back; has `is_retryable`
│   └── EncoderError                     the encoder failed
└── StateError (RuntimeError)            shared counts or budgets are out of reach; has `is_retryable`

Each also inherits the builtin that callers would expect to catch.
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "ConfigurationError",
    "DataError",
    "EncoderError",
    "MissingExtraError",
    "RouteLLMError",
    "RouterFormatError",
    "ScoringError",
    "StateError",
    "UnknownKindError",
]


class RouteLLMError(Exception):
    """Base of all errors raised on purpose by this package."""


class MissingExtraError(RouteLLMError, ImportError):
    """An optional dependency is missing; the message names the install command."""


class UnknownKindError(RouteLLMError, LookupError):
    """A name that is in no table; the message lists the known ones."""


class ConfigurationError(RouteLLMError, ValueError):
    """Arguments that contradict each other, or are out of range."""


class RouterFormatError(RouteLLMError, ValueError):
    """A folder that does not hold a router this version can load."""


class DataError(RouteLLMError, ValueError):
    """Prompts or rows that cannot be used; the message names the row and the reason."""


class CalibrationError(RouteLLMError, ValueError):
    """The sample cannot give the threshold that was asked for."""


class ScoringError(RouteLLMError, RuntimeError):
    """The router gave no usable win rate.

    Args:
        message: What went wrong.
        is_retryable: Whether the same call may succeed later.
    """

    def __init__(self, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


class EncoderError(ScoringError):
    """The encoder failed to turn prompts into vectors."""


class StateError(RouteLLMError, RuntimeError):
    """State shared between processes could not be read or written.

    Args:
        message: What went wrong.
        is_retryable: Whether the same call may succeed later.
    """

    def __init__(self, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
