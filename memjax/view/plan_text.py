"""What a plan says, and how two plans differ, in words.

In: plans, and the program that they are for, where it is at hand. Out: rows and lines. A plan
alone knows eqns by their numbers; the program knows what they compute, and on which line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from memjax.emit.plan import Plan, Recomputation
from memjax.helpers.brief import html_table, table
from memjax.helpers.budget import format_bytes
from memjax.program.eqns import Program

MOST_ROWS = 12
_SEGMENTS = ("before eqn", "eqns", "recomputed")


def plan_text(plan: Plan, most: int | None = None) -> str:
    """A plan, a line a segment."""
    shown = plan.recomputations[:most]
    lines = [summary(plan)]
    if shown:
        lines += [f"  {line}" for line in table(_SEGMENTS, _cells(shown), right=(0, 1))]
    if len(plan.recomputations) > len(shown):
        lines.append(f"  and {len(plan.recomputations) - len(shown)} more segments")
    return "\n".join(lines)


def plan_html(plan: Plan) -> str:
    """A plan for a notebook, a row a segment."""
    segments = html_table(_SEGMENTS, _cells(plan.recomputations), right=(0, 1))
    return f"<p>{escape(summary(plan))}</p>{segments}"


def summary(plan: Plan) -> str:
    """A plan in one line."""
    eqns = sum(len(r.eqns) for r in plan.recomputations)
    count = len(plan.loops)
    loops = f", {count} loop{'s' if count > 1 else ''} changed" if count else ""
    count = len(plan.splits)
    splits = f", {count} region{'s' if count > 1 else ''} in chunks" if count else ""
    return (
        f"plan for {plan.program.name!r}: {format_bytes(plan.predicted_bytes)} predicted of "
        f"{format_bytes(plan.budget_bytes)}, {eqns} eqns recomputed in "
        f"{len(plan.recomputations)} segments{splits}{loops}, "
        f"overhead {100 * plan.overhead:.1f} % ({plan.planner})"
    )


def eqn_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row for each eqn that runs again, in order: its segment, and before which eqn."""
    return [
        {"segment": number, "before": r.before, "eqn": eqn}
        for number, r in enumerate(plan.recomputations)
        for eqn in r.eqns
    ]


def _cells(recomputations: Sequence[Recomputation]) -> list[tuple[int, int, str]]:
    return [(r.before, len(r.eqns), _numbers(r.eqns)) for r in recomputations]


def _numbers(eqns: Sequence[int], most: int = 8) -> str:
    shown = " ".join(str(e) for e in eqns[:most])
    return f"{shown} …" if len(eqns) > most else shown


@dataclass(frozen=True)
class Row:
    """Equal eqns of a plan, counted.

    Attributes:
        count: how many of them.
        what: primitive and type; the numbers of the eqns where the program is not known.
        source: the user's line, where it is known.
    """

    count: int
    what: str
    source: str


def rows(eqns: Iterable[int], program: Program | None) -> tuple[Row, ...]:
    """Eqns, those of one line and type as one row, the most frequent first."""
    counted = Counter(_described(eqn, program) for eqn in eqns)
    return tuple(Row(n, what, source) for (what, source), n in counted.most_common())


def _described(eqn: int, program: Program | None) -> tuple[str, str]:
    if program is None:
        return f"eqn {eqn}", ""
    found = program.eqns[eqn]
    types = ", ".join(program.avals[v].str_short() for v in found.outputs)
    return f"{found.primitive} {types}", found.source or ""


def recomputed(plan: Plan) -> list[int]:
    """The eqns that run again, in the order in which they do."""
    return [eqn for part in plan.recomputations for eqn in part.eqns]


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What a plan says of itself, as names and texts."""
    bound = plan.bound_overhead
    again = recomputed(plan)
    found = [
        ("step", plan.program.name),
        ("traced by", f"jax {plan.program.jax_version}"),
        ("arguments", f"{len(plan.program.arguments)} arrays"),
        ("budget", format_bytes(plan.budget_bytes)),
        ("predicted", format_bytes(plan.predicted_bytes)),
        ("recomputed", f"{len(again)} eqns in {len(plan.recomputations)} segments"),
        ("splits", f"{len(plan.splits)} regions in chunks"),
        ("loops", f"{len(plan.loops)} changed, {len(plan.insides)} bodies planned"),
        ("overhead", f"{100 * plan.overhead:.1f} %"),
        ("at least", "not proven" if bound is None else f"{100 * bound:.1f} %"),
        ("order", "another one" if plan.first_runs else "the program's own"),
        ("planner", plan.planner),
    ]
    return [(name, text) for name, text in found if text]


def plan_lines(plan: Plan, program: Program | None = None, most: int = MOST_ROWS) -> list[str]:
    """A plan on a screen."""
    lines = [f"plan for {plan.program.name!r}"]
    lines += [f"  {line}" for line in table(("", ""), facts(plan)[1:])[1:]]
    lines += [f"    {text}" for text in _loop_texts(plan)[:most]]
    if program is None or not plan.recomputations:
        return [*lines, *_segment_lines(plan, most)]
    return [*lines, "  recomputed:", *_row_lines(rows(recomputed(plan), program), most)]


def _loop_texts(plan: Plan) -> list[str]:
    """What happens to each region and each pair of scans."""
    texts = [
        f"region of value {split.value}: {split.chunks} chunks along its axis {split.axis}"
        for split in plan.splits
    ]
    for loop in plan.loops:
        chunks = " × ".join(map(str, loop.chunks))
        split = f", in chunks of {chunks} iterations" if chunks else ""
        texts.append(f"scan at eqn {loop.scan}: {len(loop.kept)} values stacked{split}")
    return texts


def _segment_lines(plan: Plan, most: int) -> list[str]:
    lines = [
        f"    before eqn {part.before}: {_some(part.eqns)}" for part in plan.recomputations[:most]
    ]
    return lines + _rest(len(plan.recomputations) - most, "segments")


def _some(eqns: Sequence[int], most: int = 8) -> str:
    shown = ", ".join(map(str, eqns[:most]))
    return shown if len(eqns) <= most else f"{shown}, … ({len(eqns)} eqns)"


def _row_lines(found: Sequence[Row], most: int) -> list[str]:
    cells = [(row.count, row.what, row.source) for row in found[:most]]
    lines = table(("eqns", "", "source"), cells, right=(0,)) if cells else []
    return [*(f"    {line}" for line in lines), *_rest(len(found) - most, "kinds")]


def _rest(count: int, of_what: str) -> list[str]:
    return [f"    and {count} more {of_what}"] if count > 0 else []


@dataclass(frozen=True)
class Difference:
    """How two plans differ.

    Attributes:
        programs: why they are for different programs; None where they are for one.
        only_first: eqns that only the first recomputes; empty where the programs or what
            happens to loops differ.
        only_second: likewise.
    """

    first: Plan
    second: Plan
    programs: str | None
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]

    @property
    def same(self) -> bool:
        """Whether they are for one program and carry out the same schedule."""
        return self.programs is None and self.first.decides_like(self.second)

    @property
    def other_loops(self) -> bool:
        """Whether they change loops or regions in other ways: eqns cannot be compared then."""
        one, two = self.first, self.second
        mine = (one.splits, one.loops, one.insides)
        return mine != (two.splits, two.loops, two.insides)

    def to_dict(self) -> dict[str, object]:
        """The difference in plain types, ready for JSON."""
        return {
            "same": self.same,
            "programs": self.programs,
            "other_loops": self.other_loops,
            "first": dict(facts(self.first)),
            "second": dict(facts(self.second)),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def difference(first: Plan, second: Plan) -> Difference:
    """Compare two plans."""
    programs = first.program.difference(second.program)
    without = Difference(first, second, programs, (), ())
    if programs is not None or without.other_loops:
        return without
    ones, twos = Counter(recomputed(first)), Counter(recomputed(second))
    return Difference(
        first,
        second,
        None,
        tuple(sorted((ones - twos).elements())),
        tuple(sorted((twos - ones).elements())),
    )


def difference_lines(
    found: Difference, program: Program | None = None, most: int = MOST_ROWS
) -> list[str]:
    """A difference on a screen: facts side by side, then what only one recomputes."""
    pairs = zip(facts(found.first), facts(found.second), strict=True)
    lines = [f"  {'':<12} {'first':<28} second"]
    lines += [
        f"{' ' if one == two else '≠'} {name:<12} {one:<28} {two}"
        for (name, one), (_, two) in pairs
    ]
    if found.programs is not None:
        return [*lines, f"  for different programs: {found.programs}"]
    if found.same:
        return [*lines, "  the same schedule"]
    if found.other_loops:
        return [*lines, "  regions or loops are changed in other ways"]
    for name, eqns in (("first", found.only_first), ("second", found.only_second)):
        lines.append(f"  recomputed by the {name} alone: {len(eqns)} eqns")
        if program is not None:
            lines += _row_lines(rows(eqns, program), most)
        elif eqns:
            lines.append(f"    {_some(eqns, most)}")
    if not found.only_first and not found.only_second:
        lines.append("  they recompute the same eqns at other places")
    return lines


def plan_page(plan: Plan) -> str:
    """A page that shows a plan without its program."""
    segments = [
        (part.before, len(part.eqns), ", ".join(map(str, part.eqns)))
        for part in plan.recomputations
    ]
    arguments = [tuple(text.split(": ", 1)) for text in plan.program.arguments]
    return _PAGE.format(
        title=escape(f"plan for {plan.program.name}"),
        about=html_table(("plan", ""), facts(plan)),
        loops="".join(f"<p>{escape(text)}</p>" for text in _loop_texts(plan)),
        segments=html_table(("before eqn", "eqns", "which"), segments, right=(0, 1)),
        arguments=html_table(("argument", "type"), arguments),
    )


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }}
th, td {{ padding: .2em 1em .2em 0; vertical-align: top }}
tr {{ border-bottom: 1px solid #ccc }}
</style>
<h1>{title}</h1>
{about}
{loops}
<h2>Segments</h2>
{segments}
<details><summary>Arguments of the program</summary>{arguments}</details>
</html>
"""
