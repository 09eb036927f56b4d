"""The classic CNN over several seeds: one model restarted, a new model each time, and the bare training steps."""

import argparse
import time

import _task
import keras

from helpers import devices, models, training

SEEDS, EPOCHS = 5, 5

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True, help=".npz, see _task")
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--turn", type=int, required=True, help="number of the round: each begins with another one")
task = parser.parse_args()
images, labels, _, _ = _task.arrays(task.data)
machine = devices.setup()


def compiled():
    model = models.classic_cnn(images.shape[1:], 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], **machine.compile_options)
    return model


def fit(model, epochs):
    training.fit(model, (images, labels), epochs=epochs, batch_size=task.batch, verbose=False)


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def restarted():
    for seed in range(SEEDS):
        fit(training.restart(model, seed=seed), EPOCHS)


def new_each_time():
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        fit(compiled(), EPOCHS)


model = compiled()
fit(model, 1)  # from here on its graph is there
ways = {"steps": lambda: fit(model, SEEDS * EPOCHS), "restarted": restarted, "new": new_each_time}
first = task.turn % len(ways)
_task.report(**{name: seconds(ways[name]) for name in [*ways, *ways][first : first + len(ways)]})
