"""The README keeps its word: its two commands, its tree and its files are there, and both languages tell the same."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """The code of each fenced block, without comments and the tree's explanations."""
    found = re.findall(r"```(?:sh|python)\n(.*?)```", text, re.DOTALL)
    return [re.sub(r" +# .*", "", block) for block in found]


def test_two_commands() -> None:
    """The two commands stand there as CI runs them."""
    assert "\npip install -c constraints.txt -e . && fcc-rag serve\n" in ENGLISH
    assert '\npip install -c constraints.txt -e ".[dev]" && pytest\n' in ENGLISH


def test_both_languages_give_the_same_commands() -> None:
    """A reader of Korean types the same commands."""
    assert blocks(KOREAN) == blocks(ENGLISH)
    assert re.findall(r"^\| `", KOREAN, re.MULTILINE) == re.findall(r"^\| `", ENGLISH, re.MULTILINE)


def test_tree_is_true() -> None:
    """Each line of the annotated tree is there, and nothing at the top level is missing from it."""
    (tree,) = re.findall(r"```\n(server\.py.*?)```", ENGLISH, re.DOTALL)
    named = re.findall(r"^(\S+)", tree, re.MULTILINE)
    assert all((ROOT / name).exists() for name in named), named
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert {name.rstrip("/") for name in named} >= set(included)


def test_linked_files_exist() -> None:
    """No link of either README leads nowhere."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", ENGLISH + KOREAN):
        assert (ROOT / target).exists(), target
