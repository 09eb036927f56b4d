import os
import subprocess
import sys
import time

import pytest

from helpers import engine, processor

HOLD = "data = b'x' * 80_000_000; print(flush=True); input()"
WITH_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@pytest.fixture
def process():
    started = []

    def start(source: str) -> subprocess.Popen:
        running = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(running)
        running.stdout.readline()
        return running

    yield start
    for running in started:
        running.stdin.close()
        running.wait(10)
        running.stdout.close()


def test_memory_of_a_process_counts_its_children(process):
    parent = process(WITH_CHILD)
    assert 80e6 < engine.tree_bytes(parent.pid) < 200e6


def test_memory_of_a_process_that_is_gone_is_none(process):
    gone = process("print()")
    gone.wait(10)
    assert engine.tree_bytes(gone.pid) == 0
    assert processor.peak_bytes(gone.pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_was_given_back_between_two_looks_counts(process):
    passing = process("data = b'x' * 80_000_000; del data; print(flush=True); input()")
    watch = engine.Watch()
    with watch.following(passing.pid):
        pass
    assert watch.peak_bytes > 80e6


def test_watch_ticks_while_the_process_lives():
    ticks = []
    watch = engine.Watch(on_tick=lambda: ticks.append(1))
    begun = time.monotonic()
    with watch.following(os.getpid()):
        time.sleep(1.2)
    assert 2 <= len(ticks) <= 1 + (time.monotonic() - begun) / 0.5  # at once, and twice a second; fewer if it is busy


def test_seconds_stand_still_after_the_end():
    watch = engine.Watch()
    watch.finish()
    before = watch.seconds
    time.sleep(0.01)
    assert watch.seconds == before
