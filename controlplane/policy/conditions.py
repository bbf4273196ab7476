"""Conditions: tree → closure. Decides nothing that it does not know: an absent attribute, a wrong type, NaN or a
comparison without meaning raises ``ConditionError``, and whoever asked must deny.

Three-valued (Kleene): when the context of a call is not known yet, what depends on it is ``UNKNOWN``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, ge, gt, le, lt
from typing import Any, Final

from msgspec import Struct

from controlplane.policy.grammar import Attribute, Compare, Either, Every, Has, Listing, Literal, Node, Not, parse


class ConditionError(Exception):
    """A condition that cannot be answered for this call."""


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()

ArgumentTypes = Mapping[tuple[str, ...], str]


class Facts(Struct, frozen=True):
    """What a condition may read. ``ctx`` is None while the call is not known; ``argument_types`` are the types that
    the catalogue declares for this resource's arguments, by path below ``r.ctx.args``.
    """

    sub: Mapping[str, Any]
    obj: Mapping[str, Any]
    act: str
    ctx: Mapping[str, Any] | None
    argument_types: ArgumentTypes


Evaluate = Callable[[Facts], Any]
Compares = Callable[[Any, Any], Any]
"""Neither side is unknown; raises ``ConditionError`` for what cannot be compared."""


@dataclass(frozen=True, slots=True)
class Condition:
    """``conjuncts`` are the parts that must all hold, each with its own text."""

    text: str
    node: Node
    evaluate: Evaluate
    conjuncts: tuple[tuple[str, Evaluate], ...]

    @classmethod
    def compile(cls, text: str, types: Mapping[tuple[str, ...], str]) -> Condition:
        """``types`` declares every attribute but the arguments.

        Raises:
            GrammarError: the text is outside the grammar.
        """
        node = parse(text)
        parts = zip(node.texts, node.operands, strict=True) if isinstance(node, Every) else [(text, node)]
        conjuncts = tuple((part, _truth(operand, types)) for part, operand in parts)
        return cls(text, node, _truth(node, types), conjuncts)


def all_of(parts: Sequence[Evaluate]) -> Evaluate:
    """``&&`` between conditions, each of which is true, false or unknown, as ``conjuncts`` are."""
    return parts[0] if len(parts) == 1 else _connective(tuple(parts), decisive=False)


def attributes_in(node: Node) -> list[Attribute]:
    match node:
        case Attribute():
            return [node]
        case Has(attribute=attribute):
            return [attribute]
        case Not(operand=operand):
            return attributes_in(operand)
        case Compare(left=left, right=right):
            return attributes_in(left) + attributes_in(right)
        case Every(operands=nodes) | Either(operands=nodes) | Listing(items=nodes):
            return [attribute for one in nodes for attribute in attributes_in(one)]
        case Literal():
            return []


def comparisons_in(node: Node) -> list[Compare]:
    match node:
        case Compare():
            return [node]
        case Not(operand=operand):
            return comparisons_in(operand)
        case Every(operands=nodes) | Either(operands=nodes):
            return [found for one in nodes for found in comparisons_in(one)]
        case _:
            return []


def has_type(value: Any, declared: str) -> bool:
    """Whether ``value`` is of a declared type; numbers are finite, and a boolean is no number."""
    return _TYPES.get(declared, _is_nothing)(value)


_LISTS = (list, tuple, frozenset)
_MAPPINGS = (dict, Mapping)  # what nearly everything is comes first: asking an abstract class takes longer


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)  # asked of an integer beyond floats it would raise


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _is_nothing(_: Any) -> bool:
    """Of the types that are not ours, such as the null of JSON Schema."""
    return False


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": _is_number,
    "integer": _is_integer,
    "strings": lambda value: isinstance(value, _LISTS) and all(isinstance(one, str) for one in value),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, _MAPPINGS),
    "any": lambda _: True,
}


def _compile(node: Node, types: Mapping[tuple[str, ...], str]) -> Evaluate:
    match node:
        case Literal(value=value):
            return lambda _: value
        case Attribute():
            return _reading(node, types)
        case Has(attribute=attribute):
            return _presence(attribute)
        case Listing(items=items):
            return _listing(items, types)
        case Not(operand=operand):
            return _negation(_truth(operand, types))
        case Compare(operator=operator, left=left, right=right):
            compare, first = _COMPARE[operator], _compile(left, types)
            constant = _constant(right)
            if constant is None:
                return _comparison(compare, first, _compile(right, types))
            return _comparison_with(compare, first, constant)
        case Every(operands=operands):
            return _connective(tuple(_truth(one, types) for one in operands), decisive=False)
        case Either(operands=operands):
            return _connective(tuple(_truth(one, types) for one in operands), decisive=True)


def _constant(node: Node) -> Any:
    """What a condition compares with most often; None where it depends on the call."""
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Listing):
        values = [item.value for item in node.items if isinstance(item, Literal)]
        return values if len(values) == len(node.items) else None
    return None


def _listing(items: tuple[Node, ...], types: Mapping[tuple[str, ...], str]) -> Evaluate:
    parts = tuple(_compile(item, types) for item in items)
    return lambda facts: [part(facts) for part in parts]


def _truth(node: Node, types: Mapping[tuple[str, ...], str]) -> Evaluate:
    """Only a boolean may decide: ``r.sub.clearance`` alone is a mistake, not a truth."""
    inner = _compile(node, types)
    if isinstance(node, Has | Not | Compare | Every | Either):
        return inner  # never anything else

    def truth(facts: Facts) -> Any:
        value = inner(facts)
        if value is True or value is False or value is UNKNOWN:
            return value
        raise ConditionError(f"{value!r:.40} is neither true nor false")

    return truth


def _reading(attribute: Attribute, types: Mapping[tuple[str, ...], str]) -> Evaluate:
    root, *names = attribute.path
    if root == "act":
        return lambda facts: facts.act
    if attribute.path[:2] == ("ctx", "args"):
        return _argument(attribute)
    declared, name = types.get(attribute.path, "any"), names[0]
    fits, source_of = _TYPES.get(declared, _is_nothing), attrgetter(root)

    def read(facts: Facts) -> Any:
        source = source_of(facts)
        if source is None:
            return UNKNOWN
        value = source.get(name)
        if value is None:
            raise ConditionError(f"{attribute} is absent")
        if not fits(value):
            raise ConditionError(f"{attribute} is not of type {declared}")
        return value

    return read


def _argument(attribute: Attribute) -> Evaluate:
    path = attribute.path[2:]

    def read(facts: Facts) -> Any:
        declared = facts.argument_types.get(path)
        if declared is None:
            raise ConditionError(f"{attribute} is no argument of this resource")
        if facts.ctx is None:
            return UNKNOWN
        value = _descend(facts.ctx["args"], path)
        if value is None:
            raise ConditionError(f"{attribute} is absent")
        if not _TYPES.get(declared, _is_nothing)(value):
            raise ConditionError(f"{attribute} is not of type {declared}")
        return value

    return read


def _presence(attribute: Attribute) -> Evaluate:
    source_of, names = attrgetter(attribute.path[0]), attribute.path[1:]

    def present(facts: Facts) -> Any:
        source = source_of(facts)
        return UNKNOWN if source is None else _descend(source, names) is not None

    return present


def _descend(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(value, _MAPPINGS):
            return None
        value = value.get(name)
    return value


def _negation(inner: Evaluate) -> Evaluate:
    def negation(facts: Facts) -> Any:
        value = inner(facts)
        return value if value is UNKNOWN else not value

    return negation


def _connective(parts: tuple[Evaluate, ...], *, decisive: bool) -> Evaluate:
    """``&&`` (false is decisive) or ``||`` (true is), left to right. What stands right of an unknown may never be
    reached in the real call, so an error there is unknown too.
    """

    def connective(facts: Facts) -> Any:
        unknown = False
        for part in parts:
            try:
                value = part(facts)
            except ConditionError:
                if not unknown:
                    raise
                continue
            if value is UNKNOWN:
                unknown = True
            elif value is decisive:
                return decisive
        return UNKNOWN if unknown else not decisive

    return connective


def _comparison(compare: Compares, left: Evaluate, right: Evaluate) -> Evaluate:
    def comparison(facts: Facts) -> Any:
        a, b = left(facts), right(facts)
        if a is UNKNOWN or b is UNKNOWN:
            return UNKNOWN
        return compare(a, b)

    return comparison


def _comparison_with(compare: Compares, left: Evaluate, constant: Any) -> Evaluate:
    def comparison(facts: Facts) -> Any:
        a = left(facts)
        return UNKNOWN if a is UNKNOWN else compare(a, constant)

    return comparison


_EQUATABLE = (str, int, float)


def _equal(a: Any, b: Any) -> bool:
    if not (isinstance(a, _EQUATABLE) and isinstance(b, _EQUATABLE)):
        raise ConditionError("only strings, numbers and booleans can be equal")
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _member(a: Any, b: Any) -> Any:
    if not isinstance(b, _LISTS):
        raise ConditionError("'in' needs a list on its right")
    answer: Any = False
    for one in b:
        if one is UNKNOWN:
            answer = UNKNOWN
        elif _equal(a, one):
            return True
    return answer


def _not_member(a: Any, b: Any) -> Any:
    found = _member(a, b)
    return found if found is UNKNOWN else not found


def _ordered(compare: Compares) -> Compares:
    def ordered(a: Any, b: Any) -> Any:
        if (_is_number(a) and _is_number(b)) or (isinstance(a, str) and isinstance(b, str)):
            return compare(a, b)
        raise ConditionError("only two numbers or two strings have an order")

    return ordered


_COMPARE: dict[str, Compares] = {
    "==": _equal,
    "!=": lambda a, b: not _equal(a, b),
    "in": _member,
    "not in": _not_member,
    "<": _ordered(lt),
    "<=": _ordered(le),
    ">": _ordered(gt),
    ">=": _ordered(ge),
}
