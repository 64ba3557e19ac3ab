package stepmesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	pb "stepmesh-go-worker/pb/stepmesh"
)

// Handler does the work of a component. The input is JSON text as it came, with every digit and the order of its keys; what it returns
// is written with encoding/json (json.RawMessage goes out as it is).
type Handler func(ctx *Context, input json.RawMessage) (any, error)

// Typed makes a Handler of a function with a type of its own; an input that does not fit it is INVALID_INPUT.
func Typed[I, O any](run func(ctx *Context, input I) (O, error)) Handler {
	return func(ctx *Context, text json.RawMessage) (any, error) {
		var input I
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&input); err != nil && !errors.Is(err, io.EOF) {
			return nil, Invalid("invalid input: %v", err)
		}
		return run(ctx, input)
	}
}

// Why an attempt is told to stop: context.Cause of its context.
var (
	ErrCancelled = errors.New("the run does not want this attempt any more")
	ErrElsewhere = errors.New("another worker has this attempt")
	ErrTimeout   = errors.New("the attempt ran longer than it may")
	ErrLeaving   = errors.New("the worker leaves")
)

// attempt is one task as this worker runs it. Only the session's goroutine touches it, but for task, started and limit, which do not
// change once it runs.
type attempt struct {
	task    *pb.Task
	started time.Time // zero while it waits for a slot
	limit   time.Duration
	cancel  context.CancelCauseFunc
	why     error
	settled bool
	timer   *time.Timer
}

func (a *attempt) running() bool { return !a.started.IsZero() }

func (a *attempt) timeout() outcome {
	return failed(timeout, fmt.Sprintf("the attempt ran longer than %g s", a.limit.Seconds()), nil)
}

// call runs a component to its end, whatever that is.
func call(component Component, ctx *Context, input []byte, limit uint64) (end outcome) {
	defer func() {
		if what := recover(); what != nil {
			end = panicked(what)
		}
	}()
	value, err := component.Run(ctx, input)
	if err != nil {
		return raised(err)
	}
	return returned(value, limit)
}
