"""The condition language: text → tree. A closed grammar; nothing here can name a Python object.

condition  = all { "||" all }
all        = test { "&&" test }
test       = "!" test | operand [ comparison operand ]
comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in"
operand    = number | 'string' | true | false | attribute | list | "has(" attribute ")" | "(" condition ")"
attribute  = "r." root { "." name }        root is sub, obj, act or ctx; no name starts with "_"
list       = "[" operand { "," operand } "]"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS = 2000
MAX_NODES = 200
MAX_DEPTH = 20

COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"})

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?\d+(?:\.\d+)?)
      | (?P<string>'[^'\\\n]*'|"[^"\\\n]*")
      | (?P<name>[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*)
      | (?P<sign>&&|\|\||==|!=|<=|>=|<|>|!|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE | re.ASCII,
)


class GrammarError(ValueError):
    """A text outside the grammar."""


@dataclass(frozen=True, slots=True)
class Literal:
    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class Attribute:
    path: tuple[str, ...]  # without the leading "r"

    def __str__(self) -> str:
        return ".".join(("r", *self.path))


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Has:
    attribute: Attribute


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node


@dataclass(frozen=True, slots=True)
class Compare:
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Every:
    """``&&``; ``texts`` are the conjuncts as the author wrote them, for explanations."""

    operands: tuple[Node, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """``||``"""

    operands: tuple[Node, ...]


Node = Literal | Attribute | Listing | Has | Not | Compare | Every | Either


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def parse(text: str) -> Node:
    """Raises: GrammarError, with the column, for anything outside the grammar or too large for it."""
    if len(text) > MAX_CHARS:
        raise GrammarError(f"condition is longer than {MAX_CHARS} characters")
    return _Parser(text, _tokens(text)).whole()


def _tokens(text: str) -> list[_Token]:
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise GrammarError(f"column {at + 1}: {text[at : at + 10].strip()!r} is not part of the grammar")
        group = match.lastgroup
        tokens.append(_Token(group, match[group], match.start(group), match.end(group)))
        at = match.end()
    tokens.append(_Token("end", "", end, end))
    return tokens


class _Parser:
    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text, self._tokens = text, tokens
        self._at = self._nodes = self._depth = 0

    def whole(self) -> Node:
        node = self._either()
        self._expect("end", "")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise GrammarError(f"condition has more than {MAX_NODES} parts")
        return token

    def _accept(self, sign: str) -> bool:
        if self._next.text == sign and self._next.kind != "string":
            self._take()
            return True
        return False

    def _expect(self, kind: str, text: str) -> None:
        token = self._next
        if token.kind != kind or token.text != text:
            raise GrammarError(f"column {token.start + 1}: expected {text or 'the end'!r}, found {token.text!r}")
        self._take()

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise GrammarError(f"condition is nested deeper than {MAX_DEPTH}")
        operands = [self._every()]
        while self._accept("||"):
            operands.append(self._every())
        self._depth -= 1
        return operands[0] if len(operands) == 1 else Either(tuple(operands))

    def _every(self) -> Node:
        operands, texts = [], []
        while True:
            start = self._next.start
            operands.append(self._test())
            texts.append(self._text[start : self._tokens[self._at - 1].end])
            if not self._accept("&&"):
                break
        return operands[0] if len(operands) == 1 else Every(tuple(operands), tuple(texts))

    def _test(self) -> Node:
        negations = 0
        while self._accept("!"):
            negations += 1
        node = self._comparison()
        return Not(node) if negations % 2 else node

    def _comparison(self) -> Node:
        left = self._operand()
        operator = self._next.text if self._next.kind != "string" else ""
        if operator == "not":
            self._take()
            operator = f"not {self._next.text}"
        if operator not in COMPARISONS:
            if operator.startswith("not "):
                raise GrammarError(f"column {self._next.start + 1}: expected 'in' after 'not'")
            return left
        self._take()
        return Compare(operator, left, self._operand())

    def _operand(self) -> Node:
        token = self._take()
        if token.kind == "number":
            return Literal(float(token.text) if "." in token.text else int(token.text))
        if token.kind == "string":
            return Literal(token.text[1:-1])
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            node = self._either()
            self._expect("sign", ")")
            return node
        if token.text == "[":
            return self._listing()
        raise GrammarError(f"column {token.start + 1}: {token.text or 'the end'!r} cannot stand here")

    def _named(self, token: _Token) -> Node:
        if token.text in ("true", "false"):
            return Literal(token.text == "true")
        if token.text == "has":
            self._expect("sign", "(")
            attribute = self._attribute(self._take())
            self._expect("sign", ")")
            return Has(attribute)
        return self._attribute(token)

    def _attribute(self, token: _Token) -> Attribute:
        root, *path = token.text.split(".")
        if token.kind != "name" or root != "r" or not path or path[0] not in ("sub", "obj", "act", "ctx"):
            raise GrammarError(f"column {token.start + 1}: {token.text!r} is not r.sub.…, r.obj.…, r.act or r.ctx.…")
        if (path[0] == "act") != (len(path) == 1):
            raise GrammarError(f"column {token.start + 1}: {token.text!r} names no attribute")
        return Attribute(tuple(path))

    def _listing(self) -> Listing:
        items = [self._operand()]
        while self._accept(","):
            items.append(self._operand())
        self._expect("sign", "]")
        return Listing(tuple(items))
