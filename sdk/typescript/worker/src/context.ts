/**
 * What a running component may see and do.
 * Invariant: `idempotencyKey` and the keys of sub-runs are the same in every attempt of a step, so that a retried step finds what an
 * earlier attempt started. Waiting for a sub-run holds no slot of the worker.
 */
import type { Attempt } from "./execution.js";
import { JsonText, writeJson, type Json } from "./json.js";
import type { Level, Log } from "./log.js";
import type { BlobOptions, Gateway, RunOptions } from "./gateway.js";
import type { Slots } from "./slots.js";

/** What a context needs of its worker. */
export interface Services {
  readonly gateway: Gateway;
  readonly log: Log;
  readonly pool: string;
  progress(id: string, fraction: number | undefined, details: Buffer): void;
}

/** A sub-run. */
export interface Run {
  readonly id: string;
  /** Results of all items in order, once the run ended. Raises `RunFailed` for the first item without one. */
  results(): Promise<Json[]>;
}

export class Context {
  readonly #attempt: Attempt;
  readonly #services: Services;
  readonly #slots: Slots;

  constructor(attempt: Attempt, services: Services, slots: Slots) {
    this.#attempt = attempt;
    this.#services = services;
    this.#slots = slots;
  }

  /** Opaque id of this attempt. */
  get taskId(): string { return this.#attempt.task.id; }
  get component(): string { return this.#attempt.task.component; }
  get pool(): string { return this.#services.pool; }
  /** Which attempt of the step this is, from 1. */
  get attempt(): number { return this.#attempt.task.attempt; }
  get runId(): string { return this.#attempt.task.runId; }
  get rootRunId(): string { return this.#attempt.task.rootRunId; }
  get flowId(): string { return this.#attempt.task.flowId; }
  get stepId(): string { return this.#attempt.task.stepId; }
  /** Index of the run's item, from 0. */
  get item(): number { return this.#attempt.task.item; }
  /** The same in every attempt of the step; give it to services that deduplicate. */
  get idempotencyKey(): string { return this.#attempt.task.idempotencyKey; }
  /** What the route captured from the component's path. */
  get pathParams(): Readonly<Record<string, string>> { return this.#attempt.task.pathParams; }
  /** W3C trace context of the step, or "". */
  get traceparent(): string { return this.#attempt.task.traceparent; }
  /** The input as it came: JSON text with every digit and key in its order. */
  get inputText(): string { return this.#attempt.task.input.toString(); }
  /** Aborted when the attempt should stop: its run was cancelled, its time is over, or the worker leaves. `reason` is a `Stopped`. */
  get signal(): AbortSignal { return this.#attempt.controller.signal; }
  /** When this attempt times out. */
  get deadline(): Date | undefined {
    const { startedAt, limitMs } = this.#attempt;
    return limitMs === undefined ? undefined : new Date(startedAt + limitMs);
  }

  /** Tell how far the work is (0..1) and any JSON details. Cheap: only the newest is sent. */
  heartbeat(progress?: number, details?: unknown): void {
    const fraction = progress === undefined ? undefined : Math.min(1, Math.max(0, progress));
    this.#services.progress(this.taskId, fraction, details === undefined ? Buffer.alloc(0) : Buffer.from(writeJson(details)));
  }

  /** Write to the worker's log, with who and what. */
  log(level: Level, message: string, fields: Record<string, unknown> = {}): void {
    const { runId, item, stepId, attempt, component } = this;
    this.#services.log(level, message, { ...fields, runId, item, stepId, attempt, component });
  }

  /** Store bytes, or a JSON value, by content; returns the blob's id. */
  async putBlob(data: Uint8Array | Json | JsonText, options: BlobOptions = {}): Promise<string> {
    return await this.#services.gateway.putBlob(data, options, this.signal);
  }

  /** What `putBlob` stored: bytes, or the JSON value. */
  async getBlob(id: string): Promise<Uint8Array | Json> {
    return await this.#services.gateway.getBlob(id, this.signal);
  }

  /**
   * Start a sub-run, linked to this step and cancelled with its run. `flow`: the id of a stored flow, or a flow as a value.
   * `options.key` names the sub-run within the step, so that a later attempt finds it; by default the ordinal of the call (`#1`, …).
   */
  async submitRun(flow: string | { [key: string]: Json }, inputs: Json[], options: RunOptions & { key?: string } = {}): Promise<Run> {
    this.#attempt.children += 1;
    const { key = `#${this.#attempt.children}`, ...rest } = options;
    const gateway = this.#services.gateway;
    const id = await gateway.submitRun(flow, inputs, { ...rest, key, task: this.#attempt.task }, this.signal);
    return { id, results: () => this.#slots.parked(gateway.results(id, this.signal)) };
  }

  /** Run a flow on one input as a sub-run; returns its result. */
  async evaluateFlow(flow: string | { [key: string]: Json }, input: Json, options: RunOptions & { key?: string } = {}): Promise<Json> {
    const run = await this.submitRun(flow, [input], options);
    const [result] = await run.results();
    return result ?? null;
  }
}
