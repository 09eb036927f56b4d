"""A model behind KServe's Python SDK as its documentation has one write it: no batches, no versions."""

import argparse
import json
import logging

import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse

from helpers import classifier

parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
parser.add_argument("--model", required=True)


class Wardrobe(kserve.Model):
    def __init__(self, path: str) -> None:
        super().__init__("wardrobe")
        self.classifier = classifier.load(path, threads=1)
        self.ready = True

    def predict(self, payload: dict | InferRequest, headers: dict | None = None, response_headers=None) -> object:
        if isinstance(payload, dict):
            answers = self.classifier.answer(np.array(payload["instances"], np.uint8))
            spread = answers.probabilities.tolist()
            rows = zip(answers.labels.tolist(), spread, strict=True)
            return {"predictions": [{"label": label, "probabilities": row} for label, row in rows]}
        answers = self.classifier.answer(payload.inputs[0].as_numpy())
        label = InferOutput("label", [len(answers.labels)], "BYTES", data=answers.labels.tolist())
        spread = InferOutput("probabilities", list(answers.probabilities.shape), "FP32")
        spread.set_data_from_numpy(answers.probabilities, binary_data=False)
        return InferResponse(payload.id or "", self.name, [label, spread])


if __name__ == "__main__":
    options = parser.parse_args()
    print(json.dumps({"model": options.model}), flush=True)
    server = kserve.ModelServer()
    for name in ("kserve.trace", "uvicorn.access"):  # several lines a request, which take longer than the model
        logging.getLogger(name).setLevel(logging.ERROR)
    server.start([Wardrobe(options.model)])
