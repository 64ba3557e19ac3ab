/**
 * A worker at work: credit for what it has room for, results kept until they are recorded, and leaving.
 * Invariants: credit that is out, tasks that wait and slots that are held are never more than `capacity` together, and what is asked for
 * ahead; a result is forgotten only when the gateway says that it is recorded, or that nobody wants it.
 */
import type { Doors } from "./address.js";
import type { Components } from "./component.js";
import type { Services } from "./context.js";
import { Execution, type Attempt, type Limits, type Surroundings } from "./execution.js";
import { Gateway } from "./gateway.js";
import { Link, type Peer } from "./link.js";
import type { Log } from "./log.js";
import type { FromWorker } from "./pb/stepmesh/v1/FromWorker.js";
import type { Hello } from "./pb/stepmesh/v1/Hello.js";
import type { Progress } from "./pb/stepmesh/v1/Progress.js";
import type { Result } from "./pb/stepmesh/v1/Result.js";
import type { Task__Output as Task } from "./pb/stepmesh/v1/Task.js";
import type { ToWorker__Output as ToWorker } from "./pb/stepmesh/v1/ToWorker.js";

export interface Identity {
  worker: string;
  pool: string;
  namespace: string;
  version: string;
  exclusive: boolean;
}

const BATCH_BYTES = 1024 * 1024; // of results in one message, unless one alone is larger
const PROGRESS_MS = 100;
const LEAVING_SHARE = 0.25; // of the drain's time, kept for stopping tasks and for the last results
const LEAVING_MOST_MS = 5_000;
const DRAIN_MS = 1_500; // tasks may still end on the stream of a gateway that goes away; it has claimed what runs for more than a second
const KEPT_BYTES = 64 * 1024 * 1024; // with more than this unrecorded no further tasks are asked for
const CANCELLED = 1; // stepmesh.v1.Stop.Reason

export class Session implements Peer, Surroundings {
  readonly services: Services;
  readonly #execution: Execution;
  readonly #link: Link;
  readonly #kept = new Map<string, Result>();
  readonly #unsent = new Set<string>();
  readonly #progress = new Map<string, Progress>();
  #returned: string[] = [];
  #outstanding = 0; // credit of this stream that no task has used
  #telling: NodeJS.Timeout | undefined;
  #leaving: "no" | "said" | "unsaid" = "no";
  #hurried = false;
  #draining: NodeJS.Timeout | undefined;
  #keptBytes = 0;
  #wake: () => void = () => undefined;

  constructor(
    doors: Doors,
    private readonly identity: Identity,
    private readonly components: Components,
    private readonly limits: Limits & { payloadBytes: number },
    log: Log,
  ) {
    const progress = (id: string, fraction: number | undefined, details: Buffer) => { this.#tell(id, fraction, details); };
    this.services = { gateway: new Gateway(doors), log, pool: identity.pool, progress };
    this.#execution = new Execution(components, limits, this, log);
    this.#link = new Link(doors, this, log);
  }

  /** Until `leave()` is done. Raises `Refused`. */
  async run(): Promise<void> {
    try {
      await this.#link.run();
    } finally {
      clearTimeout(this.#telling);
      clearTimeout(this.#draining);
      for (const attempt of this.#attempts()) this.#execution.stop(attempt, "leaving");
    }
  }

  /** Attempts that go on although nobody waits for them any more. */
  get stuck(): number {
    return this.#execution.slots.held;
  }

  /** Take nothing more, hand back what has not started, finish what runs, stop what does not finish, send every result. */
  async leave(graceMs: number): Promise<void> {
    const until = Date.now() + graceMs;
    const reserveMs = Math.min(LEAVING_MOST_MS, graceMs * LEAVING_SHARE);
    this.#leaving = "unsaid";
    for (const attempt of this.#attempts()) if (!attempt.running) this.#execution.stop(attempt, "leaving");
    this.#link.flush();
    await this.#until(() => !this.#execution.attempts.size || this.#hurried, until - reserveMs);
    for (const attempt of this.#attempts()) this.#execution.stop(attempt, "leaving");
    await this.#until(() => !this.#execution.attempts.size, until - reserveMs / 2);
    for (const attempt of this.#attempts()) this.#execution.giveUp(attempt);
    await this.#until(() => this.#done() && !this.#link.open, until); // the gateway ends the stream when all is recorded
    this.#link.close();
  }

  /** Do not wait for what runs. */
  hurry(): void {
    this.#hurried = true;
    this.#wake();
  }

  // --- what the execution says -----------------------------------------------------------------------------------

  settled(attempt: Attempt, result: Result | null): void {
    const { id } = attempt.task;
    this.#progress.delete(id);
    if (result) {
      this.#kept.set(id, result);
      this.#keptBytes += result.output?.length ?? 0;
      this.#unsent.add(id);
    } else if (attempt.why === "leaving") this.#returned.push(id);
    this.changed();
  }

  changed(): void {
    if (this.#draining && !this.#execution.attempts.size) this.#link.leave();
    this.#link.flush();
    this.#wake();
  }

  // --- what the link asks and says -------------------------------------------------------------------------------

  opened(): FromWorker {
    this.#outstanding = 0;
    this.#returned = [];
    if (this.#leaving === "said") this.#leaving = "unsaid";
    for (const id of this.#kept.keys()) this.#unsent.add(id);
    return { hello: this.#hello(), ...this.next() };
  }

  next(): FromWorker | null {
    const credit = this.#credit();
    const results = this.#batch();
    const progress = [...this.#progress.values()];
    const returned = this.#returned;
    const leaving = this.#leaving === "unsaid";
    if (!credit && !results.length && !progress.length && !returned.length && !leaving) return null;
    this.#outstanding += credit;
    this.#progress.clear();
    this.#returned = [];
    if (leaving) this.#leaving = "said";
    return { credit, results, progress, returned, leaving };
  }

  heard({ welcome, tasks, recorded, stops, drain }: ToWorker): void {
    if (welcome) this.#execution.payloadLimit = Math.min(this.limits.payloadBytes, welcome.payloadBytes || Infinity);
    for (const task of tasks) this.#take(task);
    for (const id of recorded) this.#forget(id);
    for (const { id, reason } of stops) {
      this.#forget(id);
      const attempt = this.#execution.attempts.get(id);
      if (attempt) this.#execution.stop(attempt, reason === CANCELLED ? "cancelled" : "elsewhere");
    }
    if (drain) this.#drain();
    if (recorded.length || stops.length || drain) this.changed();
  }

  over(): boolean {
    clearTimeout(this.#draining);
    this.#draining = undefined;
    // What has not started goes back to the queue when a stream ends.
    for (const attempt of this.#attempts()) if (!attempt.running) this.#execution.stop(attempt, "elsewhere");
    this.#wake();
    return this.#leaving !== "no" && this.#done();
  }

  // ---------------------------------------------------------------------------------------------------------------

  #take(task: Task): void {
    this.#outstanding = Math.max(0, this.#outstanding - 1);
    if (this.#kept.has(task.id)) this.#unsent.add(task.id); // delivered again: here is its result
    else if (this.#leaving !== "no" || this.#draining) this.#returned.push(task.id);
    else if (!this.#execution.attempts.has(task.id)) this.#execution.accept(task);
    this.#link.flush();
  }

  /** The gateway goes away: what has not started goes back to it, what ends soon is sent, what runs longer is the next stream's. */
  #drain(): void {
    this.#draining ??= setTimeout(() => { this.#link.leave(); }, DRAIN_MS);
    for (const attempt of this.#attempts()) if (!attempt.running) this.#execution.stop(attempt, "leaving");
  }

  #forget(id: string): void {
    this.#keptBytes -= this.#kept.get(id)?.output?.length ?? 0;
    this.#kept.delete(id);
    this.#unsent.delete(id);
  }

  #credit(): number {
    const { slots, waiting, pace } = this.#execution;
    const { capacity } = this.limits;
    if (this.#leaving !== "no" || this.#draining || this.#keptBytes > KEPT_BYTES) return 0;
    return Math.max(0, capacity + pace.ahead(capacity) - slots.held - waiting - this.#outstanding);
  }

  #batch(): Result[] {
    const results: Result[] = [];
    let bytes = 0;
    for (const id of this.#unsent) {
      const result = this.#kept.get(id) as Result;
      bytes += result.output?.length ?? 0;
      if (results.length && bytes > BATCH_BYTES) break;
      results.push(result);
      this.#unsent.delete(id);
    }
    return results;
  }

  #tell(id: string, fraction: number | undefined, details: Buffer): void {
    if (!this.#execution.attempts.has(id)) return;
    this.#progress.set(id, fraction === undefined ? { id, details } : { id, fraction, details });
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      this.#link.flush();
    }, PROGRESS_MS);
  }

  #hello(): Hello {
    const running = this.#attempts().filter((attempt) => attempt.running).map((attempt) => attempt.task.id);
    return { ...this.identity, capacity: this.limits.capacity, components: this.components.offers(), running };
  }

  #attempts(): Attempt[] {
    return [...this.#execution.attempts.values()];
  }

  #done(): boolean {
    return !this.#execution.attempts.size && !this.#kept.size && !this.#returned.length;
  }

  async #until(condition: () => boolean, time: number): Promise<void> {
    while (!condition() && Date.now() < time) {
      const left = new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, time - Date.now());
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      await left;
    }
  }
}
