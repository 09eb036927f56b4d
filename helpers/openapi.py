"""The server's description of itself in OpenAPI: what it answers for the models that are live, and nothing else."""

from helpers.classifier import Classifier
from helpers.protocols import INPUT, Limits

_TEXT = {"type": "string"}
_ERROR = {
    "description": "What came in, what is expected, how to mend it: one sentence.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A registered version, live or not.",
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
}


def describe(models: list[Classifier], limits: Limits, *, key: bool) -> dict:
    """Returns an OpenAPI 3.1 document.

    Args:
        models: The live versions; each has its own addresses, with the shapes and classes that it has.
        limits: How much of a client is put up with.
        key: Whether clients have to show one.
    """
    paths = {
        "/": _get("Does the process live?", _object(status=_TEXT)),
        "/metrics": {"get": {"summary": "Metrics for Prometheus.", "responses": {
            "200": {"description": "Of all workers.", "content": {"text/plain": {"schema": _TEXT}}}, "4XX": _ERROR}}},
        "/openapi.json": _get("This document.", {"type": "object"}),
        "/v1/models": _get("Which models are live?", _object(models=_list(_TEXT))),
        "/v2": _get("Which server is this?", _object(name=_TEXT, version=_TEXT, extensions=_list(_TEXT))),
        "/v2/health/live": _get("Does the process live?", _object(live={"type": "boolean"}), guarded=False),
        "/v2/health/ready": _get("Is there a model that answers?", _object(ready={"const": True}), guarded=False),
        "/v2/models": _get("Which models are live?", _object(models=_list(_TEXT))),
    }  # fmt: skip
    paths["/v2/health/ready"]["get"]["responses"]["503"] = _good("None.", _object(ready={"const": False}))
    for model in models:
        for version in (False, True):
            paths |= _of_model(model, limits, version)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Workbook", "version": "2", "description": "TensorFlow Serving's REST and the Open "
                 f"Inference Protocol V2. A request has at most {limits.body} bytes. Picture files (in base64), binary "
                 "tensors of V2 and gRPC are understood as well, and are not part of this document."},
        "paths": paths,
        "components": {"schemas": {"Error": _object(error={"type": "string", "minLength": 1})}},
    }  # fmt: skip
    if key:
        schemes = {"bearer": {"type": "http", "scheme": "bearer"},
                   "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}  # fmt: skip
        document["components"]["securitySchemes"] = schemes
        document["security"] = [{name: []} for name in schemes]
    return document


def _of_model(model: Classifier, limits: Limits, version: bool) -> dict:
    where = f"{model.name}/versions/{{version}}" if version else model.name
    labels = {"enum": model.classes} if not version else _TEXT  # another version may have other classes
    shape = model.predictor.input_shape
    picture = {"type": "integer", "minimum": 0, "maximum": 255}
    for side in reversed(shape):
        picture = {"type": "array", "items": picture, "minItems": side, "maxItems": side}
    instances = {"type": "array", "items": picture, "minItems": 1, "maxItems": limits.pictures}
    row = _object(label=labels, probability={"type": "number"}, probabilities=_list({"type": "number"}))
    predicted = _object(predictions=_list(row, minItems=1), model_version=_TEXT)
    tensors = {"name": {"const": INPUT}, "datatype": {"const": "UINT8"},
               "shape": _list({"type": "integer", "minimum": 1}, minItems=len(shape), maxItems=len(shape) + 1),
               "data": _list({"type": ["integer", "array"]}, minItems=1)}  # fmt: skip
    asked = {"type": "object", "required": ["inputs"], "properties": {
        "id": _TEXT, "inputs": _list(_object(**tensors), minItems=1, maxItems=1), "parameters": {"type": "object"},
        "outputs": _list({"type": "object", "required": ["name"], "properties": {
            "name": {"enum": ["label", "probabilities"]}, "parameters": {"type": "object"}}})}}  # fmt: skip
    tensor = {"type": "object", "required": ["name", "datatype", "shape"]}
    told = _object(model_name={"const": model.name}, model_version=_TEXT, id=_TEXT, outputs=_list(tensor, minItems=1))
    described = _object(name={"const": model.name}, versions=_list(_TEXT), platform=_TEXT, classes=_list(_TEXT),
                        inputs=_list(tensor), outputs=_list(tensor))  # fmt: skip
    return {
        path: content | ({"parameters": [_VERSION]} if version else {})
        for path, content in {
            f"/v1/models/{where}:predict": _post("Classify pictures.", _object(instances=instances), predicted),
            f"/v1/models/{where}": _get("Is it there?", {"type": "object", "required": ["model_version_status"]}),
            f"/v1/models/{where}/metadata": _get("What does it take?", {"type": "object", "required": ["metadata"]}),
            f"/v2/models/{where}/infer": _post("Classify pictures.", asked, told),
            f"/v2/models/{where}": _get("What does it take and give?", described),
            f"/v2/models/{where}/ready": _get("Is it there?", _object(name=_TEXT, ready={"const": True})),
        }.items()
    }


def _get(summary: str, schema: dict, *, guarded: bool = True) -> dict:
    found = {"summary": summary, "responses": _responses(schema)}
    return {"get": found if guarded else found | {"security": []}}


def _post(summary: str, asked: dict, told: dict) -> dict:
    content = {"required": True, "content": {"application/json": {"schema": asked}}}
    return {"post": {"summary": summary, "requestBody": content, "responses": _responses(told)}}


def _responses(schema: dict) -> dict:
    return {"200": _good("As asked.", schema), "4XX": _ERROR, "503": _ERROR, "504": _ERROR}


def _good(description: str, schema: dict) -> dict:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: dict) -> dict:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict, **more: int) -> dict:
    return {"type": "array", "items": items, **more}
