package stepmesh

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	stepflow "stepmesh-go-worker/pb/stepflow"
	pb "stepmesh-go-worker/pb/stepmesh"
)

const (
	answerTime   = 10 * time.Second
	firstPause   = 100 * time.Millisecond
	longestPause = time.Second
)

// gateway is one of the addresses, with the services that a worker uses.
type gateway struct {
	target       string
	connection   *grpc.ClientConn
	worker       pb.WorkerServiceClient
	blobs        stepflow.BlobServiceClient
	orchestrator stepflow.OrchestratorServiceClient
}

// gateways are used one at a time, the next when one is away.
type gateways []*gateway

func dial(url string) (gateways, error) {
	found, err := targets(url)
	if err != nil {
		return nil, err
	}
	var all gateways
	for _, target := range found {
		connection, err := grpc.NewClient(target,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: longestPause / 2},
				MinConnectTimeout: 2 * longestPause,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)), // the gateway's limit holds
		)
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, &gateway{
			target, connection, pb.NewWorkerServiceClient(connection),
			stepflow.NewBlobServiceClient(connection), stepflow.NewOrchestratorServiceClient(connection),
		})
	}
	return all, nil
}

func (g gateways) close() {
	for _, gateway := range g {
		_ = gateway.connection.Close() // nothing is left to be lost
	}
}

// ask repeats a request while no gateway answers, until the attempt is told to stop: each may be made twice without harm.
func ask[T any](c *Context, limit time.Duration, call func(context.Context, *gateway) (T, error)) (T, error) {
	for pauses, at := (&pauses{}), 0; ; at++ {
		gateway := c.session.gateways[at%len(c.session.gateways)]
		ctx, cancel := context.WithTimeout(c, limit)
		answer, err := call(ctx, gateway)
		cancel()
		code := status.Code(err)
		if code != codes.Unavailable && code != codes.Aborted && code != codes.DeadlineExceeded {
			return answer, err
		}
		select {
		case <-c.Done():
			return answer, context.Cause(c)
		case <-time.After(pauses.next()):
		}
	}
}

// pauses grow up to a limit, with jitter, so that many workers do not come back at one moment.
type pauses struct{ last time.Duration }

func (p *pauses) next() time.Duration {
	p.last = min(max(firstPause, p.last*2), longestPause)
	return p.last/2 + rand.N(p.last/2)
}

// refusal is the error of a gateway that wants no such worker, or nil: what ended the stream may pass.
func refusal(gateway *gateway, err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return fmt.Errorf("the gateway %s refused this worker: %w", gateway.target, err)
	default:
		return nil
	}
}

// stream is one Work call. Its goroutines pass on what comes, and send what the session gives them one message at a time.
type stream struct {
	gateway *gateway
	up      chan *pb.FromWorker // closed: nothing more is sent
	busy    bool                // a message is under way
	silent  bool                // up is closed
	cancel  context.CancelFunc
}

// open begins a stream; what happens to it is told to the session as actions of its own goroutine.
func open(s *session, gateway *gateway) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	st := &stream{gateway: gateway, up: make(chan *pb.FromWorker, 1), cancel: cancel}
	go func() {
		defer cancel()
		work, err := gateway.worker.Work(ctx)
		if err == nil {
			go st.send(s, work)
		}
		for err == nil {
			var message *pb.ToWorker
			if message, err = work.Recv(); err == nil {
				s.do(func() { s.heard(st, message) })
			}
		}
		s.do(func() { s.over(st, err) })
	}()
	return st
}

func (st *stream) send(s *session, work grpc.BidiStreamingClient[pb.FromWorker, pb.ToWorker]) {
	for {
		select {
		case message, more := <-st.up:
			if !more {
				_ = work.CloseSend() // a stream that is over already is as good
				return
			}
			if work.Send(message) != nil {
				return // the receiver is told why
			}
			s.do(func() { st.busy = false })
		case <-work.Context().Done():
			return
		}
	}
}

func (st *stream) finish() {
	if !st.silent {
		st.silent = true
		close(st.up)
	}
}
