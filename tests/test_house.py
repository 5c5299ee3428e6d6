"""The plan in docs/architecture.md holds: imports go down, files are short, and importing changes nothing around."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import PATIENCE

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "nc_sweeps": ROOT / "nc_sweeps",
    "nc_launch": ROOT / "launch" / "nc_launch",
    "hydra_plugins": ROOT / "launch" / "hydra_plugins",
}
MOST_LINES = 350


@cache
def modules() -> dict[str, Path]:
    """Every module of the project and its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            name = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(node: ast.AST, at_import: bool) -> Iterator[str]:
    """Names that are imported below a node, ``module.name`` for ``from module import name``.

    Args:
        node: a module, or a part of it.
        at_import: only what is imported when the module is; not inside functions, nor for type checkers.
    """
    for child in ast.iter_child_nodes(node):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide where a name comes from"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child, at_import)


def own_imports(module: str, at_import: bool) -> set[str]:
    """Modules of the project that a module imports."""
    names = imports(tree(modules()[module]), at_import)
    return {name if name in modules() else name.rpartition(".")[0] for name in names} & modules().keys()


def room(module: str) -> str:
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "nc_sweeps" else package


def plan() -> dict[str, set[str]]:
    """Rooms from bottom to top, each with the rooms that it may import: the table of the architecture page."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("| Room |")[2].partition("\n\n")[0]
    allowed: dict[str, set[str]] = {}
    for row in table.splitlines()[2:]:
        names, _, below = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            room_name = Path(name).stem if name.endswith(".py") else name.rstrip("/").rpartition("/")[2]
            allowed[room_name] = set(re.findall(r"`([^`]+)`", below))
    return allowed


def test_the_page_names_what_there_is():
    """Look up the files, classes, functions and constants that stand in backticks."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    quoted = set(re.findall(r"`([^`\s]+)`", page))
    paths = {name for name in quoted if re.fullmatch(r"[\w/]+\.(py|cpp)", name)}
    assert len(paths) > 40
    starts = (ROOT, ROOT / "nc_sweeps", ROOT / "launch")
    assert not {path for path in paths if not any((start / path).exists() for start in starts)}
    sources = (*modules().values(), *(ROOT / "tests").rglob("*.py"), ROOT / "nc_sweeps" / "kernels" / "flow.cpp")
    code = "\n".join(path.read_text() for path in sources)
    known = set(re.findall(r"\w+", code))
    names = {name for name in quoted if re.fullmatch(r"[A-Za-z_][\w.]*", name) and re.search("[A-Z_]", name)} - paths
    assert len(names) > 40
    assert not {name for name in names if not set(name.split(".")) <= known}


def test_every_room_is_on_the_plan_and_no_other():
    rooms = {room(module) for module in modules()} - {""}
    assert plan().keys() == rooms


def test_the_plan_has_one_direction():
    below: set[str] = set()
    for name, allowed in plan().items():
        assert allowed <= below, f"{name} may import {allowed - below}, which stand above it"
        below.add(name)


@pytest.mark.parametrize("name", sorted(plan()))
def test_imports_go_down(name):
    """Whether at import, inside a function or for a type checker."""
    allowed = plan()[name] | {name}
    for module in modules():
        if room(module) == name:
            used = {room(other) for other in own_imports(module, at_import=False)} - {""}
            assert used <= allowed, f"{module} imports {used - allowed}"


def test_there_is_no_import_circle():
    list(TopologicalSorter({m: own_imports(m, at_import=True) - {m} for m in modules()}).static_order())


@pytest.mark.parametrize("name", ["theory", "metrics"])
def test_the_mathematics_knows_nothing_of_networks_and_training(name):
    assert not plan()[name] & {"models", "dynamics", "training", "config", "data"}


def test_only_publish_imports_wandb():
    users = {
        room(module)
        for module, path in modules().items()
        if any(imported.partition(".")[0].startswith("wandb") for imported in imports(tree(path), at_import=False))
    }
    assert users == {"publish"}


def test_lightning_is_used_by_training_alone():
    users = {
        room(module)
        for module, path in modules().items()
        if any("lightning" in imported for imported in imports(tree(path), at_import=False))
    }
    assert users == {"training"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_short(folder):
    sources = [path for path in FOLDERS[folder].rglob("*") if path.suffix in {".py", ".cpp", ".css", ".html", ".js"}]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    long = {path for path, lines in lengths.items() if lines > MOST_LINES}
    assert long <= {"nc_sweeps/kernels/flow.cpp"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_are_sentences_that_stand_alone(folder):
    fragments = []
    for path in FOLDERS[folder].rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if text.startswith(("Of ", "What ")):
                    fragments.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not fragments


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.processes
@pytest.mark.parametrize("command", ["nc_sweeps.train", "nc_launch.command", "nc_sweeps.features.command"])
def test_commands_start_without_slow_libraries(command):
    slow = {"torch", "polars", "altair", "pytorch_lightning", "wandb"}
    done = run_python(f"import sys, {command}; print(*{slow} & set(sys.modules))")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.processes
def test_importing_changes_nothing_around_it():
    """The environment, signal handlers, umask, warning filters and functions at exit; what others change is theirs."""
    ours = sorted(module for module in modules() if not module.endswith("__main__"))
    names = {name for module in ours for name in imports(tree(modules()[module]), at_import=True)}
    others = sorted({name.rpartition(".")[0] or name for name in names if name.partition(".")[0] not in FOLDERS})
    script = f"""
import atexit, importlib, logging, os, signal, warnings
for name in {others}:
    try:
        importlib.import_module(name)
    except ImportError:
        importlib.import_module(name.rpartition(".")[0])

def look():
    mask = os.umask(0)
    os.umask(mask)
    return {{
        "environment": dict(os.environ),
        "signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "umask": mask,
        "warning filters": list(warnings.filters),
        "logger levels": {{name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}},
        "functions at exit": atexit._ncallbacks(),
    }}

before = look()
for name in {ours}:
    known = set(logging.root.manager.loggerDict)
    importlib.import_module(name)
    after = look()
    after["logger levels"] = {{name: level for name, level in after["logger levels"].items() if name in known}}
    changed = [what for what in before if after[what] != before[what]]
    assert not changed, f"importing {{name}} changes: {{', '.join(changed)}}"
    before = look()
"""
    done = run_python(script)
    assert done.returncode == 0, done.stderr
