package main

import "encoding/json"

// Order is what the rule reads of an order. Every field may be missing.
type Order struct {
	ID        string   `json:"order_id"`
	UserID    string   `json:"user_id"`
	Items     []Item   `json:"items"`
	Total     *float64 `json:"total"`
	ForceFail bool     `json:"force_fail"`
}

// Item costs nothing where its price is missing, and is one where its quantity is.
type Item struct {
	UnitPrice float64  `json:"unit_price"`
	Quantity  *float64 `json:"quantity"`
}

// UnmarshalJSON takes a mere name, too.
func (item *Item) UnmarshalJSON(data []byte) error {
	var name string
	if json.Unmarshal(data, &name) == nil {
		return nil
	}
	type fields Item
	return json.Unmarshal(data, (*fields)(item))
}

// Answer is the data of `{{name}}.checked`.
type Answer struct {
	OrderID      string  `json:"order_id"`
	Total        float64 `json:"total"`
	OrdersOfUser int     `json:"orders_of_user"`
	Accepted     bool    `json:"accepted"`
}

// check is the rule of the stage, without host and WebAssembly.
func check(order Order, limit float64, count int) Answer {
	total := order.total()
	return Answer{OrderID: order.ID, Total: total, OrdersOfUser: count, Accepted: total <= limit}
}

// total is the sum of the items where no total was given.
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
