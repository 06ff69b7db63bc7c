"""Errors that the command line prints without a traceback."""

from typing import ClassVar


class UserError(ValueError):
    """Invalid input; the command line prints the message and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2


class ConfigError(UserError):
    """An invalid configuration; the message names field, value, choices and remedy."""

    def __init__(self, message: str, field: str | None = None) -> None:
        """`field`: name within its dataclass, so that the loader can add file and line."""
        super().__init__(message)
        self.field = field


class UnsafeConfig(ConfigError):
    """A configuration that asks for code."""

    exit_code: ClassVar[int] = 3


class OutOfRange(ConfigError):
    """A value outside the range that its field's annotation states."""
