// The worker that every language offers to the behavioural suite: tests/integration/behaviour/README.md says what its components do.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"stepmesh-go-worker/stepmesh"
)

type object = map[string]any

type duration struct {
	Ms *int64 `json:"ms"`
}

type file struct {
	File     string `json:"file"`
	Ms       int64  `json:"ms"`
	Attempts uint32 `json:"attempts"`
}

// wait ends at once when the task is stopped.
func wait(ctx context.Context, ms int64) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return nil
	}
}

// note appends a line with one write.
func note(name, what string, attempt uint32) error {
	if name == "" {
		return stepmesh.Invalid("file is missing")
	}
	to, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "%s %d %d\n", what, attempt, os.Getpid())
	return errors.Join(err, to.Close())
}

func echo(_ *stepmesh.Context, input json.RawMessage) (any, error) { return input, nil }

func add(_ *stepmesh.Context, in struct{ A, B *int64 }) (int64, error) {
	if in.A == nil || in.B == nil {
		return 0, stepmesh.Invalid("a and b are wanted")
	}
	return *in.A + *in.B, nil
}

func sleep(ctx *stepmesh.Context, in duration) (any, error) {
	if in.Ms == nil {
		return nil, stepmesh.Invalid("ms is wanted")
	}
	return object{"slept": *in.Ms}, wait(ctx, *in.Ms)
}

func block(_ *stepmesh.Context, in duration) (any, error) {
	if in.Ms == nil {
		return nil, stepmesh.Invalid("ms is wanted")
	}
	for end := time.Now().Add(time.Duration(*in.Ms) * time.Millisecond); time.Now().Before(end); {
	}
	return object{"blocked": *in.Ms}, nil
}

func fail(_ *stepmesh.Context, in struct {
	Code, Message string
	Data          json.RawMessage
	RetryAfterMs  int64 `json:"retry_after_ms"`
}) (any, error) {
	problem := &stepmesh.Error{Code: stepmesh.Code(in.Code), Message: in.Message, RetryAfter: time.Duration(in.RetryAfterMs) * time.Millisecond}
	if in.Data != nil {
		problem.Data = in.Data
	}
	return nil, problem
}

func raise(_ *stepmesh.Context, in struct{ Message string }) (any, error) { panic(in.Message) }

func attempt(ctx *stepmesh.Context, in struct{ Fail uint32 }) (any, error) {
	if ctx.Task.Attempt <= in.Fail {
		return nil, &stepmesh.Error{Code: stepmesh.ResourceUnavailable, Message: fmt.Sprintf("attempt %d fails", ctx.Task.Attempt)}
	}
	return object{"attempt": ctx.Task.Attempt}, nil
}

func big(_ *stepmesh.Context, in struct{ Bytes int }) (string, error) {
	if in.Bytes < 2 {
		return "", stepmesh.Invalid("bytes is below 2")
	}
	return strings.Repeat("x", in.Bytes-2), nil
}

func size(_ *stepmesh.Context, input json.RawMessage) (any, error) {
	return object{"bytes": len(input)}, nil
}

func ints(*stepmesh.Context, json.RawMessage) (any, error) {
	return json.RawMessage(`{"z":9223372036854775808,"a":-9007199254740993,"m":[1,18446744073709551615]}`), nil
}

func params(ctx *stepmesh.Context, _ json.RawMessage) (any, error) {
	return object{"name": ctx.Task.PathParams["name"]}, nil
}

func progress(ctx *stepmesh.Context, in struct {
	Steps int
	Ms    int64
}) (any, error) {
	for k := 1; k <= in.Steps; k++ {
		if err := wait(ctx, in.Ms); err != nil {
			return nil, err
		}
		if err := ctx.Heartbeat(float32(k)/float32(in.Steps), object{"k": k}); err != nil {
			return nil, err
		}
	}
	return object{"steps": in.Steps}, nil
}

func ledger(ctx *stepmesh.Context, in file) (any, error) {
	if err := note(in.File, "start", ctx.Task.Attempt); err != nil {
		return nil, err
	}
	if err := wait(ctx, in.Ms); err != nil {
		return nil, err
	}
	return object{"attempt": ctx.Task.Attempt, "pid": os.Getpid()}, note(in.File, "end", ctx.Task.Attempt)
}

func waitCancelled(ctx *stepmesh.Context, in file) (any, error) {
	if err := note(in.File, "start", ctx.Task.Attempt); err != nil {
		return nil, err
	}
	<-ctx.Done()
	return nil, note(in.File, "stopped", ctx.Task.Attempt)
}

func crash(ctx *stepmesh.Context, in file) (any, error) {
	if err := note(in.File, "start", ctx.Task.Attempt); err != nil {
		return nil, err
	}
	if ctx.Task.Attempt <= in.Attempts {
		os.Exit(70)
	}
	return object{"attempt": ctx.Task.Attempt}, nil
}

func subrun(ctx *stepmesh.Context, in struct {
	FlowID string `json:"flow_id"`
	Input  json.RawMessage
}) (any, error) {
	return ctx.RunFlow(in.FlowID, in.Input, "sub")
}

func idempotency(ctx *stepmesh.Context, _ json.RawMessage) (any, error) {
	task := ctx.Task
	return object{"key": task.IdempotencyKey, "attempt": task.Attempt, "run_id": task.RunId, "step_id": task.StepId}, nil
}

func main() {
	capacity, err := strconv.Atoi(cmp.Or(os.Getenv("STEPMESH_CONCURRENCY"), "8"))
	if err != nil {
		log.Fatal(err)
	}
	worker := &stepmesh.Worker{Capacity: capacity}
	for path, run := range map[string]stepmesh.Handler{
		"/echo": echo, "/add": stepmesh.Typed(add), "/sleep": stepmesh.Typed(sleep), "/block": stepmesh.Typed(block),
		"/fail": stepmesh.Typed(fail), "/raise": stepmesh.Typed(raise), "/attempt": stepmesh.Typed(attempt),
		"/big": stepmesh.Typed(big), "/size": size, "/ints": ints, "/params/{name}": params, "/progress": stepmesh.Typed(progress),
		"/ledger": stepmesh.Typed(ledger), "/wait_cancelled": stepmesh.Typed(waitCancelled), "/crash": stepmesh.Typed(crash),
		"/subrun": stepmesh.Typed(subrun), "/idempotency": idempotency,
	} {
		worker.Offer(stepmesh.Component{Path: path, Run: run})
	}
	if err := worker.Serve(); err != nil {
		log.Fatal(err)
	}
}
