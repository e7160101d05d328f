"""Static arguments, as in `jax.jit`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.program.signature import Call, Statics, as_tuple, resolve, weak_types


def resolve_statics(function: Any, argnums: Any, argnames: Any) -> Statics:
    """Static positions and names, as the decorator reads them."""
    return Statics(*resolve(function, as_tuple(argnums), as_tuple(argnames), "static"))


def plain(x, mode, power=2, *, scale=1.0):
    return x, mode, power, scale


def anything(*args, **kwargs):
    return args, kwargs


@pytest.mark.parametrize(
    ("argnums", "argnames", "expected"),
    [
        ((), (), Statics((), ())),
        (1, (), Statics((1,), ("mode",))),
        ((2, 1), (), Statics((1, 2), ("power", "mode"))),
        (-1, (), Statics((2,), ("power",))),
        (-2, (), Statics((1,), ("mode",))),
        ((), "mode", Statics((1,), ("mode",))),
        ((), ("power", "mode"), Statics((1, 2), ("power", "mode"))),
        ((), "scale", Statics((), ("scale",))),
        (1, "power", Statics((1, 2), ("power", "mode"))),
        (1, "mode", Statics((1,), ("mode",))),
    ],
)
def test_each_is_found_from_the_other(argnums, argnames, expected):
    assert resolve_statics(plain, argnums, argnames) == expected


@pytest.mark.parametrize(
    ("argnums", "argnames", "match"),
    [
        (3, (), "static_argnums has 3, but there are 3 positions"),
        (-4, (), "static_argnums has -1"),
        ((), "modes", "static_argnames has 'modes', which is no parameter"),
    ],
)
def test_what_the_function_does_not_have(argnums, argnames, match):
    with pytest.raises(ValueError, match=match):
        resolve_statics(plain, argnums, argnames)


def test_functions_that_take_anything():
    assert resolve_statics(anything, 5, "mode") == Statics((5,), ("mode",))


def test_functions_without_a_signature():
    assert resolve_statics(print, 1, "sep").argnums == (1,)


def test_partials():
    bound = partial(plain, mode="sum")
    assert resolve_statics(bound, (), "power").argnames == ("power",)


def test_static_values_are_taken_out():
    statics = resolve_statics(plain, 1, ())
    x = jnp.ones(3)
    by_position = statics.split((x, "sum"), {"scale": 2.0})
    by_name = statics.split((x,), {"mode": "sum", "scale": 2.0})
    assert by_position.leaves == by_name.leaves == (x, 2.0)
    assert by_position.static == ((1, str, "sum"),)
    assert by_name.static == (("mode", str, "sum"),)


def test_without_statics_everything_is_a_pytree():
    x = jnp.ones(3)
    call = Statics((), ()).split(({"a": x, "b": [x, None]},), {"c": 1})
    assert call == Call(
        (x, x, 1), jax.tree_util.tree_structure((({"a": 0, "b": [0, None]},), {"c": 0})), ()
    )


def test_unhashable_statics():
    statics = resolve_statics(plain, 1, ())
    with pytest.raises(ValueError, match=r"static argument 1 is a list, which cannot be hashed"):
        statics.split((1, []), {})
    with pytest.raises(ValueError, match=r"static argument 'mode' is a dict"):
        statics.split((1,), {"mode": {}})


# Keys


def key_of(*args, **kwargs):
    return Statics((), ()).split(args, kwargs).key()


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "other",
    [
        np.ones((3, 2), np.float32),
        np.ones((2, 3), np.float16),
        np.ones((2, 3), np.int32),
        np.float32(1),
        [X],
        None,
    ],
)
def test_other_types_and_structures_have_other_keys(other):
    assert key_of(X) != key_of(other)


def test_the_same_types_have_the_same_key():
    keys = {
        key_of(v) for v in (X, 2 * X, jnp.asarray(X), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    }
    assert len(keys) == 1


def test_weak_types_have_keys_of_their_own():
    keys = {key_of(v) for v in (1.0, 2.5, np.float32(1), jnp.float32(1), 1, True)}
    assert len(keys) == 4  # weak float, float32, weak int, bool
    assert weak_types((1.0, np.float32(1), jnp.asarray(1.0), jnp.float32(1), 1, X)) == (
        True,
        False,
        True,
        False,
        True,
        False,
    )


def test_names_and_positions_have_keys_of_their_own():
    assert key_of(X) != key_of(x=X)
    assert key_of(x=X, y=X) == key_of(y=X, x=X)


def test_committed_arrays_have_keys_of_their_own():
    committed = jax.device_put(X, jax.devices()[0])
    assert key_of(committed) != key_of(jnp.asarray(X))


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({"static_argnums": 1}, [((X, "sum"), {}), ((X,), {"mode": "sum"})]),
        ({"static_argnames": "mode"}, [((X, "sum"), {}), ((X,), {"mode": "sum"})]),
        ({"static_argnames": ("mode", "power")}, [((X, "sum", 3), {}), ((X, "max", 3), {})]),
        # by keyword, jax 0.10.2 does not find what a negative position names
        ({"static_argnums": (-1, 1)}, [((X, "sum", 3), {}), ((X, "max", 2), {})]),
    ],
)
def test_as_jit_takes_them(settings, calls):
    """What is static here is what `jax.jit` treats as static: a Python value in the trace."""
    seen = []

    def step(x, mode, power=2):
        seen.append((mode, power, isinstance(power, int)))
        return x

    argnums, argnames = (settings.get(k, ()) for k in ("static_argnums", "static_argnames"))
    statics = resolve_statics(step, argnums, argnames)
    for args, kwargs in calls:
        jax.jit(step, **settings).trace(*args, **kwargs)
        call = statics.split(args, kwargs)
        values = {where: value for where, _, value in call.static}
        mode = values.get(1, values.get("mode"))
        power = values.get(2, values.get("power"))
        assert mode == seen[-1][0]
        assert (power is not None) == (seen[-1][2] and (len(args) > 2 or "power" in kwargs))
