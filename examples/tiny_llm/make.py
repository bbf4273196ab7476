"""Make a tiny language model from nothing: random weights, a tokenizer trained on this Python's own sources.

Its text is meaningless: 205,000 random parameters have learnt nothing. What is real is everything around them, so a
model server that loads it speaks its exact protocol. For tests and for looking at the protocol, never for an answer.

    .venv-vllm/bin/python examples/tiny_llm/make.py var/tiny-llm      (needs torch, transformers, tokenizers)
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is fetched from anywhere

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 7
VOCABULARY = 2048
SOURCES = 80  # files of the standard library that the tokenizer reads
CONTEXT_TOKENS = 2048
SPECIAL = ["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = trained_tokenizer()
    tokenizer.save_pretrained(folder)
    model = random_llama(tokenizer)
    model.save_pretrained(folder)
    parameters = sum(weights.numel() for weights in model.parameters())
    print(f"{folder}: {parameters:,} random parameters, {len(tokenizer)} tokens. Whatever it says means nothing.")


def trained_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has tokens, and any tokens are some text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(sources(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHATML,
        model_max_length=CONTEXT_TOKENS,
    )


def sources() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py"))[:SOURCES]:
        yield path.read_text("utf-8", "replace")


def random_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(torch.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "var/tiny-llm"))
