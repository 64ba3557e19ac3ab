"""A Lua script and the digest that the server knows it by. Pure."""

from __future__ import annotations

import hashlib


class Script:
    """Runs on the server as one step: nobody sees it half done, and a crash keeps all of its writes or none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
