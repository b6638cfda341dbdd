package main

import (
	"encoding/json"
	"strconv"
)

// Order has the fields of an order that the rule reads. Every field is optional.
type Order struct {
	ID        string      `json:"order_id"`
	UserID    string      `json:"user_id"`
	Items     []Item      `json:"items"`
	Total     json.Number `json:"total"` // passed on, so it keeps its digits; "" if it is missing
	ForceFail bool        `json:"force_fail"`
}

// Item is a line of an order. A missing price counts as 0 and a missing quantity as 1.
type Item struct {
	UnitPrice float64  `json:"unit_price"`
	Quantity  *float64 `json:"quantity"`
}

// UnmarshalJSON also accepts an item that is just a name.
func (item *Item) UnmarshalJSON(data []byte) error {
	var name string
	if json.Unmarshal(data, &name) == nil {
		return nil
	}
	type fields Item
	return json.Unmarshal(data, (*fields)(item))
}

// Answer is the payload of `{{name}}.checked`.
type Answer struct {
	OrderID      string      `json:"order_id"`
	Total        json.Number `json:"total"`
	OrdersOfUser int         `json:"orders_of_user"`
	Accepted     bool        `json:"accepted"`
}

// check is the business rule of the stage, independent of the host and WebAssembly.
func check(order Order, limit float64, count int) Answer {
	total := order.total()
	// A number that is larger than any float64 is infinite.
	amount, _ := total.Float64()
	return Answer{OrderID: order.ID, Total: total, OrdersOfUser: count, Accepted: amount <= limit}
}

// total returns the order's total, digit by digit, or the sum of its items if it has none.
func (order Order) total() json.Number {
	if order.Total != "" {
		return order.Total
	}
	sum := 0.0
	for _, item := range order.Items {
		quantity := 1.0
		if item.Quantity != nil {
			quantity = *item.Quantity
		}
		sum += item.UnitPrice * quantity
	}
	return json.Number(strconv.FormatFloat(sum, 'f', -1, 64))
}

func (order Order) user() string {
	if order.UserID == "" {
		return "unknown"
	}
	return order.UserID
}
