package api

import (
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// Optional is a field of a PATCH whose absence and whose null mean different things: keep it, take it away.
type Optional[T any] struct {
	Sent  bool
	Value *T // nil: null
}

// UnmarshalJSON is called for what is there, null included.
func (o *Optional[T]) UnmarshalJSON(text []byte) error {
	o.Sent = true
	return json.Unmarshal(text, &o.Value)
}

// Schema is that of the value, or null.
func (o Optional[T]) Schema(r huma.Registry) *huma.Schema {
	s := *huma.SchemaFromType(r, reflect.TypeFor[T]())
	s.Nullable = true
	return &s
}

// Asked is a query parameter that may be absent, whose zero value means something.
type Asked[T any] struct {
	Value T // huma sets it by reflection
	sent  bool
}

var (
	_ huma.ParamWrapper = (*Asked[bool])(nil)
	_ huma.ParamReactor = (*Asked[bool])(nil)
)

// Schema is that of the value.
func (a Asked[T]) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[T]())
}

// Receiver is where huma writes the value.
func (a *Asked[T]) Receiver() reflect.Value { return reflect.ValueOf(a).Elem().Field(0) }

// OnParamSet is told whether the parameter was there.
func (a *Asked[T]) OnParamSet(sent bool, _ any) { a.sent = sent }

// pointer is nil where the parameter was absent.
func (a *Asked[T]) pointer() *T {
	if !a.sent {
		return nil
	}
	return &a.Value
}
