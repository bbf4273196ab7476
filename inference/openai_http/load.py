"""How busy a vLLM says it is, read from its metrics. Accepts the names of both generations.

Takes a server at its word only where it says that it is busy or asleep. That it says nothing of the kind means little:
the counters of a frozen engine stand still and look idle.
"""

from __future__ import annotations

import re
from collections import defaultdict

import aiohttp
from yarl import URL

from inference.errors import BackendBroke, BackendUnavailable
from inference.openai_http.settings import VllmSettings
from inference.routing.load import Load

MAX_BYTES = 8 * 1024 * 1024
WAITING, RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
KV_NAMES = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # the second until about 0.10
WORKED = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
SLEEP = "vllm:engine_sleep_state"
MEMORY = "process_resident_memory_bytes"
AWAKE = 'sleep_state="awake"'
READ = frozenset({WAITING, RUNNING, SLEEP, *KV_NAMES, *WORKED})


def load_in(text: str) -> Load:
    """The load in a page of metrics (Prometheus text format 0.0.4). Several engines behind one address are summed up.

    Raises:
        BackendBroke: the page says nothing about requests, so it is not vLLM's.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name not in READ or (name == SLEEP and AWAKE not in rest):
            continue
        try:
            values[name].append(float(rest.rpartition("} ")[2].split(" ", 1)[0]))
        except ValueError:
            continue
    if WAITING not in values or RUNNING not in values:
        raise BackendBroke("metrics_unknown", "its metrics do not say how many requests wait and run")
    worked = [value for name in WORKED for value in values[name]]
    return Load(
        waiting=int(sum(values[WAITING])),
        running=int(sum(values[RUNNING])),
        kv_ratio=max((value for name in KV_NAMES for value in values[name]), default=0.0),
        is_asleep=bool(values[SLEEP]) and not any(values[SLEEP]),
        worked=sum(worked) if worked else None,
        rss_bytes=_number_after(MEMORY, text),
    )


def _number_after(name: str, text: str) -> int | None:
    """Of a series without labels."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    try:
        return int(float(found[1])) if found else None
    except ValueError:
        return None


class VllmLoad:
    """A ``LoadSource`` for one server. Sets itself no limit of time: whoever reads does. ``aclose`` it when done."""

    def __init__(self, settings: VllmSettings) -> None:
        self._url = URL(str(settings.base_url)).origin().with_path("/metrics")
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self) -> Load:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        try:
            async with self._session.get(self._url, allow_redirects=False) as response:
                response.raise_for_status()
                page = await response.content.read(MAX_BYTES)
                while more := await response.content.read(MAX_BYTES - len(page)):
                    page += more
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnavailable("metrics_unreadable", str(error)) from error
        return load_in(page.decode("utf-8", "replace"))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
