// Package stepmesh is a small Stepmesh worker: it offers components to a pool through any gateway, over stepmesh.v1.WorkerService.
//
// It is an example to read and to copy from. worker.go is what a program declares, session.go and tasks.go the one goroutine
// that decides, stream.go the connection, attempt.go a component that runs, context.go what it sees, errors.go how it fails.
package stepmesh

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	pb "stepmesh-go-worker/pb/stepmesh"
)

const version = "stepmesh-go/0.1"

var (
	componentPath = regexp.MustCompile(`^(/[A-Za-z0-9_.~{}*-]+)+$`)
	hostAndPort   = regexp.MustCompile(`^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$`)
)

// Component is a function with its path; schemas are JSON Schema as text, told to others.
type Component struct {
	Path, Description         string
	InputSchema, OutputSchema string
	Timeout                   time.Duration // limit of one attempt; the shorter of this and the step's own counts
	Run                       Handler
}

// Worker offers components. The zero values of its fields are defaults.
type Worker struct {
	URL         string        // grpc://host:port, or several with commas; default $STEPMESH_URL
	Pool        string        // default $STEPMESH_POOL, or "default"
	Capacity    int           // tasks at once; default $STEPMESH_CONCURRENCY, or 16
	Exclusive   bool          // every task is claimed before it starts
	Name        string        // prefix of its id; default is the host's name
	Namespace   string        // default $STEPMESH_NAMESPACE, or the gateway's own
	CancelGrace time.Duration // from a stop until a task that goes on is reported; default 5 s
	DrainGrace  time.Duration // from the end of Run's context until it is gone; default 20 s
	Log         *slog.Logger

	components map[string]Component
	order      []string
}

// Offer adds a component. It panics when the path does not work or is taken, as http.Handle does.
func (w *Worker) Offer(component Component) {
	if _, taken := w.components[component.Path]; taken || !componentPath.MatchString(component.Path) {
		panic(fmt.Sprintf("component path %q is taken, or does not work: begin with '/', then letters, digits, '_', '-', '.', '~'", component.Path))
	}
	if w.components == nil {
		w.components = map[string]Component{}
	}
	w.components[component.Path] = component
	w.order = append(w.order, component.Path)
}

// Run works until ctx ends; then it drains. The error says why a gateway refused this worker, or what is wrong with its settings.
func (w *Worker) Run(ctx context.Context) error {
	return w.run(ctx, context.Background())
}

// Serve runs until SIGTERM or SIGINT: the first drains, the second does not wait for running tasks, the third ends the process.
func (w *Worker) Serve() error {
	stop, stopped := context.WithCancel(context.Background())
	hurry, hurried := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	go func() {
		<-signals
		stopped()
		<-signals
		hurried()
		<-signals
		os.Exit(1)
	}()
	return w.run(stop, hurry)
}

func (w *Worker) run(stop, hurry context.Context) error {
	settings := *w
	if err := settings.complete(); err != nil {
		return err
	}
	gateways, err := dial(settings.URL)
	if err != nil {
		return err
	}
	defer gateways.close()
	return newSession(&settings, gateways).run(stop, hurry)
}

func (w *Worker) complete() error {
	w.URL = cmp.Or(w.URL, os.Getenv("STEPMESH_URL"))
	w.Pool = cmp.Or(w.Pool, os.Getenv("STEPMESH_POOL"), "default")
	w.Namespace = cmp.Or(w.Namespace, os.Getenv("STEPMESH_NAMESPACE"))
	w.CancelGrace = cmp.Or(w.CancelGrace, 5*time.Second)
	w.DrainGrace = cmp.Or(w.DrainGrace, 20*time.Second)
	w.Log = cmp.Or(w.Log, slog.Default())
	if w.Capacity == 0 {
		given := cmp.Or(os.Getenv("STEPMESH_CONCURRENCY"), "16")
		capacity, err := strconv.Atoi(given)
		if err != nil {
			return fmt.Errorf("STEPMESH_CONCURRENCY is %q: a number is wanted", given)
		}
		w.Capacity = capacity
	}
	if w.Capacity < 1 {
		return fmt.Errorf("capacity %d is below 1: a worker runs at least one task at a time", w.Capacity)
	}
	return nil
}

func (w *Worker) hello(running []string) *pb.Hello {
	hello := &pb.Hello{
		Worker: w.Name, Pool: w.Pool, Capacity: uint32(w.Capacity), Version: version,
		Exclusive: w.Exclusive, Running: running, Namespace: w.Namespace,
	}
	for _, path := range w.order {
		c := w.components[path]
		offered := &pb.Component{Path: path, Description: c.Description, InputSchema: c.InputSchema, OutputSchema: c.OutputSchema}
		hello.Components = append(hello.Components, offered)
	}
	return hello
}

// id is unique, and stays the same over reconnects.
func (w *Worker) id() string {
	host, _ := os.Hostname() // "" is fine: it only helps a reader of logs
	random := make([]byte, 3)
	_, _ = rand.Read(random) // never fails
	return fmt.Sprintf("%s-%d-%s", cmp.Or(w.Name, host, "worker"), os.Getpid(), hex.EncodeToString(random))
}

// targets are the host:port of a URL.
func targets(url string) ([]string, error) {
	list, isGateway := strings.CutPrefix(url, "grpc://")
	found := strings.Split(strings.TrimSuffix(list, "/"), ",")
	for _, target := range found {
		if !isGateway || !hostAndPort.MatchString(target) {
			return nil, fmt.Errorf("%q names no gateway: set STEPMESH_URL=grpc://host:port, or grpc://host:port,host:port", url)
		}
	}
	return found, nil
}
