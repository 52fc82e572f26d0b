"""Work ahead of a loop: in order, bounded, and without anything left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fundusgrade.training.ahead import map_ahead


def test_results_come_in_the_order_of_the_items_whichever_is_first_done() -> None:
    second_done = threading.Event()

    def slow_first(number: int) -> int:
        if number == 0:
            assert second_done.wait(10)
        if number == 1:
            second_done.set()
        return 10 * number

    assert list(map_ahead(slow_first, range(20), num_threads=3)) == [10 * number for number in range(20)]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_at_most_one_more_than_the_threads_are_taken_ahead(num_threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), num_threads=num_threads)
    assert not taken, "nothing before the first is asked for"
    for done, result in enumerate(results):
        assert result == done
        assert len(taken) <= done + num_threads + 1
    assert len(taken) == 10


def test_an_exception_comes_where_its_result_would_and_ends_the_work() -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = map_ahead(fail_at_two, range(1000), num_threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(results) == []


def test_closing_it_ends_its_threads() -> None:
    before = threading.active_count()
    results = map_ahead(lambda number: number, range(1000), num_threads=2)
    assert next(results) == 0
    assert threading.active_count() > before
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
