"""An order as a durable function: reserve, charge, wait a moment, ship; what was done is undone when a later step fails."""

import asyncio

from stepmesh import App, Fatal, Retry, wf

app = App("orders")


@app.step
async def reserve(item: str) -> str:
    return f"{item} reserved"


@app.step
async def release(item: str) -> str:
    return f"{item} released"


@app.step(retry=Retry(max=3, backoff="100ms"))
async def charge(order: str, total: int) -> str:
    if total > 1000:
        raise Fatal(f"no credit for {total}")
    if wf.step().attempt == 1:
        raise ConnectionError("the bank did not answer")  # the second attempt gets through, with the same key
    return f"receipt {order}"


@app.workflow
async def order(id: str, total: int, items: list[str]) -> dict[str, object]:
    async with wf.saga() as saga:
        for item in items:
            await reserve(item)
            saga.undo(release, item)
        receipt = await charge(id, total)
        await asyncio.sleep(0.5)  # half a second or a month: nothing waits in a process
        shipped = await asyncio.gather(*(wf.call("/builtin/noop", f"{item} on its way") for item in items))
        return {"receipt": receipt, "shipped": shipped}


worker = app.worker()
