#include "tax.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

static const char DEFAULT_RATE[] = "20";
static const int64_t WHOLE = 100000; // 100 % in thousandths of a percent
// A hundred billion in cents: times WHOLE it fits 64 bits, and so does the sum of a million lines.
static const int64_t LINE_MAX_CENTS = 10000000000000;

static bool fail(tax_problem *problem, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->message, sizeof problem->message, format, arguments);
    va_end(arguments);
    problem->code = code;
    return false;
}

int64_t divide_half_even(int64_t numerator, int64_t denominator) {
    int64_t quotient = numerator / denominator, rest = numerator % denominator, half = denominator / 2;
    bool away = rest > half || rest < -half || ((rest == half || rest == -half) && quotient % 2 != 0);
    return away ? quotient + (numerator < 0 ? -1 : 1) : quotient;
}

// Exact within these bounds: the nearest double differs from the number by less than a hundredth of a cent.
bool read_cents(yyjson_val *value, int64_t *cents) {
    double exact = yyjson_get_num(value) * 100;
    if (!yyjson_is_num(value) || fabs(exact) > (double)LINE_MAX_CENTS) return false;
    *cents = llround(exact);
    return fabs(exact - (double)*cents) < 0.01;
}

bool read_rate(const char *text, int64_t *rate) {
    int64_t thousandths = 0;
    int digits = 0, decimals = -1;
    for (; *text; text++) {
        if (*text == '.' && decimals < 0 && digits > 0) {
            decimals = 0;
        } else if (*text >= '0' && *text <= '9' && decimals < 3 && digits++ < 9) {
            thousandths = thousandths * 10 + (*text - '0');
            if (decimals >= 0) decimals++;
        } else {
            return false;
        }
    }
    if (digits == 0 || decimals == 0) return false;
    for (int i = decimals < 0 ? 0 : decimals; i < 3; i++) thousandths *= 10;
    *rate = thousandths;
    return thousandths <= WHOLE;
}

// The setting `rate.<category>`, or `rate.default`, or 20 %.
static bool find_rate(const char *category, tax_setting setting, int64_t *rate, tax_problem *problem) {
    char key[64] = "rate.default";
    const char *text = NULL;
    if (category && (size_t)snprintf(key, sizeof key, "rate.%s", category) < sizeof key) text = setting(key);
    if (!text) {
        snprintf(key, sizeof key, "rate.default");
        text = setting(key);
    }
    if (read_rate(text ? text : DEFAULT_RATE, rate)) return true;
    return fail(problem, "bad-setting", "the setting `%s` is not a percentage: `%.40s`", key, text);
}

static double amount(int64_t cents) { return (double)cents / 100; }

// The calculation in progress.
typedef struct {
    yyjson_mut_doc *json;
    yyjson_mut_val *lines;
    tax_setting setting;
    tax_problem *problem;
    int64_t net, tax;
} sheet;

static bool add_line(sheet *sheet, yyjson_val *item, int64_t net) {
    yyjson_mut_doc *json = sheet->json;
    yyjson_val *category = yyjson_obj_get(item, "category");
    int64_t rate;
    if (!find_rate(yyjson_get_str(category), sheet->setting, &rate, sheet->problem)) return false;
    int64_t tax = divide_half_even(net * rate, WHOLE);
    sheet->net += net;
    sheet->tax += tax;
    yyjson_mut_val *line = yyjson_mut_arr_add_obj(json, sheet->lines);
    yyjson_mut_obj_add_val(json, line, "sku", yyjson_val_mut_copy(json, yyjson_obj_get(item, "sku")));
    yyjson_mut_obj_add_val(json, line, "category", yyjson_val_mut_copy(json, category));
    yyjson_mut_obj_add_real(json, line, "net", amount(net));
    yyjson_mut_obj_add_real(json, line, "rate", (double)rate / 1000);
    yyjson_mut_obj_add_real(json, line, "tax", amount(tax));
    return true;
}

static bool add_item(sheet *sheet, yyjson_val *item, size_t index) {
    yyjson_val *quantity = yyjson_obj_get(item, "quantity");
    double pieces = quantity ? yyjson_get_num(quantity) : 1;
    int64_t price, net;
    if (!read_cents(yyjson_obj_get(item, "unit_price"), &price)) {
        return fail(sheet->problem, "bad-order", "items[%zu].unit_price is not an amount in whole cents", index);
    }
    if ((quantity && !yyjson_is_num(quantity)) || pieces < 0 || pieces > 1e6 || pieces != floor(pieces)) {
        return fail(sheet->problem, "bad-order", "items[%zu].quantity is not a whole number up to a million", index);
    }
    if (__builtin_mul_overflow(price, (int64_t)pieces, &net) || net > LINE_MAX_CENTS || net < -LINE_MAX_CENTS) {
        return fail(sheet->problem, "bad-order", "the amount of items[%zu] is too large", index);
    }
    return add_line(sheet, item, net);
}

static bool has_prices(yyjson_val *items) {
    size_t index, count;
    yyjson_val *item;
    yyjson_arr_foreach(items, index, count, item) {
        if (yyjson_obj_get(item, "unit_price")) return true;
    }
    return false;
}

static bool add_lines(sheet *sheet, yyjson_val *order) {
    yyjson_val *items = yyjson_obj_get(order, "items"), *item;
    if (!has_prices(items)) {
        int64_t total;
        if (read_cents(yyjson_obj_get(order, "total"), &total)) return add_line(sheet, NULL, total);
        return fail(sheet->problem, "bad-order", "neither the items nor the total have an amount in whole cents");
    }
    size_t index, count;
    yyjson_arr_foreach(items, index, count, item) {
        if (!add_item(sheet, item, index)) return false;
    }
    return true;
}

yyjson_mut_val *calculate_tax(yyjson_mut_doc *json, yyjson_val *order, tax_setting setting, tax_problem *problem) {
    *problem = (tax_problem){0};
    sheet sheet = {.json = json, .lines = yyjson_mut_arr(json), .setting = setting, .problem = problem};
    if (!add_lines(&sheet, order)) return NULL;
    yyjson_mut_val *answer = yyjson_mut_obj(json);
    yyjson_mut_obj_add_val(json, answer, "order_id", yyjson_val_mut_copy(json, yyjson_obj_get(order, "order_id")));
    yyjson_mut_obj_add_val(json, answer, "lines", sheet.lines);
    yyjson_mut_obj_add_real(json, answer, "net", amount(sheet.net));
    yyjson_mut_obj_add_real(json, answer, "tax", amount(sheet.tax));
    yyjson_mut_obj_add_real(json, answer, "gross", amount(sheet.net + sheet.tax));
    return answer;
}
