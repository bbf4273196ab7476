"""What every test shares: asyncio as the one event loop, properties that may be slow, and a word at the end on which
real components were met.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from typing import Any

import hypothesis
import pytest

# How long an example takes says something about the machine, and nothing about the property. A run can be repeated;
# `pytest tests/properties --hypothesis-profile=searching` looks at examples that nobody has seen.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.register_profile(
    "searching", hypothesis.settings.get_profile("repeatable"), derandomize=False, max_examples=500
)
hypothesis.settings.load_profile("repeatable")

met: dict[str, int] = defaultdict(int)
missed: dict[str, set[str]] = defaultdict(set)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def one_loop(anyio_backend: str) -> AsyncGenerator[None]:
    """One event loop from the first test to the last: grpc.aio has one poller for the process, and hands a late event
    of a loop that is closed to the next one as an error.
    """
    yield  # noqa: PT022  the loop lives as long as this waits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(0, "one_loop")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any]:
    report = (yield).get_result()
    for mark in item.iter_markers("real"):
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            missed[mark.args[0]].add(reason.removeprefix("Skipped: "))
        elif report.when == "call" and report.passed:
            met[mark.args[0]] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not met and not missed:
        return
    terminalreporter.section("real components")
    for part in sorted(met):
        terminalreporter.line(f"met      {part}: {met[part]} tests")
    for part in sorted(missed):
        terminalreporter.line(f"skipped  {part}: {'; '.join(sorted(missed[part]))}")
