#include "check.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void answers(const char *order, double limit, uint64_t count, const char *expected) {
    yyjson_doc *given = yyjson_read(order, strlen(order), 0);
    yyjson_doc *exact = yyjson_read(order, strlen(order), YYJSON_READ_NUMBER_AS_RAW);
    yyjson_mut_doc *json = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *checked = check(json, yyjson_doc_get_root(given), yyjson_doc_get_root(exact), limit, count);
    char *answer = yyjson_mut_val_write(checked, 0, NULL);
    if (!answer || strcmp(answer, expected) != 0) {
        fprintf(stderr, "order:    %s\nexpected: %s\nanswer:   %s\n", order, expected, answer);
        exit(1);
    }
    free(answer);
    yyjson_mut_doc_free(json);
    yyjson_doc_free(exact);
    yyjson_doc_free(given);
}

static void the_limit_itself_is_accepted(void) {
    answers("{\"order_id\":\"1\",\"total\":20}", 20, 1,
            "{\"order_id\":\"1\",\"total\":20,\"orders_of_user\":1,\"accepted\":true}");
    answers("{\"order_id\":\"1\",\"total\":20.01}", 20, 7,
            "{\"order_id\":\"1\",\"total\":20.01,\"orders_of_user\":7,\"accepted\":false}");
}

static void a_total_keeps_every_digit(void) {
    answers("{\"order_id\":\"3\",\"total\":20.00000000000000000010}", 20, 1,
            "{\"order_id\":\"3\",\"total\":20.00000000000000000010,\"orders_of_user\":1,\"accepted\":true}");
}

static void items_are_summed_if_the_total_is_missing(void) {
    answers("{\"order_id\":\"2\",\"items\":[\"Book\",{\"unit_price\":4.5},{\"unit_price\":2,\"quantity\":3}]}", 10, 1,
            "{\"order_id\":\"2\",\"total\":10.5,\"orders_of_user\":1,\"accepted\":false}");
}

static void every_field_is_optional(void) {
    answers("{}", 10, 1, "{\"total\":0.0,\"orders_of_user\":1,\"accepted\":true}");
}

static void a_setting_must_be_an_amount(void) {
    double limit;
    assert(read_limit(NULL, 1000, &limit) && limit == 1000);
    assert(read_limit("12.50", 1000, &limit) && limit == 12.5);
    assert(!read_limit("", 1000, &limit) && !read_limit("12 euros", 1000, &limit) && !read_limit("inf", 1000, &limit));
}

int main(void) {
    the_limit_itself_is_accepted();
    a_total_keeps_every_digit();
    items_are_summed_if_the_total_is_missing();
    every_field_is_optional();
    a_setting_must_be_an_amount();
    puts("ok");
}
