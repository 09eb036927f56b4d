"""The classic recipe in plain PyTorch: the classic CNN, Adam with a rate of 0.001, batches of 32."""

import _race
import _recipe
import _task
import _twins
import torch

task = _recipe.arguments()
images, labels, test_images, test_labels = _task.arrays(task.data)

torch.manual_seed(task.seed)
model = _twins.build("classic_cnn")
optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7)
x, y, criterion = _twins.tensor(images), torch.from_numpy(labels), torch.nn.CrossEntropyLoss()
test = _twins.tensor(test_images)

race = _race.Race(task.targets)
for _ in range(task.epochs):
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        criterion(model(x[rows]), y[rows]).backward()
        optimizer.step()
    if race.end_epoch(lambda: _twins.accuracy(model, test, test_labels)):
        break
_task.report(**race.figures())
