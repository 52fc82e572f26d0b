"""`preprocess`: what is reported of photographs that cannot be prepared."""

from __future__ import annotations

from pathlib import Path

from fundusgrade import store
from tests.command_line import Outcome


def test_photographs_that_are_set_aside_with_a_reason_are_an_error_only_where_that_is_asked_for(labeled: Path) -> None:
    """So that `preprocess && train` works on the data sets that there are."""
    (labeled / "3" / "broken.png").write_bytes(b"")
    for words, code in (("", 0), (" --strict", 3)):
        outcome = Outcome(f"fundusgrade preprocess labeled --size 64 --workers 1{words}")
        assert outcome.code == code
        assert "20 of 21 photographs prepared" in outcome.stdout
        assert "not prepared, 1: the file is empty" in outcome.stdout


def test_where_no_photograph_can_be_prepared_no_data_set_is_left(workplace: Path) -> None:
    (workplace / "broken").mkdir()
    (workplace / "broken" / "eye.png").write_bytes(b"")
    outcome = Outcome("fundusgrade preprocess broken --size 64 --workers 1")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "none of 1 photographs can be prepared" in outcome.stderr
    assert "1: the file is empty" in outcome.stderr
    assert not store.dataset_directory("broken").exists()


def test_preprocess_names_what_it_cannot_find() -> None:
    outcome = Outcome("fundusgrade preprocess nowhere")
    assert outcome.code == 1
    assert "nowhere" in outcome.stderr
