// The business rule of the stage, independent of the host and WebAssembly. tax_test.c tests it natively.
//
// Money is in whole cents; rates are in thousandths of a percent, so 5.5 % is 5500. Sums are never floating-point numbers.
#ifndef TAX_H
#define TAX_H

#include <stdbool.h>
#include <stdint.h>

#include "yyjson.h"

// Reads a setting; NULL if it is not set.
typedef const char *(*tax_setting)(const char *key);

typedef struct {
    const char *code; // NULL if there is no problem
    char message[160];
} tax_problem;

// Rounds half to even. The denominator is positive and even.
int64_t divide_half_even(int64_t numerator, int64_t denominator);

// Parses a JSON number with at most two decimals.
bool read_cents(yyjson_val *value, int64_t *cents);

// Parses a percentage from 0 to 100 with at most three decimals: "19", "5.5".
bool read_rate(const char *text, int64_t *rate);

// Returns the payload of `tax.calculated`, or NULL with the problem.
yyjson_mut_val *calculate_tax(yyjson_mut_doc *json, yyjson_val *order, tax_setting setting, tax_problem *problem);

#endif
