"""Text for people: printable names and one-line reasons, whatever bytes a file name or an error holds."""

from __future__ import annotations

import math


def printable(text: str) -> str:
    """Text that every stream and file can encode; line breaks and white space stay.

    Bytes of file names that are not UTF-8, which Python keeps as lone surrogates, become escapes such as \\udcff.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """A name or message as one printable line; what cannot be seen becomes an escape such as \\n, \\x1b or \\u202e.

    Line breaks, or marks that turn the direction of writing, could make a name look like another one.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def error_text(error: BaseException) -> str:
    """The reason of an error as one printable line, to stand inside of a message of ours.

    Errors of the operating system are given by their description without number and file name, and an error without
    a message by its type.
    """
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return one_line(" ".join(str(error).split())) or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough: Python's, or PyTorch's of a processor or a GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def type_name(value: object) -> str:
    """The type of a value as people name it: "int", "torch.Tensor"."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def significant(value: float, digits: int = 2) -> str:
    """A number with this many significant digits, at least, and without an exponent: "0.23", "140", "−1.4", "0"."""
    if not math.isfinite(value):
        return str(value)
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else digits - 1)
    written = f"{value:.{min(max(decimals, 0), 8)}f}"
    return written.replace("-", "\N{MINUS SIGN}") if float(written) else "0"


def shortened(text: str, max_characters: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer."""
    return text if len(text) <= max_characters else text[: max_characters - 1].rstrip() + "…"
