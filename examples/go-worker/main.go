// A Stepmesh worker in Go: two components of pool "go".
package main

import (
	"log"
	"strings"
	"time"

	"stepmesh-go-worker/stepmesh"
)

type person struct {
	Name  string `json:"name"`
	Times int    `json:"times"`
}

type greeting struct {
	Greeting string `json:"greeting"`
	Attempt  uint32 `json:"attempt"`
}

func greet(ctx *stepmesh.Context, who person) (greeting, error) {
	if who.Name == "" {
		return greeting{}, stepmesh.Invalid("whom shall I greet?")
	}
	text := strings.TrimSuffix(strings.Repeat("hello "+who.Name+", ", max(1, who.Times)), ", ")
	return greeting{text, ctx.Task.Attempt}, nil
}

// count takes its time, says how far it is, and stops at once when its run is cancelled.
func count(ctx *stepmesh.Context, to int) (int, error) {
	for n := 1; n <= to; n++ {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if err := ctx.Heartbeat(float32(n)/float32(to), map[string]int{"n": n}); err != nil {
			return 0, err
		}
	}
	return to, nil
}

// letter reads a blob that another step stored, in whatever language, and stores an answer.
func letter(ctx *stepmesh.Context, blob string) (string, error) {
	text, err := ctx.GetBlob(blob)
	if err != nil {
		return "", err
	}
	return ctx.PutBlob(append(text, " thank you."...), "text/plain")
}

func main() {
	worker := &stepmesh.Worker{Pool: "go"}
	worker.Offer(stepmesh.Component{Path: "/greet", Description: "Greets a person.", Run: stepmesh.Typed(greet)})
	worker.Offer(stepmesh.Component{Path: "/count", Description: "Counts slowly.", Run: stepmesh.Typed(count), Timeout: time.Minute})
	worker.Offer(stepmesh.Component{Path: "/letter", Description: "Answers a letter.", Run: stepmesh.Typed(letter)})
	if err := worker.Serve(); err != nil {
		log.Fatal(err)
	}
}
