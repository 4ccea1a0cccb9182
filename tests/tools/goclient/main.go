// Goclient calls helloworld.Greeter through grpc-go for the end-to-end tests: at a steady rate, in each of the four
// call kinds, and prints as JSON what became of the calls.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	service = "/helloworld.Greeter/"
	// The server names itself in this initial metadata.
	servedBy = "x-served-by"
)

// The streaming methods are of our own greeter and not in the stubs of the grpc-go examples, whose messages are the
// same, so they are called by name.
var (
	serverStream = grpc.StreamDesc{StreamName: "SayHelloStream", ServerStreams: true}
	clientStream = grpc.StreamDesc{StreamName: "CollectHellos", ClientStreams: true}
	bidiStream   = grpc.StreamDesc{StreamName: "ChatHello", ServerStreams: true, ClientStreams: true}
)

type options struct {
	target      string
	mode        string
	name        string
	rate        float64
	concurrency int
	connections int
	duration    time.Duration
	deadline    time.Duration
	messages    int
	replies     int
	interval    time.Duration
}

// failure is one failed call with its time, so that a test can say what happened around it.
type failure struct {
	At      string `json:"at"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type result struct {
	mu       sync.Mutex
	Sent     int            `json:"sent"`
	OK       int            `json:"ok"`
	Failed   int            `json:"failed"`
	Messages int            `json:"messages"`
	Errors   map[string]int `json:"errors"`
	ByServer map[string]int `json:"by_server"`
	First    []failure      `json:"first_failures"`
}

// The failures kept word for word; the rest are only counted.
const keptFailures = 20

func (r *result) record(server string, messages int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Messages += messages
	if err == nil {
		r.OK++
		r.ByServer[server]++
		return
	}
	r.Failed++
	s, _ := status.FromError(err)
	r.Errors[s.Code().String()]++
	if len(r.First) < keptFailures {
		r.First = append(r.First, failure{time.Now().UTC().Format(time.RFC3339Nano), s.Code().String(), s.Message()})
	}
}

// Fields of our own HelloRequest that the stubs of the grpc-go examples lack; they are sent as unknown fields.
const (
	countField    = 2
	intervalField = 3
)

func request(o *options) *pb.HelloRequest {
	r := &pb.HelloRequest{Name: o.name}
	var extra []byte
	if o.replies > 0 {
		extra = protowire.AppendVarint(protowire.AppendTag(extra, countField, protowire.VarintType), uint64(o.replies))
	}
	if o.interval > 0 {
		extra = protowire.AppendTag(extra, intervalField, protowire.VarintType)
		extra = protowire.AppendVarint(extra, uint64(o.interval.Milliseconds()))
	}
	r.ProtoReflect().SetUnknown(extra)
	return r
}

// call makes one call and returns who served it and how many replies came.
func call(ctx context.Context, conn *grpc.ClientConn, o *options) (string, int, error) {
	if o.mode == "unary" {
		var header metadata.MD
		reply := new(pb.HelloReply)
		if err := conn.Invoke(ctx, service+"SayHello", request(o), reply, grpc.Header(&header)); err != nil {
			return "", 0, err
		}
		return server(header), 1, nil
	}
	desc := map[string]*grpc.StreamDesc{"stream": &serverStream, "collect": &clientStream, "chat": &bidiStream}[o.mode]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, desc, service+desc.StreamName)
	if err != nil {
		return "", 0, err
	}
	received, err := converse(stream, desc, o)
	if err != nil {
		return "", received, err
	}
	header, err := stream.Header()
	return server(header), received, err
}

// converse sends what the call kind sends and reads replies to the end of the stream.
func converse(stream grpc.ClientStream, desc *grpc.StreamDesc, o *options) (int, error) {
	received := 0
	sends := 1
	if desc.ClientStreams {
		sends = o.messages
	}
	for i := 0; i < sends; i++ {
		// io.EOF says that the call has ended; its status comes from RecvMsg.
		if err := stream.SendMsg(request(o)); err != nil && !errors.Is(err, io.EOF) {
			return received, err
		}
		if desc.ClientStreams && desc.ServerStreams {
			if err := stream.RecvMsg(new(pb.HelloReply)); err != nil {
				return received, unexpectedEnd(err)
			}
			received++
		}
	}
	if err := stream.CloseSend(); err != nil {
		return received, err
	}
	for {
		err := stream.RecvMsg(new(pb.HelloReply))
		if errors.Is(err, io.EOF) {
			return received, nil
		}
		if err != nil {
			return received, err
		}
		received++
		if !desc.ServerStreams {
			return received, nil
		}
	}
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the stream before it replied")
	}
	return err
}

func server(header metadata.MD) string {
	if values := header.Get(servedBy); len(values) > 0 {
		return values[0]
	}
	return "unknown"
}

// load sends calls at the rate, each on time whether or not earlier ones are answered; past the concurrency a call
// waits for a free slot, so a stalled proxy shows as fewer calls sent and not as unbounded memory.
func load(ctx context.Context, conns []*grpc.ClientConn, o *options, r *result) {
	slots := make(chan struct{}, o.concurrency)
	var running sync.WaitGroup
	defer running.Wait()
	start := time.Now()
	for n := 0; ; n++ {
		wait := time.Until(start)
		if o.rate > 0 {
			wait = time.Until(start.Add(time.Duration(float64(n) / o.rate * float64(time.Second))))
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		r.mu.Lock()
		r.Sent++
		r.mu.Unlock()
		running.Add(1)
		go func(conn *grpc.ClientConn) {
			defer running.Done()
			defer func() { <-slots }()
			callCtx, cancel := context.WithTimeout(context.Background(), o.deadline)
			defer cancel()
			by, messages, err := call(callCtx, conn, o)
			r.record(by, messages, err)
		}(conns[n%len(conns)])
	}
}

func parse() (*options, error) {
	o := &options{}
	flag.StringVar(&o.target, "target", "127.0.0.1:50051", "host:port or unix:path to dial, in plain text")
	flag.StringVar(&o.mode, "mode", "unary", "call kind: unary, stream (server), collect (client) or chat (both)")
	flag.StringVar(&o.name, "name", "goclient", "name sent in each request")
	flag.Float64Var(&o.rate, "rate", 100, "calls a second; 0 for as many as the concurrency allows")
	flag.IntVar(&o.concurrency, "concurrency", 64, "most calls open at a time")
	flag.IntVar(&o.connections, "connections", 1, "client connections the calls take in turn")
	flag.DurationVar(&o.duration, "duration", time.Second, "how long new calls are started; open ones may finish")
	flag.DurationVar(&o.deadline, "deadline", 10*time.Second, "deadline of a call")
	flag.IntVar(&o.messages, "messages", 3, "messages sent per call by collect and chat")
	flag.IntVar(&o.replies, "replies", 0, "replies asked for per request of stream; 0 leaves it to the server")
	flag.DurationVar(&o.interval, "interval", 0, "pause asked for before each reply; 0 leaves it to the server")
	flag.Parse()
	switch o.mode {
	case "unary", "stream", "collect", "chat":
	default:
		return nil, fmt.Errorf("unknown -mode %q", o.mode)
	}
	if o.concurrency < 1 || o.connections < 1 || o.messages < 1 || o.rate < 0 {
		return nil, errors.New("-concurrency, -connections and -messages start at 1, -rate at 0")
	}
	return o, nil
}

func main() {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(64)
	}
	conns := make([]*grpc.ClientConn, o.connections)
	for i := range conns {
		// "passthrough" dials what was asked for, as plain grpc-go users of a sidecar do, without a DNS resolver.
		target := "passthrough:///" + o.target
		if len(o.target) > 5 && o.target[:5] == "unix:" {
			target = o.target
		}
		conns[i], err = grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			fmt.Fprintln(os.Stderr, "goclient:", err)
			os.Exit(70)
		}
		defer conns[i].Close()
	}
	// A signal ends the sending, not the calls: the numbers are printed all the same.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	r := &result{Errors: map[string]int{}, ByServer: map[string]int{}, First: []failure{}}
	load(ctx, conns, o, r)
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(70)
	}
	if r.Failed > 0 {
		os.Exit(1)
	}
}
