"""The real client, timed: `python timed_client.py ADDRESS LATENCIES BATCH`. Run by the interpreter of its own environment."""

import asyncio
import json
import sys
import time

from stepflow_py import StepflowClient

FLOW = {
    "name": "one step",
    "description": "for timing",
    "steps": [{"id": "only", "component": "/python/same", "input": {"$input": "$"}}],
    "output": {"$step": "only"},
}


async def main(address: str, latencies: int, batch: int) -> None:
    """One-step runs one after the other, then one run of many items."""
    async with StepflowClient.connect(address) as client:
        flow = (await client.store_flow(FLOW)).flow_id
        for number in range(50):
            await client.run(flow, {"n": number})
        seconds = []
        for number in range(latencies):
            began = time.perf_counter()
            await client.run(flow, {"n": number})
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        ended = await client.run(flow, [{"n": 1}] * batch, max_concurrency=64, timeout=600)
        rate = batch / (time.perf_counter() - began)
        assert ended.summary.items.completed == batch
        print(json.dumps({"seconds": seconds, "per_second": rate}), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
