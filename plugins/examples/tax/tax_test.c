#include "tax.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *rates(const char *key) {
    if (strcmp(key, "rate.books") == 0) return "5.5";
    if (strcmp(key, "rate.broken") == 0) return "a lot";
    return NULL;
}

static const char *no_settings(const char *key) {
    (void)key;
    return NULL;
}

// The payload for `order` as text, or the problem's code.
static void answers(const char *order, tax_setting setting, const char *expected) {
    yyjson_doc *given = yyjson_read(order, strlen(order), 0);
    yyjson_mut_doc *json = yyjson_mut_doc_new(NULL);
    tax_problem problem;
    yyjson_mut_val *answer = calculate_tax(json, yyjson_doc_get_root(given), setting, &problem);
    char *text = answer ? yyjson_mut_val_write(answer, 0, NULL) : strdup(problem.code);
    if (strcmp(text, expected) != 0) {
        fprintf(stderr, "order:    %s\nexpected: %s\nanswer:   %s %s\n", order, expected, text, problem.message);
        exit(1);
    }
    free(text);
    yyjson_mut_doc_free(json);
    yyjson_doc_free(given);
}

static void halves_go_to_the_even_number(void) {
    static const struct { int64_t numerator, expected; } cases[] = {
        {0, 0},   {49, 0},  {50, 0},  {51, 1},   {149, 1},   {150, 2},   {250, 2},
        {251, 3}, {350, 4}, {-50, 0}, {-51, -1}, {-150, -2}, {-250, -2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert(divide_half_even(cases[i].numerator, 100) == cases[i].expected);
    }
}

static void every_amount_of_whole_cents_is_exact(void) {
    char text[32];
    int64_t cents;
    for (int64_t want = 0; want < 10000000000000; want = want * 3 / 2 + 1) {
        snprintf(text, sizeof text, "%lld.%02d", (long long)(want / 100), (int)(want % 100));
        yyjson_doc *given = yyjson_read(text, strlen(text), 0);
        assert(read_cents(yyjson_doc_get_root(given), &cents) && cents == want);
        yyjson_doc_free(given);
    }
    yyjson_doc *given = yyjson_read("[1.005, 1e14, \"1\", null]", 24, 0);
    for (size_t i = 0; i < 4; i++) assert(!read_cents(yyjson_arr_get(yyjson_doc_get_root(given), i), &cents));
    yyjson_doc_free(given);
}

static void rates_are_percentages(void) {
    int64_t rate;
    assert(read_rate("19", &rate) && rate == 19000);
    assert(read_rate("5.5", &rate) && rate == 5500);
    assert(read_rate("0.001", &rate) && rate == 1);
    assert(read_rate("100", &rate) && rate == 100000);
    const char *const wrong[] = {"", ".", ".5", "5.", "-1", "100.001", "1.2345", "5,5", "20%", "1e1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert(!read_rate(wrong[i], &rate));
}

static void each_line_is_rounded_by_itself(void) {
    // 3 x 0.10 at 5.5 % is 1.65 cents, 0.50 at 5.5 % is 2.75 cents, 12.30 at 20 % is 2.46.
    answers("{\"order_id\":\"1\",\"items\":[{\"sku\":\"a\",\"category\":\"books\",\"unit_price\":0.1,\"quantity\":3},"
            "{\"sku\":\"b\",\"category\":\"books\",\"unit_price\":0.5},{\"sku\":\"c\",\"unit_price\":12.3}]}",
            rates,
            "{\"order_id\":\"1\",\"lines\":[{\"sku\":\"a\",\"category\":\"books\",\"net\":0.3,\"rate\":5.5,\"tax\":0.02},"
            "{\"sku\":\"b\",\"category\":\"books\",\"net\":0.5,\"rate\":5.5,\"tax\":0.03},"
            "{\"sku\":\"c\",\"net\":12.3,\"rate\":20.0,\"tax\":2.46}],\"net\":13.1,\"tax\":2.51,\"gross\":15.61}");
}

static void an_order_without_prices_is_one_line(void) {
    answers("{\"order_id\":\"2\",\"items\":[\"Book\"],\"total\":20.0}", no_settings,
            "{\"order_id\":\"2\",\"lines\":[{\"net\":20.0,\"rate\":20.0,\"tax\":4.0}],\"net\":20.0,\"tax\":4.0,\"gross\":24.0}");
}

static void a_discount_lowers_the_tax(void) {
    answers("{\"items\":[{\"unit_price\":10},{\"unit_price\":-2.5}]}", no_settings,
            "{\"lines\":[{\"net\":10.0,\"rate\":20.0,\"tax\":2.0},{\"net\":-2.5,\"rate\":20.0,\"tax\":-0.5}],"
            "\"net\":7.5,\"tax\":1.5,\"gross\":9.0}");
}

static void what_cannot_be_taxed_is_refused(void) {
    answers("{}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":1.005}]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":1},\"Book\"]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":1,\"quantity\":1.5}]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":1,\"quantity\":-1}]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":99999999999,\"quantity\":2}]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":99999999999,\"quantity\":1000000}]}", no_settings, "bad-order");
    answers("{\"items\":[{\"unit_price\":1,\"category\":\"broken\"}]}", rates, "bad-setting");
}

int main(void) {
    halves_go_to_the_even_number();
    every_amount_of_whole_cents_is_exact();
    rates_are_percentages();
    each_line_is_rounded_by_itself();
    an_order_without_prices_is_one_line();
    a_discount_lowers_the_tax();
    what_cannot_be_taxed_is_refused();
    puts("ok");
}
