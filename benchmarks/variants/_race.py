"""Training up to an accuracy: the seconds of training alone, to the end of the first epoch that reaches it."""

import math
import time
from collections.abc import Callable


class Race:
    """A clock that stands still while a model is evaluated.

    Attributes:
        reached: For each target that was reached the seconds until then.
        epochs: How many have ended.
        best: The highest accuracy so far.
        last: The accuracy after the latest epoch.
    """

    def __init__(self, targets: list[float]) -> None:
        self._targets, self._begun, self._paused = targets, time.perf_counter(), 0.0
        self.reached, self.epochs, self.best, self.last, self._seconds = {}, 0, 0.0, 0.0, 0.0

    def end_epoch(self, evaluate: Callable[[], float]) -> bool:
        """Evaluates at the end of an epoch; returns whether all targets are reached."""
        now = time.perf_counter()
        self._seconds, self.epochs = now - self._begun - self._paused, self.epochs + 1
        self.last = float(evaluate())
        self.best = max(self.best, self.last)
        for target in self._targets:
            if self.last >= target:
                self.reached.setdefault(target, self._seconds)
        self._paused += time.perf_counter() - now
        return len(self.reached) == len(self._targets)

    def figures(self) -> dict[str, float]:
        """Returns the seconds to each target, infinite where it was not reached, and those of all epochs."""
        to = {f"to {target:.2f}": self.reached.get(target, math.inf) for target in self._targets}
        return {**to, "seconds": self._seconds, "epochs": self.epochs, "best": self.best, "last": self.last}
