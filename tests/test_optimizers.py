"""Facts about the update rules: worked by hand, equal to Keras and to optax, and the right way down."""

import contextlib
import inspect
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import optimizers

SHAPES = [(), (7,), (4, 3), (2, 3, 4)]
MATRICES = [(4, 3), (3, 5), (1, 2), (6, 6)]
CONVERGING = {"muon": 0.05, "lion": 0.01, "adagrad": 1.0, "rmsprop": 0.02, "adam": 0.1, "adamw": 0.1}  # rates
ONES = np.ones(1)
X, Y = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), np.array([1.0, 3.0, 5.0])

weights = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-1e3, 1e3))
gradients = st.lists(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4), elements=st.floats(-1e6, 1e6)), min_size=1
)
limits = st.floats(1e-3, 1e3)


def _problem(shape, *, scale=1.0, seed=0):
    """Returns a gradient that is not linear, over seven powers of ten so that epsilon counts, and a start."""
    random = np.random.default_rng([seed, *shape])
    size, target = scale * 10 ** random.uniform(-6, 1, shape), random.normal(size=shape)
    return lambda w: size * np.sin(w - target), random.normal(size=shape)


def _after(name, gradients, *, start=0.0, **options):
    """Returns the weights after steps with the gradients given, one number each."""
    coming = iter(gradients)
    path = optimizers.walk(name, lambda w: [next(coming)], [start], steps=len(gradients), **options)
    return path[-1, 0]


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_walks_try_each_rate_from_the_start_of_the_surface():
    surface = optimizers.quadratic(condition=4.0)
    paths = optimizers.walks("sgd", surface, rates=[0.1, 0.2, 1e9], steps=40)
    assert paths.shape == (3, 41, 2)
    np.testing.assert_allclose(paths[1], optimizers.walk("sgd", surface.gradient, surface.start, steps=40, rate=0.2))
    assert np.isnan(paths[2, -1]).all()
    assert np.isfinite(optimizers.walks("muon", surface, rates=[0.1], steps=3)).all()


@pytest.mark.parametrize(("rule", "gradients", "options", "expected"), [
    ("sgd", [2.0, 4.0], {"rate": 0.25}, -0.5 - 1),
    ("momentum", [1.0, 1.0], {"rate": 1.0, "momentum": 0.5}, -1 - 1.5),  # v: -1, -0.5 - 1
    # v: -1, -1.5; steps: -0.5 - 1, -0.75 - 1
    ("nesterov", [1.0, 1.0], {"rate": 1.0, "momentum": 0.5}, -1.5 - 1.75),
    # roots of 16 + 9 = 25 and 25 + 144 = 169
    ("adagrad", [3.0, 12.0], {"rate": 1.0, "accumulator": 16.0, "epsilon": 1e-15}, -3 / 5 - 12 / 13),
    # means of squares: 4 / 2 = 2, then 2 / 2 + 16 / 2 = 9
    ("rmsprop", [2.0, 4.0], {"rate": 1.0, "rho": 0.5, "epsilon": 1e-15}, -2 / np.sqrt(2) - 4 / 3),
    # epsilon is inside the root
    ("adagrad", [3.0], {"rate": 1.0, "accumulator": 0.0, "epsilon": 16.0}, -3 / 5),
    ("rmsprop", [6.0], {"rate": 1.0, "rho": 0.75, "epsilon": 16.0}, -6 / 5),
])  # fmt: skip
def test_steps_by_hand(rule, gradients, options, expected):
    assert _after(rule, gradients, start=1.0, **options) == pytest.approx(1 + expected, rel=1e-12)


def test_adam_by_hand():
    # step 1: m = 1 of 1/2, v = 1 of 1/4, so 2 / 2; step 2: m = 3/2 of 3/4, v = 3/4 of 7/16
    value = _after("adam", [2.0, 2.0], rate=0.1, beta_1=0.5, beta_2=0.75, epsilon=1e-15)
    assert value == pytest.approx(-0.1 - 0.1)
    value = _after("adam", [2.0, 0.0], rate=1.0, beta_1=0.5, beta_2=0.75, epsilon=1e-15)
    assert value == pytest.approx(-1 - (1 / 2) / (3 / 4) / np.sqrt((3 / 4) / (7 / 16)))


def test_epsilon_of_adam_is_outside_the_root_and_not_corrected():
    # algorithm 1 of the paper would give 2 / (2 + 1) here, an epsilon inside the root 2 / sqrt(4 + 1)
    value = _after("adam", [2.0], rate=1.0, beta_1=0.5, beta_2=0.75, epsilon=1.0)
    assert value == pytest.approx(-(1 / 2) / (1 / 2) / (1 + 1))


def test_adamw_shrinks_before_the_step_of_adam():
    value = _after("adamw", [1.0], start=2.0, rate=0.5, weight_decay=0.1, epsilon=1e-15)
    assert value == pytest.approx(2 * (1 - 0.05) - 0.5)


def test_lion_by_hand():
    # signs of 0.5, then with m = 0.25 of 0.125 - 0.5, then with m = -0.0625 of -0.03125 + 0.03
    value = _after("lion", [1.0, -1.0, 0.06], rate=1.0, beta_1=0.5, beta_2=0.75)
    assert value == -1 + 1 + 1


def test_muon_moves_all_singular_values_as_one():
    # a diagonal of 3 and 4 has norm 5, so the polynomial starts at 0.6 and 0.8
    value = np.array([0.6, 0.8])
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    step = optimizers.muon(np.zeros((2, 2)), np.diag([3.0, 4.0]), {}, rate=1.0)
    np.testing.assert_allclose(step, -0.2 * np.sqrt(2) * np.diag(value), rtol=1e-6)


def test_muon_takes_what_is_no_matrix_to_adamw():
    w, g = np.ones(3), np.array([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(optimizers.muon(w, g, {}), optimizers.adamw(w, g, {}))


def test_quadratic_and_rosenbrock_by_hand():
    points = np.array([[2.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(optimizers.quadratic(condition=10.0).value(points), [0.5 * (4 + 10), 0])
    np.testing.assert_allclose(optimizers.rosenbrock().value(points), [1 + 100 * 9, 1])
    np.testing.assert_allclose(optimizers.rosenbrock().gradient(points), [[2 + 2400, -600], [-2, 0]])


def test_clipping_by_hand():
    arrays = [np.array([3.0, -4.0]), np.array([[12.0]])]
    for clip, expected in [
        (optimizers.clip_by_value, [[2, -2], [[2]]]),
        (optimizers.clip_by_norm, [[1.2, -1.6], [[2]]]),
        (optimizers.clip_by_global_norm, [[6 / 13, -8 / 13], [[24 / 13]]]),
    ]:
        for clipped, hand in zip(clip(arrays, limit=2.0), expected, strict=True):
            np.testing.assert_allclose(clipped, hand)


# ── the right way down ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("surface", [optimizers.quadratic(), optimizers.rosenbrock()], ids=["quadratic", "rosenbrock"])
@pytest.mark.parametrize("rule", optimizers.RULES)
def test_every_rule_descends(rule, surface):
    path = optimizers.walk(rule, surface.gradient, surface.start[None], steps=10, rate=1e-5)
    assert np.isfinite(path).all()
    assert np.all(np.diff(surface.value(path), axis=0) < 0)


@pytest.mark.parametrize("rule", optimizers.RULES)
def test_every_rule_comes_near_the_minimum_of_a_turned_ravine(rule):
    surface = optimizers.quadratic(condition=10.0, angle=30.0)
    options = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(optimizers.RULES[rule]).parameters else {}
    rate = CONVERGING.get(rule, 0.02)
    path = optimizers.walk(rule, surface.gradient, surface.start[None], steps=2000, rate=rate, **options)
    assert np.linalg.norm(path[-1] - surface.minimum) < 0.05


@pytest.mark.parametrize("surface", [optimizers.quadratic(angle=20.0), optimizers.rosenbrock()])
def test_gradient_of_a_surface_is_that_of_its_value_and_0_at_the_minimum(surface):
    points = np.random.default_rng(0).normal(size=(20, 2))
    for axis, shift in enumerate(1e-6 * np.eye(2)):
        slope = (surface.value(points + shift) - surface.value(points - shift)) / 2e-6
        np.testing.assert_allclose(surface.gradient(points)[:, axis], slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(surface.gradient(surface.minimum), 0)
    assert surface.value(surface.minimum) < surface.value(points).min()


# ── properties ──────────────────────────────────────────────────────────────────────────────────


@given(weights, st.sampled_from(list(optimizers.RULES)))
def test_without_gradient_and_decay_the_weights_stay(w, rule):
    options = {"weight_decay": 0.0} if rule in ("adamw", "lion", "muon") else {}
    path = optimizers.walk(rule, np.zeros_like, w, steps=3, **options)
    np.testing.assert_array_equal(path, np.broadcast_to(w, path.shape))


@given(weights, st.sampled_from(["adamw", "lion", "muon"]))
def test_decay_alone_shrinks_by_the_rate_times_the_decay(w, rule):
    path = optimizers.walk(rule, np.zeros_like, w, steps=3, rate=0.1, weight_decay=0.5)
    np.testing.assert_allclose(path[-1], w * 0.95**3)


@given(st.floats(1, 100), st.floats(0, 90), st.floats(0.1, 1.9))
def test_gradient_descent_converges_if_and_only_if_the_rate_is_below_2_over_the_condition(condition, angle, share):
    surface = optimizers.quadratic(condition=condition, angle=angle)
    path = optimizers.walk("sgd", surface.gradient, surface.start, steps=1000, rate=2 * share / condition)
    distance = np.abs(path - surface.minimum).max(axis=1)
    if share < 0.99:
        assert distance[-1] < 0.2 * distance[0]
    if share > 1.01:
        assert not distance[-1] < 1e6


@given(st.floats(0, 0.95), st.floats(0.001, 0.05), st.integers(0, 99))
def test_nesterov_is_the_look_ahead_point_of_the_paper(beta, rate, seed):
    gradient, start = _problem((3,), seed=seed)
    theta, v, expected = start, np.zeros(3), [start]
    for _ in range(20):
        v = beta * v - rate * gradient(theta + beta * v)
        theta = theta + v
        expected.append(theta + beta * v)
    path = optimizers.walk("nesterov", gradient, start, steps=20, rate=rate, momentum=beta)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-12)


@given(st.floats(1e-3, 1e6), st.sampled_from(["rmsprop", "adam", "lion", "muon"]))
def test_rules_that_adapt_do_not_see_the_scale_of_the_loss(scale, rule):
    gradient, start = _problem((4, 3))
    options = {"epsilon": 1e-30} if rule in ("rmsprop", "adam") else {}
    paths = [
        optimizers.walk(rule, lambda w, by=by: by * 1e6 * gradient(w), start, steps=20, **options) for by in (1, scale)
    ]
    np.testing.assert_allclose(*paths, rtol=1e-6, atol=1e-8)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_newton_schulz_is_a_polynomial_of_the_singular_values(rows, columns, seed):
    x = np.random.default_rng(seed).normal(size=(rows, columns))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    values = values / np.linalg.norm(values)
    large = values > 0.01
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    ours = optimizers.newton_schulz(x)
    np.testing.assert_allclose(ours, left * values @ right, atol=1e-4)
    assert np.all((values[large] > 0.68) & (values[large] < 1.14))


@given(gradients, limits)
def test_clipping_never_exceeds_its_bound_and_keeps_the_signs(arrays, limit):
    bound = limit * (1 + 1e-12)
    by_value = optimizers.clip_by_value(arrays, limit=limit)
    assert max(np.abs(g).max() for g in by_value) <= bound
    by_norm = optimizers.clip_by_norm(arrays, limit=limit)
    assert max(np.linalg.norm(g) for g in by_norm) <= bound
    by_global_norm = optimizers.clip_by_global_norm(arrays, limit=limit)
    assert np.linalg.norm([np.linalg.norm(g) for g in by_global_norm]) <= bound
    for clipped in (by_value, by_norm, by_global_norm):
        assert all(np.all(g * before >= 0) for g, before in zip(clipped, arrays, strict=True))


@given(gradients, limits)
def test_clipping_leaves_small_gradients_untouched(arrays, limit):
    total = np.linalg.norm(np.concatenate([g.ravel() for g in arrays]))
    small = [g * (0.99 * limit / max(total, limit)) for g in arrays]
    for clip in (optimizers.clip_by_value, optimizers.clip_by_norm, optimizers.clip_by_global_norm):
        for clipped, before in zip(clip(small, limit=limit), small, strict=True):
            np.testing.assert_array_equal(clipped, before)


def test_one_broken_number_spoils_a_step_clipped_by_global_norm():
    for broken in (np.inf, np.nan):
        clipped = optimizers.clip_by_global_norm([np.array([broken]), np.ones(2)], limit=1.0)
        assert all(np.isnan(g).all() for g in clipped)


def test_walk_starts_at_the_start_and_leaves_it_alone():
    start = np.array([[1, 2], [3, 4]])
    path = optimizers.walk("sgd", np.zeros_like, start, steps=4)
    assert path.shape == (5, 2, 2)
    assert path.dtype == np.float64
    np.testing.assert_array_equal(path[0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(start, [[1, 2], [3, 4]])


@pytest.mark.parametrize("rule", ["sgd", "momentum", "nesterov"])
def test_walk_that_diverges_ends_in_nan_without_a_warning(rule):
    surface = optimizers.rosenbrock()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = optimizers.walk(rule, surface.gradient, surface.start, steps=60, rate=0.1)
    finite = np.isfinite(path).all(axis=1)
    assert path.shape == (61, 2)
    assert finite[:3].all()
    assert not finite[-1]
    assert np.all(np.diff(finite.astype(int)) <= 0)  # once lost, lost for good
    assert np.isnan(path[~finite]).all()


def test_walk_takes_a_schedule_in_place_of_a_rate():
    path = optimizers.walk("sgd", np.ones_like, [0.0], steps=4, rate=lambda step: [0.0, 1.0, 0.5, 0.25][step])
    np.testing.assert_array_equal(path.ravel(), [0, 0, -1, -1.5, -1.75])


# ── linear regression ───────────────────────────────────────────────────────────────────────────


def test_gradient_descent_from_0_ends_at_the_shortest_solution_where_columns_are_collinear():
    path = optimizers.walk("sgd", optimizers.regression_gradient(X, Y), np.zeros(2), steps=300, rate=0.02)
    shortest = np.linalg.pinv(X) @ Y
    np.testing.assert_allclose(shortest, [22 / 70, 44 / 70])
    np.testing.assert_allclose(path[-1], shortest, rtol=1e-9)
    assert np.linalg.norm(X @ shortest - Y) > 0.6  # no weights fit all three


def test_what_the_data_do_not_see_stays_as_it_was_at_the_start():
    unseen = np.array([2.0, -1.0])  # X @ unseen is 0
    path = optimizers.walk("sgd", optimizers.regression_gradient(X, Y), unseen, steps=300, rate=0.02)
    np.testing.assert_allclose(path[-1], np.linalg.pinv(X) @ Y + unseen, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_sgd_hovers_at_a_constant_rate_and_settles_at_one_that_falls(batch_size):
    shortest = np.linalg.pinv(X) @ Y

    def farthest(rate):
        gradient = optimizers.regression_gradient(X, Y, batch_size=batch_size, seed=1)
        path = optimizers.walk("sgd", gradient, np.zeros(2), steps=3000, rate=rate)
        np.testing.assert_allclose(path[:, 1], 2 * path[:, 0])
        return np.linalg.norm(path[-300:] - shortest, axis=1).max()

    constant, falling = farthest(0.01), farthest(lambda step: 0.01 * (1 - step / 3000) ** 2)
    assert 0.01 < constant < 0.5
    assert falling < constant / 5


@given(st.integers(1, 9), st.integers(0, 99))
def test_batches_of_an_epoch_hold_each_row_once(batch_size, seed):
    random = np.random.default_rng(seed)
    x, y, w = random.normal(size=(9, 3)), random.normal(size=9), random.normal(size=3)
    whole = optimizers.regression_gradient(x, y)(w)
    gradient = optimizers.regression_gradient(x, y, batch_size=batch_size, seed=seed)
    for _ in range(3):
        sizes = [min(batch_size, 9 - start) for start in range(0, 9, batch_size)]
        np.testing.assert_allclose(sum(size * gradient(w) for size in sizes) / 9, whole)


def test_regression_gradient_is_that_of_the_mean_squared_error():
    w = np.array([0.3, -0.2])
    loss = [np.mean((X @ (w + shift) - Y) ** 2) for shift in (*(1e-6 * np.eye(2)), *(-1e-6 * np.eye(2)))]
    slope = (np.array(loss[:2]) - loss[2:]) / 2e-6
    np.testing.assert_allclose(optimizers.regression_gradient(X, Y)(w), slope, rtol=1e-6)


# ── agreement with Keras ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _float64():
    """Keras keeps learning rates in its default type: in float32 they alone cost eight digits."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    with _wide_jax() if keras.backend.backend() == "jax" else contextlib.nullcontext():
        yield
    keras.config.set_floatx(before)


def _wide_jax():
    import jax

    return jax.enable_x64(True)


def _keras_paths(optimizer, problems, *, steps=50):
    variables = [keras.Variable(start, dtype="float64") for _, start in problems]
    paths = [[start] for _, start in problems]
    for _ in range(steps):
        gradients = [gradient(path[-1]) for (gradient, _), path in zip(problems, paths, strict=True)]
        optimizer.apply([keras.ops.convert_to_tensor(g, "float64") for g in gradients], variables)
        for path, variable in zip(paths, variables, strict=True):
            path.append(np.array(np.asarray(variable.value)))
    return [np.stack(path) for path in paths]


def _agrees_with_keras(rule, options, optimizer, *, rtol=1e-10, shapes=SHAPES, steps=50):
    if rule == "muon" and keras.backend.backend() == "jax":
        rtol = max(rtol, 1e-4)  # there the norm of a float64 matrix has the digits of float32
    problems = [_problem(shape) for shape in shapes]
    for (gradient, start), expected in zip(problems, _keras_paths(optimizer, problems, steps=steps), strict=True):
        path = optimizers.walk(rule, gradient, start, steps=steps, **options)
        np.testing.assert_allclose(path, expected, rtol=rtol, atol=rtol / 10)


def _keras_optimizer(rule, options):
    kind = {"sgd": "SGD", "momentum": "SGD", "nesterov": "SGD", "rmsprop": "RMSprop", "adamw": "AdamW"}
    names = {"rate": "learning_rate", "accumulator": "initial_accumulator_value"}
    theirs = {names.get(name, name): value for name, value in options.items()}
    fixed = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}.get(rule, {})
    return getattr(keras.optimizers, kind.get(rule, rule.title()))(**{**fixed, **theirs})


@pytest.mark.parametrize("rule", optimizers.RULES)
def test_defaults_are_those_of_keras(rule):
    config = _keras_optimizer(rule, {}).get_config()
    names = {"rate": "learning_rate", "accumulator": "initial_accumulator_value"}
    for name, parameter in list(inspect.signature(optimizers.RULES[rule]).parameters.items())[3:]:
        # Keras's `None` for no decay is 0 here.
        assert parameter.default == pytest.approx(config[names.get(name, name)] or 0.0, rel=1e-6), name


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("sgd", {"rate": 0.3}),
        ("momentum", {"momentum": 0.875}),
        ("momentum", {"rate": 0.05, "momentum": 0.5}),
        ("nesterov", {"momentum": 0.875}),
        ("nesterov", {"rate": 0.05, "momentum": 0.5}),
        ("adagrad", {"rate": 0.3, "accumulator": 0.125, "epsilon": 1e-3}),
        ("adagrad", {"rate": 0.3, "accumulator": 0.0, "epsilon": 1e-10}),
        ("rmsprop", {"rate": 0.05}),
        ("rmsprop", {"rate": 0.05, "rho": 0.7, "epsilon": 1e-3}),
        ("adam", {"rate": 0.05, "beta_1": 0.875, "beta_2": 1 - 2**-10}),
        ("adam", {"rate": 0.05, "beta_1": 0.5, "beta_2": 0.875, "epsilon": 1e-3}),
        ("adamw", {"rate": 0.05, "weight_decay": 2**-8, "beta_1": 0.875, "beta_2": 1 - 2**-10}),
        ("adamw", {"rate": 0.05, "weight_decay": 0.25, "beta_1": 0.5, "beta_2": 0.875, "epsilon": 1e-3}),
        ("lion", {"beta_1": 0.875, "beta_2": 1 - 2**-7}),
        ("lion", {"rate": 0.05, "weight_decay": 0.25, "beta_1": 0.5, "beta_2": 0.75}),
    ],
)
def test_rule_equals_the_keras_optimizer_over_15_steps(rule, options):
    # On TensorFlow, Keras rounds the constants themselves to float32: these are the same there.
    _agrees_with_keras(rule, options, _keras_optimizer(rule, options), steps=15)


@pytest.mark.slow
@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("rule", optimizers.RULES)
def test_rule_equals_the_keras_optimizer_by_default_but_for_the_rounding_of_its_constants(rule):
    _agrees_with_keras(rule, {}, _keras_optimizer(rule, {}), rtol=1e-4, shapes=[(7,), (4, 3)])


@pytest.mark.slow
@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.05, "weight_decay": 0.25},
        {"rate": 0.05, "weight_decay": 0.0, "momentum": 0.75, "nesterov": False, "rms_rate": 0.5},
    ],
)
def test_muon_equals_the_keras_optimizer_over_50_steps(options):
    _agrees_with_keras("muon", options, _keras_optimizer("muon", options), shapes=MATRICES)


@pytest.mark.slow
@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    ("rule", "options"),
    [("momentum", {"momentum": 0.875}), ("lion", {"beta_1": 0.5, "beta_2": 0.75, "weight_decay": 0.25})],
)
def test_schedule_of_keras_drives_both_alike(rule, options):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.125, 50, end_learning_rate=0.0, power=2.0)
    options = {"rate": schedule, **options}
    _agrees_with_keras(rule, options, _keras_optimizer(rule, options))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("limit", [1e-3, 1.0, 5.0, 1e3])
@pytest.mark.parametrize(
    ("clip", "option"),
    [
        (optimizers.clip_by_value, "clipvalue"),
        (optimizers.clip_by_norm, "clipnorm"),
        (optimizers.clip_by_global_norm, "global_clipnorm"),
    ],
)
def test_clipping_equals_that_of_keras(clip, option, limit):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape) for shape in SHAPES]
    problems = [(lambda w, g=g: g, np.zeros_like(g)) for g in arrays]
    paths = _keras_paths(keras.optimizers.SGD(1.0, **{option: limit}), problems, steps=1)
    for clipped, path in zip(clip(arrays, limit=limit), paths, strict=True):
        np.testing.assert_allclose(clipped, -path[1], rtol=1e-12)


# ── agreement with optax ────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "options", "theirs"),
    [
        ("sgd", {}, lambda optax: optax.sgd(0.1)),
        ("momentum", {"momentum": 0.8}, lambda optax: optax.sgd(0.1, momentum=0.8)),
        ("nesterov", {"momentum": 0.8}, lambda optax: optax.sgd(0.1, momentum=0.8, nesterov=True)),
        ("adagrad", {"accumulator": 0.2, "epsilon": 1e-4},
         lambda optax: optax.adagrad(0.1, initial_accumulator_value=0.2, eps=1e-4)),
        ("rmsprop", {"rho": 0.8, "epsilon": 1e-4},
         lambda optax: optax.rmsprop(0.1, decay=0.8, eps=1e-4, eps_in_sqrt=True)),
        # optax corrects Adam's epsilon as algorithm 1 does, so the two agree where it does not count.
        ("adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-30},
         lambda optax: optax.adam(0.1, b1=0.8, b2=0.95, eps=1e-30)),
        ("adamw", {"weight_decay": 0.3, "epsilon": 1e-30},
         lambda optax: optax.adamw(0.1, weight_decay=0.3, eps=1e-30)),
        ("lion", {"weight_decay": 0.3, "beta_1": 0.8, "beta_2": 0.95},
         lambda optax: optax.lion(0.1, b1=0.8, b2=0.95, weight_decay=0.3)),
        # optax corrects the two parts of Muon's Nesterov step by different powers of its momentum.
        ("muon", {"weight_decay": 0.3, "momentum": 0.8, "nesterov": False},
         lambda optax: optax.contrib.muon(0.1, beta=0.8, weight_decay=0.3, nesterov=False, consistent_rms=0.2)),
    ],
)  # fmt: skip
def test_rule_equals_that_of_optax_over_50_steps(rule, options, theirs):
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    # The scale keeps Muon's two small constants, 1e-7 and 1e-8 beside a norm, below the tolerance.
    problems = [_problem(shape, scale=1e6 if rule == "muon" else 1.0) for shape in MATRICES]
    with jax.enable_x64(True):
        optimizer = theirs(optax)
        update = jax.jit(optimizer.update)
        w = [jax.numpy.asarray(start) for _, start in problems]
        state, paths = optimizer.init(w), [[start] for _, start in problems]
        for _ in range(50):
            gradients = [gradient(path[-1]) for (gradient, _), path in zip(problems, paths, strict=True)]
            steps, state = update(gradients, state, w)
            w = optax.apply_updates(w, steps)
            for path, value in zip(paths, w, strict=True):
                path.append(np.asarray(value))
    for (gradient, start), expected in zip(problems, paths, strict=True):
        path = optimizers.walk(rule, gradient, start, steps=50, rate=0.1, **options)
        np.testing.assert_allclose(path, np.stack(expected), rtol=1e-8, atol=1e-10)


# ── saying no ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("Adan", {}, "no update rule 'Adan': did you mean adam?"),
        ("newton", {}, "no update rule 'newton': there are sgd, momentum, nesterov"),
        ("sgd", {"steps": 0}, "steps is 0: a walk takes at least 1"),
        ("sgd", {"rate": 0}, "rate is 0: sgd needs a number above 0"),
        ("sgd", {"rate": -0.1}, "rate is -0.1: sgd needs"),
        ("sgd", {"rate": float("nan")}, "rate is nan: sgd needs"),
        ("sgd", {"rate": float("inf")}, "rate is inf: sgd needs"),
        ("sgd", {"rate": "0.1"}, "rate is '0.1': sgd needs"),
        ("sgd", {"momentum": 0.9}, "sgd has no option momentum: it takes rate"),
        ("momentum", {"momentum": 1.0}, "momentum is 1.0: momentum needs a number from 0 to below 1"),
        ("rmsprop", {"rho": -0.1}, "rho is -0.1: rmsprop needs a number from 0 to below 1"),
        ("adam", {"beta_2": 1}, "beta_2 is 1: adam needs a number from 0 to below 1"),
        ("adam", {"epsilon": 0.0}, "epsilon is 0.0: adam needs a number above 0"),
        ("adamw", {"weight_decay": -1}, "weight_decay is -1: adamw needs a number of 0 or more"),
        ("adam", {"learning_rate": 0.1}, "adam has no option learning_rate: it takes rate, beta_1, beta_2, epsilon"),
        ("sgd", {"rate": lambda step: 0.1 - step}, "a rate of -0.9 at step 1: it must be a number of 0 or more"),
    ],
)
def test_walk_says_what_it_cannot_take(rule, options, message):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        optimizers.walk(rule, np.ones_like, ONES, **{"steps": 3, **options})
    assert message in str(told.value)


def test_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\) where the weights have \(1,\)"):
        optimizers.walk("sgd", lambda w: np.ones(2), ONES, steps=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.quadratic(condition=0.5), "condition is 0.5: .* 1 or more"),
        (lambda: optimizers.regression_gradient(X, Y[:2]), r"received \(3, 2\), \(2,\)"),
        (lambda: optimizers.regression_gradient(X[:0], Y[:0]), "n of at least 1"),
        (lambda: optimizers.regression_gradient(X, Y, batch_size=0), "batch_size is 0: .* from 1 to the 3 rows"),
        (lambda: optimizers.regression_gradient(X, Y, batch_size=4), "batch_size is 4"),
        (lambda: optimizers.clip_by_value([ONES], limit=0), "limit is 0: .* above 0"),
        (lambda: optimizers.clip_by_norm([ONES], limit=-1.0), "limit is -1.0: .* above 0"),
        (lambda: optimizers.clip_by_global_norm([ONES], limit=float("nan")), "limit is nan: .* above 0"),
    ],
)
def test_bad_numbers_are_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
