"""Our input pipeline: pictures collected once into a memory map, and augmented batches of it in every epoch."""

import statistics
import time

import _pictures
import _task
import keras
import numpy as np

from benchmarks import arithmetic
from helpers import devices, models, preprocessing, sources, training

task = _pictures.arguments()
side, channels, shift, batch = _pictures.KINDS[task.kind]
jitter = preprocessing.Jitter(shift=shift, flip=True)
figures = {"bandwidth": arithmetic.copy_bandwidth()}


def collected():
    """Decodes all files of the folder into one memory map, as notebook 01 does."""
    found = sources.collect(str(task.folder / "jpeg"), size=(side, side), channels=channels)
    return found.images, np.searchsorted(found.classes, found.labels)


def speed_of_training():
    machine = devices.setup()
    model = models.classic_cnn(images.shape[1:], 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], **machine.compile_options)

    def train_one_epoch():
        training.fit(model, (images, labels), epochs=1, batch_size=batch, augment=jitter, verbose=False)

    return _task.timed(train_one_epoch, 4, len(images))


if task.kind == "grey":
    images, labels = _pictures.mapped(task.folder)
else:
    taken = []
    for _ in range(task.passes + 1):  # the first is not timed
        begun = time.perf_counter()
        images, labels = collected()
        taken.append(time.perf_counter() - begun)
    figures["collected"] = len(images) / statistics.median(taken[1:])
batches = preprocessing.batches(images, labels, batch_size=batch, shuffle=True, augment=jitter)
figures |= _pictures.speed(lambda: (batches[i] for i in range(len(batches))), task.passes)
figures |= _pictures.differences(task.folder, task.kind, images)
if task.kind == "grey":
    figures["training"] = speed_of_training()
else:
    figures["first_epoch"] = 1 / (1 / figures["collected"] + 1 / figures["pictures_per_second"])
_task.report(**figures)
