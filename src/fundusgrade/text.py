"""Text for people: one printable line from any name or error."""

from __future__ import annotations


def error_text(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """Text with the undecodable bytes of file names, which Python keeps as lone surrogates, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
