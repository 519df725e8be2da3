//go:build stress

package eventlog

import (
	"os"

	"roombell/internal/eventlog/internal/fault"
)

// omitted is the step of the algorithm that New leaves out, as the environment says: in the servers of the stress program, which must notice.
func omitted() fault.Step {
	step, ok := fault.Parse(os.Getenv("BREAK"))
	if !ok {
		panic("BREAK names no step of the algorithm")
	}
	return step
}
