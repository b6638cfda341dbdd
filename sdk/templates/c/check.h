// The rule of the stage, without host and WebAssembly: check_test.c calls it as it is.
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "yyjson.h"

// What an order costs: its total, or the sum of its items where no total was given.
double order_total(yyjson_val *order);

// The operator's limit, or `fallback` where `setting` is NULL. False: it is no amount.
bool read_limit(const char *setting, double fallback, double *limit);

// The data of the answer, about the user's order number `count`.
yyjson_mut_val *check(yyjson_mut_doc *json, yyjson_val *order, double limit, uint64_t count);

#endif
