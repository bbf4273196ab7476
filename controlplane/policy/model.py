"""``model.conf``: what a decision means, in casbin's words.

Three kinds. The model whose meaning the snapshot compiles (``MODEL``). One that differs from it only by the order of
its tests or by further plain tests of what is asked: casbin decides by it, since it can deny more than ours and never
allow more. And any other, which is refused: a model without a test for the subject, without deny overriding, or with
casbin's own matching functions would break what the product promises of every bundle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import casbin  # type: ignore[import-untyped]  # ships no types

from controlplane.policy.documents import BundleError, Problem

MODEL = {
    "r": "sub, dom, obj, act, ctx",
    "p": "id, sub, dom, obj, act, cond, eft",
    "g": "_, _, _",
    "e": "some(where (p_eft == allow)) && !some(where (p_eft == deny))",
    "m": "onResource(r_obj, p_obj) && g(r_sub.id, p_sub, r_dom) && inDomain(r_dom, p_dom) && isAction(r_act, p_act)"
    " && when(p_id, p_cond, r_sub, r_obj, r_act, r_ctx)",
}
_TESTS = MODEL["m"].split(" && ")

# Strings against strings, and of the question alone: nothing here can raise or call anything. A test of what rules say
# (`p.eft != 'deny'`, `r.dom == p.dom`) would shut out some rules and not others, guards before all.
_OPERAND = r"(?:r_dom|r_act|r_sub\.id|r_obj\.path|'[A-Za-z0-9_.:@/*-]*')"
_FURTHER_TEST = re.compile(rf"{_OPERAND} (?:==|!=) {_OPERAND}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DecisionModel:
    """``deviation`` says how the text differs from ``MODEL``; "" when it does not."""

    text: str
    deviation: str

    def casbin(self) -> casbin.Model:
        """A fresh one: casbin keeps an enforcer's policy in its model."""
        model = casbin.Model()
        model.load_model_from_text(self.text)
        return model


def read_model(text: str) -> DecisionModel:
    """Raises: BundleError for a model that must not be served."""
    model = casbin.Model()
    try:
        model.load_model_from_text(text)
        found = {section: model[section][section].value for section in MODEL}
        others = sorted({name for section in model.keys() for name in model[section]} - set(MODEL))  # noqa: SIM118  no dict
    except Exception as error:  # noqa: BLE001  casbin's reader raises what it likes
        raise BundleError([Problem("model.conf", f"not a casbin model: {error}")]) from None
    problems = [
        Problem("model.conf", f"{section} is {found[section]!r}, and we can only serve {meaning!r}")
        for section, meaning in MODEL.items()
        if section != "m" and found[section] != meaning
    ]
    problems += [Problem("model.conf", f"{name} is a definition that nobody would read") for name in others]
    problems += [Problem("model.conf", fault) for fault in _faults_of_matcher(found["m"])]
    if problems:
        raise BundleError(problems)
    return DecisionModel(text, "" if found["m"] == MODEL["m"] else f"m is {found['m']!r}")


def _faults_of_matcher(matcher: str) -> list[str]:
    tests = [test.strip() for test in matcher.split("&&")]
    missing = [f"m lacks {test}" for test in _TESTS if tests.count(test) != 1]
    strange = [
        f"m has {test!r}, and may only add plain comparisons of what is asked"
        for test in tests
        if test not in _TESTS and _FURTHER_TEST.fullmatch(test) is None
    ]
    return missing + strange
