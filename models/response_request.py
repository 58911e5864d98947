"""The body of POST /v1/responses: text in, text out. What it shares with the other endpoints is generation.py's."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.errors import RequestError
from models.generation import Count, GenerationRequest, NumLogprobs
from models.prompts import ResponseInput

LOGPROBS = "message.output_text.logprobs"


class ResponseStreamOptions(BaseModel):
    """What a stream of a response may be asked for."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    include_obfuscation: bool = False  # padding against listeners; taken and not needed


class ResponseRequest(GenerationRequest):
    """The body of POST /v1/responses."""

    input: ResponseInput
    instructions: str | None = None
    max_output_tokens: Count | None = None
    include: list[str] = Field([])
    top_logprobs: NumLogprobs | None = None
    truncation: Literal["disabled"] = "disabled"
    parallel_tool_calls: bool = True
    stream_options: ResponseStreamOptions | None = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int) -> int:
        if value > 1:
            raise RequestError("unsupported_parameter", "n must be 1: a response holds one answer", param="n")
        return value

    @field_validator("include")
    @classmethod
    def _only_logprobs(cls, value: list[str]) -> list[str]:
        if any(entry != LOGPROBS for entry in value):
            raise RequestError("unsupported_parameter", f"include may hold {LOGPROBS} alone", param="include")
        return value

    @field_validator("truncation", mode="before")
    @classmethod
    def _never_cut(cls, value: object) -> object:
        if value == "auto":
            raise RequestError("unsupported_parameter", "truncation must be disabled", param="truncation")
        return value

    @model_validator(mode="after")
    def _one_limit(self) -> "ResponseRequest":
        if self.max_output_tokens is not None:
            self.max_tokens = self.max_output_tokens
        return self
