"""Small mistakes put into functions of loaded modules, one at a time: nothing is written to a file.

A mutant changes one place in one function: a comparison, an operator, a number, a condition, the order of two arguments, or
a statement left out. Text, what an error says, annotations and decorators stay as they are.
"""

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """One mistake. function: its qualified name within the module; before, after: the line of the statement."""

    module: str
    function: str
    line: int
    before: str
    after: str
    number: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays when lines move."""
        return self.function, self.before, self.after


def mutants_of(module: str) -> list[Mutant]:
    """All mistakes that can be put into the functions of a module."""
    found = []
    for function, name in _functions(_tree(import_module(module))):
        for number, (statement, node, replace) in enumerate(_places(function)):
            after = _Put(node, replace(node)).visit(copy.deepcopy(statement, {id(node): node}))
            found.append(Mutant(module, name, statement.lineno, _line(statement), _line(after), number))
    return found


def apply(mutant: Mutant) -> None:
    """Put the mistake into the loaded module, wherever its function has been imported to."""
    module = import_module(mutant.module)
    tree = _tree(module)
    function = next(node for node, name in _functions(tree) if name == mutant.function)
    _, node, replace = list(_places(function))[mutant.number]
    _Put(node, replace(node)).visit(function)
    ast.fix_missing_locations(tree)
    target = _loaded(module, mutant.function)
    whole = compile(tree, str(module.__file__), 'exec')
    target.__code__ = next(code for code in _codes(whole) if code.co_qualname == mutant.function)
    arguments = function.args
    if target.__defaults__:
        target.__defaults__ = tuple(_value(default, target) for default in arguments.defaults)
    for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default and target.__kwdefaults__:
            target.__kwdefaults__[name.arg] = _value(default, target)


class _Put(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _functions(tree: ast.Module) -> Iterator[tuple[_Function, str]]:
    """Functions and methods with their qualified names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield method, f'{node.name}.{method.name}'


def _loaded(module: ModuleType, name: str) -> FunctionType:
    """The function itself, below its decorators."""
    owner: Any = module
    *classes, last = name.split('.')
    for part in classes:
        owner = getattr(owner, part)
    found = inspect.getattr_static(owner, last)
    if isinstance(found, property):
        found = found.fget
    elif hasattr(found, 'func'):
        found = found.func
    found = inspect.unwrap(found)
    return inspect.unwrap(getattr(found, '__func__', found))


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _value(default: ast.expr, function: FunctionType) -> Any:
    return eval(compile(ast.Expression(default), '<default>', 'eval'), function.__globals__)


Place: TypeAlias = tuple[ast.stmt, Any, Callable[[Any], Any]]


def _line(statement: ast.AST) -> str:
    """A simple statement, or the first line of one that holds others."""
    return next(line for line in ast.unparse(statement).splitlines() if not line.startswith('@'))


def _places(function: _Function) -> Iterator[Place]:
    """Every node of a function that can be changed, in its statement, with what makes the changed copy of the node."""
    for part in (function.args, *function.body):
        yield from _within(part, function)


def _within(node: ast.AST, statement: ast.stmt) -> Iterator[Place]:
    statement = node if isinstance(node, ast.stmt) else statement
    if _is_text(node):
        return
    yield from ((statement, node, change) for change in _changes(node))
    # What an error says is no behaviour that a test should hold on to.
    if not isinstance(node, ast.Raise | ast.JoinedStr):
        for child in _children(node):
            yield from _within(child, statement)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    # strict=True of zip is a check of its own.
    if isinstance(node, ast.keyword) and node.arg == 'strict':
        return
    for name, value in ast.iter_fields(node):
        if name not in ('annotation', 'returns', 'decorator_list'):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, ast.AST))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.AST) -> Iterator[Callable[[Any], Any]]:
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield _with_operator
        case ast.Compare():
            yield _with_comparison
        case ast.Constant(value=bool() | int() | float()):
            yield _other_number
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield lambda given: given.operand
        case ast.Call(args=[_, _, *_]) if not _in_any_order(node):
            yield _swapped
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not _is_turned_elsewhere(test):
            yield _negated
        case ast.comprehension(ifs=[test, *_]) if not _is_turned_elsewhere(test):
            yield _negated
    if _removable(node):
        yield lambda given: ast.copy_location(ast.Pass(), given)


def _in_any_order(call: ast.Call) -> bool:
    if any(isinstance(argument, ast.Starred) for argument in call.args[:2]):
        return True
    return isinstance(call.func, ast.Name) and call.func.id in ('min', 'max')


def _is_turned_elsewhere(test: ast.expr) -> bool:
    """Whether the opposite of a condition is a mutant already, by its own operator."""
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn)
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _removable(node: ast.AST) -> bool:
    """Statements whose absence is no error by itself."""
    if isinstance(node, ast.Expr):
        # Without `super()` a function has other free variables, and its code does not fit.
        return 'super()' not in ast.unparse(node) and not isinstance(node.value, ast.Yield | ast.YieldFrom)
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Subscript)
    return isinstance(node, ast.AugAssign | ast.Raise)


def _with_operator(node: Any) -> Any:
    changed = copy.copy(node)
    changed.op = _OPERATORS[type(node.op)]()
    return changed


def _with_comparison(node: ast.Compare) -> ast.Compare:
    changed = copy.copy(node)
    other: Any = _OPERATORS[type(node.ops[0])]()
    changed.ops = [other, *node.ops[1:]]
    return changed


def _other_number(node: ast.Constant) -> ast.Constant:
    value: Any = node.value
    if isinstance(value, bool):
        return ast.copy_location(ast.Constant(not value), node)
    return ast.copy_location(ast.Constant(value * 2 if isinstance(value, float) and value else value + 1), node)


def _swapped(node: ast.Call) -> ast.Call:
    changed = copy.copy(node)
    changed.args = [node.args[1], node.args[0], *node.args[2:]]
    return changed


def _negated(node: Any) -> Any:
    changed = copy.copy(node)
    if isinstance(node, ast.comprehension):
        changed.ifs = [ast.UnaryOp(ast.Not(), node.ifs[0]), *node.ifs[1:]]
    else:
        changed.test = ast.UnaryOp(ast.Not(), node.test)
    return changed
