"""The only file that knows every room: who is who in one gateway process, and in which order they start and end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp

from audit import AuditUnavailable, Commitments, LedgerReader, SqliteLedger, load_commitment_key
from controlplane.adaptation import isolate
from controlplane.adapting import Adapting
from controlplane.approval_desk import ApprovalDesk, recall, roles_in
from controlplane.approvals import Book
from controlplane.behaviour import Behaving, Finding, Keeper, Oversight, Remembering, Watch
from controlplane.behaviour_desk import BehaviourDesk, words_in
from controlplane.choosing import Choosing
from controlplane.clock import Clock
from controlplane.console.api import build as console
from controlplane.drift_desk import DriftDesk
from controlplane.fleet import Fleet
from controlplane.gateway import edge, health
from controlplane.gateway.approval import Append, KeepApprovals
from controlplane.gateway.discharges import discharges
from controlplane.gateway.dispatch import ByKind, ByName
from controlplane.gateway.doors import anthropic, openai
from controlplane.gateway.doors.feedback import FeedbackDoor
from controlplane.gateway.doors.functions import FunctionsDoor
from controlplane.gateway.doors.huggingface import HubList, HubModel, HubPaths
from controlplane.gateway.doors.mcp import McpDispatch, McpDoor, McpDoorSettings
from controlplane.gateway.doors.model_tools_mcp import ModelToolsMcp
from controlplane.gateway.doors.tfserving_call import ReloadRefused
from controlplane.gateway.doors.tfserving_grpc import TfServingGrpc
from controlplane.gateway.doors.tfserving_rest import SharedModelPath, TfServingRest
from controlplane.gateway.doors.tools import ToolsDoor
from controlplane.gateway.edge import HttpDoor
from controlplane.gateway.gateway import Dispatch, Gateway
from controlplane.gateway.hygiene import Hygiene
from controlplane.gateway.meter import Meter
from controlplane.gateway.metered_ledger import MeteredLedger
from controlplane.gateway.model_tools import ModelTools
from controlplane.gateway.models import ModelDispatch
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.observers import Observers
from controlplane.gateway.problems import Problem
from controlplane.gateway.recorder import LedgerRecorder
from controlplane.gateway.tracer import CallLog, Tracer
from controlplane.gauges import Gauges
from controlplane.held import Said, restore
from controlplane.identity.identity import TokenIdentity
from controlplane.identity.metadata import WELL_KNOWN_PATH, challenge, protected_resource_metadata
from controlplane.identity.settings import IdentitySettings
from controlplane.limits import RateLimit
from controlplane.llm_signals import LanguageSignals
from controlplane.model_moves import ModelMoves
from controlplane.observations import Observations
from controlplane.operations import Operations
from controlplane.playbook_deeds import FleetDeeds
from controlplane.playbooks import Playbooks
from controlplane.policy import BundlePolicy
from controlplane.resilience.breaker import Transition
from controlplane.response_cache import Parts
from controlplane.saved_answers import VersionSpokenFor, cache_parts
from controlplane.settings import Settings
from controlplane.shown import AdaptationShown, PlaybooksShown
from controlplane.spending import Spending
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import build_tracing
from controlplane.tools.exchange import open_session
from controlplane.tools.http_tool import HttpToolBackend
from controlplane.tools.mcp_upstream import McpBackend, remote_endpoints
from controlplane.tools.registry import Registry, load_registry
from controlplane.tools.supervisor import BridgeProcesses, Supervisor, SupervisorSettings
from controlplane.upstreams import UpstreamBreakers

log = logging.getLogger(__name__)


class ControlPlane:
    """One gateway process, wired. Enter it; then ``app`` serves HTTP and ``grpc_port`` TF Serving's gRPC.

    ``obligations`` replaces the table of what this enforcement point can discharge.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, obligations: Obligations | None = None
    ) -> None:
        self.settings, self.clock = settings, clock or Clock()
        self.metrics = Metrics("gateway", version("agent-controlplane"), settings.telemetry.label_caps)
        self.tracing = build_tracing(
            settings.telemetry.tracing, self.metrics, component="gateway", version=version("agent-controlplane")
        )
        self.ledger = SqliteLedger(settings.audit)
        self.policy = BundlePolicy(settings.policy, self.clock.wall)
        self.identity_settings = _with_metadata_url(settings)
        self.identity = TokenIdentity(self.identity_settings, wall_clock=self.clock.wall)
        self.registry = load_registry(settings.registry) if settings.registry else Registry()
        self.obligations = obligations or discharges(RateLimit(settings.limits.max_counters), self.clock.monotonic)
        self.approvals, self.roles_of = Book(settings.approvals), roles_in(self.policy)
        self.watch = Watch(settings.behaviour, lambda: self.policy.bundle, self._behaved)
        self.grpc_port = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.metrics.observe_orphan_intents(await anyio.to_thread.run_sync(self._orphans))
            await self.ledger.open()
            stack.push_async_callback(self.ledger.close)
            stack.push_async_callback(anyio.to_thread.run_sync, self.tracing.close)
            self.policy.load()
            await stack.enter_async_context(self.identity)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            self.adapting = Adapting(
                self.settings.admission,
                self.settings.adaptation,
                self.policy,
                clock=self.clock,
                metrics=self.metrics,
            )
            self.fleet = Fleet(self.settings, lambda: self.policy.catalogue, self.clock, self.adapting)
            self.fleet.breakers.listen(self._breaker_moved)
            stack.push_async_callback(self.fleet.aclose)
            await self._choices(stack, tasks)
            self.moves = ModelMoves(self.ledger, self.fleet, self.metrics)
            holds = await anyio.to_thread.run_sync(self._resume)
            self.observations = Observations(
                self.settings.observations,
                lambda call: self.fleet.version_meant(call.resource.rpartition("/")[2], call.version, call.label),
                self.clock.wall,
            )
            language = LanguageSignals(
                self.observations, self.settings.observations.signals_per_s, self.settings.observations.signal_bytes
            )
            self.observations.listener, self.observations.guarded = language, self.fleet.guards.counts
            tasks.start_soon(language.run)
            redis = self._redis(stack)
            self._share_breakers(tasks, redis, holds)
            self.fleet.answers = self.answers = self._answers(redis)
            await self._money(stack, tasks, redis)
            await self._behaviour(stack, tasks)
            self.drift_desk = await self._desk(stack)
            self.playbooks = self._playbooks()
            self.gateway = await self._gateway(stack, tasks)
            self.app = self._application()
            self.grpc_port = await self._grpc(stack)
            tasks.start_soon(self.policy.watch)
            tasks.start_soon(self.fleet.keep_deployed)
            tasks.start_soon(self.fleet.pools.watch)
            await self._heal(tasks)
            tasks.start_soon(self.adapting.loop.run)
            self.fleet.shadows.observe, self.fleet.shadows.keep = self.metrics.observe_shadow, self.observations.keep
            tasks.start_soon(self.fleet.shadows.run, self.ledger.append)
            tasks.start_soon(self._gauges().keep_reporting)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def faults(self) -> Mapping[str, str]:
        """What keeps this process from serving, by part; readiness is the absence of any."""
        faults = {}
        if not self.ledger.is_writable:
            faults["ledger"] = self.ledger.trouble or "not_writable"
        if not self.policy.status().revision:
            faults["policy"] = "no_policy"
        return faults

    async def _desk(self, stack: AsyncExitStack) -> DriftDesk:
        path = self.settings.state / "drift.sqlite"
        desk = await anyio.to_thread.run_sync(DriftDesk, path, self.ledger.append, self.clock.wall)
        stack.callback(desk.close)
        return desk

    def _gauges(self) -> Gauges:
        return Gauges(
            metrics=self.metrics,
            policy=self.policy,
            ledger=self.ledger,
            fleet=self.fleet,
            adapting=self.adapting,
            observations=self.observations,
            answers=self.answers.memory,
            approvals=self.approvals,
            wall_clock=self.clock.wall,
        )

    def _redis(self, stack: AsyncExitStack) -> Any:
        """A client, None where nothing is shared. The package is an extra."""
        if self.settings.redis is None:
            return None
        from controlplane.shared_state.connection import connect  # noqa: PLC0415  see above

        client = connect(self.settings.redis)
        stack.push_async_callback(client.aclose)
        return client

    def _answers(self, redis: Any) -> Parts:
        settings, fleet, secret, shared = self.settings.response_cache, self.fleet, None, None
        if settings.shared:
            from controlplane.response_cache.redis_store import RedisStore  # noqa: PLC0415  as above

            secret, failed = load_commitment_key(settings.secret), self.metrics.observe_shared_cache_failed
            deadline_s, monotonic = settings.deadline_ms / 1000, self.clock.monotonic
            shared = RedisStore(redis, secret, deadline_s, settings.pause_s, monotonic, failed)
        version_of = VersionSpokenFor(
            fleet.deployment_of, fleet.first_version, lambda: self.policy.catalogue, fleet.identities(), fleet.breakers
        )
        return cache_parts(settings, version_of, self.metrics, self.clock, secret=secret, shared=shared)

    def _resume(self) -> Mapping[tuple[str, str], Said]:
        """What the ledger remembers: the models' states, and what is held, as it was last said."""
        self.moves.resume()
        self._begin_adapting()
        moved_ms = {model: moved.at_ms for model, moved in self.moves.states.items()}
        return restore(self.ledger, self.fleet.breakers, moved_ms)

    def _share_breakers(
        self, tasks: anyio.abc.TaskGroup, redis: Any, holds: Mapping[tuple[str, str], tuple[bool, int]]
    ) -> None:
        settings, breakers = self.settings.breaker_sharing, self.fleet.breakers
        if not settings.shared:
            return
        from controlplane.resilience.redis_breakers import SharedBreakers  # noqa: PLC0415  as above

        shared = breakers.leases = SharedBreakers(
            redis,
            breakers,
            settings,
            gateway=settings.gateway or f"{socket.gethostname()}:{os.getpid()}",
            lease_s=self.settings.breaker.probe_lease_s,
            monotonic=self.clock.monotonic,
            wall=self.clock.wall,
            reached=self.metrics.observe_breakers_shared,
            append=self.ledger.append,
        )
        shared.begin(holds)
        tasks.start_soon(shared.keep)

    async def _money(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup, redis: Any) -> None:
        settings, store = self.settings.cost, None
        if settings.shared:
            from controlplane.cost.redis_budgets import RedisBudgets  # noqa: PLC0415  as above

            store = RedisBudgets(redis, settings.deadline_ms / 1000, settings.settle_s)
            stack.push_async_callback(store.settle)
            tasks.start_soon(store.keep_settling)
        paths = {"ledger": self.settings.audit.path, "state": self.settings.state}
        listen = self.ledger.listen
        self.spending = Spending(settings, self.policy, self.metrics, self.clock, **paths, store=store, listen=listen)
        await self.spending.begin()
        stack.push_async_callback(anyio.to_thread.run_sync, self.spending.save)
        tasks.start_soon(self.spending.keep)

    async def _behaviour(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup) -> None:
        reader = LedgerReader(self.settings.audit.path)
        keeper = Keeper(
            self.settings.behaviour,
            self.watch,
            reader,
            state=self.settings.state,
            wall_clock=self.clock.wall,
            report=lambda agents, unknown: self.metrics.observe_behaviour_memory(agents=agents, unknown_rules=unknown),
        )
        self.oversight = Oversight(self.watch)
        for word in await anyio.to_thread.run_sync(words_in, reader, self.clock.wall()):
            self.oversight.heed(word, self.clock.wall())
        await keeper.begin()
        stack.callback(keeper.save)
        tasks.start_soon(keeper.keep)

    async def _approving(self, commit: Commitments, append: Append) -> KeepApprovals:
        reader, now_s = LedgerReader(self.settings.audit.path), self.clock.wall()
        await anyio.to_thread.run_sync(recall, self.approvals, reader, now_s)
        max_bytes, told = self.settings.approvals.max_bytes, self.metrics.observe_approval
        return KeepApprovals(self.approvals, commit, append, self.roles_of, max_bytes, self.clock.wall, told)

    async def _choices(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup) -> None:
        self.choosing = Choosing(
            self.settings.selection,
            self.policy,
            self.fleet,
            self.ledger,
            state=self.settings.state,
            clock=self.clock,
            metrics=self.metrics,
        )
        await anyio.to_thread.run_sync(self.choosing.memory.resume)
        stack.push_async_callback(self.choosing.memory.end)
        tasks.start_soon(self.choosing.memory.keep)

    async def _gateway(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup) -> Gateway:
        commit = Commitments(load_commitment_key(self.settings.audit.commitment_key))
        ledger = MeteredLedger(self.ledger, self.metrics)
        recorder = Remembering(LedgerRecorder(ledger, commit), self.watch, ledger.append, self.clock.wall)
        dispatches = await self._dispatches(stack, tasks)
        dispatches["feedback"] = self.choosing.desk(LedgerReader(self.settings.audit.path), commit)
        return Gateway(
            identity=self.identity,
            policy=Behaving(self.choosing.policy_for(self.policy), self.watch),
            obligations=self.obligations,
            ledger=recorder,
            backends=ByKind(dispatches, self.tracing.traceparent_for),
            observer=Observers(
                [
                    Meter(self.metrics),
                    self.observations,
                    *self.choosing.observers,
                    self.spending.keeper,
                    *([Tracer(self.tracing, self.clock.monotonic)] if self.tracing.is_on else []),
                    CallLog(self.tracing),
                ]
            ),
            choose=self.choosing.choice.choose,
            price=self.spending.prices,
            budget=self.spending.keeper,
            approvals=await self._approving(commit, ledger.append),
            wall_clock=self.clock.wall,
            monotonic=self.clock.monotonic,
        )

    async def _dispatches(self, stack: AsyncExitStack, tasks: anyio.abc.TaskGroup) -> dict[str, Dispatch]:
        timeouts, registry = self.settings.timeouts, self.registry
        session = await stack.enter_async_context(open_session())
        patience = SupervisorSettings()
        start = BridgeProcesses(patience, os.environ)
        bridges = Supervisor(registry.stdio_servers, start, patience, self.clock.monotonic)
        tasks.start_soon(bridges.run)
        mcp = McpBackend(session, remote_endpoints(registry.mcp_servers), bridges.find)
        hosts = self.settings.server.allowed_hosts
        self.mcp_settings = McpDoorSettings(
            allowed_hosts=hosts,
            allowed_origins=tuple(f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts),
            exchange_timeout_s=timeouts.mcp_s,
        )
        guards = UpstreamBreakers(
            registry=registry,
            breakers=self.fleet.breakers,
            settings=self.settings.breaker,
            now=self.clock.monotonic,
            tool_s=timeouts.tool_s,
            mcp_s=timeouts.mcp_s,
        )
        return {
            "model": ModelDispatch(self.fleet.names, self.fleet.ladder_of, timeouts.model_s),
            "tool": ByName(guards.tools(HttpToolBackend(registry.http_tools, session)), timeouts.tool_s),
            "mcp": McpDispatch(guards.servers(mcp), self.mcp_settings, self.clock.wall),
            "api": ReloadRefused(),
        }

    async def _grpc(self, stack: AsyncExitStack) -> int:
        server = self.settings.server
        door = TfServingGrpc(
            self.gateway,
            self._refused,
            host=server.host,
            port=server.grpc_port,
            body_limit_bytes=server.body_limit_bytes,
        )
        port = await door.start()
        stack.push_async_callback(door.stop, server.drain_s)
        return port

    def _refused(self, door: str, problem: Problem) -> None:
        if problem.kind == "unauthenticated":
            self.metrics.observe_unauthenticated(problem.reason)
        elif problem.kind in ("identity", "ledger"):
            self.metrics.observe_unadmitted(door=door, reason=problem.reason)

    def doors(self) -> list[HttpDoor]:
        visible, catalogue = self.policy.could_permit, lambda: self.policy.catalogue
        tfserving = TfServingRest(self.choosing.signatures())
        shared = SharedModelPath(tfserving, openai.ModelDoor(), lambda name: self.fleet.deployment_of(name) is not None)
        mcp = McpDoor(self.mcp_settings, visible)
        tools = ModelTools(catalogue, self.fleet.names, self.fleet, visible)
        as_tools: list[HttpDoor] = [FunctionsDoor(tools), ModelToolsMcp(tools, mcp)]
        live = self.choosing.live
        hub: list[HttpDoor] = [HubList(visible, catalogue, live), HubModel(catalogue, live)]
        others: list[HttpDoor] = [mcp, ToolsDoor(), FeedbackDoor(), tfserving, shared]
        return [*openai.doors(visible), *anthropic.doors(), *as_tools, *hub, *others]

    def _application(self) -> ASGIApp:
        identity = self.identity_settings
        doors = edge.routes(
            self.doors(),
            self.gateway,
            lambda problem: challenge(identity, problem.reason, step_up=problem.step_up),
            self._refused,
        )
        routes: list[BaseRoute] = [*doors, *health.routes(self.faults, self._metadata), Mount("/", self._console())]
        app = edge.FixedPaths(doors, others=HubPaths(Router(routes)))
        return Hygiene(app, body_limit_bytes=self.settings.server.body_limit_bytes)

    def _console(self) -> ASGIApp:
        operations = Operations(
            settings=self.identity_settings,
            identity=self.identity,
            policy=self.policy,
            ledger=self.ledger,
            reader=LedgerReader(self.settings.audit.path),
            fleet=self.fleet,
            moves=self.moves,
            observations=self.observations,
            clock=self.clock,
            selection=self.choosing.control(),
            learn=self.choosing.labels.take,
            costs=self.spending,
            drift=self.drift_desk,
            adaptation=AdaptationShown(self.adapting, self.policy),
            behaviour=BehaviourDesk(self.oversight, self.clock.wall),
            playbooks=PlaybooksShown(self.playbooks),
            approvals=ApprovalDesk(self.approvals, self.roles_of, self.ledger.append, self.clock.wall, self.metrics),
        )
        return console(operations.ports(), self.settings.console, monotonic=self.clock.monotonic)

    def _metadata(self, resource: str) -> dict[str, Any]:
        public = self.settings.server.public_url.rstrip("/")
        return protected_resource_metadata(
            self.settings.identity, resource=f"{public}/{resource}" if resource else None
        )

    def _playbooks(self) -> Playbooks:
        deeds, clock = FleetDeeds(self.fleet), self.clock
        return Playbooks(
            self.settings.healing,
            self.ledger,
            deeds.faults,
            deeds.table(),
            clock.monotonic,
            clock.wall,
            self.metrics,
        )

    async def _heal(self, tasks: anyio.abc.TaskGroup) -> None:
        if self.settings.healing.playbooks:
            await anyio.to_thread.run_sync(self.playbooks.resume)
            tasks.start_soon(self.playbooks.run)

    def _begin_adapting(self) -> None:
        self.adapting.begin(
            self.ledger,
            self.fleet.breakers,
            drift_states=lambda: {name: moved.state.value for name, moved in self.moves.states.items()},
            reviews=lambda: list(self.choosing.selector.reviews.values()),
            replicas=self.fleet.replicas,
            actions={"isolate": isolate(self.fleet.pools)},
        )

    def _breaker_moved(self, moved: Transition) -> None:
        self.metrics.observe_breaker(upstream=moved.name, state=moved.after.value)
        log.warning("breaker moved", extra={"upstream": moved.name, "state": moved.after.value, "reason": moved.reason})

    def _behaved(self, found: Finding) -> None:
        self.metrics.observe_behaviour(rule=found.rule.id, answer=found.answer, mode=found.mode, change=found.change)

    def _orphans(self) -> int:
        """Intents that a dead process left open; opening the ledger closes them as unknown."""
        path = self.settings.audit.path
        try:
            return len(LedgerReader(path).open_intents()) if path.exists() else 0
        except AuditUnavailable:
            return 0  # opening will say what is wrong


def _with_metadata_url(settings: Settings) -> IdentitySettings:
    """Challenges name our own RFC 9728 document unless the operator names another."""
    identity = settings.identity
    if identity.resource_metadata_url:
        return identity
    url = settings.server.public_url.rstrip("/") + WELL_KNOWN_PATH
    return identity.model_copy(update={"resource_metadata_url": url})
