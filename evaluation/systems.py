"""What is evaluated: the search and the chain in this process, or a server over HTTP. Knows no measure.

Both ways lead to the same shapes, so that figures taken either way can be laid side by side.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever

import services
from chains.schema import as_data
from client import Client
from errors import InvalidRequest, StoreLocked
from evaluation.relevance import Hit
from retrievers import citations
from retrievers.citations import Citation
from retrievers.stages import ALL, Stages
from settings import Settings

Find = Callable[[str, int | None], list[Hit]]  # a question and how many passages; None is the default

_MARKER = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True, slots=True)
class Searched:
    """A search, the searches that lack one stage each (none over HTTP), and what is known of it for the record.

    `keep` keeps a threshold with the collection; over HTTP it is refused.
    """

    find: Find
    without: dict[str, Find]
    about: dict[str, Any]
    keep: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as far as it matters here.

    `cited` are the places of the sources whose markers stand in the text; `support` tells for each sentence how it is
    supported, and is None if the answer does not say.
    """

    content: str
    refused: bool
    cited: tuple[Citation, ...]
    support: tuple[str, ...] | None

    @classmethod
    def of(cls, content: str, answer: Mapping[str, Any]) -> Self:
        markers = {int(number) for match in _MARKER.finditer(content) for number in match[1].split(",")}
        places = [citations.read(source["citation"]) for source in answer["sources"] if source["id"] in markers]
        sentences = answer.get("sentences")
        return cls(
            content=content,
            refused=answer["finish_reason"] == "no_evidence",
            cited=tuple(place for place in places if place),
            support=None if sentences is None else tuple(sentence["support"] for sentence in sentences),
        )


class Answering(Protocol):
    """Something that answers from the documents, and whose model also answers alone. Both are greedy."""

    about: dict[str, Any]

    def ask(self, question: str, *, max_tokens: int) -> Reply: ...

    def ask_alone(self, question: str, *, max_tokens: int) -> str: ...


class InProcess:
    """The chain and the model that are open in this process."""

    def __init__(self, served: services.Services, runner: asyncio.Runner, *, k: int | None) -> None:
        self._chain, self._model, self._runner, self._k = served.chat(), served.writer.model, runner, k
        self.about = {"where": "in process", "model": served.writer.name, "k": k or served.settings.k}
        self.about |= _of_library(served.library)

    def ask(self, question: str, *, max_tokens: int) -> Reply:
        answer = as_data(self._runner.run(self._chain.ainvoke(_request(question, max_tokens, self._k))))
        return Reply.of(answer["content"], answer)

    def ask_alone(self, question: str, *, max_tokens: int) -> str:
        message = self._model.ainvoke([HumanMessage(question)], max_tokens=max_tokens, temperature=0.0)
        return self._runner.run(message).text


class OverHttp:
    """A running server: its /api/chat, and its model alone by the OpenAI face."""

    def __init__(self, client: Client, *, k: int | None) -> None:
        self._client, self._k = client, k
        self.about = _of_server(client) | {"k": k}
        self._name = self.about["model"]

    def ask(self, question: str, *, max_tokens: int) -> Reply:
        answer = self._client.post("/api/chat", _request(question, max_tokens, self._k))
        return Reply.of(answer["message"]["content"], answer)

    def ask_alone(self, question: str, *, max_tokens: int) -> str:
        body = {
            "model": self._name,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        return str(self._client.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])


@contextlib.contextmanager
def searching(chosen: Settings, url: str) -> Iterator[Searched]:
    """The search of a server, if `url` names one, or of the documents opened here.

    Raises InvalidRequest if nothing is indexed, and what opening raises.
    """
    if url:
        client = Client(url)
        yield Searched(by_server(client), {}, _of_server(client), _keep_nothing)
        return
    with _unlocked(services.open_library(chosen)) as library:
        retriever = library.searching
        yield Searched(by_retriever(retriever), without_each(retriever), _of_library(library), library.store.set_threshold)


@contextlib.contextmanager
def answering(chosen: Settings, url: str, *, k: int | None) -> Iterator[Answering]:
    """What answers: a server, if `url` names one, or everything opened here; `k` None is its default. Raises as `searching`."""
    if url:
        yield OverHttp(Client(url), k=k)
        return
    with _unlocked(services.open_all(chosen)) as served, asyncio.Runner() as runner:
        yield InProcess(served, runner, k=k)


def by_retriever(retriever: BaseRetriever) -> Find:
    def find(question: str, k: int | None) -> list[Hit]:
        wanted: dict[str, Any] = {} if k is None else {"k": k}
        return [Hit.of(passage.metadata) for passage in retriever.invoke(question, **wanted)]

    return find


def by_server(client: Client) -> Find:
    def find(question: str, k: int | None) -> list[Hit]:
        body = {"query": question} | ({} if k is None else {"k": k})
        return [Hit.of(found) for found in client.post("/api/retrieve", body)["results"]]

    return find


def without_each(retriever: BaseRetriever) -> dict[str, Find]:
    """For each stage the same search without it."""
    return {
        stage.name: by_retriever(retriever.model_copy(update={"stages": replace(ALL, **{stage.name: False})}))
        for stage in fields(Stages)
    }


@contextlib.contextmanager
def _unlocked(opening: contextlib.AbstractContextManager[Any]) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(opening)
        except StoreLocked as exc:
            raise StoreLocked(f"{exc}; if that is a server, name it with --url") from None
        yield opened


def _keep_nothing(threshold: float) -> None:
    raise InvalidRequest(f"the threshold {threshold} cannot be kept over HTTP; set MIN_SCORE where the server runs")


def _request(question: str, max_tokens: int, k: int | None) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": max_tokens, "temperature": 0, "summarize": "never"}
    return body | ({} if k is None else {"k": k})


def _of_library(library: services.Library) -> dict[str, Any]:
    store = library.store
    return _checked(
        {
            "where": "in process",
            "embedding": library.dense.name,
            "collection": store.collection,
            "passages": store.count(),
        }
    )


def _of_server(client: Client) -> dict[str, Any]:
    status = client.get("/api/status")
    collection = status["collection"]
    return _checked(
        {
            "where": client.url,
            "version": status["version"],
            "model": status["model"]["name"],
            "embedding": status["embedding"]["name"],
            "collection": collection["name"],
            "passages": collection["passages"],
        }
    )


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    if not about["passages"]:
        raise InvalidRequest(f"the collection {about['collection']} is empty: index documents with fcc-rag ingest first")
    return about
