"""A memory-planning problem, free of JAX.

In: nodes in execution order, the bytes of the values that they write and read.
Out: `Problem`, which planners solve and `memjax.simulate` judges.

Definitions

1. A *node* is one operation. It reads values, writes values, and costs something.
2. A *value* is written by exactly one node, or by none: then it is there from the start
   and takes no bytes of the problem (its bytes belong to `base_bytes`).
3. A *schedule* is a sequence of node indices. Running a node again writes its values
   again; a read sees the newest copy.
4. A copy of a value is *held* from the position that writes it up to its last read before
   it is written again, and at least while its node runs. Copies of `outputs` that are
   never written again are held to the end.
5. The bytes at a position are `base_bytes`, the held copies, and the running node's
   `workspace_bytes`. A node with `in_place` inputs may write over those that are read for
   the last time: see `memjax.simulate`.

With one output a node, no workspace and no in-place inputs this is the problem of
Checkmate (Jain et al., 2020) and Moccasin (Bartan et al., 2023).

Not handled: offload, nodes that run at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Node:
    """One operation of a `Problem`.

    Attributes:
        cost: what running it once costs; seconds for steps, any unit for published graphs.
        inputs: ids of the values it reads, each once.
        outputs: ids of the values it writes.
        workspace_bytes: bytes held only while it runs.
        recomputable: False where it must run exactly once (effects).
        in_place: those inputs whose buffer an output may take over when it is read here
            for the last time.
        name: for people.
    """

    cost: float
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace_bytes: int = 0
    recomputable: bool = True
    in_place: tuple[int, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Problem:
    """Nodes in execution order; node `i` runs at position `i` unless a planner says otherwise.

    Attributes:
        nodes: in a topological order.
        value_bytes: bytes of each value, by value id.
        outputs: ids of the values that must be there at the end.
        base_bytes: bytes held all the time.
        name: for people.

    Raises:
        ValueError: a node reads a value before it is written, a value has two writers,
            an id is out of range, or a size or a cost is negative.
    """

    nodes: tuple[Node, ...]
    value_bytes: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    base_bytes: int = 0
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        written = [False] * len(self.value_bytes)
        has_writer = [False] * len(self.value_bytes)
        for node in self.nodes:
            for value in node.outputs:
                has_writer[value] = True
        for index, node in enumerate(self.nodes):
            where = f"node {index} {node.name!r}".rstrip(" '")
            if node.cost < 0 or node.workspace_bytes < 0:
                raise ValueError(f"{where} has a negative cost or workspace")
            for value in node.inputs:
                if has_writer[value] and not written[value]:
                    raise ValueError(f"{where} reads value {value} before it is written")
            if not set(node.in_place) <= set(node.inputs):
                raise ValueError(f"{where} names in-place values that it does not read")
            for value in node.outputs:
                if written[value]:
                    raise ValueError(f"{where} writes value {value}, which has a writer already")
                written[value] = True
        if min(self.value_bytes, default=0) < 0 or self.base_bytes < 0:
            raise ValueError("bytes must not be negative")

    @cached_property
    def producer(self) -> tuple[int, ...]:
        """The node that writes each value, by value id; -1 for values without one."""
        producer = [-1] * len(self.value_bytes)
        for index, node in enumerate(self.nodes):
            for value in node.outputs:
                producer[value] = index
        return tuple(producer)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """The nodes that read each value, ascending, by value id."""
        consumers: list[list[int]] = [[] for _ in self.value_bytes]
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                consumers[value].append(index)
        return tuple(tuple(c) for c in consumers)

    @cached_property
    def identity(self) -> tuple[int, ...]:
        """The schedule without recomputation: every node once, in the problem's order."""
        return tuple(range(len(self.nodes)))

    @property
    def total_cost(self) -> float:
        """What `identity` costs."""
        return sum(node.cost for node in self.nodes)

    @property
    def single_node_floor_bytes(self) -> int:
        """A bound that no schedule beats: the node that needs most, alone with its operands."""
        size = [b if self.producer[v] >= 0 else 0 for v, b in enumerate(self.value_bytes)]

        def need(node: Node) -> int:
            inputs = sum(size[v] for v in node.inputs)
            outputs = sum(size[v] for v in node.outputs)
            reusable = sum(size[v] for v in node.in_place)
            return max(inputs, inputs - reusable + outputs) + node.workspace_bytes

        return self.base_bytes + max((need(node) for node in self.nodes), default=0)

    @staticmethod
    def from_json(source: str | Path | Mapping[str, Any]) -> Problem:
        """Load a published graph: one value a node, its inputs given as node indices.

        Args:
            source: a path, or the parsed content, with `nodes`, a list in execution order of
                objects with `bytes` (int), `cost` (float) and `inputs` (indices of earlier
                nodes); `name` is optional.

        Raises:
            ValueError: the content is not such a graph.
        """
        if isinstance(source, Mapping):
            content: Any = source
            label = str(source.get("name", "graph"))
        else:
            label = Path(source).stem
            try:
                content = json.loads(Path(source).read_text())
            except json.JSONDecodeError as error:
                raise ValueError(f"{source} is not JSON: {error}") from error
        try:
            nodes = tuple(
                Node(
                    cost=float(n["cost"]),
                    inputs=tuple(dict.fromkeys(int(i) for i in n["inputs"])),
                    outputs=(index,),
                    name=str(n.get("name", index)),
                )
                for index, n in enumerate(content["nodes"])
            )
            value_bytes = tuple(int(n["bytes"]) for n in content["nodes"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{label} is not a graph: each node needs `bytes`, `cost` and `inputs` ({error!r})"
            ) from error
        return Problem(nodes, value_bytes, name=str(content.get("name", label)))


@dataclass(frozen=True)
class Solution:
    """A schedule for a `Problem`, and what its planner can say about it.

    Attributes:
        order: node indices in the order they run; a repeated index is a recomputation.
        planner: the name of the planner that made it.
        bound_cost: no schedule that meets the budget (at this node order, unless
            `reordered`) costs less in all; None where nothing is known.
        met: whether the planner believes that the budget is met; `simulate` judges.
        iterations: how much work the search did, in the planner's own count.
        reordered: whether first runs may be in another order than the problem's.
    """

    order: tuple[int, ...]
    planner: str
    met: bool = True
    bound_cost: float | None = None
    iterations: int = 0
    reordered: bool = False

    @staticmethod
    def identity(problem: Problem, planner: str = "identity") -> Solution:
        """Every node once, in the problem's order."""
        return Solution(problem.identity, planner, bound_cost=problem.total_cost)


def schedule_cost(problem: Problem, order: Sequence[int]) -> float:
    """The cost of all runs of a schedule, recomputations included."""
    return sum(problem.nodes[i].cost for i in order)
