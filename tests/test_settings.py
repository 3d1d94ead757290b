"""Settings: what is read, what is refused, and that `.env.example` tells of each."""

import re
from pathlib import Path

import pytest

import settings
from errors import SettingsError

ROOT = Path(__file__).parent.parent


def test_example_lists_every_setting() -> None:
    """`.env.example` names each setting once, with a line that explains it, and nothing else."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)
    known = [name.upper() for section in settings.SECTIONS.values() for name in section.model_fields]
    assert sorted(named) == sorted(known)
    assert re.findall(r"^# (?!---).+\n([A-Z_]+)=", text, re.MULTILINE) == named


def test_example_gives_the_defaults() -> None:
    """The values in `.env.example` are the defaults, so that copying it changes nothing."""
    before = settings.load()
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    Path(".env").write_text(text, encoding="utf-8")
    assert settings.load() == before


def test_original_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each variable of the original reaches its section."""
    values = {
        "ENV": "production",
        "LOCAL_MODEL_PATH": str(tmp_path),
        "LOCAL_BASE_MODEL_PATH": "meta-llama/Llama-2-13b-chat-hf",
        "LOCAL_ADAPTER_PATH": str(tmp_path),
        "QDRANT_HOST": "qdrant.example",
        "QDRANT_PORT": "7000",
        "COLLECTION_NAME": "rules",
        "HF_TOKEN": "secret",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    chosen = settings.load()
    fields = chosen.server.model_dump() | chosen.llm.model_dump() | chosen.retrieval.model_dump()
    assert fields["hf_token"].get_secret_value() == "secret"
    assert {name: str(fields[name.lower()]) for name in values if name != "HF_TOKEN"} == {
        name: value for name, value in values.items() if name != "HF_TOKEN"
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "99999"),
        ("PORT", "http"),
        ("QUANTIZATION", "int3"),
        ("ADAPTER_MODE", "glue"),
        ("COLLECTION_NAME", "a/b"),
        ("MAX_GPU_MEMORY", "lots"),
        ("MAX_GPU_MEMORY", "10GiB"),
        ("LOCAL_ADAPTER_PATH", "somewhere"),
        ("TEMPERATURE", "3"),
        ("MIN_SCORE", "nan"),
        ("ENV", "staging"),
        ("ENV", "production"),
        ("RETRIEVAL_K", "0"),
    ],
)
def test_impossible_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A value that cannot work is refused in one line that names its variable."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert variable in str(caught.value)
    assert "\n" not in str(caught.value)


def test_secret_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token does not show when settings are printed."""
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert "hf_abc" not in repr(settings.load())


def test_misspelt_variable_is_told() -> None:
    """A variable in `.env` that is no setting is named, with the one that was meant."""
    Path(".env").write_text("QUANTISATION=nf4\nPORT=8001\n", encoding="utf-8")
    assert settings.unknown_in_dotenv() == [".env: QUANTISATION is not a setting; did you mean QUANTIZATION?"]


def test_merged_model_is_used_as_it_is(tmp_path: Path) -> None:
    """With LOCAL_MODEL_PATH in place the adapter is not applied a second time."""
    chosen = settings.load(local_model_path=str(tmp_path), local_base_model_path="x/y", local_adapter_path=str(tmp_path))
    served = chosen.llm.served()
    assert (served.local_model_path, served.local_adapter_path) == (str(tmp_path), "")


def test_missing_merged_model_says_how_to_make_it(tmp_path: Path) -> None:
    """A LOCAL_MODEL_PATH that `fcc-rag merge` has still to write stops the start and says so."""
    chosen = settings.load(local_model_path="models/merged", local_base_model_path="x/y", local_adapter_path=str(tmp_path))
    with pytest.raises(SettingsError, match=r"LOCAL_MODEL_PATH: models/merged is not a folder; fcc-rag merge writes it"):
        chosen.llm.served()
