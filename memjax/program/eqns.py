"""What a step is to memjax: one flat list of eqns over integer value ids.

`memjax.program.trace` makes a `Program`. An eqn that runs programs of its own (a loop, a branch, a
call) has them in its `Nest`, each as a `Body`: see `memjax.pricing.nests`.

Kinds of nests

- `scan`: the body takes constants, carries, slices; returns carries and what is stacked.
- `loop`: a scan that memjax made. The body takes the index, the state, constants; returns the
  state. It reads slices and writes stacks at the index itself, so that a stack is one buffer
  in however many loops (XLA updates it in place), and any stretch of indices can be run.
- `cond`, `while`, `jit`, `shard_map`: as JAX has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jax.tree_util import PyTreeDef

from memjax import _compat
from memjax.program import primitives
from memjax.program.source_lines import user_line
from memjax.program.tags import Path, path_of


@dataclass(frozen=True)
class Constant:
    """An operand that is written in the program itself: a literal."""

    value: Any


Operand = int | Constant


@dataclass(frozen=True)
class Eqn:
    """One eqn of a `Program`.

    Attributes:
        raw: JAX's own eqn; its variables mean nothing outside the jaxpr that it came from.
        inputs: value ids, or constants, in the primitive's order.
        outputs: value ids, in the primitive's order.
        name_stack: module path and transforms, with those of the calls it was inlined from, and the
            tags of all of them (`memjax.program.tags`).
        call: the outermost call that it was inlined from, an eqn of JAX's; None without one.
        nest: the programs that it runs, where memjax looks into them: see `memjax.pricing.nests`.
            `raw` is then what it stands for, or a part of it.
    """

    raw: Any
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    name_stack: Any
    call: Any = None
    nest: Nest | None = None

    @property
    def primitive(self) -> str:
        """The primitive's name."""
        return str(self.raw.primitive.name)

    @cached_property
    def path(self) -> Path:
        """Its tag, behind those of the calls that it was inlined from."""
        return path_of(str(self.name_stack))

    @property
    def has_effects(self) -> bool:
        """Whether it must run exactly once, in its place among others with effects."""
        return bool(self.raw.effects)

    @cached_property
    def runs_once(self) -> bool:
        """Whether it must not run again: it has effects, or calls the host, or a body does."""
        return self.has_effects or _compat.contains(self.raw, primitives.RUNS_ONCE)

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """Ids of the values among its inputs, each once, in order."""
        return tuple(dict.fromkeys(v for v in self.inputs if isinstance(v, int)))

    @cached_property
    def handed_in(self) -> frozenset[int]:
        """Values that a loop hands to its iterations whole or slice by slice."""
        if self.nest is None or self.nest.kind not in ("scan", "loop"):
            return frozenset()
        carries = self.nest.carry_places
        chosen = (v for n, v in enumerate(self.inputs) if n not in carries)
        return frozenset(v for v in chosen if isinstance(v, int))

    @cached_property
    def source(self) -> str | None:
        """The user's own line, as `file:line (function)`; that of the call for a library's body."""
        return user_line(self.raw, self.call)


@dataclass(frozen=True)
class Program:
    """A step as a flat list of eqns. Value ids index `avals`.

    Attributes:
        eqns: in execution order.
        avals: shape and dtype of each value.
        arguments: value ids of the flat arguments.
        constants: captured arrays, as (value id, array).
        results: value ids, or constants, of the flat results.
        argument_names: where each flat argument is in the user's arguments.
        result_names: the same for the results.
        in_tree: structure of `(args, kwargs)` without the static ones.
        out_tree: structure of the step's result.
        name: the step's own name.
        jaxpr: what it was made of, as JAX traced it; None for bodies and changed programs.
    """

    eqns: tuple[Eqn, ...]
    avals: tuple[Any, ...]
    arguments: tuple[int, ...]
    constants: tuple[tuple[int, Any], ...]
    results: tuple[Operand, ...]
    argument_names: tuple[str, ...] = ()
    result_names: tuple[str, ...] = ()
    in_tree: PyTreeDef | None = None
    out_tree: PyTreeDef | None = None
    name: str = "step"
    jaxpr: Any = None

    @cached_property
    def value_bytes(self) -> tuple[int, ...]:
        """Bytes of each value, by value id."""
        return tuple(_compat.aval_bytes(aval) for aval in self.avals)

    @cached_property
    def source_bytes(self) -> tuple[int, ...]:
        """Bytes of the largest value that each one is an elementwise function of, by value id."""
        sizes = list(self.value_bytes)
        for eqn in self.eqns:
            if eqn.primitive in primitives.FUSIBLE:
                largest = max((sizes[v] for v in eqn.reads), default=0)
                for value in eqn.outputs:
                    sizes[value] = largest
        return tuple(sizes)

    @cached_property
    def producer(self) -> tuple[int, ...]:
        """Index of the eqn that writes each value; -1 for arguments and constants."""
        producer = [-1] * len(self.avals)
        for index, eqn in enumerate(self.eqns):
            for value in eqn.outputs:
                producer[value] = index
        return tuple(producer)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the eqns that read each value, ascending."""
        consumers: list[list[int]] = [[] for _ in self.avals]
        for index, eqn in enumerate(self.eqns):
            for value in eqn.reads:
                consumers[value].append(index)
        return tuple(tuple(c) for c in consumers)

    @cached_property
    def result_values(self) -> frozenset[int]:
        """Ids of the values among the results."""
        return frozenset(r for r in self.results if isinstance(r, int))


@dataclass(frozen=True, eq=False)
class Body:
    """A program that an eqn runs, and how.

    Attributes:
        program: its arguments and results are the eqn's, as its kind says.
        order: the schedule of its nodes; None for each once, in the program's order.
        keeps_order: whether XLA is held to the order where nothing runs again, too.
    """

    program: Program
    order: tuple[int, ...] | None = None
    keeps_order: bool = False


@dataclass(frozen=True, eq=False)
class Nest:
    """What an eqn runs.

    Attributes:
        kind: see the module.
        bodies: one; the branches of a `cond`; condition and body of a `while`.
        length: how often they run, where that is known.
        reverse: whether a loop starts at its last index.
        constants: operands of a loop or scan that each iteration reads whole.
        carries: its operands that are handed from iteration to iteration.
        in_chunks: whether its iterations are the chunks of what was no loop before.
    """

    kind: str
    bodies: tuple[Body, ...]
    length: int = 1
    reverse: bool = False
    constants: int = 0
    carries: int = 0
    in_chunks: bool = False

    @property
    def carry_places(self) -> range:
        """Where the carries stand among the operands of a loop or scan."""
        first = 1 if self.kind == "loop" else self.constants
        return range(first, first + self.carries)

    @property
    def repeats(self) -> bool:
        """Whether the bodies run for each iteration."""
        return self.kind in ("loop", "scan", "while")

    @property
    def is_planned(self) -> bool:
        """Whether the eqn cannot be run as JAX wrote it."""
        return self.kind == "loop" or any(body.keeps_order for body in self.bodies)
