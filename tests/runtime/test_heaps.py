"""Heaps of a process with many threads, as glibc itself counts them."""

import os
import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import ctypes, sys, threading
from runtime.heaps import share_heaps

done = share_heaps() if sys.argv[1] == "shared" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
everyone = threading.Barrier(8)

def allocate():
    everyone.wait()
    for _ in range(1000):
        libc.malloc(1000)
    everyone.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdout.flush()
print(done)
sys.stdout.flush()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps for threads")
def test_eight_threads_share_two_heaps() -> None:
    def run(how: str, **more: str) -> tuple[str, int]:
        environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | more
        said = subprocess.run(
            [sys.executable, "-c", ALLOCATE, how], capture_output=True, text=True, check=True, env=environment
        ).stdout
        return said.splitlines()[0], said.count("<heap nr=")

    done, heaps = run("shared")
    assert (done, heaps) == ("True", 2)
    assert run("plain")[1] > 2
    assert run("shared", MALLOC_ARENA_MAX="3") == ("False", 3)
