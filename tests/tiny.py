"""A tiny Llama with a real tokenizer, made in the test: random weights, every part in place, no network.

Tests import it by its own name, `import tiny`: pytest puts `tests/` on the path, which has no `__init__.py`.
"""

import json
from pathlib import Path
from typing import Any

from llm import checkpoint, gguf_file, quantization

# plain words of our own, so that the byte-level BPE has something to merge
_TEXT = [
    "A station may be operated only by a person who holds a license for it.",
    "The transmitter power is measured at the antenna input, in watts, and must not exceed the limit.",
    "What does the rule say about the maximum conducted output power?",
    "Answer only from the passages below, and cite each of them by its number: [1], [2].",
    "You are a helpful assistant. The quick brown fox jumps over the lazy dog, 0123456789 times.",
]
TEMPLATE = (  # like Llama's, it writes BOS itself
    "{{ bos_token }}{% for message in messages %}"
    "{{ '[' + message['role'] + ']\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}"
)


def make(folder: Path, *, seed: int = 0, vocab: int = 512, hidden: int = 64, layers: int = 2, window: int = 2048) -> Path:
    """Write a model and its tokenizer into `folder`, the same ones for the same arguments.

    As in Llama 2, `<unk>`, `<s>` and `</s>` are 0, 1 and 2, there is no padding token, the tokenizer puts BOS in front
    of what it encodes, and embeddings are not tied. `vocab` is the most tokens there may be; answers are noise.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=tokenizer(folder, vocab=vocab, window=window),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(5)  # the initial 0.02 gives logits so flat that no two models could be told apart
            weight.copy_(weight.half())  # so that 16-bit files of it hold the same model
    model.generation_config.pad_token_id = 0
    with checkpoint.quiet():
        model.save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, *, seed: int = 0, nf4: bool = True, **lora: Any) -> Path:
    """Write a LoRA adapter with random weights for the model in `base`, as QLoRA training on NF4 would leave it.

    `lora` is passed on to `peft.LoraConfig`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    held = quantization.config("nf4", "cpu") if nf4 else None
    with checkpoint.quiet(), torch.random.fork_rng():  # PEFT asks transformers for something deprecated
        model: Any = AutoModelForCausalLM.from_pretrained(base, quantization_config=held)
        torch.manual_seed(seed)
        get_peft_model(model, LoraConfig(init_lora_weights=False, **{**options, **lora})).save_pretrained(str(folder))
    return folder


def gguf(base: Path, folder: Path) -> Path:
    """Write the model in `base` as `folder/Tiny-Chat.F16.gguf`, tokenizer and template inside, as llama.cpp does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    gguf_file.write(base, folder / "Tiny-Chat.F16.gguf", kind="F16", config=config, tokenizer=True)
    return folder


def tokenizer(folder: Path, *, vocab: int = 512, window: int = 2048) -> int:
    """Write the tokenizer alone; returns how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_TEXT, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=window,
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder)
    return len(fast)
