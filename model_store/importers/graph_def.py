"""The few messages of TensorFlow's `GraphDef` that constants need, without TensorFlow.

Field numbers are those of tensorflow/core/framework/{graph,node_def,attr_value,tensor,
tensor_shape}.proto; fields left out here are skipped by the parser.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "mobilenet_graph_def"

# message -> (field, number, type, repeated); a type with a dot before it is a message.
_SCHEMA: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "GraphDef": (("node", 1, ".NodeDef", True),),
    "NodeDef": (
        ("name", 1, "STRING", False),
        ("op", 2, "STRING", False),
        ("input", 3, "STRING", True),
        ("attr", 5, ".AttrEntry", True),  # a map<string, AttrValue> on the wire
    ),
    "AttrEntry": (("key", 1, "STRING", False), ("value", 2, ".AttrValue", False)),
    "AttrValue": (
        ("f", 4, "FLOAT", False),
        ("type", 6, "INT32", False),
        ("shape", 7, ".Shape", False),
        ("tensor", 8, ".Tensor", False),
    ),
    "Tensor": (
        ("dtype", 1, "INT32", False),
        ("tensor_shape", 2, ".Shape", False),
        ("tensor_content", 4, "BYTES", False),
        ("float_val", 5, "FLOAT", True),
    ),
    "Shape": (("dim", 2, ".Dim", True),),
    "Dim": (("size", 1, "INT64", False),),
}
_DT_FLOAT = 1
_MAX_VALUES = 1 << 24  # the classifier, the largest tensor of the family, has 1 << 20


@cache
def _graph_def_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            proto = message.field.add(name=field, number=number, label=label)
            if kind.startswith("."):
                proto.type, proto.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}{kind}"
            else:
                proto.type = getattr(_Field, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.GraphDef")
    return message_factory.GetMessageClass(descriptor)


def new_graph() -> Any:
    """An empty GraphDef message."""
    return _graph_def_class()()


def parse_nodes(data: bytes) -> dict[str, Any]:
    """Nodes of a serialised GraphDef by name; ValueError when it is none."""
    graph = new_graph()
    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise ValueError("not a GraphDef") from error
    if not graph.node:
        raise ValueError("not a GraphDef: it has no nodes")
    return {node.name: node for node in graph.node}


def attributes(node: Any) -> dict[str, Any]:
    """Attribute values of a node by key."""
    return {entry.key: entry.value for entry in node.attr}


def constant(node: Any) -> npt.NDArray[np.float32]:
    """The float tensor of a `Const` node; ValueError when it holds none."""
    tensor = attributes(node)["value"].tensor
    if tensor.dtype != _DT_FLOAT:
        raise ValueError(f"{node.name} is not a float constant")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if math.prod(shape) > _MAX_VALUES:
        raise ValueError(f"{node.name} has the shape {shape}")
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    values = np.asarray(tensor.float_val, np.float32)
    # Short form: one value stands for the whole tensor.
    return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)
