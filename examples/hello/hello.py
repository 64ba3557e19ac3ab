"""A worker of pool `cpu` with one component."""

from stepmesh import Worker

worker = Worker("cpu")


@worker.component
async def greet(name: str, times: int = 1) -> dict[str, str]:
    """A greeting, as often as asked."""
    return {"greeting": ", ".join([f"hello {name}"] * times)}
