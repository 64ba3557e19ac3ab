/** A component: a function with its path and schemas; and the set of those that a worker offers. Paths are unique and begin with `/`. */
import type { Context } from "./context.js";
import { InvalidInput } from "./errors.js";
import { readJson, writeJson, type Json } from "./json.js";
import type { Component as Offer } from "./pb/stepmesh/v1/Component.js";

export interface ComponentOptions<I> {
  description?: string;
  /** JSON Schemas, told to others; the worker itself checks nothing with them (see `parse`). */
  inputSchema?: object;
  outputSchema?: object;
  /** Checks and types the input, such as a zod schema's `parse`; what it throws is INVALID_INPUT. */
  parse?: (input: Json) => I;
  /** Limit of one attempt; the shorter of this and the step's own counts. */
  timeoutMs?: number;
}

/** What does the work. Returns any JSON value, or a promise of one. */
export type Handler<I> = (input: I, ctx: Context) => unknown;

const PATH = /^(\/[A-Za-z0-9_.~{}*-]+)+$/;

export class Component {
  constructor(
    readonly path: string,
    private readonly options: ComponentOptions<unknown>,
    private readonly handler: Handler<never>,
  ) {
    if (!PATH.test(path)) throw new TypeError(`component path "${path}" does not work: begin with "/", then letters, digits, "_", "-", ".", "~"`);
    const { timeoutMs } = options;
    if (timeoutMs !== undefined && !(timeoutMs > 0)) throw new RangeError(`component ${path}: timeoutMs ${timeoutMs} is not above 0`);
  }

  get timeoutMs(): number | undefined {
    return this.options.timeoutMs;
  }

  async call(input: Buffer, ctx: Context): Promise<unknown> {
    const value = readJson(input.toString());
    return await this.handler((this.options.parse ? this.#parsed(this.options.parse, value) : value) as never, ctx);
  }

  #parsed(parse: (input: Json) => unknown, value: Json): unknown {
    try {
      return parse(value);
    } catch (problem) {
      if (problem instanceof InvalidInput) throw problem;
      throw violated(problem);
    }
  }

  offer(): Offer {
    const { description = "", inputSchema, outputSchema } = this.options;
    const text = (schema: object | undefined) => (schema === undefined ? "" : writeJson(schema));
    return { path: this.path, description, inputSchema: text(inputSchema), outputSchema: text(outputSchema) };
  }
}

/** zod, valibot and their like list what is wrong as `issues`. */
function violated(problem: unknown): InvalidInput {
  const issues = (problem as { issues?: { path?: (string | number)[]; message: string }[] } | null)?.issues;
  if (!Array.isArray(issues) || !issues[0]) return new InvalidInput(`invalid input: ${problem instanceof Error ? problem.message : String(problem)}`);
  const violations = issues.slice(0, 50).map(({ path = [], message }) => ({ path: (path as unknown[]).reduce<string>(step, "$"), message }));
  const { path, message } = violations[0] as (typeof violations)[0];
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : "";
  return new InvalidInput(`invalid input: ${message} at ${path}${more}`, { data: { path, violations } });
}

const step = (path: string, part: unknown) => (typeof part === "number" ? `${path}[${part}]` : `${path}.${String(part)}`);

export class Components {
  readonly #byPath = new Map<string, Component>();

  add(component: Component): void {
    if (this.#byPath.has(component.path)) throw new TypeError(`component ${component.path} is registered twice: give one of them another path`);
    this.#byPath.set(component.path, component);
  }

  get(path: string): Component | undefined {
    return this.#byPath.get(path);
  }

  offers(): Offer[] {
    return [...this.#byPath.values()].map((component) => component.offer());
  }

  /** A sentence that says that `path` is not here, and what is. */
  unknown(path: string): string {
    const known = [...this.#byPath.keys()].sort();
    const offered = known.length ? `${known.slice(0, 10).join(", ")}${known.length > 10 ? " …" : ""}` : "none";
    return `no component ${path}: this worker offers ${offered}`;
  }
}
