"""Pool `math`: one round of Newton's method for a square root."""

from typing import Any

from stepmesh import Worker

worker = Worker("math")


@worker.component
async def improve(n: float, guess: float) -> dict[str, Any]:
    """`{"result": root}` when the guess is good enough, else `{"next": …}` for one more round."""
    better = (guess + n / guess) / 2
    if abs(better - guess) < 1e-9:
        return {"result": round(better, 6)}
    return {"next": {"n": n, "guess": better}}
