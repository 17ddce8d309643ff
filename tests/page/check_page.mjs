// `node check_page.mjs MODULES CHROMIUM PAGE.html OUT [load]`: opens a page as a person would, and prints what was found as JSON.
// MODULES is a node_modules folder with playwright-core and axe-core.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, executablePath, file, out, what] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const address = pathToFileURL(resolve(file)).href;

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const found = { errors: [], requests: [], violations: [], overflow: {}, keyboard: {} };

async function open(width, height, colorScheme) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  page.on("console", (message) => { if (message.type() === "error") found.errors.push(message.text()); });
  page.on("pageerror", (error) => found.errors.push(String(error)));
  page.on("request", (request) => { if (request.url() !== address) found.requests.push(request.url()); });
  const start = Date.now();
  await page.goto(address, { waitUntil: "load" });
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  found.seconds = Math.min(found.seconds ?? Infinity, (Date.now() - start) / 1000); // the least disturbed of all
  return page;
}

const sizes = what === "load" ? [[1440, 900]] : [[1440, 900], [390, 844]];
for (const [width, height] of sizes) {
  for (const scheme of what === "load" ? ["light"] : ["light", "dark"]) {
    const page = await open(width, height, scheme);
    await page.screenshot({ path: join(out, `${width}-${scheme}.png`) });
    for (const name of ["streams", "sites", "alone", "cost", "diagnostics", "code"]) {
      const section = page.locator(`#${name}`);
      if (await section.count()) await section.screenshot({ path: join(out, `${width}-${scheme}-${name}.png`) });
    }
    if (process.env.UNFOLD) {
      await page.locator("#unfold").click();
      await page.locator("#streams").screenshot({ path: join(out, `${width}-${scheme}-unfolded.png`) });
    }
    found.overflow[width] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.evaluate(axe);
    const result = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const each of result.violations) {
      found.violations.push(`${width} ${scheme} ${each.id}: ${each.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(", ")}`);
    }
    await page.close();
  }
}

if (what === "load") {
  for (let i = 0; i < 4; i += 1) await (await open(1440, 900, "light")).close();
  await browser.close();
  console.log(JSON.stringify(found, null, 1));
  process.exit(0);
}

// With the keyboard alone.
const page = await open(1440, 900, "light");
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim().slice(0, 40));
async function tabTo(test, most = 400) {
  for (let i = 0; i < most; i += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(test)) return true;
  }
  return false;
}
await page.keyboard.press("Tab");
found.keyboard.first = await focused();
found.keyboard.find = await tabTo(() => document.activeElement.id === "find");
const shown = () => page.evaluate(() => document.querySelectorAll("#drawing .site:not([hidden])").length);
found.keyboard.before = await shown();
await page.keyboard.type("attn");
found.keyboard.searched = await shown();
found.keyboard.told = await page.locator("#found").textContent();
await page.keyboard.press("Control+A");
await page.keyboard.press("Delete");
found.keyboard.after = await shown();
found.keyboard.summary = await tabTo(() => document.activeElement.matches("#drawing summary"));
const isOpen = () => page.evaluate(() => document.activeElement.parentElement.open);
found.keyboard.open = [await isOpen()];
await page.keyboard.press("Enter");
found.keyboard.open.push(await isOpen());
found.keyboard.table = await tabTo(() => document.activeElement.id === "site-table-text");
await page.keyboard.type("mlp");
const rows = () => page.evaluate(() => document.querySelectorAll("#site-table tbody tr:not([hidden])").length);
found.keyboard.rows = await rows();
found.keyboard.head = await tabTo(() => document.activeElement.matches("#site-table thead button"));
await page.keyboard.press("Enter");
found.keyboard.sorted = await page.evaluate(() => document.activeElement.parentElement.getAttribute("aria-sort"));
await browser.close();
console.log(JSON.stringify(found, null, 1));
