// {{name}}: checks whether the total of every new order is within a limit, and counts the orders of its user.
//
// Setting: `max_total` (default 1000). State: `user/<id>/orders`.
#include "check.h"
#include "postrider.h"

static const double DEFAULT_MAX_TOTAL = 1000;

const pr_description pr_stage = {
    .name = "{{name}}",
    .version = "0.1.0",
    .summary = "Compares the total of an order with a limit",
    .consumes = (const char *const[]){"order.created", NULL},
    .emits = (const char *const[]){"{{name}}.checked", NULL},
    .settings_schema = "{\"properties\":{\"max_total\":{\"type\":\"number\",\"default\":1000}}}",
};

bool pr_handle(const pr_event *event) {
    yyjson_val *order = event->data;
    if (!yyjson_is_obj(order)) return pr_reject("bad-order", "the payload of %s is not a JSON object", event->type);
    if (yyjson_is_true(yyjson_obj_get(order, "force_fail"))) {
        return pr_retry("forced", 0, "the order requests a failure (`force_fail`)");
    }

    const char *setting = pr_setting("max_total");
    double limit;
    if (!read_limit(setting, DEFAULT_MAX_TOTAL, &limit)) {
        return pr_reject("bad-setting", "the setting `max_total` is not an amount: `%s`", setting);
    }

    const char *user = yyjson_get_str(yyjson_obj_get(order, "user_id"));
    const char *key = pr_text("user/%s/orders", user ? user : "unknown");
    uint64_t count = yyjson_get_uint(pr_get(key)) + 1;
    pr_set(key, yyjson_mut_uint(pr_json(), count));

    pr_log(PR_INFO, "order %s is number %llu of its user", event->subject, (unsigned long long)count);
    yyjson_mut_val *answer = check(pr_json(), order, pr_exact(event), limit, count);
    pr_emit((pr_emitted){.type = "{{name}}.checked", .data = answer});
    return true;
}
