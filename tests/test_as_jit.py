"""A decorated step beside `jax.jit` of the same step: what is to be the same."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import subprocess
import sys
import weakref
from functools import partial

import cloudpickle
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout

import memjax

kept = partial(memjax.memory_budget, "1GB", donate=None)
budget = memjax.memory_budget("1GB")
X = np.arange(3, dtype=np.float32)


def both(step, **settings):
    return kept(**settings)(step), jax.jit(step, **settings)


# The key: static values


def by_type(x, n):
    kinds = {bool: 1, int: 2, float: 3, np.float64: 4, np.int32: 5}
    return x + kinds.get(type(n), 9) * 10 + n


@pytest.mark.parametrize("passed", ["position", "keyword"])
def test_equal_static_values_of_other_types_have_programs_of_their_own(passed):
    ours, theirs = both(by_type, static_argnames="n")
    for n in (1, True, 1.0, np.float64(1), np.int32(1), 1, True):
        args, kwargs = ((X, n), {}) if passed == "position" else ((X,), {"n": n})
        np.testing.assert_array_equal(ours(*args, **kwargs), theirs(*args, **kwargs))


def test_defaults_and_named_statics():
    def step(x, n=1, *, m=2.0):
        return by_type(x, n) * 100 + by_type(x, m)

    ours, theirs = both(step, static_argnames=("n", "m"))
    for kwargs in ({}, {"n": True}, {"n": 1}, {"m": 2}, {"m": 2.0, "n": 1.0}):
        np.testing.assert_array_equal(ours(X, **kwargs), theirs(X, **kwargs))


def test_a_static_that_does_not_equal_itself():
    ours = kept(static_argnums=1)(lambda x, n: x + n)
    nan = float("nan")
    for n in (nan, nan, float("nan")):
        assert np.isnan(ours(X, n)).all()
    assert len(ours._made.entries) == 2  # one object is equal to itself


def test_negative_statics_of_a_step_that_takes_any_number():
    def step(*args):
        return args[0] * (len(args) if isinstance(args[-1], int) else -1)

    ours, theirs = both(step, static_argnums=-1)
    for args in ((X, 1), (X, X, 1)):
        np.testing.assert_array_equal(ours(*args), theirs(*args))


# The key: JAX's own state


def product(a):
    return a @ a


def test_precision_is_part_of_the_key():
    dot, a = kept()(product), jnp.full((8, 8), 1 / 3)
    dot(a)
    with jax.default_matmul_precision("highest"):
        dot(a)
        assert "HIGHEST" in dot.lower(a).as_text()
    assert "HIGHEST" not in dot.lower(a).as_text()


def test_wide_types_are_part_of_the_key():
    ours, theirs = both(lambda x: x * jnp.asarray(np.pi))
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            for x in (X, np.float64(2), 2.0, np.arange(3)):
                np.testing.assert_array_equal(ours(x), theirs(x))
                assert ours(x).dtype == theirs(x).dtype


def test_layouts_are_part_of_the_key():
    ours, theirs = both(lambda x: x * 2)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    turned = jax.device_put(x, Format(Layout(major_to_minor=(1, 0)), place))
    for array in (x, turned, jax.device_put(x, place), turned):
        np.testing.assert_array_equal(ours(array), theirs(array))
    struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    assert ours.plan(struct) is ours.plan(jax.device_put(x, place))


DEVICES = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
import memjax

ours = memjax.memory_budget("1GB", donate=None)(lambda x: x * 2)
theirs = jax.jit(lambda x: x * 2)
found = {}
x = np.ones(4, np.float32)
first, second = jax.devices()[:2]

def same(name, x):
    a, b = ours(x), theirs(x)
    same = (a.sharding == b.sharding) and a.committed == b.committed
    found[name] = found.get(name, True) and same

same("nowhere", x)
for device in (second, first, second):
    with jax.default_device(device):
        same(f"default {device.id}", x)
    same(f"on {device.id}", jax.device_put(x, device))
    same(f"from {device.id}", jnp.asarray(x))
auto = dict(axis_types=(jax.sharding.AxisType.Auto,))
meshes = [jax.make_mesh((2,), ("d",), devices=jax.devices()[i : i + 2], **auto) for i in (0, 2)]

def named(x):
    return jax.lax.with_sharding_constraint(x + 1, P("d"))

ours, theirs = memjax.memory_budget("1GB", donate=None)(named), jax.jit(named)
for number in (0, 1, 0):
    with jax.set_mesh(meshes[number]):
        same(f"mesh {number}", x)
print(json.dumps(found))
"""


def on_four_devices(script):
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_devices_and_meshes_are_part_of_the_key():
    found = on_four_devices(DEVICES)
    assert [name for name, same in found.items() if not same] == []


def test_what_was_planned_for_structs_is_called_fast():
    step = kept()(lambda x, y: x * y)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    structs = (
        jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place),
        jax.ShapeDtypeStruct((), jnp.float32, weak_type=True),
    )
    step.plan(*structs)
    args = jax.device_put(X, place), 2.0
    step(*args)
    assert len(step._made.entries) == 1
    slow, step._slow_call = [], lambda *args: slow.append(args)
    step(*args)
    assert slow == []


# Where JAX runs no compiled program


def update(w, x):
    return w - 0.1 * x, jnp.sum(w * x)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("way", ["eval_shape", "make_jaxpr", "jit", "grad", "vmap"])
def test_concrete_arrays_are_kept_inside_of_a_trace(way, warm):
    step, w, x = budget(update), jnp.ones(3), jnp.ones(3)
    if warm:
        step(jnp.ones(3), x)
    runs = {
        "eval_shape": lambda: jax.eval_shape(lambda: step(w, x)),
        "make_jaxpr": jax.make_jaxpr(lambda: step(w, x)),
        "jit": lambda: jax.jit(lambda y: step(w, x)[1] + y)(1.0),
        "grad": lambda: jax.grad(lambda y: step(w, x)[1] * y)(1.0),
        "vmap": lambda: jax.vmap(lambda y: step(w, x)[1] + y)(jnp.ones(2)),
    }
    result = runs[way]()
    assert not w.is_deleted()
    if way == "make_jaxpr":
        assert "jit" in str(result)


def test_disabled_jit_runs_the_plain_step():
    seen = []

    def step(w):
        seen.append(type(w))
        return w + 1

    ours = kept()(step)
    for _ in range(2):
        with jax.disable_jit():
            np.testing.assert_array_equal(ours(jnp.zeros(2)), [1, 1])
        assert not issubclass(seen[-1], jax.core.Tracer)
        ours(jnp.zeros(2))
        assert issubclass(seen[1], jax.core.Tracer)


def test_debug_nans_names_the_primitive():
    step = budget(lambda w: jnp.log(w) + w)
    step(jnp.ones(2))
    w = -jnp.ones(2)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="log"):
        step(w)
    assert not w.is_deleted()
    assert np.isnan(step(w)).all()


def test_a_step_that_calls_itself():
    @kept(static_argnums=1)
    def factorial(x, n):
        return x if n == 0 else n * factorial(x, n - 1)

    np.testing.assert_array_equal(factorial(jnp.ones(2), 5), [120, 120])

    @kept()
    def endless(x):
        return endless(x)

    with pytest.raises(RecursionError):
        endless(jnp.ones(2))


# Arguments that share memory, are gone, or fail


def alias(x):
    other = jax.device_put(x, x.sharding)
    assert other is not x
    assert other.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
    return other


@pytest.mark.parametrize("donate", ["auto", (0,), (1,), (0, 1)])
def test_two_arrays_of_one_buffer(donate):
    step = memjax.memory_budget("1GB", donate=donate)(lambda a, b: (a + b, b * 2 + a))
    for _ in range(2):  # the slow way, and the fast one after a call without
        for make in (alias, lambda x: x):
            x = jnp.full(1000, 3.0)
            one, two = step(x, make(x))
            np.testing.assert_array_equal(one, np.full(1000, 6.0))
            np.testing.assert_array_equal(two, np.full(1000, 9.0))
        step(jnp.ones(1000), jnp.ones(1000))


def test_keys_of_one_buffer():
    step = memjax.memory_budget("1GB", donate=(0, 1))(
        lambda a, b: (jax.random.split(a)[0], jax.random.split(b)[1])
    )
    key = jax.random.key(0)
    one, two = step(key, jax.device_put(key, key.sharding))
    theirs = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(jax.random.key_data(one), jax.random.key_data(theirs[0]))
    np.testing.assert_array_equal(jax.random.key_data(two), jax.random.key_data(theirs[1]))


@pytest.mark.parametrize("text", ["cannot delete the file", "please donate"])
@pytest.mark.parametrize("donate", [None, "auto"])
def test_a_steps_own_error_comes_through(text, donate):
    def fail(bad, w):
        if bad:
            raise ValueError(text)
        return w

    def step(w, bad):
        return w + jax.pure_callback(fail, jax.ShapeDtypeStruct((2,), jnp.float32), bad, w)

    ours = memjax.memory_budget("1GB", donate=donate)(step)
    for _ in range(2):
        with pytest.raises(jax.errors.JaxRuntimeError, match=text):
            jax.block_until_ready(ours(jnp.ones(2), True))
        np.testing.assert_array_equal(ours(jnp.ones(2), False), [2, 2])


def test_every_leaf_that_is_gone_is_named():
    step = budget(lambda s, x: ({"a": s["a"] + x, "b": s["b"] - x}, x))
    for gone in (("a",), ("b",), ("a", "b")):
        step({"a": jnp.ones(2), "b": jnp.ones(2)}, jnp.ones(2))
        state = {"a": jnp.ones(2), "b": jnp.ones(2)}
        for name in gone:
            state[name].delete()
        with pytest.raises(RuntimeError, match=rf"s\['{gone[0]}'\] was given up"):
            step(state, jnp.ones(2))
        assert [n for n in state if state[n].is_deleted()] == list(gone)


# Donation in the words of `jax.jit`


def gone(step, *args, **kwargs):
    args, kwargs = jax.tree.map(jnp.array, (args, kwargs))
    step(*args, **kwargs)
    return [leaf.is_deleted() for leaf in jax.tree.leaves((args, kwargs))]


def three(a, b, c):
    return a + 1, b + c


def some(a, *rest, c):
    return [r + a for r in rest], c + 1


@pytest.mark.filterwarnings("ignore:Some donated buffers")
@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({"donate_argnums": 0}, ((X, X, X), {})),
        ({"donate_argnums": (0, 2)}, ((X, X, X), {})),
        ({"donate_argnums": [0, 2]}, ((X,), {"b": X, "c": X})),
        ({"donate_argnames": "b"}, ((X, X, X), {})),
        ({"donate_argnames": ["b"]}, ((X,), {"b": X, "c": X})),
        ({"donate_argnums": 0, "donate_argnames": "b"}, ((X, X, X), {})),
        ({"donate_argnums": 0, "donate_argnames": "b"}, ((X,), {"b": X, "c": X})),
        ({"donate_argnums": ()}, ((X, X, X), {})),
        ({"donate_argnums": (0, 1), "static_argnums": 2}, ((X, X, 2), {})),
        ({"donate_argnums": 1, "static_argnums": 0}, ((2, X, X), {})),
        ({"donate_argnums": 1}, ((X, X.astype(np.int32), X), {})),  # no result to take its place
    ],
)
def test_donation_as_jit_takes_it(settings, call):
    step = memjax.memory_budget("1GB", **settings)(three)
    theirs = jax.jit(three, **settings)
    (args, kwargs), statics = call, settings.get("static_argnums")
    if statics is None:
        assert gone(step, *args, **kwargs) == gone(theirs, *args, **kwargs)
    else:
        leaves = [[jnp.array(a) if isinstance(a, np.ndarray) else a for a in args] for _ in "ab"]
        step(*leaves[0])
        theirs(*leaves[1])
        deleted = [[isinstance(a, jax.Array) and a.is_deleted() for a in own] for own in leaves]
        assert deleted[0] == deleted[1]
        args = leaves[0]
    plain = theirs.lower(*args, **kwargs).compile()
    ours = memjax.footprint(step.compiled(*args, **kwargs))
    assert ours.total_bytes <= memjax.footprint(plain).total_bytes


def test_negative_positions_count_from_the_end():
    """As in jax 0.12; 0.10.2 donates nothing then."""
    assert gone(memjax.memory_budget("1GB", donate_argnums=-2)(three), X, X, X) == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"donate_argnums": 1}, [False, True, False, False]),
        ({"donate_argnums": -1}, [False, False, True, False]),
        ({"donate_argnames": "c"}, [False, False, False, True]),
        ({"donate": 1}, [False, True, False, False]),
        ({"donate": (1, "c")}, [False, True, False, True]),
        ({"donate": 0}, [True, False, False, False]),
        ({"donate": -1}, [False, False, True, False]),
    ],
)
def test_donated_positions_of_a_step_that_takes_any_number(settings, expected):
    assert gone(memjax.memory_budget("1GB", **settings)(some), X, X, X, c=X) == expected


def test_donate_zero_of_nothing_but_positions():
    step = memjax.memory_budget("1GB", donate=0)(lambda *args: (args[0] + args[1], args[1] * 2))
    assert gone(step, X, X) == [True, False]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"donate": None, "donate_argnums": 0}, "either donate"),
        ({"donate": (0,), "donate_argnames": "a"}, "either donate"),
        ({"donate_argnums": 0, "static_argnums": 0}, "both static and donated"),
        ({"donate_argnums": 7}, "donate_argnums has 7"),
        ({"donate_argnames": "z"}, "donate_argnames has 'z'"),
    ],
)
def test_donation_that_cannot_be(settings, match):
    with pytest.raises(ValueError, match=match):
        memjax.memory_budget("1GB", **settings)(three)


# Methods and callables


@pytest.fixture
def plans():
    """How many programs a step made."""
    return lambda step: len(step._made.entries)


def test_self_is_the_object_itself():
    class Model:
        @kept()
        def f(self, x):
            seen.append((self, type(self), hash(self)))
            return x * self.scale

        scale = 2.0

    seen = []
    model = Model()
    np.testing.assert_array_equal(model.f(X), 2 * X)
    assert seen == [(model, Model, hash(model))]
    np.testing.assert_array_equal(Model().f(X), 2 * X)  # nobody else holds it
    np.testing.assert_array_equal(model.f(x=X), 2 * X)


def test_plans_of_an_instance_go_with_it(plans):
    class Model:
        @kept()
        def f(self, x):
            return x * 2

    model = Model()
    model.f(X)
    model.f(X)
    assert plans(model.f) == 1
    held, gone = model.f, weakref.ref(model)
    del model
    held(X)  # a bound method keeps its instance
    del held
    gc.collect()
    assert gone() is None
    assert Model.__dict__["f"]._methods == {}


def test_instances_with_slots():
    class Model:
        __slots__ = ("scale",)

        def __init__(self, scale):
            self.scale = scale

        @kept(static_argnames="n")
        def f(self, x, n):
            return x * self.scale + n

    model = Model(3)
    step = model.f
    np.testing.assert_array_equal(step(X, 1), 3 * X + 1)
    np.testing.assert_array_equal(step(X, n=2), 3 * X + 2)
    assert len(step._made.entries) == 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A module that JAX takes apart."""

    w: jax.Array

    @partial(jax.jit, static_argnums=2)
    def plain(self, x, n):
        return jax.tree.map(lambda leaf: leaf + n, self), self.w * x

    @memjax.memory_budget("1GB", static_argnums=2)
    def f(self, x, n):
        return jax.tree.map(lambda leaf: leaf + n, self), self.w * x


def test_an_instance_that_is_a_pytree_is_an_argument(plans):
    layer = Layer(jnp.ones(3))
    for _ in range(3):  # other weights, the same program
        (expected, out), (ours, our_out) = layer.plain(X, 2), layer.f(X, 2)
        np.testing.assert_array_equal(our_out, out)
        np.testing.assert_array_equal(ours.w, expected.w)
        layer = ours
    assert plans(layer.f) == 1
    assert layer.f.report(X, 2).compiled.total_bytes > 0
    assert memjax.floor(layer.f, X, 2).bytes > 0
    assert layer.f.changed(budget="1MB").plan(X, 2).budget_bytes == 10**6


def test_positions_count_the_instance():
    class Model:
        @memjax.memory_budget("1GB", static_argnums=(0, 2), donate=1)
        def f(self, x, n):
            return x + n

        @memjax.memory_budget("1GB", static_argnames=("self", "n"), donate_argnames="x")
        def g(self, x, n):
            return x + n

    for step in (Model().f, Model().g):
        x = jnp.ones(3)
        np.testing.assert_array_equal(step(x, 2), [3, 3, 3])
        assert x.is_deleted()


def test_class_methods_and_static_methods():
    class Model:
        @classmethod
        @kept(static_argnums=0)
        def c(cls, x):
            return x * len(cls.__name__)

        @staticmethod
        @kept()
        def s(x):
            return x + 1

    np.testing.assert_array_equal(Model.c(X), 5 * X)
    np.testing.assert_array_equal(Model().c(X), 5 * X)
    np.testing.assert_array_equal(Model().s(X), X + 1)


def test_callables():
    class Scale:
        def __init__(self, scale):
            self.scale = scale
            self.plan = "not a plan"

        def __call__(self, x):
            return x * self.scale

    ours = kept()(Scale(3))
    np.testing.assert_array_equal(ours(X), 3 * X)
    assert ours.plan(X).budget_bytes == 10**9
    np.testing.assert_array_equal(kept()(partial(by_type, n=2))(X), by_type(X, 2))


# Copies, pickles, exports


def test_a_deep_copy_is_a_step_of_its_own(plans):
    step = kept()(lambda x: x * 2)
    step(X)
    other = copy.deepcopy({"step": step})["step"]
    assert plans(other) == 0
    np.testing.assert_array_equal(other(X), step(X))

    class Model:
        def __init__(self):
            self.scale = 2
            self.copies = [self.f]

        @kept()
        def f(self, x):
            return x * self.scale

    model = Model()
    other = copy.deepcopy(model)
    other.scale = 5
    np.testing.assert_array_equal(other.copies[0](X), 5 * X)
    np.testing.assert_array_equal(model.copies[0](X), 2 * X)


def test_cloudpickle():
    scale = 3
    step = kept(static_argnums=1)(lambda x, n: x * scale + n)
    step(X, 1)
    again = cloudpickle.loads(cloudpickle.dumps(step))
    assert again._made.entries == {}
    np.testing.assert_array_equal(again(X, 1), step(X, 1))

    class Model:
        @kept()
        def f(self, x):
            return x * scale

    np.testing.assert_array_equal(cloudpickle.loads(cloudpickle.dumps(Model().f))(X), 3 * X)


def test_export_and_trace():
    def step(state, x, n):
        return {"w": state["w"] * n + x}, jnp.sum(x)

    ours, theirs = both(step, static_argnums=2)
    state = {"w": jnp.ones(3)}
    traced = ours.trace(state, X, 3)
    assert isinstance(ours, jax.stages.Wrapped)
    assert traced.out_info == theirs.trace(state, X, 3).out_info
    assert jax.tree.structure(traced.lower().compile()(state, X)) == jax.tree.structure(
        theirs(state, X, 3)
    )
    plain = kept()(lambda state, x: step(state, x, 3))
    exported = jax.export.export(plain)(state, X)
    for mine, other in zip(
        jax.tree.leaves(exported.call(state, X)), jax.tree.leaves(plain(state, X)), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
