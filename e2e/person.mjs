// Somebody with an account and a bot, by the front door alone.
// Never: a look behind it, but for what has to be gone when a bot is deleted.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { until } from "./installation.mjs";
import { open } from "./socket.mjs";

const GONE_MAX_MS = 30_000;

export class Person {
  constructor(installation) {
    this.installation = installation;
  }

  static async signUp(installation, name) {
    const person = new Person(installation);
    const account = { email: `${name}-${randomUUID()}@example.com`, password: "a lobster in the garden", name: "Ada" };
    person.token = (await person.ask("POST", "/api/auth/signup", account)).token;
    return person;
  }

  async ask(method, path, body) {
    const headers = { "content-type": "application/json", ...(this.token && { authorization: `Bearer ${this.token}` }) };
    const answer = await fetch(new URL(path, this.installation.url), { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return text && answer.headers.get("content-type")?.includes("json") ? JSON.parse(text) : null;
  }

  // Somebody who signed up by the page.
  static async logIn(installation, account) {
    const person = new Person(installation);
    person.token = (await person.ask("POST", "/api/auth/login", account)).token;
    [{ id: person.bot }] = (await person.ask("GET", "/api/bots")).items;
    return person;
  }

  // Answers when the plan was accepted, in milliseconds.
  async takeBot() {
    this.bot = (await this.ask("POST", "/api/bots", { bot_name: "Pip", vertical: "researcher", timezone: "Europe/Lisbon" })).id;
    const { url } = await this.ask("POST", "/api/billing/checkout", { bot_id: this.bot });
    const accepted = Date.now();
    await this.ask("POST", url);
    return accepted;
  }

  // The bot, as soon as it runs in a cell with a runtime.
  async running(max_ms) {
    return await until("the bot runs", max_ms, async () => {
      const seen = await this.ask("GET", `/api/bots/${this.bot}`);
      assert.notEqual(seen.status, "error", `given up: ${seen.reason}`);
      const whole = this.installation.cells().length > 0 && this.installation.gateways().length > 0;
      return seen.status === "running" && whole ? seen : null;
    });
  }

  // Says these frames on a socket of its own and listens until `last` is heard.
  async chat(frames, hear, last, max_ms) {
    const { ticket } = await this.ask("POST", `/api/bots/${this.bot}/chat-ticket`);
    let socket;
    let timer;
    try {
      await new Promise((done, failed) => {
        timer = setTimeout(() => failed(new Error(`waited ${max_ms} ms in vain for a frame`)), max_ms);
        const text = (words) => {
          const frame = JSON.parse(words);
          hear(frame);
          if (last(frame)) done();
        };
        open(`${this.installation.url}/api/chat/${this.bot}?ticket=${ticket}`, { text, closed: (why) => failed(new Error(why)) })
          .then((opened) => {
            socket = opened;
            for (const frame of frames) socket.say(JSON.stringify(frame));
          })
          .catch(failed);
      });
    } finally {
      clearTimeout(timer);
      socket?.close();
    }
  }

  // Nothing of a deleted bot stays: no process, no folder, no row that anybody could ask for.
  async leave() {
    await this.ask("DELETE", `/api/bots/${this.bot}`);
    await until("everything of the bot is gone", GONE_MAX_MS, async () => {
      return this.installation.botFolders().length === 0 && this.installation.cells().length === 0 && this.installation.runtimes().length === 0;
    });
  }
}
