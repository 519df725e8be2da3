package main

import (
	"io"

	"roombell/internal/api"
)

type openapiCmd struct {
	JSON bool `name:"json" env:"ROOMBELL_JSON" help:"JSON in place of YAML."`
}

// Run prints the OpenAPI document of this version, as a server has it at /openapi.yaml.
func (c openapiCmd) Run(p *program) error {
	document, err := api.OpenAPI(readVersion().version)
	if err != nil {
		return err
	}
	return printDocument(p.stdout, document, c.JSON)
}

func printDocument(w io.Writer, document api.Document, inJSON bool) error {
	text := []byte(document)
	if !inJSON {
		var err error
		if text, err = document.YAML(); err != nil {
			return err
		}
	}
	_, err := w.Write(text)
	return err
}
