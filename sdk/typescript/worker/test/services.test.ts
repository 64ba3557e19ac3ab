/** Blobs and sub-runs through stepflow.v1, as a component asks for them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { RunFailed, Worker } from "../src/index.js";
import type { OrchestratorSubmitRunRequest__Output as Submission } from "../src/pb/stepflow/v1/OrchestratorSubmitRunRequest.js";
import type { PutBlobRequest__Output as Blob } from "../src/pb/stepflow/v1/PutBlobRequest.js";
import { fromValue, toValue } from "../src/values.js";
import { FakeGateway, until } from "./gateway.js";

test("blobs come back as they were; an integer that no double holds is refused", async () => {
  const stored: Blob[] = [];
  const gateway = await FakeGateway.start(0, {
    blobs: {
      putBlob: (call, done) => { done(null, { blobId: String(stored.push(call.request) - 1) }); },
      getBlob: (call, done) => {
        const { jsonData, rawData, content } = stored[Number((call.request as { blobId: string }).blobId)] as Blob;
        done(null, content === "rawData" ? { rawData } : { jsonData });
      },
    },
  });
  const value = { a: [1, "two", null, true, 2.5], b: { c: 2 ** 60 } };
  const worker = new Worker({ url: gateway.url, log: () => undefined }).component("/blobs", async (_, ctx) => {
    const bytes = await ctx.getBlob(await ctx.putBlob(Buffer.from([1, 255]), { filename: "b.bin", contentType: "x/y" }));
    const json = await ctx.getBlob(await ctx.putBlob(value, { type: "flow" }));
    await assert.rejects(ctx.putBlob({ n: [2n ** 64n + 1n] }), /\$\.n\[0\] \(bigint\)/);
    return { bytes: [...(bytes as Uint8Array)], json };
  });
  const running = worker.run();
  const stream = await gateway.stream();
  stream.task("t", "/blobs");
  const result = await stream.result("t");
  assert.deepEqual(JSON.parse(result.output?.toString() ?? result.failure?.message ?? ""), { bytes: [1, 255], json: value });
  assert.deepEqual(stored.map(({ blobType, filename, contentType }) => [blobType, filename, contentType]), [["binary", "b.bin", "x/y"], ["flow", undefined, undefined]]);
  await gateway.dismiss(worker, running);
});

test("a sub-run names its task and its key, waits without a slot, and outlives an outage", async () => {
  const submitted: Submission[] = [];
  let asked = 0;
  const gateway = await FakeGateway.start(0, {
    flows: { storeFlow: (_, done) => { done(null, { stored: true, flowId: "flow-1" }); } },
    orchestrator: {
      submitRun: (call, done) => {
        submitted.push(call.request);
        if (submitted.length === 1) done({ code: status.UNAVAILABLE, details: "not now" });
        else done(null, { runId: "child", status: 1 });
      },
      getRun: (_, done) => {
        asked += 1;
        if (asked < 3) done(null, { runId: "child", status: 1 });
        else done(null, { runId: "child", status: 2, results: [{ itemIndex: 0, status: 2, output: toValue([1, 2]) }] });
      },
    },
  });
  const worker = new Worker({ url: gateway.url, capacity: 1, log: () => undefined });
  worker.component("/outer", async (input, ctx) => await ctx.evaluateFlow({ name: "inner" }, input, { key: "sub", variables: { v: 1 } }));
  const running = worker.run();
  const stream = await gateway.stream();
  stream.task("run.0.1", "/outer", { n: 1 });
  assert.equal((await stream.result("run.0.1")).output?.toString(), "[1,2]");
  const last = submitted.at(-1) as Submission;
  assert.deepEqual([last.rootRunId, last.subflowKey, last.runRequest?.flowId, submitted.length], ["root!run.0.1", "sub", "flow-1", 2]);
  assert.deepEqual(last.runRequest?.input.map(fromValue), [{ n: 1 }]);
  await until(() => stream.credit >= 2, "credit while the attempt waited");
  await gateway.dismiss(worker, running);
});

test("a sub-run that failed is an error with its code", async () => {
  const gateway = await FakeGateway.start(0, {
    orchestrator: {
      submitRun: (_, done) => { done(null, { runId: "child", status: 1 }); },
      getRun: (_, done) => { done(null, { status: 3, results: [{ itemIndex: 0, status: 3, errorCode: 2, errorMessage: "bad" }] }); },
    },
  });
  const worker = new Worker({ url: gateway.url, log: () => undefined }).component("/outer", async (_, ctx) => {
    await assert.rejects(ctx.evaluateFlow("flow-1", null), (problem) => problem instanceof RunFailed && problem.code === "INVALID_INPUT" && problem.runId === "child");
    return "as expected";
  });
  const running = worker.run();
  const stream = await gateway.stream();
  stream.task("t", "/outer");
  const result = await stream.result("t");
  assert.equal(result.output?.toString() ?? result.failure?.message, '"as expected"');
  await gateway.dismiss(worker, running);
});
