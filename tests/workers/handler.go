// What the workers in the tests do: a message says how long it takes, and whether it fails.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

func init() {
	handle = func(message Message) error {
		var body struct {
			N       any
			Seconds float64
			Fails   bool
		}
		if err := json.Unmarshal(message.Body, &body); err != nil {
			return err
		}
		fmt.Println("begun", body.N)
		time.Sleep(time.Duration(body.Seconds * float64(time.Second)))
		if body.Fails {
			return errors.New("as the message says")
		}
		fmt.Println("done", body.N)
		return nil
	}
}
