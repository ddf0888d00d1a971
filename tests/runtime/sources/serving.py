"""A local server that answers while a block runs."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[str]:
    """Let a server of 127.0.0.1 answer in a thread; gives its address as `http://host:port`."""
    with server as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


class Threads(socketserver.ThreadingTCPServer):
    """Answers each connection in a thread that nobody waits for."""

    daemon_threads = True
    block_on_close = False
