// Connects the generated bindings with a stage. See postrider.h.
#include "postrider.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stage.h"

// The result of the current call.
static exports_postrider_stage_handler_list_emitted_t *emitted;
static exports_postrider_stage_handler_failure_t *failure;

// The memory of the current call: a linked list, freed when the call ends.
typedef union allocation {
    union allocation *next;
    max_align_t aligned;
} allocation;
static allocation *allocations;

static void *checked(void *pointer) {
    if (!pointer) pr_panic("out of memory");
    return pointer;
}

static void *allocate(void *context, size_t size) {
    (void)context;
    allocation *made = checked(malloc(sizeof *made + size));
    made->next = allocations;
    allocations = made;
    return made + 1;
}

static void *reallocate(void *context, void *old, size_t old_size, size_t size) {
    return size <= old_size ? old : memcpy(allocate(context, size), old, old_size);
}

static void keep(void *context, void *pointer) { (void)context, (void)pointer; }

static void free_all(void) {
    while (allocations) {
        allocation *next = allocations->next;
        free(allocations);
        allocations = next;
    }
}

static const yyjson_alc memory = {.malloc = allocate, .realloc = reallocate, .free = keep};
static yyjson_mut_doc *json;

// Strings of the contract have a length and no terminating NUL; C strings are the opposite.
static const char *from_host(const uint8_t *bytes, size_t length) {
    char *text = allocate(NULL, length + 1);
    if (length) memcpy(text, bytes, length);
    text[length] = '\0';
    return text;
}

static const char *taken(stage_string_t *string) {
    const char *text = from_host(string->ptr, string->len);
    stage_string_free(string);
    return text;
}

static stage_string_t borrowed(const char *text) { return (stage_string_t){(uint8_t *)text, strlen(text)}; }

static stage_string_t owned(const char *text) {
    stage_string_t string;
    stage_string_dup(&string, text);
    return string;
}

static const char *format_text(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    if (length < 0) length = 0;
    char *text = allocate(NULL, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

const char *pr_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *text = format_text(format, arguments);
    va_end(arguments);
    return text;
}

static void log_text(pr_level level, const char *text) {
    stage_string_t message = borrowed(text);
    stage_list_tuple2_string_string_t no_fields = {0};
    postrider_stage_log_log((postrider_stage_log_level_t)level, &message, &no_fields);
}

void pr_log(pr_level level, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_text(level, format_text(format, arguments));
    va_end(arguments);
}

// On the stack, because memory may be exhausted. A longer text is truncated between two characters.
_Noreturn void pr_panic_at(const char *file, int line, const char *function, const char *format, ...) {
    char text[1024];
    int start = snprintf(text, sizeof text, "%s:%d: %s: ", file, line, function);
    va_list arguments;
    va_start(arguments, format);
    if (start >= 0 && (size_t)start < sizeof text) vsnprintf(text + start, sizeof text - (size_t)start, format, arguments);
    va_end(arguments);
    size_t length = strlen(text);
    if (length == sizeof text - 1) {
        while (length > 0 && ((uint8_t)text[length - 1] & 0xc0) == 0x80) length--;
        text[length > 0 ? length - 1 : 0] = '\0';
    }
    log_text(PR_ERROR, text);
    abort();
}

// The C library's version prints to standard error, which a stage does not have.
_Noreturn void __assert_fail(const char *expression, const char *file, int line, const char *function) {
    pr_panic_at(file, line, function, "assertion `%s` failed", expression);
}

static yyjson_val *parse(const uint8_t *bytes, size_t length, yyjson_read_flag flag) {
    yyjson_doc *document = yyjson_read_opts((char *)bytes, length, flag, &memory, NULL);
    return yyjson_doc_get_root(document);
}

yyjson_val *pr_exact(const pr_event *event) {
    return event->data ? parse(event->bytes, event->length, YYJSON_READ_NUMBER_AS_RAW) : NULL;
}

// Uses the C library's allocator, because the generated code frees it.
static stage_list_u8_t serialize(const yyjson_mut_val *value) {
    stage_list_u8_t bytes = {0};
    bytes.ptr = (uint8_t *)yyjson_mut_val_write(value, YYJSON_WRITE_NOFLAG, &bytes.len);
    if (!bytes.ptr) pr_panic("cannot serialize a value as JSON");
    return bytes;
}

yyjson_mut_doc *pr_json(void) { return json; }

void pr_emit(pr_emitted event) {
    emitted->ptr = checked(realloc(emitted->ptr, (emitted->len + 1) * sizeof *emitted->ptr));
    emitted->ptr[emitted->len++] = (exports_postrider_stage_handler_emitted_t){
        .event_type = owned(event.type),
        .content_type = owned("application/json"),
        .data = serialize(event.data),
        .subject = {event.subject != NULL, event.subject ? owned(event.subject) : (stage_string_t){0}},
        .delay_ms = event.delay_ms,
    };
}

static bool fail(bool retryable, uint32_t after_ms, const char *code, const char *message) {
    *failure = (exports_postrider_stage_handler_failure_t){
        .retryable = retryable,
        .code = owned(code),
        .message = owned(message),
        .retry_after_ms = {after_ms != 0, after_ms},
    };
    return false;
}

bool pr_reject(const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool failed = fail(false, 0, code, format_text(format, arguments));
    va_end(arguments);
    return failed;
}

bool pr_retry(const char *code, uint32_t after_ms, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool failed = fail(true, after_ms, code, format_text(format, arguments));
    va_end(arguments);
    return failed;
}

yyjson_val *pr_get(const char *key) {
    stage_string_t name = borrowed(key);
    stage_list_u8_t bytes;
    if (!postrider_stage_state_get(&name, &bytes)) return NULL;
    yyjson_val *value = parse(bytes.ptr, bytes.len, YYJSON_READ_NOFLAG);
    if (!value) pr_panic("the state under `%s` is not valid JSON", key);
    stage_list_u8_free(&bytes);
    return value;
}

void pr_set(const char *key, yyjson_mut_val *value) {
    stage_string_t name = borrowed(key);
    stage_list_u8_t bytes = serialize(value);
    postrider_stage_state_set(&name, &bytes);
    stage_list_u8_free(&bytes);
}

void pr_remove(const char *key) {
    stage_string_t name = borrowed(key);
    postrider_stage_state_remove(&name);
}

const char *pr_setting(const char *key) {
    stage_string_t name = borrowed(key), value;
    return postrider_stage_config_get(&name, &value) ? taken(&value) : NULL;
}

const char *pr_idempotency_key(void) {
    stage_string_t key;
    postrider_stage_delivery_idempotency_key(&key);
    return taken(&key);
}

static stage_list_string_t owned_list(const char *const *texts) {
    stage_list_string_t list = {0};
    while (texts && texts[list.len]) list.len++;
    if (list.len) list.ptr = checked(malloc(list.len * sizeof *list.ptr));
    for (size_t i = 0; i < list.len; i++) list.ptr[i] = owned(texts[i]);
    return list;
}

void exports_postrider_stage_handler_describe(exports_postrider_stage_handler_description_t *description) {
    *description = (exports_postrider_stage_handler_description_t){
        .name = owned(pr_stage.name),
        .version = owned(pr_stage.version),
        .summary = owned(pr_stage.summary),
        .consumes = owned_list(pr_stage.consumes),
        .emits = owned_list(pr_stage.emits),
    };
    if (pr_stage.settings_schema) {
        description->attributes.ptr = checked(malloc(sizeof *description->attributes.ptr));
        description->attributes.ptr[description->attributes.len++] =
            (stage_tuple2_string_string_t){owned("settingsschema"), owned(pr_stage.settings_schema)};
    }
}

bool exports_postrider_stage_handler_handle(exports_postrider_stage_handler_event_t *incoming,
                                            exports_postrider_stage_handler_list_emitted_t *ok,
                                            exports_postrider_stage_handler_failure_t *error) {
    *ok = (exports_postrider_stage_handler_list_emitted_t){0};
    *error = (exports_postrider_stage_handler_failure_t){0};
    emitted = ok;
    failure = error;
    json = yyjson_mut_doc_new(&memory);
    pr_event event = {
        .id = from_host(incoming->id.ptr, incoming->id.len),
        .type = from_host(incoming->event_type.ptr, incoming->event_type.len),
        .source = from_host(incoming->source.ptr, incoming->source.len),
        .subject = from_host(incoming->subject.ptr, incoming->subject.len),
        .content_type = from_host(incoming->content_type.ptr, incoming->content_type.len),
        .time_ms = incoming->time_ms,
        .data = parse(incoming->data.ptr, incoming->data.len, YYJSON_READ_NOFLAG),
        .bytes = incoming->data.ptr,
        .length = incoming->data.len,
    };
    bool done = pr_handle(&event);
    if (!done && !error->code.len) pr_panic("pr_handle returned false without pr_reject or pr_retry");
    if (!done) exports_postrider_stage_handler_list_emitted_free(ok);
    free_all();
    exports_postrider_stage_handler_event_free(incoming);
    return done;
}
