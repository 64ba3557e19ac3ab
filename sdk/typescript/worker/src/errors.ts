/**
 * What components throw to say how an attempt ended, and what the worker itself throws.
 * This module must not know tasks or streams.
 */

/** Codes of the flow language (stepflow.v1.TaskErrorCode); the code decides whether a step is tried again. */
export const errorCodes = {
  TIMEOUT: 1,
  INVALID_INPUT: 2,
  COMPONENT_FAILED: 3,
  CANCELLED: 4,
  UNREACHABLE: 5,
  COMPONENT_NOT_FOUND: 6,
  RESOURCE_UNAVAILABLE: 7,
  EXPRESSION_FAILURE: 8,
  ORCHESTRATOR_ERROR: 9,
  WORKER_ERROR: 10,
} as const;

export type ErrorCode = keyof typeof errorCodes;

export interface ComponentErrorOptions {
  code?: ErrorCode;
  /** Any JSON value, for the reader of the error. */
  data?: unknown;
  /** The next attempt comes no sooner. */
  retryAfterMs?: number;
  cause?: unknown;
}

/** Throw it inside a component: this attempt failed with `code` (default COMPONENT_FAILED). */
export class ComponentError extends Error {
  override readonly name: string = "ComponentError";
  readonly code: ErrorCode;
  readonly data: unknown;
  readonly retryAfterMs: number | undefined;

  constructor(message: string, { code = "COMPONENT_FAILED", data, retryAfterMs, cause }: ComponentErrorOptions = {}) {
    super(message, { cause });
    this.code = code;
    this.data = data;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The input is wrong; another attempt would not help. `path` is a JSON path such as `$.a`. */
export class InvalidInput extends ComponentError {
  override readonly name = "InvalidInput";
  constructor(message: string, { path, data }: { path?: string; data?: unknown } = {}) {
    super(message, { code: "INVALID_INPUT", data: data ?? (path === undefined ? undefined : { path }) });
  }
}

/** Ask for the next attempt, no sooner than after `afterMs`. */
export class RetryLater extends ComponentError {
  override readonly name = "RetryLater";
  constructor(afterMs: number, message = `retry in ${afterMs / 1000} s`, { data }: { data?: unknown } = {}) {
    if (!(afterMs >= 0 && afterMs < Infinity)) throw new RangeError(`RetryLater wants a finite number of milliseconds, not below 0; got ${afterMs}`);
    super(message, { code: "RESOURCE_UNAVAILABLE", data, retryAfterMs: afterMs });
  }
}

/** Why an attempt was told to stop: `ctx.signal.reason`. Its name is AbortError, as that of what `fetch` and timers throw. */
export class Stopped extends Error {
  override readonly name = "AbortError";
  constructor(readonly why: "timeout" | "cancelled" | "elsewhere" | "leaving") {
    super(`the attempt was told to stop: ${why}`);
  }
}

/** The gateway refused this worker; trying again would not help. */
export class Refused extends Error {
  override readonly name = "Refused";
}

/** A sub-run ended without a result. */
export class RunFailed extends Error {
  override readonly name = "RunFailed";
  constructor(
    readonly runId: string,
    readonly item: number,
    readonly code: string,
    readonly reason: string,
  ) {
    super(`run ${runId} item ${item} failed with ${code}: ${reason}`);
  }
}
