"""Turns the environment and `.env` into frozen settings, one section for each package. Loads nothing else.

A section's field is its variable in lower case: `QDRANT_HOST` is `settings.retrieval.qdrant_host`.
`.env.example` explains each; a test holds the two together.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from errors import SettingsError

Port = Annotated[int, Field(ge=1, le=65535)]


def _expanded(value: object) -> object:
    try:
        return Path(value).expanduser() if isinstance(value, str) and value else value
    except RuntimeError as exc:  # ~nobody-here
        raise ValueError(str(exc)) from None


Folder = Annotated[Path, BeforeValidator(_expanded)]


Activations = Literal["float", "int8"]


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcc-rag"


class _Section(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )


class Server(_Section):
    """Where the server listens and what it lets in."""

    env: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"
    port: Port = 8000
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_body_mb: Annotated[float, Field(gt=0, le=100_000)] = 4.0
    ingest_from: Literal["local", "any", "nobody"] = "local"
    shutdown_grace_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 -- compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class LLM(_Section):
    """Which model answers: weights of our own, in what form and by which engine, or a service that has them."""

    llm_backend: Literal["local", "openai"] = "local"
    llm_base_url: str = ""
    llm_model: str = ""
    llm_api_key: SecretStr = SecretStr("")
    llm_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    llm_window: Annotated[int, Field(ge=256)] | None = None
    llm_tokenizer: str = ""
    llm_engine: Literal["auto", "openvino", "transformers"] = "auto"
    llm_activations: Activations = "float"
    local_model_path: str = ""
    local_base_model_path: str = ""
    local_adapter_path: str = ""
    adapter_mode: Literal["merge", "attach"] = "merge"
    quantization: Literal["auto", "nf4", "int8", "none"] = "auto"
    device_map: Literal["", "auto", "cpu", "cuda"] = ""
    max_gpu_memory: Annotated[str, Field(pattern=r"^(\d+(\.\d+)?\s*(GiB|MiB|GB|MB))?$")] = ""
    kv_cache_tokens: Annotated[int, Field(ge=1024)] = 12288
    max_running: Annotated[int, Field(ge=1, le=256)] = 16
    max_queue: Annotated[int, Field(ge=1)] = 64
    hf_token: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.local_adapter_path and not self.local_base_model_path:
            raise ValueError("LOCAL_ADAPTER_PATH needs LOCAL_BASE_MODEL_PATH, the model the adapter was trained on")
        if self.local_adapter_path and not Path(self.local_adapter_path).expanduser().is_dir():
            raise ValueError(f"LOCAL_ADAPTER_PATH: {self.local_adapter_path} is not a folder")
        if self.max_gpu_memory and self.device_map != "auto":
            raise ValueError("MAX_GPU_MEMORY needs DEVICE_MAP=auto")
        if self.llm_engine == "openvino" and self.device_map not in {"", "cpu"}:
            raise ValueError(f"LLM_ENGINE=openvino runs on the CPU; DEVICE_MAP={self.device_map} needs transformers")
        if self.llm_engine == "transformers" and self.llm_activations != "float":
            raise ValueError(f"LLM_ACTIVATIONS={self.llm_activations} is for OpenVINO; LLM_ENGINE=transformers does not have it")
        if self.llm_backend == "openai" and not self.llm_base_url:
            raise ValueError("LLM_BACKEND=openai needs LLM_BASE_URL, such as http://localhost:8000/v1")
        if self.llm_backend == "openai" and (self.local_model_path or self.local_base_model_path):
            raise ValueError("LLM_BACKEND=openai asks a service; leave LOCAL_MODEL_PATH and LOCAL_BASE_MODEL_PATH empty")
        return self

    def served(self) -> Self:
        """What a server loads: the merged model alone where one is named, for the adapter is in it already.

        Raises SettingsError if LOCAL_MODEL_PATH is not there.
        """
        if not self.local_model_path:
            return self
        if not Path(self.local_model_path).expanduser().is_dir():
            hint = "; fcc-rag merge writes it" if self.local_adapter_path else ""
            raise SettingsError(f"LOCAL_MODEL_PATH: {self.local_model_path} is not a folder{hint}")
        return self.model_copy(update={"local_base_model_path": "", "local_adapter_path": ""})


class Retrieval(_Section):
    """Where passages are kept and how they are found."""

    embedding_model: str = ""
    embedding_engine: Literal["auto", "openvino", "torch"] = "auto"
    qdrant_host: str = ""
    qdrant_port: Port = 6333
    qdrant_https: bool = False
    qdrant_api_key: SecretStr = SecretStr("")
    qdrant_path: Folder | None = None
    qdrant_embedded: Literal["edge", "local"] = "edge"
    collection_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] = "fcc_kdb_docs"
    retrieval_k: Annotated[int, Field(ge=1, le=50)] | None = None
    retrieval_neighbours: Annotated[int, Field(ge=0, le=50)] | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None


class Chains(_Section):
    """How answers are made when a request does not say."""

    max_tokens: Annotated[int, Field(ge=1)] = 2048
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    summary_threshold: Annotated[int, Field(ge=1)] = 400
    strict_citations: bool = False


class Cache(_Section):
    """Where downloaded and converted weights lie."""

    fcc_rag_cache: Folder = Field(default_factory=_default_cache)


SECTIONS: dict[str, type[_Section]] = {
    "server": Server,
    "llm": LLM,
    "retrieval": Retrieval,
    "chains": Chains,
    "cache": Cache,
}


class Settings(BaseModel):
    """All sections, each ready to be handed to the package it is named after."""

    model_config = ConfigDict(frozen=True)

    server: Server
    llm: LLM
    retrieval: Retrieval
    chains: Chains
    cache: Cache

    @property
    def k(self) -> int:
        """Passages to answer from: `RETRIEVAL_K`, or 6, or 2 for the small default model, which loses its way among more."""
        named = self.llm.local_model_path or self.llm.local_base_model_path or self.llm.llm_backend == "openai"
        return self.retrieval.retrieval_k or (6 if named else 2)

    @property
    def neighbours(self) -> int:
        """Passages more that those lean on: `RETRIEVAL_NEIGHBOURS`, or 3, or none for the small default model."""
        named = self.llm.local_model_path or self.llm.local_base_model_path or self.llm.llm_backend == "openai"
        return (3 if named else 0) if self.retrieval.retrieval_neighbours is None else self.retrieval.retrieval_neighbours

    @property
    def qdrant_path(self) -> Path:
        """The embedded store's folder: `QDRANT_PATH`, or `qdrant` in the cache folder."""
        return self.retrieval.qdrant_path or self.cache.fcc_rag_cache / "qdrant"


def load(**overrides: Any) -> Settings:
    """Read every section; `overrides` are field names with values that win over the environment.

    Raises SettingsError, one line that names the variable, if a value cannot work.
    """
    known = {field: name for name, section in SECTIONS.items() for field in section.model_fields}
    if unknown := overrides.keys() - known.keys():
        raise SettingsError(f"{min(unknown).upper()} is not a setting")
    sections = {
        name: _read(section, {k: v for k, v in overrides.items() if known[k] == name}) for name, section in SECTIONS.items()
    }
    chosen = Settings.model_validate(sections)
    own = chosen.llm.local_model_path or chosen.llm.local_base_model_path
    if chosen.server.env == "production" and chosen.llm.llm_backend == "local" and not own:
        raise SettingsError("ENV=production needs LOCAL_MODEL_PATH or LOCAL_BASE_MODEL_PATH: the default model is for trying out")
    return chosen


def unknown_in_dotenv(path: Path = Path(".env")) -> list[str]:
    """A line for each variable of the `.env` file that is no setting, with the likeliest one that was meant."""
    names = [field.upper() for section in SECTIONS.values() for field in section.model_fields]
    lines = []
    for variable in dotenv_values(path) if path.is_file() else {}:
        if variable.upper() not in names:
            near = difflib.get_close_matches(variable.upper(), names, n=1)
            lines.append(f"{path}: {variable} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def _read(section: type[_Section], overrides: dict[str, Any]) -> _Section:
    try:
        return section(**overrides)
    except ValidationError as exc:
        first = exc.errors()[0]
        variable = str(first["loc"][0]).upper() if first["loc"] else section.__name__
        why = first["msg"].removeprefix("Value error, ")
        got = "" if "KEY" in variable or "TOKEN" in variable or not first["loc"] else f" (it is {first['input']!r})"
        raise SettingsError(f"{variable}: {why}{got}" if first["loc"] else why) from None
    except (UnicodeDecodeError, OSError) as exc:
        raise SettingsError(f".env cannot be read: {exc}") from None
