package stepmesh

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	stepflow "stepmesh-go-worker/pb/stepflow"
	pb "stepmesh-go-worker/pb/stepmesh"
)

const patience = 10 * time.Second

// fakeGateway is a gateway as a worker sees it, run by a test: a real gRPC server whose every message the test sends and reads itself.
type fakeGateway struct {
	pb.UnimplementedWorkerServiceServer
	stepflow.UnimplementedOrchestratorServiceServer
	stepflow.UnimplementedBlobServiceServer

	server  *grpc.Server
	url     string
	streams chan *workStream
	runs    chan *stepflow.OrchestratorSubmitRunRequest
	blobs   sync.Map
}

// workStream is one Work call: what came up is added up, the test sends down.
type workStream struct {
	down chan *pb.ToWorker
	end  chan error
	gone <-chan struct{}

	mutex    sync.Mutex
	messages []*pb.FromWorker
	finished bool // the worker sends nothing more
}

func start(t *testing.T, address string) *fakeGateway {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); { // the port of one that just ended
		listener, err = net.Listen("tcp", address)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGateway{
		server: grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20)), url: "grpc://" + listener.Addr().String(),
		streams: make(chan *workStream, 100), runs: make(chan *stepflow.OrchestratorSubmitRunRequest, 100),
	}
	pb.RegisterWorkerServiceServer(g.server, g)
	stepflow.RegisterOrchestratorServiceServer(g.server, g)
	stepflow.RegisterBlobServiceServer(g.server, g)
	go func() { _ = g.server.Serve(listener) }() // returns when the test stops it
	t.Cleanup(g.server.Stop)
	return g
}

func (g *fakeGateway) Work(call grpc.BidiStreamingServer[pb.FromWorker, pb.ToWorker]) error {
	s := &workStream{down: make(chan *pb.ToWorker, 1000), end: make(chan error, 1), gone: call.Context().Done()}
	go func() {
		for {
			message, err := call.Recv()
			s.mutex.Lock()
			if err != nil {
				s.finished = true
				s.mutex.Unlock()
				return
			}
			first := len(s.messages) == 0
			s.messages = append(s.messages, message)
			s.mutex.Unlock()
			if first {
				g.streams <- s
			}
		}
	}()
	for {
		select {
		case message := <-s.down:
			if err := call.Send(message); err != nil {
				return err
			}
		case err := <-s.end:
			return err
		case <-s.gone:
			return nil
		}
	}
}

// stream is the next one that a worker opened; its hello came, and it is welcomed.
func (g *fakeGateway) stream(t *testing.T) *workStream {
	t.Helper()
	select {
	case s := <-g.streams:
		s.down <- &pb.ToWorker{Welcome: &pb.Welcome{HeartbeatMs: 5000, PayloadBytes: 1000, Gateway: "fake"}}
		return s
	case <-time.After(patience):
		t.Fatal("no worker connects")
		return nil
	}
}

// sum is what came up so far, as one message.
func (s *workStream) sum() *pb.FromWorker {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	all := &pb.FromWorker{Hello: s.messages[0].Hello}
	for _, message := range s.messages {
		all.Credit += message.Credit
		all.Results = append(all.Results, message.Results...)
		all.Progress = append(all.Progress, message.Progress...)
		all.Returned = append(all.Returned, message.Returned...)
		all.Leaving = all.Leaving || message.Leaving
	}
	return all
}

func (s *workStream) ended() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.finished
}

func (s *workStream) count() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.messages)
}

func (s *workStream) task(id, component, input string, change ...func(*pb.Task)) {
	task := &pb.Task{Id: id, Component: component, Input: []byte(input), Attempt: 1, RunId: "run", RootRunId: "root", StepId: "step"}
	for _, apply := range change {
		apply(task)
	}
	s.down <- &pb.ToWorker{Tasks: []*pb.Task{task}}
}

func (s *workStream) result(t *testing.T, id string) *pb.Result {
	t.Helper()
	var found *pb.Result
	eventually(t, "a result of "+id, func() bool {
		results := s.sum().Results
		at := slices.IndexFunc(results, func(result *pb.Result) bool { return result.Id == id })
		if at >= 0 {
			found = results[at]
		}
		return at >= 0
	})
	return found
}

func (g *fakeGateway) SubmitRun(_ context.Context, request *stepflow.OrchestratorSubmitRunRequest) (*stepflow.OrchestratorRunStatus, error) {
	g.runs <- request
	return &stepflow.OrchestratorRunStatus{RunId: "child", Status: stepflow.ExecutionStatus_EXECUTION_STATUS_RUNNING}, nil
}

// GetRun: the sub-run ends once the test took its submission out; its result is its input.
func (g *fakeGateway) GetRun(_ context.Context, _ *stepflow.OrchestratorGetRunRequest) (*stepflow.OrchestratorRunStatus, error) {
	select {
	case request := <-g.runs:
		done := stepflow.ExecutionStatus_EXECUTION_STATUS_COMPLETED
		result := &stepflow.ItemResult{Status: done, Output: request.RunRequest.Input[0]}
		g.runs <- request
		return &stepflow.OrchestratorRunStatus{Status: done, Results: []*stepflow.ItemResult{result}}, nil
	case <-time.After(patience):
		return nil, io.ErrUnexpectedEOF
	}
}

func (g *fakeGateway) PutBlob(_ context.Context, request *stepflow.PutBlobRequest) (*stepflow.PutBlobResponse, error) {
	g.blobs.Store("blob", request.GetRawData())
	return &stepflow.PutBlobResponse{BlobId: "blob"}, nil
}

func (g *fakeGateway) GetBlob(_ context.Context, request *stepflow.GetBlobRequest) (*stepflow.GetBlobResponse, error) {
	data, _ := g.blobs.Load(request.BlobId)
	return &stepflow.GetBlobResponse{Content: &stepflow.GetBlobResponse_RawData{RawData: data.([]byte)}}, nil
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// running is a worker under way. leave has it drain while the gateway plays its part.
type running struct {
	stop  context.CancelFunc
	hurry context.CancelFunc
	ended chan error
}

func run(t *testing.T, worker *Worker) *running {
	t.Helper()
	stop, stopped := context.WithCancel(context.Background())
	hurry, hurried := context.WithCancel(context.Background())
	worker.Log = slog.New(slog.DiscardHandler)
	r := &running{stopped, hurried, make(chan error, 1)}
	go func() { r.ended <- worker.run(stop, hurry) }()
	return r
}

func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the worker does not end")
		return nil
	}
}

func (r *running) leave(t *testing.T, s *workStream) {
	t.Helper()
	r.stop()
	eventually(t, "leaving", func() bool { return s.sum().Leaving })
	for _, result := range s.sum().Results {
		s.down <- &pb.ToWorker{Recorded: []string{result.Id}}
	}
	eventually(t, "all is sent down", func() bool { return len(s.down) == 0 })
	s.end <- nil
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}
