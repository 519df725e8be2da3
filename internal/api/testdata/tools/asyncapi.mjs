// The public parser of AsyncAPI documents, with all its rules.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
// Severity 0 is an error, 1 a warning; a newer minor version of AsyncAPI is no fault of the document.
const faults = diagnostics.filter((d) => d.severity <= 1);
for (const d of diagnostics) console.error(`${d.severity}: ${d.code}: ${d.message} ${d.path.join("/")}`);
if (!document || faults.length > 0) process.exit(1);
if (document.operations().length === 0) throw new Error("no operations");
