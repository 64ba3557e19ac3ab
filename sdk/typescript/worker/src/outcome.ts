/**
 * How a component's end reads on the wire: its value as JSON text, or a failure. Never throws; all texts are bounded, so that no
 * error can be too large to report.
 */
import { ComponentError, errorCodes, type ErrorCode } from "./errors.js";
import { NotJson, writeJson } from "./json.js";
import type { Failure } from "./pb/stepmesh/v1/Failure.js";

/** Exactly one of the two is set. */
export type Outcome = { output: Buffer } | { failure: Failure };

const MESSAGE_LIMIT = 8_192;
const STACK_LIMIT = 16_384;
const DATA_LIMIT = 262_144;
const CAUSES = 5;

/** A component returned `value`. What is not JSON, or is larger than `limit` bytes, is a WORKER_ERROR. */
export function returned(value: unknown, limit: number): Outcome {
  let output: Buffer;
  try {
    output = Buffer.from(writeJson(value));
  } catch (problem) {
    if (!(problem instanceof NotJson)) return raised(problem);
    return failed("WORKER_ERROR", `the output is not JSON at ${problem.message}`, { path: problem.path, type: problem.kind });
  }
  if (output.length <= limit) return { output };
  const text = `the output has ${output.length} bytes, above the limit of ${limit}; store it with ctx.putBlob and return the blob id`;
  return failed("WORKER_ERROR", text, { size_bytes: output.length, limit_bytes: limit });
}

/** A component threw `problem`. */
export function raised(problem: unknown): Outcome {
  if (!(problem instanceof ComponentError)) return failed("COMPONENT_FAILED", messageOf(problem), describe(problem, CAUSES, true));
  const { failure } = failed(problem.code, problem.message || problem.name, problem.data);
  return { failure: problem.retryAfterMs === undefined ? failure : { ...failure, retryAfterMs: Math.round(problem.retryAfterMs) } };
}

/** A failure that the worker itself found. */
export function failed(code: ErrorCode, message: string, data?: unknown): { failure: Failure } {
  return { failure: { code: errorCodes[code], message: cut(message, MESSAGE_LIMIT), data: dataOf(data) } };
}

function messageOf(problem: unknown): string {
  if (problem instanceof Error) return problem.message || problem.name;
  return typeof problem === "string" ? problem : `the component threw ${safely(problem)}`;
}

function describe(problem: unknown, causes: number, outer: boolean): Record<string, unknown> {
  const isError = problem instanceof Error;
  return {
    ...(outer ? {} : { message: cut(messageOf(problem), MESSAGE_LIMIT) }),
    type: isError ? problem.name : typeof problem,
    ...(outer ? { traceback: isError ? cut(problem.stack ?? "", STACK_LIMIT) : "" } : {}),
    cause: isError && problem.cause !== undefined && causes > 0 ? describe(problem.cause, causes - 1, false) : null,
  };
}

function dataOf(data: unknown): Buffer {
  if (data === undefined || data === null) return Buffer.alloc(0);
  let text: string;
  try {
    text = writeJson(data);
  } catch (problem) {
    text = writeJson({ note: `the error's data is not JSON: ${cut(messageOf(problem), 500)}` });
  }
  const encoded = Buffer.from(text);
  if (encoded.length <= DATA_LIMIT) return encoded;
  return Buffer.from(writeJson({ note: `the error's data has ${encoded.length} bytes, above the limit of ${DATA_LIMIT}; use putBlob` }));
}

function safely(value: unknown): string {
  try {
    return writeJson(value);
  } catch {
    return `a ${typeof value}`;
  }
}

const cut = (text: string, limit: number) => (text.length > limit ? `${text.slice(0, limit)}… (${text.length} characters)` : text);
