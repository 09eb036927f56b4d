"""What a serving process tells of itself: Prometheus metrics, and one line of JSON a request without its pictures."""

import contextlib
import json
import os
import sys
import time
from typing import TextIO

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from helpers.classifier import Answers, Classifier

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LOGGED = 200  # characters of a text, such as a client's request id


class Telemetry:
    """The metrics and the log of one process. With `PROMETHEUS_MULTIPROC_DIR` set, `page` adds up all processes.

    Args:
        log: Where a line for each request goes; nowhere if None.
        registry: Where the metrics are kept; Prometheus's own if not given.
    """

    def __init__(
        self, log: TextIO | None = sys.stderr, registry: CollectorRegistry = prometheus_client.REGISTRY
    ) -> None:
        self._log, self._registry = log, registry
        of = {"namespace": "workbook", "registry": registry}
        self._requests = Counter("requests", "Requests, by route and status.", ["route", "status"], **of)
        self._seconds = Histogram(
            "request_seconds", "From the end of a request's headers to its answer.", ["route"], buckets=_SECONDS, **of
        )
        self._pictures = Histogram(
            "batch_pictures", "Pictures in one call of the model.", ["model", "version"], buckets=_PICTURES, **of
        )
        self._labels = Counter("predictions", "Pictures, by the class they were given.",
                               ["model", "version", "label"], **of)  # fmt: skip
        self._version = Gauge(
            "model_version", "The version that answers.", ["model"], multiprocess_mode="mostrecent", **of
        )
        self._children: dict[tuple, object] = {}  # finding one by its labels takes longer than counting

    def answered(self, route: str, status: int, seconds: float, **facts: object) -> None:
        """Counts a request and writes its line.

        Args:
            route: What was asked, such as `"predict"`: never a path, which its sender chooses.
            status: HTTP status, for gRPC the one that its code stands for.
            seconds: How long it took.
            facts: More for the log: numbers, names, the client's request id.
        """
        self._child(self._requests, route, str(status)).inc()
        self._child(self._seconds, route).observe(seconds)
        short = {name: value[:_LOGGED] if isinstance(value, str) else value for name, value in facts.items()}
        self._write({"route": route, "status": status, "ms": round(1e3 * seconds, 2)} | short)

    def say(self, event: str, **facts: object) -> None:
        """Writes a line about the server itself, such as a version that was taken over."""
        self._write({"event": event, **facts})

    def called(self, model: Classifier, pictures: int) -> None:
        """Counts one call of a model."""
        self._child(self._pictures, model.name, str(model.version)).observe(pictures)

    def classified(self, model: Classifier, answers: Answers) -> None:
        """Counts the classes of an answer."""
        for label in answers.labels.tolist():
            self._child(self._labels, model.name, str(model.version), label).inc()

    def took_over(self, model: Classifier) -> None:
        """Notes the version that answers from now on."""
        self._version.labels(model.name).set(model.version or 0)
        self.say("took over", model=model.name, version=model.version, file=model.predictor.path.name)

    def page(self) -> tuple[bytes, str]:
        """Returns the metrics of all processes in Prometheus's text format, and its content type."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client import multiprocess

            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST

    def _write(self, line: dict) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk costs lines, and no answers
                self._log.write(json.dumps({"time": round(time.time(), 3), **line}) + "\n")

    def _child(self, metric: Counter | Histogram, *labels: str) -> Counter | Histogram:
        key = (id(metric), *labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return self._children[key]
