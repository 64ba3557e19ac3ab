/** The worker that every language offers to the behavioural suite: tests/integration/behaviour/README.md says what its components do. */
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ComponentError, InvalidInput, JsonText, Worker, type ErrorCode, type Json } from "../../src/index.js";

const worker = new Worker({ capacity: Number(process.env["STEPMESH_CONCURRENCY"] ?? 8) });
const note = (file: string, what: string, attempt: number) => { appendFileSync(file, `${what} ${attempt} ${process.pid}\n`); };

type Guard<T> = (value: Json | undefined) => value is T & (Json | undefined);
const integer = (value: Json | undefined): value is number => Number.isSafeInteger(value);
const text = (value: Json | undefined): value is string => typeof value === "string";
const any = (_: Json | undefined): _ is Json => true;
const maybe = (value: Json | undefined): value is number | undefined => value === undefined || integer(value);

/** Reads an object whose members pass their guards. `others`: whether it may have more. */
function fields<T extends object>(guards: { [K in keyof T]: Guard<T[K]> }, others = true): { parse: (input: Json) => T } {
  const parse = (input: Json) => {
    const given = (input !== null && typeof input === "object" ? input : {}) as Record<string, Json>;
    for (const [name, guard] of Object.entries<Guard<unknown>>(guards)) {
      if (!guard(given[name])) throw new InvalidInput(`unexpected ${name}`, { path: `$.${name}` });
    }
    const more = Object.keys(given).find((name) => !others && !(name in guards));
    if (more !== undefined) throw new InvalidInput(`unexpected ${more}`, { path: `$.${more}` });
    return given as T;
  };
  return { parse };
}

worker.component("/echo", (_, ctx) => new JsonText(ctx.inputText));

worker.component("/add", fields({ a: integer, b: integer }, false), ({ a, b }) => BigInt(a) + BigInt(b));

worker.component("/sleep", fields({ ms: integer }), async ({ ms }, { signal }) => {
  await sleep(ms, undefined, { signal });
  return { slept: ms };
});

worker.component("/block", fields({ ms: integer }), ({ ms }) => {
  for (const end = Date.now() + ms; Date.now() < end; );
  return { blocked: ms };
});

worker.component("/fail", fields({ code: text, message: text, data: any, retry_after_ms: maybe }), ({ code, message, data, retry_after_ms: retryAfterMs }) => {
  throw new ComponentError(message, { code: code as ErrorCode, data, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
});

worker.component("/raise", fields({ message: text }), ({ message }) => { throw new Error(message); });

worker.component("/attempt", fields({ fail: integer }), ({ fail }, { attempt }) => {
  if (attempt <= fail) throw new ComponentError(`attempt ${attempt} fails`, { code: "RESOURCE_UNAVAILABLE" });
  return { attempt };
});

worker.component("/big", fields({ bytes: integer }), ({ bytes }) => "x".repeat(bytes - 2));

worker.component("/size", (_, { inputText }) => ({ bytes: Buffer.byteLength(inputText) }));

worker.component("/ints", () => ({ z: 9223372036854775808n, a: -9007199254740993n, m: [1, 18446744073709551615n] }));

worker.component("/params/{name}", (_, { pathParams }) => ({ name: pathParams["name"] }));

worker.component("/progress", fields({ steps: integer, ms: integer }), async ({ steps, ms }, ctx) => {
  for (let k = 1; k <= steps; k++) {
    await sleep(ms, undefined, { signal: ctx.signal });
    ctx.heartbeat(k / steps, { k });
  }
  return { steps };
});

worker.component("/ledger", fields({ file: text, ms: integer }), async ({ file, ms }, { attempt, signal }) => {
  note(file, "start", attempt);
  await sleep(ms, undefined, { signal });
  note(file, "end", attempt);
  return { attempt, pid: process.pid };
});

worker.component("/wait_cancelled", fields({ file: text }), async ({ file }, { attempt, signal }) => {
  note(file, "start", attempt);
  await new Promise((resolve) => { signal.addEventListener("abort", resolve, { once: true }); });
  note(file, "stopped", attempt);
});

worker.component("/crash", fields({ attempts: integer, file: text }), ({ attempts, file }, { attempt }) => {
  note(file, "start", attempt);
  if (attempt <= attempts) process.exit(70);
  return { attempt };
});

worker.component("/subrun", fields({ flow_id: text, input: any }), async ({ flow_id: id, input }, ctx) => await ctx.evaluateFlow(id, input, { key: "sub" }));

worker.component("/idempotency", (_, ctx) => ({ key: ctx.idempotencyKey, attempt: ctx.attempt, run_id: ctx.runId, step_id: ctx.stepId }));

await worker.serve();
