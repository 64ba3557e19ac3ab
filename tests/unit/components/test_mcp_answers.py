"""What an MCP server answers, as output or failure of a component."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult

from stepmesh import ComponentError, ErrorCode
from stepmesh_components import mcp_answers as answers

TEXT = {"type": "text", "text": "hi"}
IMAGE = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
SOUND = {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}
LINK = {"type": "resource_link", "name": "a", "uri": "file:///a"}
BLOB = {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "x/y", "blob": "AAAA"}}


def result(content: list[Any], **more: Any) -> CallToolResult:
    return CallToolResult.model_validate({"content": content, **more})


@pytest.mark.parametrize(
    ("content", "structured", "output"),
    [
        ([TEXT], None, "hi"),
        ([], None, None),
        ([TEXT, TEXT], None, [TEXT, TEXT]),
        ([IMAGE], None, [IMAGE]),
        ([TEXT, SOUND, LINK, BLOB], None, [TEXT, SOUND, LINK, BLOB]),
        ([TEXT], {"a": 1}, {"a": 1}),
        ([], {}, {}),
        ([TEXT], [1], [1]),
        ([TEXT], False, False),
    ],
)
def test_outputs(content: list[Any], structured: Any, output: Any) -> None:
    assert answers.output("s", "t", result(content, structuredContent=structured)) == output


@pytest.mark.parametrize(
    ("content", "more", "message", "data"),
    [
        ([TEXT], {}, "hi", {}),
        ([TEXT, IMAGE, TEXT], {}, "hi\nhi", {"content": [TEXT, IMAGE, TEXT]}),
        (
            [],
            {"structuredContent": {"why": 1}},
            "the tool t failed, and the MCP server s did not say why",
            {"structured_content": {"why": 1}},
        ),
    ],
)
def test_failures_of_a_tool(content: list[Any], more: dict[str, Any], message: str, data: dict[str, Any]) -> None:
    with pytest.raises(ComponentError) as caught:
        answers.output("s", "t", result(content, isError=True, **more))
    assert (caught.value.code, str(caught.value)) == (ErrorCode.COMPONENT_FAILED, message)
    assert caught.value.data == {"server": "s", "tool": "t", **data}


@pytest.mark.parametrize(
    ("code", "message", "over_http", "expected"),
    [
        (-32602, "x", False, ErrorCode.INVALID_INPUT),
        (-32601, "x", False, ErrorCode.COMPONENT_NOT_FOUND),
        (-32603, "x", True, ErrorCode.COMPONENT_FAILED),
        (-32000, "x", False, ErrorCode.COMPONENT_FAILED),
        (-32000, "x", True, ErrorCode.UNREACHABLE),
        (-32600, "Session terminated", True, ErrorCode.UNREACHABLE),
        (-32600, "x", True, ErrorCode.COMPONENT_FAILED),
        (7, "x", False, ErrorCode.COMPONENT_FAILED),
    ],
)
def test_refusals_of_the_protocol(code: int, message: str, over_http: bool, expected: ErrorCode) -> None:
    told = answers.refused("s", "t", MCPError(code, message, {"seen": 1}), over_http)
    assert (told.code, str(told)) == (expected, message)
    assert told.data == {"server": "s", "tool": "t", "rpc_code": code, "rpc_data": {"seen": 1}}


def test_an_answer_that_the_protocol_does_not_know() -> None:
    with pytest.raises(ValueError) as caught:
        CallToolResult.model_validate({"content": 5})
    told = answers.refused("s", "t", caught.value, False)
    assert told.code is ErrorCode.COMPONENT_FAILED
    assert str(told).startswith("the MCP server s answered what the protocol does not know: 1 validation error")


def test_a_server_that_is_away_has_the_last_word() -> None:
    told = answers.unreachable("s", "t", "gone", [f"line {n}" for n in range(9)])
    assert str(told) == "gone; its last lines:\n  line 4\n  line 5\n  line 6\n  line 7\n  line 8"
    assert (told.code, len(told.data["stderr"])) == (ErrorCode.UNREACHABLE, 9)
    assert str(answers.unreachable("s", "t", "gone", [])) == "gone"


@pytest.mark.parametrize(
    ("tools", "says"),
    [(["hello", "add"], "did you mean hello?"), (["add"], "it has add"), ([], "it has none"), ([f"t{n:02}" for n in range(12)], "t09 …")],
)
def test_a_tool_that_is_not_there(tools: list[str], says: str) -> None:
    told = answers.not_found("s", "helo", tools)
    assert told.code is ErrorCode.COMPONENT_NOT_FOUND
    assert str(told).endswith(says)
