// The business rule of the stage, independent of the host and WebAssembly. check_test.c tests it natively.
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "yyjson.h"

// The total of an order, or the sum of its items if it has no total.
double order_total(yyjson_val *order);

// Reads the limit from a setting, or uses `fallback` if `setting` is NULL. Returns false if it is not an amount.
bool read_limit(const char *setting, double fallback, double *limit);

// Builds the payload of `{{name}}.checked`. `exact` is the order with its numbers as texts, which are passed on digit by digit.
// `count` is the number of orders the user has placed, including this one.
yyjson_mut_val *check(yyjson_mut_doc *json, yyjson_val *order, yyjson_val *exact, double limit, uint64_t count);

#endif
