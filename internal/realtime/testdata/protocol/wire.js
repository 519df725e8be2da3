// What both suites need: HTTP requests and WebSockets that show every packet. The server's address comes as $SERVER, e.g.
// http://127.0.0.1:4000/engine.io/
import assert from "node:assert/strict";
import { WebSocket } from "ws";

export const PING_INTERVAL = 300;
export const PING_TIMEOUT = 200;
export const MAX_PAYLOAD = 1000000;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function address(query) {
  const url = new URL(process.env.SERVER);
  url.search = new URLSearchParams(query);
  return url;
}

/** An HTTP request with these query parameters; gives {status, body}. */
export async function request(query, init) {
  const response = await fetch(address(query), init);
  return { status: response.status, body: await response.text() };
}

const session = (sid) => ({ EIO: 4, transport: "polling", sid });

export const poll = (sid, init) => request(session(sid), init);
export const post = (sid, body) => request(session(sid), { method: "POST", body });

/** Opens a long-polling session and gives its id. */
export async function openPolling() {
  const { status, body } = await request({ EIO: 4, transport: "polling" });
  assert.equal(status, 200);
  return JSON.parse(body.slice(1)).sid;
}

/** A WebSocket whose packets are read one after the other; binary ones are Buffers. */
export class Wire {
  #packets = [];
  #waiting = [];

  constructor(query) {
    const url = address(query);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.on("error", () => {}); // "close" follows
    this.closed = new Promise((resolve) => this.socket.on("close", resolve));
    this.opened = new Promise((resolve) => this.socket.on("open", resolve));
    this.socket.on("message", (data, binary) => {
      const packet = binary ? data : data.toString();
      const next = this.#waiting.shift();
      next ? next(packet) : this.#packets.push(packet);
    });
  }

  next() {
    if (this.#packets.length > 0) {
      return Promise.resolve(this.#packets.shift());
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** The next packet that is no PING. */
  async nextPacket() {
    for (;;) {
      const packet = await this.next();
      if (packet !== "2") {
        return packet;
      }
    }
  }

  send(packet) {
    this.socket.send(packet);
  }

  close() {
    this.socket.close();
  }
}

/** A new WebSocket session, or the upgrade of sid. */
export const connect = (sid) => new Wire({ EIO: 4, transport: "websocket", ...(sid && { sid }) });

/** Opens a session, upgrades it up to the probe's answer, and gives the WebSocket. */
export async function probe(sid) {
  const wire = connect(sid);
  await wire.opened;
  wire.send("2probe");
  assert.equal(await wire.next(), "3probe");
  return wire;
}

/** The OPEN packet (Engine.IO protocol, "Handshake"). */
export function assertOpen(packet, upgrades) {
  assert.equal(packet[0], "0");
  const open = JSON.parse(packet.slice(1));
  assert.deepEqual(Object.keys(open).sort(), ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]);
  assert.equal(typeof open.sid, "string");
  assert.deepEqual(open.upgrades, upgrades);
  assert.equal(open.pingInterval, PING_INTERVAL);
  assert.equal(open.pingTimeout, PING_TIMEOUT);
  assert.equal(open.maxPayload, MAX_PAYLOAD);
}

export async function assertRefused(query) {
  const wire = new Wire(query);
  await wire.closed;
}
