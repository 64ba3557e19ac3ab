package stepmesh

import (
	"context"
	"io"
	"runtime"
	"slices"
	"time"

	pb "stepmesh-go-worker/pb/stepmesh"
)

const (
	batchActions = 256
	batchBytes   = 1 << 20                 // of results in one message, unless one alone is larger
	keptBytes    = 64 << 20                // with more than this unrecorded no further tasks are asked for
	drainTime    = 1500 * time.Millisecond // tasks may still end on the stream of a gateway that goes away; it claimed what runs for longer
	endingTime   = 2 * time.Second
	progressTime = 100 * time.Millisecond
)

// session is a worker at work. One goroutine owns all of it: everybody else hands it actions with do.
//
// Invariants: credit that is out, tasks that wait and slots that are held are never more than the capacity together, and what is asked
// for ahead; a result is forgotten only when the gateway says that it is recorded, or that nobody wants it.
type session struct {
	worker   *Worker
	gateways gateways
	actions  chan func()
	done     chan struct{}

	stream  *stream // nil while there is none
	at      int     // which gateway
	pauses  pauses
	refused error

	limit       uint64 // of an output
	outstanding int    // credit of this stream that no task has used
	held        int    // slots
	pace        pace
	waiting     []*attempt
	returning   []chan struct{}     // who comes back from a wait goes before new work
	attempts    map[string]*attempt // that are not settled
	kept        map[string]*pb.Result
	keptBytes   int
	unsent      []string
	progress    map[string]*pb.Progress
	handedBack  []string
	beat        bool // a message is due, if only as a sign of life
	pulse       *time.Ticker

	leaving, said, draining, drained, closed bool
}

func newSession(worker *Worker, gateways gateways) *session {
	worker.Name = worker.id()
	return &session{
		worker: worker, gateways: gateways, actions: make(chan func()), done: make(chan struct{}), pulse: time.NewTicker(time.Hour),
		pace: pace(aheadTime), attempts: map[string]*attempt{}, kept: map[string]*pb.Result{}, progress: map[string]*pb.Progress{},
	}
}

// run is the session's goroutine.
func (s *session) run(stop, hurry context.Context) error {
	defer close(s.done)
	defer s.pulse.Stop()
	s.connect()
	stopping, hurrying := stop.Done(), hurry.Done()
	for !s.closed {
		select {
		case action := <-s.actions:
			action()
			s.catchUp()
		case <-s.pulse.C:
			s.beat = true
		case <-stopping:
			stopping = nil
			s.leave()
		case <-hurrying:
			hurrying = nil
			s.stopAll(ErrLeaving)
		}
		s.push()
		if s.draining && (s.drained || len(s.attempts) == 0) {
			s.finish()
		}
		if s.leaving && s.empty() && s.stream == nil {
			s.closed = true
		}
	}
	s.stopAll(ErrLeaving)
	if s.stream != nil {
		s.stream.cancel()
	}
	return s.refused
}

// do has the session's goroutine do something, unless the session is over.
func (s *session) do(action func()) {
	select {
	case s.actions <- action:
	case <-s.done:
	}
}

// catchUp does what others wait to have done, so that their results leave in one message.
func (s *session) catchUp() {
	for range batchActions {
		runtime.Gosched()
		select {
		case action := <-s.actions:
			action()
		default:
			return
		}
	}
}

func (s *session) after(pause time.Duration, action func()) *time.Timer {
	return time.AfterFunc(pause, func() { s.do(action) })
}

// --- the stream ---------------------------------------------------------------------------------------------------

func (s *session) connect() {
	s.stream = open(s, s.gateways[s.at%len(s.gateways)])
	s.outstanding, s.said, s.handedBack = 0, false, nil
	var running []string
	for id, attempt := range s.attempts {
		if attempt.running() {
			running = append(running, id)
		}
	}
	s.unsent = nil
	for id := range s.kept {
		s.unsent = append(s.unsent, id)
	}
	first := s.next()
	first.Hello = s.worker.hello(running)
	s.stream.busy = true
	s.stream.up <- first
}

func (s *session) push() {
	if s.stream == nil || s.stream.busy || s.stream.silent {
		return
	}
	if s.beat || s.credit() > 0 || len(s.unsent)+len(s.handedBack) > 0 || s.leaving != s.said {
		s.beat, s.stream.busy = false, true
		s.stream.up <- s.next()
	}
}

func (s *session) credit() int {
	if s.leaving || s.draining || s.keptBytes > keptBytes {
		return 0
	}
	return max(0, s.worker.Capacity+s.pace.ahead(s.worker.Capacity)-s.held-len(s.waiting)-s.outstanding)
}

// next is all that there is to say.
func (s *session) next() *pb.FromWorker {
	credit := s.credit()
	s.outstanding += credit
	message := &pb.FromWorker{Credit: uint32(credit), Returned: s.handedBack, Leaving: s.leaving && !s.said}
	for bytes := 0; len(s.unsent) > 0; s.unsent = s.unsent[1:] {
		result := s.kept[s.unsent[0]]
		if bytes += len(result.GetOutput()); bytes > batchBytes && len(message.Results) > 0 {
			break
		}
		message.Results = append(message.Results, result)
	}
	for _, told := range s.progress {
		message.Progress = append(message.Progress, told)
	}
	clear(s.progress)
	s.handedBack, s.said = nil, s.leaving
	return message
}

func (s *session) heard(st *stream, message *pb.ToWorker) {
	if st != s.stream {
		return
	}
	if welcome := message.Welcome; welcome != nil {
		s.pauses = pauses{}
		s.limit = welcome.PayloadBytes
		if welcome.HeartbeatMs > 0 {
			s.pulse.Reset(time.Duration(welcome.HeartbeatMs) * time.Millisecond / 3)
		}
	}
	for _, task := range message.Tasks {
		s.take(task)
	}
	for _, id := range message.Recorded {
		s.forget(id)
	}
	for _, stop := range message.Stops {
		s.forget(stop.Id)
		if attempt := s.attempts[stop.Id]; attempt != nil {
			why := ErrElsewhere
			if stop.Reason == pb.Stop_CANCELLED {
				why = ErrCancelled
			}
			s.stop(attempt, why)
		}
	}
	if message.Drain { // what has not started goes back, what ends soon is sent, what runs longer is the next stream's
		s.draining = true
		for _, attempt := range slices.Clone(s.waiting) {
			s.stop(attempt, ErrLeaving)
		}
		s.after(drainTime, func() { s.drained = st == s.stream })
	}
}

// finish says no more on a stream; the next one is elsewhere, if there is another gateway.
func (s *session) finish() {
	st := s.stream
	if st.silent || st.busy || len(s.unsent)+len(s.handedBack) > 0 {
		return
	}
	s.at++
	st.finish()
	time.AfterFunc(endingTime, st.cancel)
}

func (s *session) over(st *stream, err error) {
	if st != s.stream {
		return
	}
	s.stream, s.draining, s.drained = nil, false, false
	for _, attempt := range slices.Clone(s.waiting) { // what has not started goes back to the queue when a stream ends
		s.stop(attempt, ErrElsewhere)
	}
	if s.leaving && s.empty() {
		return
	}
	if s.refused = refusal(st.gateway, err); s.refused != nil {
		s.closed = true
		return
	}
	if err != io.EOF {
		s.at++
	}
	s.worker.Log.Warn("the stream to the gateway ended, connecting again", "gateway", st.gateway.target, "status", err)
	s.after(s.pauses.next(), func() {
		if s.stream == nil {
			s.connect()
		}
	})
}

// --- leaving ------------------------------------------------------------------------------------------------------

// leave: nothing more is taken, what has not started is handed back, what runs may end within the grace period.
func (s *session) leave() {
	s.leaving = true
	grace := s.worker.DrainGrace
	reserve := min(grace/4, 5*time.Second) // for stopping tasks and for the last results
	for _, attempt := range slices.Clone(s.waiting) {
		s.stop(attempt, ErrLeaving)
	}
	s.after(grace-reserve, func() { s.stopAll(ErrLeaving) })
	s.after(grace-reserve/2, func() {
		for _, attempt := range s.attempts {
			s.giveUp(attempt)
		}
	})
	s.after(grace, func() { s.closed = true })
}

func (s *session) stopAll(why error) {
	for _, attempt := range s.attempts {
		s.stop(attempt, why)
	}
}

// empty: nothing runs, and the gateway has all that ran.
func (s *session) empty() bool {
	return len(s.attempts) == 0 && len(s.kept) == 0 && len(s.handedBack) == 0
}
