"""The architecture: a room imports only rooms below it, nothing imports a command, and only a method's own places name it.

All imports are read from the source, also those inside functions and under TYPE_CHECKING, as if they stood at the top.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from support.project import CHECKOUT

from effvis import methods as networks
from pipeline import methods

# Top to bottom. docs/architecture.md has the same list with a line for each room.
ROOMS = (
    "pipeline",  # the front doors: python -m pipeline.<command>
    "pipeline/checks",
    "pipeline/mlflow_view", "pipeline/reporting", "pipeline/planning", "pipeline/search", "pipeline/tables", "pipeline/weights",
    "pipeline/engine", "pipeline/grid", "pipeline/indexing", "pipeline/datasets", "pipeline/runs", "pipeline/scheduling",
    "pipeline/identity", "pipeline/settings", "pipeline/importers", "pipeline/methods", "pipeline/system",
    *(f"effvis/{name}" for name in networks.names()),
    "effvis/tracking", "effvis/fast", "effvis/inference", "effvis/training", "effvis/model", "effvis/data/synthetic",
    "effvis/evaluation", "effvis/data",
)
# Packages that --help must not load: an import inside a function may load one of these if its module does not.
HEAVY = ("torch", "ray", "mlflow", "pandas", "matplotlib", "pydantic", "scipy")
# Packages that may be absent; code that needs one imports it when it does.
OPTIONAL = ("av", "optuna", "trackeval", "psycopg")
INFRASTRUCTURE = ("ray", "mlflow", "dvc", "pipeline")
# Places that may name a method, besides effvis/<method> and pipeline/methods/<method>.py. EfficientVIS is the project itself:
# its name stands in its configuration, and as the default in the registry.
NAMED_IN = {"efficientvis": {"effvis/config.py", "pipeline/methods/__init__.py"}}
# Published weights that have one method's name and are another method's start.
STARTS = {("pipeline/methods/efficientvis.py", "queryinst")}
# Methods whose papers the network's own description cites: EfficientVIS takes its mask head from QueryInst.
CITED = ("queryinst",)


class Import(NamedTuple):
    target: str  # a module of ours, or the name of another package
    where: str  # "top", "function" or "typing"
    line: int
    ours: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of effvis and pipeline by its dotted name."""
    files = (file for package in ("effvis", "pipeline") for file in (CHECKOUT / package).glob("**/*.py"))
    return {str(file.relative_to(CHECKOUT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): file for file in files}


def read_imports(source: str, known: frozenset[str]) -> list[Import]:
    """All imports of a module, wherever they stand; ``known`` are our own modules."""
    found = []

    def visit(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(child, "function")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                visit(child, "typing")
            else:
                names = []
                if isinstance(child, ast.Import):
                    names = [alias.name for alias in child.names]
                elif isinstance(child, ast.ImportFrom):
                    assert not child.level, f"line {child.lineno}: a relative import"
                    both = ((f"{child.module}.{alias.name}", child.module) for alias in child.names)
                    names = [name if name in known else module for name, module in both]
                for name in names:
                    ours = name in known
                    # safetensors.torch is a door to PyTorch; the package itself is light.
                    package = "torch" if name == "safetensors.torch" else name.partition(".")[0]
                    found.append(Import(name if ours else package, where, child.lineno, ours))
                visit(child, where)

    visit(ast.parse(source), "top")
    return found


@cache
def imports() -> dict[str, list[Import]]:
    known = frozenset(modules())
    return {name: read_imports(file.read_text(), known) for name, file in modules().items()}


def room_of(module: str) -> str:
    """The module's room, or the file itself if it is in no room (effvis/config.py)."""
    place = module.replace(".", "/")
    rooms = [room for room in ROOMS if place == room or place.startswith(f"{room}/")]
    return max(rooms, key=len, default=place)


def is_door(module: str) -> bool:
    return module.startswith("pipeline.") and room_of(module) == "pipeline"


def place(module: str, line: int) -> str:
    return f"{modules()[module].relative_to(CHECKOUT)}:{line}"


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_circle_of_modules():
    found = cycle({module: {one.target for one in found if one.ours} - {module} for module, found in imports().items()})
    assert found is None, f"circle: {' <- '.join(found)}"


def test_every_folder_is_a_room_and_every_room_is_there():
    folders = {str(file.parent.relative_to(CHECKOUT)) for file in modules().values()} - {"effvis"}
    assert folders == set(ROOMS)


def test_rooms_know_only_what_is_below_them():
    above = [f"{place(module, one.line)} imports {one.target}, which is above it"
             for module, found in imports().items() for one in found
             if one.ours and room_of(module) in ROOMS and room_of(one.target) in ROOMS
             and room_of(one.target) != room_of(module) and ROOMS.index(room_of(one.target)) < ROOMS.index(room_of(module))]
    assert above == []


def test_files_without_a_room_make_no_circle_of_rooms():
    graph: dict[str, set[str]] = {}
    for module, found in imports().items():
        graph.setdefault(room_of(module), set()).update(room_of(one.target) for one in found if one.ours)
    # effvis/__init__.py gives effvis.load on demand, and everything lies in that package.
    graph = {room: others - {room, "effvis"} for room, others in graph.items() if room != "effvis"}
    found = cycle(graph)
    assert found is None, f"circle: {' <- '.join(found)}"


def test_nothing_imports_a_front_door():
    assert [f"{place(module, one.line)} imports the command {one.target}"
            for module, found in imports().items() for one in found if is_door(one.target)] == []


def test_effvis_knows_no_infrastructure():
    assert [f"{place(module, one.line)} imports {one.target}"
            for module, found in imports().items() if module.partition(".")[0] == "effvis" for one in found
            if one.target.partition(".")[0] in INFRASTRUCTURE] == []


def loaded() -> dict[str, set[str]]:
    """For each module, the heavy packages that importing it loads."""
    heavy: dict[str, set[str]] = {module: set() for module in modules()}
    changed = True
    while changed:
        changed = False
        for module, found in imports().items():
            of_parents = [heavy[parent] for parent in _parents(module)]
            new = set().union(*of_parents, *(_loads(one, heavy) for one in found if one.where == "top"))
            if not new <= heavy[module]:
                heavy[module] |= new
                changed = True
    return heavy


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _loads(one: Import, heavy: dict[str, set[str]]) -> set[str]:
    if not one.ours:
        return {one.target} & set(HEAVY)
    return heavy[one.target].union(*(heavy[parent] for parent in _parents(one.target)))


def test_imports_inside_functions_keep_something_heavy_away():
    heavy = loaded()
    needless = [f"{place(module, one.line)} imports {one.target} inside a function, and keeps nothing away"
                for module, found in imports().items() for one in found
                if one.where == "function" and one.target not in OPTIONAL and _loads(one, heavy) <= heavy[module]]
    assert needless == []


def test_parameters_are_read_without_scipy():
    """Every command and every worker reads them, and would wait half a second."""
    assert "scipy" not in loaded()["pipeline.settings.params"]


def test_commands_answer_for_help_without_anything_heavy():
    """This keeps --help below 0.3 s; scipy.stats alone would take longer."""
    doors = sorted(module for module in modules() if is_door(module))
    program = f"import sys, {', '.join(doors)}\nprint(*sorted(set({(*HEAVY, 'pyarrow')!r}) & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_the_rules_find_what_breaks_them():
    source = "import ray\nif TYPE_CHECKING:\n    from effvis.config import Config\ndef f():\n    from pipeline import train\n"
    assert read_imports(source, frozenset({"effvis.config", "pipeline.train"})) == [
        ("ray", "top", 1, False), ("effvis.config", "typing", 3, True), ("pipeline.train", "function", 5, True)]
    assert is_door("pipeline.train") and not is_door("pipeline.engine.run") and cycle({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("method", methods.names())
def test_a_method_is_named_in_its_own_places_alone(method):
    """For EfficientVIS, whose name is the project's, and for cited methods, only a string that is the name counts; for others,
    any occurrence in any case."""
    own = {f"pipeline/methods/{method}.py", *NAMED_IN.get(method, ())}
    found = []
    for file in modules().values():
        path = str(file.relative_to(CHECKOUT))
        if path in own or path.startswith(f"effvis/{method}/") or (path, method) in STARTS:
            continue
        if method == methods.DEFAULT or method in CITED:
            values = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
            found += [f"{path}:{node.lineno}" for node in values if node.value == method]
        else:
            found += [f"{path}:{number}" for number, line in enumerate(file.read_text().splitlines(), 1)
                      if re.search(method, line, re.IGNORECASE)]
    assert found == []


def test_both_registries_have_the_same_methods():
    assert sorted(methods.names()) == sorted(networks.names())
    for name in methods.names():
        assert methods.get(name).name == networks.get(name).config.method == name


def test_the_list_of_rooms_stands_in_the_documentation_too():
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("\n## ")[0]
    named = re.findall(r"^\W*`?((?:pipeline|effvis)(?:/\w+|/<method>)*)/?`?", text, re.MULTILINE)
    expected = list(dict.fromkeys("effvis/<method>" if room.rpartition("/")[2] in networks.names() else room for room in ROOMS))
    assert [room for room in named if room in expected] == expected


def test_dvc_depends_on_files_that_are_there():
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]
    deps = {dep for stage in stages.values() for dep in (stage.get("do", stage)).get("deps", [])}
    own = {dep for dep in deps if dep.startswith(("effvis", "pipeline", "experiments")) and "${" not in dep}
    assert own and [dep for dep in own if not (CHECKOUT / dep).exists()] == []
