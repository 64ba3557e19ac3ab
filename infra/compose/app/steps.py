"""Two pools to begin with: put your own module in STEPMESH_APP."""

from stepmesh import Worker

cpu = Worker("cpu")
gpu = Worker("gpu")


@cpu.component
async def double(n: float) -> float:
    return n * 2


@gpu.component
async def square(n: float) -> float:
    return n * n
