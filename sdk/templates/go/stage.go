// {{name}} checks whether the total of every new order is within a limit, and counts the orders of its user.
//
// Setting: `max_total` (default 1000). State: `user/<id>/orders`.
package main

import (
	"fmt"

	"stage/postrider"
)

func init() {
	postrider.Serve(postrider.Stage{
		Name:           "{{name}}",
		Version:        "0.1.0",
		Summary:        "Compares the total of an order with a limit",
		Consumes:       []string{"order.created"},
		Emits:          []string{"{{name}}.checked"},
		SettingsSchema: `{"properties":{"max_total":{"type":"number","default":1000}}}`,
		Handle:         handle,
	})
}

func handle(call *postrider.Call) error {
	var order Order
	if err := call.Event.Object(&order); err != nil {
		return postrider.Reject("bad-order", err.Error())
	}
	if order.ForceFail {
		return postrider.Retry("forced", "the order requests a failure (`force_fail`)")
	}
	limit, err := postrider.Setting(call, "max_total", 1000.0)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("user/%s/orders", order.user())
	count, err := postrider.Get(call, key, 0)
	if err != nil {
		return err
	}
	count++
	call.Set(key, count)

	call.Log(postrider.Info, fmt.Sprintf("order %s is number %d of its user", call.Event.Subject, count))
	call.Emit("{{name}}.checked", check(order, limit, count))
	return nil
}

// Required by the compiler; the host calls the exports instead.
func main() {}
