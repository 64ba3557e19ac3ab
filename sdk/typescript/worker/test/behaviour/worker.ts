/** The worker that every language offers to the behavioural suite: tests/integration/behaviour/README.md says what its components do. */
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ComponentError, InvalidInput, JsonText, Worker, type ErrorCode, type Json } from "../../src/index.js";

type Fields = Record<string, Json>;

const worker = new Worker({ capacity: Number(process.env["STEPMESH_CONCURRENCY"] ?? 8) });
const note = (file: string, what: string, attempt: number) => { appendFileSync(file, `${what} ${attempt} ${process.pid}\n`); };

/** Reads an object that `check` accepts. */
function reading<T extends Fields>(check: (input: Fields) => boolean, what: string): { parse: (input: Json) => T } {
  return {
    parse: (input) => {
      if (input === null || typeof input !== "object" || Array.isArray(input) || !check(input)) throw new InvalidInput(`expected ${what}`, { path: "$" });
      return input as T;
    },
  };
}

const integer = (value: unknown) => Number.isSafeInteger(value);
const text = (value: unknown) => typeof value === "string";
const milliseconds = reading<{ ms: number }>(({ ms }) => integer(ms), '{"ms": int}');

worker.component("/echo", (_, ctx) => new JsonText(ctx.inputText));

const terms = reading<{ a: number; b: number }>((input) => Object.keys(input).length === 2 && integer(input["a"]) && integer(input["b"]), '{"a": int, "b": int}');
worker.component("/add", terms, ({ a, b }) => BigInt(a) + BigInt(b));

worker.component("/sleep", milliseconds, async ({ ms }, { signal }) => {
  await sleep(ms, undefined, { signal });
  return { slept: ms };
});

worker.component("/block", milliseconds, ({ ms }) => {
  for (const end = Date.now() + ms; Date.now() < end; );
  return { blocked: ms };
});

const failing = reading<{ code: ErrorCode; message: string; data: Json; retry_after_ms?: number }>(({ code, message }) => text(code) && text(message), "code and message");
worker.component("/fail", failing, ({ code, message, data, retry_after_ms: retryAfterMs }) => {
  throw new ComponentError(message, { code, data, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
});

worker.component("/raise", reading<{ message: string }>(({ message }) => text(message), "a message"), ({ message }) => { throw new Error(message); });

worker.component("/attempt", reading<{ fail: number }>(({ fail }) => integer(fail), '{"fail": int}'), ({ fail }, { attempt }) => {
  if (attempt <= fail) throw new ComponentError(`attempt ${attempt} fails`, { code: "RESOURCE_UNAVAILABLE" });
  return { attempt };
});

worker.component("/big", reading<{ bytes: number }>(({ bytes }) => integer(bytes), '{"bytes": int}'), ({ bytes }) => "x".repeat(bytes - 2));

worker.component("/size", (_, { inputText }) => ({ bytes: Buffer.byteLength(inputText) }));

worker.component("/ints", () => ({ z: 9223372036854775808n, a: -9007199254740993n, m: [1, 18446744073709551615n] }));

worker.component("/params/{name}", (_, { pathParams }) => ({ name: pathParams["name"] }));

const progressing = reading<{ steps: number; ms: number }>(({ steps, ms }) => integer(steps) && integer(ms), '{"steps": int, "ms": int}');
worker.component("/progress", progressing, async ({ steps, ms }, ctx) => {
  for (let k = 1; k <= steps; k++) {
    await sleep(ms, undefined, { signal: ctx.signal });
    ctx.heartbeat(k / steps, { k });
  }
  return { steps };
});

worker.component("/ledger", reading<{ file: string; ms: number }>(({ file, ms }) => text(file) && integer(ms), "file and ms"), async ({ file, ms }, { attempt, signal }) => {
  note(file, "start", attempt);
  await sleep(ms, undefined, { signal });
  note(file, "end", attempt);
  return { attempt, pid: process.pid };
});

worker.component("/wait_cancelled", reading<{ file: string }>(({ file }) => text(file), "file"), async ({ file }, { attempt, signal }) => {
  note(file, "start", attempt);
  await new Promise((resolve) => { signal.addEventListener("abort", resolve, { once: true }); });
  note(file, "stopped", attempt);
});

worker.component("/crash", reading<{ attempts: number; file: string }>(({ attempts, file }) => integer(attempts) && text(file), "attempts and file"), ({ attempts, file }, { attempt }) => {
  note(file, "start", attempt);
  if (attempt <= attempts) process.exit(70);
  return { attempt };
});

worker.component("/subrun", reading<{ flow_id: string; input: Json }>(({ flow_id: id }) => text(id), "flow_id and input"), async ({ flow_id: id, input }, ctx) => await ctx.evaluateFlow(id, input, { key: "sub" }));

worker.component("/idempotency", (_, ctx) => ({ key: ctx.idempotencyKey, attempt: ctx.attempt, run_id: ctx.runId, step_id: ctx.stepId }));

await worker.serve();
