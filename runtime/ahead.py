"""Work that runs ahead of whoever needs it, in threads and as far as a bound allows.

    with Ahead(frames, room=4) as decoded:
        for frame in decoded:  # the next ones are decoded meanwhile
            ...

    for path, image in map_ahead(read_image, paths, room=32):  # several are read at a time
        show(path, image.result())

Order is kept, and an error comes where its item would have come.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
"""Threads of `map_ahead`. Decoding is some 1/50 of encoding: more of them would only disturb the encoder."""

# How long to wait for the thread at the end. It may sit in a read from a camera that has fallen silent.
PATIENCE_S = 3.0


class Ahead(Generic[Item]):
    """Runs an iterable in a thread and gives its items in order; an error comes after the items before it, unchanged.

    Use it in a `with` block: at the end the thread stops after the item that it is at, and closes the iterator in the
    thread that ran it.

    Args:
        items: what to run; only the thread touches it.
        room: weight that may wait. One item may always wait, however much it weighs.
        name: of the thread.
        weigh: weight of an item; every item weighs 1 if it is left out.
        patience_s: how long to wait for the thread at the end.
    """

    def __init__(
        self,
        items: Iterable[Item],
        room: int,
        name: str = "ahead",
        weigh: Callable[[Item], int] = lambda _: 1,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._items = items
        self._room = room
        self._weigh = weigh
        self._patience_s = patience_s
        self._changed = threading.Condition()  # guards all below
        self._waiting: deque[Item] = deque()
        self._weight = 0
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> "Ahead[Item]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stop(self) -> None:
        """Tell the thread to stop, and whoever waits for an item that there is none; does not wait for either."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and wait for the thread; closing twice does no harm."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(self._patience_s)

    def __iter__(self) -> Iterator[Item]:
        while (item := self.take()) is not None:
            yield item

    def take(self, *, wait: bool = True, fits: Callable[[Item], bool] = lambda _: True) -> Item | None:
        """Take the next item.

        Args:
            wait: until there is one.
            fits: whether the next item is wanted now; if not it stays.

        Returns:
            The item; None at the end, where it does not fit, and, without `wait`, where none is there.

        Raises:
            Exception: what the iterator raised, once all items before it were taken.
        """
        with self._changed:
            while wait and not (self._waiting or self._ended or self._stopped):
                self._changed.wait()
            if self._waiting:
                if not fits(self._waiting[0]):
                    return None
                item = self._waiting.popleft()
                self._weight -= self._weigh(item)
                self._changed.notify_all()
                return item
            if self._error and not self._stopped:
                raise self._error
            return None

    def _run(self) -> None:
        iterator: Iterator[Item] = iter(())
        try:
            iterator = iter(self._items)
            for item in iterator:
                if not self._put(item):
                    break
        except BaseException as error:  # it is raised where the items are taken
            self._error = error
        finally:
            self._close(iterator)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Hand over an item once there is room; False where nobody wants it any more."""
        weight = self._weigh(item)
        with self._changed:
            while self._waiting and self._weight + weight > self._room and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            self._waiting.append(item)
            self._weight += weight
            self._changed.notify_all()
            return True

    def _close(self, iterator: Iterator[Item]) -> None:
        close = getattr(iterator, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:  # an error on the way out must not hide the one that led here
            log.warning("%s: %s", self._thread.name, error)


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], room: int, threads: int = THREADS
) -> Generator[tuple[Item, "Future[Result]"]]:
    """Do `work` on items by threads, and yield each item with its finished future, in order.

    Close it (`contextlib.closing`) where it may be left before its end: work that has not begun is then called off.

    Args:
        work: safe to be done by several threads at a time.
        items: what to do it on.
        room: how many items may be at work, or done and not taken.
        threads: how many are at work.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    remaining = iter(items)
    pool = ThreadPoolExecutor(threads, "ahead")
    try:
        while True:
            for item in remaining:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= room:
                    break
            if not waiting:
                return
            wait([waiting[0][1]])
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
