"""Runs a model by transformers' continuous batching. Knows nothing about text, queues or threads.

transformers would run its loop in a thread of its own. Here the loop's three parts are called one after another by `step`, so
that a failure is raised where it happened, a cancelled request is gone before the next forward pass, and no answer runs ahead
of the engine.

What is promised of the tokens: in float32 a greedy answer is the one `generate` gives, and a seed gives the same answer, alone
and in any batch. In 16 bits, which NF4 computes in too, a row of a larger batch is summed up in another order: where two tokens
are about equally likely the other one may win, and the answer goes on from there, neither better nor worse.

A NaN ends the request in whose logits it shows. If it came by the keys and values, which `sdpa` attention reads for all requests
in one product, it shows in all of them; with `flash_attention_2` it stays in one.
"""

import hashlib
import itertools
import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import EngineError, InvalidRequest, PromptTooLong
from llm.backend import Output
from llm.requests import COLDEST, Sampling

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """A request as transformers knows it, the tokens kept free for it, and how many of its own were passed on."""

    name: str
    room: int
    seen: int = 0


class Continuous:
    """A `Backend` for a causal model on one device, with `sdpa` or `flash_attention_2` as its attention."""

    block = 32
    preempts = False  # transformers does, but a batch all cancelled right after that would take in no request any more

    def __init__(self, model: Any, *, end_tokens: Sequence[int], slots: int, capacity: int, window: int, chunk: int) -> None:
        """`capacity`, `window` and `chunk` are in tokens, `chunk` what one step computes at most: prompts are read in its pieces.

        Keys and values are kept for `capacity` and one chunk more, below which transformers forgets prefixes it kept. Raises
        EngineError where the memory is too small or continuous batching has no way to run the model's kind of attention.
        """
        self.slots = slots
        self.capacity = capacity // self.block * self.block
        self._model = model
        self._window = window
        self._end_tokens = frozenset(end_tokens)
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        try:
            self._manager = self._start(chunk)
        except Exception as exc:
            reason = (str(exc).splitlines() or [type(exc).__name__])[0]
            raise EngineError(f"continuous batching cannot run this model: {reason}") from exc

    def add(self, key: int, ids: list[int], sampling: Sampling, max_new_tokens: int) -> None:
        """Let a request join at the next step. Raises PromptTooLong, and EngineError where slots or room are taken."""
        if not ids:
            raise InvalidRequest("the prompt is empty")
        length, limit = len(ids) + max_new_tokens, min(self._window, self.capacity)
        if length > limit:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens and its answer {max_new_tokens}; {limit} is the limit")
        room = -(-length // self.block) * self.block
        if len(self._running) >= self.slots or sum(r.room for r in self._running.values()) + room > self.capacity:
            raise EngineError("the model has no room for one more request")
        running = _Running(f"{key}/{next(self._numbers)}", room)  # a key may come again before its last request is cleared
        self._manager.add_request(
            ids,
            request_id=running.name,
            max_new_tokens=max_new_tokens,
            streaming=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        )
        self._running[key] = running

    def step(self) -> list[Output]:
        """One forward pass; nothing comes of it for prompts still being read, and at once where no request runs.

        Raises EngineError, one line; the traceback is logged.
        """
        try:
            return self._step()
        except Exception as exc:
            log.exception("a forward pass failed")
            reason = type(exc).__name__
        # raised out here, lest a traceback that somebody keeps holds the tensors of the failed pass
        raise EngineError(f"the model failed: {reason}")

    def cancel(self, key: int) -> None:
        if running := self._running.pop(key, None):
            self._manager.cancel_request(running.name)

    def check(self) -> None:
        """It runs in this process: a failure shows in the step it happened in."""

    def close(self) -> None:
        self._running.clear()
        self._manager = None

    def _start(self, chunk: int) -> Any:
        import torch
        from transformers import ContinuousBatchingConfig, GenerationConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)  # it has its own handler on stderr
        if len(set(getattr(self._model, "hf_device_map", {}).values())) > 1:
            raise ValueError("it is spread over several devices")
        if self._model.device.type == "cuda" and self._model.device.index is not None:
            torch.cuda.set_device(self._model.device)
        spare = -(-chunk // self.block)
        blocks = self.capacity // self.block + spare
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call] # transformers leaves it untyped
                do_sample=False, eos_token_id=sorted(self._end_tokens) or [-1]
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=self.block,
                num_blocks=blocks,
                safety_margin=spare / blocks,
                max_batch_tokens=chunk,
                max_requests_per_batch=self.slots,
                max_blocks_per_request=0,  # turns off a kernel that takes pages of 256 tokens only, too coarse for prefixes
                use_async_batching=False,  # there, a cancelled request that is completing a block ends the loop
                use_cuda_graph=False,  # nobody has tried it on NF4
                auto_switch_to_flash=False,  # may fetch a kernel from the hub
                return_logprobs=True,  # they tell of a NaN, which argmax would hide
            ),
        )
        manager.logit_processor = _Sampler()
        manager.warmup()  # makes the batch processor; there are no graphs to warm up
        return manager

    def _step(self) -> list[Output]:
        import torch

        batch = self._manager.batch_processor
        if not batch.prepare_next_batch():
            return []
        if self._model.device.type == "cuda":  # the pass runs on a stream of its own, which does not wait for its inputs
            torch.cuda.current_stream().synchronize()
        batch._generation_step(self._model)  # noqa: SLF001 -- the public way is a thread
        batch.update_batch()
        outputs = []
        while (result := self._manager.get_result()) is not None:
            outputs.append(self._output(result))
        return outputs

    def _output(self, result: Any) -> Output:
        key = int(result.request_id.partition("/")[0])
        running = self._running[key]
        if any(map(math.isnan, result.logprobs[running.seen :])):
            self._discard(key)
            return Output(key, (), error=EngineError("the model computed NaN in place of an answer"))
        tokens = tuple(result.generated_tokens[running.seen :])
        running.seen += len(tokens)
        if not result.is_finished():
            return Output(key, tokens)
        del self._running[key]
        return Output(key, tokens, "stop" if tokens[-1] in self._end_tokens else "length")

    def _discard(self, key: int) -> None:
        """Cancel a request whose keys and values nobody may share, if it has ended already or not."""
        cache = self._manager.batch_processor.cache
        cache.free_blocks(self._running[key].name, no_cache=True)
        cache.evict_cached_blocks()
        self.cancel(key)


class _Sampler:
    """Stands where transformers keeps its logits processors, the one place that knows which request a row belongs to.

    transformers takes the largest score of each row. Gumbel noise added to the logits makes that a draw from their softmax
    (Gumbel, 1954), and noise that is a function of seed, position and token makes the draw the row's own affair.
    """

    do_processing = True
    tensors_required = 3  # int32 for each row: the temperature's and top_p's bits, and the key of the noise

    def __init__(self) -> None:
        self._draws = False  # whether any row is not greedy, and whether any has a top_p: on a CPU, sorting costs as much as
        self._cuts = False  # a small model's forward pass. CUDA graphs would freeze both.

    def check_kwargs(self, _: dict[str, Any]) -> None:
        """They come from `add`."""

    def fill_defaults(self, int32_tensor: "torch.Tensor") -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: "torch.Tensor") -> None:
        import torch

        states = [request.state for request in requests_in_batch if request.has_new_token]
        asked = [state.logit_processor_kwargs for state in states]
        self._draws = any(how["temperature"] >= COLDEST for how in asked)
        self._cuts = any(how["top_p"] < 1 for how in asked)
        floats = torch.tensor([[how[name] for how in asked] for name in ("temperature", "top_p")], dtype=torch.float32)
        keys = [_noise_key(how["seed"], state.position_offset) for how, state in zip(asked, states, strict=True)]
        rows = torch.cat([floats.view(torch.int32), torch.tensor([keys], dtype=torch.int32)])
        arg_storage[:, : len(states)] = rows.to(arg_storage.device)

    def __call__(self, _: Any, scores: "torch.Tensor", arguments: "torch.Tensor") -> "torch.Tensor":
        """Scores of shape (rows, vocabulary), float32; rows beyond those with a request hold anything."""
        import torch

        if not self._draws:
            return scores
        temperature, top_p = (row.view(torch.float32).unsqueeze(1) for row in arguments[:2])
        greedy = temperature < COLDEST
        logits = scores / torch.where(greedy, 1.0, temperature)
        if self._cuts:
            logits = _nucleus(logits, top_p)
        return torch.where(greedy, scores, logits + _gumbel(arguments[2], scores.shape[1]))


def _nucleus(logits: "torch.Tensor", top_p: "torch.Tensor") -> "torch.Tensor":
    """Leave the likeliest tokens that together reach `top_p`, one at least (https://arxiv.org/abs/1904.09751)."""
    probabilities, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(beyond.scatter(-1, order, beyond), -math.inf)


def _noise_key(seed: int, position: int) -> int:
    """32 bits, signed."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)


def _gumbel(keys: "torch.Tensor", vocabulary: int) -> "torch.Tensor":
    """Standard Gumbel noise of shape (rows, vocabulary), the same for the same int32 key on every device."""
    import torch

    tokens = torch.arange(vocabulary, device=keys.device)
    bits = _mixed(_mixed(tokens) ^ (keys.long() & 0xFFFFFFFF).unsqueeze(1))
    uniform = ((bits >> 9).float() + 0.5) / 2**23  # exact in float32, and neither 0 nor 1
    return -(-uniform.log()).log()


def _mixed(bits: "torch.Tensor") -> "torch.Tensor":
    """A hash of 32 bits held in int64, with the constants found by https://github.com/skeeto/hash-prospector."""
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return bits ^ (bits >> 15)
