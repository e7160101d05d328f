"""A step under a memory budget: what a call of it does.

In: a step and its settings. Out: `BudgetedStep`, which keeps one `Entry` for each signature of
its arguments: the compiled program, its plan and its report.
"""

from __future__ import annotations

import copy
import functools
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import jax

from memjax import _compat
from memjax.emit.plan import Plan
from memjax.fitting.advice import explained
from memjax.fitting.attempts import BudgetInfeasible
from memjax.fitting.checks import check_alive, check_attached
from memjax.fitting.closed_loop import Loop
from memjax.fitting.entry import Entry, Made, key_of, same_objects
from memjax.fitting.methods import method_of, settings_of_method
from memjax.fitting.report import Report, make_report
from memjax.fitting.settings import Settings, resolved, without_jit
from memjax.fitting.setup import (
    decide_donations,
    device_of,
    fit_with_cache,
    given_up,
    limit_of,
    make_loop,
    over_named_devices,
    trace_call,
)
from memjax.program import objects
from memjax.program.donation import Donation, without_shared_buffers
from memjax.program.signature import (
    Call,
    Statics,
    as_tuple,
    committed,
    in_call,
    leaf_placement,
    weak_types,
)
from memjax.program.trace import step_name


class BudgetedStep:
    """A step under a memory budget; made by `memory_budget`."""

    def __init__(self, step: Callable[..., Any], settings: Settings) -> None:
        if not callable(step):
            raise TypeError(f"memory_budget decorates a function, not {step!r}")
        if isinstance(step, (staticmethod, classmethod)):
            raise TypeError("put @staticmethod or @classmethod above @memory_budget, not below")
        step, settings = without_jit(step, settings)
        functools.update_wrapper(self, step, updated=())
        self._step = step
        self._settings = resolved(settings, step)
        self._statics = Statics(
            as_tuple(self._settings.static_argnums), as_tuple(self._settings.static_argnames)
        )
        self._made = Made()
        self._methods: dict[int, BudgetedStep] = {}
        self._bound: tuple[BudgetedStep, Any] | None = None
        self._leading: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<{self._name!r} within {self._settings.budget!r}>"

    def __get__(self, instance: Any, owner: type | None = None) -> BudgetedStep:
        """Bind to an instance, as a method: see `memory_budget`."""
        if instance is None:
            return self
        is_argument = _compat.is_pytree(instance) and 0 not in self._statics.argnums
        bound = (self if is_argument else self._method_of(instance))._copy()
        bound._bound = self, instance
        if is_argument:
            bound._leading = (instance,)
            bound.__dict__["__wrapped__"] = types.MethodType(self._step, instance)
        return bound

    def _method_of(self, instance: Any) -> BudgetedStep:
        """What all that is bound to an instance shares; gone when the instance is."""
        key = id(instance)  # not its hash: modules that hold arrays have none
        with self._made.lock:
            if key in self._methods:
                return self._methods[key]
            settings = settings_of_method(self._settings, self._step)
            try:
                weakref.finalize(instance, self._methods.pop, key, None)
            except TypeError:  # of `__slots__`: what was made lives with what is bound
                return BudgetedStep(types.MethodType(self._step, instance), settings)
            method = BudgetedStep(method_of(self._step, instance), settings)
            self._methods[key] = method
            return method

    def _copy(self) -> BudgetedStep:
        """Another step that shares what was made."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def changed(self, **settings: Any) -> BudgetedStep:
        """The same step under other settings, with plans of its own."""
        other = BudgetedStep(self._step, replace(self._settings, **settings))
        other._bound, other._leading = self._bound, self._leading
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the step and its settings, for plans to be made again."""
        if self._bound is not None:
            return BudgetedStep.__get__, self._bound
        return BudgetedStep, (self._step, self._settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> BudgetedStep:
        """An independent step, with a deep copy of the instance that it is bound to."""
        if self._bound is not None:
            step, instance = self._bound
            return step.__get__(copy.deepcopy(instance, memo))
        return BudgetedStep(copy.deepcopy(self._step, memo), self._settings)

    @property
    def _name(self) -> str:
        return step_name(self._step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step. Arguments that were donated are gone afterwards.

        Raises:
            BudgetInfeasible: at the first call with these shapes, if no plan fits.
            RuntimeError: an argument was given up to an earlier call, or the device that the step
                is planned for is not attached.
        """
        return self._call((*self._leading, *args), kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._statics.split(args, kwargs)
        entry = self._made.newest
        if (
            entry is None
            or call.tree != entry.tree
            or call.static != entry.static
            or _compat.call_context() != entry.context
            or (entry.weak is not None and weak_types(call.leaves) != entry.weak)
            or (entry.committed is not None and committed(call.leaves) != entry.committed)
        ):
            return self._slow_call(call, args, kwargs)
        was_gone = entry.given_up(call.leaves)
        try:
            flat = entry.run(*call.leaves)
        except (TypeError, ValueError, RuntimeError) as error:
            if not was_gone and entry.given_up(call.leaves):
                raise  # it ran, and failed
            return self._retry(call, args, kwargs, entry, error)
        return jax.tree_util.tree_unflatten(entry.out_tree, flat)

    def _slow_call(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if framework := objects.among(call.tree, call.leaves):
            with self._taken_apart(args, kwargs, framework) as (args, kwargs, put_back):
                return put_back(self._call(args, kwargs))
        if not _compat.runs_compiled() or any(map(_compat.is_tracer, call.leaves)):
            return self._as_jit(args, kwargs)(*args, **kwargs)
        check_attached(self._name, device_of(self._settings, call.leaves))
        check_alive(self._step, self._statics, call)
        entry = self._entry(call, args, kwargs)
        leaves = without_shared_buffers(call.leaves, entry.donated)
        # A caller who passes the same memory twice will do so again: not by the fast way.
        self._made.newest = entry if same_objects(leaves, call.leaves) else None
        return jax.tree_util.tree_unflatten(entry.out_tree, entry.run(*leaves))

    def _seen_by_jax(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> AbstractContextManager[objects.Apart]:
        """The arguments, those to which the step is bound among them, as JAX is to see them."""
        args = (*self._leading, *args)
        call = self._statics.split(args, kwargs)
        return self._taken_apart(args, kwargs, objects.among(call.tree, call.leaves))

    def _taken_apart(
        self, args: Sequence[Any], kwargs: dict[str, Any], framework: objects.Framework | None
    ) -> AbstractContextManager[objects.Apart]:
        """Arguments as JAX is to see them, and what puts results back to the user's."""
        return objects.taken_apart(
            framework,
            args,
            kwargs,
            static=(*in_call(self._statics.argnums, len(args)), *self._statics.argnames),
            returns_all=self._settings.donates_as_jit,
        )

    def _retry(
        self,
        call: Call,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        entry: Entry,
        error: Exception,
    ) -> Any:
        """The newest program refused the arguments, or failed: find out why."""
        if any(map(_compat.is_tracer, call.leaves)):
            return self._slow_call(call, args, kwargs)
        check_alive(self._step, self._statics, call)
        if same_objects(without_shared_buffers(call.leaves, entry.donated), call.leaves):
            ran = isinstance(error, RuntimeError)
            if ran or self._made.entries.get(key_of(call, entry.context)) is entry:
                raise error
        return self._slow_call(call, args, kwargs)

    def _as_jit(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The plain step, for calls that no program of ours can be: their budget, not ours."""
        return self._jit(objects.as_function(self._step, args, kwargs), kwargs)

    def _jit(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> jax.stages.Wrapped:
        return jax.jit(
            function,
            static_argnums=self._statics.argnums or None,
            static_argnames=self._statics.argnames or None,
            **self._settings.given_shardings(kwargs),
        )

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan that calls with such arguments use."""
        return self._entry_of(args, kwargs).fitted.chosen.plan

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """What was decided for such arguments, with predicted and compiled bytes."""
        entry = self._entry_of(args, kwargs)
        return make_report(entry.fitted, entry.budget_bytes)

    def compiled(self, *args: Any, **kwargs: Any) -> jax.stages.Compiled:
        """The compiled program that calls use. It takes and returns flat lists of leaves."""
        return self._entry_of(args, kwargs).fitted.step.compiled

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """The lowered program that calls use, which takes and returns flat lists of leaves."""
        return self._entry_of(args, kwargs).fitted.step.lowered

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """The program that calls use, called like the step, as `jax.jit(...).trace` gives it.

        For `jax.export.export` and other transformations of whole programs. What the step asks
        of XLA beside its program, donation and compiler options, is not part of it.
        """
        with self._seen_by_jax(args, kwargs) as (args, kwargs, _):
            return self._trace(args, kwargs)

    def _trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> jax.stages.Traced:
        entry = self._entry(self._statics.split(args, kwargs), args, kwargs)
        run = jax.extend.core.jaxpr_as_fun(entry.fitted.step.jaxpr)

        def planned(*args: Any, **kwargs: Any) -> Any:
            leaves = self._statics.split(args, kwargs).leaves
            return jax.tree_util.tree_unflatten(entry.out_tree, run(*leaves))

        planned.__name__ = planned.__qualname__ = self._name
        return self._jit(planned, kwargs).trace(*args, **kwargs)

    def jaxpr(self, *args: Any, **kwargs: Any) -> Any:
        """The jaxpr of the program that calls use, to see what was planned; flat like it."""
        return self._entry_of(args, kwargs).fitted.step.jaxpr

    def _entry_of(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Entry:
        with self._seen_by_jax(args, kwargs) as (args, kwargs, _):
            return self._entry(self._statics.split(args, kwargs), args, kwargs)

    def _entry(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Entry:
        made, context = self._made, _compat.call_context()
        key = key_of(call, context)
        with made.lock:
            if key in made.entries:
                return made.entries[key]
            making = made.making.setdefault(key, threading.RLock())
        with making:
            if key not in made.entries:
                made.entries[key] = self._make_entry(call, args, kwargs, context)
            return made.entries[key]

    def _make_entry(
        self, call: Call, args: Sequence[Any], kwargs: dict[str, Any], context: Hashable
    ) -> Entry:
        settings = self._settings
        loop, _ = self._loop(args, kwargs)
        limit = limit_of(settings, call.leaves)
        try:
            fitted = fit_with_cache(loop, limit, settings)
        except BudgetInfeasible as error:
            raise explained(error) from None
        placed = tuple(leaf_placement(leaf) is not None for leaf in call.leaves)
        return Entry(
            tree=call.tree,
            static=call.static,
            context=context,
            weak=None if _compat.calls_check_weak_types() else weak_types(call.leaves),
            committed=placed if jax.device_count() > 1 else None,
            run=fitted.step.compiled,
            out_tree=loop.program.out_tree,
            donated=fitted.donated,
            fitted=fitted,
            budget_bytes=limit,
        )

    def _loop(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Loop, tuple[Donation, ...]]:
        """A closed loop that is ready to run, and the verdict on donation."""
        settings, step = self._settings, objects.as_function(self._step, args, kwargs)
        args, kwargs = over_named_devices(settings, args, kwargs)
        call = self._statics.split(args, kwargs)
        program = trace_call(step, self._statics, args, kwargs)
        donations = decide_donations(program, settings, call, step)
        donated = given_up(donations, settings, call, step)
        device = device_of(settings, call.leaves)
        return make_loop(program, call, settings, donations, donated, device), donations


def loop_for(
    step: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], device: Any = None
) -> tuple[Loop, tuple[Donation, ...]]:
    """A closed loop that is ready to run, and the verdict on donation, for a call of a step.

    Args:
        step: decorated or not.
        args: its arguments.
        kwargs: likewise.
        device: where it is to run; None leaves that to the step's decorator and its arguments.
    """
    if not isinstance(step, BudgetedStep):
        step = BudgetedStep(step, Settings(budget=1, device=device))
    elif device is not None:
        step = step.changed(device=device)
    with step._seen_by_jax(args, kwargs) as (args, kwargs, _):
        return step._loop(args, kwargs)
