"""The last look at a generated source: it is Python, and made of nothing but what this package writes.

Names from a stranger's net stand in it as identifiers, strings and comments, made fit for that in `names`. Should one
get out of its place all the same, this ends the conversion before there is a file to run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from caffe_port.errors import ArtifactError

__all__ = ["require_expected"]

_IMPORTS = frozenset(
    {
        "import io",
        "import torch",
        "import torch.nn.functional as F",
        "from PIL import Image",
        "from collections import OrderedDict",
        "from safetensors.torch import load_file",
        "from torch import Tensor, nn",
    }
)

_MODULES = {
    "F": """adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d channel_shuffle elu interpolate leaky_relu
        local_response_norm max_pool2d mish pad relu relu6 silu softmax softplus""",
    "Image": "Resampling open",
    "io": "BytesIO",
    "nn": """BatchNorm1d BatchNorm2d BatchNorm3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
        Embedding Linear Module PReLU Parameter Sequential""",
    "torch": """abs cat chunk clamp exp finfo flatten flip float32 float64 frombuffer full_like log maximum mean no_grad
        ones sigmoid split square sum tanh tensor uint8 zeros""",
}
_OF_MODULES = {module: frozenset(names.split()) for module, names in _MODULES.items()}

_VALUES = """BILINEAR bias convert crop double dtype eval flip float height info load_state_dict long min permute repeat
    reshape resize save shape to tobytes weight width"""
_OF_VALUES = frozenset(_VALUES.split())
"""Attributes of tensors, modules and pictures."""

_BUILTINS = frozenset({"ValueError", "bool", "bytearray", "dict", "int", "str", "super"})

_NODES = (
    *(ast.Module, ast.Import, ast.ImportFrom, ast.alias, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg),
    *(ast.Assign, ast.Expr, ast.If, ast.Raise, ast.Return),
    *(ast.Attribute, ast.BinOp, ast.BoolOp, ast.Call, ast.Compare, ast.Constant, ast.Dict, ast.List, ast.Name),
    *(ast.Slice, ast.Subscript, ast.Tuple, ast.UnaryOp, ast.keyword),
    *(ast.expr_context, ast.operator, ast.boolop, ast.cmpop, ast.unaryop),
)


def require_expected(source: str, file: str) -> None:
    """Raises: ArtifactError unless `source` is Python that, on import, defines classes and functions and does no more,
    and that in these uses only names it binds itself, the layers' parts of PyTorch, and Pillow for the picture.

    file: what the source will be called, for the message.
    """
    try:
        tree = ast.parse(source, file)
        compile(tree, file, "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: the source is no Python: {error}; please report it") from None
    found = [*_statements(tree), *_uses(tree)]
    if found:
        line, what = min(found)
        raise ArtifactError(f"{file}: the source would have {what!r} at line {line}, which no layer needs; report it")


def _statements(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What stands directly in the file or a class and is no definition, no import and no text."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bodies: list[ast.Module | ast.ClassDef] = [tree, *classes]
    for holder in bodies:
        for node in holder.body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not (is_text or isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Import, ast.ImportFrom))):
                yield node.lineno, ast.unparse(node)
    for parent in classes:
        if [ast.unparse(base) for base in parent.bases] != ["nn.Module"] or parent.keywords or parent.decorator_list:
            yield parent.lineno, f"class {parent.name}"


def _uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What is used and is not known here."""
    bound, own = _bound(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if not isinstance(node, _NODES):
            yield line, type(node).__name__
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if ast.unparse(node) not in _IMPORTS:
                yield line, ast.unparse(node)
        elif isinstance(node, ast.FunctionDef):
            if node.decorator_list:
                yield line, f"def {node.name}"
        elif isinstance(node, ast.Name):
            if node.id not in bound and node.id not in _BUILTINS:
                yield line, node.id
        elif isinstance(node, ast.Attribute) and not _is_known(node, own):
            yield line, ast.unparse(node)


def _bound(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that the source binds, and the attributes that its modules have."""
    bound: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "OrderedDict":
            own.update(keyword.arg for keyword in node.keywords if keyword.arg is not None)
    return bound, {name for name in own if not name.startswith("__")}


def _is_known(node: ast.Attribute, own: set[str]) -> bool:
    if isinstance(node.value, ast.Name) and node.value.id in _OF_MODULES:
        return node.attr in _OF_MODULES[node.value.id]
    if node.attr == "__init__":
        return ast.unparse(node) == "super().__init__"
    return node.attr in _OF_VALUES or (node.attr in own and _root(node) == "self")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return ast.unparse(node)
