"""Facts about augmentation and about the batches that training reads."""

import importlib.util
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import artifacts, preprocessing


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (40, 9, 7, 3), dtype=np.uint8)


# ── noise ───────────────────────────────────────────────────────────────────────────────────────


def test_noise_has_its_deviation_where_nothing_is_clipped():
    grey = np.full((50, 40, 40, 1), 128, np.uint8)
    noise = preprocessing.add_noise(grey, 20, np.random.default_rng(0)).astype(float) - 128
    assert abs(noise.mean()) < 0.3
    assert noise.std() == pytest.approx(20, rel=0.01)


def test_noise_stays_in_the_limits_and_keeps_the_dtype():
    random = np.random.default_rng(0)
    for picture in (np.array([[0, 255]], np.uint8), np.array([[0, 255]], np.float32)):
        noisy = np.concatenate([preprocessing.add_noise(picture, 50, random) for _ in range(50)])
        assert noisy.dtype == picture.dtype
        assert noisy.min() >= 0
        assert noisy.max() <= 255
        assert 0.3 < np.mean(noisy[:, 0] == 0) < 0.7, "half of the noise on black is cut off, nothing wraps round"


def test_no_noise_changes_nothing(images):
    np.testing.assert_array_equal(preprocessing.add_noise(images, 0, np.random.default_rng(0)), images)


# ── augmentation ────────────────────────────────────────────────────────────────────────────────

ALL = {"flip": True, "shift": 0.2, "erasing": 0.5}


@pytest.mark.parametrize("option", ALL)
def test_each_layer_acts_in_training_only(images, option):
    layers = preprocessing.augmentation(**{option: ALL[option]}, seed=3)
    pictures = images.astype(np.float32)
    kept = keras.ops.convert_to_numpy(layers(pictures, training=False))
    np.testing.assert_allclose(kept, pictures, atol=1e-4)
    changed = keras.ops.convert_to_numpy(layers(pictures, training=True))
    assert changed.shape == pictures.shape
    assert not np.allclose(changed, pictures, atol=1)
    again = keras.ops.convert_to_numpy(layers(pictures, training=True))
    assert not np.allclose(changed, again, atol=1), "another version each time"


def test_layers_repeat_with_their_seed(images):
    built = [preprocessing.augmentation(**ALL, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (keras.ops.convert_to_numpy(b(images.astype(np.float32), training=True)) for b in built)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_erasing_hits_the_share_that_is_asked_for():
    pictures = np.full((3000, 12, 12, 1), 7, np.float32)
    for share in (0.25, 1.0):
        erased = keras.ops.convert_to_numpy(preprocessing.augmentation(erasing=share)(pictures, training=True))
        assert np.mean((erased != 7).any((1, 2, 3))) == pytest.approx(share, abs=0.03)


def test_no_augmentation_changes_nothing(images):
    kept = preprocessing.augmentation()(images.astype(np.float32), training=True)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kept), images)


def test_jitter_flips_half_and_keeps_the_rest(images):
    changed = preprocessing.Jitter(flip=True)(images, np.random.default_rng(0))
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(changed, images, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(changed, images, strict=True)]
    assert sum(mirrored) + sum(kept) == 40
    assert 10 <= sum(mirrored) <= 30


def test_jitter_mirrors_whole_pixels_however_the_picture_lies_in_memory():
    colours = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    for images in (colours, np.asfortranarray(colours), colours.astype(np.float32), colours[:, ::-1]):
        for new, old in zip(preprocessing.Jitter(flip=True)(images, np.random.default_rng(1)), images, strict=True):
            assert np.array_equal(new, old) or np.array_equal(new, old[:, ::-1])


@given(st.integers(1, 10), st.integers(0, 99))
def test_jitter_shifts_by_whole_pixels_and_black_comes_in(pixels, seed):
    images = np.random.default_rng(seed).integers(1, 256, (6, 9, 7, 3), dtype=np.uint8)
    for new, old in zip(preprocessing.Jitter(shift=pixels)(images, np.random.default_rng(seed)), images, strict=True):
        padded = np.pad(old, ((pixels, pixels), (pixels, pixels), (0, 0)))
        offsets = [(y, x) for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)]
        assert any(np.array_equal(new, padded[y : y + 9, x : x + 7]) for y, x in offsets)


def test_jitter_erases_a_rectangle_of_a_twentieth_to_a_fifth():
    images = np.zeros((2000, 28, 28, 3), np.uint8)
    grey = preprocessing.Jitter(erase=0.5)(images, np.random.default_rng(0)) == 128
    assert np.mean(grey.any((1, 2, 3))) == pytest.approx(0.5, abs=0.03)
    share = grey[..., 0].mean((1, 2))[grey.any((1, 2, 3))]
    assert 0.03 < share.min() < share.max() < 0.25
    assert 0.11 < share.mean() < 0.14
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    filled = grey[..., 0]
    boxes = filled.any(2)[:, :, None] & filled.any(1)[:, None, :]
    np.testing.assert_array_equal(filled, boxes)


def test_jitter_takes_pictures_of_one_pixel():
    dot = np.full((50, 1, 1, 1), 7, np.uint8)
    changed = preprocessing.Jitter(shift=1, flip=True, erase=0.5)(dot, np.random.default_rng(0))
    assert set(changed.ravel()) == {0, 7, 128}


def test_jitter_leaves_the_picture_it_was_given_alone(images):
    before = images.copy()
    changed = preprocessing.Jitter(shift=2, flip=True, erase=1.0)(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(preprocessing.Jitter()(images, np.random.default_rng(0)), before)


# ── batches ─────────────────────────────────────────────────────────────────────────────────────


def numbered(count=103, side=4):
    """Pictures whose first pixel tells which one it is."""
    images = np.zeros((count, side, side, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images, np.arange(count) % 5


def read(pipeline):
    return np.concatenate([pictures[:, 0, 0, 0] for pictures, _ in pipeline])


@given(st.integers(1, 120), st.integers(1, 40), st.booleans(), st.integers(0, 9))
def test_every_picture_is_read_once_an_epoch_with_its_own_label(count, batch_size, shuffle, seed):
    images, labels = numbered(count)
    pipeline = preprocessing.batches(images, labels, batch_size=batch_size, shuffle=shuffle, seed=seed)
    for _ in range(2):
        assert sorted(read(pipeline).tolist()) == list(range(count))
        for pictures, answers in pipeline:
            np.testing.assert_array_equal(pictures[:, 0, 0, 0] % 5, answers)
        pipeline.next_epoch()


def test_one_split_is_read_and_nothing_else():
    images, labels = numbered()
    pipeline = preprocessing.batches(images, labels, batch_size=8, indices=np.arange(50, 90), shuffle=True)
    assert sorted(read(pipeline).tolist()) == list(range(50, 90))


def test_order_is_new_each_epoch_and_repeats_with_the_seed():
    images, labels = numbered()
    make = lambda seed: preprocessing.batches(images, labels, batch_size=10, shuffle=True, seed=seed)  # noqa: E731
    one, same, other = make(1), make(1), make(2)
    first = read(one)
    np.testing.assert_array_equal(first, read(same))
    np.testing.assert_array_equal(first, read(one), err_msg="read again in the same epoch, it is the same")
    assert not np.array_equal(first, read(other))
    one.next_epoch()
    assert not np.array_equal(first, read(one))
    same.next_epoch()
    np.testing.assert_array_equal(read(one), read(same))


@pytest.mark.parametrize("augment", [preprocessing.Jitter(shift=2), preprocessing.augmentation(shift=0.3)])
def test_augmented_pictures_differ_each_epoch_and_validation_ones_do_not(images, augment):
    labels = np.arange(40)
    train = preprocessing.batches(images, labels, batch_size=40, augment=augment)
    validation = preprocessing.batches(images, labels, batch_size=40)
    seen = []
    for _ in range(3):
        seen.append(train[0][0])
        np.testing.assert_array_equal(validation[0][0], images)
        train.next_epoch()
        validation.next_epoch()
    assert not any(np.array_equal(seen[i], seen[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_batches_of_one_epoch_are_changed_in_different_ways():
    ramp = np.tile(np.arange(49, dtype=np.uint8).reshape(1, 7, 7, 1), (40, 1, 1, 1))
    train = preprocessing.batches(ramp, np.zeros(40, int), batch_size=20, augment=preprocessing.Jitter(shift=3))
    assert not np.array_equal(train[0][0], train[1][0])


def test_batch_is_the_same_whoever_asks_first(images):
    def make():
        return preprocessing.batches(
            images, np.arange(40), batch_size=10, shuffle=True, augment=preprocessing.Jitter(2, True, 0.5)
        )

    forwards, backwards = [make()[i][0] for i in range(4)], [make()[i][0] for i in (3, 2, 1, 0)][::-1]
    np.testing.assert_array_equal(forwards, backwards)


def test_small_last_batch_can_be_left_out():
    images, labels = numbered()
    assert [len(batch[1]) for batch in preprocessing.batches(images, labels, batch_size=50)] == [50, 50, 3]
    dropped = preprocessing.batches(images, labels, batch_size=50, drop_last=True)
    assert [len(batch[1]) for batch in dropped] == [50, 50]


def test_fit_reads_each_epoch_anew_and_repeats_with_the_seed_in_several_threads():
    images, labels = numbered()

    def train():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
        model.add(keras.layers.Dense(5))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        pipeline = preprocessing.batches(
            images, labels, batch_size=25, shuffle=True, augment=preprocessing.Jitter(shift=1), workers=3
        )
        assert pipeline.workers == 3
        validation = preprocessing.batches(images, labels, batch_size=50)
        history = model.fit(pipeline, validation_data=validation, epochs=2, verbose=0)
        return history.history, pipeline.epoch

    (first, epochs), (again, _) = train(), train()
    # Before it trains, Keras looks at the form of the batches; on JAX that look counts as an epoch.
    assert epochs == (2 if keras.backend.backend() == "jax" else 1), "the epochs 0 and 1"
    np.testing.assert_allclose(first["loss"], again["loss"], rtol=1e-5)
    assert set(first) == {"loss", "val_loss"}


def test_threads_that_read_ahead_begin_an_epoch_with_its_own_order(monkeypatch):
    """Keras starts its threads before it says that an epoch begins, and drawing a long order takes time."""
    images, labels = numbered()
    pipeline = preprocessing.batches(images, np.arange(len(images)), batch_size=10, shuffle=True, workers=4)
    drawn = pipeline._new_order
    monkeypatch.setattr(pipeline, "_new_order", lambda: (time.sleep(0.2), drawn())[1])
    read = []
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            ahead = [threads.submit(pipeline.__getitem__, index) for index in range(len(pipeline))]
            pipeline.on_epoch_begin()
            read.append(np.concatenate([batch.result()[1] for batch in ahead]).tolist())
        pipeline.on_epoch_end()
        pipeline.on_epoch_end()  # Keras says it more often than once
    assert [sorted(epoch) for epoch in read] == [list(range(len(images)))] * 3
    assert read[0] != read[1] != read[2]
    again = preprocessing.batches(images, np.arange(len(images)), batch_size=10, shuffle=True)
    for epoch, expected in enumerate(read):
        again.start(epoch)
        assert np.concatenate([again[index][1] for index in range(len(again))]).tolist() == expected


def test_pictures_per_second_counts_all_pictures(monkeypatch):
    images, labels = numbered()
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(preprocessing.time, "perf_counter", lambda: next(clock))
    pipeline = preprocessing.batches(images, labels, batch_size=10)
    assert preprocessing.pictures_per_second(pipeline) == 51.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": np.zeros(3, int)}, "103 pictures and 3 labels"),
        ({"indices": np.array([], int)}, "no batch to read: 0 pictures"),
        ({"indices": np.array([103])}, "0 to 102; received batches of 10 and indices from 103 to 103"),
        ({"indices": np.arange(103) < 50}, "positions of pictures; received a mask: pass np.flatnonzero"),
        ({"batch_size": 0}, "at least one picture"),
        ({"batch_size": 200, "drop_last": True}, "103 pictures, 200 in a batch"),
        ({"augment": keras.layers.MixUp()}, "MixUp and CutMix mix labels, too"),
    ],
)
def test_bad_batches_say_what_was_received(options, message):
    images, labels = numbered()
    with pytest.raises(ValueError, match=message):
        preprocessing.batches(**{"images": images, "labels": labels, "batch_size": 10, **options})


def test_batch_that_does_not_exist_is_an_index_error():
    with pytest.raises(IndexError, match="11 batches; received the number 11"):
        preprocessing.batches(*numbered(), batch_size=10)[11]


# ── larger than memory, other backends ──────────────────────────────────────────────────────────

TRAIN_ON_A_LARGE_SET = """
import resource, sys
import keras
import numpy as np
from helpers import preprocessing, scaling
images = np.load(sys.argv[1], mmap_mode="r")
labels = np.arange(len(images)) % 2
model = keras.Sequential([keras.Input(images.shape[1:]), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
model.add(keras.layers.Dense(2))
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
few = preprocessing.batches(images, labels, batch_size=256, indices=np.arange(1024))
model.fit(few, epochs=1, verbose=0)  # the backend takes what it needs for itself before the limit is drawn
used = 4096 * int(open("/proc/self/statm").read().split()[5])
limit = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if sys.argv[3] == "whole":
    images = np.array(images)
standard = scaling.fit_standard(images)
train = preprocessing.batches(images, labels, batch_size=256, shuffle=True, augment=preprocessing.Jitter(flip=True))
print(float(model.fit(train, epochs=1, verbose=0).history["loss"][0]), float(standard.shift[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc are Linux's")
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX itself asks for more than the limit leaves")
@pytest.mark.parametrize(("how", "trains"), [("mapped", True), ("whole", False)])
def test_training_on_a_set_twice_its_memory_limit(tmp_path, how, trains):
    # 400 MB that take no room on disk: a file with a hole reads as zeros.
    path = tmp_path / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (25_000, 128, 128, 1))
    images[::1000] = 200
    size = images.nbytes
    del images
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN_ON_A_LARGE_SET, str(path), str(size // 2), how],
        capture_output=True, text=True, cwd=artifacts.root(), timeout=300,
    )
    path.unlink()
    assert (ended.returncode == 0) is trains, ended.stderr[-2000:]
    if trains:
        assert float(ended.stdout.split()[1]) > 0
    else:
        assert "MemoryError" in ended.stderr


TRAIN_ON_ANOTHER_BACKEND = """
import keras
import numpy as np
from helpers import preprocessing
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
labels = np.arange(64) % 3
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
model.add(keras.layers.Dense(3))
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for augment in (None, preprocessing.Jitter(1, True), preprocessing.augmentation(flip=True)):
    train = preprocessing.batches(images, labels, batch_size=16, shuffle=True, augment=augment)
    validation = preprocessing.batches(images, labels, batch_size=64)
    history = model.fit(train, validation_data=validation, verbose=0)
    assert np.isfinite(history.history["val_loss"][0])
print(keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_batches_feed_other_backends(backend, fresh_python):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    assert fresh_python(TRAIN_ON_ANOTHER_BACKEND, KERAS_BACKEND=backend).strip() == backend
