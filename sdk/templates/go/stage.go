// {{name}} says of every new order whether its total is within the limit, and how many orders the user has made.
//
// Setting `max_total`, 1000 where it is missing. State: `user/<id>/orders`.
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
		return postrider.Retry("forced", "the order asks for a failure (`force_fail`)")
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

// The host calls the exports; there is nothing to run.
func main() {}
