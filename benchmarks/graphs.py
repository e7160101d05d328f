"""Seeded problems to measure planners on, so that quality is not tuned to a few files.

In: sizes and a seed. Out: `memjax.planning.problem.Problem`.

`random_layered` draws graphs of the kind that Moccasin publishes (Bartan et al., 2023,
after Gagrani et al., *Neural topological ordering*, 2022): layers of nodes, edges mostly
between neighbours in layers close by, some from far away. `train_step` draws a forward chain
with skips, and its backward. `gpt` is the shape of a transformer's train step, with the sizes
and costs of its operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from memjax.planning.problem import Node, Problem


def random_layered(nodes: int, seed: int) -> Problem:
    """Layers of random width between one first and one last node; edges to nodes close by.

    A node reads a few neighbouring nodes of the layer before it, at about its own place in
    its layer, and sometimes one from further back. The order is depth first: of the nodes
    whose inputs are there, one that became ready last runs next. Widths, numbers of inputs,
    bytes and costs are drawn like those of the published graphs of 100 and 250 nodes.

    Args:
        nodes: how many.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    width = max(2.0, nodes**0.5 * float(rng.uniform(0.5, 0.85)))
    layers = [[0]]
    count = 1
    while count < nodes - 1:
        size = max(1, min(round(width * float(rng.uniform(0.2, 1.8))), nodes - 1 - count))
        layers.append(list(range(count, count + size)))
        count += size
    if nodes > 1:
        layers.append([nodes - 1])
    inputs = _draw_edges(rng, layers)
    small = rng.random(nodes) < 0.55
    drawn = np.where(small, rng.normal(750, 600, nodes), rng.normal(3400, 1500, nodes))
    value_bytes = [10 + 10 * int(abs(b) / 10) for b in drawn]
    costs = [0.0, *(float(c) for c in rng.integers(0, 1000, nodes - 1))]
    order = _depth_first(inputs)
    place = {node: index for index, node in enumerate(order)}
    made = tuple(
        Node(costs[node], tuple(sorted(place[i] for i in inputs[node])), (index,), name=str(index))
        for index, node in enumerate(order)
    )
    name = f"random_layered_{nodes}_seed{seed}"
    return Problem(made, tuple(value_bytes[node] for node in order), name=name)


def _draw_edges(rng: np.random.Generator, layers: Sequence[Sequence[int]]) -> list[set[int]]:
    """The inputs of each node; every node but the last has a reader."""
    inputs: list[set[int]] = [set() for layer in layers for _ in layer]
    for level in range(1, len(layers)):
        before, layer = layers[level - 1], layers[level]
        for index, node in enumerate(layer):
            centre = (index + float(rng.uniform(0, 1))) / len(layer) * len(before)
            reach = 1.05 * len(before) ** 0.53 * float(rng.uniform(0.4, 1.6))
            low = max(0, min(round(centre - reach / 2), len(before) - 1))
            high = max(low + 1, round(centre + reach / 2))
            inputs[node].update(before[low:high])
            for _ in range(int(rng.poisson(0.08 * reach + 0.25)) if level > 1 else 0):
                back = min(level, 1 + int(rng.geometric(0.15)))
                inputs[node].add(int(rng.choice(layers[level - back])))
        read = set().union(*(inputs[node] for node in layer))
        for index, node in enumerate(before):
            if node not in read:
                inputs[layer[index * len(layer) // len(before)]].add(node)
    return inputs


def _depth_first(inputs: Sequence[set[int]]) -> list[int]:
    """A topological order in which the node that became ready last runs next."""
    readers: list[list[int]] = [[] for _ in inputs]
    for node, read in enumerate(inputs):
        for index in sorted(read):
            readers[index].append(node)
    missing = [len(read) for read in inputs]
    ready, order = [node for node, count in enumerate(missing) if not count], []
    while ready:
        order.append(ready.pop())
        for reader in reversed(readers[order[-1]]):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    return order


@dataclass
class _Tape:
    """Forward operations as they are written down, and then their backward.

    An operation's backward is one node for each forward input that carries a gradient. It
    reads the gradient of the operation's output and the forward values it `saves`.
    """

    nodes: list[Node] = field(default_factory=list)
    value_bytes: list[int] = field(default_factory=list)
    records: list[tuple[int, tuple[int, ...], tuple[int, ...], float, int, str]] = field(
        default_factory=list
    )
    params: set[int] = field(default_factory=set)

    def value(self, size: int) -> int:
        self.value_bytes.append(size)
        return len(self.value_bytes) - 1

    def param(self, size: int) -> int:
        value = self.value(size)
        self.params.add(value)
        return value

    def run(self, name: str, cost: float, inputs: Sequence[int], size: int) -> int:
        value = self.value(size)
        self.nodes.append(Node(cost, tuple(dict.fromkeys(inputs)), (value,), name=name))
        return value

    def op(self, name: str, cost: float, inputs: Sequence[int], size: int, saves: str = "") -> int:
        """A forward operation. `saves` names what its backward reads: i(nputs), o(utput)."""
        value = self.run(name, cost, inputs, size)
        saved = (tuple(inputs) if "i" in saves else ()) + ((value,) if "o" in saves else ())
        self.records.append((value, tuple(inputs), saved, cost, size, name))
        return value

    def backward(self, loss: int, no_grad: Sequence[int] = ()) -> None:
        """Gradients in reverse order; each parameter is updated when its gradient is there."""
        grads = {loss: self.run("grad_start", 0.0, (loss,), 4)}
        skip = set(no_grad)
        for value, inputs, saved, cost, _, name in reversed(self.records):
            if value not in grads:
                continue
            for target in dict.fromkeys(inputs):
                if target in skip:
                    continue
                reads = (grads[value], *saved)
                part = self.run(f"d_{name}", cost, reads, self.value_bytes[target])
                if target in grads:
                    cost_add = self.value_bytes[target] * ADD_SECONDS_PER_BYTE
                    part = self.run(
                        "add_any", cost_add, (grads[target], part), self.value_bytes[target]
                    )
                grads[target] = part
        for value in sorted(self.params):
            if value in grads:
                self.run(
                    "update",
                    self.value_bytes[value] * ADD_SECONDS_PER_BYTE,
                    (grads[value], value),
                    self.value_bytes[value],
                )

    def problem(self, name: str) -> Problem:
        written = {v for node in self.nodes for v in node.outputs}
        outputs = tuple(v for node in self.nodes if node.name == "update" for v in node.outputs)
        assert written.issuperset(outputs)
        return Problem(tuple(self.nodes), tuple(self.value_bytes), outputs, name=name)


ADD_SECONDS_PER_BYTE = 1e-11  # about a memory bandwidth of 100 GB/s
SECONDS_PER_FLOP = 1e-12


def gpt(
    layers: int, batch: int = 8, tokens: int = 256, width: int = 256, heads: int = 8
) -> Problem:
    """The train step of a pre-norm transformer, about 90 nodes a layer, sizes in float32."""
    tape = _Tape()
    rows = batch * tokens
    act, scores = 4 * rows * width, 4 * batch * heads * tokens * tokens
    light = ADD_SECONDS_PER_BYTE

    def matmul(name: str, x: int, inner: int, outer: int) -> int:
        weight = tape.param(4 * inner * outer)
        cost = 2 * rows * inner * outer * SECONDS_PER_FLOP
        out = tape.op(name, cost, (x, weight), 4 * rows * outer, "i")
        bias = tape.param(4 * outer)
        return tape.op(f"{name}_bias", 8 * rows * outer * light, (out, bias), 4 * rows * outer)

    def norm(x: int) -> int:
        mean = tape.op("mean", act * light, (x,), 4 * rows)
        centred = tape.op("centre", 2 * act * light, (x, mean), act)
        inverse = tape.op("rsqrt", act * light, (centred,), 4 * rows, "io")
        return tape.op("scale", 2 * act * light, (centred, inverse), act, "i")

    def attention(x: int) -> int:
        query, key, val = (matmul(n, x, width, width) for n in ("q", "k", "v"))
        cost = 2 * rows * tokens * width * SECONDS_PER_FLOP
        raw = tape.op("scores", cost, (query, key), scores, "i")
        masked = tape.op("mask", 2 * scores * light, (raw,), scores)
        top = tape.op("max", scores * light, (masked,), 4 * batch * heads * tokens)
        weights = tape.op("exp", 2 * scores * light, (masked, top), scores, "o")
        total = tape.op("sum", scores * light, (weights,), 4 * batch * heads * tokens)
        prob = tape.op("divide", 2 * scores * light, (weights, total), scores, "io")
        mixed = tape.op("mix", cost, (prob, val), act, "i")
        return matmul("proj", mixed, width, width)

    def gelu(x: int) -> int:
        cube = tape.op("cube", 8 * act * light, (x,), 4 * act, "i")
        inner = tape.op("inner", 12 * act * light, (x, cube), 4 * act)
        tanh = tape.op("tanh", 16 * act * light, (inner,), 4 * act, "o")
        return tape.op("gate", 12 * act * light, (x, tanh), 4 * act, "i")

    x = tape.run("embed", act * light, (), act)
    start = x
    for _ in range(layers):
        x = tape.op("residual", 3 * act * light, (x, attention(norm(x))), act)
        hidden = gelu(matmul("up", norm(x), width, 4 * width))
        x = tape.op("residual", 3 * act * light, (x, matmul("down", hidden, 4 * width, width)), act)
    loss = tape.op("loss", act * light, (norm(x),), 4, "i")
    tape.backward(loss, no_grad=(start,))
    return tape.problem(f"gpt_{layers}_layers")


def train_step(nodes: int, seed: int) -> Problem:
    """A random forward chain with skips, and its backward: about `nodes` nodes in all."""
    rng = np.random.default_rng(seed)
    tape = _Tape()
    chain = [tape.run("start", 1.0, (), int(rng.integers(10, 100)))]
    for index in range(max(2, nodes * 2 // 7)):
        inputs = [chain[-1]]
        if rng.random() < 0.3:
            inputs.append(chain[int(rng.integers(max(0, len(chain) - 12), len(chain)))])
        if rng.random() < 0.4:
            inputs.append(tape.param(int(rng.integers(1, 20))))
        cost = float(rng.choice([1.0, 2.0, 5.0, 40.0]) * rng.uniform(0.5, 2))
        saves = ("", "i", "o", "io")[int(rng.integers(0, 4))]
        chain.append(
            tape.op(
                f"op{index}",
                cost,
                tuple(dict.fromkeys(inputs)),
                int(rng.geometric(1 / 60)) + 1,
                saves,
            )
        )
    loss = tape.op("loss", 1.0, (chain[-1],), 1, "i")
    tape.backward(loss, no_grad=(chain[0],))
    return tape.problem(f"train_step_{nodes}_seed{seed}")
