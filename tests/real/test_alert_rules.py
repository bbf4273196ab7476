"""The alert rules' own tests, run by the real promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.real("promtool")

DASHBOARDS = Path(__file__).parents[2] / "dashboards"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run([found, *arguments], cwd=DASHBOARDS, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_is_content_with_the_rules(arguments: tuple[str, ...]) -> None:
    run = promtool(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_rule_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    shutil.copy(DASHBOARDS / "rules_test.yml", tmp_path)
    rules = (DASHBOARDS / "rules.yml").read_text("utf-8")
    (tmp_path / "rules.yml").write_text(rules.replace("> 14.4 * 0.001", "> 144").replace("> 6 * 0.001", "> 60"))
    run = promtool("test", "rules", str(tmp_path / "rules_test.yml"))
    assert "ControlplaneErrorBudgetBurnFast" in run.stdout + run.stderr
    assert run.returncode != 0
