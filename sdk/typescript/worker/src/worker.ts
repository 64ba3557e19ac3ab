/** The worker that users write: components, a pool, and `serve()`. The work itself is in session.ts. */
import * as grpc from "@grpc/grpc-js";
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { Doors } from "./address.js";
import { Component, Components, type ComponentOptions, type Handler } from "./component.js";
import type { Json } from "./json.js";
import { logToStderr, type Log } from "./log.js";
import { Session } from "./session.js";

export interface WorkerOptions {
  /** `grpc://host:port`, or several with commas; default `STEPMESH_URL`. */
  url?: string;
  /** Queue whose tasks it takes; default `STEPMESH_POOL`, or `default`. */
  pool?: string;
  /** Attempts under way at once; default `STEPMESH_CONCURRENCY`, or 16. */
  capacity?: number;
  /** Every task is claimed before it starts: for GPUs or paid calls. */
  exclusive?: boolean;
  /** Prefix of its id; default is the host's name. */
  name?: string;
  /** Default `STEPMESH_NAMESPACE`, or the gateway's own. */
  namespace?: string;
  /** Largest output; the gateway's own limit holds too. */
  payloadLimitBytes?: number;
  /** Time from a stop signal until a task that goes on is reported. Default 5 s. */
  cancelGraceMs?: number;
  /** Time from `stop()` until it is gone. Default 20 s. */
  drainGraceMs?: number;
  /** Default: plain text over the network of your own; `grpc.credentials.createSsl()` for TLS. */
  credentials?: grpc.ChannelCredentials;
  log?: Log;
}

const VERSION = "stepmesh-ts/0.1.0";

export class Worker {
  readonly #components = new Components();
  readonly #log: Log;
  #session: Session | undefined;
  #leaving: Promise<void> | undefined;
  #stops = 0;
  #stuck = 0;

  constructor(private readonly options: WorkerOptions = {}) {
    this.#log = options.log ?? logToStderr;
    if (!(this.#capacity >= 1)) throw new RangeError(`capacity ${this.#capacity} is below 1: a worker runs at least one task at a time`);
  }

  /** Offer `handler` as the component `path`, such as `/resize`. Raises `TypeError` when the path does not work or is taken. */
  component<I = Json>(path: string, handler: Handler<I>): this;
  component<I = Json>(path: string, options: ComponentOptions<I>, handler: Handler<I>): this;
  component<I>(path: string, options: ComponentOptions<I> | Handler<I>, handler?: Handler<I>): this {
    const [given, work] = typeof options === "function" ? [{}, options] : [options, handler as Handler<I>];
    this.#components.add(new Component(path, given, work));
    return this;
  }

  /** Work until `stop()`; then drain. Raises `Refused` when the gateway wants no such worker. */
  async run(): Promise<void> {
    if (this.#session) throw new Error(`the worker of pool ${this.#pool} runs already: make another one`);
    const { credentials = grpc.credentials.createInsecure(), payloadLimitBytes: payloadBytes = Infinity, cancelGraceMs = 5_000 } = this.options;
    const doors = new Doors(this.#url, credentials);
    const limits = { capacity: this.#capacity, cancelGraceMs, payloadBytes };
    const session = (this.#session = new Session(doors, this.#identity(), this.#components, limits, this.#log));
    if (this.#stops) this.#leave(session);
    try {
      await session.run();
      await this.#leaving;
    } finally {
      doors.close();
      this.#stuck = session.stuck;
      if (this.#stuck) this.#log("error", `${this.#stuck} tasks go on although they were told to stop; they are delivered again`);
      this.#session = this.#leaving = undefined;
      this.#stops = 0;
    }
  }

  /** Run as this process until SIGTERM or SIGINT: the first drains, the second does not wait for running tasks, the third ends the process. */
  async serve(): Promise<void> {
    const signalled = () => {
      if (this.#stops >= 2) process.exit(1);
      this.stop();
    };
    process.on("SIGTERM", signalled).on("SIGINT", signalled);
    try {
      await this.run();
    } finally {
      process.off("SIGTERM", signalled).off("SIGINT", signalled);
    }
    if (this.#stuck) process.exit(0); // they would keep the process for ever
  }

  /** Drain: no new task, finish or hand back what runs, then `run` returns. A second call does not wait for running tasks. */
  stop(): void {
    this.#stops += 1;
    if (!this.#session) return;
    if (this.#stops === 1) this.#leave(this.#session);
    else this.#session.hurry();
  }

  #leave(session: Session): void {
    if (this.#stops > 1) session.hurry();
    this.#leaving = session.leave(this.options.drainGraceMs ?? 20_000);
  }

  #identity() {
    const worker = `${this.options.name ?? hostname()}-${process.pid}-${randomBytes(3).toString("hex")}`;
    const namespace = this.options.namespace ?? process.env["STEPMESH_NAMESPACE"] ?? "";
    return { worker, pool: this.#pool, namespace, version: VERSION, exclusive: this.options.exclusive ?? false };
  }

  get #pool(): string {
    return this.options.pool ?? process.env["STEPMESH_POOL"] ?? "default";
  }

  get #capacity(): number {
    return this.options.capacity ?? Number(process.env["STEPMESH_CONCURRENCY"] ?? 16);
  }

  get #url(): string {
    const url = this.options.url ?? process.env["STEPMESH_URL"];
    if (!url) throw new TypeError("no gateway: set STEPMESH_URL=grpc://host:port, or give `url`");
    return url;
  }
}
