// Package postrider is what a stage in Go needs of Postrider: JSON in and out, and defaults for what is optional.
//
// It knows the host only as an interface, so that a stage compiles and its tests run without WebAssembly.
package postrider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Stage is what a stage says about itself, and what it does.
type Stage struct {
	Name, Version, Summary string
	Consumes               []string // event types or AMQP topic patterns
	Emits                  []string // exact event types
	SettingsSchema         string   // JSON Schema of the settings; may be empty
	// Handle decides about one event. Nil commits state and events together. A [Failure] is reported as such; any other error, and a
	// panic, is logged with its place and ends the call with a trap.
	Handle func(*Call) error
}

// Served is the stage of this program.
var Served Stage

// Serve makes a stage the one of this program; to be called from an init function.
func Serve(stage Stage) { Served = stage }

// Event is an event as CloudEvents 1.0 has it.
type Event struct {
	ID, Type, Source, Subject string
	TimeMs                    uint64
	ContentType               string
	Data                      []byte
	Attributes                map[string]string
}

// Object reads the data, which must be a JSON object.
func (event Event) Object(into any) error {
	if !bytes.HasPrefix(bytes.TrimLeft(event.Data, " \t\r\n"), []byte("{")) {
		return fmt.Errorf("the data of %s is no JSON object", event.Type)
	}
	return json.Unmarshal(event.Data, into)
}

// Emitted is an event that the stage wants sent. Only type and data are needed.
type Emitted struct {
	Type       string
	Data       any    // written as JSON
	Subject    string // empty: the subject of the incoming event
	DelayMs    uint32
	Attributes map[string]string
}

// Failure says that the stage could not decide.
type Failure struct {
	Retryable     bool
	Code, Message string
	RetryAfterMs  uint32 // 0: the stage's retry policy decides
}

func (failure *Failure) Error() string { return failure.Code + ": " + failure.Message }

// Reject is a failure that a person must look at.
func Reject(code, message string) error { return &Failure{Code: code, Message: message} }

// Retry is a failure to be tried again later.
func Retry(code, message string) error {
	return &Failure{Retryable: true, Code: code, Message: message}
}

// AsFailure finds the failure in an error.
func AsFailure(err error) (*Failure, bool) {
	var failure *Failure
	return failure, errors.As(err, &failure)
}

// Level is how serious a log line is.
type Level uint8

// From the least to the most serious.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// Host is what the contract offers to a call: see wit/stage.wit.
type Host interface {
	Stage() string
	Attempt() uint32
	IdempotencyKey() string
	NowMs() uint64
	RemainingMs() uint32
	TraceHeaders() map[string]string
	GetState(key string) ([]byte, bool)
	SetState(key string, value []byte)
	Remove(key string)
	ListKeys(prefix, after string, limit uint32) []string
	Config(key string) (string, bool)
	Log(level Level, message string, fields ...[2]string)
}

// Call is the call in progress.
type Call struct {
	Host
	Event  Event
	Events []Emitted
}

// Emit sends an event when the call succeeds.
func (call *Call) Emit(eventType string, data any) { call.Send(Emitted{Type: eventType, Data: data}) }

// Send is Emit with everything that is optional.
func (call *Call) Send(event Emitted) { call.Events = append(call.Events, event) }

// Set writes a JSON value under a state key when the call succeeds.
func (call *Call) Set(key string, value any) { call.SetState(key, JSON(value)) }

// Get is the JSON value under a state key, or the fallback where there is none.
func Get[T any](call *Call, key string, fallback T) (T, error) {
	value := fallback
	if data, found := call.GetState(key); found {
		if err := json.Unmarshal(data, &value); err != nil {
			return fallback, Reject("bad-state", fmt.Sprintf("the state under `%s` is unusable: %v", key, err))
		}
	}
	return value, nil
}

// Setting is the operator's setting read as JSON (`12.5`, `true`), or the fallback where it is missing. For texts there is Config.
func Setting[T any](call *Call, key string, fallback T) (T, error) {
	value := fallback
	if text, found := call.Config(key); found {
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return fallback, Reject("bad-setting", fmt.Sprintf("the setting `%s` is unusable: `%s`", key, text))
		}
	}
	return value, nil
}

// JSON writes a value; one that JSON cannot express is a mistake in the stage.
func JSON(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
