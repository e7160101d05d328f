"""Random train steps under random budgets: does everything that memjax promises hold?

Claim: no step of `benchmarks.random_steps` fails a check of `benchmarks.promises`, nor gives
other numbers when decisions of `benchmarks.random_schedules` are carried out.

A line of JSON a program goes to `--out`; programs that are there are not run again. `--summary`
writes the CSV file of that, with failures by kind. A program that failed is run alone by
`--seed S --only I`, and `--reduce` with it looks for a smaller one.

    python -m benchmarks.fuzz --count 200 --seed 0 --out fuzz.jsonl --summary
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import promises, provenance
from benchmarks.random_layers import Dice
from benchmarks.random_schedules import randomly_planned
from benchmarks.random_steps import RandomStep, Recipe, build, draw_step
from benchmarks.record import write_csv
from memjax.planning.planners import Planner

SCHEDULES = "random schedules"
CHECKS = (*promises.CHECKS, SCHEDULES)
LAYERS = 4
"""At the most, unless told otherwise: then plain compiles in about a second."""
FULLY_PLANNED = 4
"""One program in so many is planned by the default planner, the others by a short one: a third of
the time of a program is the planner's."""
KEPT_PROGRAMS = 8
"""After so many programs, what was compiled is let go."""
SIMPLEST = {
    "gradients": "plain", "update": "sgd", "flow": "straight", "container": "tuple",
    "extra": "nothing", "results": (), "auxiliary": (), "entropy": False, "announces": False,
    "donate": None,
}  # fmt: skip


def drawn_step(seed: int, number: int, layers: int = LAYERS) -> RandomStep:
    """The `number`-th step of a seed, with at most so many layers."""
    return draw_step(Dice(1_000_003 * seed + number), layers)


def planner_of(number: int) -> str | Planner:
    """By which planner a program is planned."""
    return promises.SHORT if number % FULLY_PLANNED else "auto"


def random_schedules(drawn: RandomStep, count: int = 2) -> str | None:
    """Whether random decisions change what a step does."""
    subject = promises.Subject(drawn, promises.SHORT)
    wanted, _ = subject.plain
    for number in range(count):
        step = randomly_planned(Dice(number), subject.budgeted(1), drawn.arguments())
        seen = promises.run(step, drawn.arguments())
        if text := promises.differences(seen, wanted, drawn.recipe.tolerance):
            return text
    return None


def kind_of(text: str) -> str:
    """What kind of failure a text tells of."""
    head = text.split(":")
    return ":".join(head[:2]) if head[0] == "crash" else head[0]


def checked(
    drawn: RandomStep, checks: Sequence[str] = CHECKS, planner: str | Planner = "auto"
) -> dict[str, Any]:
    """The failures of a step, by check, and what was measured."""
    with compiled_once():
        return _checked(drawn, checks, planner)


def _checked(drawn: RandomStep, checks: Sequence[str], planner: str | Planner) -> dict[str, Any]:
    start = time.perf_counter()
    promised = [c for c in checks if c in promises.CHECKS]
    try:
        found, subject = promises.failures(drawn, promised, planner=planner)
    except Exception as error:  # noqa: BLE001  plain JAX cannot run it: a fault of the generator
        return {"recipe": str(drawn.recipe), "failures": {"plain": f"crash: {error}"[:300]}}
    try:
        if SCHEDULES in checks and (text := random_schedules(drawn)):
            found[SCHEDULES] = text
    except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
        found[SCHEDULES] = promises.crash_text(error)
    return {
        "recipe": str(drawn.recipe),
        "plain_bytes": subject.plain_bytes,
        "floor_bytes": subject.__dict__.get("floor_bytes", 0),
        "failures": found,
        "seconds": round(time.perf_counter() - start, 2),
        **{f"{name} seconds": round(s, 3) for name, s in subject.seconds.items()},
    }


def smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes with a layer less or a choice that is simpler."""
    for number in range(len(recipe.layers)):
        yield replace(recipe, layers=recipe.layers[:number] + recipe.layers[number + 1 :])
    for name, simple in SIMPLEST.items():
        if getattr(recipe, name) != simple:
            yield replace(recipe, **{name: simple})
    for number, placed in enumerate(recipe.layers):
        plain = replace(placed, reads=number, other=-1, shares=False)
        if plain != placed:
            layers = (*recipe.layers[:number], plain, *recipe.layers[number + 1 :])
            yield replace(recipe, layers=layers)


def reduced(recipe: Recipe, checks: Sequence[str]) -> Recipe:
    """A recipe that fails in the same way, of which no `smaller` one does."""
    wanted = {kind_of(text) for text in checked(build(recipe), checks)["failures"].values()}
    while wanted:
        for other in smaller(recipe):
            failed = checked(build(other), checks)["failures"]
            kinds = {kind_of(text) for text in failed.values()}
            if kinds & wanted:
                recipe = other
                print(f"  {recipe}", flush=True)
                break
        else:
            break
    return recipe


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The programs that a file has."""
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for all programs, then one for each check and kind of failure."""
    failed = Counter(
        (check, kind_of(text)) for row in rows for check, text in row["failures"].items()
    )
    total = sum(row.get("seconds", 0.0) for row in rows)
    code = provenance.code_digest("benchmarks.fuzz")
    overall = {
        "programs": len(rows),
        "failed": sum(bool(row["failures"]) for row in rows),
        "seconds_a_program": round(total / max(1, len(rows)), 2),
        "of_this_code": sum(row["code"] == code for row in rows),
    }
    of_kind = [
        {"check": check, "kind": kind, "failed": count}
        for (check, kind), count in sorted(failed.items())
    ]
    return [overall, *of_kind]


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    told = "; ".join(f"{check}: {text}" for check, text in row["failures"].items())
    return f"{row['number']} {'FAILS ' + told if told else 'holds'} | {row['recipe']}"


def use_float64() -> None:
    """Numbers of different programs then agree to many digits."""
    jax.config.update("jax_enable_x64", True)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """A program that the checks of a step compile again and again is compiled once.

    Buffers and footprints that XLA states are the same when JAX reads it from its cache.
    """
    settings = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *settings)}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in {"jax_compilation_cache_dir": folder, **settings}.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


@click.command()
@click.option("--count", default=100, help="how many programs")
@click.option("--seed", default=0, help="of all of them")
@click.option("--layers", default=LAYERS, help="of a program at the most")
@click.option("--only", type=int, help="the number of a single program")
@click.option("--reduce", is_flag=True, help="look for a smaller program that fails like --only's")
@click.option("--out", type=click.Path(path_type=Path), help="a file of JSON lines to go on with")
@click.option("--check", "checks", multiple=True, type=click.Choice(CHECKS), default=CHECKS)
@click.option("--summary", "summarize", is_flag=True, help="write the CSV file")
def main(
    count: int,
    seed: int,
    layers: int,
    only: int | None,
    reduce: bool,
    out: Path | None,
    checks: tuple[str, ...],
    summarize: bool,
) -> None:
    """Check many programs."""
    use_float64()
    if reduce and only is not None:
        print(reduced(drawn_step(seed, only, layers).recipe, checks))
        return
    rows = rows_in(out) if out else []
    done = {(row["seed"], row["layers"], row["number"]) for row in rows}
    numbers = range(count) if only is None else (only,)
    for place, number in enumerate(numbers):
        if (seed, layers, number) in done and only is None:
            continue
        code = provenance.code_digest("benchmarks.fuzz")
        rows.append({"seed": seed, "layers": layers, "number": number, "code": code})
        rows[-1] |= checked(drawn_step(seed, number, layers), checks, planner_of(number))
        print(line(rows[-1]), flush=True)
        if out:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        if place % KEPT_PROGRAMS == KEPT_PROGRAMS - 1:
            jax.clear_caches()
    if summarize:
        write_csv("fuzz", summary(rows))


if __name__ == "__main__":
    main()
