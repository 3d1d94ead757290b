"""Token ids to text while they arrive, with real tokenizers of both kinds."""

from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.detokenize import Detokenizer

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=40)
PROSE = st.lists(
    st.sampled_from(["전파", " 규칙은", "👩‍🚀", "🇰🇷", " §15.247", "µW", " the", "  ", "\n", "é", "don't", " ."]), max_size=12
)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer like SmolLM's and Llama 3's: every token is a run of bytes."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bytes")
    tiny.tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer like Llama 2's: a word's token begins with its space, an unknown character is its bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.0123456789"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer)
    return [*map(stream.feed, ids), stream.flush()]


def check(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(text=TEXT | PROSE.map("".join))
def test_byte_level(byte_level: Any, text: str) -> None:
    """Emoji, Korean or any other text arrives whole, with no broken character on the way."""
    check(byte_level, text)


@settings(max_examples=60, deadline=None)
@given(text=TEXT | PROSE.map("".join))
def test_sentence_piece(sentence_piece: Any, text: str) -> None:
    """A Llama 2 model's text keeps the spaces between its words, and its characters whole."""
    check(sentence_piece, text)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(3, 400), max_size=30))
def test_noise(byte_level: Any, ids: list[int]) -> None:
    """Whatever a model writes, broken bytes too, the pieces add up to what all its tokens say."""
    assert "".join(pieces_of(byte_level, ids)) == byte_level.decode(ids, skip_special_tokens=True)


def test_soon(byte_level: Any) -> None:
    """A word is shown as soon as its token is there."""
    ids = byte_level("A station may be operated", add_special_tokens=False)["input_ids"]
    assert all(pieces_of(byte_level, ids)[:-1])


def test_special(byte_level: Any) -> None:
    """The model's end mark is not shown."""
    ids = byte_level("yes", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(byte_level, [1, *ids, 2])) == "yes"


def test_unfinished(byte_level: Any) -> None:
    """An answer cut off within a character still shows that something was there."""
    ids = byte_level("🚀", add_special_tokens=False)["input_ids"]
    pieces = pieces_of(byte_level, ids[:-1])
    assert "".join(pieces[:-1]) == ""
    assert set(pieces[-1]) == {"\N{REPLACEMENT CHARACTER}"}
