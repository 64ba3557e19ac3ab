"""Pool `cpu`: words and their lengths. Cheap work; start as many processes as there are cores."""

import re

from stepmesh import InvalidInput, Worker

worker = Worker("cpu")


@worker.component
def split(text: str) -> list[str]:
    """The words of a text. A plain function: it runs in a thread."""
    words = re.findall(r"\w+", text)
    if not words:
        raise InvalidInput("no words", path="$")
    return words
