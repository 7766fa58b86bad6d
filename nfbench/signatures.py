"""Constructor signatures, read from the source: loading an experiment imports no flow."""

import ast
from collections.abc import Iterator
from dataclasses import MISSING, field, make_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Union

FLOWS = Path(__file__).parent / "flows"
DATA = Path(__file__).parent / "data"
TYPES: dict[str, type] = {"bool": bool, "float": float, "int": int, "str": str}
NOT_SETTINGS = ("context_features",)  # given by the data set, never by an experiment file


@cache
def flow_names(package: Path = FLOWS) -> tuple[str, ...]:
    """The names in FLOWS."""
    return tuple(_registry(package, "FLOWS"))


@cache
def dataset_names(package: Path = DATA) -> tuple[str, ...]:
    """The names in DATA."""
    return tuple(_registry(package, "DATA"))


@cache
def flow_schema(name: str, package: Path = FLOWS) -> type:
    """A dataclass of a flow's settings: its name, and its constructor's keyword-only arguments.

    Raises:
        ValueError: the constructor is not written in a way that can be read without running it.
    """
    function = _function(package, _registry(package, "FLOWS")[name])
    settings = [("name", str, field(default=name)), *_settings(function)]
    return make_dataclass(name, settings, kw_only=True)


def _settings(function: ast.FunctionDef) -> Iterator[tuple[str, Any, Any]]:
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if argument.arg in NOT_SETTINGS:
            continue
        try:
            kind = _type(argument.annotation)
            value = MISSING if default is None else ast.literal_eval(default)
        except ValueError as error:
            where = f"{function.name}(..., {argument.arg})"
            raise ValueError(f"{where}: expected a plain type and a literal default") from error
        if isinstance(value, tuple | list):
            yield argument.arg, kind, field(default_factory=partial(list, value))
        else:
            yield argument.arg, kind, field(default=value)


def _type(annotation: ast.expr | None) -> Any:
    match annotation:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007  (the members are values here)
        case ast.Subscript(value=ast.Name(id="Sequence"), slice=item):
            return list[_type(item)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[ast.literal_eval(choices)]
    raise ValueError(f"not a type of a setting: {annotation and ast.unparse(annotation)}")


def _registry(package: Path, name: str) -> dict[str, str]:
    """The dict literal `name` of a package's __init__: key -> the expression it stands for."""
    for node in _parse(package / "__init__.py").body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=target)], value=ast.Dict(keys, values))
                | ast.AnnAssign(target=ast.Name(id=target), value=ast.Dict(keys, values))
            ) if target == name:
                pairs = zip(keys, values, strict=True)
                return {ast.literal_eval(k): ast.unparse(v) for k, v in pairs if k is not None}
    raise ValueError(f"{package}/__init__.py: expected {name} = {{...}}, a dict literal")


def _function(package: Path, name: str) -> ast.FunctionDef:
    """The constructor that a package's __init__ imports by `from .module import name`."""
    imports = [n for n in _parse(package / "__init__.py").body if isinstance(n, ast.ImportFrom)]
    for module, alias in ((node.module, alias) for node in imports for alias in node.names):
        if name == (alias.asname or alias.name):
            for item in _parse(package / f"{module}.py").body:
                if isinstance(item, ast.FunctionDef) and item.name == alias.name:
                    return item
    raise ValueError(f"{package}/__init__.py: expected `from .module import {name}`, a function")


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
