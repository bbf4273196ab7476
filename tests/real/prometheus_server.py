"""Prometheus itself, scraping what a test names, with the product's rules loaded."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "dashboards" / "overview.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Prometheus:
    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str, **query: str) -> Any:
        address = f"{self.url}/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("api/v1/query", query=expression)["result"])

    def scrapes(self) -> int:
        """How often the target that was scraped least has been scraped."""
        found = self.query("min(count_over_time(up[1h]))")
        return int(found[0]["value"][1]) if found else 0

    def wait_for_scrapes(self, count: int) -> None:
        self.wait_until(lambda: self.scrapes() >= count)

    def alerts(self) -> dict[str, str]:
        """The state of each alert that there is."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.get("api/v1/alerts")["alerts"]}

    def wait_until(self, holds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            assert self.process.poll() is None, "prometheus ended"
            try:
                if holds():
                    return
            except (OSError, AssertionError):
                pass  # not listening yet
            time.sleep(0.1)  # a foreign process has no event to wait for
        pytest.fail("prometheus did not get so far")


@contextmanager
def scraping(urls: Sequence[str], folder: Path) -> Generator[Prometheus]:
    """Prometheus on a free port, scraping ``urls`` every second. Skips the test where there is none."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [_job(url) for url in urls],
        "rule_files": [str(ROOT / "dashboards" / "rules.yml")],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = _free_port()
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _job(url: str) -> dict[str, Any]:
    where = urllib.parse.urlsplit(url)
    targets = [{"targets": [where.netloc]}]
    return {"job_name": where.netloc, "metrics_path": where.path, "static_configs": targets}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def substituted(expression: str) -> str:
    expression = re.sub(r"\$__(rate_interval|range)", "1m", expression)
    return expression.replace("$tenant", ".*")
