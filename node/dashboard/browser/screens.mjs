// Pictures of every page, light, dark and on a phone: `node browser/screens.mjs PROGRAM OUT`.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { pages, settle, World } from "./world.mjs";

const [program, out] = process.argv.slice(2);
if (out === undefined) {
  console.error("usage: node browser/screens.mjs PROGRAM OUT");
  process.exit(64);
}
mkdirSync(out, { recursive: true });
const example = (name) => fileURLToPath(new URL(`../../../examples/terrain/${name}`, import.meta.url));
const world = await World.make(program);
try {
  const { survey, harbour } = world;
  const summit = await world.node("summit", "Summit Computing");
  for (const { home } of [harbour, summit]) await world.command(home, "join", "--yes", await world.command(survey.home, "invite"));
  await world.command(survey.home, "data", "add", example("jacksboro.pgm"), "--name", "Jacksboro fault");
  await world.command(survey.home, "run", "submit", example("workflow.yaml"), "--input", `dem=${example("jacksboro.pgm")}`, "--wait");
  const [{ id }] = JSON.parse(await world.command(survey.home, "run", "list", "--output", "json"));
  const ask = async (method, path, body) => {
    const headers = { authorization: `Bearer ${survey.token}`, "content-type": "application/json" };
    const response = await fetch(`${survey.address}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
    return response.json();
  };
  const resources = (await ask("GET", "/catalog")).map((one) => one.id);
  await ask("PUT", "/workspaces/terrain", { version: 0, workspace: { about: "Slopes of the fault", notes: "Heights are in metres.", resources, searches: { machines: "kind = compute" }, workflows: { "Terrain-maps": readFileSync(example("workflow.yaml"), "utf8") } } });
  const area = await ask("POST", "/areas", { name: "Alpine hazards", about: "Slopes, together", rules: { rules: [{ residency: ["us"] }, { price: { per: "cpu_hour", max: "0.05 EUR" } }] } });
  const { org } = (await ask("GET", "/orgs")).find((one) => one.stance !== "own");
  await ask("POST", `/areas/${area.id}/invite`, { org });
  const more = { workspace: "/workspaces/terrain", area: `/areas/${area.id}` };
  const looks = { light: { colorScheme: "light" }, dark: { colorScheme: "dark" }, phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 } };
  for (const [look, options] of Object.entries(looks)) {
    const { page, context, errors } = await world.page(options);
    const shot = async (name) => {
      await settle(page);
      await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: join(out, `${name}-${look}.png`), fullPage: true });
    };
    for (const [name, path] of Object.entries({ ...pages(id), ...more })) {
      await page.goto(survey.address + path);
      await shot(name);
    }
    await page.goto(survey.address + pages(id).run);
    for (const tab of ["Tasks", "Outputs", "Logs", "Bill"]) {
      await page.getByRole("tab", { name: tab }).click();
      if (tab === "Outputs") await page.locator(".preview img").first().waitFor();
      await shot(`run-${tab.toLowerCase()}`);
    }
    await page.goto(`${survey.address}/editor`);
    await page.getByRole("button", { name: "Open or save" }).click();
    await page.getByLabel("Open a document").setInputFiles(example("workflow.yaml"));
    await page.locator(".badge", { hasText: /^valid$/ }).waitFor();
    await page.getByRole("button", { name: "Fit View" }).click();
    await shot("editor");
    // The plan, which the rules of the area do not let run anywhere.
    await page.getByRole("button", { name: "Plan", exact: true }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("dem: from the catalogue").selectOption({ index: 1 });
    for (const name of ["split", "slope", "hillshade", "contour", "mosaic"]) {
      await dialog.getByLabel(`bin/${name}.wasm: from this machine`).setInputFiles(example(`bin/${name}.wasm`));
      await dialog.getByText(`${name}.wasm, `).waitFor();
    }
    await dialog.getByLabel("Area", { exact: true }).selectOption({ label: "Alpine hazards" });
    await dialog.getByRole("button", { name: "Plan", exact: true }).click();
    await dialog.getByText("nowhere to run").first().waitFor();
    await dialog.getByRole("button", { name: "Plan", exact: true }).scrollIntoViewIfNeeded();
    await page.screenshot({ path: join(out, `plan-${look}.png`) });
    await page.goto(`${survey.address}/catalogue`);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.screenshot({ path: join(out, `publish-${look}.png`) });
    await context.close();
    const signed = await world.page(options, false);
    await signed.page.goto(survey.address);
    await signed.page.locator("h1").first().waitFor();
    await signed.page.screenshot({ path: join(out, `sign-in-${look}.png`) });
    await signed.context.close();
    if (errors.length > 0) console.error(errors);
  }
} finally {
  await world.end();
}
console.log(`pictures of every page are in ${out}`);
