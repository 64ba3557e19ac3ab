/**
 * Runs tasks: what waits for a slot, what is under way, how each ends.
 * Invariants: at most `capacity` attempts hold a slot; each attempt is settled exactly once, with a result or without one; whatever a
 * component throws ends its own attempt only. This module must not know streams or credit.
 */
import type { Component, Components } from "./component.js";
import { Context, type Services } from "./context.js";
import { Stopped } from "./errors.js";
import type { Log } from "./log.js";
import { Pace } from "./pace.js";
import { failed, raised, returned, type Outcome } from "./outcome.js";
import type { Result } from "./pb/stepmesh/v1/Result.js";
import type { Task__Output as Task } from "./pb/stepmesh/v1/Task.js";
import { Slots } from "./slots.js";

/** One task as this worker runs it. */
export class Attempt {
  readonly controller = new AbortController();
  startedAt = 0; // ms since 1970
  began = 0; // by the clock that only goes forward, in ms
  limitMs: number | undefined;
  why: Stopped["why"] | undefined;
  settled = false;
  children = 0;
  timer: NodeJS.Timeout | undefined;

  constructor(readonly task: Task) {}

  get running(): boolean {
    return this.startedAt > 0;
  }
}

export interface Surroundings {
  readonly services: Services;
  /** An attempt ended; null: nobody wants its result, or it is handed back (`attempt.why`). */
  settled(attempt: Attempt, result: Result | null): void;
  /** There may be room for more tasks. */
  changed(): void;
}

export interface Limits {
  capacity: number;
  cancelGraceMs: number;
}

/** A task that waits here for so long goes back to the gateway: another worker may have room. */
const WAITS_MS = 1_000;

/** Node runs a longer timer at once; an attempt of 24 days needs none. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Execution {
  /** Every attempt that is not settled, by task id. */
  readonly attempts = new Map<string, Attempt>();
  readonly pace = new Pace();
  payloadLimit = Infinity;
  readonly slots: Slots;
  #ready: Attempt[] = [];

  constructor(
    private readonly components: Components,
    private readonly limits: Limits,
    private readonly around: Surroundings,
    private readonly log: Log,
  ) {
    this.slots = new Slots(limits.capacity, () => {
      this.#start();
      around.changed();
    });
  }

  get waiting(): number {
    return this.#ready.length;
  }

  accept(task: Task): void {
    const attempt = new Attempt(task);
    this.attempts.set(task.id, attempt);
    this.#ready.push(attempt);
    this.#start();
    if (!attempt.running) attempt.timer = setTimeout(() => { this.stop(attempt, "leaving"); }, WAITS_MS);
  }

  /** Tell an attempt to stop. It is settled when it ended, or after the grace period; its slot is free when it ended. */
  stop(attempt: Attempt, why: Stopped["why"]): void {
    if (attempt.why || attempt.settled) return;
    attempt.why = why;
    clearTimeout(attempt.timer);
    if (!attempt.running) {
      this.#ready = this.#ready.filter((other) => other !== attempt);
      this.#settle(attempt, null);
      return;
    }
    attempt.timer = setTimeout(() => { this.#stuck(attempt); }, this.limits.cancelGraceMs);
    attempt.controller.abort(new Stopped(why));
  }

  /** Settle an attempt that was told to stop, without waiting for its end. */
  giveUp(attempt: Attempt): void {
    clearTimeout(attempt.timer);
    this.#settle(attempt, attempt.why === "timeout" ? this.#result(attempt, timedOut(attempt)) : null);
  }

  #start(): void {
    while (this.#ready.length && this.slots.take()) void this.#run(this.#ready.shift() as Attempt);
  }

  async #run(attempt: Attempt): Promise<void> {
    const { task } = attempt;
    const component = this.components.get(task.component);
    clearTimeout(attempt.timer);
    attempt.startedAt = Date.now();
    attempt.began = performance.now();
    attempt.limitMs = limitOf(task, component);
    if (attempt.limitMs !== undefined && attempt.limitMs <= LONGEST_TIMER_MS) attempt.timer = setTimeout(() => { this.stop(attempt, "timeout"); }, attempt.limitMs);
    const end = component ? await this.#call(component, attempt) : failed("COMPONENT_NOT_FOUND", this.components.unknown(task.component));
    clearTimeout(attempt.timer);
    this.pace.observe(performance.now() - attempt.began);
    if (attempt.why) this.giveUp(attempt);
    else this.#settle(attempt, this.#result(attempt, end));
    this.slots.release();
  }

  async #call(component: Component, attempt: Attempt): Promise<Outcome> {
    try {
      const context = new Context(attempt, this.around.services, this.slots);
      return returned(await component.call(attempt.task.input, context), this.payloadLimit);
    } catch (problem) {
      return raised(problem);
    }
  }

  #result({ task, startedAt, began }: Attempt, end: Outcome): Result {
    return { id: task.id, ...end, startedUs: startedAt * 1000, durationUs: Math.round((performance.now() - began) * 1000) };
  }

  #settle(attempt: Attempt, result: Result | null): void {
    if (attempt.settled) return;
    attempt.settled = true;
    this.attempts.delete(attempt.task.id);
    this.around.settled(attempt, result);
  }

  #stuck(attempt: Attempt): void {
    const { runId, stepId, component } = attempt.task;
    const text = `step ${stepId} of run ${runId} (component ${component}) goes on ${this.limits.cancelGraceMs} ms after it was told to stop`;
    this.log("error", `${text}: look at ctx.signal; its slot is free again when it ends`, { runId, stepId, component });
    this.giveUp(attempt);
  }
}

function limitOf(task: Task, component: Component | undefined): number | undefined {
  const limits = [task.timeoutMs || Infinity, component?.timeoutMs ?? Infinity];
  const limit = Math.min(...limits);
  return limit === Infinity ? undefined : limit;
}

const timedOut = (attempt: Attempt) => failed("TIMEOUT", `the attempt ran longer than ${(attempt.limitMs ?? 0) / 1000} s`);
