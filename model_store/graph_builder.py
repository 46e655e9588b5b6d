"""What every graph of this project shares: nodes one after the other, named tensors, input and output."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.faces import ATTRIBUTES, OUTPUTS
from model_store.runtime import SIDES

OPSET = 17
IR_VERSION = 8  # what ONNX Runtime 1.12 and later read
PRODUCER = "mobilenet-service"
_NODE_PREFIX = "MobilenetV1"


class GraphBuilder:
    """A chain of nodes: each takes the output of the one before as its first input.

    Where a network branches, `go_back_to` starts a new chain and `join` brings their ends together.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._last = "image"

    def node(self, op: str, output: str, *inputs: str, **attributes: object) -> None:
        name = f"{_NODE_PREFIX}/{output}"
        self._nodes.append(helper.make_node(op, [self._last, *inputs], [output], name=name, **attributes))
        self._last = output

    def constant(self, op: str, tensor: str, *inputs: str, **attributes: object) -> str:
        """Adds a node beside the chain that computes something of a constant; the name of its output."""
        output = f"{tensor}/{op}"
        name = f"{_NODE_PREFIX}/{output}"
        self._nodes.append(helper.make_node(op, [tensor, *inputs], [output], name=name, **attributes))
        return output

    def go_back_to(self, output: str) -> None:
        """The next node takes `output`, of any node before, as its first input."""
        self._last = output

    def join(self, output: str, *inputs: str, axis: int) -> None:
        """Concatenates outputs of nodes before."""
        first, *others = inputs
        self.go_back_to(first)
        self.node("Concat", output, *others, axis=axis)

    def tensor(self, name: str, value: np.generic | np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """Adds a constant; its name."""
        self._initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def has_tensor(self, name: str) -> bool:
        return any(tensor.name == name for tensor in self._initializers)

    def attributes_and_age(self) -> None:
        """From the logits to `scores` as `faces` orders them: a sigmoid each, and a softmax over the ages."""
        axis = self.tensor("head_axis", np.array([1], np.int64))
        bounds = [
            self.tensor(f"head_bound_{i}", np.array([bound], np.int64))
            for i, bound in enumerate((0, len(ATTRIBUTES), OUTPUTS))
        ]
        self.go_back_to("logits")
        self.node("Slice", "attribute_logits", *bounds[:2], axis)
        self.node("Sigmoid", "attributes")
        self.go_back_to("logits")
        self.node("Slice", "age_logits", *bounds[1:], axis)
        self.node("Softmax", "ages", axis=1)
        self.join("scores", "attributes", "ages", axis=1)

    def probabilities(self, outputs: int, *, background: bool) -> None:
        """Softmax over all `outputs`, then all but the first where that is the background.

        The probabilities of the others stay what they are: no second softmax.
        """
        self.node("Softmax", "probabilities" if background else "scores", axis=1)
        if background:
            starts = self.tensor("first_class", np.array([1], np.int64))
            ends = self.tensor("end_class", np.array([outputs], np.int64))
            axes = self.tensor("class_axis", np.array([1], np.int64))
            self.node("Slice", "scores", starts, ends, axes)

    def model(
        self, name: str, outputs: dict[str, list[int]], resolution: int | None = None
    ) -> onnx.ModelProto:
        """`image` uint8 [N, H, W, 3] to float32 `outputs`, their axes after N by name; for pictures of any
        size unless `resolution` is given."""
        sides = SIDES if resolution is None else [resolution, resolution]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *sides, 3])
        answers = [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *axes])
            for output, axes in outputs.items()
        ]
        return helper.make_model(
            helper.make_graph(self._nodes, name, [image], answers, self._initializers),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
