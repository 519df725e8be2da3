package realtime

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
)

// object is a JSON object whose members keep their order.
type object []field

type field struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, part := range []any{m.name, m.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(part); err != nil {
				return nil, err
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// schemas are the JSON Schemas (draft 7) of Go types, by name. Objects are closed.
type schemas struct{ named object }

func (s *schemas) has(name string) bool {
	for _, m := range s.named {
		if m.name == name {
			return true
		}
	}
	return false
}

func reference(kind, name string) object {
	return object{{"$ref", "#/components/" + kind + "/" + name}}
}

// add puts a struct type under a name, once, and refers to it.
func (s *schemas) add(name string, t reflect.Type) object {
	if !s.has(name) {
		s.named = append(s.named, field{name, nil})
		at := len(s.named) - 1
		s.named[at].value = s.structure(t)
	}
	return reference("schemas", name)
}

func (s *schemas) structure(t reflect.Type) object {
	properties, required := s.fields(t)
	return object{
		{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false},
	}
}

// fields are those of a struct and of what it embeds, by their names on the wire.
func (s *schemas) fields(t reflect.Type) (properties object, required []string) {
	required = []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			p, r := s.fields(f.Type)
			properties, required = append(properties, p...), append(required, r...)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		properties = append(properties, field{name, s.property(f)})
		if option != "omitempty" {
			required = append(required, name)
		}
	}
	return properties, required
}

// property is the schema of a field: its type, and what its tags say beside it.
func (s *schemas) property(f reflect.StructField) object {
	var o object
	t, nullable := f.Type, f.Type.Kind() == reflect.Pointer
	if nullable {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
	case t.Kind() == reflect.Struct:
		return s.add(typeName(t), t)
	case t.Kind() == reflect.Slice:
		o = object{{"type", "array"}, {"items", s.item(t.Elem(), f.Tag)}}
	default:
		o = append(object{{"type", kind(t, nullable)}}, limits(f.Tag)...)
	}
	if doc := f.Tag.Get("doc"); doc != "" {
		o = append(o, field{"description", doc})
	}
	if o == nil {
		o = object{}
	}
	return o
}

func (s *schemas) item(t reflect.Type, tag reflect.StructTag) object {
	if t.Kind() == reflect.Struct {
		return s.add(typeName(t), t)
	}
	return append(object{{"type", kind(t, false)}}, limits(tag)...)
}

func kind(t reflect.Type, nullable bool) any {
	name := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer"}[t.Kind()]
	if name == "" {
		panic("no schema for " + t.String()) // found by every test of the document
	}
	if nullable {
		return []string{name, "null"}
	}
	return name
}

// limits are what the tags enum, const and format say.
func limits(tag reflect.StructTag) object {
	var o object
	if values := tag.Get("enum"); values != "" {
		o = append(o, field{"enum", strings.Split(values, ",")})
	}
	if value := tag.Get("const"); value != "" {
		o = append(o, field{"const", value == "true"})
	}
	if format := tag.Get("format"); format != "" {
		o = append(o, field{"format", format})
	}
	return o
}

// typeName is a type's name for strangers: presenceEvent is Presence.
func typeName(t reflect.Type) string {
	name := strings.TrimSuffix(t.Name(), "Event")
	return strings.ToUpper(name[:1]) + name[1:]
}
