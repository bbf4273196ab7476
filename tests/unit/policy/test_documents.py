"""YAML that would mislead its reader is refused, with the line."""

from __future__ import annotations

import pytest

from controlplane.policy.documents import BundleError, read_document


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 3),
        ("a: &x 1\nb: 2\n", 1),
        ("a: 1\nb: *a\n", 2),
        ("<<: {a: 1}\n", 1),
        ("a: !!python/name:os.system ''\n", 1),
        ("a: !mine 1\n", 1),
        ("a: no\n", 1),
        ("a: 1\nb: 010\n", 2),
        ("a: 1:30\n", 1),
        ("a: 1_000\n", 1),
        ("a: .inf\n", 1),
        (f"a: {'9' * 5000}\n", 1),
        ("[1]: 2\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: [1\nb: 2\n", 2),
    ],
)
def test_misleading_yaml_is_refused_at_its_line(text: str, line: int) -> None:
    with pytest.raises(BundleError) as refused:
        read_document("roles/x.yaml", text.encode())
    assert refused.value.problems[0].source == f"roles/x.yaml:{line}"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x00", b"[" * 100, b"a: " + b"x" * 1_000_001])
def test_bytes_that_are_no_document_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        read_document("x.yaml", content)


def test_words_stay_words_and_lines_are_known() -> None:
    document = read_document("x.yaml", b"on: /tool/a\nlist:\n  - {when: true, max: 5, ratio: 0.5, day: 2026-01-01}\n")
    assert document.value == {"on": "/tool/a", "list": [{"when": True, "max": 5, "ratio": 0.5, "day": "2026-01-01"}]}
    assert document.source(("list", 0, "max")) == "x.yaml:3"
    assert document.source(("list", 7)) == "x.yaml:2"
