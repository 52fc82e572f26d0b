"""Names and reasons as people read them: one line, and nothing that a terminal would obey."""

from __future__ import annotations

import os

import pytest
import torch

from fundusgrade.text import error_text, is_out_of_memory, one_line, printable, significant


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("", "eye 1.jpg", "œil gauche/左眼.png", "100 % “sure”"):
        assert printable(text) == one_line(text) == text


def test_undecodable_bytes_of_a_name_become_escapes() -> None:
    name = os.fsdecode(b"eye\xff.jpg")
    assert printable(name) == one_line(name) == "eye\\udcff.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202egpj", "a\\u202egpj"),
        ("a\u2028b", "a\\u2028b"),
        ("\t", "\\t"),
    ],
)
def test_what_cannot_be_seen_becomes_an_escape(text: str, expected: str) -> None:
    assert one_line(text) == expected
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad\n  value\x1b[0m"), "bad value\\x1b[0m"),
        (OSError(28, "No space left on device", "/a/patient"), "no space left on device"),
        (OSError("odd"), "odd"),
        (MemoryError(), "not enough memory"),
        (KeyError(), "KeyError"),
        (ValueError(" \n "), "ValueError"),
    ],
)
def test_an_error_is_one_printable_line(error: Exception, expected: str) -> None:
    assert error_text(error) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.234, "0.23"), (0.0651, "0.065"), (2.7, "2.7"), (0.25, "0.25"), (17.2, "17"), (140.4, "140"), (0, "0")],
)
def test_numbers_have_two_significant_digits(value: float, expected: str) -> None:
    assert significant(value) == expected
    assert significant(-value) == (expected if value == 0 else f"−{expected}")
    assert significant(0.24964, 4) == "0.2496"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12582912 bytes"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_an_error_of_too_little_memory_is_told_from_others(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_pytorch_raises_when_a_processor_has_no_memory_is_such_an_error() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
