/**
 * JSON values ⇄ google.protobuf.Value, which stepflow.v1 uses. Its numbers are doubles: an integer that no double holds is refused,
 * never rounded; one that comes back beyond 2^53 is a number again. It has no order of keys.
 */
import { JsonText, NotJson, readJson, writeJson, type Json } from "./json.js";
import type { Struct } from "./pb/google/protobuf/Struct.js";
import type { Value, Value__Output } from "./pb/google/protobuf/Value.js";

/** Anything that `writeJson` takes. Raises `NotJson`. */
export function toValue(value: unknown): Value {
  return convert(readJson(value instanceof JsonText ? value.text : writeJson(value)), "$");
}

/** The same for an object. Raises `NotJson`. */
export function toStruct(value: unknown): Struct {
  const { structValue } = toValue(value);
  if (!structValue) throw new NotJson("$", typeof value, "an object is wanted here");
  return structValue;
}

function convert(value: Json, path: string): Value {
  switch (typeof value) {
    case "string":
      return { stringValue: value };
    case "boolean":
      return { boolValue: value };
    case "number":
      return { numberValue: value };
    case "bigint":
      if (BigInt(Number(value)) !== value && String(Number(value)) !== String(value)) throw new NotJson(path, "bigint", `${value} does not fit a double; send it as text or as bytes`);
      return { numberValue: Number(value) };
  }
  if (value === null) return { nullValue: 0 };
  if (Array.isArray(value)) return { listValue: { values: value.map((part, index) => convert(part, `${path}[${index}]`)) } };
  const fields = Object.entries(value).map(([key, part]): [string, Value] => [key, convert(part, `${path}.${key}`)]);
  return { structValue: { fields: Object.fromEntries(fields) } };
}

export function fromValue(value: Value__Output): Json {
  switch (value.kind) {
    case "stringValue":
      return value.stringValue ?? "";
    case "boolValue":
      return value.boolValue ?? false;
    case "numberValue":
      return value.numberValue ?? 0;
    case "listValue":
      return (value.listValue?.values ?? []).map(fromValue);
    case "structValue":
      return Object.fromEntries(Object.entries(value.structValue?.fields ?? {}).map(([key, part]) => [key, fromValue(part)]));
    default:
      return null;
  }
}
