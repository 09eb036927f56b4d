"""A network in plain PyTorch: channels last, all pictures in memory as float32 tensors, float32 or bf16 autocast."""

import _recipe
import _task
import _twins
import torch

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

torch.manual_seed(task.seed)
model = _twins.build(task.network)
optimizer = torch.optim.Adam(model.parameters(), _recipe.PEAK[task.network], eps=1e-7)
steps = -(-len(images) // task.batch) * task.epochs
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _recipe.share_of_peak(step, steps))
x, y, criterion = _twins.tensor(images), torch.from_numpy(labels), torch.nn.CrossEntropyLoss()


def train_one_epoch():
    for rows in torch.randperm(len(x)).split(task.batch):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=task.autocast):
            loss = criterion(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        schedule.step()


speed = _task.timed(train_one_epoch, task.epochs, len(images))
accuracy = _twins.accuracy(model, _twins.tensor(test_images), test_labels)
_task.report(pictures_per_second=speed, accuracy=accuracy, weights=_twins.weights(model))
