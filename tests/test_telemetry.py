"""What is counted, and what is written of a request: enough to find it, and no picture."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from helpers.classifier import Answers
from helpers.telemetry import Telemetry

MODEL = SimpleNamespace(name="pets", version=3, predictor=SimpleNamespace(path=SimpleNamespace(name="model.onnx")))


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def telemetry(log):
    return Telemetry(log, CollectorRegistry())


def counted(telemetry):
    page, kind = telemetry.page()
    assert kind.startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}


def test_requests_are_counted_by_route_and_status(telemetry):
    for status in (200, 200, 400):
        telemetry.answered("infer", status, 0.003)
    found = counted(telemetry)
    assert found["workbook_requests_total", "200", "infer"] == 2
    assert found["workbook_requests_total", "400", "infer"] == 1
    assert found["workbook_request_seconds_count", "infer"] == 3
    assert found["workbook_request_seconds_sum", "infer"] == pytest.approx(0.009)
    assert found["workbook_request_seconds_bucket", "0.002", "infer"] == 0
    assert found["workbook_request_seconds_bucket", "0.005", "infer"] == 3


def test_calls_classes_and_the_live_version_are_counted(telemetry):
    telemetry.called(MODEL, 5)
    telemetry.called(MODEL, 2)
    telemetry.classified(MODEL, Answers(np.array(["ant", "bee", "ant"]), np.zeros((3, 2)), np.zeros((3, 2))))
    telemetry.took_over(MODEL)
    found = counted(telemetry)
    assert found["workbook_batch_pictures_sum", "3", "pets"] == 7
    assert found["workbook_batch_pictures_count", "3", "pets"] == 2
    assert found["workbook_predictions_total", "3", "ant", "pets"] == 2
    assert found["workbook_predictions_total", "3", "bee", "pets"] == 1
    assert found["workbook_model_version", "pets"] == 3


def test_a_model_may_be_called_like_a_route(telemetry):
    telemetry.answered("infer", 200, 0.003)
    telemetry.called(SimpleNamespace(name="infer", version=200), 5)
    found = counted(telemetry)
    assert found["workbook_requests_total", "200", "infer"] == 1
    assert found["workbook_batch_pictures_sum", "200", "infer"] == 5


def test_a_request_is_one_line_of_json(telemetry, log):
    telemetry.answered("infer", 200, 0.00345, id="x" * 1000 + "\n", pictures=2)
    (line,) = log.getvalue().splitlines()
    told = json.loads(line)
    assert {key: told[key] for key in ("route", "status", "ms", "pictures")} == {
        "route": "infer", "status": 200, "ms": 3.45, "pictures": 2}  # fmt: skip
    assert told["id"] == "x" * 200


def test_events_are_lines_too(telemetry, log):
    telemetry.say("failed", reason="a\nb")
    telemetry.took_over(MODEL)
    first, second = map(json.loads, log.getvalue().splitlines())
    assert (first["event"], first["reason"]) == ("failed", "a\nb")
    assert (second["event"], second["version"], second["file"]) == ("took over", 3, "model.onnx")


def test_without_a_log_nothing_is_written_and_everything_counted():
    silent = Telemetry(None, CollectorRegistry())
    silent.answered("infer", 200, 0.1)
    silent.say("failed")
    assert counted(silent)["workbook_requests_total", "200", "infer"] == 1


def test_a_file_without_a_number_is_version_0(telemetry, log):
    file = SimpleNamespace(name="model.onnx", version=None, predictor=MODEL.predictor)
    telemetry.took_over(file)
    telemetry.called(file, 1)
    assert counted(telemetry)["workbook_model_version", "model.onnx"] == 0
    assert counted(telemetry)["workbook_batch_pictures_count", "None", "model.onnx"] == 1
    assert json.loads(log.getvalue())["version"] is None


def test_the_version_that_answers_is_the_last_one(telemetry):
    for version in (3, 4, 2):
        telemetry.took_over(SimpleNamespace(name="pets", version=version, predictor=MODEL.predictor))
    assert counted(telemetry)["workbook_model_version", "pets"] == 2


def test_a_log_that_cannot_be_written_costs_no_answer():
    with io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True) as log:  # each line at once, as to stderr
        telemetry = Telemetry(log, CollectorRegistry())
        telemetry.answered("infer", 200, 0.1)
        telemetry.say("stopped")
    assert counted(telemetry)["workbook_requests_total", "200", "infer"] == 1


@pytest.mark.parametrize("text", ["ä€🙂", "a\r\nb", "\u2028", '"}', "\ud800", "\x1b[31m"])
def test_whatever_a_client_calls_its_request_is_one_plain_line(telemetry, log, text):
    telemetry.answered("infer", 200, 0.1, id=text)
    (line,) = log.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["id"] == text


def test_no_class_name_breaks_the_page(telemetry):
    names = ['a"b', "a\nb", "a\\b", "ä€", ""]
    telemetry.classified(MODEL, Answers(np.array(names), np.zeros((5, 2)), np.zeros((5, 2))))
    found = counted(telemetry)
    for name in names:
        key = "workbook_predictions_total", *sorted(["3", name, "pets"])
        assert found[key] == 1


_COUNT = """
import sys
from types import SimpleNamespace
from helpers.telemetry import Telemetry
telemetry = Telemetry(None)
for _ in range(int(sys.argv[1])):
    telemetry.answered("infer", 200, 0.01)
file = SimpleNamespace(name="model.onnx")
telemetry.took_over(SimpleNamespace(name="pets", version=int(sys.argv[1]), predictor=SimpleNamespace(path=file)))
sys.stdout.write(telemetry.page()[0].decode())
"""


def test_the_page_adds_up_all_processes(tmp_path, fresh_python):
    pages = [fresh_python(_COUNT, number, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) for number in (3, 2)]
    assert 'workbook_requests_total{route="infer",status="200"} 3.0' in pages[0]
    assert 'workbook_requests_total{route="infer",status="200"} 5.0' in pages[1]
    assert 'workbook_request_seconds_count{route="infer"} 5.0' in pages[1]
    assert 'workbook_model_version{model="pets"} 2.0' in pages[1]  # that of whoever took over last
