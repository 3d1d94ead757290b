"""The stages of a search, each of which can be left out to see what it is worth. Knows nothing about how they work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stages:
    """Which stages run; all of them unless somebody measures.

    `exact` looks up what the question cites; `dense` and `sparse` are the two kinds of search whose ranks are fused;
    `sections` lets a section with several good passages win; `rerank` orders the best anew by features of question and
    passage; `neighbours` adds what the passages found lean on; `fold` keeps one of near-duplicates and of editions.
    """

    exact: bool = True
    dense: bool = True
    sparse: bool = True
    sections: bool = True
    rerank: bool = True
    neighbours: bool = True
    fold: bool = True


ALL = Stages()
