"""Selected products become calls of analog operators.

    y = F.conv2d(x, w)   ->   y = self.conv1.analog(x, w)

The operator is added beside the weight; the weight stays where it is and travels as an argument.
Products that share a parameter share one array. Calls with the same weight and the same attributes
are one region.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from analogize.crossbar.array import WeightArray
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.region import Region
from analogize.crossbar.transposed import TransposedArray, turned
from analogize.crossbar.weight_range import NoRange
from analogize.errors import PassError
from analogize.passes.choice import Declined, Selected
from analogize.passes.signature import PRODUCTS, attribute, bound_arguments, expand
from analogize.product import Convolution, Linear, Product
from analogize.targets.overrides import settings_of
from analogize.targets.spec import Target


def lower(module: fx.GraphModule, target: Target) -> int:
    """Replace every selected product by an analog operator; returns how many calls."""
    calls: dict[tuple[str, Product], list[fx.Node]] = {}
    for node in module.graph.nodes:
        record = node.meta.get("analog")
        if isinstance(record, Selected) and node.op == "call_function":
            calls.setdefault((record.weight, _product(node)), []).append(node)
    arrays, regions, rewritten = Arrays(target), 0, 0
    for (_, product), nodes in calls.items():
        region = _region(module, nodes, regions)
        weight = attribute(module, region.weight)
        try:
            array, settings = arrays.of(weight, product, region.name, id(weight))
        except NoRange as error:
            _decline(nodes, error.reason)
            continue
        regions, rewritten = regions + 1, rewritten + len(nodes)
        path = _free_path(module, region.weight)
        op = AnalogOp(array, product, settings, region)
        owner = module.get_submodule(region.weight.rpartition(".")[0])
        module.add_submodule(path, op.bind(module).train(owner.training))
        for node in nodes:
            _replace(module.graph, node, path)
    return rewritten


def _decline(nodes: list[fx.Node], reason: str) -> None:
    """Leave digital what no array can hold; no other front end could do better."""
    for node in nodes:
        record: Selected = node.meta["analog"]
        node.meta["analog"] = Declined(record.name, record.operator, reason, chosen=True)


class Arrays:
    """The arrays of one model: products of one weight share one, whatever their attributes."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._made: dict[tuple[object, object], tuple[WeightArray, Target]] = {}
        self._weights: list[tuple[Tensor, WeightArray]] = []

    def of(
        self, weight: Tensor, product: Product, region: str, source: object
    ) -> tuple[WeightArray, Target]:
        """The array of ``weight`` and the region's settings; equal ``source`` is equal weight.

        Raises:
            PassError: regions that share an array have other settings.
        """
        settings = settings_of(self.target, region)
        key = (source, layout(product))
        if key not in self._made:
            # In weight units the array needs no rescaling of activations; codes need converters.
            folded = settings.dac.bits is None and settings.adc.bits is None
            home = self._other_side(weight, product, settings)
            if home is not None:
                seen = turned(settings)
                array: WeightArray = TransposedArray(weight, product, seen, home, folded)
            else:
                array = WeightArray(weight, product, settings, region, folded)
                self._weights.append((weight, array))
            self._made[key] = array, settings
        array, first = self._made[key]
        # Equal but for what is the target's alone.
        if settings.model_copy(update={"overrides": ()}) != first.model_copy(
            update={"overrides": ()}
        ):
            raise PassError(
                f"regions '{array.name}' and '{region}' share one array and need equal settings; "
                f"name both in the same override of target '{self.target.name}'"
            )
        return array, turned(settings) if isinstance(array, TransposedArray) else settings

    def _other_side(self, weight: Tensor, product: Product, target: Target) -> WeightArray | None:
        """The array that holds the transpose of ``weight`` and can be read from both sides."""
        if target.array is None or not target.array.transposable or type(product) is not Linear:
            return None
        for other, array in self._weights:
            if type(array.product) is Linear and _is_transpose(weight, other):
                return array
        return None


def _is_transpose(weight: Tensor, other: Tensor) -> bool:
    """Whether both are one matrix in memory, read along its rows and along its columns."""
    if weight.ndim != 2 or other.ndim != 2 or weight.is_meta or weight.dtype != other.dtype:
        return False
    return weight.data_ptr() == other.data_ptr() and (weight.shape, weight.stride()) == (
        other.shape[::-1],
        other.stride()[::-1],
    )


def _product(node: fx.Node) -> Product:
    signature = PRODUCTS[node.target]
    if signature.dimensions == 0:
        return Linear()
    arguments, n = bound_arguments(node), signature.dimensions
    output_padding = arguments.get("output_padding", 0)
    fixed = not isinstance(output_padding, fx.Node)
    return Convolution(
        signature.operator,
        stride=expand(arguments["stride"], n),
        padding=expand(arguments["padding"], n),
        dilation=expand(arguments["dilation"], n),
        transposed=signature.transposed,
        output_padding=expand(output_padding if fixed else 0, n),
        groups=arguments["groups"],
    )


def layout(product: Product) -> object:
    """What decides how a weight lies in the array."""
    if isinstance(product, Convolution):
        return product.transposed, product.groups
    return type(product)


def _region(module: fx.GraphModule, nodes: list[fx.Node], index: int) -> Region:
    first = nodes[0]
    record: Selected = first.meta["analog"]
    weight: Tensor = attribute(module, record.weight)
    bias = first.meta.get("bias")
    macs = [n.meta["macs"] for n in nodes if "macs" in n.meta]
    source: Any = first.args[0]
    return Region(
        name=record.name,
        operator=record.operator,
        weight=record.weight,
        weight_shape=tuple(weight.shape),
        bias=str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else None,
        index=index,
        calls=len(nodes),
        macs=sum(macs) if len(macs) == len(nodes) else None,
        input_shape=source.meta.get("shape") if isinstance(source, fx.Node) else None,
        output_shape=first.meta.get("shape"),
    )


def _free_path(module: fx.GraphModule, weight: str) -> str:
    """Where the operator goes: beside its weight, under a name nobody uses yet."""
    owner_path, _, name = weight.rpartition(".")
    free = free_name(module.get_submodule(owner_path), name)
    return f"{owner_path}.{free}" if owner_path else free


def free_name(owner: nn.Module, weight: str) -> str:
    """A name that ``owner`` has not used for the operator of its parameter ``weight``."""
    wanted = "analog" if weight == "weight" else f"analog_{weight}"
    free, number = wanted, 1
    while hasattr(owner, free):
        number += 1
        free = f"{wanted}_{number}"
    return free


def _replace(graph: fx.Graph, node: fx.Node, path: str) -> None:
    arguments = bound_arguments(node)
    operands = [arguments["input"], arguments["weight"]]
    if isinstance(padding := arguments.get("output_padding"), fx.Node):
        operands.append(padding)
    with graph.inserting_before(node):
        call = graph.call_module(path, tuple(operands))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
