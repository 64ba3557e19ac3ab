/**
 * JSON text ⇄ values. Integers keep every digit: one that a number cannot hold is a bigint, both ways.
 * What JSON cannot hold is refused with its path, never changed in silence (NaN does not become null).
 */
import { parse } from "lossless-json";

/** Any JSON value; `bigint` for integers beyond ±(2^53 − 1). */
export type Json = null | boolean | number | bigint | string | Json[] | { [key: string]: Json };

/** JSON text as it is: a component may return it, and it goes out unchanged (its key order, its digits). */
export class JsonText {
  constructor(readonly text: string) {}
}

/** A value that JSON cannot hold. `path` is where, such as `$.rows[2]`; `kind` is what was found there. */
export class NotJson extends Error {
  override readonly name = "NotJson";
  constructor(
    readonly path: string,
    readonly kind: string,
    reason: string,
  ) {
    super(`${path} (${kind}): ${reason}`);
  }
}

const DEPTH = 1000;
const LONG_NUMBER = /[0-9]{16}/; // without so many digits in a row no integer is beyond 2^53

/** Raises `SyntaxError`. */
export function readJson(text: string): Json {
  if (!LONG_NUMBER.test(text)) return JSON.parse(text) as Json;
  return parse(text, undefined, { parseNumber: exact, onDuplicateKey: ({ newValue }) => newValue }) as Json;
}

function exact(digits: string): number | bigint {
  const value = Number(digits);
  return Number.isSafeInteger(value) || !/^-?[0-9]+$/.test(digits) ? value : BigInt(digits);
}

/**
 * Compact JSON text. Takes what `JSON.stringify` takes (`toJSON` too), bigints, Maps with text keys (objects whose key order is kept
 * whatever the keys are) and `JsonText`. `undefined` is null at the top, and left out as a member. Raises `NotJson`.
 */
export function writeJson(value: unknown): string {
  return value === undefined ? "null" : write(value, "$", 0);
}

function write(value: unknown, path: string, depth: number): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "boolean":
    case "bigint":
      return String(value);
    case "number":
      if (!Number.isFinite(value)) throw new NotJson(path, "number", `${value} has no JSON form; use null or text`);
      // Whole numbers beyond 2^53 are doubles all the same: the shortest digits of one, as an integer, would be another integer.
      return Number.isInteger(value) && !Number.isSafeInteger(value) ? value.toExponential() : JSON.stringify(value);
    case "object":
      return value === null ? "null" : writeObject(value, path, depth);
    default:
      throw new NotJson(path, typeof value, `${typeof value} is not JSON`);
  }
}

function writeObject(value: object, path: string, depth: number): string {
  if (depth > DEPTH) throw new NotJson(`${path.slice(0, 200)}…`, kindOf(value), "nested too deeply, or refers to itself");
  if (value instanceof JsonText) return value.text;
  if (Array.isArray(value)) return `[${value.map((part, index) => write(part, `${path}[${index}]`, depth + 1)).join(",")}]`;
  if (value instanceof Map) return members(value, path, depth);
  if ("toJSON" in value && typeof value.toJSON === "function" && !ArrayBuffer.isView(value)) {
    return write((value.toJSON as () => unknown)(), path, depth + 1);
  }
  if (value instanceof Promise) throw new NotJson(path, "Promise", "nobody awaited it");
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof Set) {
    throw new NotJson(path, kindOf(value), "is not JSON; store bytes with ctx.putBlob, make a set an array");
  }
  return members(Object.entries(value), path, depth);
}

function members(entries: Iterable<[unknown, unknown]>, path: string, depth: number): string {
  const written: string[] = [];
  for (const [key, part] of entries) {
    if (typeof key !== "string") throw new NotJson(path, typeof key, "a key that is not text");
    if (part !== undefined) written.push(`${JSON.stringify(key)}:${write(part, memberPath(path, key), depth + 1)}`);
  }
  return `{${written.join(",")}}`;
}

const memberPath = (path: string, key: string) => (/^[A-Za-z_]\w*$/.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`);

const kindOf = (value: object) => value.constructor.name || "object";
