"""Which version answers: the promoted one, one by its number, and never one that cannot be loaded."""

import asyncio
import gc
import io
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from helpers import artifacts, classifier, pictures
from helpers.live import Live, expected
from helpers.protocols import Limits, Refused
from helpers.telemetry import Telemetry

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def master(fill_registry, tmp_path_factory):
    return fill_registry(tmp_path_factory.mktemp("master"), "pets", versions=6)


@pytest.fixture
def root(master, tmp_path):
    return shutil.copytree(master, tmp_path / "registry")


def set_live(root, number):
    """As `registry.promote` does after its trial, which takes a process."""
    artifacts.write_json(root / "pets" / "promoted", {"version": number, "before": []})


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


def test_a_version_that_is_no_longer_kept_leaves_no_memory_behind(live):
    async def ask():
        await live.refresh()
        loaded = await live.get("pets", "2")
        await loaded.answer(IMAGES)
        gone = weakref.ref(loaded), weakref.ref(loaded.classifier)
        del loaded
        for number in ("3", "4", "5"):
            await live.get("pets", number)
        gc.collect()
        return gone

    assert [reference() for reference in asyncio.run(ask())] == [None, None]


def test_the_versions_of_all_models_together_are_kept_by_the_order_of_their_coming(live, root):
    shutil.copytree(root / "pets", root / "more")
    for number in range(1, 7):
        manifest = root / "more" / str(number) / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"name": "pets"', '"name": "more"'))

    async def ask():
        await live.refresh()
        for name, number in (("pets", "2"), ("more", "2"), ("pets", "3"), ("more", "3")):
            await live.get(name, number)

    asyncio.run(ask())
    assert live.names() == ["more", "pets"]
    kept = [(name, number) for name in ("pets", "more") for number in "23" if live.find(name, number) is not None]
    assert kept == [("pets", "3"), ("more", "2"), ("more", "3")]
    assert live.find("more", "3").classifier.name == "more"


def test_what_was_live_long_ago_is_loaded_again_when_it_is_asked_for(live, root):
    async def ask():
        for number in range(1, 7):
            set_live(root, number)
            await live.refresh()
        assert [number for number in "12345" if live.find("pets", number) is not None] == ["3", "4", "5"]
        return await live.get("pets", "1")

    assert labels(asyncio.run(ask())) == labels_of(root, 1)
    assert labels(live.find("pets")) == labels_of(root, 6)


def test_a_version_that_is_loaded_already_takes_over_as_it_is(live, root):
    async def ask():
        await live.refresh()
        loaded = await live.get("pets", "2")
        set_live(root, 2)
        await live.refresh()
        return loaded

    loaded = asyncio.run(ask())
    assert live.find("pets") is loaded
    assert asyncio.run(live.get("pets")) is asyncio.run(live.get("pets", "2")) is loaded


def test_no_request_is_lost_or_mixed_while_a_version_takes_over(live, root):
    right = {number: labels_of(root, number) for number in (1, 2)}

    async def client(seen):
        while len(seen) < 3 or seen[-3:] != [2, 2, 2]:
            batcher = live.find("pets")
            assert (await batcher.answer(IMAGES)).labels.tolist() == right[batcher.classifier.version]
            seen.append(batcher.classifier.version)

    async def ask():
        await live.refresh()
        seen = [[] for _ in range(4)]
        clients = [asyncio.create_task(client(one)) for one in seen]
        await asyncio.sleep(0.01)
        set_live(root, 2)
        await live.refresh()
        await asyncio.wait_for(asyncio.gather(*clients), 10)
        return seen

    for versions in asyncio.run(ask()):
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}


def test_what_the_old_version_was_asked_it_still_answers(live, root):
    async def ask():
        await live.refresh()
        tasks = [asyncio.create_task(live.find("pets").answer(IMAGES)) for _ in range(5)]
        await asyncio.sleep(0)
        set_live(root, 2)
        await live.refresh()
        await live.drain()
        return [(await task).labels.tolist() for task in tasks]

    assert asyncio.run(ask()) == [labels_of(root, 1)] * 5


def test_drain_waits_for_versions_that_are_not_live_too(live):
    async def ask():
        await live.refresh()
        other = await live.get("pets", "2")
        tasks = [asyncio.create_task(other.answer(IMAGES)) for _ in range(8)]
        await asyncio.sleep(0)
        await live.drain()
        await asyncio.sleep(0)
        return [task.done() for task in tasks]

    assert asyncio.run(ask()) == [True] * 8


def test_calls_are_counted_by_version_and_no_larger_than_the_largest(root):
    counts = CollectorRegistry()
    live = Live(root, Telemetry(None, counts), largest=8)

    async def ask():
        await live.refresh()
        other = await live.get("pets", "2")
        await asyncio.gather(*(live.find("pets").answer(IMAGES[:1]) for _ in range(20)), other.answer(IMAGES[:3]))

    asyncio.run(ask())
    name = "workbook_batch_pictures_"
    for version, calls, answered in (("1", 3, 20), ("2", 1, 3)):
        of = {"model": "pets", "version": version}
        assert counts.get_sample_value(f"{name}count", of) == calls  # what prepares a model is not among them
        assert counts.get_sample_value(f"{name}sum", of) == answered


def test_a_model_that_is_gone_from_the_registry_answers_on(live, root):
    asyncio.run(live.refresh())
    (root / "pets" / "promoted").unlink()
    asyncio.run(live.refresh())
    assert labels(live.find("pets")) == labels_of(root, 1)
    shutil.rmtree(root)
    asyncio.run(live.refresh())
    assert len(labels(live.find("pets"))) == len(IMAGES)


VERSIONS = ["0", "-1", "01", "1.0", "latest", "", "²", "٣", "9" * 10, "9" * 400, "../1", "7"]


@pytest.mark.parametrize(("name", "version", "says"), [
    *(("pets", version, "") for version in VERSIONS),
    *((name, None, "there is pets") for name in ("cats", "", "../pets", "x" * 10_000)),
])  # fmt: skip
def test_a_version_or_a_model_that_is_none_is_404_and_the_models_that_there_are_are_named(live, name, version, says):
    asyncio.run(live.refresh())
    with pytest.raises(Refused, match=says or None) as error:
        asyncio.run(live.get(name, version))
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


def test_a_version_that_was_mended_takes_over_when_it_is_promoted_again(live, root, said):
    asyncio.run(live.refresh())
    file = root / "pets" / "2" / "model.onnx"
    whole = file.read_bytes()
    for content, promoted in ((whole[:-5], 2), (whole, 1), (whole, 2)):
        file.write_bytes(content)
        set_live(root, promoted)
        asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 2
    assert len(events(said, "could not load")) == 1


def test_a_version_that_is_not_there_does_not_take_over(live, root, said):
    asyncio.run(live.refresh())
    set_live(root, 9)
    asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 1
    assert "no version 9 of the model pets" in events(said, "could not load")[0]["reason"]
    (root / "pets" / "promoted").unlink()
    asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 1
    assert len(events(said, "could not load")) == 1


@pytest.mark.parametrize("change", [
    lambda manifest: [], lambda manifest: None, lambda manifest: {}, lambda manifest: manifest | {"facts": None},
    lambda manifest: manifest | {"facts": {"classes": 3}}, lambda manifest: manifest | {"facts": {"temperature": "x"}},
    lambda manifest: {key: value for key, value in manifest.items() if key != "name"},
])  # fmt: skip
def test_a_manifest_of_another_form_neither_takes_over_nor_ends_the_watch(live, root, said, change):
    path = root / "pets" / "2" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    asyncio.run(live.refresh())
    set_live(root, 2)
    asyncio.run(live.refresh())
    assert live.find("pets").classifier.version == 1
    assert len(events(said, "could not load")) == 1
    with pytest.raises(Refused, match="Version 2 of pets cannot be loaded") as error:
        asyncio.run(live.get("pets", "2"))
    assert error.value.status == 503


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


def test_watching_outlives_a_registry_that_cannot_be_read_for_a_while(live, root, monkeypatch):
    refusals, listed = [], Path.iterdir

    def iterdir(path):
        if path == root and len(refusals) < 2:
            refusals.append(path)
            raise PermissionError(path)
        return listed(path)

    async def ask():
        await live.refresh()
        monkeypatch.setattr(Path, "iterdir", iterdir)
        watching = asyncio.create_task(live.watch())
        set_live(root, 2)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if watching.done() or live.find("pets").classifier.version == 2:
                break
        alive = not watching.done()
        watching.cancel()
        return alive

    monkeypatch.setattr("helpers.live._POLL", 0.01)
    assert asyncio.run(ask())
    assert live.find("pets").classifier.version == 2
    assert len(refusals) == 2


def test_what_a_model_takes_is_told_to_the_protocols(root):
    found = expected(classifier.load(root / "pets" / "1"), Limits(pictures=7, pixels=9))
    assert (found.shape, found.pictures) == ((4, 4, 1), 7)
    picture = b"P5 4 4 255\n" + IMAGES[0].tobytes()
    with pytest.raises(pictures.UnreadablePicture):
        found.decode(picture)  # 16 pixels are more than 9


def test_the_files_of_one_request_share_its_pixels(root):
    found = classifier.load(root / "pets" / "1")
    picture = b"P5 4 4 255\n" + IMAGES[0].tobytes()
    one = expected(found, Limits(pictures=7, pixels=40))
    for _ in range(2):
        np.testing.assert_array_equal(one.decode(picture), IMAGES[0])
    with pytest.raises(pictures.UnreadablePicture, match="at most 40 pixels together"):
        one.decode(picture)
    expected(found, Limits(pictures=7, pixels=40)).decode(picture)  # another request has its own
