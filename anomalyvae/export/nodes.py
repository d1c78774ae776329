"""A builder of ONNX graphs: nodes, constants, and values with the arithmetic of tensors."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

# Of the operators that a pipeline's steps use, only these may differ from numpy in the last digits.
_ROUNDING = {"Cos", "Exp", "Log", "MatMul", "Sin", "Tanh"}
# onnxruntime's float16 tool leaves these in single precision, and gives their casts one name where they share an input.
_APART = {"Max", "Min", "TopK"}


class Graph:
    """The nodes and constants of a graph under construction.

    Parameters
    ----------
    single : bool, default=False
        Whether the network computes in single precision.
    outer : Graph, optional
        The graph in which this one is the body of a loop; constants are kept there.
    """

    def __init__(self, single: bool = False, outer: "Graph | None" = None) -> None:
        self.single = single
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {} if outer is None else outer.constants
        self.depth: int = 1 if outer is None else outer.depth + 1
        self._numbers: count[int] = count() if outer is None else outer._numbers  # unique in all loops, too
        self._made: dict[str, list[Value]] = {}
        self._apart: set[str] = set()  # inputs of the operators in _APART
        self.undecided: set[str] = set()  # transformers of which rounding decides what they make

    def add(
        self, operator: str, inputs: list[Any], outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list["Value"]:
        """Add a node, or find an equal one; inputs other than values become constants."""
        single = any(isinstance(value, Value) and value.single for value in inputs)
        given = [self.value(value, single).name for value in inputs]
        key = repr((operator, given, sorted(attributes.items())))
        if key not in self._made:
            exact = operator not in _ROUNDING and all(v.exact for v in inputs if isinstance(v, Value))
            if operator in _APART:
                given = [self._of_its_own(name) for name in given]
            number = next(self._numbers)
            names = [f"~{number}.{i}" for i in range(outputs)]
            node = helper.make_node(operator, given, names, name=f"{operator}_{number}", domain=domain, **attributes)
            self.nodes.append(node)
            self._made[key] = [Value(self, name, single, exact) for name in names]
        return self._made[key]

    def _of_its_own(self, name: str) -> str:
        """The name of an input, or of a copy if an operator in _APART has it."""
        if name in self._apart:
            copy = f"~{next(self._numbers)}.0"
            self.nodes.append(helper.make_node("Identity", [name], [copy], name=f"Identity_{copy[1:-2]}"))
            name = copy
        self._apart.add(name)
        return name

    def value(self, constant: Any, single: bool = False) -> "Value":
        """A constant as a value; equal constants are stored once. A value is returned as it is."""
        if isinstance(constant, Value):
            return constant
        if isinstance(constant, torch.Tensor):
            constant = constant.detach().cpu().numpy()
        if isinstance(constant, str):
            constant = np.array([constant], dtype=object)
        array = np.ascontiguousarray(constant) if np.ndim(constant) else np.asarray(constant)
        if single and array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, str(array) if array.dtype == object else array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"~c{len(self.constants)}")
        return Value(self, self.constants[key].name, single)

    def loop(self, step: Callable[["Value"], tuple["Value", "Value"]], state: "Value", most: "Value") -> "Value":
        """Update a state ``(n, k)`` while ``step`` says so, in at most ``most`` steps, which may be none.

        Nodes that do not depend on the state are computed once, before the loop.
        """
        inside, kind = Graph(self.single, self), TensorProto.FLOAT if state.single else TensorProto.DOUBLE
        number = next(self._numbers)
        before = Value(inside, f"~{number}.state", state.single)
        after, goes_on = step(before)
        info, matrix = helper.make_tensor_value_info, [None, None]
        given = [info(f"~{number}.number", TensorProto.INT64, []), info(f"~{number}.go", TensorProto.BOOL, [])]
        made = [info(goes_on.name, TensorProto.BOOL, []), info(after.name, kind, matrix)]
        body = helper.make_graph(inside.nodes, "step", [*given, info(before.name, kind, matrix)], made)
        return self.add("Loop", [most, self.value(np.array(True)), state], body=body)[0]

    def scan(
        self, step: Callable[["Value", "Value"], "Value"], state: "Value", inputs: "Value"
    ) -> tuple["Value", "Value"]:
        """A loop over the inputs ``(length, ...)`` that updates a state ``(n, k)``.

        Nodes that depend on neither are computed once, before the loop. Returns the last state, and the state after
        each step, ``(length, n, k)``.
        """
        inside, kind = Graph(self.single, self), TensorProto.FLOAT if state.single else TensorProto.DOUBLE
        number = next(self._numbers)
        before, given = (Value(inside, f"~{number}.{name}", state.single) for name in ("state", "input"))
        after = step(before, given)
        names = [before.name, given.name, after.name, after.op("Identity").name]  # the carried state, and its copy
        infos = [helper.make_tensor_value_info(name, kind, None) for name in names]
        body = helper.make_graph(inside.nodes, "step", infos[:2], infos[2:])
        last, states = self.add("Scan", [state, inputs], outputs=2, body=body, num_scan_inputs=1)
        return last, states


class Value:
    """The output of an operator, with the arithmetic of tensors; constants take its precision.

    It is ``exact`` if numpy gives the same bits.
    """

    def __init__(self, graph: Graph, name: str, single: bool = False, exact: bool = True) -> None:
        self.graph = graph
        self.name = name
        self.single = single
        self.exact = exact

    def op(self, operator: str, *others: Any, **attributes: Any) -> "Value":
        """Apply an operator to this value and others, in the innermost loop that one of them belongs to."""
        graphs = [value.graph for value in (self, *others) if isinstance(value, Value)]
        return max(graphs, key=lambda graph: graph.depth).add(operator, [self, *others], **attributes)[0]

    def split(self, sizes: list[int]) -> list["Value"]:
        """Blocks of columns."""
        return self.graph.add("Split", [self, sizes], outputs=len(sizes), axis=1)

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
    return Value(value.graph, value.op("Cast", to=to).name, to == TensorProto.FLOAT, value.exact)


def working(value: Value) -> Value:
    """As a float of the precision that the network computes in."""
    return cast(value, TensorProto.FLOAT if value.graph.single else TensorProto.DOUBLE)


def double(value: Value) -> Value:
    """As double, whatever the network computes in."""
    return cast(value) if value.single else value
