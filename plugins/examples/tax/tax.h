// The rule of the stage, without host and WebAssembly: tax_test.c calls it as it is.
//
// Money is in whole cents; rates are in thousandths of a percent, so 5.5 % is 5500. No sum is ever a floating-point number.
#ifndef TAX_H
#define TAX_H

#include <stdbool.h>
#include <stdint.h>

#include "yyjson.h"

// The operator's setting; NULL: not set.
typedef const char *(*tax_setting)(const char *key);

typedef struct {
    const char *code; // NULL: none
    char message[160];
} tax_problem;

// The nearest whole number; halfway between two, the even one. The denominator is positive and even.
int64_t divide_half_even(int64_t numerator, int64_t denominator);

// A JSON number with at most two decimals.
bool read_cents(yyjson_val *value, int64_t *cents);

// A percentage between 0 and 100 with at most three decimals: "19", "5.5".
bool read_rate(const char *text, int64_t *rate);

// The data of `tax.calculated`, or NULL and the problem.
yyjson_mut_val *calculate_tax(yyjson_mut_doc *json, yyjson_val *order, tax_setting setting, tax_problem *problem);

#endif
