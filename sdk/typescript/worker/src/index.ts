/** Stepmesh workers in TypeScript. */
export type { ComponentOptions, Handler } from "./component.js";
export { Context, type Run } from "./context.js";
export { ComponentError, InvalidInput, Refused, RetryLater, RunFailed, Stopped, type ComponentErrorOptions, type ErrorCode } from "./errors.js";
export type { BlobOptions, RunOptions } from "./gateway.js";
export { JsonText, NotJson, type Json } from "./json.js";
export { logToStderr, type Level, type Log } from "./log.js";
export { Worker, type WorkerOptions } from "./worker.js";
