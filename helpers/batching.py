"""Micro-batching: requests that wait while the model works are answered together by its next call.

An idle model answers at once, so one client alone never waits for company. A busy one finds, when it is done, all
that has come in meanwhile, so that batches grow with the load and by themselves.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from helpers.classifier import Answers, Classifier


class Full(RuntimeError):
    """More pictures are waiting than the batcher lets wait."""


class Batcher:
    """Answers the pictures of many requests with few calls of one model, in the order in which they came.

    For one event loop. The model is called in a thread of its own: while it works, the loop reads on.

    Args:
        classifier: The loaded model.
        largest: The most pictures in one call; 1 leaves each request by itself.
        waiting: The most pictures that wait; one request may have more, if no other waits.
        observe: Told the pictures of each call.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        largest: int = 64,
        waiting: int = 4096,
        observe: Callable[[int], None] = lambda pictures: None,
    ) -> None:
        self.classifier = classifier
        self._largest, self._most, self._observe = largest, waiting, observe
        self._queue: deque[tuple[np.ndarray, asyncio.Future]] = deque()
        self._waiting = 0
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def answer(self, images: np.ndarray) -> Answers:
        """Classifies the pictures of one request.

        Args:
            images: uint8, shape (n, height, width, channels).

        Raises:
            Full: If too many pictures are waiting already.
        """
        if self._waiting and self._waiting + len(images) > self._most:
            raise Full(f"{self._waiting} pictures are waiting")
        answer = asyncio.get_running_loop().create_future()
        self._queue.append((images, answer))
        self._waiting += len(images)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._call)  # what else arrived in this turn of the loop comes along
        return await answer

    async def drain(self) -> None:
        """Waits until all that was asked is answered. The thread ends with the last reference to the batcher."""
        while self._busy:
            await asyncio.sleep(0.01)

    def _call(self) -> None:
        taken = [self._queue.popleft()]
        count = len(taken[0][0])
        while self._queue and count + len(self._queue[0][0]) <= self._largest:
            taken.append(self._queue.popleft())
            count += len(taken[-1][0])
        self._waiting -= count
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._work, [images for images, _ in taken])
        work.add_done_callback(lambda done: self._hand_out(done, taken))

    def _work(self, parts: list[np.ndarray]) -> Answers:
        # All that can fail is in here: an error goes to those who asked, and the next call follows.
        self._observe(sum(map(len, parts)))
        return self.classifier.answer(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _hand_out(self, done: asyncio.Future, taken: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        error, start = done.exception(), 0
        for images, answer in taken:
            if answer.done():  # whoever asked has gone
                pass
            elif error is not None:
                answer.set_exception(error)
            else:
                rows = slice(start, start + len(images))
                answer.set_result(Answers(*(part[rows] for part in done.result())))
            start += len(images)
        if self._queue:
            self._call()
        else:
            self._busy = False
