"""What differs between JAX versions, and all use of what JAX does not document.

Supported: jax 0.10.2 (the newest for Python 3.11) to the newest. Everything else in memjax
sees jaxprs through the functions of this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

import jax
import numpy as np
from jax._src import config as jax_config
from jax._src import core as jax_core
from jax._src import mesh as jax_mesh
from jax._src import source_info_util
from jax._src.array import ArrayImpl
from jax._src.interpreters import partial_eval, pxla
from jax.extend import core as jex

Literal = jex.Literal
NameStack = source_info_util.NameStack
config: Any = jax.config
"""JAX's settings; the types of older versions do not know them."""

JIT_PRIMITIVES = frozenset({"jit", "pjit"})
INLINED_CALLS = frozenset(
    {
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "eval_jaxpr",
    }
)

BODIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(INLINED_CALLS, ("call_jaxpr", "fun_jaxpr")),
    **dict.fromkeys((*JIT_PRIMITIVES, "scan", "shard_map"), ("jaxpr",)),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
}
"""The parameters in which eqns have programs, or a tuple of them, that memjax looks into."""


def jaxpr_parts(jaxpr: Any) -> tuple[Any, tuple[Any, ...]]:
    """A jaxpr and its constants, from what a version calls a closed jaxpr.

    Up to 0.10 that is a `ClosedJaxpr` round a `Jaxpr`; from 0.11 a `Jaxpr` holds its own.
    """
    consts = tuple(getattr(jaxpr, "consts", ()))
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def with_jaxpr(closed: Any, jaxpr: Any) -> Any:
    """What a version calls a closed jaxpr, with another jaxpr over the same constants."""
    return jaxpr if jaxpr_parts(closed)[0] is closed else closed.replace(jaxpr=jaxpr)


def dce_jaxpr(jaxpr: Any, used: Sequence[bool], kept: Sequence[bool]) -> tuple[Any, list[bool]]:
    """JAX's own removal of dead code: the reduced jaxpr, and which arguments it still takes.

    Args:
        jaxpr: without its constants, where a version keeps them apart.
        used: for each result, whether it is read.
        kept: for each argument, whether it stays although nothing reads it.
    """
    reduced, taken = partial_eval.dce_jaxpr(jaxpr, list(used), list(kept))
    return reduced, list(taken)


def inlinable_body(eqn: Any) -> Any | None:
    """The body of a call that loses nothing when it is inlined, or None.

    A nested `jit` that sets shardings, layouts or compiler options stays a call.
    """
    name = eqn.primitive.name
    if name in JIT_PRIMITIVES:
        return eqn.params["jaxpr"] if _is_plain_jit(eqn.params) else None
    if name in INLINED_CALLS:
        return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return None


def _is_plain_jit(params: dict[str, Any]) -> bool:
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    layouts = (*params.get("in_layouts", ()), *params.get("out_layouts", ()))
    return (
        all(type(s).__name__ == "UnspecifiedValue" for s in shardings)
        and all(layout is None for layout in layouts)
        and not params.get("compiler_options_kvs", ())
    )


def call_name(eqn: Any) -> str:
    """How JAX shows a nested call in name stacks."""
    name = eqn.params.get("name")
    return f"{eqn.primitive.name}({name})" if name else str(eqn.primitive.name)


def sub_jaxprs(eqn: Any) -> Iterator[Any]:
    """Every jaxpr among an eqn's parameters, in the order of the parameters' names."""
    for key in sorted(eqn.params):
        value = eqn.params[key]
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") and hasattr(item, "outvars"):
                yield item


def as_function(closed: Any, name: str) -> Callable[..., list[Any]]:
    """A closed jaxpr as a function of flat arguments that returns a list of flat results."""
    evaluate = jex.jaxpr_as_fun(closed)

    def run(*arguments: Any) -> list[Any]:
        return list(evaluate(*arguments))

    run.__name__ = run.__qualname__ = name
    return run


def count_eqns(eqn: Any) -> int:
    """How many eqns an eqn is, with those of its bodies."""
    bodies = (jaxpr_parts(body)[0] for body in sub_jaxprs(eqn))
    return 1 + sum(count_eqns(inner) for body in bodies for inner in body.eqns)


def contains(eqn: Any, primitives: frozenset[str]) -> bool:
    """Whether an eqn is one of some primitives, or runs one in a body."""
    if eqn.primitive.name in primitives:
        return True
    bodies = (jaxpr_parts(body)[0] for body in sub_jaxprs(eqn))
    return any(contains(inner, primitives) for body in bodies for inner in body.eqns)


def loop_length(eqn: Any) -> int:
    """How often an eqn runs its bodies: a scan's length; 1 where nobody knows (while)."""
    return int(eqn.params["length"]) if eqn.primitive.name == "scan" else 1


@dataclass(frozen=True)
class ScanParts:
    """A scan eqn's body and how its operands are grouped: constants, carries, slices.

    Attributes:
        body: takes constants, carries, slices; returns carries and what is stacked.
        constants: how many operands are read whole by every iteration.
        carries: how many operands, and results, are handed from iteration to iteration.
        length: iterations.
        reverse: whether the last slice comes first.
        unroll: iterations that XLA sees at once.
    """

    body: Any
    constants: int
    carries: int
    length: int
    reverse: bool
    unroll: int


def scan_parts(eqn: Any) -> ScanParts:
    """Read a scan eqn. jax 0.12 groups operands by `ft_in`, earlier versions by two counts."""
    params = eqn.params
    if "num_consts" in params:
        constants, carries = params["num_consts"], params["num_carry"]
    else:
        groups = params["ft_in"].update(range(len(eqn.invars))).unpack()
        constants, carries, _ = (len(list(group)) for group in groups)
    return ScanParts(
        body=params["jaxpr"],
        constants=int(constants),
        carries=int(carries),
        length=int(params["length"]),
        reverse=bool(params["reverse"]),
        unroll=int(params["unroll"]),
    )


def name_stack_of(eqn: Any) -> NameStack:
    """The module path and transforms under which an eqn was traced."""
    stack: NameStack = eqn.source_info.name_stack
    return stack


def raw_frames(traceback: Any) -> Iterator[tuple[CodeType, int]]:
    """Frames of a traceback, innermost first, as (code, offset of its last instruction)."""
    if traceback is not None:
        yield from zip(*traceback.raw_frames(), strict=True)


@cache
def line_number(code: CodeType, offset: int) -> int:
    """The source line of an instruction."""
    return int(source_info_util.raw_frame_to_frame(code, offset).start_line)


def is_jax_file(file_name: str) -> bool:
    """Whether JAX leaves a file out of its own messages: its own, and parts of Python's."""
    return not source_info_util.is_user_filename(file_name)


def body_function(eqn: Any) -> tuple[str, int] | None:
    """File and first line of the function that a call's body was traced from, where known."""
    body = inlinable_body(eqn)
    if body is None:
        return None
    info = getattr(jaxpr_parts(body)[0], "debug_info", None)
    # "name at file:line"
    _, found, place = str(getattr(info, "func_src_info", "")).partition(" at ")
    file_name, _, line = place.rpartition(":")
    return (file_name, int(line)) if found and line.isdigit() else None


def transforms(stack: NameStack) -> tuple[str, ...]:
    """The transformations in a name stack, outermost first: `("transpose", "jvp")`."""
    return tuple(e.name for e in stack.stack if isinstance(e, source_info_util.Transform))


def scopes(stack: NameStack) -> tuple[str, ...]:
    """The named scopes in a name stack, outermost first: modules, calls."""
    return tuple(e.name for e in stack.stack if isinstance(e, source_info_util.Scope))


def compiled_messages(compiled: Any) -> tuple[bytes, bytes] | None:
    """XLA's buffer assignment and scheduled module of a compiled program, as serialized protobuf.

    The assignment is empty on all backends but CPU. None where the backend, or a version of JAX,
    does not even state the module.
    """
    try:
        assignment = getattr(compiled.memory_analysis(), "serialized_buffer_assignment_proto", b"")
        modules = compiled.runtime_executable().hlo_modules()
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    if len(modules) != 1:
        return None
    return bytes(assignment), bytes(modules[0].as_serialized_hlo_module_proto())


def bind(eqn: Any, name_stack: NameStack, operands: Sequence[Any]) -> list[Any]:
    """Run an eqn on new operands under its own name stack, source line and context."""
    primitive = eqn.primitive
    params = primitive.get_bind_params(eqn.params)
    functions: Sequence[Any] = ()
    if isinstance(params, tuple):  # (functions, params): the form of older versions
        functions, params = params
    with name_context(eqn, name_stack):
        result = primitive.bind(*functions, *operands, **params)
    return list(result) if primitive.multiple_results else [result]


@contextmanager
def name_context(eqn: Any, name_stack: NameStack) -> Iterator[None]:
    """Whatever is traced inside carries an eqn's source line and context, and a name stack."""
    full_stack = source_info_util.current_name_stack() + name_stack
    context = source_info_util.user_context(eqn.source_info.traceback, name_stack=full_stack)
    with context, eqn.ctx.manager:
        yield


def shard_map_like(eqn: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` mapped over devices as a `shard_map` eqn maps its body."""
    params = eqn.params
    mapped: Callable[..., Any] = jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    return mapped


def barrier(values: Sequence[Any]) -> list[Any]:
    """`optimization_barrier` over values, which keep their types.

    Inside of a `shard_map`, jax 0.10.2 makes everything that goes through one barrier vary
    over devices as one of its operands does. So there is one barrier for each kind.
    """
    kinds: dict[frozenset[Any], list[int]] = {}
    for number, value in enumerate(values):
        kinds.setdefault(_varying(jax.typeof(value)), []).append(number)
    fenced: dict[int, Any] = {}
    for numbers in kinds.values():
        outputs = jax.lax.optimization_barrier(tuple(values[n] for n in numbers))
        fenced.update(zip(numbers, outputs, strict=True))
    return [fenced[number] for number in range(len(values))]


def _varying(aval: Any) -> frozenset[Any]:
    """The mesh axes over which values of a type differ from device to device."""
    given = getattr(aval, "mat", None) or getattr(aval, "manual_axis_type", None)
    varying = getattr(given, "varying", None)
    return frozenset(getattr(aval, "vma", ()) if varying is None else varying)


def is_spread(aval: Any) -> bool:
    """Whether a type says by itself how a value is spread, as on a mesh with explicit axes."""
    sharding = getattr(aval, "sharding", None)
    spec = getattr(sharding, "spec", ())
    return any(axes is not None for axes in spec)


def struct(aval: Any) -> jax.ShapeDtypeStruct:
    """A type to trace for: with its sharding and the axes over which it varies."""
    more: dict[str, Any] = {"weak_type": bool(getattr(aval, "weak_type", False))}
    if not aval.sharding.mesh.empty:
        more["sharding"] = aval.sharding
    if _varying(aval):
        more["manual_axis_type"] = aval.mat
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, **more)


def stacked(aval: Any, length: int) -> jax.ShapeDtypeStruct:
    """The type of a stack of so many values of a type."""
    more: dict[str, Any] = {}
    one = struct(aval)
    if one.sharding is not None:
        spec = jax.sharding.PartitionSpec(None, *one.sharding.spec)
        more["sharding"] = one.sharding.update(spec=spec)
    if _varying(aval):
        more["manual_axis_type"] = aval.mat
    return jax.ShapeDtypeStruct((length, *aval.shape), aval.dtype, **more)


def as_type(array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array, spread and varying as a type says."""
    aval = jax.typeof(array)
    if like.sharding is not None and aval.sharding != like.sharding:
        array = jax.sharding.reshard(array, like.sharding)
    missing = _varying(like) - _varying(aval)
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def mesh_of(eqn: Any) -> Any:
    """The mesh that was in force where an eqn was traced."""
    return eqn.ctx.cur_abstract_mesh


def make_jaxpr(function: Callable[..., Any], types: Sequence[Any], mesh: Any, *likes: Any) -> Any:
    """The jaxpr of a function, as under a mesh.

    Args:
        function: of arrays.
        types: theirs.
        mesh: what `mesh_of` gives.
        likes: types that are made in the function. If one of them or of `types` varies over the
            devices, JAX keeps account of that, as in a `shard_map`.
    """
    axes = sorted(frozenset().union(*map(_varying, (*types, *likes))))
    sizes = [(axis, mesh.shape[axis]) for axis in axes]
    with (
        jax.sharding.use_abstract_mesh(mesh),
        jax_core.extend_axis_env_nd(sizes),
        jax_config._check_vma(bool(axes)),
    ):
        return jax.make_jaxpr(function)(*types)


def is_key(aval: Any) -> bool:
    """Whether a type is that of random keys, not of numbers."""
    return bool(jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key))


def is_tracer(leaf: Any) -> bool:
    """Whether a leaf stands for a value under an outer transformation."""
    return isinstance(leaf, jax.core.Tracer)


_DEVICES_OF_MESH: Any = vars(jax_mesh).get("device_context") or vars(jax_config)["device_context"]
_STATES: tuple[Any, ...] = (
    _DEVICES_OF_MESH,  # `jax.set_mesh`; the trace context has its axes
    *(
        getattr(jax_config, name)
        for name in (
            "bcoo_cusparse_lowering",
            "debug_infs",
            "debug_nans",
            "memory_fitting_level",
            "optimization_level",
        )
        if hasattr(jax_config, name)
    ),
)
"""What decides how a step is traced or compiled, and is not part of JAX's trace context."""


def call_context() -> tuple[Any, ...]:
    """What of JAX's own state decides which program a call runs: the key of `jax.jit`.

    The trace in force, the mesh, the default device, matmul precision, 64-bit types and the
    like. Two calls whose arguments have the same types share a program only if this is equal.
    """
    states = [state.value for state in _STATES]
    return (jax_core.trace_ctx.trace, jax_config.trace_context(), *states)


def runs_compiled() -> bool:
    """Whether JAX would run a call of a jitted function now, as one compiled program.

    It would not under a transformation, whatever the arguments are, nor while the user looks
    for mistakes with `jax_disable_jit`, `jax_debug_nans` or `jax_debug_infs`.
    """
    looks_for_mistakes = config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs
    return bool(jax_core.trace_state_clean()) and not looks_for_mistakes


def is_deleted(leaf: Any) -> bool:
    """Whether a leaf is an array whose memory was given up. Quick for the usual kind of array."""
    if type(leaf) is ArrayImpl:
        return bool(leaf.is_deleted())
    return isinstance(leaf, jax.Array) and not is_tracer(leaf) and leaf.is_deleted()


def is_pytree(value: Any) -> bool:
    """Whether JAX takes an object apart, and not for a leaf."""
    return not jax.tree_util.all_leaves([value])


def placement(leaf: Any) -> Any:
    """The sharding of an array or of a struct; its format where the layout is not the default."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or is_key(leaf) or getattr(leaf, "is_deleted", bool)():
        return sharding
    given, struct = leaf.format, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return sharding if pxla.is_default_layout(given.layout, sharding, struct) else given


def buffers(leaf: Any) -> tuple[Any, ...]:
    """What stands for the memory of an array, by device; empty for what holds none.

    Two arrays may share memory and be different objects: `jax.device_put(x, x.sharding)`.
    """
    if not isinstance(leaf, jax.Array) or is_tracer(leaf) or not leaf.size:
        return ()
    array = jax.random.key_data(leaf) if is_key(leaf) else leaf
    try:
        shards = array.addressable_shards
        return tuple((s.device.id, s.data.unsafe_buffer_pointer()) for s in shards)
    except (AttributeError, NotImplementedError, RuntimeError):  # a backend without pointers
        return (id(leaf),)


def aval_bytes(aval: Any) -> int:
    """Bytes of an aval; 0 for tokens and other things that take none."""
    shape = getattr(aval, "shape", None)
    dtype = getattr(aval, "dtype", None)
    if shape is None or dtype is None:
        return 0
    size = 1
    for dimension in shape:
        size *= int(dimension)
    return size * int(dtype.itemsize)


def replace_eqn(eqn: Any, **changes: Any) -> Any:
    """A copy of an eqn with other `params`, `invars` or `outvars`."""
    return eqn.replace(**changes)


def parameter_names(function: Any, static_argnums: Sequence[int]) -> tuple[str, ...]:
    """Names of the positional parameters that are not static; empty where nobody knows."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(name for i, name in enumerate(names) if i not in static_argnums)


def argument_name(path: Sequence[Any], names: Sequence[str]) -> str:
    """A leaf of `(args, kwargs)` as the user would write it: `state.params['w']`."""
    head, *rest = path
    if head.idx == 0:
        index = rest[0].idx
        root = names[index] if index < len(names) else f"args[{index}]"
    else:
        root = str(rest[0].key)
    return root + jax.tree_util.keystr(tuple(rest[1:]))


def broadcast_prefix(prefix: Any, tree: Any) -> list[Any]:
    """A leaf of `prefix` for each leaf of `tree`; None is a leaf of `prefix`."""
    result: list[Any] = []

    def extend(leaf: Any, subtree: Any) -> None:
        result.extend([leaf] * len(jax.tree_util.tree_leaves(subtree)))

    is_leaf = lambda x: x is None or isinstance(x, jax.sharding.Sharding)  # noqa: E731
    jax.tree_util.tree_map(extend, prefix, tree, is_leaf=is_leaf)
    return result


@cache
def calls_check_weak_types() -> bool:
    """Whether a compiled program refuses a strong type in the place of a weak one.

    jax 0.10.2 does not and would compute with the wrong promotion; 0.12 does.
    """
    compiled = jax.jit(lambda x: x).lower(0.0).compile()
    try:
        compiled(np.float32(0))
    except (TypeError, ValueError):
        return True
    return False


def default_device() -> Any:
    """Where JAX puts what nobody places; `jax_default_device` may be a platform's name."""
    chosen = getattr(jax.config, "jax_default_device", None)
    if isinstance(chosen, str):
        return jax.devices(chosen)[0]
    return chosen or jax.devices()[0]
