"""The classic CNN as notebook 03 trains it."""

from itertools import count

import _task
import keras
import numpy as np

from helpers import devices, models, training

task = _task.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

machine = devices.setup()
keras.utils.set_random_seed(0)
model = models.classic_cnn(images.shape[1:], 10)
rate = training.OneCycle(0.004, steps=training.steps(len(images), batch_size=task.batch, epochs=task.epochs))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **machine.compile_options)
epochs = count()  # each has an order of its own, as in one long `fit`


def train_one_epoch():
    training.fit(model, (images, labels), epochs=1, batch_size=task.batch, seed=next(epochs), verbose=False)


speed = _task.timed(train_one_epoch, task.epochs, len(images))
accuracy = np.mean(training.logits(model, test_images).argmax(axis=1) == test_labels)
_task.report(pictures_per_second=speed, accuracy=accuracy)
