// Package export_postrider_stage_handler connects the stage with the generated bindings, which require a package with this name.
//
//go:build wasip1

package export_postrider_stage_handler

import (
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"go.bytecodealliance.org/pkg/wit/types"
	"stage/gen/postrider_stage_config"
	"stage/gen/postrider_stage_delivery"
	"stage/gen/postrider_stage_log"
	"stage/gen/postrider_stage_state"
	"stage/gen/postrider_stage_types"
	"stage/postrider"
)

type pair = wit_types.Tuple2[string, string]

// The garbage collector reads clocks, which traps while the host passes data to the component (bytecodealliance/wasmtime#14318), and
// allocating that data can start a collection. So collections run at the start of a call once enough garbage has accumulated, and
// automatically only when memory is short.
const (
	collectAboveBytes = 8 << 20
	shortOfMemory     = 40 << 20
)

func init() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(shortOfMemory)
}

func collect() {
	var memory runtime.MemStats
	if runtime.ReadMemStats(&memory); memory.HeapAlloc > collectAboveBytes {
		runtime.GC()
	}
}

// Describe returns the description of the stage.
func Describe() postrider_stage_types.Description {
	stage := postrider.Served
	description := postrider_stage_types.Description{
		Name: stage.Name, Version: stage.Version, Summary: stage.Summary, Consumes: stage.Consumes, Emits: stage.Emits,
	}
	if stage.SettingsSchema != "" {
		description.Attributes = []pair{{F0: "settingsschema", F1: stage.SettingsSchema}}
	}
	return description
}

// Handle handles one event.
func Handle(event postrider_stage_types.Event) wit_types.Result[[]postrider_stage_types.Emitted, postrider_stage_types.Failure] {
	collect()
	defer logPanic()
	call := &postrider.Call{Host: host{}, Event: postrider.Event{
		ID: event.Id, Type: event.EventType, Source: event.Source, Subject: event.Subject, TimeMs: event.TimeMs,
		ContentType: event.ContentType, Data: event.Data, Attributes: toMap(event.Attributes),
	}}
	if err := postrider.Served.Handle(call); err != nil {
		failure, ok := postrider.AsFailure(err)
		if !ok {
			panic(err)
		}
		return wit_types.Err[[]postrider_stage_types.Emitted](toContract(failure))
	}
	emitted := make([]postrider_stage_types.Emitted, len(call.Events))
	for i, event := range call.Events {
		emitted[i] = emit(event)
	}
	return wit_types.Ok[[]postrider_stage_types.Emitted, postrider_stage_types.Failure](emitted)
}

func emit(event postrider.Emitted) postrider_stage_types.Emitted {
	return postrider_stage_types.Emitted{
		EventType: event.Type, ContentType: "application/json", Data: postrider.JSON(event.Data),
		Subject: optional(event.Subject), DelayMs: event.DelayMs, Attributes: toPairs(event.Attributes),
	}
}

func toContract(failure *postrider.Failure) postrider_stage_types.Failure {
	return postrider_stage_types.Failure{
		Retryable: failure.Retryable, Code: failure.Code, Message: failure.Message, RetryAfterMs: optional(failure.RetryAfterMs),
	}
}

// logPanic logs a panic with its location and lets it continue to the trap. The host adds the text to the dead letter.
func logPanic() {
	reason := recover()
	if reason == nil {
		return
	}
	text := strings.Builder{}
	fmt.Fprintf(&text, "panic: %v", reason)
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for frame, more := frames.Next(); more; frame, more = frames.Next() {
		if !strings.HasPrefix(frame.Function, "runtime.") && !strings.HasPrefix(frame.Function, "stage/gen/") {
			fmt.Fprintf(&text, "\n  %s (%s:%d)", frame.Function, frame.File, frame.Line)
		}
	}
	host{}.Log(postrider.Error, text.String())
	panic(reason)
}

// host implements postrider.Host with the imports of the component.
type host struct{}

func (host) Stage() string                   { return postrider_stage_delivery.Stage() }
func (host) Attempt() uint32                 { return postrider_stage_delivery.Attempt() }
func (host) IdempotencyKey() string          { return postrider_stage_delivery.IdempotencyKey() }
func (host) NowMs() uint64                   { return postrider_stage_delivery.NowMs() }
func (host) RemainingMs() uint32             { return postrider_stage_delivery.RemainingMs() }
func (host) TraceHeaders() map[string]string { return toMap(postrider_stage_delivery.TraceHeaders()) }

func (host) GetState(key string) ([]byte, bool) {
	value := postrider_stage_state.Get(key)
	return value.SomeOr(nil), value.IsSome()
}

func (host) SetState(key string, value []byte) { postrider_stage_state.Set(key, value) }
func (host) Remove(key string)                 { postrider_stage_state.Remove(key) }

func (host) ListKeys(prefix, after string, limit uint32) []string {
	return postrider_stage_state.ListKeys(prefix, after, limit)
}

func (host) Config(key string) (string, bool) {
	value := postrider_stage_config.Get(key)
	return value.SomeOr(""), value.IsSome()
}

func (host) Log(level postrider.Level, message string, fields ...[2]string) {
	pairs := make([]pair, len(fields))
	for i, field := range fields {
		pairs[i] = pair{F0: field[0], F1: field[1]}
	}
	postrider_stage_log.Log(uint8(level), message, pairs)
}

func optional[T comparable](value T) wit_types.Option[T] {
	var zero T
	if value == zero {
		return wit_types.None[T]()
	}
	return wit_types.Some(value)
}

func toMap(pairs []pair) map[string]string {
	values := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		values[pair.F0] = pair.F1
	}
	return values
}

func toPairs(values map[string]string) []pair {
	pairs := make([]pair, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		pairs = append(pairs, pair{F0: name, F1: values[name]})
	}
	return pairs
}
