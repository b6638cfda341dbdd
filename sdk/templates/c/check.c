#include "check.h"

#include <math.h>
#include <stdlib.h>

// A missing price counts as 0 and a missing quantity as 1. An item may also be just a name.
double order_total(yyjson_val *order) {
    yyjson_val *total = yyjson_obj_get(order, "total"), *item;
    if (yyjson_is_num(total)) return yyjson_get_num(total);
    double sum = 0;
    size_t index, count;
    yyjson_arr_foreach(yyjson_obj_get(order, "items"), index, count, item) {
        yyjson_val *quantity = yyjson_obj_get(item, "quantity");
        sum += yyjson_get_num(yyjson_obj_get(item, "unit_price")) * (yyjson_is_num(quantity) ? yyjson_get_num(quantity) : 1);
    }
    return sum;
}

bool read_limit(const char *setting, double fallback, double *limit) {
    char *end = "";
    *limit = setting ? strtod(setting, &end) : fallback;
    return end != setting && *end == '\0' && isfinite(*limit);
}

yyjson_mut_val *check(yyjson_mut_doc *json, yyjson_val *order, yyjson_val *exact, double limit, uint64_t count) {
    double total = order_total(order);
    bool is_given = yyjson_is_num(yyjson_obj_get(order, "total"));
    yyjson_mut_val *answer = yyjson_mut_obj(json);
    yyjson_mut_obj_add_val(json, answer, "order_id", yyjson_val_mut_copy(json, yyjson_obj_get(exact, "order_id")));
    yyjson_mut_obj_add_val(json, answer, "total",
                           is_given ? yyjson_val_mut_copy(json, yyjson_obj_get(exact, "total")) : yyjson_mut_real(json, total));
    yyjson_mut_obj_add_uint(json, answer, "orders_of_user", count);
    yyjson_mut_obj_add_bool(json, answer, "accepted", total <= limit);
    return answer;
}
