// Two places on the web for assistants to ask for, both on this machine: one that the operator listed, one that nobody did.
// Their names lead here by `[egress.private]` and nowhere else; they are asked for by HTTP.
// Never: a look-up, or a machine that isn't this one.

import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";

export const LISTED = "news.example";
export const UNLISTED = "recipes.example";
const PAGES = {
  [LISTED]: { title: "News of the harbour", words: "Seven blue lobsters came ashore this morning." },
  [UNLISTED]: { title: "Recipes of the harbour", words: "The soup needs a leek and two hours." },
};

export class Web {
  constructor() {
    // The paths that each was asked for.
    this.asked = { [LISTED]: [], [UNLISTED]: [] };
  }

  static async open() {
    const web = new Web();
    web.servers = await Promise.all(Object.keys(PAGES).map((name) => web.serve(name)));
    return web;
  }

  async serve(name) {
    const { title, words } = PAGES[name];
    const page = `<!doctype html><html><head><title>${title}</title></head><body><h1>${title}</h1><p>${words}</p></body></html>`;
    const server = createServer((request, response) => {
      this.asked[name].push(request.url);
      response.setHeader("content-type", "text/html").end(page);
    });
    await once(server.listen(0, "127.0.0.1"), "listening");
    return { name, server };
  }

  // What an operator writes to give these names their places.
  settings() {
    const places = this.servers.map(({ name, server }) => `"${name}:80" = "127.0.0.1:${server.address().port}"\n`);
    return `[egress]\nallow = ["${LISTED}"]\n[egress.private]\n${places.join("")}`;
  }

  // As a file at this path.
  write(path) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, this.settings());
    return path;
  }

  close() {
    for (const { server } of this.servers) server.close();
  }
}
