import itertools
import time

import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from helpers import cleaning, rehearsal, sources


@pytest.fixture(scope="module")
def fashion():
    source = sources.open_source("")
    taken = list(itertools.islice(source.records(), 4000))
    return np.stack([record.picture for record in taken]), np.array([record.label for record in taken])


def collection(images, labels=None, splits=None, findings=(), modes="L"):
    count = len(images)
    return sources.Collection(
        images=images,
        names=np.array([f"{row}.png" for row in range(count)], object),
        labels=np.array(["a", "b"] * count, object)[:count] if labels is None else np.array(labels, object),
        splits=np.array([""] * count if splits is None else splits, object),
        originals=pd.DataFrame({"height": images.shape[1], "width": images.shape[2], "mode": modes}, range(count)),
        findings=pd.DataFrame(findings, columns=cleaning.Finding._fields).astype({"row": int, "group": int}),
        classes=["a", "b"],
    )


def noise(count, seed=0, shape=(8, 8, 1)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def rows(findings):
    return findings["row"].tolist()


NAMES = np.array(list("abcdef"), object)


# By hand ---------------------------------------------------------------------------------------


def test_missing_labels():
    assert rows(cleaning.missing_labels(NAMES, np.array(["x", "", "y", ""]), np.full(4, ""))) == [1, 3]


def test_what_lies_beside_published_splits_is_said_to_be_in_none():
    labels, splits = np.array(["x", "", ""]), np.array(["train", "test", ""])
    found = cleaning.missing_labels(NAMES, labels, splits)
    assert found["detail"].tolist() == ["has no label", "has no label and is in no published split"]


def test_blank_pictures_are_of_one_colour_in_every_channel():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1] += np.uint8(200)
    images[2, :, :, 2] = np.arange(16).reshape(4, 4) * 16
    assert rows(cleaning.blank_pictures(NAMES, images)) == [0, 1]


def test_saturated_pictures_are_mostly_white():
    images = np.full((3, 2, 2, 1), 255, np.uint8)
    images[0, 0, 0] = 7
    images[1, 0] = 7
    found = cleaning.saturated_pictures(NAMES, images)
    assert rows(found) == [0, 2]
    assert found["detail"][0] == "is white in 75% of its pixels"


def test_pictures_of_16_bits_that_use_12_of_them_are_told():
    images = np.full((4, 2, 2, 1), 15, np.uint8)
    images[2, 0, 0] = 200
    originals = pd.DataFrame({"mode": ["I;16", "L", "I;16", "I"]})
    found = cleaning.narrow_ranges(NAMES, images, originals)
    assert rows(found) == [0, 3]
    assert found["detail"][0] == "has 16 bits, and at 8 no value above 15 of 255"
    assert set(found["action"]) == {"review"}


def test_odd_sizes_are_told_only_against_a_clear_majority():
    originals = pd.DataFrame({"height": [28] * 19 + [40], "width": [28] * 19 + [30]})
    names = np.arange(20).astype(str)
    found = cleaning.odd_sizes(names, originals, (28, 28))
    assert rows(found) == [19]
    assert found["detail"][0] == "was 40 high and 30 wide; brought to 28 x 28"
    mixed = pd.DataFrame({"height": range(28, 48), "width": range(28, 48)})
    assert rows(cleaning.odd_sizes(names, mixed, (28, 28))) == []
    assert rows(cleaning.odd_sizes(names, mixed, (80, 80))) == list(range(12))  # enlarged more than twofold


def test_a_picture_of_which_less_than_half_is_left_is_to_be_looked_at():
    originals = pd.DataFrame({"height": [300, 480, 640, 480], "width": [4000, 640, 480, 641]})
    found = cleaning.odd_sizes(NAMES[:4], originals, (48, 64))
    assert rows(found) == [0]
    assert found["detail"][0] == "was 300 high and 4000 wide; brought to 48 x 64, which keeps the middle 10% of it"
    assert found["action"][0] == "review"


def test_odd_modes_are_told_only_against_a_clear_majority():
    names = np.arange(20).astype(str)
    assert rows(cleaning.odd_modes(names, pd.DataFrame({"mode": ["L"] * 19 + ["RGB"]}))) == [19]
    assert rows(cleaning.odd_modes(names, pd.DataFrame({"mode": ["L"] * 17 + ["RGB"] * 3}))) == []


def test_exact_duplicates_keep_the_first():
    images = noise(6)
    images[3] = images[5] = images[1]
    groups = cleaning.exact_groups(images)
    assert groups.tolist() == [0, 1, 2, 1, 4, 1]
    found = cleaning.exact_duplicates(NAMES[:6], groups, np.full(6, ""), np.full(6, "a"))
    assert rows(found) == [3, 5]
    assert found["detail"].tolist() == ["has the pixels of b"] * 2


def test_exact_duplicates_keep_the_one_of_the_test_set():
    splits = np.array(["train", "train", "test", "train"])
    found = cleaning.exact_duplicates(NAMES[:4], np.array([0, 0, 0, 3]), splits, np.full(4, "a"))
    assert rows(found) == [0, 1]


def test_of_exact_duplicates_one_is_left_that_has_a_label_and_leaks_nowhere():
    images = noise(4)
    images[1] = images[0]
    unlabelled, _ = cleaning.inspect(collection(images, ["", "a", "b", "a"]))
    assert cleaning.kept(4, unlabelled).tolist() == [1, 2, 3]
    splits = ["train", "validation", "train", "train"]
    two_splits, _ = cleaning.inspect(collection(images, ["a", "a", "b", "a"], splits))
    assert cleaning.kept(4, two_splits).tolist() == [1, 2, 3]


def test_one_picture_under_two_labels_loses_all_its_copies():
    labels = np.array(["cat", "cat", "dog", "cat", ""], object)
    exact = np.array([0, 0, 0, 3, 3])
    found = cleaning.contradictions(NAMES, labels, exact, exact)
    assert rows(found) == [0, 1, 2]
    assert set(found["action"]) == {"drop"}
    assert found["detail"][0] == "stands under cat and dog"


def test_look_alikes_under_two_labels_are_for_review():
    labels = np.array(["cat", "dog", "dog"], object)
    found = cleaning.contradictions(NAMES, labels, np.array([0, 1, 2]), np.array([0, 0, 2]))
    assert rows(found) == [0, 1]
    assert set(found["action"]) == {"review"}


def test_of_a_picture_in_two_splits_the_training_side_is_dropped():
    splits = np.array(["train", "test", "validation", "train", "validation", ""], object)
    found = cleaning.leaks(NAMES, np.array([0, 0, 0, 3, 3, 3]), splits)
    assert rows(found) == [0, 2, 3]
    assert found["detail"].tolist() == ["is in test as b", "is in test as b", "is in validation as e"]


def test_contents_are_those_of_the_splits_and_tell_shots_of_one_scene_from_others():
    random = np.random.default_rng(0)
    scenes = random.integers(0, 256, (6, 4, 4)).repeat(8, axis=1).repeat(8, axis=2)
    shots = (scenes[:, None] * np.array([1.0, 0.9, 0.8])[:, None, None]).reshape(18, 32, 32, 1)
    shots = np.append(shots, np.full((2, 32, 32, 1), 9), axis=0).astype(np.uint8)  # and two blank ones
    assert cleaning.contents(shots).tolist() == [*np.repeat(np.arange(0, 18, 3), 3).tolist(), 18, 18]


def test_tiny_classes():
    labels = np.array(["cat"] * 3 + ["dog", "", "", ""] + ["owl"] * 30)
    content = np.append(np.arange(7), [7] * 29 + [8])
    found = cleaning.tiny_classes(labels, content)
    why = "has too few different pictures for every split: "
    assert found[["name", "detail"]].to_numpy().tolist() == [["dog", f"{why}1"], ["owl", f"{why}2"]]


def test_a_class_that_a_published_split_lacks_is_for_review():
    labels = np.array(["cat", "cat", "cat", "dog", "dog", "eel", "", "eel"])
    splits = np.array(["train", "validation", "test", "", "test", "test", "train", "test"])
    found = cleaning.absent_classes(labels, splits)
    assert found[["name", "detail"]].to_numpy().tolist() == [
        ["eel", "is left with no picture in train"],
        ["dog", "is left with no picture in validation"],
        ["eel", "is left with no picture in validation"],
    ]
    assert set(found["kind"]) == {"absent class"}
    assert set(found["action"]) == {"review"}
    assert rows(found) == [-1, -1, -1]


def test_where_no_split_is_published_no_class_is_absent_from_one():
    assert len(cleaning.absent_classes(np.array(["cat", "dog"]), np.array(["", ""]))) == 0
    assert len(cleaning.absent_classes(np.array(["cat", "dog"]), np.array(["train", "train"]))) == 0


def test_classes_that_differ_only_in_case_are_for_review():
    labels = np.array(["dog", "Dog", "cat", "", "DOG", "STRASSE", "straße", "dog"])
    found = cleaning.alike_classes(labels)
    assert found[["name", "detail"]].to_numpy().tolist() == [
        ["DOG", "differs only in case from Dog and dog"],
        ["STRASSE", "differs only in case from straße"],
    ]
    assert set(found["kind"]) == {"alike classes"}
    assert set(found["action"]) == {"review"}


def test_kept_leaves_out_what_is_dropped_and_nothing_else():
    findings = pd.DataFrame({"action": ["drop", "keep", "review", "drop", "drop"], "row": [2, 0, 1, -1, 2]})
    assert cleaning.kept(4, findings).tolist() == [0, 1, 3]


# Near-duplicates -------------------------------------------------------------------------------


def test_phash_is_bit_for_bit_that_of_imagehash(fashion):
    images = fashion[0][:500]
    expected = [int(str(imagehash.phash(Image.fromarray(image))), 16) for image in images]
    assert cleaning.phash(images[..., None]).tolist() == expected


def test_phash_of_colour_and_large_pictures_is_that_of_imagehash():
    images = noise(20, shape=(45, 70, 3)) // 2 + np.linspace(0, 120, 70, dtype=np.uint8)[:, None]
    expected = [int(str(imagehash.phash(Image.fromarray(image))), 16) for image in images]
    assert cleaning.phash(images).tolist() == expected


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (8, 8, 3), (32, 32, 1), (33, 33, 3), (64, 64, 1), (97, 97, 3), (160, 160, 3), (500, 33, 1)]
)
def test_pictures_are_resized_for_their_hash_as_pillow_does_it(shape):
    images = np.concatenate([noise(3, shape=shape), (noise(3, shape=shape) > 127) * np.uint8(255)])
    greys = [Image.fromarray(image[..., 0] if shape[2] == 1 else image).convert("L") for image in images]
    expected = [np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS)) for grey in greys]
    np.testing.assert_array_equal(cleaning._small(images), expected)


def test_large_pictures_are_resized_for_their_hash_in_about_the_time_that_pillow_takes():
    images = noise(8, shape=(224, 224, 3))
    spent = {}
    for work in (cleaning._small, lambda images: [cleaning._pillow_small(image) for image in images]) * 3:
        begun = time.process_time()  # of all threads: those of a matrix product would fight
        work(images)
        spent[work] = min(time.process_time() - begun, spent.get(work, np.inf))
    ours, pillows = spent.values()
    assert ours < 3 * pillows


@settings(max_examples=60)
@given(arrays.arrays(np.uint64, st.integers(0, 12), elements=st.integers(0, 2**64 - 1)), st.integers(0, 8), st.data())
def test_candidates_are_all_pairs_within_the_distance(hashes, distance, data):
    for row in range(1, len(hashes)):
        for bit in data.draw(st.lists(st.integers(0, 63), max_size=9)):
            hashes[row] = hashes[row - 1] ^ np.uint64(1 << bit)
    expected = [
        [i, j] for i, j in itertools.combinations(range(len(hashes)), 2)
        if int(hashes[i] ^ hashes[j]).bit_count() <= distance
    ]  # fmt: skip
    assert cleaning.candidate_pairs(hashes, distance=distance).tolist() == expected


@pytest.mark.parametrize("count", [2000, 40_000])  # the more there are, the more bands are compared at a time
def test_candidates_among_many_hashes_are_all_pairs_within_the_distance_each_once(count):
    random = np.random.default_rng(count)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    rows = random.permutation(count)[:1000].reshape(2, 500)
    changed = [random.permutation(64)[: number % 7] for number in range(500)]  # of 0 to 6 bits
    flips = np.array([sum(1 << int(bit) for bit in bits) for bits in changed], np.uint64)
    hashes[rows[1]] = hashes[rows[0]] ^ flips
    is_near = np.array([len(bits) <= 4 for bits in changed])
    expected = np.sort(rows[:, is_near].T, axis=1)
    found = cleaning.candidate_pairs(hashes, distance=4)
    assert found.tolist() == sorted(expected.tolist())


def test_pairs_that_correlate_are_never_ruled_out():
    random = np.random.default_rng(0)
    mixed = np.tensordot(random.normal(size=(150, 3)), random.normal(size=(3, 28, 28, 1)), axes=1)  # of three patterns
    images = np.clip(128 + 20 * mixed, 0, 255).round().astype(np.uint8)
    pairs = np.argwhere(np.triu(np.ones((150, 150), bool), 1))
    correlation = cleaning.correlations(images, pairs)
    for near in (0.9, 0.99):
        may = cleaning._may_correlate(images, pairs, near)
        assert may[correlation >= near].all()
        assert not may[correlation < near - 0.05].any()


def test_the_work_stays_proportional_to_the_pictures_when_all_hashes_are_alike(monkeypatch):
    compared, count = [], np.bitwise_count
    monkeypatch.setattr(np, "bitwise_count", lambda bits: (compared.append(bits.size), count(bits))[1])
    pairs = cleaning.candidate_pairs(np.zeros(20_000, np.uint64), distance=4, window=10)
    assert len(pairs) == 10 * 20_000 - 55
    assert sum(compared) <= 20_000 * 10 * (4 + 1)  # in each of as many bands as bits may differ, and one more


def test_correlation_is_that_of_numpy_and_leaves_brightness_aside():
    images = noise(4)
    images[1] = images[0] // 2 + 20
    images[3] = 9
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    found = cleaning.correlations(images, pairs)
    assert found[0] > 0.999
    assert found[1] == pytest.approx(np.corrcoef(images[0].ravel(), images[2].ravel())[0, 1], abs=1e-5)
    assert found[2] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda image: (image * 0.9).astype(np.uint8),
        lambda image: image // 8 * 8,
        lambda image: np.asarray(sources.decode(rehearsal.encode(image, "JPEG", quality=90))),
    ],
)
def test_pictures_that_were_changed_a_little_are_found(fashion, change):
    originals = fashion[0][:1000]
    images = np.concatenate([originals, np.stack([change(image) for image in originals[:200]])])[..., None]
    pairs = {tuple(pair) for pair in cleaning.near_pairs(images)}
    found = sum((row, 1000 + row) in pairs for row in range(200))
    assert found >= 150
    others = [pair for pair in pairs if (pair[1] - pair[0]) % 1000]
    assert len(others) <= 6  # Fashion-MNIST has look-alikes of its own


@settings(max_examples=50)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=30))
def test_join_connects_what_a_chain_of_pairs_connects(count, pairs):
    pairs = np.array([pair for pair in pairs if max(pair) < count], np.int64).reshape(-1, 2)
    expected = list(range(count))
    for _ in range(count):
        for left, right in pairs:
            expected[left] = expected[right] = min(expected[left], expected[right])
    assert cleaning.join(np.arange(count), pairs).tolist() == expected


# All checks together ---------------------------------------------------------------------------


def test_a_clean_collection_has_no_findings():
    findings, content = cleaning.inspect(collection(noise(40)))
    assert len(findings) == 0
    assert content.tolist() == list(range(40))


def test_a_published_test_set_stays_whole_but_for_pictures_without_label():
    images = noise(6)
    images[1] = images[0]  # train and test
    images[3] = images[2]  # twice in test
    images[4] = 0  # blank, in test
    splits = ["train", "test", "test", "test", "test", "test"]
    labels = ["a", "a", "a", "b", "a", ""]
    findings, _ = cleaning.inspect(collection(images, labels, splits))
    assert cleaning.kept(6, findings).tolist() == [1, 2, 3, 4]
    spared = findings[findings["detail"].str.endswith("a published test set stays whole")]
    assert set(spared["kind"]) == {"blank", "exact duplicate", "two labels"}


@settings(max_examples=25)
@given(st.lists(st.integers(0, 11), min_size=3, max_size=40), st.data())
def test_what_is_kept_has_labels_no_copies_no_contradictions_and_no_leaks(choice, data):
    count = len(choice)
    images = noise(12)[choice]
    labels = data.draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=count, max_size=count))
    splits = data.draw(st.lists(st.sampled_from(["train", "validation"]), min_size=count, max_size=count))
    found = collection(images, labels, splits)
    findings, content = cleaning.inspect(found)
    kept = cleaning.kept(count, findings)
    assert "" not in found.labels[kept]
    assert len(np.unique(content[kept])) == len(kept)
    for content in set(choice):
        known = {label for label, one in zip(labels, choice, strict=True) if one == content} - {""}
        left = np.sum(np.array(choice)[kept] == content)
        assert left == (len(known) == 1)  # one copy of each picture whose label is known and not disputed


def test_a_class_whose_training_pictures_all_leak_is_absent_from_training():
    images = noise(6)
    images[5] = images[2]
    labels, splits = ["a", "b", "c", "a", "B", "c"], ["train", "train", "train", "test", "test", "test"]
    findings, _ = cleaning.inspect(collection(images, labels, splits))
    whole = findings[findings["kind"].isin(["absent class", "alike classes"])]
    assert whole[["name", "detail"]].to_numpy().tolist() == [
        ["B", "differs only in case from b"],
        ["B", "is left with no picture in train"],
        ["c", "is left with no picture in train"],
        ["b", "is left with no picture in test"],
    ]


def test_copies_are_not_compared_with_each_other(monkeypatch):
    compared = []

    def spy(images, pairs):
        compared.append(len(pairs))
        return np.ones(len(pairs))

    monkeypatch.setattr(cleaning, "correlations", spy)
    images = noise(300)
    images[:200] = images[0]
    images[1] = images[0] // 2 + 20  # no copy, but alike
    _, content = cleaning.inspect(collection(images))
    assert compared == [1]
    assert (content[:200] == 0).all()


def test_findings_of_the_source_come_first_and_count_for_no_row():
    odd = cleaning.Finding("x.png", "unreadable", "drop", "is cut short")
    findings, _ = cleaning.inspect(collection(noise(20), findings=[odd], splits=["test"] * 20))
    assert findings.loc[0, ["name", "kind", "row"]].tolist() == ["x.png", "unreadable", -1]
    assert len(cleaning.kept(20, findings)) == 20


def test_a_rehearsal_may_hold_many_pieces_of_dirt():
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8), np.uint8)
    table = rehearsal.soil(images, np.array(["cat", "dog"] * 500), np.array(["train"] * 1000), each=100, seed=0)
    assert (table["dirt"].value_counts().drop("") == 100).all()
    assert table.loc[table["dirt"] == "blank", "picture"].is_unique  # or they were duplicates, too


def test_known_dirt_is_found_and_little_else(tmp_path, fashion):
    images, labels = fashion[0][:1500], np.char.replace(fashion[1][:1500].astype(str), "/", "-")
    splits = np.where(np.arange(1500) < 1200, "train", "test")
    table = rehearsal.soil(images, labels, splits, each=12, seed=0)
    found = sources.collect(str(rehearsal.write_folder(table, tmp_path / "soiled")))
    findings, _ = cleaning.inspect(found)
    score = rehearsal.score(table, findings)
    assert (score["recall"] >= 0.8).all(), score
    assert (score["precision"] >= 0.8).all(), score


def test_a_clean_picture_that_dirt_was_made_from_is_a_false_alarm_unless_the_dirt_is_a_copy():
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    table = rehearsal.soil(images, np.array(["cat", "dog"] * 100), np.array(["train", "test"] * 100), each=5, seed=0)
    clean = {row.source: row.name for row in table[table["dirt"] == ""].itertuples(index=False)}
    for kind in ("blank", "wrong size", "exact duplicate"):
        pieces = table[table["dirt"] == kind]
        found = pd.DataFrame({"name": [f"train/cat/{clean[source]}" for source in pieces["source"]], "kind": kind})
        score = rehearsal.score(table, found).set_index("kind").loc[kind, ["recall", "precision"]].tolist()
        assert score == ([1, 1] if kind == "exact duplicate" else [0, 0]), kind


# verdicts ----------------------------------------------------------------------------------------


FOUND = pd.DataFrame(
    [("a", "blank", "drop", "is grey", "", 0), ("a", "odd size", "review", "is small", "", 0),
     ("b", "near-duplicate", "review", "looks like c", "", 1), ("c", "two splits", "drop", "is in test", "", 2),
     ("d", "unreadable", "drop", "is cut short", "", -1)],
    columns=["name", "kind", "action", "detail", "group", "row"],
)  # fmt: skip


def test_a_verdict_takes_the_place_of_the_checks():
    decided = cleaning.decide(FOUND, {"a": "keep", "b": "drop"})
    assert decided["action"].tolist() == ["review", "review", "drop", "drop", "drop"]
    assert decided["detail"].tolist()[:3] == [f"{one}; so you decided" for one in FOUND["detail"][:3]]
    assert cleaning.kept(4, FOUND).tolist() == [1, 3]
    assert cleaning.kept(4, decided).tolist() == [0, 3]
    assert FOUND["action"][0] == "drop"  # what was given is as it was


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ({"e": "keep"}, "no finding about 'e'"), ({"a": "stay"}, "'stay': it must be keep or drop"),
        ({"d": "keep"}, "'d' cannot be kept: there is no picture"),
        ({"c": "keep"}, "'c' cannot be kept: its twin is in"),
    ],
)  # fmt: skip
def test_a_verdict_that_cannot_be_is_refused(decisions, says):
    with pytest.raises(ValueError, match=says):
        cleaning.decide(FOUND, decisions)


def test_no_verdict_stands_in_for_a_label_or_judges_a_class():
    labels = np.array(["cat", "cat", "cat", "", "owl", ""], object)
    names = np.array(["1", "2", "3", "4", "5", "owl"], object)  # a stray picture may have the name of a class
    tiny = cleaning.tiny_classes(labels, np.arange(len(labels)))
    found = pd.concat([cleaning.missing_labels(names, labels, np.full(6, "")), tiny], ignore_index=True)
    for name in ("4", "owl"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be kept: it has no label. Give it one"):
            cleaning.decide(found, {name: "keep"})
    decided = cleaning.decide(found, {"4": "drop", "owl": "drop"})
    assert decided["action"].tolist() == ["drop", "drop", "review"]
    for verdict in cleaning.VERDICTS:
        with pytest.raises(ValueError, match="'owl' is a class, and a verdict is about one picture: mend the class"):
            cleaning.decide(found[found["kind"] == "tiny class"], {"owl": verdict})


def test_no_verdict_judges_a_class_by_any_of_its_findings():
    labels, splits = np.array(["cat", "Cat", "cat"]), np.array(["train", "test", "test"])
    found = pd.concat([cleaning.absent_classes(labels, splits), cleaning.alike_classes(labels)], ignore_index=True)
    assert found["name"].tolist() == ["Cat", "Cat"]
    with pytest.raises(ValueError, match="'Cat' is a class"):
        cleaning.decide(found, {"Cat": "drop"})


def test_findings_are_written_with_what_could_not_be_read(tmp_path):
    cleaning.write_findings(tmp_path / "findings.csv", FOUND)
    back = pd.read_csv(tmp_path / "findings.csv")
    assert back.columns.tolist() == FOUND.columns.tolist()
    assert back[["name", "kind", "action"]].to_numpy().tolist()[-1] == ["d", "unreadable", "drop"]
    assert [path.name for path in tmp_path.iterdir()] == ["findings.csv"]


def test_verdicts_of_an_earlier_session_are_kept_beside_the_new_ones(tmp_path):
    path, earlier = tmp_path / "decisions.csv", {"a.png": "keep", "b.png": "drop"}
    findings = pd.DataFrame({"name": [f"{letter}.png" for letter in "abcdef"], "kind": "near-duplicate",
                             "action": "review", "detail": "", "row": range(6)})  # fmt: skip
    cleaning.decisions_writer(path, findings)(earlier)
    write = cleaning.decisions_writer(path, findings)
    for made in ({"c.png": "keep"}, {"c.png": "drop", "d.png": "keep"}, {"d.png": "keep"}):
        write(made)
        assert cleaning.read_decisions(path) == made
    assert cleaning.read_decisions(tmp_path / "decisions-1.csv") == earlier
    cleaning.decisions_writer(path, findings)({"d.png": "keep", "e.png": "keep"})  # taken up, and gone on with
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decisions-1.csv", "decisions.csv"]
    path.write_text("spoilt")
    cleaning.decisions_writer(path, findings)({"f.png": "keep"})
    assert (tmp_path / "decisions-2.csv").read_text() == "spoilt"


def test_a_verdict_that_no_run_can_abide_by_is_not_written(tmp_path):
    findings = pd.DataFrame({"name": ["a.png"], "kind": ["two splits"], "action": ["drop"], "detail": [""], "row": [0]})
    with pytest.raises(ValueError, match="its twin is in the test"):
        cleaning.decisions_writer(tmp_path / "decisions.csv", findings)({"a.png": "keep"})
    assert list(tmp_path.iterdir()) == []


def test_verdicts_come_back_from_their_file(tmp_path):
    made = {"a, with a comma.png": "keep", "NA": "drop"}
    findings = pd.DataFrame({"name": list(made), "kind": "near-duplicate", "action": "review", "detail": "", "row": 0})
    cleaning.decisions_writer(tmp_path / "decisions.csv", findings)(made)
    assert cleaning.read_decisions(tmp_path / "decisions.csv") == made
    (tmp_path / "other.csv").write_text("picture,verdict\na,keep\n")
    (tmp_path / "bytes.csv").write_bytes(bytes(range(128, 256)))
    for name in ("other.csv", "bytes.csv"):
        with pytest.raises(ValueError, match=f"{name} is no table with the columns name and verdict"):
            cleaning.read_decisions(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.csv"):
        cleaning.read_decisions(tmp_path / "none.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_decisions_are_read_as_a_spreadsheet_writes_them(separator, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = ["name", "verdict"], ["cat/a b.png", "keep"], ["dog/ü.png", "drop"]
    text = "\r\n".join(map(separator.join, rows))
    (tmp_path / "decisions.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert cleaning.read_decisions("~/decisions.csv") == {"cat/a b.png": "keep", "dog/ü.png": "drop"}
