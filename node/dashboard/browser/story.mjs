// The whole story of two organisations, in Chromium, on real nodes with a certified provider of identities:
// `node browser/story.mjs PROGRAM`. Each step goes on where the one before ended, and is done by whoever would do it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { World } from "./world.mjs";

const example = (name) => fileURLToPath(new URL(`../../../examples/terrain/${name}`, import.meta.url));
const MODULES = ["split", "slope", "hillshade", "contour", "mosaic"];
/** How long a run of the example may take on a busy machine. */
const RUN_MS = 180_000;
/** What the wizard names the first organisation. */
const SURVEY = "Survey Office North";
/** The area of both organisations, and one whose rule keeps everything elsewhere. */
const [AREA, OVERSEAS] = ["Alpine hazards", "Overseas archive"];
/** What the test's provider knows the node by (`tests/providers/idp.mjs`). */
const CLIENT = { id: "node", secret: "a secret of the node: & = %" };

/** A module that copies its input `terrain` to `poster.png`: WASI preview 1, no arguments. */
const POSTER = Buffer.from(
  "AGFzbQEAAAABHQRgCX9/f39/fn5/fwF/YAR/f39/AX9gAX8AYAAAAmcDFndhc2lfc25hcHNob3RfcHJldmlldzEJcGF0aF9vcGVuAAAWd2FzaV9zbmFwc2hvdF9wcmV2aWV3MQdm" +
  "ZF9yZWFkAAEWd2FzaV9zbmFwc2hvdF9wcmV2aWV3MQhmZF93cml0ZQABAwMCAgMFAwEAAgcTAgZtZW1vcnkCAAZfc3RhcnQABAqrAQIIACAABEAACwufAQBBA0EBQQBBB0EAQgJC" +
  "AEEAQSAQABADQQNBAUEQQQpBCULAAEIAQQBBJBAAEAMDQEEoQYAINgIAQSxBgIAENgIAQSAoAgBBKEEBQTAQARADQTAoAgAEQEEsQTAoAgA2AgADQEEkKAIAQShBAUE0EAIQA0Eo" +
  "QSgoAgBBNCgCAGo2AgBBLEEsKAIAQTQoAgBrNgIAQSwoAgANAAsMAQsLCwscAgBBAAsHdGVycmFpbgBBEAsKcG9zdGVyLnBuZw==",
  "base64",
);

/** The library of the provider, where `tests/run` has put it. */
const LIBRARY = join(process.env.OPENCLOUD_TEST_NPM ?? "/nowhere", "node_modules/oidc-provider/lib/index.js");
const PROVIDER = fileURLToPath(new URL("../../../tests/providers/idp.mjs", import.meta.url));

/** Starts the provider, which takes people back to a node and ends with its standard input; its address. */
async function provider(world, node) {
  const child = spawn(process.execPath, [PROVIDER, LIBRARY, `${node.address}/api/v1/login/callback`], { stdio: ["pipe", "pipe", "ignore"] });
  world.children.push(child);
  return new Promise((found, lost) => {
    child.on("exit", (code) => lost(new Error(`the provider ended with ${code}`)));
    child.stdout.on("data", (bytes) => found(String(bytes).trim()));
  });
}

const steps = [];
const step = (name, run) => steps.push([name, run]);

/** Somebody's browser. Nothing of it reaches anybody but this machine; what the pages remark stands in `errors`. */
async function browser(world, options = {}) {
  const context = await world.browser.newContext({ viewport: { width: 1680, height: 1000 }, ...options });
  await context.route((url) => url.protocol.startsWith("http") && url.hostname !== "127.0.0.1", (route) => route.abort());
  if (process.env.DIST !== undefined) await world.fromDisk(context, process.env.DIST);
  const page = await context.newPage();
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  return { context, page, errors };
}

/** The owner of a node, signed in with its token. */
async function owner(world, node) {
  const { context, page, errors } = await browser(world);
  await context.addInitScript((token) => sessionStorage.setItem("opencloud.token", token), node.token);
  return { context, page, errors };
}

/** A login at the provider, from the node's own page to the node's own page. */
async function logIn(world, name) {
  const { context, page, errors } = await browser(world);
  await page.goto(world.survey.address);
  await page.getByRole("link", { name: "Log in with work" }).click();
  await page.locator("input[name=login]").waitFor();
  assert.equal(new URL(page.url()).origin, world.issuer);
  await page.locator("input[name=login]").fill(name);
  await page.locator("input[name=password]").fill("x");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("button", { name: "Sign out" }).waitFor();
  assert.equal(new URL(page.url()).origin, world.survey.address);
  // No script of a page can read what it is known by.
  assert.deepEqual(await page.evaluate(() => [sessionStorage.length, document.cookie]), [0, ""]);
  // What the provider's own page asked for is none of the node's doing.
  errors.length = 0;
  return { context, page, errors };
}

/** A box of the workflow editor is tied to another with the mouse. */
async function tie(page, [from, out], [to, into]) {
  const handle = (node, id) => page.locator(`.react-flow__node[data-id="${node}"] .react-flow__handle[data-handleid="${id}"]`);
  await page.getByRole("button", { name: "Arrange" }).click();
  await page.getByRole("button", { name: "Fit View" }).click();
  await handle(from, out).dragTo(handle(to, into));
}

step("set up: the wizard of the first run names the organisation and connects its provider of identities", async (world) => {
  world.issuer = await provider(world, world.survey);
  const { context, page, errors } = await owner(world, world.survey);
  await page.goto(world.survey.address);
  await page.getByRole("region", { name: "Set up this node" }).getByRole("link", { name: "Begin" }).click();
  await page.getByLabel("Name of the organisation").fill(SURVEY);
  await page.getByRole("button", { name: "Save the name" }).click();
  await page.getByRole("definition").filter({ hasText: SURVEY }).waitFor();
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByLabel("Name of the provider").fill("work");
  await page.getByLabel("Issuer", { exact: true }).fill(world.issuer);
  await page.getByLabel("Client id").fill(CLIENT.id);
  await page.getByLabel("Client secret").fill(CLIENT.secret);
  await page.getByLabel("Scopes").fill("profile, groups");
  await page.getByRole("button", { name: "Add a rule" }).click();
  const rule = page.getByRole("group", { name: "Rule 2" });
  await rule.getByLabel("Test").selectOption("is");
  await rule.getByLabel("Value").fill("oc-boss");
  await rule.getByLabel("Gives role").fill("admin");
  await page.getByRole("button", { name: "Test the connection" }).click();
  await page.getByText("The connection works").waitFor();
  await page.getByRole("button", { name: "Connect the provider" }).click();
  await page.getByText("work is connected").waitFor();
  for (let nth = 0; nth < 2; nth += 1) await page.getByRole("button", { name: "Next" }).click();
  await page.getByRole("button", { name: "Finish" }).click();
  await page.getByRole("heading", { name: SURVEY, level: 1 }).waitFor();
  // The node was away for a moment, when it took its name.
  assert.deepEqual(errors.filter((line) => !/50\d|ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE/.test(line)), []);
  await context.close();
});

step("log in: people come by the provider, with their groups and roles", async (world) => {
  world.ada = await logIn(world, "ada");
  const { page, errors } = world.ada;
  await page.goto(`${world.survey.address}/people`);
  await page.getByRole("definition").filter({ hasText: /^Ada$/ }).waitFor();
  await page.getByRole("definition").filter({ hasText: /^admin$/ }).waitFor();
  assert.deepEqual(errors, []);
});

step("publish: Ada publishes a data set", async (world) => {
  const { page, errors } = world.ada;
  await page.goto(`${world.survey.address}/catalogue`);
  await page.getByRole("button", { name: "Publish", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("File", { exact: true }).setInputFiles(example("jacksboro.pgm"));
  await dialog.getByLabel("Name", { exact: true }).fill("Jacksboro fault");
  await dialog.getByLabel("In a line").fill("Elevation in metres");
  await dialog.getByLabel("Has to stay in").fill("eu");
  await dialog.getByRole("button", { name: "Publish", exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: /Jacksboro fault/ }).waitFor();
  assert.deepEqual(errors, []);
});

step("invite: a second organisation comes in with Ada's ticket and is made a partner, on both sides", async (world) => {
  const { page, errors } = world.ada;
  await page.goto(`${world.survey.address}/peers`);
  await page.getByRole("button", { name: "Invite" }).click();
  await page.getByRole("button", { name: "Make the ticket" }).click();
  const ticket = await page.getByLabel("Ticket", { exact: true }).textContent();
  await page.keyboard.press("Escape");
  world.harry = await owner(world, world.harbour);
  const other = world.harry.page;
  await other.goto(`${world.harbour.address}/peers`);
  await other.getByRole("button", { name: "Join with a ticket" }).click();
  await other.getByLabel("Ticket", { exact: true }).fill(ticket);
  await other.getByRole("dialog").getByRole("button", { name: "Join", exact: true }).click();
  await other.getByText("You are in").waitFor();
  await other.keyboard.press("Escape");
  for (const [view, name] of [[page, "Harbour Lab"], [other, SURVEY]]) {
    await view.getByRole("tab", { name: "Organisations and rights" }).click();
    await view.getByRole("button", { name: `Rights of ${name}` }).click();
    await view.getByLabel("Standing").selectOption("partner");
    await view.getByRole("button", { name: "Save" }).click();
    await view.getByRole("cell", { name: "partner" }).waitFor();
  }
  assert.deepEqual([errors, world.harry.errors], [[], []]);
});

step("offer: the second organisation publishes a workflow with its programs, and a program to draw with", async (world) => {
  let document = readFileSync(example("workflow.yaml"), "utf8");
  for (const name of MODULES) {
    const told = JSON.parse(await world.command(world.harbour.home, "--output", "json", "data", "add", example(`bin/${name}.wasm`)));
    world.module = told.digest;
    document = document.replace(`module: bin/${name}.wasm`, `module: ${told.digest}`);
  }
  const [flow, poster] = [join(world.dir, "terrain.yaml"), join(world.dir, "poster.wasm")];
  writeFileSync(flow, document);
  writeFileSync(poster, POSTER);
  const { page, errors } = world.harry;
  for (const [kind, file, name] of [["workflow", flow, "Terrain maps"], ["algorithm", poster, "Poster"]]) {
    await page.goto(`${world.harbour.address}/catalogue`);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("What").selectOption(kind);
    await dialog.getByLabel("File", { exact: true }).setInputFiles(file);
    await dialog.getByLabel("Name", { exact: true }).fill(name);
    if (kind === "algorithm") {
      for (const [word, port] of [["Input", "terrain"], ["Output", "poster"]]) {
        await dialog.getByRole("button", { name: `Add an ${word.toLowerCase()}` }).click();
        await dialog.getByRole("group", { name: `${word} 1` }).getByLabel("Name of it").fill(port);
      }
      // Another organisation's people see it because it is named.
      await dialog.getByLabel("Seen by").selectOption("some");
      await dialog.getByLabel(SURVEY).check();
    }
    await dialog.getByRole("button", { name: "Publish", exact: true }).click();
    await dialog.waitFor({ state: "detached" });
  }
  assert.deepEqual(errors, []);
});

/** Founds an area with rules, each a kind and what it says; its address. */
async function found(page, world, name, rules) {
  const dialog = page.getByRole("dialog");
  await page.goto(`${world.survey.address}/areas`);
  await page.getByRole("button", { name: "New area" }).click();
  await dialog.getByLabel("Name", { exact: true }).fill(name);
  for (const [kind, text] of rules) {
    await dialog.getByLabel("It says").selectOption(kind);
    if (text !== undefined) await dialog.getByLabel("Which").fill(text);
    await dialog.getByRole("button", { name: "Add the rule" }).click();
  }
  await dialog.getByRole("button", { name: "Make the area" }).click();
  await page.getByRole("heading", { name, level: 1 }).waitFor();
  await page.getByText("number 1 in force").waitFor();
  return new URL(page.url()).pathname;
}

step("share: an area with a rule book, in which both are; what breaks a rule is not shared, what keeps to all is", async (world) => {
  const { page, errors } = world.ada;
  const dialog = page.getByRole("dialog");
  await page.goto(`${world.survey.address}/workspaces`);
  await page.getByRole("button", { name: "New workspace" }).click();
  await page.getByLabel("Name", { exact: true }).fill("terrain");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("button", { name: "Put resources in" }).click();
  for (const name of ["Jacksboro fault", "Terrain maps", "Poster"]) await page.getByRole("button", { name: `Put in ${name}` }).click();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Take out Poster" }).waitFor();
  const overseas = await found(page, world, OVERSEAS, [["residency", "us"]]);
  world.area = await found(page, world, AREA, [["residency", "eu"], ["price", "0.05 EUR"], ["personal"]]);
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  await dialog.getByLabel("Organisation").selectOption({ label: "Harbour Lab" });
  await dialog.getByRole("button", { name: "Invite", exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  const other = world.harry.page;
  await other.goto(world.harbour.address + world.area);
  await other.getByText("Data is kept and work runs in eu alone").waitFor({ timeout: RUN_MS });
  await other.getByRole("button", { name: "Join", exact: true }).click();
  await other.getByRole("button", { name: "Share something" }).waitFor({ timeout: RUN_MS });
  await page.getByRole("region", { name: "Members" }).getByRole("cell", { name: "Harbour Lab", exact: true }).first().waitFor({ timeout: RUN_MS });
  const share = async (area) => {
    await page.goto(`${world.survey.address}/workspaces/terrain`);
    await page.getByRole("button", { name: "Share in an area" }).click();
    await dialog.getByLabel("Area", { exact: true }).selectOption({ label: area });
    await dialog.getByRole("button", { name: "Share", exact: true }).click();
  };
  await share(OVERSEAS);
  await dialog.getByRole("alert").filter({ hasText: "rule `residency`" }).waitFor();
  await page.goto(world.survey.address + overseas);
  await page.getByText("Nothing is shared yet").waitFor();
  await share(AREA);
  await dialog.getByText(`terrain is shared in ${AREA}`).waitFor();
  await other.getByRole("button", { name: "Take over terrain" }).waitFor({ timeout: RUN_MS });
  assert.deepEqual([errors.splice(0).filter((line) => !line.includes("422")), world.harry.errors.splice(0).filter((line) => !line.includes("404"))], [[], []]);
});

step("draw: Ada drags the other's workflow and program and her own data from the workspace to the graph, and ties them", async (world) => {
  const { page, errors } = world.ada;
  await page.goto(`${world.survey.address}/editor`);
  const text = page.getByLabel("Document in YAML");
  const says = (part) => page.waitForFunction((wanted) => document.querySelector("textarea[aria-label^=Document]").value.includes(wanted), part);
  await page.getByLabel("Of which workspace").selectOption({ label: "terrain" });
  const drag = (name, x, y) => page.getByRole("button", { name }).dragTo(page.locator(".react-flow__pane"), { targetPosition: { x, y } });
  await drag(/Terrain maps/, 60, 80);
  await says("mosaic:");
  await drag(/Jacksboro fault/, 60, 300);
  await says("jacksboro_fault:");
  await tie(page, ["param:jacksboro_fault", "value"], ["step:split", "in:dem"]);
  await says("{param: jacksboro_fault, path: dem.pgm}");
  // The parameter that the data set takes the place of goes by the keyboard.
  await page.locator('.react-flow__node[data-id="param:dem"]').click();
  await page.keyboard.press("Delete");
  await page.locator('.react-flow__node[data-id="param:dem"]').waitFor({ state: "detached" });
  await drag(/Poster/, 300, 300);
  await says("poster:");
  // What it takes and gives the catalogue says: a number does not fit.
  await tie(page, ["param:tiles", "value"], ["step:poster", "in:terrain"]);
  await page.getByRole("status", { name: "Refused connection" }).filter({ hasText: "parameter tiles gives a whole number, and poster wants a file for terrain" }).waitFor();
  await tie(page, ["step:mosaic", "out:terrain"], ["step:poster", "in:terrain"]);
  await page.locator('.react-flow__edge[data-id="step:mosaic out:terrain step:poster in:terrain"]').waitFor({ state: "attached" });
  await tie(page, ["step:poster", "out:poster"], ["end", "in:+"]);
  await says("poster: {from: poster.poster}");
  // The text goes where the graph has no handle, and the graph with it.
  await text.fill((await text.inputValue()).replace(/file: poster$/m, "file: poster.png"));
  await page.locator(".badge", { hasText: /^valid$/ }).waitFor();
  assert.deepEqual(errors, []);
});

step("plan and run: a rule is in the way before anything runs; under the shared area on the nodes of both, watched live to the end", async (world) => {
  const { page, errors } = world.ada;
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Plan", exact: true }).click();
  await dialog.getByLabel("Area", { exact: true }).selectOption({ label: OVERSEAS });
  await dialog.getByRole("button", { name: "Plan", exact: true }).click();
  await dialog.getByRole("alert").filter({ hasText: "split: no node may do it by rule residency" }).waitFor();
  await dialog.getByText("nowhere to run").first().waitFor();
  await dialog.getByLabel("Area", { exact: true }).selectOption({ label: AREA });
  await dialog.getByText("Nothing costs more than 0.05 EUR per cpu hour").waitFor();
  await dialog.getByRole("button", { name: "Plan", exact: true }).click();
  await dialog.getByText("can run").first().waitFor();
  assert.equal(await dialog.getByText("nowhere to run").count(), 0);
  await dialog.getByRole("listitem").filter({ hasText: "Harbour Lab" }).first().waitFor();
  await dialog.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Run", exact: true }).click();
  assert.equal(await dialog.getByLabel("Area", { exact: true }).locator("option:checked").textContent(), AREA);
  await dialog.getByRole("button", { name: "Run", exact: true }).click();
  // From here on nothing is loaded again: the page hears of all that happens.
  await page.getByRole("img", { name: /poster: / }).waitFor();
  await page.getByRole("img", { name: /poster: done/ }).waitFor({ timeout: RUN_MS });
  await page.locator("h1 + p .badge", { hasText: "succeeded" }).waitFor();
  await page.locator("h1 + p").filter({ hasText: `under the rules of ${AREA}` }).filter({ hasText: "by Ada" }).waitFor();
  await page.getByRole("tab", { name: "Tasks" }).click();
  for (const name of [SURVEY, "Harbour Lab"]) await page.getByRole("cell", { name: new RegExp(`^${name}`) }).first().waitFor();
  // The programs are not here yet when it is looked where they are; the browser remarks that.
  assert.deepEqual(errors.splice(0).filter((line) => !line.includes("404")), []);
});

step("look: the picture that came out of it, and the bill", async (world) => {
  const { page, errors } = world.ada;
  await page.getByRole("tab", { name: "Outputs" }).click();
  await page.getByRole("img", { name: "poster.png, as the run made it" }).waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".preview img")].every((one) => one.naturalWidth > 0));
  await page.getByRole("tab", { name: "Bill" }).click();
  await page.getByRole("cell", { name: "Harbour Lab" }).first().waitFor();
  await page.getByRole("list", { name: "Cost by provider" }).getByText("Harbour Lab").waitFor();
  const amounts = await page.locator("td:last-child span").evaluateAll((all) => all.map((one) => one.title));
  assert.ok(amounts.length > 0 && amounts.every((one) => /^[0-9.]+ EUR$/.test(one)), String(amounts));
  await page.goto(`${world.survey.address}/ledger`);
  await page.getByRole("tab", { name: "Bills" }).click();
  await page.getByRole("region", { name: "Bills" }).getByRole("row").filter({ hasText: "Harbour Lab" }).getByRole("link").click();
  await page.getByRole("list", { name: "Cost by provider" }).waitFor();
  await page.goto(`${world.survey.address}/ledger`);
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText(/^Valid/).waitFor();
  assert.deepEqual(errors, []);
});

step("refuse: who may only look is told so at each of the six levels, by name, with whom to ask", async (world) => {
  // What the policies built in leave to him, less the workspace and the area of others.
  const policy = join(world.dir, "kitchen.cedar");
  const out = (id, what) => `@id("kitchen-stays-out-of-${id}")\nforbid (principal in Group::"kitchen", action, resource == ${what});\n`;
  writeFileSync(policy, out("the-workspace", 'Workspace::"terrain"') + out("the-area", `Area::"${world.area.split("/").pop()}"`));
  await world.command(world.survey.home, "policy", "set", "kitchen", policy);
  const { context, page, errors } = await logIn(world, "bob");
  const refused = async (what, action, by = "no policy permits it") => {
    const note = page.getByRole("alert").filter({ hasText: /may not do this/ }).first();
    await note.waitFor();
    const told = await note.textContent();
    assert.ok(told.includes(`\`${action}\``) && told.includes("ask its owner") && told.includes(by), `${what}: ${told}`);
  };
  const at = (path) => page.goto(world.survey.address + path);
  const press = (name) => page.getByRole("button", { name, exact: true }).last().click();

  await at("/catalogue");
  await press("Publish");
  await page.getByRole("dialog").getByLabel("File", { exact: true }).setInputFiles(example("jacksboro.pgm"));
  await press("Publish");
  await refused("resources", "store");

  await at("/workspaces/terrain");
  await refused("workspaces", "see", "kitchen/kitchen-stays-out-of-the-workspace");

  await at("/editor");
  await page.getByLabel("Document in YAML").fill(`opencloud: workflow/v1\nname: lunch\nsteps:\n  cook: {run: {wasi: {module: "${world.module}"}}}\n`);
  await page.locator(".badge", { hasText: /^valid$/ }).waitFor();
  await press("Run");
  await page.getByText("The workflow takes nothing").waitFor();
  await press("Run");
  await refused("workflows", "submit");

  await at(world.area);
  await refused("areas", "see", "kitchen/kitchen-stays-out-of-the-area");
  // In the list it is not, either, while the other one is.
  await at("/areas");
  await page.getByRole("cell", { name: OVERSEAS }).waitFor();
  assert.equal(await page.getByText(AREA).count(), 0);

  await at("/peers");
  await press("Invite");
  await press("Make the ticket");
  await refused("peers", "manage_peers");

  await at("/people");
  await refused("groups", "manage_users");
  // A refusal is all that the browser remarks, and nobody is logged out by it.
  assert.deepEqual(errors.filter((line) => !/40[34]/.test(line)), []);
  await page.getByRole("definition").filter({ hasText: /^Bob$/ }).waitFor();
  await context.close();
});

if (!existsSync(LIBRARY)) {
  console.log("skipped: the story needs npm's oidc-provider (OPENCLOUD_TEST_NPM), which tests/run brings");
} else {
  const world = await World.make(process.argv[2]);
  try {
    for (const [name, run] of steps) {
      const begun = performance.now();
      await run(world);
      console.log(`${((performance.now() - begun) / 1000).toFixed(1).padStart(6)} s  ${name}`);
    }
  } catch (error) {
    // What stood there helps more than what was waited for.
    for (const page of world.browser.contexts().flatMap((context) => context.pages())) console.error(page.url(), await page.locator("body").innerText().catch(String));
    throw error;
  } finally {
    await world.end();
  }
}
