/**
 * How many tasks to ask for ahead of free slots: of quick ones as many as keep the worker busy while the next are on their way, of
 * slow ones none, because another worker may have room for them.
 */
const QUICK_MS = 5;
const AHEAD_MS = 20;
const MOST = 1_000;

export class Pace {
  #average = AHEAD_MS; // of one attempt; the newest counts for a tenth

  observe(ms: number): void {
    this.#average += (ms - this.#average) / 10;
  }

  ahead(capacity: number): number {
    return this.#average > QUICK_MS ? 0 : Math.min(MOST, Math.ceil((capacity * AHEAD_MS) / Math.max(this.#average, 0.05)));
  }
}
