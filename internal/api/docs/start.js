// Shows our own document, and asks nobody else: the validator's badge would ask a foreign host.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null, docExpansion: "list" });
