/** A worker against a gateway that the test plays: credit, results, cancel, limits, errors. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test, type TestContext } from "node:test";
import { ComponentError, InvalidInput, JsonText, Refused, RetryLater, Worker, type WorkerOptions } from "../src/index.js";
import { FakeGateway, gate, until, type WorkStream } from "./gateway.js";
import { status } from "@grpc/grpc-js";

const logged: string[] = [];

async function bench(t: TestContext, offer: (worker: Worker) => void, options: WorkerOptions = {}) {
  const gateway = await FakeGateway.start();
  const worker = new Worker({ url: gateway.url, pool: "cpu", capacity: 2, drainGraceMs: 2_000, log: (_, text) => logged.push(text), ...options });
  offer(worker);
  const running = worker.run();
  t.after(() => gateway.dismiss(worker, running));
  return { gateway, worker, running };
}

const text = (result: { output?: Buffer }) => result.output?.toString();
const failure = async (stream: WorkStream, id: string) => {
  const { failure } = await stream.result(id);
  assert.ok(failure, `${id} did not fail`);
  return { code: failure.code, message: failure.message, data: failure.data.length ? (JSON.parse(failure.data.toString()) as unknown) : undefined, after: failure.retryAfterMs };
};

test("hello tells who and what, with credit for all slots", async (t) => {
  const { gateway } = await bench(t, (worker) => {
    worker.component("/greet", { description: "greets", inputSchema: { type: "object" } }, () => null);
  }, { exclusive: true });
  const stream = await gateway.stream();
  assert.equal(stream.hello?.pool, "cpu");
  assert.equal(stream.hello.capacity, 2);
  assert.equal(stream.hello.version, "stepmesh-ts/0.1.0");
  assert.equal(stream.hello.exclusive, true);
  assert.deepEqual(stream.hello.components, [{ path: "/greet", description: "greets", inputSchema: '{"type":"object"}', outputSchema: "", version: "", function: false }]);
  assert.equal(stream.credit, 2);
});

test("a task's input, context and output", async (t) => {
  const { gateway } = await bench(t, (worker) => {
    worker.component("/about/{name}", (input, ctx) => ({ input, attempt: ctx.attempt, key: ctx.idempotencyKey, params: ctx.pathParams, item: ctx.item, limited: ctx.deadline !== undefined }));
    worker.component("/echo", (_, ctx) => new JsonText(ctx.inputText));
  });
  const stream = await gateway.stream();
  stream.task("t1", "/about/{name}", 1, { attempt: 3, idempotencyKey: "k", pathParams: { name: "ada" }, item: 4, timeoutMs: 60_000 });
  const expected = { input: 1, attempt: 3, key: "k", params: { name: "ada" }, item: 4, limited: true };
  const result = await stream.result("t1");
  assert.deepEqual(JSON.parse(text(result) ?? ""), expected);
  assert.ok(result.startedUs > 1e15);
  stream.send({ tasks: [{ id: "t2", component: "/echo", input: Buffer.from('{"b":1.0,"1":18446744073709551616}') }] });
  assert.equal(text(await stream.result("t2")), '{"b":1.0,"1":18446744073709551616}');
});

test("each ended task gives its credit back", async (t) => {
  const { gateway } = await bench(t, (worker) => worker.component("/null", () => null));
  const stream = await gateway.stream();
  for (let n = 0; n < 20; n++) {
    stream.task(`t${n}`, "/null");
    await stream.result(`t${n}`);
  }
  await until(() => stream.credit >= 22, "20 tasks' credit");
});

test("no more than `capacity` run at once, whatever the gateway sends", async (t) => {
  let running = 0;
  let most = 0;
  const { gateway } = await bench(t, (worker) => worker.component("/wait", async () => {
    most = Math.max(most, ++running);
    await sleep(5);
    running -= 1;
  }));
  const stream = await gateway.stream();
  for (let n = 0; n < 10; n++) stream.task(`t${n}`, "/wait");
  await until(() => stream.results.length === 10, "10 results");
  assert.equal(most, 2);
  await until(() => stream.credit === 2 + 2, "credit for what may come next");
});

test("every end of a component has its code", async (t) => {
  const { gateway } = await bench(t, (worker) => {
    worker.component("/invalid", () => { throw new InvalidInput("no n", { path: "$.n" }); });
    worker.component("/later", () => { throw new RetryLater(1_500, "busy"); });
    worker.component("/mine", () => { throw new ComponentError("refused", { code: "RESOURCE_UNAVAILABLE", data: { reason: 41n } }); });
    worker.component("/bug", () => { throw new TypeError("oops", { cause: new Error("deeper") }); });
    worker.component("/odd", () => { throw { not: "an error" } as unknown as Error; });
    worker.component("/nan", () => ({ rows: [1, NaN] }));
    worker.component("/big", () => "x".repeat(8 * 1024 * 1024));
    const zod = { issues: [{ path: ["rows", 1, "n"], message: "too small" }, { message: "odd" }] }; // what a zod schema throws
    worker.component("/schema", { parse: () => { throw Object.assign(new Error("[…]"), zod); } }, () => null);
    worker.component("/parsed", { parse: (input) => { if (input !== 1) throw new Error("not one"); return input; } }, (one) => one);
  });
  const stream = await gateway.stream();
  for (const name of ["invalid", "later", "mine", "bug", "odd", "nan", "big", "parsed", "schema", "missing"]) stream.task(name, `/${name}`, 2);
  assert.deepEqual(await failure(stream, "invalid"), { code: 2, message: "no n", data: { path: "$.n" }, after: undefined });
  assert.deepEqual(await failure(stream, "later"), { code: 7, message: "busy", data: undefined, after: 1500 });
  assert.deepEqual(await failure(stream, "mine"), { code: 7, message: "refused", data: { reason: 41 }, after: undefined });
  const bug = await failure(stream, "bug");
  const told = bug.data as { type: string; traceback: string; cause: { message: string } };
  assert.deepEqual([bug.code, bug.message, told.type, told.cause.message], [3, "oops", "TypeError", "deeper"]);
  assert.match(told.traceback, /worker\.test/);
  assert.deepEqual((await failure(stream, "odd")).message, 'the component threw {"not":"an error"}');
  assert.deepEqual((await failure(stream, "nan")).data, { path: "$.rows[1]", type: "number" });
  const size = 8 * 1024 * 1024 + 2;
  assert.deepEqual((await failure(stream, "big")).data, { size_bytes: size, limit_bytes: size - 2 });
  assert.deepEqual(await failure(stream, "parsed"), { code: 2, message: "invalid input: not one", data: undefined, after: undefined });
  const violations = [{ path: "$.rows[1].n", message: "too small" }, { path: "$", message: "odd" }];
  const schema = { code: 2, message: "invalid input: too small at $.rows[1].n (and 1 more)", data: { path: "$.rows[1].n", violations }, after: undefined };
  assert.deepEqual(await failure(stream, "schema"), schema);
  assert.deepEqual((await failure(stream, "missing")).code, 6);
  assert.match((await failure(stream, "missing")).message, /no component \/missing: this worker offers .*\/big/);
});

test("a cancelled task is stopped, has no result, and gives its slot back", async (t) => {
  const stopped = gate();
  let why: unknown;
  const { gateway } = await bench(t, (worker) => {
    worker.component("/wait", async (_, ctx) => {
      try {
        await sleep(60_000, undefined, { signal: ctx.signal });
      } finally {
        why = ctx.signal.reason;
        stopped.open();
      }
    });
    worker.component("/null", () => null);
  }, { capacity: 1 });
  const stream = await gateway.stream();
  stream.task("t1", "/wait");
  stream.send({ stops: [{ id: "t1", reason: 1 }, { id: "nobody's", reason: 2 }] });
  await stopped.opened;
  assert.equal((why as { why: string }).why, "cancelled");
  stream.task("t2", "/null");
  await stream.result("t2");
  assert.deepEqual(stream.results.map(({ id }) => id), ["t2"]);
});

test("a time limit is the worker's to keep", async (t) => {
  const { gateway } = await bench(t, (worker) => {
    worker.component("/obedient", (_, ctx) => sleep(60_000, undefined, { signal: ctx.signal }));
    worker.component("/own", { timeoutMs: 20 }, (_, ctx) => sleep(60_000, undefined, { signal: ctx.signal }));
    worker.component("/deaf", () => sleep(600));
  }, { cancelGraceMs: 50 });
  const stream = await gateway.stream();
  stream.task("t1", "/obedient", null, { timeoutMs: 30 });
  stream.task("t2", "/own", null, { timeoutMs: 60_000 });
  assert.deepEqual(await failure(stream, "t1"), { code: 1, message: "the attempt ran longer than 0.03 s", data: undefined, after: undefined });
  assert.equal((await failure(stream, "t2")).code, 1);
  stream.task("t3", "/deaf", null, { timeoutMs: 30 });
  assert.equal((await failure(stream, "t3")).code, 1);
  assert.ok(logged.some((line) => /goes on 50 ms after it was told to stop/.test(line)));
  await until(() => stream.credit === 2 + 3, "the deaf one's slot, when it ended");
});

test("signs of life, and progress: the newest only", async (t) => {
  const done = gate();
  const { gateway } = await bench(t, (worker) => worker.component("/long", async (_, ctx) => {
    for (let n = 1; n <= 50; n++) ctx.heartbeat(n / 50, { n });
    await done.opened;
  }));
  const stream = await gateway.stream(0, true);
  stream.welcome(30);
  stream.task("t1", "/long");
  const told = await until(() => stream.progress[0], "progress");
  assert.deepEqual([told.id, told.fraction, told.details.toString()], ["t1", 1, '{"n":50}']);
  const before = stream.messages.length;
  await until(() => stream.messages.length >= before + 5, "signs of life");
  assert.equal(stream.progress.length, 1);
  done.open();
});

test("a refused worker ends, and says why", async () => {
  const gateway = await FakeGateway.start();
  const running = new Worker({ url: gateway.url, pool: "nope" }).run();
  (await gateway.stream(0, true)).fail(status.NOT_FOUND, "no pool nope; there are: cpu");
  await assert.rejects(running, (problem) => problem instanceof Refused && /no pool nope; there are: cpu/.test(problem.message));
  gateway.stop();
});

test("what cannot work is said at once", () => {
  assert.throws(() => new Worker({ capacity: 0 }), RangeError);
  assert.throws(() => new Worker().component("greet", () => null), TypeError);
  assert.throws(() => new Worker().component("/greet", () => null).component("/greet", () => null), TypeError);
});
