"""The digital operators of ``load_onnx`` compute what onnxruntime's do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from analogize.errors import ExportError
from analogize.onnx.reading.kernels import OPERATORS, bind, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)
ROWS = RNG.standard_normal((4, 6)).astype(np.float32)
POSITIVE = np.abs(ROWS) + 0.5
CHANNELS = [RNG.random(3).astype(np.float32) + 0.5 for _ in range(4)]
TRUE, FALSE = np.array([True, True, False]), np.array([True, False, False])
NUMBERS = np.array([-7, 7, 5], np.int64)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def filters(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# Operator, inputs, attributes. Every row is one way in which the operator may stand in a file.
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((name, [ROWS], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish")),
    *((name, [ROWS], {}) for name in ("Identity", "IsNaN", "Mish", "Neg", "Relu", "Round", "Sign")),
    *((name, [ROWS], {}) for name in ("Sigmoid", "Sin", "Softplus", "Tanh", "Shape", "Size")),
    *((name, [POSITIVE], {}) for name in ("Log", "Reciprocal", "Sqrt")),
    *((name, [ROWS, ROWS[:1]], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")),
    *((name, [ROWS, ROWS[:1]], {}) for name in ("Less", "LessOrEqual", "Greater", "Equal")),
    *((name, [TRUE, FALSE], {}) for name in ("And", "Or", "Xor")),
    ("GreaterOrEqual", [ROWS, ROWS[:1]], {}),
    ("Not", [TRUE], {}),
    ("Pow", [POSITIVE, np.array(1.5, np.float32)], {}),
    ("Div", [NUMBERS, ints(2)], {}),
    ("Mod", [NUMBERS, ints(-3)], {}),
    ("Mod", [ROWS, POSITIVE], {"fmod": 1}),
    ("Cast", [ROWS], {"to": TensorProto.INT64}),
    ("CastLike", [ROWS, NUMBERS], {}),
    ("Clip", [ROWS, np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}),
    ("Clip", [ROWS, None, np.array(0.5, np.float32)], {}),
    ("Elu", [ROWS], {"alpha": 0.5}),
    ("Gelu", [ROWS], {}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("HardSigmoid", [ROWS], {"alpha": 0.25}),
    ("LeakyRelu", [ROWS], {"alpha": 0.1}),
    ("PRelu", [X, filters(3, 1, 1)], {}),
    ("Softmax", [X], {"axis": 1}),
    ("LogSoftmax", [X], {"axis": 1}),
    ("Where", [TRUE, ROWS[0, :3], ROWS[1, :3]], {}),
    ("MatMul", [X, filters(6, 5)], {}),
    ("Gemm", [ROWS, filters(5, 6), filters(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [ROWS.T, filters(6, 5)], {"transA": 1}),
    ("BatchNormalization", [X, *CHANNELS], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X, *CHANNELS[:2]], {}),
    ("LayerNormalization", [X, filters(6, 6), filters(6, 6)], {"axis": 2}),
    ("Conv", [X, filters(4, 3, 3, 3), filters(4)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [X, filters(3, 1, 3, 3)], {"group": 3, "dilations": [2, 2]}),
    ("Conv", [X[0], filters(2, 6, 3)], {"pads": [1, 1]}),
    ("Conv", [X[:, None], filters(2, 1, 2, 3, 3)], {"pads": [1, 0, 0, 1, 0, 0]}),
    ("ConvTranspose", [X, filters(3, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", [X, filters(3, 1, 2, 2)], {"group": 3, "pads": [1, 1, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0], "dilations": [2, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}),
    ("RMSNormalization", [ROWS, filters(6)], {}),
    ("Concat", [ROWS, ROWS], {"axis": 1}),
    ("ConstantOfShape", [ints(2, 3)], {}),
    ("CumSum", [ROWS, np.array(1, np.int64)], {}),
    ("CumSum", [ROWS, np.array(1, np.int64)], {"exclusive": 1, "reverse": 1}),
    ("Dropout", [ROWS], {}),
    ("Expand", [ROWS[:, :1], ints(2, 1, 3)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Gather", [X, np.array([[0, -1]], np.int64)], {"axis": 1}),
    ("GatherElements", [ROWS, np.array([[0, -1], [2, 3]], np.int64)], {"axis": 1}),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 3, 1), np.array(0.5, np.float32)], {}),
    ("Pad", [X, ints(1, 2, 3, 1), None, ints(2, 3)], {"mode": "reflect"}),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "edge"}),
    ("Range", [np.array(1, np.int64), np.array(8, np.int64), np.array(3, np.int64)], {}),
    *((name, [X, ints(1, -1)], {}) for name in ("ReduceMax", "ReduceMin", "ReduceMean")),
    ("ReduceSum", [X, ints(2)], {"keepdims": 0}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("ReduceL2", [X], {}),
    ("Reshape", [X, ints(0, -1, 6)], {}),
    ("Slice", [X, ints(1, -3), ints(3, 100), ints(1, 3)], {}),
    ("Slice", [X, ints(-1), ints(np.iinfo(np.int64).min), ints(3), ints(-2)], {}),
    ("Slice", [X, ints(0), ints(6), ints(2), ints(4)], {}),
    ("Slice", [X, ints(4), ints(1), ints(2), ints(-1)], {}),
    ("Split", [X, ints(2, 4)], {"axis": 2}),
    ("Split", [X], {"axis": 2, "num_outputs": 2}),
    ("Squeeze", [ROWS[None, :, None], ints(0, -2)], {}),
    ("Squeeze", [ROWS[None]], {}),
    ("Tile", [ROWS, ints(2, 3)], {}),
    ("Transpose", [X], {"perm": [0, 3, 1, 2]}),
    ("Transpose", [X], {}),
    ("Trilu", [ROWS, np.array(1, np.int64)], {"upper": 0}),
    ("Unsqueeze", [ROWS, ints(0, -1)], {}),
]


def _onnxruntime(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> list[np.ndarray]:
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    outputs = ["y0", "y1"] if operator == "Split" else ["y0"]
    node = helper.make_node(operator, names, outputs, **attributes)
    given = {n: v for n, v in zip(names, inputs, strict=True) if n}
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), None)
        for n, v in given.items()
    ]
    made = [onnx_output(name) for name in outputs]
    graph = helper.make_graph([node], "one", values, made)
    opset = 23 if operator == "RMSNormalization" else 21
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [np.asarray(v) for v in session.run(None, given)]


def onnx_output(name: str) -> Any:
    return helper.make_empty_tensor_value_info(name)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)]
)
def test_equals_onnxruntime(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    tensors = [None if v is None else torch.from_numpy(np.array(v)) for v in inputs]
    actual = run(operator, bind(operator, attributes), *tensors)
    found = list(actual) if isinstance(actual, tuple) else [actual]
    expected = _onnxruntime(operator, inputs, attributes)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.numpy().dtype == b.dtype
        assert a.shape == b.shape
        # Transcendental functions differ in their last bits.
        assert np.allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)


def test_every_operator_is_compared() -> None:
    assert set(OPERATORS) == {case[0] for case in CASES}


def test_what_a_function_would_overlook_is_refused() -> None:
    for operator, attributes, words in (
        ("Conv", {"auto_pad": "SAME_UPPER"}, "auto_pad='SAME_UPPER'"),
        ("MaxPool", {"kernel_shape": [2], "storage_order": 1}, "storage_order=1"),
        ("AveragePool", {"kernel_shape": [2], "dilations": [2]}, "dilations"),
        ("BatchNormalization", {"training_mode": 1}, "training_mode=1"),
        ("Reshape", {"unknown": 1}, "unknown=1"),
        ("LSTM", {}, "cannot run"),
    ):
        with pytest.raises(ExportError, match=words):
            bind(operator, attributes)
    with pytest.raises(ExportError, match="before and behind"):
        run("AveragePool", {"kernel_shape": [2], "pads": [0, 1]}, torch.zeros(1, 1, 4))
