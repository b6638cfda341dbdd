// tax: calculates the tax of every new order, line by line.
//
// The tax of a line is its net amount times the rate of its category, rounded half to even to cents. The tax of the order is the sum
// of its rounded lines. An order whose items have no prices is a single line with its total. Stateless.
#include "postrider.h"
#include "tax.h"

const pr_description pr_stage = {
    .name = "tax",
    .version = "0.1.0",
    .summary = "Calculates the tax of an order by the rates of its items' categories",
    .consumes = (const char *const[]){"order.created", NULL},
    .emits = (const char *const[]){"tax.calculated", NULL},
    .settings_schema = "{\"patternProperties\":{\"^rate\\\\.\":{\"type\":\"string\",\"pattern\":\"^[0-9]+(\\\\.[0-9]{1,3})?$\"}}}",
};

bool pr_handle(const pr_event *event) {
    yyjson_val *order = event->data;
    if (!yyjson_is_obj(order)) return pr_reject("bad-order", "the payload of %s is not a JSON object", event->type);
    tax_problem problem;
    yyjson_mut_val *answer = calculate_tax(pr_json(), order, pr_setting, &problem);
    if (!answer) return pr_reject(problem.code, "%s", problem.message);
    pr_emit((pr_emitted){.type = "tax.calculated", .data = answer});
    return true;
}
