// The console as an operator uses it, in Chromium. `main.rs` holds the servers; see there.
// Every page that is looked at is photographed, light and dark, wide and 360 px wide, and checked with axe.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { CONSOLE_URL: url, SCREENSHOTS: shots } = process.env;
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const tokens = Object.fromEntries(
  ["user", "viewer", "operator", "admin"].map((role) => [role, process.env[`TOKEN_${role.toUpperCase()}`]]),
);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the other side do something to the servers. */
async function act(what, rest = {}) {
  console.log(JSON.stringify({ do: what, ...rest }));
  return JSON.parse((await lines.next()).value);
}

/** Polls until `look` does not throw, and gives what it gave. */
async function eventually(what, look, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`, { cause: error });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

let step = 0;
let checks = 0;
const began = Date.now();
function says(text) {
  console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);
}

/** What is wrong with a page, or what the browser complained of: told at the end, all of it. */
const failures = [];

/** Photographs a page in all its forms, and holds each against WCAG 2.2 AA. */
async function look(page, name) {
  const number = String(++step).padStart(2, "0");
  const wide = page.viewportSize();
  for (const scheme of ["light", "dark"]) {
    for (const width of [wide.width, 360]) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
      await page.setViewportSize({ width, height: width === 360 ? 740 : wide.height });
      const scrolls = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (scrolls > 0) failures.push(`${name} scrolls sideways by ${scrolls} px at ${width} px`);
      if (width === 360) await page.waitForTimeout(350); // charts are drawn anew
      await page.screenshot({ path: `${shots}/${number}-${name}-${scheme}-${width}.png`, fullPage: true });
      const found = await page.evaluate(() =>
        window.axe.run(document, {
          runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
        }),
      );
      checks += found.passes.length;
      const told = found.violations.map((v) => `${v.id}: ${v.help}\n  ${v.nodes.map((n) => n.html).join("\n  ")}`);
      failures.push(...told.map((violation) => `axe on ${name}, ${scheme}, ${width} px: ${violation}`));
    }
  }
  await page.setViewportSize(wide);
  await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

/** A browser of one operator; a script or a style that the policy refuses fails the scenario. */
async function operator(role, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(10_000);
  // Not by a script tag, which the policy would refuse.
  await context.addInitScript({ path: axe });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (/Content.Security.Policy/i.test(message.text())) failures.push(message.text());
  });
  page.on("pageerror", (error) => failures.push(String(error)));
  if (role) await signIn(page, role);
  return page;
}
async function signIn(page, role) {
  await page.goto(url);
  await page.getByRole("textbox").fill(tokens[role]);
  await page.getByRole("button").last().click();
}
const verdict = (page) => page.locator("#verdict").textContent();
const figure = (page, nth) => page.locator(".figures .value").nth(nth).textContent();

const text = (locator) => locator.textContent();
const seen = (what, pattern) => assert.match(what, pattern);

async function scenario() {
  says("who is let in");
  const page = await operator(null);
  await page.goto(`${url}/outbox?state=dead`);
  seen(page.url(), /\/login\?next=/);
  await look(page, "login");
  await page.getByRole("textbox").fill(tokens.user);
  await page.getByRole("button", { name: "Sign in" }).click();
  seen(await text(page.locator("main")), /role may not/i);
  await page.goto(`${url}/outbox?state=dead`);
  await page.getByRole("textbox").fill(tokens.operator);
  await page.getByRole("button", { name: "Sign in" }).click();
  seen(page.url(), /\/outbox\?state=dead$/);

  says("an ordinary day");
  await page.getByRole("link", { name: "Overview" }).click();
  const { jobs } = await act("accept", { jobs: 5 });
  await eventually("all is well", async () => seen(await verdict(page), /All is well/));
  await eventually("a chart is drawn", async () => assert.ok((await page.locator(".plot canvas").count()) === 4));
  await look(page, "overview");

  says("one message, whose title is markup");
  await page.goto(`${url}/outbox/${jobs[0]}`);
  await eventually("it is published", async () => {
    await page.reload();
    seen(await text(page.locator("h1")), /published/);
  });
  seen(await text(page.locator("pre")), /<script>document.title = 1<\/script>/);
  assert.notEqual(await page.title(), "1");
  await look(page, "message");
  await page.goto(`${url}/outbox`);
  await page.getByLabel("State").selectOption("published");
  await page.getByLabel("Job", { exact: true }).fill(jobs[0]);
  await page.getByRole("button", { name: "Apply" }).click();
  seen(page.url(), new RegExp(`state=published.*job=${jobs[0]}`));
  assert.equal(await page.locator("tbody tr").count(), 1);
  await page.getByRole("link", { name: "Reset" }).click();
  await look(page, "messages");

  says("the broker loses records; an audit names them, and exactly those are sent again");
  await page.goto(url);
  seen(await text(page.locator("#live")), /No audit yet/);
  await act("lose", { records: 3 });
  const { missing } = await act("audit");
  assert.equal(missing, 3);
  await eventually("the overview tells", async () => seen(await text(page.locator("#live")), /found 3 messages missing/));
  await look(page, "overview-missing");
  await page.getByRole("link", { name: "Audits", exact: true }).click();
  await look(page, "audits");
  await page.locator("tbody a").first().click();
  seen(await text(page.locator("main")), /Missing: 3/);
  await look(page, "audit");
  await page.getByRole("link", { name: "Send what is missing again" }).click();
  seen(await text(page.locator(".big")), /^3 messages of 1 event drafts/);
  await look(page, "audit-dry-run");
  await page.getByLabel("Reason").fill("somebody deleted records");
  await page.getByLabel(/to confirm/).fill("3");
  await page.getByRole("button", { name: "Start the replay" }).click();
  await eventually("they are sent", async () => seen(await text(page.locator("#progress")), /done/));
  await eventually("the audit is clean", async () => {
    const again = await act("audit");
    assert.deepEqual([again.missing, again.made_good, again.clean], [0, 3, true]);
  });
  await page.goto(url);
  await eventually("nothing more is told of it", async () => {
    assert.doesNotMatch(await text(page.locator("#live")), /missing|audit/i);
  });

  says("the broker goes");
  await page.goto(url);
  await act("stop-kafka");
  await act("accept", { jobs: 3 });
  await act("write", { messages: 16000 });
  await eventually("the outage is told", async () => seen(await verdict(page), /Kafka does not acknowledge/), 60);
  await eventually("what waits is counted", async () => assert.equal(await figure(page, 0), "16,003"));
  seen(await text(page.locator(".figures")), /halted/);
  seen(await text(page.locator(".deps")), /Kafka.*does not answer/s);
  await look(page, "outage");

  says("it comes back, and the forecast counts down");
  await act("start-kafka");
  const span = async () => {
    seen(await verdict(page), /Draining/);
    const [, minutes, seconds] = (await figure(page, 2)).match(/≈ (?:(\d+) min)? ?(?:([\d.]+) s)?/);
    return Number(minutes ?? 0) * 60 + Number(seconds ?? 0);
  };
  const first = await eventually("a forecast", span, 60);
  says(`gone in ${first} s, it says`);
  await page.screenshot({ path: `${shots}/draining.png`, fullPage: true });
  const later = await eventually("a smaller one", async () => {
    const now = await span();
    assert.ok(now < first, `${now} s`);
    return now;
  });
  says(`and then ${later} s`);
  await eventually("all is well again", async () => seen(await verdict(page), /All is well/), 90);

  says("a message that Kafka refuses");
  await act("limit", { bytes: 3000 });
  const { id: poison } = await act("poison");
  await eventually("it is told", async () => seen(await verdict(page), /Dead letters wait for a decision: 1/), 60);
  await look(page, "poison");
  await page.getByRole("link", { name: "message-too-large" }).click();
  await page.getByRole("link", { name: String(poison) }).click();
  seen(await text(page.locator("h1")), new RegExp(`Message ${poison}.*dead`, "s"));
  await look(page, "dead-message");
  await page.goto(`${url}/dead?class=message-too-large`);
  await look(page, "dead-letters");

  says("its group is retried once the limit is raised");
  await act("limit", { bytes: 1_000_000 });
  await eventually(
    "the retry is published",
    async () => {
      await page.goto(`${url}/dead?class=message-too-large`);
      const group = page.getByRole("button", { name: /Retry all/ });
      if (await group.count()) {
        await page.getByLabel("Reason").fill("the limit of the topic was raised");
        await group.click();
      }
      await page.goto(`${url}/outbox/${poison}`);
      const replays = page.locator("table.messages tbody tr");
      const states = await replays.allTextContents();
      assert.ok(states.some((state) => /published/.test(state)), states.join());
    },
    60,
  );
  await look(page, "retried");

  says("a replay: dry run, confirmation, pause, resume, end");
  await page.getByRole("link", { name: "Replays", exact: true }).click();
  await page.getByRole("link", { name: "New replay" }).click();
  await page.getByLabel("From").fill(new Date(Date.now() - 3600_000).toISOString().slice(0, 19));
  await page.getByLabel(/^Rate/).fill("1500");
  await page.getByRole("button", { name: "Dry run" }).click();
  const would = await text(page.locator(".big"));
  const count = would.match(/([\d,]+) messages/)[1].replaceAll(",", "");
  says(`the dry run says: ${would}`);
  await look(page, "dry-run");
  await page.getByLabel("Reason").fill("consumers lost a disk");
  await page.getByLabel(/to confirm/).fill(String(count - 1));
  await page.getByRole("button", { name: "Start the replay" }).click();
  seen(await text(page.locator(".notice").first()), /nothing was started/);
  await page.getByLabel(/to confirm/).fill(count);
  await page.getByRole("button", { name: "Start the replay" }).click();
  seen(page.url(), /\/replays\/[0-9a-f-]{36}/);
  const progress = async () => Number(await page.locator("#progress progress").getAttribute("value"));
  await eventually("it moves", async () => assert.ok((await progress()) > 0));
  await page.getByRole("button", { name: "Pause" }).click();
  seen(await text(page.locator("#progress")), /paused/);
  const stood = await progress();
  assert.ok(stood > 0 && stood < Number(count), `${stood} of ${count}`);
  await look(page, "replay-paused");
  await page.reload();
  assert.equal(await progress(), stood, "a paused replay stands still");
  await page.getByRole("button", { name: "Resume" }).click();
  await eventually("it goes on without a reload", async () => assert.ok((await progress()) > stood));
  await eventually("it is done", async () => seen(await text(page.locator("#progress")), /done/), 90);
  seen(await text(page.locator("#progress")), new RegExp(`${Number(count).toLocaleString("en")} of`));
  await look(page, "replay-done");
  await page.getByRole("link", { name: "Replays", exact: true }).click();
  await look(page, "replays");

  says("a pause, told on every page");
  await page.getByRole("link", { name: "Pause & retention" }).click();
  await page.getByLabel("Reason").fill("moving the brokers");
  await page.getByRole("button", { name: "Pause publishing" }).click();
  seen(await text(page.locator(".banner")), /moving the brokers/);
  await look(page, "control-paused");
  await page.goto(url);
  await eventually("the overview says it", async () => seen(await verdict(page), /Publishing is paused/));
  await look(page, "overview-paused");

  says("what is old is dropped by an admin");
  await act("expire-key");
  const admin = await operator("admin");
  await admin.goto(`${url}/control`);
  await admin.getByRole("button", { name: /Drop now what is old/ }).click();
  seen(await text(admin.locator("main")), /idempotency_keys\s*1/);
  await look(admin, "control-dry-run");
  await admin.getByLabel("Reason").last().fill("the disk is full");
  await admin.getByLabel("Type drop to confirm").fill("drop");
  await admin.getByRole("button", { name: "Drop it" }).click();
  seen(await text(admin.locator(".notice")), /Partitions: 0; idempotency keys: 1/);

  says("who may look only");
  const viewer = await operator("viewer");
  await viewer.goto(`${url}/control`);
  assert.equal(await viewer.getByRole("button", { name: /Resume/ }).count(), 0);
  const refused = await viewer.request.post(`${url}/control/resume`, { headers: { origin: url } });
  assert.equal(refused.status(), 403);
  seen(await text(viewer.locator(".banner")), /moving the brokers/);
  await viewer.goto(`${url}/dead?resolved=1`);
  assert.equal(await viewer.getByRole("button", { name: /Retry|Discard/ }).count(), 0);

  says("and it ends");
  await page.getByRole("link", { name: "Pause & retention" }).click();
  await page.getByRole("button", { name: "Resume publishing" }).click();
  await page.goto(url);
  await eventually("all is well", async () => seen(await verdict(page), /All is well/), 60);

  says("the rest, and in Korean");
  await page.getByRole("link", { name: "Operators’ log" }).click();
  seen(await text(page.locator("tbody")), /moving the brokers/);
  await look(page, "log");
  await page.getByRole("link", { name: "Settings" }).click();
  const settings = await text(page.locator("tbody"));
  assert.ok(!settings.includes("a secret of the tests"), "secrets are hidden");
  await look(page, "settings");
  await page.goto(`${url}/outbox/999999999`);
  await look(page, "not-found");
  await page.goto(url);
  await page.getByRole("link", { name: "한국어" }).click();
  assert.equal(await page.locator("html").getAttribute("lang"), "ko");
  await eventually("the live part is in Korean, too", async () => seen(await verdict(page), /정상/));
  await look(page, "korean");
  for (const [path, name] of [["outbox", "messages"], ["dead?resolved=1", "dead-letters"], ["replays/new", "new-replay"]]) {
    await page.goto(`${url}/${path}`);
    await look(page, `korean-${name}`);
  }

  says("by keyboard alone, and without JavaScript");
  await page.goto(url);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const tabTo = async (what) => {
    const wanted = page.locator(what);
    for (let stops = 0; stops < 100; stops++) {
      await page.keyboard.press("Tab");
      if (await wanted.evaluate((element) => element === document.activeElement)) {
        const shown = await wanted.evaluate((element) => [getComputedStyle(element).outlineStyle, getComputedStyle(element).boxShadow]);
        assert.notDeepEqual(shown, ["none", "none"], `${what} shows that it has the focus`);
        return;
      }
    }
    assert.fail(`no Tab leads to ${what}`);
  };
  await page.goto(url);
  await tabTo('nav a[href="/control"]');
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/control/);
  await tabTo("#reason");
  await page.keyboard.type("점심");
  await page.keyboard.press("Enter");
  seen(await text(page.locator(".banner")), /점심/);
  await look(page, "korean-paused");
  await tabTo('form[action="/control/resume"] button');
  await page.keyboard.press("Space");
  await eventually("the pause has ended", async () => assert.equal(await page.locator(".banner").count(), 0));
  const plain = await operator("operator", { javaScriptEnabled: false });
  // Nothing renews it here but a reload; the pause has only just ended.
  await eventually("all is well", async () => {
    await plain.goto(url);
    seen(await plain.locator("#verdict").textContent(), /All is well/);
  });
  assert.ok((await plain.locator(".plot path").first().getAttribute("d")).startsWith("M"), "the charts are there");
}

try {
  await mkdir(shots, { recursive: true });
  await scenario();
  assert.deepEqual(failures, []);
  says(`done: ${step} pages, each light and dark, wide and narrow; ${checks} rules of axe passed, none failed`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
