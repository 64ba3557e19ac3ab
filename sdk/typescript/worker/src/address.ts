/** Where gateways are: `grpc://host:port`, or several with commas between them. One is used at a time, the next when it is away. */
import * as grpc from "@grpc/grpc-js";
import { packages } from "./wire.js";

const SCHEME = "grpc://";
const TARGET = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$/;
const OPTIONS: grpc.ChannelOptions = {
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.min_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 500,
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.max_receive_message_length": -1, // the gateway's limit holds
  "grpc.max_send_message_length": -1,
};

/** The `host:port`s of a URL. Raises `TypeError`. */
export function targetsOf(url: string): string[] {
  const targets = url.replace(SCHEME, "").replace(/\/$/, "").split(",");
  if (!url.startsWith(SCHEME) || !targets.every((target) => TARGET.test(target))) {
    throw new TypeError(`"${url}" names no gateway: write grpc://host:port, or grpc://host:port,host:port`);
  }
  return targets;
}

/** The services of one gateway, over one connection. */
export class Door {
  readonly worker;
  readonly blobs;
  readonly flows;
  readonly orchestrator;
  readonly #channel: grpc.Channel;

  constructor(
    readonly target: string,
    credentials: grpc.ChannelCredentials,
  ) {
    this.#channel = new grpc.Channel(target, credentials, OPTIONS);
    const options = { ...OPTIONS, channelOverride: this.#channel };
    this.worker = new packages.stepmesh.v1.WorkerService(target, credentials, options);
    this.blobs = new packages.stepflow.v1.BlobService(target, credentials, options);
    this.flows = new packages.stepflow.v1.FlowsService(target, credentials, options);
    this.orchestrator = new packages.stepflow.v1.OrchestratorService(target, credentials, options);
  }

  close(): void {
    this.#channel.close();
  }
}

/** The doors of an address, opened when they are first used. */
export class Doors {
  readonly #open = new Map<string, Door>();
  readonly #targets: string[];
  #at = 0;

  constructor(
    url: string,
    private readonly credentials: grpc.ChannelCredentials,
  ) {
    this.#targets = targetsOf(url);
  }

  get current(): Door {
    const target = this.#targets[this.#at % this.#targets.length] as string;
    const door = this.#open.get(target) ?? new Door(target, this.credentials);
    this.#open.set(target, door);
    return door;
  }

  /** `door` is away: use the next one, unless somebody moved on already. */
  leave(door: Door): void {
    if (door === this.current) this.#at += 1;
  }

  close(): void {
    for (const door of this.#open.values()) door.close();
  }
}
