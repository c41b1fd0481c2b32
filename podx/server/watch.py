"""Notices that the served folder was replaced."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from podx.errors import PodxError
from podx.server.service import Service

POLL_S = 0.5
log = logging.getLogger("podx.server")

Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(folder: Path) -> Fingerprint:
    """What tells a folder's state from another: of each file its name, inode, size and time of change."""
    try:
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    except OSError:  # just being replaced
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


class Watch(threading.Thread):
    """Swaps when the folder has changed and stays the same for one more look; what is refused is logged.

    Args:
        served: fingerprint of the folder just before it was loaded.
    """

    def __init__(self, service: Service, folder: Path, served: Fingerprint) -> None:
        super().__init__(name="podx-watch", daemon=True)
        self._service, self._folder = service, folder
        self._served = self._before = served
        self._stop = threading.Event()

    def run(self) -> None:
        """Look until :meth:`close` is called."""
        while not self._stop.wait(POLL_S):
            self.look()

    def look(self) -> None:
        """Compare the folder with what is served."""
        now = fingerprint(self._folder)
        settled, self._before = now == self._before, now
        if not now or not settled or now == self._served:
            return
        self._served = now  # a bundle that is refused is not tried again until it changes
        try:
            log.warning("now serving %s", self._service.swap())
        except (PodxError, OSError) as error:
            log.error("%s is refused, the bundle before it goes on: %s", self._folder, error)

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
