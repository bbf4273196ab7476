"""YAML as policy may use it: plain mappings, lists and scalars, each with the line it stands on.

Refused, because a reader would be misled: duplicate keys, anchors and aliases, tags, several documents in a file, and
the words and numbers that YAML 1.1 reads in another way than people do (``no``, ``010``, ``1:30``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 30

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a bundle, and where: ``roles/support.yaml:14``."""

    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


class BundleError(Exception):
    """A bundle that must not be served, with everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(slots=True)
class Document:
    """``lines`` gives the line (from 1) of every node by its path; a missing path means its nearest ancestor."""

    name: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def source(self, path: Path) -> str:
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"


_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,99})", re.ASCII)  # as many digits as anybody means
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+", re.ASCII)


def read_document(name: str, content: bytes) -> Document:
    """Raises: BundleError, with the line."""
    if len(content) > MAX_BYTES:
        raise BundleError([Problem(name, f"larger than {MAX_BYTES} bytes")])
    document = Document(name)
    try:
        text = content.decode()
        _refuse_anchors(name, text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        document.value = None if node is None else _plain(document, node, ())
    except UnicodeDecodeError:
        raise BundleError([Problem(name, "not UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = 1 if mark is None else mark.line + 1
        raise BundleError([Problem(f"{name}:{line}", error.problem or "not YAML")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise BundleError([Problem(name, f"not YAML: {error}")]) from None
    return document


def _refuse_anchors(name: str, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise BundleError([Problem(f"{name}:{line}", "anchors and aliases are not allowed")])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BundleError([Problem(f"{name}:{line}", f"nested deeper than {MAX_DEPTH}")])


def _plain(document: Document, node: yaml.Node, path: Path) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise BundleError([Problem(f"{document.name}:{line}", f"tag {node.tag} is not allowed")])
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(document, one, (*path, index)) for index, one in enumerate(node.value)]
    return _scalar(document, node)


def _mapping(document: Document, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
            raise BundleError([Problem(f"{document.name}:{line}", "a key must be a plain word")])
        key = key_node.value  # as written: YAML 1.1 would read the key `on` as true
        if key in found:
            raise BundleError([Problem(f"{document.name}:{line}", f"key {key!r} stands here twice")])
        document.lines[(*path, key)] = line
        found[key] = _plain(document, value_node, (*path, key))
    return found


def _scalar(document: Document, node: yaml.Node) -> Any:
    text, kind = str(node.value), node.tag.rpartition(":")[2]
    if kind in ("str", "timestamp"):
        return text
    if kind == "null":
        return None
    if kind == "bool" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    source = f"{document.name}:{node.start_mark.line + 1}"
    raise BundleError(
        [Problem(source, f"{text!r} is read differently by people and by YAML: quote it or spell it out")]
    )
