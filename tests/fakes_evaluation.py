"""Fakes for the evaluation: a search with stages whose findings are laid down, and a store that keeps a threshold."""

# ruff: noqa: ARG002 -- LangChain's signatures

from types import SimpleNamespace
from typing import cast

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from retrievers.stages import ALL, Stages
from services import Library


def passage(citation: str, *, score: float = 0.5, match: str = "search") -> Document:
    section = citation.removeprefix("47 CFR ").partition("(")[0]
    metadata = {"citation": citation, "section": section, "score": score, "match": match, "source": "rules.txt"}
    metadata |= {"heading": "", "title": "", "page": None, "edition": "", "start": 0, "end": 9}
    return Document("The text.", metadata=metadata)


class LaidDown(BaseRetriever):
    """Finds what is laid down for a question. Without the stage `rerank` it finds the same, last first.

    A question for which an error is laid down raises it. `asked` takes every call: question, k, stages.
    """

    findings: dict[str, list[Document] | BaseException]
    stages: Stages = ALL
    asked: list[tuple[str, int | None, Stages]] = Field(default_factory=list)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        self.asked.append((query, k, self.stages))
        found = self.findings[query]
        if isinstance(found, BaseException):
            raise found
        return found if self.stages.rerank else found[::-1]


class KeptThreshold:
    """As much of a store as an evaluation touches."""

    collection = "rules"

    def __init__(self, passages: int = 3) -> None:
        self.passages = passages
        self.threshold: float | None = None

    def count(self) -> int:
        return self.passages

    def set_threshold(self, value: float) -> None:
        self.threshold = value


def library(retriever: BaseRetriever, store: KeptThreshold) -> Library:
    dense = SimpleNamespace(name="words")
    return cast("Library", SimpleNamespace(searching=retriever, answering=retriever, store=store, dense=dense))
