"""The classic CNN in plain PyTorch: channels last, float32, all pictures in memory as tensors."""

import _task
import numpy as np
import torch
from torch import nn

task = _task.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)


def tensor(pictures: np.ndarray) -> torch.Tensor:
    scaled = torch.from_numpy(pictures.astype("float32") / 255).permute(0, 3, 1, 2)
    return scaled.contiguous(memory_format=torch.channels_last)


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
).to(memory_format=torch.channels_last)  # fmt: skip
steps = -(-len(images) // task.batch) * task.epochs
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=steps)
x, y, criterion = tensor(images), torch.from_numpy(labels), nn.CrossEntropyLoss()


def train_one_epoch():
    model.train()
    for rows in torch.randperm(len(x)).split(task.batch):
        optimizer.zero_grad()
        criterion(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()


speed = _task.timed(train_one_epoch, task.epochs, len(images))
model.eval()
with torch.inference_mode():
    predictions = torch.cat([model(part).argmax(1) for part in tensor(test_images).split(500)]).numpy()
_task.report(pictures_per_second=speed, accuracy=np.mean(predictions == test_labels))
