"""Opens what the settings name and wires it together; both roots, the server and the command, start here."""

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import weights
from errors import SettingsError
from settings import Settings

if TYPE_CHECKING:  # heavy, so imported where they are used
    from langchain_core.runnables import Runnable

    from llm.chat import ChatPipeline
    from llm.remote import RemoteChat
    from retrievers.embeddings import Dense
    from retrievers.index import Indexer
    from retrievers.search import PassageRetriever
    from retrievers.store import Store

SAMPLES = Path(__file__).parent / "samples"
NAMED_VERSIONS = (
    *("langchain-core", "langserve", "openvino-genai", "transformers", "peft", "torch"),
    *("qdrant-client", "qdrant-edge-py", "sentence-transformers"),
)


@dataclass(frozen=True)
class Library:
    """The documents: where they are kept and how passages get in and out."""

    dense: "Dense"
    store: "Store"
    indexer: "Indexer"
    answering: "PassageRetriever"  # returns nothing below MIN_SCORE
    searching: "PassageRetriever"  # returns what it finds, whatever its score

    async def check(self) -> None:
        """Raise StoreError if the store cannot be searched."""
        await self.store.check()

    async def read(self, *, citation: str = "", source: str = "") -> str:
        """The text that is indexed of a section or a source; raises NotFound."""
        from retrievers import reading

        return await self.store.run(reading.whole, self.store, citation=citation, source=source)


@dataclass(frozen=True)
class Writer:
    """The model that writes, ours or a service's, and what can be said about it."""

    model: "ChatPipeline | RemoteChat"
    name: str
    about: dict[str, Any]

    async def check(self) -> None:
        """Raise EngineError if it cannot write."""
        await self.model.check()

    def metrics(self) -> dict[str, Any]:
        return self.model.metrics()

    def drain(self) -> None:
        """Take no new requests; those that run or wait are finished."""
        self.model.drain()

    def cancel_all(self) -> None:
        """End what runs and what waits; each caller is told."""
        self.model.cancel_all()


@dataclass(frozen=True)
class Services:
    """All that a server serves."""

    settings: Settings
    library: Library
    writer: Writer
    started: float = field(default_factory=time.time)

    def chat(self) -> "Runnable[Any, Any]":
        from chains import chat

        chains = self.settings.chains
        return chat.build(
            self.library.answering,
            self.writer.model,
            window=self.writer.model.window,
            max_tokens=chains.max_tokens,
            temperature=chains.temperature,
            k=self.settings.k,
            summary_threshold=chains.summary_threshold,
            strict=chains.strict_citations,
            check=self.writer.model.check_queue,
        )

    def retrieve(self) -> "Runnable[Any, Any]":
        from chains import retrieve

        return retrieve.build(self.library.searching)

    def summarize(self) -> "Runnable[Any, str]":
        from chains import summarize

        model = self.writer.model
        return summarize.of_request(self.library.read, summarize.build(model, window=model.window))

    async def describe(self) -> dict[str, Any]:
        """What /api/status answers."""
        store = self.library.store
        return {
            "version": importlib.metadata.version("fcc-rag"),
            "env": self.settings.server.env,
            "uptime_s": round(time.time() - self.started),
            "model": {"name": self.writer.name, "window": self.writer.model.window} | self.writer.about,
            "embedding": {"name": self.library.dense.name, "size": self.library.dense.size},
            "collection": {
                "name": store.collection,
                "place": "embedded" if store.embedded else "server",
                "passages": await store.run(store.count),
                "min_score": self.library.answering.min_score,
                "sources": [source.model_dump() for source in await store.run(store.sources)],
            },
            "queue": self.writer.metrics(),
            "process": {"pid": os.getpid(), "rss_bytes": _resident_bytes()},
            "versions": {name: importlib.metadata.version(name) for name in NAMED_VERSIONS},
        }


@contextlib.contextmanager
def open_library(settings: Settings) -> Iterator[Library]:
    """The documents alone, for searching and ingesting. Raises WeightsError and StoreError."""
    from retrievers import embeddings, store
    from retrievers.cache import Cache
    from retrievers.index import Indexer
    from retrievers.search import DEFAULT_MIN_SCORE, PassageRetriever

    retrieval = settings.retrieval
    folder = weights.resolve(
        retrieval.embedding_model or weights.DEFAULT_EMBEDDING,
        variable="EMBEDDING_MODEL",
        cache=settings.cache.fcc_rag_cache,
        hf_token=settings.llm.hf_token.get_secret_value(),
    )
    dense = embeddings.open(folder, engine=retrieval.embedding_engine, cache=settings.cache.fcc_rag_cache)
    cache = Cache(settings.cache.fcc_rag_cache / "vectors" / f"{dense.digest}-{embeddings.configuration(folder)}")
    opened = store.open(retrieval, settings.qdrant_path, dense)
    try:
        calibrated = retrieval.min_score if retrieval.min_score is not None else opened.threshold()
        min_score = DEFAULT_MIN_SCORE if calibrated is None else calibrated
        answering = PassageRetriever(store=opened, k=settings.k, min_score=min_score, neighbours=settings.neighbours)
        searching = PassageRetriever(store=opened, k=settings.k, min_score=0.0)
        yield Library(dense, opened, Indexer(opened, cache), answering, searching)
    finally:
        cache.close()
        opened.close()


@contextlib.contextmanager
def open_writer(settings: Settings) -> Iterator[Writer]:
    """The model alone. Raises SettingsError, WeightsError, AdapterError and EngineError."""
    if settings.llm.llm_backend == "openai":
        from llm import remote

        chat = remote.open(settings.llm)
        try:
            yield Writer(chat, chat.name, {"service": chat.endpoint.url})
        finally:
            chat.close()
        return
    from llm import engines
    from llm.chat import ChatPipeline
    from llm.pipeline import StreamingPipeline

    opened = engines.open(settings.llm, cache=settings.cache.fcc_rag_cache)
    try:
        pipeline = StreamingPipeline.wrap(opened.engine, name=opened.name, model=opened.model, tokenizer=opened.tokenizer)
        yield Writer(ChatPipeline(llm=pipeline), opened.name, opened.about())
    finally:
        opened.engine.close()


def merge(settings: Settings, target: Path | None) -> Path:
    """Merge the adapter into the base model and write it to the new folder `target`, or to LOCAL_MODEL_PATH; return where."""
    from llm import loader

    folder = target or (Path(settings.llm.local_model_path).expanduser() if settings.llm.local_model_path else None)
    if folder is None:
        raise SettingsError("LOCAL_MODEL_PATH: name the folder to write the merged model to, here or on the command line")
    base = settings.llm.model_copy(update={"local_model_path": ""})
    return loader.merge_to_folder(base, folder, cache=settings.cache.fcc_rag_cache)


@contextlib.contextmanager
def open_all(settings: Settings) -> Iterator[Services]:
    """Everything, with the sample notes indexed if nothing else is (not in production)."""
    with open_library(settings) as library, open_writer(settings) as writer:
        if settings.server.env == "development":
            _index_samples(library)
        yield Services(settings, library, writer)


def _resident_bytes() -> int:
    """Of this process and of the one the model runs in."""
    import psutil

    this = psutil.Process()
    total = int(this.memory_info().rss)
    for child in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(child.memory_info().rss)
    return total


def _index_samples(library: Library) -> None:
    """Index the sample notes if nothing else is indexed; a first start that was cut off is finished by the next."""
    documents = library.store.documents()
    notes = [path.as_posix() for path in SAMPLES.glob("*.md")]
    if documents.keys() - set(notes):
        return
    if any(not any(copy.found == copy.expected for copy in documents.get(note, [])) for note in notes):
        weights.say("indexing the sample notes, once")
        library.indexer.ingest([SAMPLES])
