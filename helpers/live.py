"""The models that a serving process answers with: the promoted version of each, and others when they are asked for.

A version is loaded beside the one that answers and takes over between two requests, so that none is lost; what
the old one was asked it still answers.
"""

import asyncio
import contextlib
import gc
from collections import OrderedDict
from pathlib import Path

import numpy as np

from helpers import classifier, registry
from helpers.batching import Batcher
from helpers.classifier import Classifier
from helpers.pictures import UnreadablePicture, header
from helpers.protocols import Expected, Limits, Refused
from helpers.telemetry import Telemetry

_POLL = 0.2  # seconds between two looks at what is promoted
_KEPT = 3  # versions, those of all models together, that stay loaded beside the promoted ones


class Live:
    """The loaded versions of all models in a registry that have a promoted one.

    Args:
        root: The registry's folder.
        telemetry: Is told of calls and of take-overs.
        largest: The most pictures in one call of a model.
        threads: Of one call; as many as there are cores if None.
    """

    def __init__(self, root: Path, telemetry: Telemetry, *, largest: int = 64, threads: int | None = 1) -> None:
        self._root, self._telemetry, self._largest, self._threads = root, telemetry, largest, threads
        self._promoted: dict[str, Batcher] = {}
        self._refused: dict[str, int] = {}  # promoted, and could not be loaded: said once
        self._others: OrderedDict[tuple[str, int], Batcher] = OrderedDict()
        self._loading = asyncio.Lock()

    def names(self) -> list[str]:
        """Returns the names of the models that answer."""
        return sorted(self._promoted)

    def find(self, name: str, version: str | None = None) -> Batcher | None:
        """Returns what answers for a model, or None if that version has to be loaded first.

        Raises:
            Refused: 404, if there is no such model, or the version is no number.
        """
        current = self._promoted.get(name)
        if current is None:
            there = ", ".join(self._promoted) or "none"
            raise Refused(404, f"There is no model {name[:100]!r:.100}; there is {there}.")
        if version is None or version == str(current.classifier.version):
            return current
        if not version.isascii() or not version.isdecimal() or version.startswith("0") or len(version) > 9:
            raise Refused(404, f"A version is a number from 1; received {version[:100]!r:.100}.")
        return self._others.get((name, int(version)))

    async def get(self, name: str, version: str | None = None) -> Batcher:
        """Returns what answers for a model; a version that is not the promoted one is loaded if need be.

        Raises:
            Refused: 404, if there is no such model or version; 503, if the version is there and cannot be loaded.
        """
        if (found := self.find(name, version)) is not None:
            return found
        number = int(version)
        async with self._loading:
            if (found := self.find(name, version)) is not None:  # somebody else asked for it, too
                return found
            if number not in registry.versions(name, root=self._root):
                raise Refused(404, f"The model {name} has no version {number}.")
            try:
                loaded = await self._load(name, number)
            except Exception as error:  # whatever a damaged manifest makes its readers stumble over
                self._telemetry.say(
                    "could not load", model=name, version=number, reason=f"{type(error).__name__}: {error}"
                )
                raise Refused(503, f"Version {number} of {name} cannot be loaded at present.") from error
            self._keep(loaded)
        return loaded

    async def refresh(self) -> None:
        """Looks at what is promoted, and takes over what has changed."""
        for name in registry.names(root=self._root):
            with contextlib.suppress(OSError, ValueError):  # half gone: the next look will tell
                number = registry.promoted(name, root=self._root)
                current = self._promoted.get(name)
                if number is None or number == self._refused.get(name):
                    continue
                self._refused.pop(name, None)  # another is promoted: whoever comes back to it finds it tried again
                if current is None or current.classifier.version != number:
                    await self._take_over(name, number)

    async def watch(self) -> None:
        """Keeps on looking at what is promoted, until cancelled."""
        while True:
            await asyncio.sleep(_POLL)
            with contextlib.suppress(OSError):  # the registry cannot be read at the moment
                await self.refresh()

    async def drain(self) -> None:
        """Lets all versions answer what they were asked."""
        for batcher in (*self._promoted.values(), *self._others.values()):
            await batcher.drain()

    async def _take_over(self, name: str, number: int) -> None:
        async with self._loading:
            try:
                loaded = self._others.pop((name, number), None) or await self._load(name, number)
            except Exception as error:  # as above; what watches has to live on
                self._refused[name] = number
                self._telemetry.say(
                    "could not load", model=name, version=number, reason=f"{type(error).__name__}: {error}"
                )
                return
            old, self._promoted[name] = self._promoted.get(name), loaded
        self._telemetry.took_over(loaded.classifier)
        if old is not None:
            self._keep(old)  # whoever asks for it by its number finds it

    def _keep(self, batcher: Batcher) -> None:
        self._others[batcher.classifier.name, batcher.classifier.version] = batcher
        while len(self._others) > _KEPT:
            self._others.popitem(last=False)

    async def _load(self, name: str, number: int) -> Batcher:
        found = await asyncio.to_thread(self._loaded, name, number)
        gc.collect()
        gc.freeze()  # nested lists of pixels set off collections, which need not look at what stays
        return Batcher(found, largest=self._largest, observe=lambda pictures: self._telemetry.called(found, pictures))

    def _loaded(self, name: str, number: int) -> Classifier:
        found = classifier.load(registry.folder(name, number, root=self._root), threads=self._threads)
        for pictures in (1, self._largest):  # the first call of a size prepares it
            found.answer(np.zeros((pictures, *found.predictor.input_shape), np.uint8))
        return found


def expected(found: Classifier, limits: Limits) -> Expected:
    """Returns what a model takes, for `protocols`; for one request, whose picture files share the limit of pixels."""
    most = left = limits.pixels

    def decode(file: bytes) -> np.ndarray:
        nonlocal left
        image = header(file, max_pixels=most)
        left -= image.width * image.height
        if left < 0:
            raise UnreadablePicture(f"is one too many: the files of a request have at most {most:,} pixels together")
        return found.array(file, max_pixels=most)

    return Expected(found.predictor.input_shape, limits.pictures, decode)
