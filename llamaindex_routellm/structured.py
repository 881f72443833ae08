"""Structured output behind a router: the template, and with it the question, reaches the router whole."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen

__all__ = ["RoutedStructuredLLM"]


class RoutedStructuredLLM(StructuredLLM):
    """What `RouteLLM.as_structured_llm` gives.

    LlamaIndex's own fills the template first, so that a router would score question and context as one.
    Streams give one piece, the finished object: a part of one is no valid JSON.

    Example:
        >>> person = llm.as_structured_llm(Person)
        >>> index.as_query_engine(llm=person).query("Who wrote the report?").response.name
    """

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return _json(self.llm.structured_predict(self.output_cls, _template(prompt), **prompt_args))

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return _json(await self.llm.astructured_predict(self.output_cls, _template(prompt), **prompt_args))

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        parts = self.llm.stream_structured_predict(self.output_cls, _template(prompt), **prompt_args)

        def last() -> TokenGen:
            final: Any = None
            for part in parts:
                final = part
            if final is not None:
                yield _json(final)

        return last()

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        parts = await self.llm.astream_structured_predict(self.output_cls, _template(prompt), **prompt_args)

        async def last() -> TokenAsyncGen:
            final: Any = None
            async for part in parts:
                final = part
            if final is not None:
                yield _json(final)

        return last()


def _template(prompt: BasePromptTemplate) -> Any:
    return prompt  # the annotation upstream names one kind of template, the code takes any


def _json(output: Any) -> str:
    if not isinstance(output, BaseModel):
        raise TypeError(f"the backend gave {type(output).__name__}, not an object of the output class")
    return output.model_dump_json()
