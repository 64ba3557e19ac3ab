import { setTimeout as sleep } from "node:timers/promises";
import { ComponentError, InvalidInput, RetryLater, Worker } from "@stepmesh/worker";

const worker = new Worker({ pool: "ts", capacity: 4 });

worker.component("/greet", { description: "Greets a person." }, (input: { name?: string }, ctx) => {
  if (!input.name) throw new InvalidInput("whom shall I greet?", { path: "$.name" });
  return { greeting: `hello ${input.name}`, attempt: ctx.attempt };
});

// Takes its time, says how far it is, and stops at once when its run is cancelled.
worker.component("/count", { timeoutMs: 60_000 }, async (to: number, ctx) => {
  for (let n = 1; n <= to; n++) {
    await sleep(100, undefined, { signal: ctx.signal });
    ctx.heartbeat(n / to, { n });
  }
  return to;
});

worker.component("/letter", async (input: { to: string }, ctx) => {
  const blob = await ctx.putBlob(Buffer.from(`Dear ${input.to},`), { filename: "letter.txt", contentType: "text/plain" });
  return { blob, kept: await ctx.putBlob({ blob, lines: 1 }) };
});

worker.component("/read", async (input: { blob: string; kept: string }, ctx) => {
  return { text: Buffer.from((await ctx.getBlob(input.blob)) as Uint8Array).toString(), kept: await ctx.getBlob(input.kept) };
});

worker.component("/pay", (input: { cents: number; card: string }, ctx) => {
  if (input.card === "busy") throw new RetryLater(30_000, "the bank is busy");
  if (input.card === "stolen") throw new ComponentError("refused", { data: { reason: 41 } });
  return { receipt: ctx.idempotencyKey };
});

// A loop of sub-runs: each round is a run of its own, and this worker's slot is free meanwhile.
worker.component("/until_done", async (input: { flow: string; state: { n: number } }, ctx) => {
  let { state } = input;
  for (let round = 1; state.n > 1; round++) {
    state = (await ctx.evaluateFlow(input.flow, state, { key: `round ${round}` })) as typeof state;
  }
  return state;
});

await worker.serve();
