"""Augmented batches from a memory map: read by nobody but a counter, then by training."""

import statistics
import tempfile
from pathlib import Path

import _task
import keras
import numpy as np

from helpers import devices, models, preprocessing, training

task = _task.arguments()
images, labels, _, _ = _task.arrays(task.data)
machine = devices.setup()
keras.utils.set_random_seed(0)
model = models.classic_cnn(images.shape[1:], 10)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], **machine.compile_options)
jitter = preprocessing.Jitter(shift=2, flip=True)

with tempfile.TemporaryDirectory() as folder:
    np.save(Path(folder) / "images.npy", images)
    mapped = np.load(Path(folder) / "images.npy", mmap_mode="r")
    batches = preprocessing.batches(mapped, labels, batch_size=task.batch, shuffle=True, augment=jitter)
    alone = statistics.median(
        preprocessing.pictures_per_second(batches[i] for i in range(len(batches))) for _ in range(3)
    )

    def train_one_epoch():
        training.fit(model, (mapped, labels), epochs=1, batch_size=task.batch, augment=jitter, verbose=False)

    speed = _task.timed(train_one_epoch, task.epochs, len(images))
_task.report(alone=alone, training=speed)
