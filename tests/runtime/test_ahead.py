"""Work that runs ahead in threads: order, bounds, errors and endings."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.ahead import Ahead, map_ahead


def until(condition: threading.Event) -> None:
    assert condition.wait(10)


def test_items_come_in_order_and_the_end_is_the_end() -> None:
    with Ahead(range(1000), room=7) as numbers:
        assert list(numbers) == list(range(1000))
        assert numbers.take() is None


def test_no_more_is_made_than_there_is_room_for() -> None:
    made: list[int] = []

    def weights() -> Iterator[int]:
        for weight in (3, 3, 9, 1, 1):
            made.append(weight)
            yield weight

    with Ahead(weights(), room=6, weigh=lambda weight: weight) as ahead:
        time.sleep(0.2)
        assert made == [3, 3, 9]  # two wait, the third is in the hands of the thread
        assert [ahead.take(), ahead.take()] == [3, 3]
        time.sleep(0.2)
        assert made == [3, 3, 9, 1]  # one that weighs more than all the room waits alone
        assert list(ahead) == [9, 1, 1]


def test_an_error_comes_unchanged_after_the_items_before_it() -> None:
    error = OSError("the camera is gone")

    def frames() -> Iterator[int]:
        yield from range(5)
        raise error

    seen: list[int] = []
    with Ahead(frames(), room=2) as ahead, pytest.raises(OSError, match="the camera is gone") as caught:
        seen.extend(iter(ahead.take, None))
    assert caught.value is error
    assert seen == list(range(5))


def test_an_iterable_that_cannot_even_begin_is_an_error_and_no_endless_wait() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("the camera is gone")

    with Ahead(Broken(), room=2) as ahead:
        ahead._thread.join(10)
        with pytest.raises(OSError, match="the camera is gone"):
            ahead.take(wait=False)  # with waiting it would be for ever


def test_nobody_waits_who_does_not_want_to() -> None:
    go_on = threading.Event()

    def frames() -> Iterator[int]:
        yield 1
        until(go_on)
        yield 2

    with Ahead(frames(), room=2) as ahead:
        assert ahead.take() == 1
        assert ahead.take(wait=False) is None
        go_on.set()
        assert ahead.take(fits=lambda item: item > 2) is None
        assert ahead.take() == 2


def test_leaving_stops_the_thread_and_closes_the_iterator_there() -> None:
    closed_by = []

    def frames() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed_by.append(threading.current_thread().name)

    with Ahead(frames(), room=3, name="decode") as ahead:
        assert ahead.take() == 1
    assert closed_by == ["decode"]
    assert ahead.take() is None


def test_stopping_the_first_of_two_ends_the_second() -> None:
    silence = threading.Event()

    def camera() -> Iterator[int]:
        yield 1
        until(silence)

    first = Ahead(camera(), room=1)
    with first, Ahead((2 * number for number in first), room=1) as second:
        assert second.take() == 2
        first.stop()
        assert second.take() is None
        silence.set()


def test_map_ahead_keeps_order_and_errors_in_their_place() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 4:
            raise ValueError("four")
        return number * number

    found = list(map_ahead(work, range(20), room=5, threads=3))
    assert [number for number, _ in found] == list(range(20))
    assert isinstance(found[4][1].exception(), ValueError)
    assert [future.result() for number, future in found if number != 4] == [n * n for n in range(20) if n != 4]


def test_map_ahead_does_not_run_further_than_its_room_and_can_be_left() -> None:
    done: list[int] = []
    with closing(map_ahead(done.append, range(1000), room=8, threads=2)) as running:
        for number, future in running:
            future.result()
            if number == 10:
                break
    assert 11 <= len(done) <= 10 + 8 + 1
