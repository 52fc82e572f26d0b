"""What the environment lets the libraries use of a processor."""

from __future__ import annotations

import pytest

from fundusgrade.networks.processor import onednn_allows_bfloat16


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, True),
        ("", True),
        ("default", True),
        ("SSE41", False),
        ("AVX2", False),
        ("avx512_core_vnni", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
    ],
)
def test_onednn_may_be_held_to_instructions_without_bfloat16(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, *, expected: bool
) -> None:
    """OpenVINO reports what the processor has, and crashed where oneDNN was not allowed to use it."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert onednn_allows_bfloat16() is expected
