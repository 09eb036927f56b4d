"""Which version answers: the promoted one, one by its number, and never one that cannot be loaded."""

import asyncio
import io
import json
import shutil

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from helpers import artifacts, classifier, inference, pictures, registry
from helpers.live import Live, expected
from helpers.protocols import Refused
from helpers.telemetry import Telemetry

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def master(write_onnx, tmp_path_factory):
    """A registry with six versions of `pets`; none is live."""
    root = tmp_path_factory.mktemp("master")
    for seed in range(1, 7):
        file = write_onnx(root / "model.onnx", seed=seed)
        facts, examples = {"classes": ["ant", "bee", "cat"]}, (IMAGES, inference.load(file).predict(IMAGES))
        registry.register("pets", file, facts=facts, made_by="test", parameters={}, examples=examples, root=root)
        file.unlink()
    return root


@pytest.fixture
def root(master, tmp_path):
    shutil.copytree(master, tmp_path / "registry")
    set_live(tmp_path / "registry", 1)
    return tmp_path / "registry"


def set_live(root, number, name="pets"):
    """As `registry.promote` does after its trial, which takes a process."""
    artifacts.write_json(root / name / "promoted", {"version": number, "before": []})


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def live(root, said):
    return Live(root, Telemetry(said, CollectorRegistry()), largest=8)


def events(said, name):
    found = map(json.loads, said.getvalue().splitlines())
    return [event for event in found if event.get("event") == name]


def labels(batcher):
    return asyncio.run(batcher.answer(IMAGES)).labels.tolist()


def labels_of(root, number):
    return classifier.load(root / "pets" / str(number)).answer(IMAGES).labels.tolist()


def test_the_promoted_version_answers_after_the_first_look(live, root):
    assert live.names() == []
    asyncio.run(live.refresh())
    assert live.names() == ["pets"]
    assert live.find("pets").classifier.version == 1
    assert labels(live.find("pets")) == labels_of(root, 1)


def test_what_is_promoted_takes_over_and_what_was_so_before_is_still_there(live, root, said):
    asyncio.run(live.refresh())
    before = live.find("pets")
    set_live(root, 2)
    asyncio.run(live.refresh())
    assert labels(live.find("pets")) == labels_of(root, 2) != labels_of(root, 1)
    assert live.find("pets", "1") is before
    set_live(root, 1)
    asyncio.run(live.refresh())
    assert live.find("pets") is before  # a rollback loads nothing
    assert [event["version"] for event in events(said, "took over")] == [1, 2, 1]


def test_a_look_at_what_has_not_changed_loads_nothing(live, said):
    asyncio.run(live.refresh())
    before = live.find("pets")
    asyncio.run(live.refresh())
    assert live.find("pets") is before
    assert len(events(said, "took over")) == 1


def test_another_version_is_loaded_when_it_is_asked_for_and_once(live, root):
    async def ask():
        await live.refresh()
        assert live.find("pets", "3") is None
        return await asyncio.gather(*(live.get("pets", "3") for _ in range(5)))

    found = asyncio.run(ask())
    assert len(set(map(id, found))) == 1
    assert labels(found[0]) == labels_of(root, 3)
    assert live.find("pets").classifier.version == 1


def test_at_most_three_other_versions_stay_loaded(live):
    async def ask():
        await live.refresh()
        for number in ("2", "3", "4", "5", "6"):
            await live.get("pets", number)

    asyncio.run(ask())
    kept = [number for number in "23456" if live.find("pets", number) is not None]
    assert len(kept) == 3
    assert "6" in kept


@pytest.mark.parametrize("version", ["0", "-1", "01", "1.0", "latest", "", "²", "9" * 10, "9" * 400, "../1", "7"])
def test_a_version_that_is_none_is_404(live, version):
    asyncio.run(live.refresh())
    with pytest.raises(Refused) as error:
        asyncio.run(live.get("pets", version))
    assert error.value.status == 404
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", ["cats", "", "../pets", "x" * 10_000])
def test_a_model_that_is_none_is_404_and_those_that_there_are_are_named(live, name):
    asyncio.run(live.refresh())
    with pytest.raises(Refused, match="there is pets") as error:
        live.find(name)
    assert error.value.status == 404
    assert len(str(error.value)) < 200


def test_a_damaged_version_does_not_take_over_and_is_told_once(live, root, said):
    asyncio.run(live.refresh())
    file = root / "pets" / "2" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-5])
    set_live(root, 2)
    for _ in range(3):
        asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 1
    assert [event["version"] for event in events(said, "could not load")] == [2]
    with pytest.raises(Refused, match="Version 2 of pets cannot be loaded at present") as error:
        asyncio.run(live.get("pets", "2"))
    assert error.value.status == 503
    set_live(root, 3)
    asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 3


def test_a_promotion_that_cannot_be_read_changes_nothing(live, root):
    asyncio.run(live.refresh())
    for text in ("{", "[]", '{"version": "2", "before": []}'):
        (root / "pets" / "promoted").write_text(text)
        asyncio.run(live.refresh())
        assert live.find("pets").classifier.version == 1


def test_watching_finds_what_is_promoted_meanwhile(live, root):
    async def ask():
        await live.refresh()
        watching = asyncio.create_task(live.watch())
        set_live(root, 2)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if live.find("pets").classifier.version == 2:
                break
        watching.cancel()
        await live.drain()
        return live.find("pets").classifier.version

    assert asyncio.run(ask()) == 2


def test_what_a_model_takes_is_told_to_the_protocols(root):
    found = expected(classifier.load(root / "pets" / "1"), pictures=7, pixels=9)
    assert (found.shape, found.pictures) == ((4, 4, 1), 7)
    picture = b"P5 4 4 255\n" + IMAGES[0].tobytes()
    with pytest.raises(pictures.UnreadablePicture):
        found.decode(picture)  # 16 pixels are more than 9
