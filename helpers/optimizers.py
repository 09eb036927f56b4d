"""Update rules in NumPy, to read and to compare with Keras; surfaces to walk on; gradient clipping.

Each rule is its formula, with the defaults of the Keras optimizer of the same name; `Rule` says what all of them
take. `walk` repeats one of them and checks its options: the rules themselves check nothing.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator
from numbers import Real
from typing import NamedTuple, Protocol

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]


class Rule(Protocol):
    """One step of an optimizer.

    Args:
        w: The weights, a float64 array of any shape. They are not changed.
        g: The gradient of the loss at `w`, shaped like it.
        state: What the rule remembers, by the letters of its formula: empty before the first step, changed by each.
        options: `rate` and what else the rule takes, all by name.

    Returns:
        The new weights, shaped like `w`.
    """

    def __call__(self, w: Array, g: Array, state: dict, **options: float) -> Array: ...


def sgd(w: Array, g: Array, state: dict, *, rate=0.01) -> Array:
    """Steps against the gradient: gradient descent, and stochastic where `g` comes from a mini-batch.

    >>> sgd(np.array([1.0]), np.array([2.0]), {}, rate=0.1)
    array([0.8])

    Reference:
        Robbins and Monro, 1951, https://doi.org/10.1214/aoms/1177729586
    """
    return w - rate * g


def momentum(w: Array, g: Array, state: dict, *, rate=0.01, momentum=0.9) -> Array:
    """Rolls on: across a ravine the gradients cancel, along it they add up to `1 / (1 - momentum)` of one.

    `v` holds the minus and the rate, so it is added; a second minus would climb.

    >>> momentum(np.array([1.0]), np.array([2.0]), {"v": np.array([-1.0])}, rate=0.1, momentum=0.5)
    array([0.3])

    Reference:
        Sutskever et al., 2013, equations 1 and 2, https://proceedings.mlr.press/v28/sutskever13.html
    """
    v = state["v"] = momentum * state.get("v", 0) - rate * g
    return w + v


def nesterov(w: Array, g: Array, state: dict, *, rate=0.01, momentum=0.9) -> Array:
    """Momentum that looks ahead, and so brakes before the far wall of the ravine.

    Nesterov takes the gradient at `w + momentum * v`; Bengio et al. call that point `w`, and so does Keras.

    >>> nesterov(np.array([1.0]), np.array([2.0]), {"v": np.array([-1.0])}, rate=0.1, momentum=0.5)
    array([0.45])

    Reference:
        Bengio et al., 2012, section 3.5, https://arxiv.org/abs/1212.0901
    """
    v = state["v"] = momentum * state.get("v", 0) - rate * g
    return w + momentum * v - rate * g


def adagrad(w: Array, g: Array, state: dict, *, rate=0.001, accumulator=0.1, epsilon=1e-7) -> Array:
    """Gives each weight a rate of its own, which only ever falls; for rare features.

    The paper's sum starts at 0 and its epsilon stands outside the root; Keras starts at 0.1
    (`initial_accumulator_value`) and adds epsilon inside.

    >>> adagrad(np.zeros(2), np.array([3.0, 0.3]), {}, rate=0.1, accumulator=0.0).round(4)
    array([-0.1, -0.1])

    Reference:
        Duchi et al., 2011, figure 1 with diagonal matrices, https://jmlr.org/papers/v12/duchi11a.html
    """
    s = state["s"] = state.get("s", accumulator) + g**2
    return w - rate * g / np.sqrt(s + epsilon)


def rmsprop(w: Array, g: Array, state: dict, *, rate=0.001, rho=0.9, epsilon=1e-7) -> Array:
    """AdaGrad that forgets: a mean of the latest squared gradients in place of the sum of all.

    Hinton's slide has no epsilon; Keras adds it inside the root, as Graves does.

    >>> rmsprop(np.zeros(1), np.array([2.0]), {}, rate=0.1, rho=0.75).round(4)
    array([-0.2])

    Reference:
        Tieleman and Hinton, 2012, slide 29, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf;
        Graves, 2013, equations 38 to 41, https://arxiv.org/abs/1308.0850
    """
    s = state["s"] = rho * state.get("s", 0) + (1 - rho) * g**2
    return w - rate * g / np.sqrt(s + epsilon)


def adam(w: Array, g: Array, state: dict, *, rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7) -> Array:
    """Momentum over RMSprop, both corrected for their start at 0; what to try first.

    Keras takes the paper's second form, with the correction in the rate: its epsilon counts
    `1 / sqrt(1 - beta_2**t)` times as much as in algorithm 1 (32 times at the first step).

    >>> adam(np.zeros(2), np.array([5.0, -0.5]), {}, rate=0.1).round(4)  # first step: rate * sign(g)
    array([-0.1,  0.1])

    Reference:
        Kingma and Ba, 2015, the last formula before section 2.1, https://arxiv.org/abs/1412.6980
    """
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = beta_1 * state.get("m", 0) + (1 - beta_1) * g
    s = state["s"] = beta_2 * state.get("s", 0) + (1 - beta_2) * g**2
    alpha = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return w - alpha * m / (np.sqrt(s) + epsilon)


def adamw(
    w: Array, g: Array, state: dict, *, rate=0.001, weight_decay=0.004, beta_1=0.9, beta_2=0.999, epsilon=1e-7
) -> Array:
    """Adam on weights that shrink a little before each step, untouched by `m` and `s`.

    In the paper the decay follows the schedule alone; Keras multiplies it by the whole rate.

    >>> adamw(np.array([2.0]), np.array([1.0]), {}, rate=0.5, weight_decay=0.1).round(4)  # 2 * 0.95 - 0.5
    array([1.4])

    Reference:
        Loshchilov and Hutter, 2019, algorithm 2, line 12, https://arxiv.org/abs/1711.05101
    """
    w = w - rate * weight_decay * w
    return adam(w, g, state, rate=rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def lion(w: Array, g: Array, state: dict, *, rate=0.001, weight_decay=0.0, beta_1=0.9, beta_2=0.99) -> Array:
    """Takes a step of the same length in every weight, up or down; wants a third to a tenth of Adam's rate.

    >>> lion(np.zeros(3), np.array([7.0, -0.1, 0.0]), {}, rate=0.1)
    array([-0.1,  0.1,  0. ])

    Reference:
        Chen et al., 2023, algorithm 2, https://arxiv.org/abs/2302.06675
    """
    m = state.get("m", 0)
    state["m"] = beta_2 * m + (1 - beta_2) * g
    return w - rate * (np.sign(beta_1 * m + (1 - beta_1) * g) + weight_decay * w)


def muon(
    w: Array, g: Array, state: dict, *, rate=0.001, weight_decay=0.004, momentum=0.95, nesterov=True, rms_rate=0.2
) -> Array:
    """Momentum with all its singular values moved near 1; for the matrices inside a network.

    What is not a matrix takes a step of AdamW. Jordan scales the step by the root of outputs over inputs where there
    are more of them, Keras as Liu et al. do, so that Adam's rates fit. To walk a surface, start with shape (1, 2).

    >>> muon(np.zeros((2, 2)), np.diag([5.0, 0.5]), {}, rate=0.1).round(3)
    array([[-0.02,  0.  ],
           [ 0.  , -0.02]])

    Reference:
        Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/;
        Liu et al., 2025, equation 4, https://arxiv.org/abs/2502.16982
    """
    if w.ndim != 2:
        return adamw(w, g, state, rate=rate, weight_decay=weight_decay)
    m = state["m"] = momentum * state.get("m", 0) + g
    update = newton_schulz(g + momentum * m if nesterov else m)
    return w - rate * (rms_rate * np.sqrt(max(w.shape)) * update + weight_decay * w)


def newton_schulz(x: Array, *, steps: int = 5) -> Array:
    """Moves the singular values of a matrix near 1 without computing them; for Muon.

    Args:
        x: Shape (rows, columns).
        steps: How often to apply the polynomial. It does not converge: it is steep at 0 and then stays about 1.

    Returns:
        A matrix with the singular vectors of `x`. A singular value of at least 0.01 of its Frobenius norm ends
        between 0.68 and 1.14.

    Example:

    >>> newton_schulz(np.diag([3.0, 0.1])).round(2)
    array([[0.7 , 0.  ],
           [0.  , 1.13]])

    Reference:
        Jordan et al., 2024, section "Definition", https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, lion, muon)
}

_RANGES = {
    **dict.fromkeys(("rate", "epsilon", "rms_rate"), (lambda value: value > 0, "above 0")),
    **dict.fromkeys(("weight_decay", "accumulator"), (lambda value: value >= 0, "of 0 or more")),
    **dict.fromkeys(("momentum", "beta_1", "beta_2", "rho"), (lambda value: 0 <= value < 1, "from 0 to below 1")),
}


def walk(rule: str | Rule, gradient: Function, start: Array, *, steps: int, **options: float) -> Array:
    """Repeats an update rule and returns the way it went.

    Args:
        rule: A name in `RULES`, or a function like them.
        gradient: Takes the weights, returns the gradient there; called once a step.
        start: The first weights, of any shape.
        steps: How many steps to take.
        options: What the rule takes by name. `rate` may be a schedule, too: a function of the step, from 0, such
            as those of `keras.optimizers.schedules`; it may reach 0.

    Returns:
        float64, shape (steps + 1, *shape of start). A walk that diverges ends at its last finite weights; the rows
        after them are NaN, so `np.isfinite(path).all()` says whether it stayed.

    Raises:
        ValueError: If there is no such rule or option, a value is out of range, or the gradient has another shape.

    Example:

    >>> walk("sgd", lambda w: w, [8.0], steps=3, rate=0.5).ravel()
    array([8., 4., 2., 1.])
    """
    rule, options = _checked(rule, steps, options)
    schedule = options.get("rate")
    w, state = np.array(start, np.float64), {}
    path = np.full((steps + 1, *w.shape), np.nan)
    path[0] = w
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(steps):
            if callable(schedule):
                options["rate"] = _rate(schedule, step)
            g = np.asarray(gradient(w), np.float64)
            if g.shape != w.shape:
                raise ValueError(f"The gradient has shape {g.shape} where the weights have {w.shape}: make them equal.")
            w = rule(w, g, state, **options)
            if not np.isfinite(w).all():
                break
            path[step + 1] = w
    return path


def _checked(rule: str | Rule, steps: int, options: dict) -> tuple[Rule, dict]:
    if isinstance(rule, str):
        if rule not in RULES:
            close = difflib.get_close_matches(rule.lower(), RULES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(RULES)}."
            raise ValueError(f"There is no update rule {rule!r}: {hint}")
        rule = RULES[rule]
    if steps < 1:
        raise ValueError(f"steps is {steps}: a walk takes at least 1.")
    known = list(inspect.signature(rule).parameters)[3:]
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{rule.__name__} has no option {name}: it takes {', '.join(known)}.")
        if name not in _RANGES or (name == "rate" and callable(value)):
            continue
        holds, words = _RANGES[name]
        if not (isinstance(value, Real) and np.isfinite(value) and holds(value)):
            raise ValueError(f"{name} is {value!r}: {rule.__name__} needs a number {words}.")
    return rule, dict(options)


def _rate(schedule: Callable[[int], float], step: int) -> float:
    rate = float(schedule(step))
    if not (np.isfinite(rate) and rate >= 0):
        raise ValueError(f"The schedule gives a rate of {rate} at step {step}: it must be a number of 0 or more.")
    return rate


class Surface(NamedTuple):
    """A function of two numbers to walk on.

    Attributes:
        value: Takes points of shape (..., 2), returns values of shape (...): a whole grid at once for contours.
        gradient: Takes points of shape (..., 2), returns gradients of the same shape.
        minimum: The lowest point, shape (2,).
        start: A point from which the way there is worth watching, shape (2,).
    """

    value: Function
    gradient: Function
    minimum: Array
    start: Array


def quadratic(*, condition: float = 25.0, angle: float = 0.0) -> Surface:
    """Returns a straight ravine: half of `u**2 + condition * v**2`, with u along it and v across.

    Args:
        condition: How much steeper it is across; the largest eigenvalue of its Hessian (the smallest is 1), so
            gradient descent converges if and only if its rate is below `2 / condition`.
        angle: Degrees between the ravine and the first axis. Rules with a rate for each weight, such as Adam,
            straighten a ravine along an axis, and only such a one.

    Example:

    >>> quadratic(condition=4.0).gradient(np.array([1.0, 1.0]))
    array([1., 4.])
    """
    if not condition >= 1:
        raise ValueError(f"condition is {condition}: the steeper side over the flatter one, 1 or more.")
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    hessian = turn @ np.diag([1.0, condition]) @ turn.T
    return Surface(
        value=lambda w: 0.5 * np.sum(w @ hessian * w, axis=-1),
        gradient=lambda w: w @ hessian,
        minimum=np.zeros(2),
        start=turn @ np.array([-8.0, 1.0]),
    )


def rosenbrock() -> Surface:
    """Returns a bent ravine with a nearly flat floor: `(1 - x)**2 + 100 * (y - x**2)**2`.

    Example:

    >>> rosenbrock().value(np.array([[1.0, 1.0], [0.0, 1.0]]))
    array([  0., 101.])

    Reference:
        Rosenbrock, 1960, https://doi.org/10.1093/comjnl/3.3.175
    """

    def value(w: Array) -> Array:
        x, y = np.moveaxis(np.asarray(w), -1, 0)
        return (1 - x) ** 2 + 100.0 * (y - x**2) ** 2

    def gradient(w: Array) -> Array:
        x, y = np.moveaxis(np.asarray(w), -1, 0)
        return np.stack([-2 * (1 - x) - 400.0 * x * (y - x**2), 200.0 * (y - x**2)], axis=-1)

    return Surface(value, gradient, minimum=np.ones(2), start=np.array([-1.2, 1.0]))


def walks(rule: str | Rule, surface: Surface, *, rates: Array, steps: int, **options: float) -> Array:
    """Walks a surface from its start once with each of several rates, so that none suffers from a bad one.

    Args:
        rule: As in `walk`.
        surface: What to walk on.
        rates: Shape (n,).
        steps: How many steps to take.
        options: What else the rule takes.

    Returns:
        float64, shape (n, steps + 1, 2); NaN after a divergence.
    """
    start = surface.start[np.newaxis]  # one row, because Muon wants a matrix
    return np.stack([walk(rule, surface.gradient, start, steps=steps, rate=r, **options)[:, 0] for r in rates])


def regression_gradient(x: Array, y: Array, *, batch_size: int | None = None, seed: int = 0) -> Function:
    """Returns the gradient of a linear regression's mean squared error on one batch after the other.

    Args:
        x: Features, shape (n, features); a column of ones is the intercept.
        y: Targets, shape (n,).
        batch_size: Rows in a batch: 1 for stochastic gradient descent, all of them if not given. The last batch
            of an epoch holds what is left.
        seed: Seed of the order, drawn anew for each epoch.

    Returns:
        A function for `walk`: takes weights of shape (features,), returns the gradient on the next batch there.

    Example:

    >>> gradient = regression_gradient(np.array([[1.0], [3.0]]), np.array([2.0, 6.0]))
    >>> gradient(np.array([0.0]))  # the mean of 2 * 1 * (0 - 2) and 2 * 3 * (0 - 6)
    array([-20.])
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or len(y) == 0:
        raise ValueError(f"x has shape (n, features) and y (n,), with n of at least 1; received {x.shape}, {y.shape}.")
    size = len(y) if batch_size is None else batch_size
    if not 1 <= size <= len(y):
        raise ValueError(f"batch_size is {size}: it must be from 1 to the {len(y)} rows there are.")
    batches = _batches(len(y), size, np.random.default_rng(seed))

    def gradient(w: Array) -> Array:
        rows = next(batches)
        return 2 * x[rows].T @ (x[rows] @ w - y[rows]) / len(rows)

    return gradient


def _batches(count: int, size: int, random: np.random.Generator) -> Iterator[Array]:
    while True:
        order = random.permutation(count)
        yield from (order[start : start + size] for start in range(0, count, size))


def clip_by_value(gradients: list[Array], *, limit: float) -> list[Array]:
    """Cuts each number off at `limit` and `-limit` (Keras: `clipvalue`); this changes the direction.

    >>> clip_by_value([np.array([3.0, -0.5])], limit=1.0)
    [array([ 1. , -0.5])]
    """
    _check_limit(limit)
    return [np.clip(g, -limit, limit) for g in gradients]


def clip_by_norm(gradients: list[Array], *, limit: float) -> list[Array]:
    """Shortens each array that is longer than `limit` (Keras: `clipnorm`); each keeps its direction.

    >>> clip_by_norm([np.array([3.0, 4.0]), np.array([0.5])], limit=1.0)
    [array([0.6, 0.8]), array([0.5])]
    """
    _check_limit(limit)
    return [g * (limit / np.maximum(np.linalg.norm(g), limit)) for g in gradients]


def clip_by_global_norm(gradients: list[Array], *, limit: float) -> list[Array]:
    """Shortens all arrays by one factor if together they are longer than `limit` (Keras: `global_clipnorm`).

    So the step keeps its direction. If one number is not finite, all become NaN: no half of a broken step is taken.

    >>> clip_by_global_norm([np.array([3.0]), np.array([4.0])], limit=1.0)
    [array([0.6]), array([0.8])]

    Reference:
        Pascanu et al., 2013, algorithm 1, https://arxiv.org/abs/1211.5063
    """
    _check_limit(limit)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
    scale = limit / np.maximum(norm, limit) if np.isfinite(norm) else np.nan
    return [g * scale for g in gradients]


def _check_limit(limit: float) -> None:
    if not limit > 0:
        raise ValueError(f"limit is {limit}: gradients are clipped to a size above 0, such as 1.0.")
