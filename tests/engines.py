"""Makes engines of either kind on a tiny Llama, for tests that hold for both."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm import graphs
from llm.backend import Backend
from llm.engine import Engine
from settings import LLM

Kind = Literal["openvino", "transformers"]
KINDS: tuple[Kind, ...] = ("openvino", "transformers")


@dataclass
class Engines:
    """Engines on the model in `folder`; `cache` keeps what OpenVINO runs."""

    folder: Path
    cache: Path
    _parts: list[Any] = field(default_factory=list)

    def parts(self) -> tuple[Any, Any]:
        """The model and its tokenizer, as transformers loads them."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not self._parts:
            self._parts = [AutoModelForCausalLM.from_pretrained(self.folder), AutoTokenizer.from_pretrained(self.folder)]
        return self._parts[0], self._parts[1]

    def make(self, kind: Kind, *, window: int = 256, max_queue: int = 64, **options: Any) -> Engine:
        """An engine; `options` are slots, capacity, chunk and end_tokens of its backend."""
        tokenizer = self.parts()[1]
        return Engine(lambda: self.backend(kind, window=window, **options), tokenizer, window=window, max_queue=max_queue)

    def backend(
        self,
        kind: Kind,
        *,
        window: int = 256,
        slots: int = 8,
        capacity: int = 4096,
        chunk: int = 64,
        end_tokens: tuple[int, ...] = (2,),
    ) -> Backend:
        if kind == "openvino":
            from llm.openvino import OpenVino

            graph = graphs.prepare(LLM(local_model_path=str(self.folder), quantization="none"), cache=self.cache)
            return OpenVino(graph.folder, end_tokens=end_tokens, slots=slots, capacity=capacity, chunk=chunk)
        from llm.continuous import Continuous

        model = self.parts()[0]
        return Continuous(model, end_tokens=end_tokens, slots=slots, capacity=capacity, window=window, chunk=chunk)


def wait_until(condition: Callable[[], object], limit: float = 30) -> None:
    """Wait until `condition` holds; fail after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)
