/** Growing pauses between tries: doubled up to a limit, with jitter, so that many workers do not come back at one moment. */
import { setTimeout as sleep } from "node:timers/promises";

const FIRST_MS = 100;
const LONGEST_MS = 1_000;

export class Pauses {
  #next = FIRST_MS;

  /** The last try went well. */
  reset(): void {
    this.#next = FIRST_MS;
  }

  /** How long to wait now. */
  next(): number {
    const pause = this.#next;
    this.#next = Math.min(LONGEST_MS, pause * 2);
    return pause * (0.5 + Math.random() / 2);
  }

  /** Wait that long. Raises what `signal` was aborted with. */
  async wait(signal: AbortSignal): Promise<void> {
    try {
      await sleep(this.next(), undefined, { signal });
    } finally {
      signal.throwIfAborted(); // its own reason, not the timer's
    }
  }
}
