package main

import "encoding/json"

// Order has the fields of an order that the rule reads. Every field is optional.
type Order struct {
	ID        string   `json:"order_id"`
	UserID    string   `json:"user_id"`
	Items     []Item   `json:"items"`
	Total     *float64 `json:"total"`
	ForceFail bool     `json:"force_fail"`
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
	OrderID      string  `json:"order_id"`
	Total        float64 `json:"total"`
	OrdersOfUser int     `json:"orders_of_user"`
	Accepted     bool    `json:"accepted"`
}

// check is the business rule of the stage, independent of the host and WebAssembly.
func check(order Order, limit float64, count int) Answer {
	total := order.total()
	return Answer{OrderID: order.ID, Total: total, OrdersOfUser: count, Accepted: total <= limit}
}

// total returns the order's total, or the sum of its items if it has none.
func (order Order) total() float64 {
	if order.Total != nil {
		return *order.Total
	}
	sum := 0.0
	for _, item := range order.Items {
		quantity := 1.0
		if item.Quantity != nil {
			quantity = *item.Quantity
		}
		sum += item.UnitPrice * quantity
	}
	return sum
}

func (order Order) user() string {
	if order.UserID == "" {
		return "unknown"
	}
	return order.UserID
}
