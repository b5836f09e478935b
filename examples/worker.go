// A worker for one queue, with nothing but Go's standard library (1.19 or later).
//
//	go build -o worker worker.go
//	GATEWAY=http://localhost:8080 QUEUE=orders ./worker
//
// It waits for messages, works on several at a time, holds on to them while it does, and settles them
// together: what was done is deleted, what failed comes back after a pause that grows. SIGTERM and SIGINT
// end it as soon as what it has begun is done; what it has not begun goes to others at once.
//
// To have it do something, change handle.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// handle does what a message asks for. An error brings the message back later.
var handle = func(message Message) error {
	fmt.Println(string(message.Body))
	return nil
}

// Message is one delivery. Body and Headers are JSON as it was sent, to be read with json.Unmarshal.
type Message struct {
	ID        int64           `json:"msg_id"`
	ReadCount int             `json:"read_ct"`
	Body      json.RawMessage `json:"message"`
	Headers   json.RawMessage `json:"headers"`
	Receipt   string          `json:"receipt"`
}

// entry names a delivery that is over. Delay is in seconds.
type entry struct {
	Receipt   string `json:"receipt"`
	Delay     int    `json:"delay,omitempty"`
	Uncounted bool   `json:"uncounted,omitempty"`
}

// outcomes is what became of messages.
type outcomes struct {
	Delete []entry `json:"delete,omitempty"`
	Retry  []entry `json:"retry,omitempty"`
}

func (o *outcomes) add(more outcomes) {
	o.Delete = append(o.Delete, more.Delete...)
	o.Retry = append(o.Retry, more.Retry...)
}

func (o outcomes) empty() bool { return len(o.Delete)+len(o.Retry) == 0 }

// settled is the gateway's answer to outcomes.
type settled struct {
	Failed []struct {
		ID     int64  `json:"msg_id"`
		Detail string `json:"detail"`
	} `json:"failed"`
}

func (s settled) report() {
	for _, failed := range s.Failed {
		log.Printf("message %d: %s", failed.ID, failed.Detail)
	}
}

const wait = 20

var (
	concurrency = number("CONCURRENCY", 10)
	// Seconds for which a message is nobody else's; extended while it is worked on.
	lease       = number("LEASE", 30)
	messagesURL = strings.TrimRight(setting("GATEWAY", "http://localhost:8080"), "/") +
		"/queues/" + url.PathEscape(setting("QUEUE", "orders")) + "/messages"
	client = &http.Client{Timeout: 60 * time.Second}
)

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func number(name string, otherwise int) int {
	value, err := strconv.Atoi(setting(name, strconv.Itoa(otherwise)))
	if err != nil || value < 1 {
		log.Fatalf("%s must be a number from 1", name)
	}
	return value
}

// call makes one request and reads what the gateway answers into answer, if there is one.
func call(ctx context.Context, method, url string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Prefer", "return=minimal")
	if key := os.Getenv("GATEWAY_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return errors.New(response.Status + " " + string(text))
	}
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// receive settles what is done and returns the next messages. If nothing is to be settled it waits for them;
// whoever is told to stop meanwhile leaves, and what would have been answered stays in the queue.
func receive(ctx context.Context, done outcomes) ([]Message, error) {
	body := map[string]any{"qty": concurrency, "vt": lease}
	if done.empty() {
		body["wait"] = wait
	} else {
		body["settle"] = done
		ctx = context.Background()
	}
	var answer struct {
		Settled  settled   `json:"settled"`
		Messages []Message `json:"messages"`
	}
	err := call(ctx, http.MethodPost, messagesURL+"/receive", body, &answer)
	answer.Settled.report()
	return answer.Messages, err
}

// settle says what became of messages, until the gateway has heard it: doing so twice does no harm.
func settle(done outcomes) {
	for attempt := 0; attempt < 10 && !done.empty(); attempt++ {
		var answer settled
		err := call(context.Background(), http.MethodPost, messagesURL+"/settle", done, &answer)
		answer.report()
		if err == nil {
			return
		}
		log.Printf("settling failed, trying again: %v", err)
		backOff(context.Background(), attempt, 5*time.Second)
	}
}

// extend has a message for longer. One that is somebody else's by now cannot be helped.
func extend(ctx context.Context, message Message, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	address := fmt.Sprintf("%s/%d?receipt=%s", messagesURL, message.ID, url.QueryEscape(message.Receipt))
	err := call(ctx, http.MethodPatch, address, map[string]int{"vt": lease}, nil)
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Printf("message %d could not be extended: %v", message.ID, err)
	}
}

// hold extends the lease of a message until the function that it returns is called.
func hold(message Message) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		third := time.Duration(lease) * time.Second / 3
		ticker := time.NewTicker(third)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				// One that hangs leaves time for another try.
				extend(ctx, message, third)
			}
		}
	}()
	return func() { cancel(); <-stopped }
}

// backOff pauses longer with each failure, and never the same for all.
func backOff(ctx context.Context, failures int, most time.Duration) {
	pause := 100 * time.Millisecond << failures
	if failures > 10 || pause > most {
		pause = most
	}
	select {
	case <-ctx.Done():
	case <-time.After(pause/2 + time.Duration(rand.Int63n(int64(pause/2)))):
	}
}

// try has a message handled; a panic is an error like others.
func try(message Message) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	return handle(message)
}

// work handles a message and returns what became of it.
func work(ctx context.Context, message Message) outcomes {
	if ctx.Err() != nil {
		return outcomes{Retry: []entry{{Receipt: message.Receipt, Uncounted: true}}}
	}
	release := hold(message)
	err := try(message)
	release()
	if err == nil {
		return outcomes{Delete: []entry{{Receipt: message.Receipt}}}
	}
	log.Printf("message %d failed: %v", message.ID, err)
	// 1, 2, 4, ... seconds. After `max_receives` deliveries it becomes a dead letter.
	delay := 900
	if message.ReadCount <= 10 {
		delay = 1 << (message.ReadCount - 1)
	}
	return outcomes{Retry: []entry{{Receipt: message.Receipt, Delay: delay}}}
}

// workOn works on messages at the same time. What is through while others are not is settled; the rest is
// returned.
func workOn(ctx context.Context, messages []Message) (done outcomes) {
	results := make(chan outcomes, len(messages))
	for _, message := range messages {
		go func(message Message) { results <- work(ctx, message) }(message)
	}
	for pending := len(messages); pending > 0; pending-- {
		if len(results) == 0 {
			settle(done)
			done = outcomes{}
		}
		done.add(<-results)
	}
	return done
}

func main() {
	rand.Seed(time.Now().UnixNano()) // Go 1.20 and later do so themselves.
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	var done outcomes
	for failures := 0; ctx.Err() == nil; {
		messages, err := receive(ctx, done)
		if err == nil {
			failures, done = 0, workOn(ctx, messages)
		} else if ctx.Err() == nil {
			failures++
			log.Printf("receiving failed, trying again: %v", err)
			backOff(ctx, failures, 10*time.Second)
		}
	}
	settle(done)
}
