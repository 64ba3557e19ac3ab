/** A gateway as a worker sees it, run by a test: a real gRPC server whose every message the test sends and reads itself. */
import * as grpc from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import type { Worker } from "../src/index.js";
import type { FromWorker, FromWorker__Output as Heard } from "../src/pb/stepmesh/v1/FromWorker.js";
import type { Result__Output as Result } from "../src/pb/stepmesh/v1/Result.js";
import type { Task } from "../src/pb/stepmesh/v1/Task.js";
import type { ToWorker } from "../src/pb/stepmesh/v1/ToWorker.js";
import { packages } from "../src/wire.js";

type Call = grpc.ServerDuplexStream<FromWorker, ToWorker>;
type Handlers = Record<string, (call: { request: never }, done: grpc.sendUnaryData<unknown>) => void>;

const PATIENCE_MS = 10_000;

export async function until<T>(look: () => T | undefined | false, what: string): Promise<T> {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await sleep(2);
  }
}

/** One Work call: what came up is added up, the test sends down. */
export class WorkStream {
  readonly messages: Heard[] = [];
  ended = false;

  constructor(private readonly call: Call) {
    call.on("data", (message: Heard) => this.messages.push(message));
    call.on("end", () => { this.ended = true; });
    call.on("cancelled", () => { this.ended = true; });
    call.on("error", () => { this.ended = true; });
  }

  get hello() { return this.messages[0]?.hello ?? undefined; }
  get credit(): number { return this.messages.reduce((sum, { credit }) => sum + credit, 0); }
  get results(): Result[] { return this.messages.flatMap(({ results }) => results); }
  get returned(): string[] { return this.messages.flatMap(({ returned }) => returned); }
  get leaving(): boolean { return this.messages.some(({ leaving }) => leaving); }
  get progress() { return this.messages.flatMap(({ progress }) => progress); }

  send(message: ToWorker): void { this.call.write(message); }
  end(): void { this.call.end(); }
  fail(code: grpc.status, details: string): void { this.call.emit("error", { code, details }); }

  welcome(heartbeatMs = 5_000, payloadBytes = 8 * 1024 * 1024): void {
    this.send({ welcome: { heartbeatMs, payloadBytes, gateway: "fake" } });
  }

  task(id: string, component: string, input: unknown = null, more: Task = {}): void {
    this.send({ tasks: [{ id, component, input: Buffer.from(JSON.stringify(input)), attempt: 1, runId: "run", rootRunId: "root", stepId: "step", ...more }] });
  }

  result(id: string): Promise<Result> {
    return until(() => this.results.find((result) => result.id === id), `a result of ${id}`);
  }
}

/** `await using gateway = await FakeGateway.start()` */
export class FakeGateway {
  readonly streams: WorkStream[] = [];
  readonly server = new grpc.Server();
  port = 0;

  static async start(port = 0, services: { blobs?: Handlers; flows?: Handlers; orchestrator?: Handlers } = {}): Promise<FakeGateway> {
    const gateway = new FakeGateway();
    const work = (call: Call) => { gateway.streams.push(new WorkStream(call)); };
    gateway.server.addService(packages.stepmesh.v1.WorkerService.service, { work });
    const { BlobService, FlowsService, OrchestratorService } = packages.stepflow.v1;
    if (services.blobs) gateway.server.addService(BlobService.service, services.blobs as unknown as grpc.UntypedServiceImplementation);
    if (services.flows) gateway.server.addService(FlowsService.service, services.flows as unknown as grpc.UntypedServiceImplementation);
    if (services.orchestrator) gateway.server.addService(OrchestratorService.service, services.orchestrator as unknown as grpc.UntypedServiceImplementation);
    gateway.port = await new Promise<number>((resolve, reject) => {
      const bound = (problem: Error | null, port: number) => { if (problem) reject(problem); else resolve(port); };
      gateway.server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), bound);
    });
    return gateway;
  }

  get url(): string { return `grpc://127.0.0.1:${this.port}`; }

  /** The `number`th stream, once its hello came; it is welcomed unless `silent`. */
  async stream(number = 0, silent = false): Promise<WorkStream> {
    const stream = await until(() => this.streams[number], `stream ${number}`);
    await until(() => stream.messages.length > 0, "hello");
    if (!silent) stream.welcome();
    return stream;
  }

  stop(): void { this.server.forceShutdown(); }

  /** Let a worker leave as a gateway does: record what it sends, then end its stream. */
  async dismiss(worker: Worker, running: Promise<void>): Promise<void> {
    worker.stop();
    const stream = this.streams.at(-1);
    await until(() => stream?.leaving, "leaving");
    stream?.send({ recorded: stream.results.map(({ id }) => id) });
    stream?.end();
    await running;
    this.stop();
  }
}

/** A promise, and what resolves it. */
export function gate(): { opened: Promise<void>; open: () => void } {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => { open = resolve; });
  return { opened, open };
}
