"""No function over 60 lines, no file over 600, unless the reason stands beside it as ``# long: reason``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("audit", "inference", "controlplane", "dashboards", "helm", "policies", "examples", "benchmarks", "tests")
FUNCTION_LINES = 60
FILE_LINES = 600
REASON = "# long: "
HEAD_LINES = 20  # a file's reason stands near its top


def length_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    is_docstring = ast.get_docstring(node, clean=False) is not None
    return length - ((first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0)


def too_long(source: str, name: str) -> Iterator[str]:
    lines = source.splitlines()
    if len(lines) > FILE_LINES and not any(line.startswith(REASON) for line in lines[:HEAD_LINES]):
        yield f"{name} has {len(lines)} lines"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = length_without_docstring(node)
        beside = "\n".join(lines[max(node.lineno - 2, 0) : node.lineno])
        if length > FUNCTION_LINES and REASON not in beside:
            yield f"{name}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("folder", FOLDERS)
def test_long_functions_and_files_have_a_reason_beside_them(folder: str) -> None:
    wrong = [
        complaint
        for path in sorted((ROOT / folder).rglob("*.py"))
        for complaint in too_long(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    ]
    assert not wrong, "\n".join(wrong)


def function_of(lines: int, comment: str = "") -> str:
    return f"def f():{comment}\n" + "    pass\n" * (lines - 1)


def test_the_sixty_first_line_is_too_many() -> None:
    assert not list(too_long(function_of(60), "x.py"))
    assert list(too_long(function_of(61), "x.py")) == ["x.py:1 f has 61 lines"]
    assert not list(too_long(function_of(61, "  # long: a table"), "x.py"))


def test_docstrings_do_not_count() -> None:
    documented = 'def f():\n    """One\n    two.\n    """\n' + "    pass\n" * 59
    assert not list(too_long(documented, "x.py"))


def test_the_six_hundred_and_first_line_is_too_many() -> None:
    assert not list(too_long("a = 1\n" * 600, "x.py"))
    assert list(too_long("a = 1\n" * 601, "x.py")) == ["x.py has 601 lines"]
    assert not list(too_long("# long: one idea told at length\n" + "a = 1\n" * 601, "x.py"))
