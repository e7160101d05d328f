"""A small GPT, analysed and fitted once a process, for the tests of what users see."""

from __future__ import annotations

from functools import cache

import memjax
from memjax.demo.gpt import gpt_task
from memjax.fitting.report import Analysis, Report

BUDGET = "4.5MiB"
ROOMY = "64MiB"


@cache
def task():
    return gpt_task(layers=2, width=64, heads=4, tokens=64, batch=4, vocab=256)


@cache
def analysis() -> Analysis:
    return memjax.analyze(task().step, task().state, task().batch)


@cache
def report(budget: str) -> Report:
    """Of a plan that recomputes (`BUDGET`), or of the program as it is (`ROOMY`)."""
    return memjax.memory_budget(budget)(task().step).report(task().state, task().batch)


@cache
def frontier() -> memjax.Frontier:
    return memjax.frontier(task().step, task().state, task().batch, points=4)
