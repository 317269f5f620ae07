// A chat client of forty lines: sends one message, prints every frame, ends with the run. Nothing but Node.
// Never: a framework; this shows how little a program needs.
//
//   node chat.mjs http://127.0.0.1:8787 <bot> <ticket> <conversation> <text>

import { createHash, randomBytes, randomUUID } from "node:crypto";
import { request } from "node:http";

const [base, bot, ticket, conversation, text] = process.argv.slice(2);
const key = randomBytes(16).toString("base64");
const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key };
const asked = request(`${base}/api/chat/${bot}?ticket=${ticket}`, { headers });

asked.on("response", (answer) => answer.on("data", (problem) => fail(`refused: ${problem}`)));
asked.on("error", (error) => fail(error.message));
asked.on("upgrade", (answer, socket) => {
  const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  if (answer.headers["sec-websocket-accept"] !== accept) fail("not a WebSocket");
  const id = randomUUID();
  let run;
  let bytes = Buffer.alloc(0);
  socket.write(frame(0x1, JSON.stringify({ type: "send", id, conversation, text })));
  socket.on("close", () => fail("the connection closed before the run ended"));
  socket.on("data", (more) => {
    bytes = Buffer.concat([bytes, more]);
    for (let next; (next = take(bytes)); bytes = next.rest) {
      if (next.kind === 0x9) socket.write(frame(0xa, next.payload));
      if (next.kind !== 0x1) continue;
      const said = JSON.parse(next.payload);
      console.log(JSON.stringify(said));
      if (said.type === "ack" && said.id === id) run = said.run_id;
      if (said.type === "run" && said.run_id === run && ["finished", "failed", "aborted"].includes(said.phase)) {
        process.exit(said.phase === "finished" ? 0 : 1);
      }
    }
  });
});
asked.end();

// One frame as a client sends it: masked (RFC 6455, 5.2).
function frame(kind, payload) {
  const data = Buffer.from(payload);
  const mask = randomBytes(4);
  const size = data.length < 126 ? [0x80 | data.length] : [0x80 | 126, data.length >> 8, data.length & 0xff];
  if (data.length > 0xffff) fail("a message of at most 64 KiB, please");
  return Buffer.concat([Buffer.from([0x80 | kind, ...size]), mask, data.map((byte, at) => byte ^ mask[at % 4])]);
}

// The first whole frame, or nothing yet. Servers don't mask, and this one doesn't split.
function take(bytes) {
  if (bytes.length < 2) return null;
  const short = bytes[1] & 0x7f;
  const start = short === 127 ? 10 : short === 126 ? 4 : 2;
  if (bytes.length < start) return null;
  const size = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short;
  if (bytes.length < start + size) return null;
  return { kind: bytes[0] & 0x0f, payload: bytes.subarray(start, start + size), rest: bytes.subarray(start + size) };
}

function fail(why) {
  console.error(why);
  process.exit(2);
}
