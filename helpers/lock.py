"""One run at a time in one outputs folder, and a folder that can be written."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import artifacts

_PATIENCE = 5  # seconds to wait for the kernel of a killed run to follow it


@contextlib.contextmanager
def held(folder: Path) -> Iterator[int]:
    """Makes `folder`, holds its lock for the block, and yields the lock's file descriptor.

    The kernels inherit the descriptor: when a run is killed, the lock lasts until its kernel,
    which ends within a second, can write no more.

    Raises:
        OSError: If the folder cannot be written, the disk is almost full, or another run holds it.
    """
    import fcntl

    with artifacts.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(fcntl, descriptor, folder)
        with artifacts.explained(folder):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            if shutil.disk_usage(folder).free < artifacts.MINIMUM_FREE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for leftover in folder.glob(artifacts.PARTIAL + "*"):
                if not artifacts.another_writes(leftover):
                    artifacts.remove(leftover)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(fcntl, descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise OSError(
                errno.EAGAIN,
                f"Another run (process {owner}) is writing to {folder}: "
                "wait until it ends, or name another folder with --output.",
            ) from None
