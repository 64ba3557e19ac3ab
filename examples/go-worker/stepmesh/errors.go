package stepmesh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	stepflow "stepmesh-go-worker/pb/stepflow"
	pb "stepmesh-go-worker/pb/stepmesh"
)

// Code says why an attempt failed, and so whether the step is tried again: TIMEOUT, INVALID_INPUT, COMPONENT_FAILED, CANCELLED,
// RESOURCE_UNAVAILABLE, … (stepflow.v1.TaskErrorCode).
type Code string

const (
	InvalidInput        Code = "INVALID_INPUT"
	ComponentFailed     Code = "COMPONENT_FAILED"
	ResourceUnavailable Code = "RESOURCE_UNAVAILABLE"
	timeout             Code = "TIMEOUT"
	componentNotFound   Code = "COMPONENT_NOT_FOUND"
	workerError         Code = "WORKER_ERROR"
)

// Error is what a component returns to say how its attempt failed; any other error is COMPONENT_FAILED.
type Error struct {
	Code       Code
	Message    string
	Data       any           // JSON, for the reader of the error
	RetryAfter time.Duration // the next attempt comes no sooner; 0: no such wish
}

func (e *Error) Error() string { return e.Message }

// Invalid is the error for an input that is wrong: another attempt would not help.
func Invalid(format string, args ...any) error {
	return &Error{Code: InvalidInput, Message: fmt.Sprintf(format, args...)}
}

// RetryLater asks for the next attempt, no sooner than after.
func RetryLater(after time.Duration, message string) error {
	return &Error{Code: ResourceUnavailable, Message: message, RetryAfter: after}
}

const (
	messageLimit = 8_192   // bytes of an error's message that are kept
	dataLimit    = 262_144 // bytes of its data
)

// outcome is how a component's end reads on the wire.
type outcome struct {
	output  []byte
	failure *pb.Failure
}

func (o outcome) result(id string, started time.Time) *pb.Result {
	result := &pb.Result{Id: id, StartedUs: uint64(started.UnixMicro()), DurationUs: uint64(time.Since(started).Microseconds())}
	if o.failure != nil {
		result.Outcome = &pb.Result_Failure{Failure: o.failure}
	} else {
		result.Outcome = &pb.Result_Output{Output: o.output}
	}
	return result
}

func returned(value any, limit uint64) outcome {
	output, err := encode(value)
	if err != nil {
		return failed(workerError, "the output is not JSON: "+err.Error(), nil)
	}
	if size := uint64(len(output)); limit > 0 && size > limit {
		text := fmt.Sprintf("the output has %d bytes, above the limit of %d; store it with PutBlob and return the blob id", size, limit)
		return failed(workerError, text, map[string]uint64{"size_bytes": size, "limit_bytes": limit})
	}
	return outcome{output: output}
}

func raised(err error) outcome {
	var known *Error
	if !errors.As(err, &known) {
		return failed(ComponentFailed, err.Error(), map[string]string{"type": fmt.Sprintf("%T", err)})
	}
	end := failed(known.Code, err.Error(), known.Data)
	if known.RetryAfter > 0 {
		after := uint64(known.RetryAfter.Milliseconds())
		end.failure.RetryAfterMs = &after
	}
	return end
}

func panicked(what any) outcome {
	return failed(ComponentFailed, fmt.Sprint(what), map[string]string{"type": "panic", "traceback": string(debug.Stack())})
}

func failed(code Code, message string, data any) outcome {
	if len(message) > messageLimit {
		message = fmt.Sprintf("%s… (%d bytes)", message[:messageLimit], len(message))
	}
	number := stepflow.TaskErrorCode_value["TASK_ERROR_CODE_"+string(code)]
	failure := &pb.Failure{Code: uint32(number), Message: string(bytes.ToValidUTF8([]byte(message), []byte("�")))}
	if data == nil {
		return outcome{failure: failure}
	}
	encoded, err := encode(data)
	if err == nil && len(encoded) > dataLimit {
		err = fmt.Errorf("%d bytes, above the limit of %d", len(encoded), dataLimit)
	}
	if err != nil {
		encoded, _ = encode(map[string]string{"note": "the error's data is left out: " + err.Error()})
	}
	failure.Data = encoded
	return outcome{failure: failure}
}

// encode is JSON without the escapes that HTML would want.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}
