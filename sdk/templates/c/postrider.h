// What a stage in C needs of Postrider: JSON in and out, defaults for what is optional, a trap that says why.
//
// Every pointer handed out lives as long as the call; nothing of it is freed by hand. The host's other functions
// (attempt, time, trace headers, keys by prefix) are in gen/stage.h.
#ifndef POSTRIDER_H
#define POSTRIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "yyjson.h"

typedef struct {
    const char *name, *version, *summary;
    const char *const *consumes; // event types or AMQP topic patterns, then NULL
    const char *const *emits;    // exact event types, then NULL
    const char *settings_schema; // JSON Schema of the settings; may be NULL
} pr_description;

typedef struct {
    const char *id, *type, *source, *subject, *content_type;
    uint64_t time_ms;
    yyjson_val *data; // NULL: the payload is no JSON
    const uint8_t *bytes;
    size_t length;
} pr_event;

typedef struct {
    const char *type;
    yyjson_mut_val *data;
    const char *subject; // NULL: the subject of the incoming event
    uint32_t delay_ms;
} pr_emitted;

typedef enum { PR_TRACE, PR_DEBUG, PR_INFO, PR_WARN, PR_ERROR } pr_level;

// A stage defines these two. `pr_handle` returns true, or what `pr_reject` or `pr_retry` return.
extern const pr_description pr_stage;
bool pr_handle(const pr_event *event);

// The document in which a call makes its JSON values.
yyjson_mut_doc *pr_json(void);

// Sent when the call succeeds: pr_emit((pr_emitted){.type = "order.seen", .data = value}).
void pr_emit(pr_emitted event);

// The stage could not decide: a person must look, or try again later (0: when the retry policy says so).
__attribute__((format(printf, 2, 3))) bool pr_reject(const char *code, const char *format, ...);
__attribute__((format(printf, 3, 4))) bool pr_retry(const char *code, uint32_t after_ms, const char *format, ...);

// The stage's own durable keys; NULL: there is no such key.
yyjson_val *pr_get(const char *key);
void pr_set(const char *key, yyjson_mut_val *value);
void pr_remove(const char *key);

// The operator's setting; NULL: not set.
const char *pr_setting(const char *key);
const char *pr_idempotency_key(void);

__attribute__((format(printf, 1, 2))) const char *pr_text(const char *format, ...);
__attribute__((format(printf, 2, 3))) void pr_log(pr_level level, const char *format, ...);

// Logs the message with its place, then traps: the dead letter shows both. A failed `assert` ends here too.
#define pr_panic(...) pr_panic_at(__FILE__, __LINE__, __func__, __VA_ARGS__)
__attribute__((format(printf, 4, 5))) _Noreturn void pr_panic_at(const char *file, int line, const char *function,
                                                                 const char *format, ...);

#endif
