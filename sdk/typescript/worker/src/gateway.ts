/**
 * What components ask a gateway for, through stepflow.v1: blobs and sub-runs. Each request may be made twice without harm (stores by
 * content, submissions by key, reads), so each is repeated while no gateway answers, until the attempt is told to stop.
 */
import * as grpc from "@grpc/grpc-js";
import type { Door, Doors } from "./address.js";
import { errorCodes, Refused, RunFailed } from "./errors.js";
import type { Json, JsonText } from "./json.js";
import { Pauses } from "./pause.js";
import type { GetBlobResponse__Output as Blob } from "./pb/stepflow/v1/GetBlobResponse.js";
import type { ItemResult__Output as ItemResult } from "./pb/stepflow/v1/ItemResult.js";
import type { OrchestratorRunStatus__Output as RunStatus } from "./pb/stepflow/v1/OrchestratorRunStatus.js";
import type { PutBlobResponse__Output as BlobStored } from "./pb/stepflow/v1/PutBlobResponse.js";
import type { StoreFlowResponse__Output as FlowStored } from "./pb/stepflow/v1/StoreFlowResponse.js";
import type { Task__Output as Task } from "./pb/stepmesh/v1/Task.js";
import { fromValue, toStruct, toValue } from "./values.js";

export interface BlobOptions {
  filename?: string;
  contentType?: string;
  /** What a JSON value is; default `data`. */
  type?: "data" | "flow";
}

export interface RunOptions {
  variables?: Record<string, Json>;
  overrides?: Record<string, Json>;
  maxConcurrency?: number;
}

const WAIT_S = 20; // longest single wait for a run; longer ones are several
const ANSWER_MS = 10_000;
const RUNNING = 1; // stepflow.v1.ExecutionStatus
const COMPLETED = 2;
const AWAY = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.ABORTED]);

type Call<T> = (door: Door, options: grpc.CallOptions, done: grpc.requestCallback<T>) => grpc.ClientUnaryCall;

export class Gateway {
  constructor(private readonly doors: Doors) {}

  async putBlob(data: Uint8Array | Json | JsonText, { filename, contentType, type = "data" }: BlobOptions, signal: AbortSignal): Promise<string> {
    const content = data instanceof Uint8Array ? { rawData: data, blobType: "binary" } : { jsonData: toValue(data), blobType: type };
    const request = { ...content, ...(filename === undefined ? {} : { filename }), ...(contentType === undefined ? {} : { contentType }) };
    return (await this.#ask<BlobStored>((door, options, done) => door.blobs.putBlob(request, options, done), signal)).blobId;
  }

  async getBlob(blobId: string, signal: AbortSignal): Promise<Uint8Array | Json> {
    const blob = await this.#ask<Blob>((door, options, done) => door.blobs.getBlob({ blobId }, options, done), signal);
    return blob.content === "rawData" ? (blob.rawData as Uint8Array) : fromValue(blob.jsonData ?? {});
  }

  /** Returns the run's id once the run is recorded. A submission with a key that the step used before finds its run. */
  async submitRun(
    flow: string | { [key: string]: Json },
    inputs: Json[],
    { key, task, variables = {}, overrides, maxConcurrency }: RunOptions & { key: string; task: Task },
    signal: AbortSignal,
  ): Promise<string> {
    const flowId = typeof flow === "string" ? flow : await this.#store(flow, signal);
    const runRequest = {
      flowId,
      input: inputs.map(toValue),
      variables: Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, toValue(value)])),
      ...(overrides === undefined ? {} : { overrides: toStruct(overrides) }),
      ...(maxConcurrency === undefined ? {} : { maxConcurrency }),
    };
    // The root run with the task behind it: so the gateway knows which task starts the run.
    const request = { runRequest, subflowKey: key, rootRunId: `${task.rootRunId}!${task.id}` };
    return (await this.#ask<RunStatus>((door, options, done) => door.orchestrator.submitRun(request, options, done), signal)).runId;
  }

  /** All results in the order of the items, once the run ended. Raises `RunFailed`. */
  async results(runId: string, signal: AbortSignal): Promise<Json[]> {
    const request = { runId, wait: true, includeResults: true, timeoutSecs: WAIT_S };
    for (;;) {
      const run = await this.#ask<RunStatus>((door, options, done) => door.orchestrator.getRun(request, options, done), signal, WAIT_S * 1000);
      if (run.status !== RUNNING) return run.results.sort((one, other) => one.itemIndex - other.itemIndex).map((item) => valueOf(runId, item));
    }
  }

  async #store(flow: { [key: string]: Json }, signal: AbortSignal): Promise<string> {
    const request = { flow: toStruct(flow) };
    const { stored, flowId, diagnostics } = await this.#ask<FlowStored>((door, options, done) => door.flows.storeFlow(request, options, done), signal);
    if (!stored) throw new Refused(`the flow was not stored: ${diagnostics?.diagnostics.map(({ formatted }) => formatted).join("; ") ?? "invalid"}`);
    return flowId;
  }

  async #ask<T>(call: Call<T>, signal: AbortSignal, waitMs = 0): Promise<T> {
    for (const pauses = new Pauses(); ; ) {
      const door = this.doors.current;
      try {
        return await once(door, call, signal, waitMs);
      } catch (problem) {
        signal.throwIfAborted();
        const { code, details } = problem as grpc.ServiceError;
        if (!AWAY.has(code)) throw new Refused(details, { cause: problem });
        this.doors.leave(door);
        await pauses.wait(signal);
      }
    }
  }
}

function once<T>(door: Door, call: Call<T>, signal: AbortSignal, waitMs: number): Promise<T> {
  signal.throwIfAborted();
  return new Promise<T>((resolve, reject) => {
    const running = call(door, { deadline: Date.now() + waitMs + ANSWER_MS }, (problem, answer) => {
      signal.removeEventListener("abort", cancel);
      if (problem) reject(problem);
      else resolve(answer as T);
    });
    const cancel = () => { running.cancel(); };
    signal.addEventListener("abort", cancel, { once: true });
  });
}

function valueOf(runId: string, { itemIndex, status, output, errorCode, errorMessage }: ItemResult): Json {
  if (status === COMPLETED) return output ? fromValue(output) : null;
  const code = Object.entries(errorCodes).find(([, number]) => number === errorCode)?.[0] ?? "CANCELLED";
  throw new RunFailed(runId, itemIndex, code, errorMessage ?? "the run ended before the item did");
}
