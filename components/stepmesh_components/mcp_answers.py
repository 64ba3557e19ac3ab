"""What an MCP server answers to a call, as a component's output or failure. Pure.

Rules: structured content is the output where there is any; else a single text is the output as it stands (JSON in it stays text), no
content is null, and everything else is the list of content blocks as the protocol writes them, images and blobs in base64. A tool's
own failure (`isError`) is COMPONENT_FAILED with the server's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, CallToolResult, ContentBlock, TextContent
from pydantic import ValidationError

from stepmesh import ComponentError, ErrorCode

_FEW = 5
_SESSION_OVER = "Session terminated"
"""How the `mcp` package words that the server does not know the session any more."""


def output(server: str, tool: str, result: CallToolResult) -> Any:
    """The output of a call. Raises `ComponentError` for a tool that failed."""
    if result.is_error:
        raise _tool_failed(server, tool, result)
    if result.structured_content is not None:
        return result.structured_content
    match result.content:
        case []:
            return None
        case [TextContent(text=text)]:
            return text
        case blocks:
            return [_plain(block) for block in blocks]


def _tool_failed(server: str, tool: str, result: CallToolResult) -> ComponentError:
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    told: dict[str, Any] = {"server": server, "tool": tool}
    if len(texts) < len(result.content):
        told["content"] = [_plain(block) for block in result.content]
    if result.structured_content is not None:
        told["structured_content"] = result.structured_content
    return ComponentError("\n".join(texts) or f"the tool {tool} failed, and the MCP server {server} did not say why", data=told)


def _plain(block: ContentBlock) -> Any:
    return block.model_dump(mode="json", by_alias=True, exclude_none=True)


def session_is_over(problem: MCPError) -> bool:
    """Whether the server forgot this connection, as after its restart behind a URL."""
    return problem.code == INVALID_REQUEST and problem.message == _SESSION_OVER


def refused(server: str, tool: str, problem: Exception, over_http: bool) -> ComponentError:
    """A call that the server, or the protocol, did not let through, over a connection that goes on."""
    told: dict[str, Any] = {"server": server, "tool": tool}
    if isinstance(problem, ValidationError):
        return ComponentError(f"the MCP server {server} answered what the protocol does not know: {problem}", data=told)
    if not isinstance(problem, MCPError):
        return ComponentError(str(problem) or type(problem).__name__, data=told)
    told["rpc_code"] = problem.code
    if problem.data is not None:
        told["rpc_data"] = problem.data
    return ComponentError(problem.message, code=_code(problem, over_http), data=told)


def _code(problem: MCPError, over_http: bool) -> ErrorCode:
    if (problem.code == CONNECTION_CLOSED and over_http) or session_is_over(problem):  # each HTTP request has a connection of its own
        return ErrorCode.UNREACHABLE
    if problem.code == INVALID_PARAMS:
        return ErrorCode.INVALID_INPUT
    return ErrorCode.COMPONENT_NOT_FOUND if problem.code == METHOD_NOT_FOUND else ErrorCode.COMPONENT_FAILED


def unreachable(server: str, tool: str, message: str, lines: Iterable[str]) -> ComponentError:
    """The server is away; its last words are shown."""
    kept = list(lines)
    shown = "; its last lines:" + "".join(f"\n  {line}" for line in kept[-_FEW:]) if kept else ""
    return ComponentError(f"{message}{shown}", code=ErrorCode.UNREACHABLE, data={"server": server, "tool": tool, "stderr": kept})


def not_found(server: str, tool: str, tools: Iterable[str]) -> ComponentError:
    """The server has no such tool."""
    known = sorted(tools)
    near = get_close_matches(tool, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known[:10]) or 'none'}" + (" …" if len(known) > 10 else "")
    return ComponentError(f"the MCP server {server} has no tool {tool}: {hint}", code=ErrorCode.COMPONENT_NOT_FOUND)
