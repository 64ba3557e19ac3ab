#!/bin/sh
# Printed by `stepmesh topics --accounts --broker kafka:// --pool cpu --pool gpu`; a test compares, and tries it on a cluster.
set -eu
allow() { kafka-acls.sh --bootstrap-server "$KAFKA" --command-config "$ADMIN" --add "$@"; }
allow --allow-principal User:orchestrator --operation All --topic stepmesh.default. --resource-pattern-type prefixed
allow --allow-principal User:orchestrator --operation All --group stepmesh.default. --resource-pattern-type prefixed
allow --allow-principal User:gateway --operation Read --operation Write --topic stepmesh.default.talk
allow --allow-principal User:gateway --operation Read --operation Write --topic stepmesh.default.tasks.cpu
allow --allow-principal User:gateway --operation Read --group stepmesh.default.tasks.cpu
allow --allow-principal User:gateway --operation Read --topic stepmesh.default.births
allow --allow-principal User:gateway --operation Write --topic stepmesh.default.inbox
allow --allow-principal User:gateway --operation Write --topic stepmesh.default.dead
allow --allow-principal User:gateway --operation Read --operation Write --topic stepmesh.default.tasks.gpu
allow --allow-principal User:gateway --operation Read --group stepmesh.default.tasks.gpu
allow --allow-principal User:client --operation Read --operation Write --topic stepmesh.default.talk
allow --allow-principal User:producer --operation Write --topic stepmesh.default.submit
allow --allow-principal User:producer --operation Write --topic stepmesh.default.events
allow --allow-principal User:projector --operation Read --operation DescribeConfigs --topic stepmesh.default.journal
allow --allow-principal User:projector --operation All --topic stepmesh.default.projector --resource-pattern-type prefixed
allow --allow-principal User:projector --operation All --group stepmesh.default.projector --resource-pattern-type prefixed
allow --allow-principal User:worker-cpu --operation Read --operation Write --topic stepmesh.default.talk
allow --allow-principal User:worker-cpu --operation Read --operation Write --topic stepmesh.default.tasks.cpu
allow --allow-principal User:worker-cpu --operation Read --group stepmesh.default.tasks.cpu
allow --allow-principal User:worker-cpu --operation Read --topic stepmesh.default.births
allow --allow-principal User:worker-cpu --operation Write --topic stepmesh.default.inbox
allow --allow-principal User:worker-cpu --operation Write --topic stepmesh.default.dead
allow --allow-principal User:worker-gpu --operation Read --operation Write --topic stepmesh.default.talk
allow --allow-principal User:worker-gpu --operation Read --operation Write --topic stepmesh.default.tasks.gpu
allow --allow-principal User:worker-gpu --operation Read --group stepmesh.default.tasks.gpu
allow --allow-principal User:worker-gpu --operation Read --topic stepmesh.default.births
allow --allow-principal User:worker-gpu --operation Write --topic stepmesh.default.inbox
allow --allow-principal User:worker-gpu --operation Write --topic stepmesh.default.dead
