package main

import "roombell/internal/realtime"

type asyncapiCmd struct {
	JSON bool `name:"json" env:"ROOMBELL_JSON" help:"JSON in place of YAML."`
}

// Run prints the AsyncAPI document of this version's events, as a server has it at /asyncapi.yaml.
func (c asyncapiCmd) Run(p *program) error {
	document, err := realtime.AsyncAPI(readVersion().version)
	if err != nil {
		return err
	}
	return printDocument(p.stdout, document, c.JSON)
}
