// Somebody with an account and a bot, by the front door alone.
// Never: a look behind it, but for what has to be gone when a bot is deleted.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { until } from "./installation.mjs";
import { open } from "./socket.mjs";

const GONE_MAX_MS = 30_000;
// What is only read.
const ANSWER_MAX_MS = 15_000;
const HISTORY_FRAMES = 200;
export const ENDS = ["finished", "failed", "aborted"];

export class Person {
  constructor(installation) {
    this.installation = installation;
  }

  static async signUp(installation, name) {
    const person = new Person(installation);
    person.email = `${name}-${randomUUID()}@example.com`;
    person.password = "a lobster in the garden";
    const account = { email: person.email, password: person.password, name: "Ada" };
    person.token = (await person.ask("POST", "/api/auth/signup", account)).token;
    return person;
  }

  async ask(method, path, body, more = {}) {
    const headers = { "content-type": "application/json", ...this.credentials(), ...more };
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

  credentials() {
    return this.token ? { authorization: `Bearer ${this.token}` } : {};
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
      const seen = await this.look();
      assert.notEqual(seen.status, "error", `given up: ${seen.reason}`);
      const whole = this.installation.cells(this.bot).length > 0 && this.installation.gateways(this.bot).length > 0;
      return seen.status === "running" && whole ? seen : null;
    });
  }

  async look() {
    return await this.ask("GET", `/api/bots/${this.bot}`);
  }

  // One message and the frames of its run, to the run's end.
  async turn(text, { conversation = "main", max_ms }) {
    const id = randomUUID();
    const began = Date.now();
    const frames = [];
    let run;
    const hear = (frame) => {
      if (frame.type === "ack" && frame.id === id) run = frame.run_id;
      if (run && frame.run_id === run) frames.push(frame);
    };
    const ends = ({ type, run_id, phase }) => type === "run" && run && run_id === run && ENDS.includes(phase);
    await this.chat([{ type: "send", id, conversation, text }], hear, ends, max_ms);
    const said = frames.filter(({ type, role, done }) => type === "message" && role === "assistant" && done);
    return { phase: frames.at(-1).phase, text: said.map(({ content }) => content).join("\n"), frames, took_ms: Date.now() - began };
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

  // The newest finished frames of the first conversation, as somebody sees them who comes fresh.
  async history() {
    let frames;
    const hear = ({ type, items }) => type === "history" && (frames = items);
    const ask = { type: "history", conversation: "main", limit: HISTORY_FRAMES };
    await this.chat([ask], hear, () => frames !== undefined, ANSWER_MAX_MS);
    return frames;
  }

  // What the person's live stream told of this kind, the first that is meant; also what was before.
  async event(kind, meant) {
    const signal = AbortSignal.timeout(ANSWER_MAX_MS);
    const headers = { ...this.credentials(), "last-event-id": "0" };
    const stream = await fetch(new URL("/api/events", this.installation.url), { headers, signal });
    let text = "";
    for await (const piece of stream.body.pipeThrough(new TextDecoderStream())) {
      const whole = (text + piece).split("\n\n");
      text = whole.pop();
      for (const told of whole) {
        const data = told.split("\n").find((line) => line.startsWith("data:"));
        const event = data && JSON.parse(data.slice(5));
        if (event?.kind === kind && meant(event.body)) return event.body;
      }
    }
    throw new Error(`no ${kind} was told`);
  }

  // Nothing of a deleted bot stays: no process, no folder, no row that anybody could ask for.
  async leave() {
    await this.ask("DELETE", `/api/bots/${this.bot}`);
    await until("everything of the bot is gone", GONE_MAX_MS, () => {
      return !this.installation.botFolders().includes(this.bot) && this.installation.processes(this.bot).length === 0;
    });
  }
}
