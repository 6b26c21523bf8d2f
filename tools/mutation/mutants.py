"""The mutants of a module: its source with one small mistake each.

What no test can be expected to notice is left alone: docstrings and other strings, annotations, the text of errors and
log lines, ``__repr__``, imports, ``strict`` of a zip, and the device of a tensor, since the tests run on a CPU.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_PAIRS = (
    "min max", "minimum maximum", "amin amax", "argmin argmax", "any all", "sin cos", "floor ceil", "ones zeros",
    "ones_like zeros_like", "sum prod", "flatnonzero nonzero", "logical_and logical_or",
)  # fmt: skip
NAMES = dict(pair for text in _PAIRS for a, b in [text.split()] for pair in ((a, b), (b, a)))
SILENT = {"log", "logging", "logger", "warnings", "print"}  # what is called for its message


@dataclass(frozen=True)
class Mutant:
    """line: of the mutation.  lines: of the statement around it.  what: ``old -> new``.  source: the whole module's."""

    line: int
    lines: tuple[int, ...]
    what: str
    source: str

    def diff(self, original: str) -> str:
        lines = difflib.unified_diff(original.splitlines(), self.source.splitlines(), n=0, lineterm="")
        return "\n".join([line for line in lines if not line.startswith(("---", "+++", "@@"))])


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module's source, in the order of their lines."""
    found = {}
    for statement, node, new in _mutations(ast.parse(source)):
        text = new if isinstance(new, str) else _code(new)
        old = ast.get_source_segment(source, node)
        if text != _code(node):  # as it would be where both branches are alike, or one more is rounded away
            mutated = _replaced(source, node, text)
            lines = tuple(range(statement.lineno, _header_end(statement) + 1))
            what = f"{' '.join(old.split())} -> {' '.join(text.split())}"
            found.setdefault(mutated, Mutant(node.lineno, lines, what, mutated))
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _mutations(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.AST, ast.AST | str]]:
    """(statement, node in it, what takes the node's place)."""
    for statement in _statements(tree, assigned=set()):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield statement, statement, "pass"
        if isinstance(statement, ast.Return) and statement.value is not None and not _is_none(statement.value):
            yield statement, statement, "return None"
        if isinstance(statement, ast.AugAssign) or getattr(statement, "removable", False):
            yield statement, statement, "pass"
        for part in _parts(statement):
            for node in _expressions(part):
                for new in _variants(node):
                    yield statement, node, new
        if isinstance(statement, ast.AugAssign) and type(statement.op) in OPERATORS:
            changed = copy.copy(statement)
            changed.op = OPERATORS[type(statement.op)]()
            yield statement, statement, changed
        if isinstance(statement, (ast.If, ast.While)):
            yield statement, statement.test, f"not ({_code(statement.test)})"
        if isinstance(statement, (ast.Break, ast.Continue)):
            yield statement, statement, "continue" if isinstance(statement, ast.Break) else "break"


def _statements(tree: ast.AST, assigned: set[str]) -> Iterator[ast.stmt]:
    """Every statement that is worth mutating; those that assign anew what is there already are marked removable."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name != "__repr__":
                yield child
                yield from _statements(child, {argument.arg for argument in child.args.args})
            continue
        if isinstance(child, ast.Assign) and not _is_message(child):
            targets = {node.id for t in child.targets for node in ast.walk(t) if isinstance(node, ast.Name)}
            plain = all(isinstance(target, (ast.Name, ast.Tuple)) for target in child.targets)
            child.removable = not plain or targets <= assigned
            assigned |= targets
        if isinstance(child, ast.stmt) and not _is_message(child):
            yield child
        yield from _statements(child, assigned)


def _is_message(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert)):
        return True
    if not isinstance(node, ast.Expr):
        return False
    called = node.value.func if isinstance(node.value, ast.Call) else None
    root = called.value if isinstance(called, ast.Attribute) else called
    return called is None or (isinstance(root, ast.Name) and root.id in SILENT)


def _parts(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement itself, without annotations, decorators and the statements inside it."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from (default for default in statement.args.defaults + statement.args.kw_defaults if default is not None)
    elif isinstance(statement, ast.AnnAssign):
        yield from [] if statement.value is None else [statement.value]
    elif not isinstance(statement, ast.ClassDef):
        yield from (part for part in ast.iter_child_nodes(statement) if isinstance(part, (ast.expr, ast.withitem)))


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.JoinedStr):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _expressions(child)


def _variants(node: ast.AST) -> Iterator[ast.AST | str]:
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
        yield _with(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:i], OPERATORS[type(op)](), *node.ops[i + 1 :]])
            if isinstance(op, (ast.Lt, ast.LtE)):
                yield _with(node, ops=[*node.ops[:i], ast.Gt(), *node.ops[i + 1 :]])
            elif isinstance(op, (ast.Gt, ast.GtE)):
                yield _with(node, ops=[*node.ops[:i], ast.Lt(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield _code(node.operand)
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield repr(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield repr(node.value + 1)
        if node.value not in (0, -1):
            yield "0"
    elif isinstance(node, ast.comprehension):
        return
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg not in ("device", "strict"):
                yield _with(node, keywords=[other for other in node.keywords if other is not keyword])
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in NAMES:
            field = {"attr": NAMES[name]} if isinstance(node.func, ast.Attribute) else {"id": NAMES[name]}
            yield _with(node, func=_with(node.func, **field))


def _with(node: ast.AST, **changes) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _code(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp)) else text


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _header_end(statement: ast.stmt) -> int:
    """The last line of a statement; of one with statements inside, the last line before those."""
    inside = getattr(statement, "body", None)
    return max(statement.lineno, inside[0].lineno - 1) if inside else statement.end_lineno


def _replaced(source: str, node: ast.AST, text: str) -> str:
    """The source with another text in place of a node; columns of the syntax tree count bytes."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    return (b"".join(lines)[:start] + text.encode() + b"".join(lines)[end:]).decode()
