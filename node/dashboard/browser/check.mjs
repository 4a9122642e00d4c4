// The dashboard as its users meet it, in Chromium, on real nodes: `node browser/check.mjs PROGRAM [WORDS]`, where words choose stories
// by their names; most need those before them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

import { pages, settle, World } from "./world.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const example = (name) => fileURLToPath(new URL(`../../../examples/terrain/${name}`, import.meta.url));
/** How long a run of the example may take on a busy machine. */
const RUN_MS = 180_000;

/** No serious issue, by axe's own rules. */
async function accessible(page, what, rules) {
  // By the debugger, which the page's policy does not bind.
  await page.evaluate(axe);
  const { violations } = await page.evaluate((only) => globalThis.axe.run(document, only === undefined ? {} : { runOnly: only }), rules);
  const serious = violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  assert.deepEqual(serious.map((one) => [one.id, one.nodes.map((node) => node.html)]), [], what);
}

const steps = [];
const step = (name, run) => steps.push([name, run]);

step("sign in: a wrong token is told, the right one leads in, and stands in no address", async (world) => {
  const { page, errors, context } = await world.page({}, false);
  await page.goto(`${world.survey.address}/ledger`);
  await accessible(page, "sign in");
  await page.getByLabel("Token", { exact: true }).fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("This is not the token of this node").waitFor();
  await page.getByLabel("Token", { exact: true }).fill(world.survey.token);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Ledger", level: 1 }).waitFor();
  assert.equal(page.url(), `${world.survey.address}/ledger`);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  // The browser itself notes the answer 401.
  assert.deepEqual(errors.filter((text) => !text.includes("401")), []);
  await context.close();
});

step("first run: the wizard names the organisation, connects a provider, invites a person and a partner, and can be called again", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(world.survey.address);
  const offer = page.getByRole("region", { name: "Set up this node" });
  await offer.waitFor();
  await accessible(page, "the offer");
  await offer.getByRole("link", { name: "Begin" }).click();
  await page.getByRole("heading", { name: "Set up this node", level: 1 }).waitFor();
  await page.getByLabel("Name of the organisation").fill("Survey Office East");
  await page.getByRole("button", { name: "Save the name" }).click();
  await page.getByRole("definition").filter({ hasText: /^Survey Office East$/ }).waitFor();
  await accessible(page, "wizard: organisation");
  await page.getByRole("button", { name: "Next" }).click();
  const provider = await world.provider();
  await page.getByLabel("Name of the provider").fill("lab");
  await page.getByLabel("Issuer", { exact: true }).fill(`${provider}/nowhere`);
  await page.getByLabel("Client id").fill("opencloud");
  await page.getByLabel("Client secret").fill("hidden");
  await page.getByRole("button", { name: "Test the connection" }).click();
  await page.getByRole("alert").waitFor();
  await page.getByLabel("Issuer", { exact: true }).fill(provider);
  await page.getByRole("button", { name: "Test the connection" }).click();
  await page.getByText("The connection works").waitFor();
  await page.getByRole("button", { name: "Add a rule" }).click();
  await accessible(page, "wizard: provider");
  await page.getByRole("button", { name: "Connect the provider" }).click();
  await page.getByText("lab is connected").waitFor();
  await page.getByRole("tab", { name: "Invite by a one-time link" }).click();
  await page.getByLabel("Name of the person").fill("grace");
  await page.getByRole("button", { name: "Make the login link" }).click();
  assert.match(await page.getByLabel("Login link", { exact: true }).textContent(), /\/login\/link\?code=/);
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByRole("button", { name: "Make the ticket" }).click();
  await page.getByLabel("Ticket", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Copy the ticket" }).waitFor();
  await accessible(page, "wizard: partners");
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByRole("button", { name: "Finish" }).click();
  await page.getByRole("heading", { name: "Survey Office East", level: 1 }).waitFor();
  assert.equal(await offer.count(), 0);
  await page.goto(`${world.survey.address}/settings`);
  await page.getByRole("link", { name: "Set up this node again" }).click();
  await page.getByRole("button", { name: "Skip the set-up" }).click();
  await page.getByRole("heading", { name: "Survey Office East", level: 1 }).waitFor();
  // Whoever is not signed in may choose the provider.
  const guest = await world.page({}, false);
  await guest.page.goto(world.survey.address);
  await guest.page.getByRole("link", { name: "Log in with lab" }).waitFor();
  await guest.context.close();
  await page.goto(`${world.survey.address}/people`);
  await page.getByRole("tab", { name: "Identity providers" }).click();
  await page.getByText("role member").waitFor();
  await page.getByRole("button", { name: "Disconnect lab" }).click();
  await page.getByRole("button", { name: "Really disconnect" }).click();
  await page.getByText("No provider is connected").waitFor();
  // The browser itself notes that the node was away for a moment, and that a provider was not there.
  assert.deepEqual(errors.filter((text) => !/50\d|ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE/.test(text)), []);
  await context.close();
});

step("invite: a ticket made here lets another organisation in, and the map shows it live", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/peers`);
  await page.getByRole("button", { name: "Invite" }).click();
  await accessible(page, "the dialog");
  await page.getByRole("button", { name: "Make the ticket" }).click();
  const ticket = await page.getByLabel("Ticket", { exact: true }).textContent();
  await page.keyboard.press("Escape");
  await page.goto(world.survey.address);
  await page.getByText("Nobody else is here yet").waitFor();
  await world.command(world.harbour.home, "join", "--yes", ticket);
  await page.getByRole("img", { name: /Map of the mesh: 1 of 1 peer connected.*Harbour Lab: direct/ }).waitFor();
  await page.goto(`${world.survey.address}/peers`);
  await page.getByRole("tab", { name: "Organisations and rights" }).click();
  await page.getByRole("button", { name: "Rights of Harbour Lab" }).click();
  await page.getByLabel("Standing").selectOption("partner");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("cell", { name: "partner" }).waitFor();
  assert.deepEqual(errors, []);
  await context.close();
});

step("publish: a data set is published, found and shown", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/catalogue`);
  await page.getByRole("button", { name: "Publish", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("File", { exact: true }).setInputFiles(example("jacksboro.pgm"));
  await dialog.getByLabel("Name", { exact: true }).fill("Jacksboro fault");
  await dialog.getByLabel("In a line").fill("Elevation in metres");
  await accessible(page, "publish");
  await dialog.getByLabel("What", { exact: true }).selectOption("algorithm");
  await dialog.getByRole("button", { name: "Add an input" }).click();
  await dialog.getByLabel("Seen by").selectOption("some");
  await dialog.getByRole("checkbox", { name: "Harbour Lab" }).waitFor();
  await accessible(page, "publish an algorithm");
  await dialog.getByLabel("What", { exact: true }).selectOption("data");
  await dialog.getByLabel("Seen by").selectOption("realm");
  await dialog.getByRole("button", { name: "Publish", exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "data", exact: true }).click();
  await page.getByRole("searchbox", { name: "Search" }).fill("elevation");
  await page.getByRole("button", { name: /Jacksboro fault/ }).click();
  await page.getByRole("dialog").getByText("Elevation in metres").waitFor();
  await page.keyboard.press("Escape");
  await page.getByLabel("Filter", { exact: true }).fill("size >");
  await page.getByRole("alert").waitFor();
  assert.deepEqual(errors.filter((text) => !text.includes("400")), []);
  await context.close();
});

step("workspace: resources are put in, and a person comes in by a login link", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/workspaces`);
  await page.getByRole("button", { name: "New workspace" }).click();
  await page.getByLabel("Name", { exact: true }).fill("terrain");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("heading", { name: "terrain", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Put resources in" }).click();
  await page.getByRole("button", { name: "Put in Jacksboro fault" }).click();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Take out Jacksboro fault" }).waitFor();
  await accessible(page, "workspace");
  // What is found in the catalogue goes there, too, and the search itself.
  await page.goto(`${world.survey.address}/catalogue`);
  await page.getByRole("button", { name: "compute", exact: true }).click();
  await page.getByText("Keep this search").click();
  await page.getByLabel("Name of the search").fill("machines");
  await page.getByLabel("Workspace").selectOption("terrain");
  await page.getByRole("button", { name: "Keep in the workspace" }).click();
  await page.getByText("machines is kept in terrain.").waitFor();
  await page.getByRole("button", { name: /Harbour Lab/ }).click();
  await page.getByRole("dialog").getByLabel("Workspace").selectOption("terrain");
  await page.getByRole("button", { name: "Put into the workspace" }).click();
  await page.getByText("is in terrain.").waitFor();
  await accessible(page, "details");
  await page.goto(`${world.survey.address}/workspaces/terrain`);
  await page.getByText("kind = compute", { exact: true }).waitFor();
  await page.getByRole("cell", { name: "Harbour Lab" }).waitFor();
  await page.goto(`${world.survey.address}/people`);
  await page.getByRole("button", { name: "New user" }).click();
  await page.getByLabel("Name", { exact: true }).fill("ada");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("button", { name: "Login link for ada" }).click();
  await page.getByRole("button", { name: "Make the link" }).click();
  const link = await page.getByLabel("Login link", { exact: true }).textContent();
  const guest = await world.page({}, false);
  await guest.page.goto(link);
  await guest.page.getByRole("button", { name: "Log in" }).click();
  await guest.page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "People" }).click();
  await guest.page.getByRole("definition").filter({ hasText: /^ada$/ }).waitFor();
  // What she may not see is told so, as policy has it.
  const refused = guest.page.getByRole("alert", { name: "Refused" });
  await refused.filter({ hasText: "manage_users" }).filter({ hasText: "user:local|" }).filter({ hasText: "no policy permits it" }).first().waitFor();
  await accessible(guest.page, "refused");
  assert.equal(await guest.page.evaluate(() => sessionStorage.length), 0);
  await guest.page.getByRole("button", { name: "Sign out" }).click();
  await guest.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await guest.page.reload();
  await guest.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await guest.context.close();
  assert.deepEqual(errors, []);
  await context.close();
});

step("policies: a wrong text is told before it holds, a right one holds; who could do what, and what was decided", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/policies`);
  await page.getByRole("button", { name: "New file" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name", { exact: true }).fill("field-work");
  await dialog.getByLabel("Policies in Cedar").fill('permit (principal, action == Action::"fly", resource);');
  await dialog.getByRole("list", { name: "Problems" }).waitFor();
  assert.ok(await dialog.getByRole("button", { name: "Save" }).isDisabled());
  await dialog.getByLabel("Policies in Cedar").fill('@id("surveyors-submit")\npermit (principal is User, action == Action::"submit", resource) when { principal.roles.contains("surveyor") };\n');
  await dialog.getByText("1 policy: surveyors-submit").waitFor();
  await accessible(page, "policies: editor");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.getByRole("cell", { name: "field-work", exact: true }).waitFor();
  await page.getByRole("tab", { name: "Ask" }).click();
  await page.getByLabel("Person").selectOption({ label: "ada" });
  await page.getByLabel("Its roles").fill("surveyor");
  await page.getByLabel("Would do").selectOption("submit");
  await page.getByRole("button", { name: "Could it?" }).click();
  await page.getByRole("status").filter({ hasText: "Yes, it could" }).filter({ hasText: "field-work/surveyors-submit" }).waitFor();
  await page.getByLabel("Would do").selectOption("manage_node");
  await page.getByRole("button", { name: "Could it?" }).click();
  await page.getByRole("status").filter({ hasText: "no policy permits it" }).waitFor();
  await page.getByRole("button", { name: "Who could?" }).click();
  await page.getByRole("region", { name: "Who could" }).getByRole("cell", { name: "owner", exact: true }).first().waitFor();
  await accessible(page, "policies: ask");
  await page.getByRole("tab", { name: "Decisions" }).click();
  await page.getByLabel("Refusals alone").check();
  await page.getByRole("row").filter({ hasText: "user:local|" }).filter({ hasText: "manage_users" }).first().waitFor();
  await accessible(page, "policies: decisions");
  await page.getByRole("tab", { name: "Policies" }).click();
  await page.getByRole("button", { name: "Open field-work" }).click();
  await dialog.getByRole("button", { name: "Remove" }).click();
  await dialog.getByRole("button", { name: "Really remove" }).click();
  await page.getByRole("cell", { name: "field-work", exact: true }).waitFor({ state: "detached" });
  assert.deepEqual(errors, []);
  await context.close();
});

step("draw: a workflow of two steps by mouse and keyboard, in step with its text", async (world) => {
  const { page, errors, context } = await world.page({ viewport: { width: 1680, height: 1000 } });
  await page.goto(`${world.survey.address}/editor`);
  const text = page.getByLabel("Document in YAML");
  const data = page.getByRole("button", { name: /Jacksboro fault/ });
  await data.dragTo(page.locator(".react-flow__pane"), { targetPosition: { x: 60, y: 80 } });
  await page.getByText("jacksboro_fault", { exact: true }).waitFor();
  assert.match(await text.inputValue(), /params:\n {2}jacksboro_fault:\n {4}type: file/);
  await page.getByRole("button", { name: "Add a step" }).click();
  await page.getByRole("button", { name: "Arrange" }).click();
  await page.getByRole("button", { name: "Fit View" }).click();
  const handle = (node, id) => page.locator(`.react-flow__node[data-id="${node}"] .react-flow__handle[data-handleid="${id}"]`);
  await handle("param:jacksboro_fault", "value").dragTo(handle("step:step", "in:+"));
  await page.waitForFunction(() => document.querySelector("textarea[aria-label^=Document]").value.includes("{param: jacksboro_fault}"));
  await handle("step:step", "out:out").dragTo(handle("step:step", "in:jacksboro_fault"));
  await page.getByRole("status", { name: "Refused connection" }).filter({ hasText: "step cannot wait for itself" }).waitFor();
  await page.getByRole("button", { name: "Give back out from the workflow" }).click();
  assert.match(await text.inputValue(), /outputs:\n {2}out: \{from: step\.out\}/);
  await page.locator(".badge", { hasText: "valid" }).waitFor();
  await accessible(page, "editor");
  await page.getByRole("button", { name: "graph", exact: true }).click();
  assert.equal(await text.count(), 0);
  await page.getByRole("button", { name: "both", exact: true }).click();
  const before = await text.inputValue();
  await text.fill(before.replace("from: step.out", "from: step.gone"));
  await page.getByRole("list", { name: "Problems" }).getByRole("button").first().waitFor();
  await page.getByRole("button", { name: "Undo" }).click();
  assert.equal(await text.inputValue(), before);
  assert.deepEqual(errors, []);
  await context.close();
});

step("run: a real workflow from its document, planned, run on both nodes, watched, with its picture and bill", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/editor`);
  await page.getByRole("button", { name: "Open or save" }).click();
  await page.getByLabel("Open a document").setInputFiles(example("workflow.yaml"));
  await page.locator(".badge", { hasText: /^valid$/ }).waitFor();
  await page.getByRole("button", { name: "Plan", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("dem: from the catalogue").selectOption({ index: 1 });
  for (const name of ["split", "slope", "hillshade", "contour", "mosaic"]) {
    await dialog.getByLabel(`bin/${name}.wasm: from this machine`).setInputFiles(example(`bin/${name}.wasm`));
    await dialog.getByText(`${name}.wasm, `).waitFor();
  }
  await dialog.getByRole("button", { name: "Plan", exact: true }).click();
  await dialog.getByText("can run").first().waitFor();
  await accessible(page, "plan");
  await dialog.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await dialog.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByRole("img", { name: /mosaic: / }).waitFor();
  await page.locator("h1 + p .badge", { hasText: "succeeded" }).waitFor({ timeout: RUN_MS });
  await page.getByRole("img", { name: /mosaic: done/ }).waitFor();
  await page.getByRole("tab", { name: "Outputs" }).click();
  const picture = page.getByRole("img", { name: "terrain.png, as the run made it" });
  await picture.waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".preview img")].every((one) => one.naturalWidth > 0));
  await accessible(page, "outputs");
  await page.getByRole("tab", { name: "Logs" }).click();
  await page.getByRole("log").waitFor();
  await page.getByRole("tab", { name: "Bill" }).click();
  await page.getByRole("cell", { name: "Harbour Lab" }).first().waitFor();
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByRole("dialog").getByText(/attempt 1 at Survey Office/).first().waitFor();
  world.run = new URL(page.url()).pathname.split("/").pop();
  await page.goto(`${world.survey.address}/ledger`);
  await page.getByRole("region", { name: "Spent, by what was used" }).getByText("Processor").first().waitFor();
  await page.getByRole("region", { name: "Spent, by workflow" }).getByText("terrain").waitFor();
  await page.getByRole("img", { name: /^Spent by day/ }).waitFor();
  await page.getByRole("button", { name: "Earned", exact: true }).click();
  await page.getByRole("region", { name: "Earned, by partner" }).waitFor();
  await accessible(page, "ledger");
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText(/^Valid/).waitFor();
  assert.deepEqual(errors, []);
  await context.close();
});

step("area: founded with a rule book, a partner is invited and joins, a workspace is shared and seen there", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/areas`);
  await page.getByRole("button", { name: "New area" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name", { exact: true }).fill("Alpine hazards");
  await dialog.getByLabel("What it is for").fill("Slopes, together");
  await dialog.getByLabel("It says").selectOption("personal");
  await dialog.getByRole("button", { name: "Add the rule" }).click();
  await dialog.getByRole("list", { name: "Rules" }).getByText("Personal data never leaves").waitFor();
  await accessible(page, "new area");
  await dialog.getByRole("button", { name: "Make the area" }).click();
  await page.getByRole("heading", { name: "Alpine hazards", level: 1 }).waitFor();
  await page.getByText("number 1 in force").waitFor();
  world.area = new URL(page.url()).pathname;
  await page.getByRole("button", { name: "Invite", exact: true }).click();
  await dialog.getByLabel("Organisation").selectOption({ label: "Harbour Lab" });
  await dialog.getByRole("button", { name: "Invite", exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  // At the partner's own node.
  const there = await world.browser.newContext();
  await there.addInitScript((token) => sessionStorage.setItem("opencloud.token", token), world.harbour.token);
  const partner = await there.newPage();
  await partner.goto(`${world.harbour.address}${world.area}`);
  await partner.getByRole("button", { name: "Join", exact: true }).waitFor({ timeout: RUN_MS });
  await partner.getByRole("button", { name: "Join", exact: true }).click();
  await partner.getByRole("button", { name: "Share something" }).waitFor({ timeout: RUN_MS });
  await page.getByRole("region", { name: "Members" }).getByRole("cell", { name: "Harbour Lab", exact: true }).first().waitFor({ timeout: RUN_MS });
  await page.goto(`${world.survey.address}/workspaces/terrain`);
  await page.getByRole("button", { name: "Share in an area" }).click();
  await dialog.getByLabel("Area", { exact: true }).selectOption({ label: "Alpine hazards" });
  await dialog.getByRole("button", { name: "Share", exact: true }).click();
  await dialog.getByText("terrain is shared in Alpine hazards").waitFor();
  await dialog.getByRole("link", { name: "To the area" }).click();
  await page.getByRole("button", { name: /^Share no longer.*terrain$/ }).waitFor();
  await accessible(page, "area");
  await partner.getByRole("button", { name: "Take over terrain" }).click({ timeout: RUN_MS });
  await partner.getByRole("button", { name: "Take it over" }).click();
  await partner.getByRole("heading", { name: "terrain", level: 1 }).waitFor({ timeout: RUN_MS });
  await there.close();
  // What a rule book does not allow is shared with nobody, and the rule is named.
  await page.goto(`${world.survey.address}/areas`);
  await page.getByRole("button", { name: "New area" }).click();
  await dialog.getByLabel("Name", { exact: true }).fill("Alpine archive");
  await dialog.getByLabel("Which").fill("eu");
  await dialog.getByRole("button", { name: "Add the rule" }).click();
  await dialog.getByText("Data is kept and work runs in eu alone").waitFor();
  await dialog.getByRole("button", { name: "Make the area" }).click();
  await page.getByRole("heading", { name: "Alpine archive", level: 1 }).waitFor();
  await page.goto(`${world.survey.address}/workspaces/terrain`);
  await page.getByRole("button", { name: "Share in an area" }).click();
  await dialog.getByLabel("Area", { exact: true }).selectOption({ label: "Alpine archive" });
  await dialog.getByRole("button", { name: "Share", exact: true }).click();
  await dialog.getByText("rule `residency`").waitFor();
  assert.deepEqual(errors.filter((error) => !/40\d|42\d/.test(error)), []);
  await context.close();
});

step("service: deployed from its document, watched, with its log, and removed", async (world) => {
  const { page, errors, context } = await world.page();
  await page.goto(`${world.survey.address}/services`);
  await page.getByRole("button", { name: "Deploy a service" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Service document in YAML").fill("opencloud: service/v1\nname: beat\nrun: {wasi: {module: beat.wasm}}\nports: {http: 8080}\nreplicas: 1\nrestart: {policy: never}\n");
  await accessible(page, "deploy");
  await dialog.getByLabel("beat.wasm: from this machine").setInputFiles(example("bin/split.wasm"));
  await dialog.getByText("beat.wasm, ").or(dialog.getByText("split.wasm, ")).waitFor();
  await dialog.getByRole("button", { name: "Deploy", exact: true }).click();
  await page.getByRole("heading", { name: "beat", level: 2 }).waitFor();
  await page.getByRole("heading", { name: "Logs", level: 3 }).waitFor();
  await page.getByText("deployed").first().waitFor();
  await accessible(page, "service");
  await page.getByRole("button", { name: "Remove" }).click();
  await page.getByRole("button", { name: "Really remove" }).click();
  await page.getByText("No service is deployed").waitFor({ timeout: RUN_MS });
  // A service that has just gone is asked for once more, and the browser itself notes the answer.
  assert.deepEqual(errors.filter((text) => !text.includes("404")), []);
  await context.close();
});

step("every page: light, dark and phone without an error, a request to elsewhere or a serious issue", async (world) => {
  // Colours are all that is different in the dark.
  const looks = [[{ colorScheme: "light" }], [{ colorScheme: "dark" }, ["color-contrast"]], [{ viewport: { width: 390, height: 844 } }, ["target-size", "scrollable-region-focusable"]]];
  for (const [options, rules] of looks) {
    const { page, errors, context } = await world.page(options);
    for (const [name, path] of Object.entries(pages(world.run))) {
      await page.goto(world.survey.address + path);
      await settle(page);
      await accessible(page, `${name} ${JSON.stringify(options)}`, rules);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} pixels wider than the window ${JSON.stringify(options)}`);
    }
    assert.deepEqual(errors, []);
    await context.close();
  }
});

step("keyboard: from the first key to another page, and through the menu of a phone", async (world) => {
  const { page, context } = await world.page();
  await page.goto(world.survey.address);
  await settle(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the page");
  for (let nth = 0; nth < 3; nth += 1) await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Catalogue");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Catalogue", level: 1 }).waitFor();
  await page.waitForFunction(() => document.activeElement.id === "main");
  await context.close();
  const phone = await world.page({ viewport: { width: 390, height: 844 } });
  await phone.page.goto(world.survey.address);
  await phone.page.getByRole("button", { name: "Menu" }).press("Enter");
  await phone.page.getByRole("dialog").getByRole("link", { name: "Settings" }).press("Enter");
  await phone.page.getByRole("heading", { name: "Settings", level: 1 }).waitFor();
  assert.equal(await phone.page.getByRole("dialog").count(), 0);
  await phone.context.close();
});

const world = await World.make(process.argv[2]);
try {
  const wanted = process.argv[3] ?? "";
  for (const [name, run] of steps.filter(([name]) => name.includes(wanted))) {
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
