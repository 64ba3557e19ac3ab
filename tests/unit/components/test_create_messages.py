"""Chat messages from two texts."""

import pytest

from stepmesh import ComponentError, ErrorCode
from stepmesh.testing import call
from stepmesh_components.create_messages import create_messages


async def test_system_then_user() -> None:
    told = await call(create_messages, {"system_instructions": "be brief", "user_prompt": "hi ☀"})
    assert told == {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi ☀"}]}


@pytest.mark.parametrize("input", [{"user_prompt": "hi"}, {"user_prompt": "hi", "system_instructions": None}])
async def test_user_only(input: dict[str, str]) -> None:
    assert await call(create_messages, input) == {"messages": [{"role": "user", "content": "hi"}]}


async def test_empty_system_text_is_kept() -> None:
    told = await call(create_messages, {"system_instructions": "", "user_prompt": "hi"})
    assert [message["role"] for message in told["messages"]] == ["system", "user"]


@pytest.mark.parametrize("input", [{}, None, {"user_prompt": 1}])
async def test_bad_input(input: object) -> None:
    with pytest.raises(ComponentError) as raised:
        await call(create_messages, input)
    assert raised.value.code is ErrorCode.INVALID_INPUT
