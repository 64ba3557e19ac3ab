package stepmesh

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	stepflow "stepmesh-go-worker/pb/stepflow"
	pb "stepmesh-go-worker/pb/stepmesh"
)

// Context is what a running component may see and do. It is done when the attempt should stop; context.Cause tells why.
type Context struct {
	context.Context
	// Task is the attempt: RunId, RootRunId, FlowId, StepId, Item, Attempt (from 1), IdempotencyKey (the same in every attempt of the
	// step), PathParams, Traceparent.
	Task *pb.Task

	session  *session
	deadline time.Time
	children atomic.Int32
}

// Deadline is when the attempt times out.
func (c *Context) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Heartbeat tells how far the work is (0..1), with any JSON details. Cheap: only the newest is sent.
func (c *Context) Heartbeat(progress float32, details any) error {
	encoded, err := encode(details)
	if err != nil {
		return err
	}
	told := &pb.Progress{Id: c.Task.Id, Fraction: &progress, Details: encoded}
	c.session.do(func() { c.session.tell(told) })
	return nil
}

// PutBlob stores bytes by content; the blob's id.
func (c *Context) PutBlob(data []byte, contentType string) (string, error) {
	request := &stepflow.PutBlobRequest{Content: &stepflow.PutBlobRequest_RawData{RawData: data}, BlobType: "binary", ContentType: &contentType}
	answer, err := ask(c, answerTime, func(ctx context.Context, gateway *gateway) (*stepflow.PutBlobResponse, error) {
		return gateway.blobs.PutBlob(ctx, request)
	})
	return answer.GetBlobId(), err
}

// GetBlob is what PutBlob stored; for a blob that holds a JSON value, its text.
func (c *Context) GetBlob(id string) ([]byte, error) {
	answer, err := ask(c, answerTime, func(ctx context.Context, gateway *gateway) (*stepflow.GetBlobResponse, error) {
		return gateway.blobs.GetBlob(ctx, &stepflow.GetBlobRequest{BlobId: id})
	})
	if value := answer.GetJsonData(); err == nil && value != nil {
		return textOf(value)
	}
	return answer.GetRawData(), err
}

// RunFlow runs a stored flow on one input as a sub-run, linked to this step and cancelled with its run; its result. A later attempt
// finds the sub-run by key ("" is the ordinal of the call). No slot is held meanwhile. The message has doubles only: an integer
// beyond 2^53 is rounded on its way, so send it as text.
func (c *Context) RunFlow(flowID string, input any, key string) (json.RawMessage, error) {
	if ordinal := c.children.Add(1); key == "" {
		key = fmt.Sprintf("#%d", ordinal)
	}
	text, err := encode(input)
	if err != nil {
		return nil, err
	}
	value := &structpb.Value{}
	if err := value.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	root := c.Task.RootRunId + "!" + c.Task.Id // so the gateway knows which task starts the run
	request := &stepflow.OrchestratorSubmitRunRequest{
		RunRequest: &stepflow.CreateRunRequest{FlowId: flowID, Input: []*structpb.Value{value}}, SubflowKey: &key, RootRunId: &root,
	}
	run, err := ask(c, answerTime, func(ctx context.Context, gateway *gateway) (*stepflow.OrchestratorRunStatus, error) {
		return gateway.orchestrator.SubmitRun(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	c.session.park()
	defer c.session.unpark()
	return c.result(run.RunId)
}

func (c *Context) result(run string) (json.RawMessage, error) {
	wait := uint64(20)
	request := &stepflow.OrchestratorGetRunRequest{RunId: run, Wait: true, IncludeResults: true, TimeoutSecs: &wait}
	for {
		status, err := ask(c, 20*time.Second+answerTime, func(ctx context.Context, gateway *gateway) (*stepflow.OrchestratorRunStatus, error) {
			return gateway.orchestrator.GetRun(ctx, request)
		})
		if err != nil {
			return nil, err
		}
		if status.Status == stepflow.ExecutionStatus_EXECUTION_STATUS_RUNNING {
			continue
		}
		if len(status.Results) == 1 && status.Results[0].Status == stepflow.ExecutionStatus_EXECUTION_STATUS_COMPLETED {
			return textOf(status.Results[0].Output)
		}
		return nil, fmt.Errorf("sub-run %s ended as %s: %s", run, status.Status, status.Results)
	}
}

// textOf is JSON. Whole numbers beyond 2^53 stay doubles: the shortest digits of one, as an integer, would be another integer.
func textOf(value *structpb.Value) ([]byte, error) { return encode(doubles(value.AsInterface())) }

func doubles(value any) any {
	switch value := value.(type) {
	case float64:
		if value == math.Trunc(value) && math.Abs(value) > 1<<53 {
			return json.Number(strconv.FormatFloat(value, 'e', -1, 64))
		}
	case []any:
		for at, part := range value {
			value[at] = doubles(part)
		}
	case map[string]any:
		for key, part := range value {
			value[key] = doubles(part)
		}
	}
	return value
}
