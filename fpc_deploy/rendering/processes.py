"""Processes that draw: spawned, and gone when whoever asked for them is."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def drawing_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes that end with this one, also where it is killed.

    They are spawned rather than forked: a fork of a process that has threads (an engine, torch) may hang.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
