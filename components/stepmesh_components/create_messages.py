"""`/create_messages`: a chat request's `messages` from a system text and a user text. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: Literal["system", "user"]
    content: str


class Messages(msgspec.Struct, frozen=True):
    """What `/openai` takes as `messages`."""

    messages: list[Message]


async def create_messages(user_prompt: str, system_instructions: str | None = None) -> Messages:
    """Chat messages: the system's instructions, if any, then the user's prompt."""
    system = [] if system_instructions is None else [Message("system", system_instructions)]
    return Messages([*system, Message("user", user_prompt)])
