"""The classic CNN over several seeds: one model restarted, a new model each time, and the bare training steps."""

import time

import _task
import keras

from helpers import devices, models, training

SEEDS, EPOCHS = 5, 5

task = _task.arguments()
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
steps = seconds(lambda: fit(model, SEEDS * EPOCHS))
_task.report(steps=steps, restarted=seconds(restarted), new=seconds(new_each_time))
