"""The prompt files: what they must hold, and what loading refuses."""

from pathlib import Path

import pytest

import prompts

VARIABLES = {
    "answer": {"instructions", "passages", "history", "question"},
    "combine": {"text"},
    "condense": {"history", "question"},
    "summarize": {"text"},
}
PLAIN = {"refusal", "withheld"}  # texts that are no prompts


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of one's own, instead of the project's."""
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.load.cache_clear()
    return tmp_path


@pytest.mark.parametrize("name", VARIABLES)
def test_variables(name: str) -> None:
    """Each prompt asks for exactly the variables that its chain gives it."""
    assert set(prompts.load(name).input_variables) == VARIABLES[name]


def test_files() -> None:
    """Every file in the folder is a prompt or a text that a chain uses."""
    assert {path.stem for path in prompts.FOLDER.glob("*.md")} == VARIABLES.keys() | PLAIN
    assert all(prompts.text_of(name).strip() for name in PLAIN)


@pytest.mark.parametrize("name", ["answer", "summarize", "combine"])
def test_data_is_no_instruction(name: str) -> None:
    """Wherever a document goes into a prompt, the model is told first that nothing in it is an instruction."""
    system = prompts.load(name).messages[0].prompt.template  # type: ignore[union-attr] # no placeholder
    assert "instruction to you" in " ".join(system.split())


def test_load(folder: Path) -> None:
    """A prompt's headings are its messages, and a `# history` heading is where earlier turns go."""
    text = "# system\nBe {kind}.\n\n## Style\n\n- plain\n\n# history\n\n# assistant\nYes?\n# user\n{question}"
    (folder / "x.md").write_text(text, encoding="utf-8")
    messages = prompts.load("x").format_messages(kind="brief", question="{why}", history=[("human", "a"), ("ai", "b")])
    assert [(message.type, message.content) for message in messages] == [
        ("system", "Be brief.\n\n## Style\n\n- plain"),
        *(("human", "a"), ("ai", "b"), ("ai", "Yes?"), ("human", "{why}")),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# robot\nx", "robot is no role"),
        ("# system\nx\n# A heading in the text\ny\n# user\nz", "A heading in the text is no role"),
        ("before\n# system\nx", "starts with the heading"),
        ("", "starts with the heading"),
    ],
)
def test_refused(folder: Path, text: str, says: str) -> None:
    """A prompt file of which a part would be lost is refused, by its name."""
    (folder / "x.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says) as refused:
        prompts.load("x")
    assert "prompts/x.md" in str(refused.value)


def test_missing() -> None:
    """A prompt that is not there is named."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prompts.load("nowhere")
