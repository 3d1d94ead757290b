"""Who may import whom: arrows only go down, and what is heavy or foreign stays where it belongs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = (
    "server",
    "cli",
    "evaluation",
    "services",
    "routes",
    "client",
    "terminal",
    "chains",
    "retrievers",
    "llm",
    "prompts",
    "weights",
    "settings",
    "callers",
    "quantities",
    "errors",
)
MAY_IMPORT = {
    "server": {"services", "routes", "retrievers", "settings", "errors"},
    "cli": {"server", "evaluation", "services", "client", "terminal", "chains", "retrievers", "settings", "errors"},
    "evaluation": {"services", "client", "terminal", "chains", "retrievers", "settings", "errors"},
    "services": {"chains", "retrievers", "llm", "weights", "settings", "errors"},
    "routes": {"chains", "retrievers", "callers", "errors"},
    "client": {"errors"},
    "terminal": set(),
    "chains": {"prompts", "quantities", "errors"},
    "retrievers": {"quantities", "weights", "settings", "errors"},
    "llm": {"weights", "settings", "callers", "errors"},
    "prompts": set(),
    "weights": {"errors"},
    "settings": {"errors"},
    "callers": set(),
    "quantities": set(),
    "errors": set(),
}


def files(module: str) -> list[Path]:
    return sorted((ROOT / module).rglob("*.py")) or [ROOT / f"{module}.py"]


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_down(module: str) -> None:
    """A newcomer can read the layers from the top: nothing imports what stands above or beside it."""
    for path in files(module):
        upward = imports(path) & set(MODULES) - MAY_IMPORT[module] - {module}
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"


def test_the_table_has_no_circle() -> None:
    """The table above is itself a ladder: no module may, by any way round, import itself."""
    for module in MODULES:
        below, todo = set[str](), set(MAY_IMPORT[module])
        while todo:
            step = todo.pop()
            below.add(step)
            todo |= MAY_IMPORT[step] - below
        assert module not in below


def test_langserve_is_known_to_one_file() -> None:
    """LangServe can be taken out by deleting one file."""
    knowing = {path.relative_to(ROOT).as_posix() for m in MODULES for path in files(m) if "langserve" in imports(path)}
    assert knowing == {"routes/langserve.py"}


def test_chains_need_neither_torch_nor_qdrant() -> None:
    """The chains work with langchain-core's types only."""
    allowed = {"chains", "prompts", "quantities", "errors", "langchain_core", "pydantic"} | set(sys.stdlib_module_names)
    for path in files("chains"):
        assert imports(path) <= allowed, path


def test_importing_the_server_loads_nothing_heavy() -> None:
    """`import server` and `fcc-rag --help` answer at once."""
    code = "import sys, server, cli; print([m for m in ('torch', 'transformers', 'qdrant_client') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_states_its_boundary() -> None:
    """Each file opens with a docstring that says what it is for."""
    for module in MODULES:
        for path in files(module):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
