// Builds the app into `dist`, or another directory, packs each file once and for all visits, and says what a first visit loads.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "vite";

const FIRST_LOAD_MAX = 300 * 1024;
const outDir = resolve(process.argv[2] ?? "dist");
await build({ build: { outDir, emptyOutDir: true }, logLevel: "warn" });

const root = pathToFileURL(`${outDir}/`);
const packed = new Map();
for (const entry of readdirSync(root, { recursive: true })) {
  const name = String(entry);
  if (!/\.(js|css|html|svg)$/.test(name)) continue;
  const bytes = gzipSync(readFileSync(new URL(name, root)), { level: 9 });
  // The byte that names the operating system would differ from machine to machine.
  bytes[9] = 255;
  writeFileSync(new URL(`${name}.gz`, root), bytes);
  packed.set(name, bytes.length);
}
const page = readFileSync(new URL("index.html", root), "utf8");
let first = packed.get("index.html");
for (const [, name] of page.matchAll(/(?:src|href)="\/([^"]+)"/g)) first += packed.get(name) ?? 0;
for (const [name, size] of [...packed].sort((a, b) => b[1] - a[1])) console.log(`${String(size).padStart(8)}  ${name}`);
console.log(`first load: ${first} of at most ${FIRST_LOAD_MAX} bytes`);
if (first > FIRST_LOAD_MAX) process.exit(1);
