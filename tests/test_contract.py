"""The server does what its OpenAPI document says: requests that follow it and requests that do not, by schemathesis."""

import contextlib
from collections import Counter

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks

from helpers import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(fill_registry, tmp_path_factory):
    root = fill_registry(tmp_path_factory.mktemp("registry"), "tiny", versions=2)
    with serving.start(root, log=root / "log") as started:
        yield started


# The numbers that a shape stands for cannot be said in a schema: what follows it may be refused with a sentence.
UNSAID = [checks.positive_data_acceptance]
CONFIG = schemathesis.config.SchemathesisConfig.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": [400, 404, 405, 413, 415]}}}
)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name.lower())
def test_every_answer_is_as_described(server, mode):
    document, asked = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=CONFIG), Counter()
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case):
            left_out = UNSAID if case.path.endswith("/infer") else []
            answer = case.call_and_validate(excluded_checks=left_out, timeout=20)
            asked[case.operation.label, answer.status_code] += 1

        with contextlib.suppress(Unsatisfiable):  # there is no wrong way to ask for /metrics
            check()
    predicted = {status for label, status in asked if label == "POST /v1/models/tiny:predict"}
    assert predicted == {200} if mode.is_positive else predicted & {400, 404, 415}
    assert ("POST /v2/models/tiny/infer", 400) in asked


def test_every_address_of_the_protocols_is_described(server):
    paths = requests.get(f"{server.url}/openapi.json", timeout=20).json()["paths"]
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/infer",
            "/v2/models/tiny/ready", "/v2/models/tiny/versions/{version}/infer", "/v1/models/tiny:predict",
            "/v1/models/tiny/versions/{version}:predict", "/metrics"} <= set(paths)  # fmt: skip


def test_the_server_has_lived_through_it(server):
    assert "worker died" not in server.log.read_text()
    assert '"failed"' not in server.log.read_text()
