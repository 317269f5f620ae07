// A chat client of a few lines: sends one message, prints every frame, ends with the run. Nothing but Node.
// Never: a framework; this shows how little a program needs.
//
//   node chat.mjs http://127.0.0.1:8787 <bot> <ticket> <conversation> <text>

import { randomUUID } from "node:crypto";

import { open } from "./socket.mjs";

const [base, bot, ticket, conversation, text] = process.argv.slice(2);
const id = randomUUID();
let run;

function hear(words) {
  const said = JSON.parse(words);
  console.log(JSON.stringify(said));
  if (said.type === "ack" && said.id === id) run = said.run_id;
  if (said.type === "run" && said.run_id === run && ["finished", "failed", "aborted"].includes(said.phase)) {
    process.exit(said.phase === "finished" ? 0 : 1);
  }
}

function fail(why) {
  console.error(why);
  process.exit(2);
}

const closed = () => fail("the connection closed before the run ended");
const socket = await open(`${base}/api/chat/${bot}?ticket=${ticket}`, { text: hear, closed }).catch((error) => fail(error.message));
socket.say(JSON.stringify({ type: "send", id, conversation, text }));
