"""The workers that Stepmesh brings along: the built-in components, and mocks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from stepmesh import Worker
from stepmesh_components.create_messages import create_messages
from stepmesh_components.get_blob import get_blob
from stepmesh_components.load_file import MAX_BYTES, FileLoader
from stepmesh_components.mock import mock_component
from stepmesh_components.openai import openai
from stepmesh_components.put_blob import put_blob

BUILTIN_POOL = "builtin"


def builtin_worker(
    roots: Sequence[str | os.PathLike[str]] = (),
    *,
    namespace: str = "default",
    concurrency: int = 64,
    max_file_bytes: int = MAX_BYTES,
) -> Worker:
    """A worker of pool `builtin`. `roots`: folders that `/load_file` may read from, none by default. The components that the
    engine carries out itself (noop, sleep, eval, map, iterate) need no worker."""
    worker = Worker(BUILTIN_POOL, namespace=namespace, concurrency=concurrency)
    for function in (create_messages, get_blob, put_blob, openai, FileLoader(roots, max_file_bytes).load_file):
        worker.component(function)
    return worker


def mock_worker(pool: str, components: Mapping[str, Mapping[str, Any]], *, namespace: str = "default", concurrency: int = 64) -> Worker:
    """A worker of `pool` with mocks by path, as a mock plugin's configuration describes them. Raises `BadComponent`."""
    worker = Worker(pool, namespace=namespace, concurrency=concurrency)
    for path, described in components.items():
        worker.add(mock_component(path, described))
    return worker
