"""The classic CNN as Keras's own documentation writes it: every setting at its default, or all but the batch size."""

import _task
import keras
import numpy as np

task = _task.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)
images, test_images = (part.astype("float32") / 255 for part in (images, test_images))

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input(images.shape[1:]),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
batch = task.batch if task.same_batch else None
speed = _task.timed(lambda: model.fit(images, labels, batch_size=batch, verbose=0), task.epochs, len(images))
accuracy = np.mean(model.predict(test_images, verbose=0).argmax(axis=1) == test_labels)
_task.report(pictures_per_second=speed, accuracy=accuracy)
