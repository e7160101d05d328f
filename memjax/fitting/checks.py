"""Calls that cannot be made, and why.

In: a step, its arguments. Out: nothing, or an error that says what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from memjax import _compat
from memjax.program.signature import Call, Statics
from memjax.program.trace import step_name
from memjax.targets.attach import is_attached, label


def check_attached(name: str, device: Any) -> None:
    """Refuse to run a step for a device that is not there.

    Raises:
        RuntimeError: with how its plan can be used elsewhere.
    """
    if not is_attached(device):
        raise RuntimeError(
            f"{name!r} is planned for {label(device)}, so it cannot be called here. Save "
            "its plan, .plan(…).to_json(), and where the device is give it to "
            "memory_budget(…, plan=Plan.from_json(text)): it is tried first, and its bytes are "
            "checked again"
        )


def check_alive(step: Callable[..., Any], statics: Statics, call: Call) -> None:
    """Refuse arguments that are gone.

    Raises:
        RuntimeError: an argument was given up to an earlier call.
    """
    arguments = jax.tree_util.tree_unflatten(call.tree, call.leaves)
    for path, leaf in jax.tree_util.tree_flatten_with_path(arguments)[0]:
        if _compat.is_deleted(leaf):
            name = _compat.argument_name(path, _compat.parameter_names(step, statics.argnums))
            raise RuntimeError(
                f"{name} was given up to an earlier call of {step_name(step)!r}: its buffer now "
                "belongs to that call's result. Use the returned value instead, or keep "
                "the argument with memory_budget(..., donate=None) or donate=(the "
                "arguments that may go,)"
            )
