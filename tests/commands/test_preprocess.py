"""`preprocess`: what is reported of photographs that cannot be prepared."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import Outcome


def test_preprocess_ends_with_a_code_of_its_own_where_photographs_failed(labeled: Path) -> None:
    (labeled / "3" / "broken.png").write_bytes(b"")
    outcome = Outcome("fundusgrade preprocess labeled --size 64 --workers 1")
    assert outcome.code == 3
    assert "20 of 21 photographs prepared" in outcome.stdout
    assert "not prepared, 1: the file is empty" in outcome.stdout


def test_preprocess_names_what_it_cannot_find() -> None:
    outcome = Outcome("fundusgrade preprocess nowhere")
    assert outcome.code == 1
    assert "nowhere" in outcome.stderr
