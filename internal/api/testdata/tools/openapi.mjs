// Two public validators of the OpenAPI document: swagger-parser (its JSON Schema and its own rules), and Redocly's.
import { readFile } from "node:fs/promises";
import SwaggerParser from "@apidevtools/swagger-parser";
import { createConfig, lintFromString } from "@redocly/openapi-core";

const file = process.argv[2];
await SwaggerParser.validate(file, { resolve: { external: false } });

const config = await createConfig({ extends: ["spec"] });
const problems = await lintFromString({ source: await readFile(file, "utf8"), absoluteRef: file, config });
for (const p of problems) console.error(`${p.severity}: ${p.ruleId}: ${p.message} ${p.location[0]?.pointer ?? ""}`);
if (problems.length > 0) process.exit(1);
