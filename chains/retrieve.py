"""What retrieval finds for a query, as data. Knows nothing about how it searches."""

from typing import Any

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda

from chains.schema import Found, RetrieveRequest, Source, checked


def build(retriever: BaseRetriever) -> Runnable[Any, dict[str, Any]]:
    """A runnable from the fields of a RetrieveRequest to those of RetrieveResults."""

    async def retrieve(given: Any) -> dict[str, Any]:
        request = checked(RetrieveRequest, given)
        filters = request.filters.model_dump(exclude_none=True) if request.filters else {}
        passages = await retriever.ainvoke(request.query, k=request.k, neighbours=request.neighbours, filters=filters)
        results = [
            Found(
                **Source.of(rank, passage).model_dump(),
                text=passage.page_content,
                start=passage.metadata["start"],
                end=passage.metadata["end"],
                match=passage.metadata["match"],
            )
            for rank, passage in enumerate(passages, start=1)
        ]
        return {"results": [found.model_dump(mode="json") for found in results]}

    return RunnableLambda(retrieve, name="retrieve")
