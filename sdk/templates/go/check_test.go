package main

import (
	"encoding/json"
	"testing"
)

func TestCheck(t *testing.T) {
	cases := []struct {
		name, order string
		limit       float64
		want        Answer
	}{
		{"the limit itself is accepted", `{"order_id":"1","total":20}`, 20, Answer{"1", "20", 1, true}},
		{"more is not", `{"order_id":"1","total":20.01}`, 20, Answer{"1", "20.01", 1, false}},
		{
			"a total keeps every digit", `{"total":20.00000000000000000010}`, 20,
			Answer{"", "20.00000000000000000010", 1, true},
		},
		{
			"items are summed where the total is missing",
			`{"items":["Book",{"unit_price":4.5},{"unit_price":2,"quantity":3}]}`, 20, Answer{"", "10.5", 1, true},
		},
		{"every field may be missing", `{}`, 20, Answer{"", "0", 1, true}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var order Order
			if err := json.Unmarshal([]byte(c.order), &order); err != nil {
				t.Fatal(err)
			}
			if got := check(order, c.limit, 1); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestInvalidOrdersAreRejected(t *testing.T) {
	for _, data := range []string{`{"total":"much"}`, `{"items":[7]}`, `{"items":{}}`} {
		var order Order
		if err := json.Unmarshal([]byte(data), &order); err == nil {
			t.Errorf("%s was read as %+v", data, order)
		}
	}
}
