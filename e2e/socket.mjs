// A WebSocket client of a few dozen lines (RFC 6455), for text frames. Nothing but Node.
// Never: more than a chat client needs; what doesn't fit ends the connection.

import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";

// The longest message that fits into the two bytes that this client uses for a length.
const MESSAGE_BYTES_MAX = 0xffff;

// Opens a socket: `text` hears every message, `closed` is told once why nothing more comes. Answers { say, close } as soon
// as the other side has agreed.
export function open(url, { text, closed }) {
  const key = randomBytes(16).toString("base64");
  const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key };
  const asked = request(url, { headers });
  return new Promise((opened, failed) => {
    asked.on("response", (answer) => answer.on("data", (problem) => failed(new Error(`refused: ${problem}`))));
    asked.on("error", failed);
    asked.on("upgrade", (answer, socket, first) => {
      const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
      if (answer.headers["sec-websocket-accept"] !== accept) return failed(new Error("not a WebSocket"));
      socket.on("error", () => {});
      socket.on("close", () => closed("the connection closed"));
      let bytes = Buffer.alloc(0);
      const read = (more) => {
        bytes = Buffer.concat([bytes, more]);
        for (let next; (next = take(bytes)); bytes = next.rest) {
          if (next.kind === 0x9) socket.write(frame(0xa, next.payload));
          if (next.kind === 0x1) text(next.payload.toString());
        }
      };
      socket.on("data", read);
      read(first);
      opened({ say: (words) => socket.write(frame(0x1, Buffer.from(words))), close: () => socket.destroy() });
    });
    asked.end();
  });
}

// One frame as a client sends it: masked (5.2).
function frame(kind, payload) {
  if (payload.length > MESSAGE_BYTES_MAX) throw new Error("a message of at most 64 KiB, please");
  const mask = randomBytes(4);
  const size = payload.length < 126 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 0xff];
  return Buffer.concat([Buffer.from([0x80 | kind, ...size]), mask, payload.map((byte, at) => byte ^ mask[at % 4])]);
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
