"""The real client, timed: `python timed_client.py ADDRESS LATENCIES BATCH`. Run by the interpreter of its own environment."""

import asyncio
import json
import sys
import time

from stepflow_py import StepflowClient

STEPS = 10


def chain(steps: int) -> dict:
    """A flow whose steps hand one value on."""
    names = [f"s{number}" for number in range(steps)]
    before = [{"$input": "$"}, *({"$step": name} for name in names)]
    return {
        "name": "chain",
        "description": "for timing",
        "steps": [{"id": name, "component": "/python/same", "input": input} for name, input in zip(names, before[:-1], strict=True)],
        "output": before[-1],
    }


async def main(address: str, latencies: int, batch: int) -> None:
    """One-step runs one after the other, then one run of many chains: `batch` tasks in all."""
    async with StepflowClient.connect(address) as client:
        flow = (await client.store_flow(chain(1))).flow_id
        for number in range(50):
            await client.run(flow, {"n": number})
        seconds = []
        for number in range(latencies):
            began = time.perf_counter()
            await client.run(flow, {"n": number})
            seconds.append(time.perf_counter() - began)
        flow = (await client.store_flow(chain(STEPS))).flow_id
        began = time.perf_counter()
        ended = await client.run(flow, [{"n": 1}] * (batch // STEPS), max_concurrency=64, timeout=600)
        rate = batch / (time.perf_counter() - began)
        assert ended.summary.items.completed == batch // STEPS
        print(json.dumps({"seconds": seconds, "per_second": rate}), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
