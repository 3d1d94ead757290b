"""Reckons which prefixes of prompts a block-wise cache of keys and values still holds. Knows nothing about models.

Engines share computed blocks between requests but do not tell how many. Their rule is known: a block is found again by its tokens
and all before them, and the least recently used one is overwritten first. Following it gives the hit rate, and no more than that.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class Prefixes:
    """A cache of `capacity` tokens in blocks of `block`; only whole blocks can be found again."""

    def __init__(self, *, capacity: int, block: int) -> None:
        self._most = capacity // block
        self._block = block
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def look_up(self, ids: Sequence[int]) -> int:
        """How many of a prompt's tokens need not be computed; the last one always is. Counts towards the hit rate."""
        found = 0
        for block in self._chain(ids):
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            found += self._block
        cached = min(found, len(ids) - 1)
        self.prompt_tokens += len(ids)
        self.cached_tokens += cached
        return cached

    def keep(self, ids: Sequence[int]) -> None:
        """The tokens of a request that were computed, prompt first."""
        for block in self._chain(ids):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget the blocks, not the counts: the cache is gone with its process."""
        self._blocks.clear()

    @property
    def hit_rate(self) -> float:
        """Share of all prompt tokens that were found, from 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def _chain(self, ids: Sequence[int]) -> Iterator[int]:
        before = 0
        for start in range(0, len(ids) - self._block + 1, self._block):
            before = hash((before, tuple(ids[start : start + self._block])))
            yield before
