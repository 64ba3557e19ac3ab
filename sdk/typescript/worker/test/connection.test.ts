/** What a worker does when streams break, gateways leave, and when it leaves itself. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { Worker, type WorkerOptions } from "../src/index.js";
import { FakeGateway, gate, until } from "./gateway.js";

function build(url: string, options: WorkerOptions = {}) {
  const finish = gate();
  const started: string[] = [];
  const worker = new Worker({ url, pool: "cpu", capacity: 2, drainGraceMs: 4_000, log: () => undefined, ...options });
  worker.component("/null", () => null);
  worker.component("/wait", async (_, ctx) => {
    started.push(ctx.taskId);
    await Promise.race([finish.opened, new Promise((_, reject) => { ctx.signal.addEventListener("abort", () => { reject(ctx.signal.reason as Error); }); })]);
    return "finished";
  });
  return { worker, started, finish };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

test("results are kept until they are recorded, over reconnects; what runs is named", async () => {
  const gateway = await FakeGateway.start();
  const { worker, started, finish } = build(gateway.url);
  const running = worker.run();
  const first = await gateway.stream();
  first.task("kept", "/null");
  first.task("recorded", "/null");
  await first.result("kept");
  await first.result("recorded");
  first.send({ recorded: ["recorded"] });
  first.task("long", "/wait");
  await until(() => started.length === 1, "long runs");
  first.fail(status.UNAVAILABLE, "gone");
  const second = await gateway.stream(1);
  assert.deepEqual(second.hello?.running, ["long"]);
  assert.equal(second.hello.worker, first.hello?.worker);
  assert.equal(second.messages[0]?.credit, 1);
  await second.result("kept");
  finish.open();
  await second.result("long");
  assert.deepEqual(second.results.map(({ id }) => id).sort(), ["kept", "long"]);
  second.task("kept", "/wait"); // delivered again: answered with the result that is here
  await until(() => second.results.filter(({ id }) => id === "kept").length === 2, "the result again");
  assert.deepEqual(started, ["long"]);
  worker.stop();
  await until(() => second.leaving, "leaving");
  second.send({ recorded: ["kept", "long"] });
  second.end();
  await running;
  gateway.stop();
});

test("tasks that have not started are not kept over a broken stream", async () => {
  const gateway = await FakeGateway.start();
  const { worker, started, finish } = build(gateway.url, { capacity: 1 });
  const running = worker.run();
  const first = await gateway.stream();
  first.task("one", "/wait");
  first.task("two", "/wait"); // beyond the credit
  await until(() => started.length === 1, "one runs");
  first.fail(status.UNAVAILABLE, "gone");
  const second = await gateway.stream(1);
  assert.deepEqual([second.hello?.running, second.credit], [["one"], 0]);
  finish.open();
  await second.result("one");
  await until(() => second.credit === 1, "credit");
  second.send({ recorded: ["one"] });
  worker.stop();
  await until(() => second.leaving, "leaving");
  second.end();
  await running;
  assert.deepEqual(started, ["one"]);
  gateway.stop();
});

test("leaving: nothing more is taken, what runs ends, the gateway ends the stream", async () => {
  const gateway = await FakeGateway.start();
  const { worker, started, finish } = build(gateway.url, { capacity: 1 });
  const running = worker.run();
  const stream = await gateway.stream();
  stream.task("runs", "/wait");
  stream.task("waits", "/wait");
  await until(() => started.length === 1, "one runs");
  worker.stop();
  await until(() => stream.leaving, "leaving");
  stream.task("late", "/wait");
  await until(() => stream.returned.length === 2, "both are handed back");
  assert.deepEqual(stream.returned, ["waits", "late"]);
  finish.open();
  const result = await stream.result("runs");
  assert.equal(result.output?.toString(), '"finished"');
  let over = false;
  void running.then(() => { over = true; });
  stream.send({ recorded: ["runs"] });
  await until(() => stream.credit === 1, "no credit while leaving");
  assert.equal(over, false);
  stream.end();
  await running;
  gateway.stop();
});

test("a second stop does not wait: what runs is stopped and handed back", async () => {
  const gateway = await FakeGateway.start();
  const { worker, started } = build(gateway.url, { drainGraceMs: 60_000 });
  const running = worker.run();
  const stream = await gateway.stream();
  stream.task("runs", "/wait");
  await until(() => started.length === 1, "it runs");
  worker.stop();
  await until(() => stream.leaving, "leaving");
  worker.stop();
  await until(() => stream.returned.length === 1, "it is handed back");
  assert.deepEqual([stream.returned, stream.results], [["runs"], []]);
  stream.end();
  await running;
  gateway.stop();
});

test("a gateway that drains still gets what ends soon", async () => {
  const gateway = await FakeGateway.start();
  const { worker, started, finish } = build(gateway.url);
  const running = worker.run();
  const first = await gateway.stream();
  for (const id of ["one", "two", "waits"]) first.task(id, "/wait");
  await until(() => started.length === 2, "two run");
  first.send({ drain: true });
  await until(() => first.returned[0] === "waits", "what waits goes back");
  finish.open();
  await until(() => first.results.length === 2 && first.ended, "both results, then the end");
  assert.equal(first.credit, 2);
  first.send({ recorded: ["one", "two"] });
  first.end();
  const second = await gateway.stream(1);
  assert.deepEqual([second.hello?.running, second.credit], [[], 2]);
  await gateway.dismiss(worker, running);
});

test("a gateway that drains is left for the next; work goes on", async () => {
  const [one, other] = [await FakeGateway.start(), await FakeGateway.start()];
  const { worker, started, finish } = build(`${one.url},127.0.0.1:${other.port}`);
  const running = worker.run();
  const first = await one.stream();
  first.task("runs", "/wait");
  await until(() => started.length === 1, "it runs");
  first.send({ drain: true });
  await until(() => first.ended, "the worker ends the stream");
  first.end();
  const second = await other.stream();
  assert.deepEqual(second.hello?.running, ["runs"]);
  finish.open();
  await second.result("runs");
  second.send({ recorded: ["runs"] });
  worker.stop();
  await until(() => second.leaving, "leaving");
  second.end();
  await running;
  one.stop();
  other.stop();
});

test("a worker may be there before its gateway, and after it", async () => {
  const port = await freePort();
  const { worker, started, finish } = build(`grpc://127.0.0.1:${port}`);
  const running = worker.run();
  const first = await FakeGateway.start(port);
  const stream = await first.stream();
  stream.task("runs", "/wait");
  await until(() => started.length === 1, "it runs");
  first.stop();
  finish.open();
  const second = await FakeGateway.start(port);
  const again = await second.stream();
  await again.result("runs");
  again.send({ recorded: ["runs"] });
  worker.stop();
  await until(() => again.leaving, "leaving");
  again.end();
  await running;
  second.stop();
});

test("a worker with nothing in hand leaves at once when no gateway is there", async () => {
  const { worker } = build(`grpc://127.0.0.1:${await freePort()}`, { drainGraceMs: 60_000 });
  const running = worker.run();
  worker.stop();
  await running;
});
