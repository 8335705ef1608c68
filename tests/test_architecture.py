"""The house: no room imports one above it, and nothing but tasks/ asks for config.task."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bonescan_jax"
# From the top down; each may import what stands below it, and itself. docs/architecture.md.
ROOMS = (
    "__main__",
    "cli",
    "benchmark",
    "sweep",
    "crossvalidate",
    "predict",
    "train",
    "evaluate",
    "export",
    "passes",
    "warm_start",
    "trained",
    "report",
    "aot",
    "inspect",
    "runs",
    "input_pipeline",
    "train_step",
    "tasks",
    "datasets",
    "phantom",
    "models",
    "metrics",
    "config",
    "scans",
    "cluster",
    "augment",
    "losses",
    "hyperparameters",
    "errors",
    "__init__",
)


def room(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "bonescan_jax":
                names = [f"bonescan_jax.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("bonescan_jax.")}
    return found


def test_every_file_has_a_room():
    assert {room(path) for path in PACKAGE.rglob("*.py")} == set(ROOMS)


def test_no_import_points_upward():
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in sorted(imports(path))
        if ROOMS.index(name) < ROOMS.index(room(path))
    ]
    assert upward == []


def test_scans_know_no_accelerator_and_no_simulator():
    for path in (PACKAGE / "scans").glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not {str(name).split(".")[0] for name in modules} & {"jax", "flax", "grain"}, path


def test_only_tasks_ask_for_the_task():
    asking = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if room(path) not in ("tasks", "config") and "config.task" in path.read_text()
    ]
    assert asking == []


def test_tests_mirror_the_package():
    """A test file lies where what it tests lies."""
    rooms = {name for name in ROOMS if (PACKAGE / name).is_dir()}
    own = {"accuracy", "faults", "fuzz", "launch"}  # of the whole program, or of launch/
    tests = Path(__file__).parent
    folders = {path.name for path in tests.iterdir() if list(path.glob("*.py"))}
    assert folders - own <= rooms
