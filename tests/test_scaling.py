"""Facts about scaling: fitted on the training rows alone, undone without loss."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import preprocessing

from helpers import scaling

matrices = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.floats(-1e6, 1e6, width=32)
)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (40, 9, 7, 3), dtype=np.uint8)


def test_z_score_by_hand():
    standard = scaling.fit_standard(np.array([[2.0], [4.0], [6.0]]))
    assert standard.shift == 4
    np.testing.assert_allclose(standard.scale, np.sqrt(8 / 3))
    np.testing.assert_allclose(standard(np.array([[4.0], [8.0]])), [[0], [4 / np.sqrt(8 / 3)]], rtol=1e-6)


def test_min_max_by_hand_and_values_outside_are_not_clipped():
    values = np.array([[10.0], [20.0], [30.0]])
    scaled = scaling.fit_min_max(values)(np.array([[10.0], [25.0], [40.0]]))
    np.testing.assert_allclose(scaled.ravel(), [0, 0.75, 1.5])


def test_what_does_not_vary_is_shifted_and_not_divided():
    constant = np.full((5, 2), [0.1, 255.0])
    np.testing.assert_array_equal(scaling.fit_standard(constant)(constant), np.zeros((5, 2)))
    np.testing.assert_array_equal(scaling.fit_min_max(constant)(constant), np.zeros((5, 2)))
    assert scaling.fit_standard(constant)(np.array([[0.1, 256.0]]))[0, 1] == 1


@pytest.mark.parametrize(("per", "shape"), [("set", ()), ("channel", (3,)), ("feature", (9, 7, 3))])
@pytest.mark.parametrize("fit", [scaling.fit_standard, scaling.fit_min_max])
def test_statistics_are_one_for_the_set_each_channel_or_each_position(images, fit, per, shape):
    scaler = fit(images, per=per)
    assert scaler.shift.shape == scaler.scale.shape == shape
    scaled = scaler(images)
    assert scaled.shape == images.shape
    assert scaled.dtype == np.float32


def test_fit_reads_the_training_rows_alone(images):
    train = np.arange(0, 40, 2)
    changed = images.copy()
    changed[1::2] = 255 - changed[1::2]
    for fit in (scaling.fit_standard, scaling.fit_min_max):
        first, second = fit(images, indices=train), fit(changed, indices=train)
        np.testing.assert_array_equal(first.shift, second.shift)
        np.testing.assert_array_equal(first.scale, fit(images[train]).scale)


@given(matrices)
def test_scaled_training_data_has_mean_0_and_deviation_1_or_fills_the_range(values):
    scaled = scaling.fit_standard(values)(values).astype(float)
    varies = np.ptp(values, axis=0) > 1e-6 * (1 + np.abs(values).max(axis=0))
    np.testing.assert_allclose(scaled.mean(axis=0)[varies], 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0)[varies], 1, atol=1e-5)
    assert np.isfinite(scaled).all()
    bounded = scaling.fit_min_max(values)(values)
    np.testing.assert_allclose(bounded.min(axis=0)[varies], 0, atol=1e-6)
    np.testing.assert_allclose(bounded.max(axis=0)[varies], 1, atol=1e-6)


@given(matrices)
def test_inverse_gives_the_values_back(values):
    for fit in (scaling.fit_standard, scaling.fit_min_max):
        scaler = fit(values)
        tolerance = 1e-6 * (1 + np.abs(scaler.shift) + 10 * scaler.scale)
        assert np.all(np.abs(scaler.inverse(scaler(values)) - values) <= tolerance)


@given(matrices)
def test_scaling_agrees_with_scikit_learn(values):
    assume(np.all(np.ptp(values, axis=0) > 1e-3 * (1 + np.abs(values).max(axis=0))))
    ours = scaling.fit_standard(values)(values)
    np.testing.assert_allclose(ours, preprocessing.StandardScaler().fit_transform(values), atol=1e-5)
    ours = scaling.fit_min_max(values)(values)
    np.testing.assert_allclose(ours, preprocessing.MinMaxScaler().fit_transform(values), atol=1e-5)


def test_pieces_give_what_the_whole_gives(images, monkeypatch):
    whole = [scaling.fit_standard(images, per=per) for per in ("set", "channel", "feature")]
    monkeypatch.setattr(scaling, "_CHUNK_BYTES", 1000)
    for per, expected in zip(("set", "channel", "feature"), whole, strict=True):
        pieces = scaling.fit_standard(images, per=per)
        np.testing.assert_allclose(pieces.shift, expected.shift)
        np.testing.assert_allclose(pieces.scale, expected.scale)


@pytest.mark.parametrize("per", ["set", "channel", "feature"])
def test_plain_numbers_are_one_feature(per):
    values = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(scaling.fit_min_max(values, per=per)(values), [0, 0.5, 1])
    standard = np.sqrt(1.5) * np.array([-1, 0, 1])
    np.testing.assert_allclose(scaling.fit_standard(values, per=per)(values), standard, rtol=1e-6)


def test_large_offset_keeps_its_digits():
    values = 1e9 + np.array([[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(scaling.fit_min_max(values)(values).ravel(), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: scaling.fit_standard(x, per="row"), "'set', 'channel', 'feature'; received 'row'"),
        (lambda x: scaling.fit_standard(x, indices=[]), "training split is empty"),
        (lambda x: scaling.fit_standard(x, indices=np.array([True, False])), "received a mask: pass np.flatnonzero"),
        (lambda x: scaling.fit_min_max(x, indices=[False, True]), "received a mask: pass np.flatnonzero"),
    ],
)
def test_bad_fit_says_what_was_received(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 2)))
