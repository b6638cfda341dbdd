// The Postrider SDK for stages in C: JSON payloads and state, defaults for optional values, and traps with a message.
//
// Returned pointers are valid until the call ends and must not be freed. gen/stage.h declares the other host functions
// (attempt, time, trace headers, keys by prefix).
#ifndef POSTRIDER_H
#define POSTRIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "yyjson.h"

typedef struct {
    const char *name, *version, *summary;
    const char *const *consumes; // event types or AMQP topic patterns, terminated by NULL
    const char *const *emits;    // event types, terminated by NULL
    const char *settings_schema; // JSON Schema of the settings, or NULL
} pr_description;

typedef struct {
    const char *id, *type, *source, *subject, *content_type;
    uint64_t time_ms;
    yyjson_val *data; // NULL if the payload is not JSON
    const uint8_t *bytes;
    size_t length;
} pr_event;

typedef struct {
    const char *type;
    yyjson_mut_val *data;
    const char *subject; // NULL for the subject of the incoming event
    uint32_t delay_ms;
} pr_emitted;

typedef enum { PR_TRACE, PR_DEBUG, PR_INFO, PR_WARN, PR_ERROR } pr_level;

// Defined by the stage. `pr_handle` returns true on success, or the result of `pr_reject` or `pr_retry`.
extern const pr_description pr_stage;
bool pr_handle(const pr_event *event);

// The document that owns the JSON values of the current call.
yyjson_mut_doc *pr_json(void);

// The payload again, with every number as its text; NULL if the payload is not JSON. Copy from it what the stage only passes
// on: a number in `data` is a double or 64 bits, and `yyjson_val_mut_copy` writes no more digits than these hold.
yyjson_val *pr_exact(const pr_event *event);

// Emits an event if the call succeeds: pr_emit((pr_emitted){.type = "order.seen", .data = value}).
void pr_emit(pr_emitted event);

// Fails the call: permanently, or with a retry after at least `after_ms` (0: the delay of the retry policy).
__attribute__((format(printf, 2, 3))) bool pr_reject(const char *code, const char *format, ...);
__attribute__((format(printf, 3, 4))) bool pr_retry(const char *code, uint32_t after_ms, const char *format, ...);

// The stage's durable state. Returns NULL for a missing key.
yyjson_val *pr_get(const char *key);
void pr_set(const char *key, yyjson_mut_val *value);
void pr_remove(const char *key);

// A setting of the stage, or NULL if it is not set.
const char *pr_setting(const char *key);
const char *pr_idempotency_key(void);

__attribute__((format(printf, 1, 2))) const char *pr_text(const char *format, ...);
__attribute__((format(printf, 2, 3))) void pr_log(pr_level level, const char *format, ...);

// Logs the message with its location, then traps. The dead letter shows both. A failed `assert` calls it too.
#define pr_panic(...) pr_panic_at(__FILE__, __LINE__, __func__, __VA_ARGS__)
__attribute__((format(printf, 4, 5))) _Noreturn void pr_panic_at(const char *file, int line, const char *function,
                                                                 const char *format, ...);

#endif
