"""A network as Keras's own documentation trains it, arrays into `fit`; on JAX if KERAS_BACKEND says so."""

import _recipe
import _task
import keras
import numpy as np

from helpers import models, training

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

keras.utils.set_random_seed(task.seed)
model = getattr(models, task.network)(images.shape[1:], 10)
rate = training.OneCycle(
    _recipe.PEAK[task.network], steps=training.steps(len(images), batch_size=task.batch, epochs=task.epochs)
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam" if task.defaults else keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
batch = None if task.defaults else task.batch
speed = _task.timed(lambda: model.fit(images, labels, batch_size=batch, verbose=0), task.epochs, len(images))
accuracy = np.mean(model.predict(test_images, verbose=0).argmax(axis=1) == test_labels)
weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
_task.report(pictures_per_second=speed, accuracy=accuracy, weights=weights)
