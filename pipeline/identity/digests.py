"""Keys and digests: everything that a result follows from, and nothing else, as 16 hex digits.

A training's key is made of the data, the model, the training configuration, the seed, the starting weights and the code
that trains. Paths, worker counts and logging are not in it. The code enters by its syntax trees: a comment or a
docstring changes no key, but a changed line always does, unless pipeline/identity/same_results.yaml says that it gives the
same results.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from effvis.errors import UserError
from pipeline import methods

if TYPE_CHECKING:
    from pipeline.methods.base import Method

KEY_DIGITS = 16
# The code that decides a weight, and the code that decides a number computed from a weight, for all methods. A function after a
# colon counts alone, with the imports of what it names: the rest of its module only stores and reports.
_TRAINING_CODE = ("effvis.training.loop", "effvis.data.clips", "pipeline.engine.training:start",
                  "pipeline.engine.training:set_up_torch")
_EVALUATION_CODE = ("effvis.inference.predictor", "effvis.evaluation.video_ap", "pipeline.engine.prediction:predict",
                    "pipeline.engine.prediction:score", "effvis.evaluation.any_category",
                    "pipeline.engine.prediction:score_any_category")
PROJECT = Path(__file__).resolve().parents[2]
SAME_RESULTS = Path(__file__).with_name("same_results.yaml")


def key(facts: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 over the canonical JSON of ``facts``.

    Raises:
        TypeError: some value is not a JSON value.
        ValueError: a number is not finite.
    """
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def training_code(method: Method) -> tuple[str, ...]:
    """The code that decides a method's weights, as entries of ``code_digest``: changing one method leaves others unchanged."""
    return (*_TRAINING_CODE, *method.training_code, _entry(method.losses), _entry(method.clips_per_video))


def evaluation_code(method: Method) -> tuple[str, ...]:
    """The code that decides the scores of a method's weights, as entries of ``code_digest``."""
    return (*_EVALUATION_CODE, *method.evaluation_code, _entry(method.predict))


def _entry(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


@cache
def training_digest(method: str) -> str:
    """Digest of all code that decides a trained weight, or of the earlier version that gives the same results."""
    return counted_as("training", code_digest(training_code(methods.get(method))))


@cache
def evaluation_code_digest(method: str) -> str:
    """Digest of all code that decides what a trained weight scores, or of the earlier version that gives the same results."""
    return counted_as("evaluation", code_digest(evaluation_code(methods.get(method))))


def read_same_results(file: Path = SAME_RESULTS) -> dict[str, dict[str, str]]:
    """For training and evaluation: digests of versions that give earlier versions' results, mapped to the earlier digests.

    Raises:
        UserError: an entry is wrong.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for kind in ("training", "evaluation"):
        found[kind] = {}
        for number, entry in enumerate(content[kind]):
            if not isinstance(entry, dict) or set(entry) != {"code", "as", "because"}:
                raise UserError(file, f"{kind}[{number}]", "needs the keys code, as and because, and no others", "Correct it")
            found[kind][str(entry["code"])] = str(entry["as"])
        chained = next((number for number, entry in enumerate(content[kind]) if entry["as"] in found[kind]), None)
        if chained is not None:
            raise UserError(file, f"{kind}[{chained}].as", "is itself a version that counts as an earlier one",
                            "Name that earlier one")
    return found


def counted_as(kind: str, digest: str) -> str:
    return read_same_results()[kind].get(digest, digest)


def code_digest(entries: Iterable[str], *, root: Path = PROJECT) -> str:
    """SHA-256 over the syntax trees of some modules and of all that they import from their own package.

    Imports are found in the source, also inside functions, and nothing is executed. Every Python version gives the same
    digest.

    Args:
        entries: dotted module names, or ``module:function`` for one function without its module's other imports.
        root: the folder that holds the packages.

    Raises:
        LookupError: an entry does not exist; the message names it.
    """
    trees = syntax_trees(entries, root=root)
    digest = hashlib.sha256()
    for name in sorted(trees):
        digest.update(f"{name}\n{trees[name]}\n".encode())
    return digest.hexdigest()


def syntax_trees(entries: Iterable[str], *, root: Path = PROJECT) -> dict[str, str]:
    """The content of ``code_digest`` as text, by module (or ``module:function``), with the same arguments and errors."""
    trees: dict[str, str] = {}
    waiting = []
    for entry in entries:
        module, _, function = entry.partition(":")
        if _source(module, root) is None:
            raise LookupError(f"{entry}: no such module under {root}")
        if function:
            trees[entry] = _canonical(_function(module, function, root))
        else:
            waiting.append(module)
    while waiting:
        module = waiting.pop()
        if module not in trees:
            path = _source(module, root)
            trees[module], named = _tree_and_names(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
            waiting.extend(_modules(named, module, root))
    return trees


def _source(module: str, root: Path) -> Path | None:
    """The file of a module: in the folder that holds the packages or, for methods from elsewhere, further along their paths."""
    package, *rest = module.split(".")
    elsewhere = import_module(package).__path__ if root == PROJECT else ()
    stems = [root / package, *(Path(place) for place in elsewhere)]
    stems = [stem.joinpath(*rest) for stem in stems]
    return next((path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@cache
def _tree_and_names(source: str, module: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """Canonical syntax tree of a module, and the dotted names in its imports. Most modules are in all digests."""
    tree = ast.parse(source, filename=module)
    if is_package:
        # A package's own __getattr__ runs when a name is looked up in the package, not when a module inside it is imported.
        tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")]
    named = tuple(_imports(tree, module if is_package else module.rpartition(".")[0]))
    return _canonical(tree), named


def _function(module: str, name: str, root: Path) -> ast.Module:
    """A function with those imports of its module that it uses: the same name imported from elsewhere may be something else."""
    path = _source(module, root)
    body = ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body
    function = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    if function is None:
        raise LookupError(f"{module}:{name}: no such function in {path}")
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    imported = []
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [alias for alias in statement.names if (alias.asname or alias.name).partition(".")[0] in used]
            if names:
                statement.names = names
                imported.append(statement)
    return ast.Module(body=[*sorted(imported, key=ast.unparse), function], type_ignores=[])


def _imports(tree: ast.Module, inside: str) -> Iterator[str]:
    """The dotted names in the imports of ``tree``, which lies in the package ``inside``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = inside.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            # ``from package import name``: the name may be a module or something inside the package.
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _modules(names: Iterable[str], module: str, root: Path) -> Iterator[str]:
    """Those ``names`` that are modules of the same package as ``module``, with the packages they lie in."""
    package = module.partition(".")[0]
    for name in names:
        if name.partition(".")[0] == package:
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                ancestor = ".".join(parts[:length])
                if _source(ancestor, root) is not None:
                    yield ancestor


def _canonical(node: Any) -> str:
    """A syntax tree as text, without positions, docstrings and empty fields (Python versions differ in those)."""
    if isinstance(node, list):
        return "[" + ",".join(_canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and _is_documented(node):
            value = value[1:]
        # An absent field is skipped, but ``None`` as a literal is a value; "kind" is the u of u"text".
        if name != "kind" and (isinstance(node, ast.Constant) or value not in (None, [])):
            fields.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_documented(node: ast.AST) -> bool:
    return (isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and bool(node.body)
            and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            and isinstance(node.body[0].value.value, str))
