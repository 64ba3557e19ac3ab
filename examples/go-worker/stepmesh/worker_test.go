package stepmesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "stepmesh-go-worker/pb/stepmesh"
)

// offering is a worker of pool cpu with two slots.
func offering(gateway *fakeGateway, handlers map[string]Handler) *Worker {
	worker := &Worker{URL: gateway.url, Pool: "cpu", Capacity: 2, DrainGrace: 4 * time.Second, CancelGrace: 100 * time.Millisecond}
	for path, handler := range handlers {
		worker.Offer(Component{Path: path, Description: "tested", Run: handler})
	}
	return worker
}

func null(*Context, json.RawMessage) (any, error) { return nil, nil }

// stoppable waits for its gate or its stop.
func stoppable(started *atomic.Int32, gate <-chan struct{}) Handler {
	return func(ctx *Context, _ json.RawMessage) (any, error) {
		started.Add(1)
		select {
		case <-gate:
			return "finished", nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func equal[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHelloTellsWhoAndWhatWithCreditForAllSlots(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	r := run(t, offering(gateway, map[string]Handler{"/null": null}))
	s := gateway.stream(t)
	sum := s.sum()
	equal(t, sum.Hello.Pool, "cpu")
	equal(t, sum.Hello.Version, "stepmesh-go/0.1")
	equal(t, sum.Hello.Capacity, 2)
	equal(t, sum.Hello.Components[0].Path+" "+sum.Hello.Components[0].Description, "/null tested")
	equal(t, sum.Credit, 2)
	r.leave(t, s)
}

func TestATasksInputContextAndOutput(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	about := func(ctx *Context, in struct{ N uint64 }) (any, error) {
		_, limited := ctx.Deadline()
		return fmt.Sprintf("%d %d %s %s %t <&>", in.N, ctx.Task.Attempt, ctx.Task.IdempotencyKey, ctx.Task.PathParams["name"], limited), nil
	}
	echo := func(_ *Context, input json.RawMessage) (any, error) { return input, nil }
	r := run(t, offering(gateway, map[string]Handler{"/about/{name}": Typed(about), "/echo": echo}))
	s := gateway.stream(t)
	s.task("t1", "/about/{name}", `{"n":18446744073709551615}`, func(task *pb.Task) {
		task.Attempt, task.IdempotencyKey, task.PathParams, task.TimeoutMs = 3, "key", map[string]string{"name": "ada"}, 60_000
	})
	equal(t, string(s.result(t, "t1").GetOutput()), `"18446744073709551615 3 key ada true <&>"`)
	s.task("t2", "/echo", `{"b":1.0,"1":-9223372036854775809}`)
	equal(t, string(s.result(t, "t2").GetOutput()), `{"b":1.0,"1":-9223372036854775809}`)
	eventually(t, "the credit of both", func() bool { return s.sum().Credit == 4 })
	r.leave(t, s)
}

func TestNoMoreThanCapacityRunAtOnce(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var now, most atomic.Int32
	wait := func(*Context, json.RawMessage) (any, error) {
		most.Store(max(most.Load(), now.Add(1)))
		<-time.After(5 * time.Millisecond)
		now.Add(-1)
		return nil, nil
	}
	r := run(t, offering(gateway, map[string]Handler{"/wait": wait}))
	s := gateway.stream(t)
	for n := range 10 {
		s.task(fmt.Sprint(n), "/wait", "null")
	}
	eventually(t, "10 results", func() bool { return len(s.sum().Results) == 10 })
	equal(t, most.Load(), 2)
	r.leave(t, s)
}

func TestEveryEndOfAComponentHasItsCode(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	r := run(t, offering(gateway, map[string]Handler{
		"/typed": Typed(func(_ *Context, in struct{ N int }) (int, error) { return in.N, nil }),
		"/later": func(*Context, json.RawMessage) (any, error) { return nil, RetryLater(1500*time.Millisecond, "busy") },
		"/mine": func(*Context, json.RawMessage) (any, error) {
			return nil, fmt.Errorf("wrapped: %w", &Error{Code: "CANCELLED", Message: "no", Data: map[string]int{"reason": 41}})
		},
		"/bug":    func(*Context, json.RawMessage) (any, error) { return nil, errors.New("oops") },
		"/panic":  func(*Context, json.RawMessage) (any, error) { panic("argh") },
		"/notext": func(*Context, json.RawMessage) (any, error) { return nil, errors.New(strings.Repeat("\xff", 10_000)) },
		"/nan":    func(*Context, json.RawMessage) (any, error) { return func() {}, nil },
		"/big":    func(*Context, json.RawMessage) (any, error) { return strings.Repeat("x", 999), nil },
	}))
	s := gateway.stream(t)
	for _, expected := range []struct {
		component, input string
		code             uint32
		message, data    string
	}{
		{"/typed", `{"n":"x"}`, 2, "invalid input: json: cannot unmarshal", ""},
		{"/typed", `{"m":1}`, 2, "unknown field", ""},
		{"/later", "null", 7, "busy", ""},
		{"/mine", "null", 4, "wrapped: no", `{"reason":41}`},
		{"/bug", "null", 3, "oops", `{"type":"*errors.errorString"}`},
		{"/panic", "null", 3, "argh", `"type":"panic"`},
		{"/notext", "null", 3, "(10000 bytes)", ""},
		{"/nan", "null", 10, "the output is not JSON", ""},
		{"/big", "null", 10, "the output has 1001 bytes, above the limit of 1000", `{"limit_bytes":1000,"size_bytes":1001}`},
		{"/missing", "null", 6, "no component /missing", ""},
	} {
		id := expected.component + expected.input
		s.task(id, expected.component, expected.input)
		failure := s.result(t, id).GetFailure()
		equal(t, failure.GetCode(), expected.code)
		if !strings.Contains(failure.GetMessage(), expected.message) || !strings.Contains(string(failure.GetData()), expected.data) {
			t.Errorf("%s: %v", id, failure)
		}
	}
	equal(t, s.result(t, "/laternull").GetFailure().GetRetryAfterMs(), 1500)
	r.leave(t, s)
}

func TestACancelledTaskIsStoppedAndHasNoResult(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	r := run(t, offering(gateway, map[string]Handler{"/wait": stoppable(&started, nil), "/null": null}))
	s := gateway.stream(t)
	s.task("t1", "/wait", "null")
	s.down <- &pb.ToWorker{Stops: []*pb.Stop{{Id: "t1", Reason: pb.Stop_CANCELLED}, {Id: "nobody's"}}}
	eventually(t, "its slot", func() bool { return s.sum().Credit == 3 })
	s.task("t2", "/null", "null")
	s.result(t, "t2")
	equal(t, len(s.sum().Results), 1)
	r.leave(t, s)
}

func TestATimeLimitIsTheWorkersToKeep(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	deaf := func(*Context, json.RawMessage) (any, error) {
		<-time.After(400 * time.Millisecond)
		return nil, nil
	}
	r := run(t, offering(gateway, map[string]Handler{"/obedient": stoppable(&started, nil), "/deaf": deaf}))
	s := gateway.stream(t)
	limited := func(task *pb.Task) { task.TimeoutMs = 30 }
	s.task("t1", "/obedient", "null", limited)
	equal(t, s.result(t, "t1").GetFailure().GetMessage(), "the attempt ran longer than 0.03 s")
	s.task("t2", "/deaf", "null", limited)
	equal(t, s.result(t, "t2").GetFailure().GetCode(), 1)
	equal(t, s.sum().Credit, 3) // the deaf one still has its slot
	eventually(t, "its slot", func() bool { return s.sum().Credit == 4 })
	r.leave(t, s)
}

func TestSignsOfLifeAndTheNewestProgress(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	gate := make(chan struct{})
	r := run(t, offering(gateway, map[string]Handler{"/long": func(ctx *Context, _ json.RawMessage) (any, error) {
		for n := range 50 {
			if err := ctx.Heartbeat(float32(n+1)/50, map[string]int{"n": n + 1}); err != nil {
				return nil, err
			}
		}
		<-gate
		return nil, nil
	}}))
	s := gateway.stream(t)
	s.task("t1", "/long", "null")
	eventually(t, "progress", func() bool { return len(s.sum().Progress) > 0 })
	equal(t, string(s.sum().Progress[0].Details), `{"n":50}`)
	equal(t, s.sum().Progress[0].GetFraction(), 1)
	s.down <- &pb.ToWorker{Welcome: &pb.Welcome{HeartbeatMs: 30}}
	before := s.count()
	eventually(t, "signs of life", func() bool { return s.count() > before+5 })
	close(gate)
	s.result(t, "t1")
	r.leave(t, s)
}

func TestResultsAreKeptUntilTheyAreRecorded(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	gate := make(chan struct{})
	r := run(t, offering(gateway, map[string]Handler{"/null": null, "/wait": stoppable(&started, gate)}))
	first := gateway.stream(t)
	first.task("kept", "/null", "null")
	first.task("recorded", "/null", "null")
	first.result(t, "kept")
	first.result(t, "recorded")
	first.down <- &pb.ToWorker{Recorded: []string{"recorded"}}
	first.task("long", "/wait", "null")
	eventually(t, "long runs", func() bool { return started.Load() == 1 })
	first.end <- status.Error(codes.Unavailable, "gone")
	second := gateway.stream(t)
	equal(t, strings.Join(second.sum().Hello.Running, " "), "long")
	equal(t, second.sum().Hello.Worker, first.sum().Hello.Worker)
	second.result(t, "kept")
	close(gate)
	second.result(t, "long")
	second.task("kept", "/wait", "null") // delivered again: answered with the result that is here
	eventually(t, "the result again", func() bool { return len(second.sum().Results) == 3 })
	equal(t, started.Load(), 1)
	r.leave(t, second)
}

func TestLeaving(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	gate := make(chan struct{})
	worker := offering(gateway, map[string]Handler{"/wait": stoppable(&started, gate)})
	worker.Capacity = 1
	r := run(t, worker)
	s := gateway.stream(t)
	s.task("runs", "/wait", "null")
	s.task("waits", "/wait", "null")
	eventually(t, "one runs", func() bool { return started.Load() == 1 })
	r.stop()
	eventually(t, "leaving", func() bool { return s.sum().Leaving })
	s.task("late", "/wait", "null")
	eventually(t, "both are handed back", func() bool { return strings.Join(s.sum().Returned, " ") == "waits late" })
	close(gate)
	equal(t, string(s.result(t, "runs").GetOutput()), `"finished"`)
	r.leave(t, s)
	equal(t, started.Load(), 1)
}

func TestASecondStopDoesNotWait(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	r := run(t, offering(gateway, map[string]Handler{"/wait": stoppable(&started, nil)}))
	s := gateway.stream(t)
	s.task("runs", "/wait", "null")
	eventually(t, "it runs", func() bool { return started.Load() == 1 })
	r.stop()
	eventually(t, "leaving", func() bool { return s.sum().Leaving })
	r.hurry()
	eventually(t, "it is handed back", func() bool { return strings.Join(s.sum().Returned, " ") == "runs" })
	r.leave(t, s)
}

func TestAGatewayThatDrainsStillGetsWhatEndsSoon(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	var started atomic.Int32
	gate := make(chan struct{})
	r := run(t, offering(gateway, map[string]Handler{"/wait": stoppable(&started, gate)}))
	first := gateway.stream(t)
	for _, id := range []string{"one", "two", "waits"} {
		first.task(id, "/wait", "null")
	}
	eventually(t, "two run", func() bool { return started.Load() == 2 })
	first.down <- &pb.ToWorker{Drain: true}
	eventually(t, "what waits goes back", func() bool { return strings.Join(first.sum().Returned, " ") == "waits" })
	close(gate)
	eventually(t, "both results, then the end", func() bool { return len(first.sum().Results) == 2 && first.ended() })
	equal(t, first.sum().Credit, 2)
	first.down <- &pb.ToWorker{Recorded: []string{"one", "two"}}
	eventually(t, "it is sent down", func() bool { return len(first.down) == 0 })
	first.end <- nil
	second := gateway.stream(t)
	equal(t, len(second.sum().Hello.Running), 0)
	equal(t, second.sum().Credit, 2)
	r.leave(t, second)
}

func TestAGatewayThatDrainsIsLeftForTheNext(t *testing.T) {
	one, other := start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0")
	var started atomic.Int32
	gate := make(chan struct{})
	worker := offering(one, map[string]Handler{"/wait": stoppable(&started, gate)})
	worker.URL += "," + strings.TrimPrefix(other.url, "grpc://")
	r := run(t, worker)
	first := one.stream(t)
	first.task("runs", "/wait", "null")
	eventually(t, "it runs", func() bool { return started.Load() == 1 })
	first.down <- &pb.ToWorker{Drain: true}
	eventually(t, "the worker ends the stream", first.ended)
	first.end <- nil
	second := other.stream(t)
	equal(t, strings.Join(second.sum().Hello.Running, " "), "runs")
	close(gate)
	second.result(t, "runs")
	r.leave(t, second)
}

func TestAWorkerOutlivesItsGateway(t *testing.T) {
	first := start(t, "127.0.0.1:0")
	var started atomic.Int32
	gate := make(chan struct{})
	r := run(t, offering(first, map[string]Handler{"/wait": stoppable(&started, gate)}))
	s := first.stream(t)
	s.task("runs", "/wait", "null")
	eventually(t, "it runs", func() bool { return started.Load() == 1 })
	first.server.Stop()
	close(gate)
	again := start(t, strings.TrimPrefix(first.url, "grpc://")).stream(t)
	again.result(t, "runs")
	r.leave(t, again)
}

func TestARefusedWorkerEndsAndSaysWhy(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	r := run(t, offering(gateway, nil))
	gateway.stream(t).end <- status.Error(codes.NotFound, "no pool cpu; there are: gpu")
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "no pool cpu; there are: gpu") {
		t.Error(err)
	}
}

func TestASubRunNamesItsTaskAndHoldsNoSlot(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	worker := offering(gateway, map[string]Handler{"/outer": func(ctx *Context, input json.RawMessage) (any, error) {
		return ctx.RunFlow("flow-1", input, "sub")
	}})
	worker.Capacity = 1
	r := run(t, worker)
	s := gateway.stream(t)
	s.task("run.0.1", "/outer", `{"n":[1,2.5,1152921504606846976]}`)
	equal(t, string(s.result(t, "run.0.1").GetOutput()), `{"n":[1,2.5,1.152921504606847e+18]}`)
	request := <-gateway.runs
	equal(t, request.GetRootRunId()+" "+request.GetSubflowKey()+" "+request.RunRequest.FlowId, "root!run.0.1 sub flow-1")
	eventually(t, "credit while it waited", func() bool { return s.sum().Credit >= 2 })
	r.leave(t, s)
}

func TestBlobs(t *testing.T) {
	gateway := start(t, "127.0.0.1:0")
	r := run(t, offering(gateway, map[string]Handler{"/blob": func(ctx *Context, _ json.RawMessage) (any, error) {
		id, err := ctx.PutBlob([]byte{1, 255}, "x/y")
		if err != nil {
			return nil, err
		}
		return ctx.GetBlob(id)
	}}))
	s := gateway.stream(t)
	s.task("t1", "/blob", "null")
	equal(t, string(s.result(t, "t1").GetOutput()), `"Af8="`)
	r.leave(t, s)
}

func TestWhatCannotWorkIsSaidAtOnce(t *testing.T) {
	for _, worker := range []*Worker{{URL: "grpc://127.0.0.1:1", Capacity: -1}, {URL: "nats://127.0.0.1:1"}, {URL: "grpc://nowhere"}} {
		if err := worker.Run(t.Context()); err == nil {
			t.Errorf("%+v runs", worker)
		}
	}
}
