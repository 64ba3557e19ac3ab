/** JSON text and values: nothing is lost in silence. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { JsonText, NotJson } from "../src/index.js";
import { readJson, writeJson } from "../src/json.js";

for (const text of ["null", "true", "-0.5", '"é\\u2028"', "[]", '{"b":1,"a":[{}]}', "18446744073709551616", '{"z":-9007199254740993,"a":9007199254740991}', "1e+21", '{"__proto__":1}']) {
  test(`${text} comes back as it was`, () => { assert.equal(writeJson(readJson(text)), text.replace("\\u2028", "\u2028")); });
}

test("integers are numbers as far as numbers are exact, and bigints beyond", () => {
  assert.deepEqual(readJson("[9007199254740991,9007199254740992,1234567890123456.5]"), [9007199254740991, 9007199254740992n, 1234567890123456.5]);
  assert.deepEqual(readJson('{"a":1,"id":"1234567890123456","a":2}'), { a: 2, id: "1234567890123456" });
});

test("what may be written", () => {
  assert.equal(writeJson([2 ** 60, 2n ** 60n, -(2 ** 53), 1e21]), "[1.152921504606847e+18,1152921504606846976,-9.007199254740992e+15,1e+21]");
  assert.equal(writeJson(undefined), "null");
  assert.equal(writeJson({ left: undefined, big: 2n ** 70n, when: new Date(0) }), '{"big":1180591620717411303424,"when":"1970-01-01T00:00:00.000Z"}');
  assert.equal(writeJson(new Map<string, unknown>([["2", new JsonText("1.50")], ["1", [1n]]])), '{"2":1.50,"1":[1]}');
});

const circle: unknown[] = [];
circle.push(circle);
const refused: [unknown, string][] = [
  [{ rows: [1, NaN] }, "$.rows[1]"],
  [{ "a b": Infinity }, '$["a b"]'],
  [[undefined], "$[0]"],
  [{ f: () => 1 }, "$.f"],
  [{ s: new Set([1]) }, "$.s"],
  [{ bytes: Buffer.from("x") }, "$.bytes"],
  [{ p: Promise.resolve(1) }, "$.p"],
  [new Map([[1, 2]]), "$"],
  [Symbol("x"), "$"],
];
for (const [value, path] of refused) {
  test(`refused at ${path}`, () => { assert.throws(() => writeJson(value), (problem) => problem instanceof NotJson && problem.path === path); });
}

test("a value that refers to itself is refused", () => { assert.throws(() => writeJson(circle), NotJson); });
