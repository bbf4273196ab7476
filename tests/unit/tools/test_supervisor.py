"""Bridges are kept running; one that is down is down for its own callers only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from controlplane.tools.mcp_upstream import McpEndpoint
from controlplane.tools.registry import StdioServer
from controlplane.tools.supervisor import BridgeFailed, Supervisor, SupervisorSettings, bridge_command, childs_environ
from inference.errors import BackendUnavailable

SERVER = StdioServer(name="time", command="mcp-server-time", args=("--utc",), env=("TZ", "ABSENT"))
SETTINGS = SupervisorSettings(backoff_first_s=1, backoff_limit_s=4, stable_after_s=100)


@dataclass
class Life:
    endpoint: McpEndpoint
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self) -> int:
        await self.end.wait()
        return 1


@dataclass
class Stage:
    """Fake bridges with memory, and a clock that only sleeping moves."""

    fails: int = 0
    lives: list[Life] = field(default_factory=list)
    stopped: int = 0
    pauses: list[float] = field(default_factory=list)
    now_s: float = 0.0
    on_pause: Callable[[], None] = lambda: None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def start(self, server: StdioServer) -> AsyncGenerator[Life]:
        if self.fails > 0:
            self.fails -= 1
            raise BridgeFailed("no")
        life = Life(McpEndpoint(f"http://127.0.0.1:{len(self.lives)}/mcp"))
        self.lives.append(life)
        self.changed.set()
        try:
            yield life
        finally:
            self.stopped += 1

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        self.on_pause()
        await asyncio.sleep(0)

    async def next_life(self) -> Life:
        await self.changed.wait()
        self.changed.clear()
        await asyncio.sleep(0)
        return self.lives[-1]


async def during(stage: Stage, story: Callable[[Supervisor], Awaitable[None]]) -> None:
    supervisor = Supervisor((SERVER,), stage.start, SETTINGS, lambda: stage.now_s, stage.sleep)
    running = asyncio.create_task(supervisor.run())
    try:
        await asyncio.wait_for(story(supervisor), 60)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_running_server_has_an_endpoint_and_an_unlisted_one_has_none() -> None:
    stage = Stage()

    async def story(supervisor: Supervisor) -> None:
        await supervisor.all_up()
        life = await stage.next_life()
        assert supervisor.find("time") == life.endpoint
        assert supervisor.find("unlisted") is None

    await during(stage, story)
    assert stage.stopped == 1


async def test_a_server_that_is_down_is_unavailable() -> None:
    stage = Stage()
    supervisor = Supervisor((SERVER,), stage.start, SETTINGS, lambda: 0.0)
    with pytest.raises(BackendUnavailable) as caught:
        supervisor.find("time")
    assert caught.value.reason == "server_down"


async def test_a_server_that_ends_is_started_again_and_its_old_endpoint_is_forgotten() -> None:
    stage = Stage()

    async def story(supervisor: Supervisor) -> None:
        first = await stage.next_life()
        first.end.set()
        second = await stage.next_life()
        assert supervisor.find("time") == second.endpoint != first.endpoint

    await during(stage, story)


async def test_a_server_that_ended_is_down_until_it_runs_again() -> None:
    stage, found = Stage(), []

    async def story(supervisor: Supervisor) -> None:
        def look() -> None:
            with pytest.raises(BackendUnavailable) as caught:
                supervisor.find("time")
            found.append(caught.value.reason)

        stage.on_pause = look
        (await stage.next_life()).end.set()
        await stage.next_life()

    await during(stage, story)
    assert found == ["server_down"]


async def test_pauses_double_up_to_the_limit() -> None:
    stage = Stage(fails=4)

    async def story(supervisor: Supervisor) -> None:
        await stage.next_life()
        assert stage.pauses == [1, 2, 4, 4]

    await during(stage, story)


async def test_a_server_that_was_stable_starts_again_with_a_short_pause() -> None:
    stage = Stage(fails=2)

    async def story(supervisor: Supervisor) -> None:
        life = await stage.next_life()
        stage.now_s += SETTINGS.stable_after_s
        life.end.set()
        await stage.next_life()
        assert stage.pauses == [1, 2, 1]

    await during(stage, story)


def test_a_child_sees_the_path_and_what_the_registry_lists_and_nothing_else() -> None:
    ours = {"PATH": "/bin", "TZ": "UTC", "DATABASE_PASSWORD": "x", "HOME": "/root"}
    assert childs_environ(SERVER, ours) == {"PATH": "/bin", "TZ": "UTC"}


def test_the_servers_own_arguments_are_never_read_as_the_bridges() -> None:
    command = bridge_command(SERVER)
    assert command[command.index("--") + 1 :] == ["mcp-server-time", "--utc"]
