"""The nodes of an ONNX graph in the making, and values with the arithmetic of tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """The nodes and constants of a graph in the making.

    Parameters
    ----------
    single : bool, default=False
        Whether the network computes in single precision.
    outer : Graph, optional
        In which this one is the body of a loop; constants are out there.
    """

    def __init__(self, single: bool = False, outer: "Graph | None" = None) -> None:
        self.single = single
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {} if outer is None else outer.constants
        self.depth: int = 1 if outer is None else outer.depth + 1
        self._made: dict[str, list[Value]] = {}

    def add(
        self, operator: str, inputs: list[Any], count: int = 1, domain: str = "", **attributes: Any
    ) -> list["Value"]:
        """Add a node, unless the same is there already; inputs that are no values are constants."""
        single = any(isinstance(value, Value) and value.single for value in inputs)
        given = [self.value(value, single).name for value in inputs]
        key = repr((operator, given, sorted(attributes.items())))
        if key not in self._made:
            names = [f"{self.depth * '~'}{len(self.nodes)}.{i}" for i in range(count)]
            self.nodes.append(helper.make_node(operator, given, names, domain=domain, **attributes))
            self._made[key] = [Value(self, name, single) for name in names]
        return self._made[key]

    def value(self, constant: Any, single: bool = False) -> "Value":
        """A constant as a value (a value stays what it is). Integers are int64; equal ones are one."""
        if isinstance(constant, Value):
            return constant
        if isinstance(constant, torch.Tensor):
            constant = constant.detach().cpu().numpy()
        array = np.ascontiguousarray(constant) if np.ndim(constant) else np.asarray(constant)
        if single and array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"~c{len(self.constants)}")
        return Value(self, self.constants[key].name, single)

    def scan(
        self, step: Callable[["Value", "Value"], "Value"], state: "Value", inputs: "Value"
    ) -> tuple["Value", "Value"]:
        """A loop that takes a step from a state ``(n, k)`` for each of the inputs ``(length, ...)``.

        What does not depend on them is computed once, before the loop. Returned are the last state, and the state after
        each step, ``(length, n, k)``.
        """
        inside, kind = Graph(self.single, self), TensorProto.FLOAT if state.single else TensorProto.DOUBLE
        before, given = (Value(inside, f"{inside.depth * '~'}{name}", state.single) for name in ("state", "input"))
        after = step(before, given)
        names = [before.name, given.name, after.name, after.op("Identity").name]  # out: to be carried on, to be kept
        infos = [helper.make_tensor_value_info(name, kind, None) for name in names]
        body = helper.make_graph(inside.nodes, "step", infos[:2], infos[2:])
        last, states = self.add("Scan", [state, inputs], count=2, body=body, num_scan_inputs=1)
        return last, states


class Value:
    """What an operator gives, with the arithmetic of tensors; where it is single, so are the floats that it meets."""

    def __init__(self, graph: Graph, name: str, single: bool = False) -> None:
        self.graph = graph
        self.name = name
        self.single = single

    def op(self, operator: str, *others: Any, **attributes: Any) -> "Value":
        """The operator applied to this value, then the others, in the innermost loop that one of them belongs to."""
        graphs = [value.graph for value in (self, *others) if isinstance(value, Value)]
        return max(graphs, key=lambda graph: graph.depth).add(operator, [self, *others], **attributes)[0]

    def split(self, sizes: list[int]) -> list["Value"]:
        """Blocks of columns."""
        return self.graph.add("Split", [self, sizes], count=len(sizes), axis=1)

    def sum(self) -> "Value":
        """Over the columns, shape ``(n, 1)``."""
        return self.op("ReduceSum", [1], keepdims=1)

    def __add__(self, other: Any) -> "Value":
        return self.op("Add", other)

    def __sub__(self, other: Any) -> "Value":
        return self.op("Sub", other)

    def __mul__(self, other: Any) -> "Value":
        return self.op("Mul", other)

    def __truediv__(self, other: Any) -> "Value":
        return self.op("Div", other)

    def __matmul__(self, other: Any) -> "Value":
        return self.op("MatMul", other)


def concat(values: list[Value]) -> Value:
    """Blocks of columns, side by side."""
    return values[0].op("Concat", *values[1:], axis=1)


def cast(value: Value, to: int = TensorProto.DOUBLE) -> Value:
    """As another type of number."""
    return Value(value.graph, value.op("Cast", to=to).name, to == TensorProto.FLOAT)


def working(value: Value) -> Value:
    """As a float of the precision that the network computes in."""
    return cast(value, TensorProto.FLOAT if value.graph.single else TensorProto.DOUBLE)


def double(value: Value) -> Value:
    """As double, whatever the network computes in."""
    return cast(value) if value.single else value
