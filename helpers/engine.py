"""A papermill engine whose kernel is watched: which cell it is at, and how much memory it takes."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from helpers import artifacts, processor
from helpers.records import shortened

NAME = "workbook"
_NOTE = re.compile(r"\[IPKernelApp\]|[IW]\d{4} |WARNING: All log messages")  # of Jupyter and TensorFlow: no reason
_INTERVAL = 0.5  # seconds between two looks at the kernel


class Watch:
    """What is known of a kernel while it runs and after.

    Args:
        on_cell: Called with a cell's index before it runs.
        on_words: Called with what a cell writes to stderr, which is how far its long work is.
        on_tick: Called about twice a second while the kernel lives.
        keep_open: File descriptors that the kernel inherits, so that a lock on them lasts as long
            as the kernel does, even when the process that started it is killed.
    """

    def __init__(
        self,
        on_cell: Callable[[int], None] = lambda index: None,
        on_words: Callable[[str], None] = lambda text: None,
        on_tick: Callable[[], None] = lambda: None,
        keep_open: tuple[int, ...] = (),
    ):
        self.on_cell = on_cell
        self.on_words = on_words
        self.on_tick = on_tick
        self.keep_open = keep_open
        self.peak_bytes = 0
        self.notebook = None  # as far as it has run, also after a failure
        self.end = ""  # how the kernel's process ended, if it did so by itself
        self._started = time.monotonic()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._started

    def finish(self) -> None:
        self._ended = time.monotonic()

    @contextlib.contextmanager
    def following(self, pid: int) -> Iterator[None]:
        """Measures the memory of a process and its children until the block ends."""
        done = threading.Event()

        def look() -> None:
            while True:
                self.peak_bytes = max(self.peak_bytes, tree_bytes(pid))
                self.on_tick()
                if done.wait(_INTERVAL):
                    return

        thread = threading.Thread(target=look, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.peak_bytes = max(self.peak_bytes, processor.peak_bytes(pid))  # what was between two looks


def tree_bytes(pid: int) -> int:
    """Returns the resident memory of a process and all its children, 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total


class Engine(NBClientEngine):
    """papermill's own engine with a `Watch` (`execute_notebook(…, engine_name="workbook", watch=…)`)."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, watch: Watch, **kwargs) -> None:
        # A stray module beside the reader's files must not stand in for a library's.
        arguments = ["--IPKernelApp.ignore_cwd=True"] if kernel_name == NAME else []
        client = _Client(nb_man, kernel_name=kernel_name, startup_timeout=120, timeout=None, extra_arguments=arguments)
        client.watch = watch
        watch.notebook = nb_man.nb
        with tempfile.TemporaryFile() as words:
            client.words = words
            try:
                client.execute()
            finally:
                watch.finish()
                watch.end = _end(client.process, words)


class _Client(PapermillNotebookClient):
    watch: Watch
    words: IO[bytes]  # what the kernel's process, not its cells, writes
    process = None

    def start_new_kernel(self, **kwargs) -> None:
        # The helpers of this checkout, wherever the installation looks for them.
        places = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
        environment = {
            **os.environ,
            "WORKBOOK_OUTPUTS": str(artifacts.outputs()),
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
            artifacts.RUNNER: "1",
        }
        super().start_new_kernel(
            stdout=self.words, stderr=self.words, pass_fds=self.watch.keep_open, env=environment, **kwargs
        )
        self.process = self.km.provisioner.process

    def papermill_execute_cells(self) -> None:
        with self.watch.following(self.km.provisioner.pid):
            super().papermill_execute_cells()

    def execute_cell(self, cell, cell_index: int, *args, **kwargs):
        self.watch.on_cell(cell_index)
        return super().execute_cell(cell, cell_index, *args, **kwargs)

    def process_message(self, *args, **kwargs):
        output = super().process_message(*args, **kwargs)
        if output and output.output_type == "stream" and output.name == "stderr":
            self.watch.on_words("".join(output.text))
        return output


def _end(process: subprocess.Popen | None, words: IO[bytes]) -> str:
    status = process.poll() if process is not None else None
    signalled = f"by {signal.Signals(-status).name}" if status is not None and status < 0 else f"with status {status}"
    if status == -signal.SIGKILL:
        signalled += ", often for want of memory"
    words.seek(0)
    lines = [line for line in words.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if not _NOTE.match(line)]
    return f"{signalled}: {shortened(told[-1], 300)}" if told else signalled


papermill_engines.register(NAME, Engine)
