// Two real nodes that have met, on loopback, and a browser. What a test or a picture needs, and its end.
import { execFile, spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

const run = promisify(execFile);
/** How long a node may take to be ready, and to stop. */
const READY_MS = 60_000;

/** Arguments without which Chromium asks for hosts of its maker's, or needs rights that a container does not give. */
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export class World {
  static async make(program) {
    const world = new World();
    world.program = program;
    world.dir = mkdtempSync(join(tmpdir(), "opencloud-dashboard-"));
    world.children = [];
    world.servers = [];
    try {
      world.survey = await world.node("survey", "Survey Office");
      world.harbour = await world.node("harbour", "Harbour Lab");
      world.browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
    } catch (error) {
      await world.end();
      throw error;
    }
    return world;
  }

  async command(home, ...args) {
    const { stdout } = await run(this.program, ["--home", home, ...args], { maxBuffer: 64 << 20 });
    return stdout.trim();
  }

  async node(name, org) {
    const home = join(this.dir, name);
    await this.command(home, "init", "--org", org);
    const args = ["--home", home, "up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--region", "eu", "--output", "json"];
    const child = spawn(this.program, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.children.push(child);
    let [told, failed] = ["", ""];
    child.stderr.on("data", (bytes) => (failed += bytes));
    const api = await new Promise((found, lost) => {
      const timer = setTimeout(() => lost(new Error(`${name} is not ready: ${failed}`)), READY_MS);
      child.on("exit", (code) => lost(new Error(`${name} ended with ${code}: ${failed}`)));
      child.stdout.on("data", (bytes) => {
        told += bytes;
        if (!told.includes("\n")) return;
        clearTimeout(timer);
        found(JSON.parse(told.slice(0, told.indexOf("\n"))).api);
      });
    });
    return { home, address: `http://${api}`, token: readFileSync(join(home, "api.token"), "utf8").trim() };
  }

  /** A provider of identities, as far as it is asked before anybody logs in. */
  async provider() {
    const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const keys = [{ ...publicKey.export({ format: "jwk" }), kid: "1", use: "sig", alg: "RS256" }];
    const server = createServer((request, response) => {
      const issuer = `http://${request.headers.host}`;
      const of = { issuer, authorization_endpoint: `${issuer}/auth`, token_endpoint: `${issuer}/token`, jwks_uri: `${issuer}/keys`, response_types_supported: ["code"], subject_types_supported: ["public"], id_token_signing_alg_values_supported: ["RS256"] };
      const told = { "/.well-known/openid-configuration": of, "/keys": { keys } }[request.url];
      response.writeHead(told === undefined ? 404 : 200, { "content-type": "application/json" }).end(JSON.stringify(told ?? {}));
    });
    this.servers.push(server);
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${server.address().port}`;
  }

  /** A page that is signed in, and what went wrong on it. */
  async page(options = {}, isSignedIn = true) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
    if (isSignedIn) await context.addInitScript((token) => sessionStorage.setItem("opencloud.token", token), this.survey.token);
    if (process.env.DIST !== undefined) await this.fromDisk(context, process.env.DIST);
    const page = await context.newPage();
    const errors = [];
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("request", (request) => {
      const { protocol, origin } = new URL(request.url());
      if (protocol !== "blob:" && origin !== this.survey.address) errors.push(`asked ${request.url()}`);
    });
    return { page, errors, context };
  }

  /** Files of the page out of a directory, under the policy that the program has: for work on the page, without building the program. */
  async fromDisk(context, dir) {
    const isPage = ({ origin, pathname }) => [this.survey.address, this.harbour.address].includes(origin) && !/^\/(api|login)\//.test(pathname);
    await context.route(isPage, async (route) => {
      const { headers } = await fetch(this.survey.address);
      const { pathname } = new URL(route.request().url());
      const file = join(dir, extname(pathname) === "" ? "index.html" : pathname);
      const kind = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" }[extname(file)] ?? "text/html";
      await route.fulfill({ path: file, contentType: kind, headers: { "content-security-policy": headers.get("content-security-policy") ?? "" } });
    });
  }

  async end() {
    await this.browser?.close();
    for (const server of this.servers) server.close().closeAllConnections();
    for (const child of this.children) {
      child.removeAllListeners("exit");
      if (child.exitCode !== null) continue;
      const ended = new Promise((done) => child.on("exit", done));
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), READY_MS);
      await ended;
      clearTimeout(timer);
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** The address of every page, of a run that is given. */
export function pages(run) {
  return { overview: "/", peers: "/peers", catalogue: "/catalogue", workspaces: "/workspaces", areas: "/areas", editor: "/editor", runs: "/runs", run: `/runs/${run}`, services: "/services", ledger: "/ledger", people: "/people", policies: "/policies", setup: "/setup", settings: "/settings" };
}

/** Waits until the page has what it asked for. */
export async function settle(page) {
  await page.locator("h1").first().waitFor();
  await page.waitForFunction(() => document.querySelector(".wait") === null);
}
