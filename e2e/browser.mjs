// Debian's Chromium, and pictures of every station at phone and desk size, light and dark.
// Never: a browser that calls home, or a profile that an earlier run left.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PROGRAMS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
export const DESK = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };
const LOOKS = [
  ["desk-light", DESK, "light"],
  ["desk-dark", DESK, "dark"],
  ["phone-light", PHONE, "light"],
  ["phone-dark", PHONE, "dark"],
];
// A person's own words, long enough for the slowest thing on a page.
const PATIENCE_MS = 30_000;

export async function openBrowser(pictures) {
  const executablePath = PROGRAMS.find(existsSync);
  if (!executablePath) throw new Error("no Chromium on this machine: apt-get install chromium");
  mkdirSync(pictures, { recursive: true });
  const profile = mkdtempSync(join(tmpdir(), "molt-e2e-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: FLAGS,
    viewport: DESK,
    colorScheme: "light",
    timezoneId: "Europe/Lisbon",
    locale: "en-GB",
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = context.pages()[0] ?? (await context.newPage());
  const faults = [];
  page.on("pageerror", (error) => faults.push(`page error: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !expected(message.text())) faults.push(`console: ${message.text()}`);
  });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  // Of a moment that doesn't wait.
  const picture = (name) => page.screenshot({ path: join(pictures, `${name}-desk-light.png`) });
  return { page, faults, close, picture, pictures: (name) => takePictures(page, pictures, name) };
}

// A connection that breaks is told on the console by the browser itself; the journey breaks one on purpose. The first look
// for a session of somebody new is answered with 401.
function expected(text) {
  return /WebSocket connection|ERR_CONNECTION|ERR_INCOMPLETE|ERR_NETWORK|status of 401|status of 503/.test(text);
}

async function takePictures(page, folder, name) {
  for (const [look, size, colorScheme] of LOOKS) {
    await page.setViewportSize(size);
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(250);
    await page.screenshot({ path: join(folder, `${name}-${look}.png`) });
  }
  await page.setViewportSize(DESK);
  await page.emulateMedia({ colorScheme: "light" });
  await page.waitForTimeout(100);
}
