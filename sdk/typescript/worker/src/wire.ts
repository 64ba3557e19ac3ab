/** The protocol as grpc-js sees it: services and messages of `proto/`, a copy of broker/proto that `npm run build` makes. */
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";
import type { ProtoGrpcType as Blobs } from "./pb/blobs.js";
import type { ProtoGrpcType as Flows } from "./pb/flows.js";
import type { ProtoGrpcType as Orchestrator } from "./pb/orchestrator.js";
import type { ProtoGrpcType as Work } from "./pb/worker.js";

const files = ["stepmesh/v1/worker.proto", "stepflow/v1/blobs.proto", "stepflow/v1/flows.proto", "stepflow/v1/orchestrator.proto"];
const includeDirs = [fileURLToPath(new URL("../../proto", import.meta.url))];
const definition = loadSync(files, { includeDirs, longs: Number, enums: Number, defaults: true, oneofs: true });

/** `packages.stepmesh.v1.WorkerService` and the services of stepflow.v1 that workers use. */
export const packages = grpc.loadPackageDefinition(definition) as unknown as Blobs & Flows & Orchestrator & Work;
