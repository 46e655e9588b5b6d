"""The Open Inference Protocol (KServe V2, REST): its messages, and its tensors as bytes and arrays.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import base64
import binascii
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.imaging import UInt8Array
from model_store.runtime import Scores
from service import errors
from service.schemas import Latency, OnMiss

MAX_BATCH = 8
VERSION = "1"  # of every model: the folder of the store that holds it
PLATFORM = "onnxruntime_onnx"
INPUT, OUTPUT = "image", "scores"
# Parsing holds the interpreter, so no more values than the largest batch has (and a little around it).
_MAX_VALUES = MAX_BATCH * 224 * 224 * 3 + 1000
_MAX_OBJECTS = 100  # of JSON, each of which takes hundreds of bytes for three
_ENCODED_SHAPES = ([1], [1, 1])  # clients write a list of one string either way


class InputTensor(BaseModel):
    """`data` is row-major, flat or nested; of BYTES, base64 text. Input parameters have no effect."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["image"]
    shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=4)
    datatype: Literal["BYTES", "UINT8"]
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any]


class OutputParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    binary_data: Literal[False] = Field(False, description="The binary tensor extension is not served.")


class RequestedOutput(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal["scores"]
    parameters: OutputParameters = Field(default_factory=OutputParameters)


class InferParameters(BaseModel):
    """As the query parameters of `POST /v1/classify`."""

    model_config = ConfigDict(extra="forbid")

    latency_budget_ms: Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)] | None = None
    tier: str | None = None
    on_miss: OnMiss = "best_effort"


class InferRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    parameters: InferParameters = Field(default_factory=InferParameters)
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = None


class OutputTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferResponse(BaseModel):
    """`parameters`: the variant, the decision, and the times of `ClassifyResponse.latency`."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | bool | int | float]
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """-1 in `shape` is a size that the request chooses."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | int] | None = None


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    name: str
    ready: bool


def parse(body: bytes) -> InferRequest:
    """Raises MalformedRequest for what is no JSON, InvalidParameter for what the protocol forbids."""
    if body.count(b",") > _MAX_VALUES:
        raise errors.InvalidParameter(
            "inputs", f"the body has more values than {MAX_BATCH} pictures; send fewer"
        )
    if body.count(b"{") > _MAX_OBJECTS:
        raise errors.InvalidParameter("inputs", f"the body has more than {_MAX_OBJECTS} objects")
    try:
        return InferRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise errors.MalformedRequest("the body is not JSON") from None
        place = ".".join(map(str, first["loc"])) or "body"
        raise errors.InvalidParameter(place, f"{place}: {first['msg']}") from None


def encoded_picture(tensor: InputTensor) -> bytes:
    """The bytes of the one picture in a tensor of BYTES."""
    data = tensor.data
    while len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if tensor.shape not in _ENCODED_SHAPES or len(data) != 1 or not isinstance(data[0], str):
        raise errors.InvalidParameter(INPUT, "BYTES need shape [1] and one base64 string in data")
    try:
        return base64.b64decode(data[0], validate=True)
    except (binascii.Error, ValueError):
        raise errors.InvalidParameter(INPUT, "the string in data is not base64") from None


def check_shape(tensor: InputTensor, resolution: int) -> None:
    """Raises InvalidParameter unless it is [N, resolution, resolution, 3] with N at most `MAX_BATCH`."""
    batch, *picture = tensor.shape
    if batch > MAX_BATCH or picture != [resolution, resolution, 3]:
        raise errors.InvalidParameter(
            INPUT,
            f"UINT8 needs shape [N, {resolution}, {resolution}, 3] with N up to {MAX_BATCH}; "
            f"given: {tensor.shape}",
        )


def raw_pictures(tensor: InputTensor) -> UInt8Array:
    """uint8 of the tensor's shape. Raises InvalidParameter for other counts and values."""
    # Of objects: of texts numpy would make an array in which all are as long as the longest.
    values = np.array(tensor.data, dtype=object)
    kinds = set(map(type, values.ravel()))
    if list in kinds:
        raise errors.InvalidParameter(INPUT, "data is nested unevenly")
    if values.size != math.prod(tensor.shape):
        expected = math.prod(tensor.shape)
        raise errors.InvalidParameter(
            INPUT, f"data has {values.size} values; shape {tensor.shape} has {expected}"
        )
    if kinds != {int} or values.min() < 0 or values.max() > 255:
        raise errors.InvalidParameter(INPUT, "UINT8 data are whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(tensor.shape)


def output_tensor(scores: Scores) -> OutputTensor:
    """Of float32 [N, classes]."""
    return OutputTensor(
        name=OUTPUT, shape=list(scores.shape), datatype="FP32", data=scores.ravel().astype(float).tolist()
    )


def response_parameters(variant: str, decision: str, latency: Latency) -> dict[str, str | bool | int | float]:
    """Flat, as the protocol's parameters are; without a budget there is no `budget_ms`."""
    return {"variant": variant, "decision": decision, **latency.model_dump(exclude_none=True)}


def model_metadata(name: str, classes: int, resolution: int | None) -> ModelMetadata:
    """Of a task, which takes encoded pictures, or with `resolution` of a variant, which also takes pixels."""
    picture = TensorMetadata(
        name=INPUT, datatype="BYTES", shape=[1], parameters={"content": "base64 of JPEG, PNG, WebP, GIF, BMP"}
    )
    pixels = TensorMetadata(
        name=INPUT,
        datatype="UINT8",
        shape=[-1, resolution or -1, resolution or -1, 3],
        parameters={"max_batch": MAX_BATCH, "or": "BYTES of shape [1]: base64 of an encoded picture"},
    )
    return ModelMetadata(
        name=name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[picture if resolution is None else pixels],
        outputs=[TensorMetadata(name=OUTPUT, datatype="FP32", shape=[-1, classes])],
    )
