"""The layout is a promise; this is where it is kept. Add a room here before you add its folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT: dict[str, set[str]] = {  # room -> the rooms it may import; itself and libraries are free
    "audit.unhurried": set(),  # a wait that cannot be cut short; it knows nothing of the ledger
    "audit": {"audit.unhurried"},
    "inference": set(),
    "controlplane.calls": set(),
    "controlplane.settings_file": set(),
    "controlplane.strict_json": set(),
    "controlplane.telemetry": set(),
    "controlplane.identity": {"controlplane.calls", "controlplane.strict_json"},
    "controlplane.policy": {"controlplane.calls", "inference"},
    "controlplane.limits": {"controlplane.calls"},
    "controlplane.approvals": set(),
    "controlplane.cost": {"controlplane.calls", "audit", "audit.unhurried", "controlplane.policy"},
    "controlplane.resilience": {"controlplane.calls", "inference", "audit.unhurried"},
    "controlplane.response_cache": {"controlplane.calls", "controlplane.strict_json", "inference"},
    "controlplane.shared_state": set(),
    "controlplane.admission": {"controlplane.calls", "inference"},
    "controlplane.behaviour": {"controlplane.calls", "controlplane.policy", "controlplane.telemetry"},
    "controlplane.adaptation": {"controlplane.calls", "controlplane.policy", "inference"},
    "controlplane.tools": {"controlplane.calls", "controlplane.strict_json", "inference"},
    "controlplane.drift": {"controlplane.calls"},
    "controlplane.retraining": {"controlplane.calls", "audit", "controlplane.drift", "inference"},
    "controlplane.monitor": {
        "controlplane.calls",
        "controlplane.drift",
        "controlplane.policy",  # how a settings file is read
        "controlplane.retraining",
        "controlplane.settings_file",
        "controlplane.telemetry",
        "inference",
    },
    "controlplane.gateway": {
        "controlplane.calls",
        "controlplane.strict_json",
        "audit",
        "inference",
        "controlplane.identity",
        "controlplane.policy",
        "controlplane.limits",
        "controlplane.approvals",
        "controlplane.cost",
        "controlplane.tools",
        "controlplane.telemetry",
        "controlplane.resilience",
    },
    "controlplane.console": {"controlplane.calls", "audit", "controlplane.drift", "controlplane.telemetry"},
}
OURS = ("audit", "inference", "controlplane")
ENTRY_POINTS = {"controlplane/__main__.py", "controlplane/cli.py", "controlplane/serve.py"}  # who may import wiring
HEAVY = ("pandas", "sklearn", "evidently", "tensorflow", "torch", "vllm")  # never in the gateway's process


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def room_of(module: str) -> str | None:
    """The room a module belongs to, "controlplane" for what stands above the rooms, None for a library."""
    room = next((room for room in MAY_IMPORT if is_within(module, room)), None)
    return room or next((top for top in OURS if is_within(module, top)), None)


def imports_of(path: Path) -> set[str]:
    """Every module a file imports anywhere in it: an import inside a function is an import too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def files_of(room: str) -> list[Path]:
    path = ROOT / room.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_imports_only_what_stands_below_it(room: str) -> None:
    allowed = {None, room} | MAY_IMPORT[room]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files_of(room)
        for name in sorted(imports_of(path))
        if room_of(name) not in allowed and name != "controlplane.calls"
    ]
    assert not wrong, "\n".join(wrong)


def test_allowed_edges_have_no_circle() -> None:
    settled: set[str] = set()
    while remaining := MAY_IMPORT.keys() - settled:
        free = {room for room in remaining if MAY_IMPORT[room] <= settled}
        assert free, f"these rooms import each other: {sorted(remaining)}"
        settled |= free


def test_every_room_stands_in_the_table() -> None:
    rooms = {f"controlplane.{path.parent.name}" for path in (ROOT / "controlplane").glob("*/__init__.py")}
    assert rooms <= MAY_IMPORT.keys()


def test_only_the_entry_points_import_wiring() -> None:
    culprits = {
        path.relative_to(ROOT).as_posix()
        for top in OURS
        for path in files_of(top)
        if any(is_within(name, "controlplane.wiring") for name in imports_of(path))
    }
    wiring = {name for name in culprits if name.startswith("controlplane/wiring")}
    assert culprits - wiring <= ENTRY_POINTS


def test_gateway_process_imports_nothing_heavy() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in [*files_of("controlplane.gateway"), *files_of("controlplane.telemetry")]
        if path.stem != "__init__"
    ]
    program = "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program, *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not {name.partition(".")[0] for name in run.stdout.split()} & set(HEAVY)


def test_relative_and_lazy_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    lazy = tmp_path / "controlplane" / "policy" / "lazy.py"
    lazy.parent.mkdir(parents=True)
    lazy.write_text("def f():\n    from ..gateway import edge\n    import audit.log\n")
    assert imports_of(lazy) == {"controlplane.gateway.edge", "audit.log"}


def test_casbin_is_installed_under_its_new_name_only() -> None:
    """``casbin`` and ``pycasbin`` both install the package ``casbin``; together they overwrite each other."""
    with pytest.raises(PackageNotFoundError):
        distribution("casbin")
    assert distribution("pycasbin").version
