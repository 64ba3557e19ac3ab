package stepmesh

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "stepmesh-go-worker/pb/stepmesh"
)

// What the session does with tasks: which wait, which run in a slot, how each ends. All of it in the session's goroutine.

// waitTime: a task that waits here for so long goes back to the gateway.
const waitTime = time.Second

func (s *session) take(task *pb.Task) {
	s.outstanding = max(0, s.outstanding-1)
	switch {
	case s.kept[task.Id] != nil: // delivered again: here is its result
		s.unsent = append(s.unsent, task.Id)
	case s.leaving || s.draining:
		s.handedBack = append(s.handedBack, task.Id)
	case s.attempts[task.Id] == nil:
		attempt := &attempt{task: task}
		s.attempts[task.Id] = attempt
		s.waiting = append(s.waiting, attempt)
		s.start()
		if !attempt.running() { // another worker may have room
			attempt.timer = s.after(waitTime, func() { s.giveBack(attempt) })
		}
	}
}

func (s *session) giveBack(a *attempt) {
	if !a.running() {
		s.stop(a, ErrLeaving)
	}
}

func (s *session) start() {
	for len(s.waiting) > 0 && s.held < s.worker.Capacity {
		attempt := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.held++
		s.begin(attempt)
	}
}

func (s *session) begin(a *attempt) {
	a.started = time.Now()
	component, known := s.worker.components[a.task.Component]
	if !known {
		text := fmt.Sprintf("no component %s: this worker offers %s", a.task.Component, strings.Join(s.worker.order, ", "))
		s.ended(a, failed(componentNotFound, text, nil))
		return
	}
	inner, cancel := context.WithCancelCause(context.Background())
	a.cancel = cancel
	ctx := &Context{Context: inner, Task: a.task, session: s}
	a.limit = time.Duration(a.task.TimeoutMs) * time.Millisecond
	if own := component.Timeout; own > 0 && (a.limit == 0 || own < a.limit) {
		a.limit = own
	}
	if a.limit > 0 {
		ctx.deadline = a.started.Add(a.limit)
		a.timer = s.after(a.limit, func() { s.stop(a, ErrTimeout) })
	}
	limit := s.limit
	go func() {
		end := call(component, ctx, a.task.Input, limit)
		cancel(nil)
		s.do(func() { s.ended(a, end) })
	}()
}

// stop tells an attempt to stop. It is settled when it ended, or after the grace period; its slot is free when it ended.
func (s *session) stop(a *attempt, why error) {
	if a.why != nil || a.settled {
		return
	}
	a.why = why
	if !a.running() {
		s.waiting = slices.DeleteFunc(s.waiting, func(other *attempt) bool { return other == a })
		s.settle(a, nil)
		return
	}
	a.timer = s.after(s.worker.CancelGrace, func() { s.stuck(a) })
	a.cancel(why)
}

func (s *session) stuck(a *attempt) {
	if !a.settled {
		s.worker.Log.Error("a task goes on after it was told to stop: look at ctx.Done(); its slot is free again when it ends",
			"run", a.task.RunId, "step", a.task.StepId, "component", a.task.Component)
		s.giveUp(a)
	}
}

// giveUp settles an attempt that was told to stop, without waiting for its end.
func (s *session) giveUp(a *attempt) {
	if a.why == ErrTimeout {
		s.settle(a, a.timeout().result(a.task.Id, a.started))
	} else {
		s.settle(a, nil)
	}
}

func (s *session) ended(a *attempt, end outcome) {
	if a.timer != nil {
		a.timer.Stop()
	}
	s.pace.observe(time.Since(a.started))
	if a.why != nil {
		s.giveUp(a)
	} else {
		s.settle(a, end.result(a.task.Id, a.started))
	}
	s.release()
}

// settle: an attempt ended, with a result or with nothing that anybody wants.
func (s *session) settle(a *attempt, result *pb.Result) {
	if a.settled {
		return
	}
	a.settled = true
	delete(s.attempts, a.task.Id)
	delete(s.progress, a.task.Id)
	if result != nil {
		s.kept[a.task.Id] = result
		s.keptBytes += len(result.GetOutput())
		s.unsent = append(s.unsent, a.task.Id)
	} else if a.why == ErrLeaving {
		s.handedBack = append(s.handedBack, a.task.Id)
	}
}

func (s *session) forget(id string) {
	s.keptBytes -= len(s.kept[id].GetOutput())
	delete(s.kept, id)
	s.unsent = slices.DeleteFunc(s.unsent, func(other string) bool { return other == id })
}

func (s *session) tell(told *pb.Progress) {
	if s.attempts[told.Id] == nil {
		return
	}
	if len(s.progress) == 0 {
		s.after(progressTime, func() { s.beat = true })
	}
	s.progress[told.Id] = told
}

// --- slots --------------------------------------------------------------------------------------------------------

func (s *session) release() {
	s.held--
	if len(s.returning) > 0 {
		s.held++
		close(s.returning[0])
		s.returning = s.returning[1:]
	}
	s.start()
}

// park gives an attempt's slot back while it waits for others; unpark takes one again.
func (s *session) park() { s.do(s.release) }

func (s *session) unpark() {
	taken := make(chan struct{})
	s.do(func() {
		if s.held == s.worker.Capacity {
			s.returning = append(s.returning, taken)
			return
		}
		s.held++
		close(taken)
	})
	select {
	case <-taken:
	case <-s.done:
	}
}

// pace is the average time of an attempt; the newest counts for a tenth.
type pace time.Duration

const aheadTime = 20 * time.Millisecond

func (p *pace) observe(took time.Duration) { *p += (pace(took) - *p) / 10 }

// ahead is how many tasks to ask for beyond the free slots: of quick ones as many as keep the worker busy while the next are on their
// way, of slow ones none, because another worker may have room for them.
func (p pace) ahead(capacity int) int {
	if p > pace(5*time.Millisecond) {
		return 0
	}
	return min(1000, capacity*int(aheadTime)/max(int(p), int(50*time.Microsecond)))
}
