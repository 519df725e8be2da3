// node bundle.js FOLDER: makes app.js of the folder's main.jsx or main.js, as a reader's own build would.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compileScript, parse } from "vue/compiler-sfc";

const vue = {
  name: "vue",
  setup({ onLoad }) {
    onLoad({ filter: /\.vue$/ }, ({ path }) => {
      const { descriptor, errors } = parse(readFileSync(path, "utf8"), { filename: path });
      if (errors.length > 0) throw errors[0];
      return { contents: compileScript(descriptor, { id: path, inlineTemplate: true }).content, loader: "js" };
    });
  },
};

const [folder] = process.argv.slice(2);
await build({
  entryPoints: [existsSync(`${folder}/main.jsx`) ? `${folder}/main.jsx` : `${folder}/main.js`],
  outfile: `${folder}/app.js`,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  nodePaths: [fileURLToPath(new URL("node_modules", import.meta.url))],
  plugins: [vue],
  // Development builds: React's StrictMode then runs every effect twice.
  define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "false", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
  logLevel: "warning",
});
