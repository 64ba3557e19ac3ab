/**
 * One worker's stream to a gateway: opened, kept alive, opened again with growing pauses when it breaks. What goes up is batched: a
 * message is made when the connection has room for it.
 * Invariant: at most one stream is open; its first message carries hello. This module must not know what tasks and results are.
 */
import * as grpc from "@grpc/grpc-js";
import type { Door, Doors } from "./address.js";
import { Refused } from "./errors.js";
import type { Log } from "./log.js";
import { Pauses } from "./pause.js";
import type { FromWorker } from "./pb/stepmesh/v1/FromWorker.js";
import type { ToWorker__Output as ToWorker } from "./pb/stepmesh/v1/ToWorker.js";

/** The worker behind the link. */
export interface Peer {
  /** A stream opens: its first message. */
  opened(): FromWorker;
  /** What is to be sent now, or null. */
  next(): FromWorker | null;
  heard(message: ToWorker): void;
  /** The stream is over. True: and that is the end. */
  over(): boolean;
}

type Stream = grpc.ClientDuplexStream<FromWorker, ToWorker>;

const REFUSALS = new Set([
  grpc.status.INVALID_ARGUMENT,
  grpc.status.NOT_FOUND,
  grpc.status.FAILED_PRECONDITION,
  grpc.status.PERMISSION_DENIED,
  grpc.status.UNAUTHENTICATED,
  grpc.status.UNIMPLEMENTED,
]);
const ENDING_MS = 2_000; // how long a gateway may take to end a stream that we ended

export class Link {
  readonly #closing = new AbortController();
  readonly #pauses = new Pauses();
  #stream: Stream | undefined;
  #scheduled = false;
  #blocked = false;
  #drained = false;
  #sentAt = 0;
  #pulse: NodeJS.Timeout | undefined;

  constructor(
    private readonly doors: Doors,
    private readonly peer: Peer,
    private readonly log: Log,
  ) {}

  /** Until `close()`, or until the peer says that it is over. Raises `Refused`. */
  async run(): Promise<void> {
    for (;;) {
      const door = this.doors.current;
      const end = await this.#serve(door);
      if (this.peer.over() || this.#closing.signal.aborted) return;
      if (REFUSALS.has(end.code)) throw new Refused(`the gateway ${door.target} refused this worker: ${end.details}`);
      this.log("warn", `the stream to the gateway ${door.target} ended, connecting again`, { status: grpc.status[end.code], details: end.details });
      if (end.code !== grpc.status.OK || this.#drained) this.doors.leave(door);
      const closed = await this.#pauses.wait(this.#closing.signal).then(() => false, () => true);
      if (closed) return;
    }
  }

  /** Whether there is a stream, or one is on its way. */
  get open(): boolean {
    return this.#stream !== undefined;
  }

  /** There may be something to send. */
  flush(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#push();
    });
  }

  close(): void {
    this.#closing.abort();
    this.#stream?.cancel();
  }

  async #serve(door: Door): Promise<grpc.StatusObject> {
    const stream = (this.#stream = door.worker.work());
    this.#blocked = this.#drained = false;
    const ended = new Promise<grpc.StatusObject>((resolve) => stream.on("status", resolve));
    stream.on("error", () => undefined); // the status tells
    stream.on("data", (message: ToWorker) => { this.#heard(message); });
    stream.on("drain", () => {
      this.#blocked = false;
      this.#push();
    });
    this.#send(this.peer.opened());
    const status = await ended;
    clearInterval(this.#pulse);
    this.#stream = undefined;
    return status;
  }

  #heard(message: ToWorker): void {
    if (message.welcome) {
      this.#pauses.reset();
      this.#beat(message.welcome.heartbeatMs);
    }
    this.peer.heard(message);
  }

  /** Say no more on this stream; the next one is elsewhere, if there is another gateway. */
  leave(): void {
    const stream = this.#stream;
    if (this.#drained || !stream) return;
    this.#push();
    this.#drained = true;
    stream.end();
    setTimeout(() => { stream.cancel(); }, ENDING_MS).unref();
  }

  #beat(everyMs: number): void {
    clearInterval(this.#pulse);
    if (everyMs) this.#pulse = setInterval(() => { if (Date.now() - this.#sentAt >= everyMs / 3) this.#send({}); }, everyMs / 3);
  }

  #push(): void {
    while (this.#stream && !this.#blocked && !this.#drained) {
      const message = this.peer.next();
      if (!message) return;
      this.#send(message);
    }
  }

  #send(message: FromWorker): void {
    if (!this.#stream || this.#drained) return;
    this.#sentAt = Date.now();
    this.#blocked = !this.#stream.write(message);
  }
}
