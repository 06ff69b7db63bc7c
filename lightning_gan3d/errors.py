"""Errors that the command line prints without a traceback."""

import re
from typing import ClassVar


class UserError(ValueError):
    """Invalid input; the command line prints the message and exits with `exit_code`.

    The message is one printable line.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(text: str) -> str:
    """Return one printable line; the middle of long words and lines is cut."""
    text = re.sub(r"\S{200,}", lambda word: f"{word[0][:95]}...{word[0][-95:]}", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 480 else f"{text[:237]}...{text[-240:]}"


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
