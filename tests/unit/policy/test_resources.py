"""Paths that reach a pattern, and what patterns mean."""

from __future__ import annotations

import pytest

from controlplane.policy.index import Patterns
from controlplane.policy.resources import Pattern, PatternError, is_valid_path, segments_of


@pytest.mark.parametrize(
    "path", ["/model/tiny", "/mcp/time/get_current_time", "/model/llama3:8b", "/tool/a.b-c_d", "/api"]
)
def test_plain_path_is_valid(path: str) -> None:
    assert is_valid_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "tool/refund", "//tool", "/tool//refund", "/tool/", "/tool/./refund", "/tool/../refund", "/tool/..",
        "/.",
        "/tool/re\nfund", "/tool/refund\n", "/tool/\x00", "/tool/\x7f", "/tool/a\u2028b", "/tool/ref%75nd",
        "/tool/a\\b",
        "/tool/a b", "/tool/a?b", "/tool/a#b", "/tool/\uff0e\uff0e", "/tool/" + "a" * 2000,
    ],
)  # fmt: skip
def test_path_that_could_mean_something_else_is_not_valid(path: str) -> None:
    assert not is_valid_path(path)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/tool/refund", "/tool/refund", True),
        ("/tool/fs.read", "/tool/fsXread", False),
        ("/tool/read:file", "/tool/read:other", False),
        ("/model/*", "/model/tiny", True),
        ("/model/*", "/model", False),
        ("/model/*", "/model/a/b", False),
        ("/fs/**", "/fs/.ssh/id_rsa", True),
        ("/fs/**", "/fs", False),
        ("/mcp/*/read", "/mcp/files/read", True),
        ("/mcp/*/**", "/mcp/files", False),
    ],
)
def test_pattern_means_whole_segments(pattern: str, path: str, matches: bool) -> None:
    assert Pattern.parse(pattern).matches(path, segments_of(path)) is matches


@pytest.mark.parametrize("text", ["", "tool", "/a|/b", "/a/**/b", "/a*", "/a/(x)+", "/a//b", "/a/../b", "/a/", "/a b"])
def test_pattern_outside_the_language_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        Pattern.parse(text)


def test_who_may_cover_a_pattern_is_found_without_looking_at_all() -> None:
    texts = [
        "/**",
        "/*",
        "/*/*",
        "/*/**",
        "/*/*/**",
        "/a",
        "/a/*",
        "/a/**",
        "/*/b",
        "/a/b",
        "/a/b/**",
        "/a/*/c",
        "/a/b/c",
    ]
    known, all_of_them = Patterns(), [Pattern.parse(text) for text in texts]
    for number, pattern in enumerate(all_of_them):
        known.add(pattern, number)
    for narrow in all_of_them:
        covering = {number for number, wide in enumerate(all_of_them) if wide.covers(narrow)}
        assert covering <= set(known.covering(narrow)), narrow.text
    assert len(set(known.covering(Pattern.parse("/x/y")))) < len(texts) / 2
