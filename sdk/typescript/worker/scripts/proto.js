// The protocol for this package: copies the .proto files of the repository and writes their TypeScript types.
import { execFileSync } from "node:child_process";
import { cpSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(here, "../../../broker/proto");
const files = ["stepmesh/v1/worker.proto", "stepflow/v1/blobs.proto", "stepflow/v1/flows.proto", "stepflow/v1/orchestrator.proto"];
const style = ["--longs=Number", "--enums=Number", "--defaults", "--oneofs", "--includeDirs=proto"];
const modules = ["--grpcLib=@grpc/grpc-js", "--outDir=src/pb", "--importFileExtension=.js"];

rmSync(join(here, "proto"), { recursive: true, force: true });
rmSync(join(here, "src/pb"), { recursive: true, force: true });
cpSync(source, join(here, "proto"), { recursive: true });
execFileSync(join(here, "node_modules/.bin/proto-loader-gen-types"), [...style, ...modules, ...files], { cwd: here, stdio: "inherit" });
