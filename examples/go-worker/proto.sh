#!/usr/bin/env bash
# Go code from broker/proto, into pb/ of this folder or of the one given; committed, so that nobody needs the compiler to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out="${1:-.}"
services=(stepmesh/v1/worker.proto stepflow/v1/{blobs,orchestrator}.proto)
messages=("${services[@]}" stepflow/v1/{common,runs,tasks}.proto)
go=() grpc=()
for file in "${messages[@]}"; do
  go+=("--go_opt=M$file=stepmesh-go-worker/pb/${file%%/*}")
  grpc+=("--go-grpc_opt=M$file=stepmesh-go-worker/pb/${file%%/*}")
done
GOBIN="$PWD/build" go install tool
export PATH="$PWD/build:$PATH"
python -m grpc_tools.protoc -I../../broker/proto --go_out="$out" --go_opt=module=stepmesh-go-worker "${go[@]}" "${messages[@]}"
python -m grpc_tools.protoc -I../../broker/proto --go-grpc_out="$out" --go-grpc_opt=module=stepmesh-go-worker "${grpc[@]}" "${services[@]}"
sed -i "/pkg\.go\.dev/d" "$out"/pb/*/*_grpc.pb.go # a comment with the address of a module's pages
go run cmd/gofmt -w "$out/pb" # the line that was taken out leaves an empty comment
