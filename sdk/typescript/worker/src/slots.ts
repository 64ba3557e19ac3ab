/**
 * Slots: how many attempts may be under way, and the rule that whoever waits for a sub-run holds none.
 * Invariant: `held` is never above `size`; one that comes back from a wait goes before new work.
 */
export class Slots {
  held = 0;
  readonly #returning: (() => void)[] = [];

  constructor(
    readonly size: number,
    private readonly onFree: () => void,
  ) {}

  /** Take one if there is one. */
  take(): boolean {
    if (this.held >= this.size) return false;
    this.held += 1;
    return true;
  }

  release(): void {
    this.held -= 1;
    const next = this.#returning.shift();
    if (next) {
      this.held += 1;
      next();
    }
    this.onFree();
  }

  /** Wait for `work` without a slot. */
  async parked<T>(work: Promise<T>): Promise<T> {
    this.release();
    try {
      return await work;
    } finally {
      if (!this.take()) await new Promise<void>((resolve) => this.#returning.push(resolve));
    }
  }
}
