"""Pool `model`: what would need a GPU. Exclusive: a task is claimed before it starts, so that it does not run twice without need."""

from stepmesh import Context, Worker

worker = Worker("model", exclusive=True, concurrency=1)


@worker.component
async def score(words: list[str], context: Context) -> dict[str, float]:
    """How long the words are, on average."""
    context.heartbeat(0.5, words=len(words))
    return {"score": round(sum(map(len, words)) / len(words), 2)}
