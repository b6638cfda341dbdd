// Package postrider is the SDK for stages in Go: JSON payloads and state, and defaults for optional values.
//
// It accesses the host through an interface, so a stage compiles and its tests run without WebAssembly.
package postrider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Stage is the description of a stage and its handler.
type Stage struct {
	Name, Version, Summary string
	Consumes               []string // event types or AMQP topic patterns
	Emits                  []string // event types; patterns are not allowed
	SettingsSchema         string   // JSON Schema of the settings, or empty
	// Handle handles one event. Returning nil commits the state writes and the events atomically. A [Failure] retries or rejects the
	// event. Any other error, or a panic, is logged with its location and traps.
	Handle func(*Call) error
}

// Served is the stage that this program exports.
var Served Stage

// Serve exports a stage. Call it from an init function.
func Serve(stage Stage) { Served = stage }

// Event is a CloudEvents 1.0 event.
type Event struct {
	ID, Type, Source, Subject string
	TimeMs                    uint64
	ContentType               string
	Data                      []byte
	Attributes                map[string]string
}

// Object unmarshals the payload, which must be a JSON object.
func (event Event) Object(into any) error {
	if !bytes.HasPrefix(bytes.TrimLeft(event.Data, " \t\r\n"), []byte("{")) {
		return fmt.Errorf("the payload of %s is not a JSON object", event.Type)
	}
	return unmarshal(event.Data, into)
}

// unmarshal reads JSON. Numbers without a type of their own, as in a map[string]any, become json.Number and keep every digit.
func unmarshal(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

// Emitted is an event emitted by the stage. Only the type and the data are required.
type Emitted struct {
	Type       string
	Data       any    // marshalled as JSON
	Subject    string // defaults to the subject of the incoming event
	DelayMs    uint32
	Attributes map[string]string
}

// Failure reports that the stage could not decide.
type Failure struct {
	Retryable     bool
	Code, Message string
	RetryAfterMs  uint32 // 0 uses the delay of the retry policy
}

func (failure *Failure) Error() string { return failure.Code + ": " + failure.Message }

// Reject returns a permanent failure: the event is dead-lettered without a retry.
func Reject(code, message string) error { return &Failure{Code: code, Message: message} }

// Retry returns a retryable failure.
func Retry(code, message string) error {
	return &Failure{Retryable: true, Code: code, Message: message}
}

// AsFailure returns the Failure in an error chain.
func AsFailure(err error) (*Failure, bool) {
	var failure *Failure
	return failure, errors.As(err, &failure)
}

// Level is the severity of a log line.
type Level uint8

// In increasing severity.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// Host has the host functions of the contract. See wit/stage.wit.
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

// Call is the context of a call.
type Call struct {
	Host
	Event  Event
	Events []Emitted
}

// Emit emits an event if the call succeeds.
func (call *Call) Emit(eventType string, data any) { call.Send(Emitted{Type: eventType, Data: data}) }

// Send is Emit with the optional fields.
func (call *Call) Send(event Emitted) { call.Events = append(call.Events, event) }

// Set writes a JSON value to the state if the call succeeds.
func (call *Call) Set(key string, value any) { call.SetState(key, JSON(value)) }

// Get reads a JSON value of the state, or returns the fallback if the key is missing.
func Get[T any](call *Call, key string, fallback T) (T, error) {
	value := fallback
	if data, found := call.GetState(key); found {
		if err := unmarshal(data, &value); err != nil {
			return fallback, Reject("bad-state", fmt.Sprintf("invalid state under `%s`: %v", key, err))
		}
	}
	return value, nil
}

// Setting reads a setting as JSON (`12.5`, `true`), or returns the fallback if it is missing. Use Config for text.
func Setting[T any](call *Call, key string, fallback T) (T, error) {
	value := fallback
	if text, found := call.Config(key); found {
		if err := unmarshal([]byte(text), &value); err != nil {
			return fallback, Reject("bad-setting", fmt.Sprintf("invalid setting `%s`: `%s`", key, text))
		}
	}
	return value, nil
}

// JSON marshals a value. It panics on a value that JSON cannot express, which is a bug of the stage.
func JSON(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
