"""Find code that reads the text of relayd's own messages, on the syntax tree.

A message may be reworded at any time, so no code may depend on its words. Two things are looked
for: a comparison with a literal that is part of a message, and any matching on the text of one
of relayd's own errors or findings.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

#: Callables besides the error classes whose arguments are messages.
_MAKERS: Final = frozenset(
    {
        *("Refused", "Retry", "Trouble", "ConfigWarning", "NodesWarning"),
        *("Finding", "error", "warning", "skipped", "info", "debug", "exception"),
    }
)
#: Attributes of errors, findings and verdicts that hold a message.
_TEXTS: Final = frozenset({"detail", "what", "fix"})
_METHODS: Final = frozenset(
    {
        *("startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition"),
        *("split", "rsplit", "find", "rfind", "index", "rindex", "count", "replace"),
    }
)
_PATTERN_METHODS: Final = frozenset(
    {"match", "fullmatch", "search", "findall", "finditer", "sub", "subn", "compile"}
)
#: In place of a variable part.
_GAP: Final = "\0"
_PROSE: Final = re.compile(r"[a-z]{2}[^\0]* |[a-z]* [^\0]*[a-z]{2}", re.IGNORECASE)
_WORDS: Final = re.compile(r"[a-z]{2}[^\0]* [^\0]*[a-z]", re.IGNORECASE)

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef


def own_errors(trees: Iterable[ast.Module]) -> frozenset[str]:
    """Names of the exception classes that the modules define, and ValueError, which they raise."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"ValueError"}
    bases = {"Exception", *found}
    while True:
        more = {
            node.name
            for node in classes
            if any(isinstance(base, ast.Name) and base.id in bases for base in node.bases)
        }
        if more <= found:
            return frozenset(found)
        found |= more
        bases |= more


def messages(tree: ast.Module, errors: frozenset[str]) -> set[str]:
    """The messages that a module makes, with a NUL for each variable part."""
    found: set[str] = set()
    constants = _assignments(tree)
    for scope in _scopes(tree):
        known = constants | _assignments(scope)
        for call in _own_nodes(scope):
            if isinstance(call, ast.Call) and _name(call.func) in _MAKERS | errors:
                for value in (*call.args, *(keyword.value for keyword in call.keywords)):
                    found.update(_texts(value, known))
    return {text for text in found if _PROSE.search(text)}


def readers(tree: ast.Module, prose: Iterable[str], errors: frozenset[str]) -> list[int]:
    """Lines of a module where code depends on the words of a message."""
    joined = "\n".join(["", *prose])
    constants = _assignments(tree)
    lines: set[int] = set()
    for scope in _scopes(tree):
        reader = _Reader(joined, errors, scope, constants | _assignments(scope))
        for node in _own_nodes(scope):
            if isinstance(node, ast.expr) and reader.offends(node):
                lines.add(node.lineno)
    return sorted(lines)


def parse(root: Path) -> dict[Path, ast.Module]:
    """The syntax trees of all modules below a directory."""
    return {path: ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}


class _Reader:
    """Judges the nodes of one function, or of the top level of a module."""

    def __init__(
        self,
        prose: str,
        errors: frozenset[str],
        scope: Scope,
        known: dict[str, list[ast.expr]],
    ) -> None:
        self._prose = prose
        self._known = known
        self._caught = _instances(scope, errors)
        self._tainted: set[str] = set()
        # A text may pass through several variables.
        while more := {
            name
            for name, values in _assignments(scope).items()
            if name not in self._tainted and any(self._is_message(value) for value in values)
        }:
            self._tainted |= more

    def offends(self, node: ast.expr) -> bool:
        """Whether an expression depends on the words of a message."""
        if isinstance(node, ast.Compare):
            return self._compares(node)
        return isinstance(node, ast.Call) and self._matches(node)

    def _compares(self, node: ast.Compare) -> bool:
        sides = [node.left, *node.comparators]
        if not all(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
            return False
        if any(self._is_prose(text) for side in sides for text in self._literals(side)):
            return True
        if any(self._literals(side) for side in sides):
            return any(self._is_message(side) for side in sides)
        # Comparing messages with each other reads none of them; searching in one does.
        searched = [
            side
            for op, side in zip(node.ops, node.comparators, strict=True)
            if isinstance(op, ast.In | ast.NotIn)
        ]
        return any(map(self._is_message, searched))

    def _matches(self, node: ast.Call) -> bool:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        literals = [text for value in node.args for text in self._literals(value)]
        if method in _METHODS:
            assert isinstance(node.func, ast.Attribute)
            reads = bool(node.args) and self._is_message(node.func.value)
            return reads or any(self._is_prose(text) for text in literals)
        if method in _PATTERN_METHODS:
            return any(map(self._is_message, node.args)) or any(map(self._is_pattern, literals))
        return False

    def _is_message(self, value: ast.expr) -> bool:
        """Whether an expression is the text of one of relayd's own errors or findings."""
        match value:
            case ast.Name(id=name):
                return name in self._tainted
            case ast.Attribute(attr=name):
                return name in _TEXTS
            case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id=name)]):
                return name in self._caught
            case ast.Call(func=ast.Attribute(value=inner, attr="lower" | "upper" | "strip")):
                return self._is_message(inner)
        return False

    def _is_prose(self, text: str) -> bool:
        if _WORDS.search(text):
            return text in self._prose
        # One word may be part of a message by accident, unless it begins one.
        return bool(_PROSE.search(text)) and f"\n{text}" in self._prose

    def _is_pattern(self, pattern: str) -> bool:
        """Whether all literal parts of a regular expression are parts of one message."""
        runs = [run for run in _runs(pattern) if _PROSE.search(run)]
        if len(runs) == 1:
            return self._is_prose(runs[0])
        return bool(runs) and any(
            all(run in text for run in runs) for text in self._prose.split("\n")
        )

    def _literals(self, value: ast.expr) -> list[str]:
        if isinstance(value, ast.Tuple | ast.List | ast.Set):
            return [text for item in value.elts for text in self._literals(item)]
        return list(_texts(value, self._known))


def _scopes(tree: ast.Module) -> Iterator[Scope]:
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@cache
def _own_nodes(scope: Scope) -> list[ast.AST]:
    """The nodes of a scope, without those of the functions in it."""
    found = list(ast.iter_child_nodes(scope))
    for node in found:  # grows meanwhile
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.extend(ast.iter_child_nodes(node))
    return found


@cache
def _assignments(scope: Scope) -> dict[str, list[ast.expr]]:
    """The expressions that are assigned to each variable of a scope."""
    found: dict[str, list[ast.expr]] = {}
    for node in _own_nodes(scope):
        match node:
            case (
                ast.Assign(targets=[target], value=value)
                | ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.NamedExpr(target=target, value=value)
            ):
                for name, assigned in _pairs(target, value):
                    found.setdefault(name, []).append(assigned)
    return found


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case ast.Tuple(elts=names), ast.Tuple(elts=values) if len(names) == len(values):
            for one, assigned in zip(names, values, strict=True):
                yield from _pairs(one, assigned)


def _instances(scope: Scope, errors: frozenset[str]) -> set[str]:
    """Variables that hold one of relayd's own errors: caught, or annotated parameters."""
    found = {
        node.name
        for node in _own_nodes(scope)
        if isinstance(node, ast.ExceptHandler) and node.name and _names(node.type) & errors
    }
    if not isinstance(scope, ast.Module):
        arguments = scope.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if _names(argument.annotation) & errors:
                found.add(argument.arg)
    return found


def _texts(value: ast.expr, known: dict[str, list[ast.expr]], depth: int = 3) -> Iterator[str]:
    """The strings that an expression may stand for."""
    match value:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _GAP for part in parts
            )
        case ast.IfExp(body=first, orelse=second) | ast.BinOp(left=first, right=second):
            yield from _texts(first, known, depth)
            yield from _texts(second, known, depth)
        case ast.Name(id=name) if depth:
            for assigned in known.get(name, ()):
                yield from _texts(assigned, known, depth - 1)


def _runs(pattern: str) -> list[str]:
    """The runs of literal characters in a regular expression."""
    plain = re.sub(r"\\([^A-Za-z0-9])", r"\1", re.sub(r"\\[A-Za-z0-9]", _GAP, pattern))
    return re.split(rf"[\^$.|?*+(){{}}\[\]{_GAP}]+", plain)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _names(annotation: ast.expr | None) -> set[str]:
    nodes = ast.walk(annotation) if annotation is not None else ()
    return {node.id for node in nodes if isinstance(node, ast.Name)}
