// The 25 cases of the Engine.IO protocol 4 suite, by their names. The server echoes every message.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  PING_INTERVAL, PING_TIMEOUT, assertOpen, assertRefused, connect, openPolling, poll, post, probe, request, sleep,
} from "./wire.js";

const options = { timeout: 5000 };

describe("Engine.IO protocol", () => {
  describe("handshake", () => {
    describe("HTTP long-polling", () => {
      it("successfully opens a session", options, async () => {
        const { status, body } = await request({ EIO: 4, transport: "polling" });
        assert.equal(status, 200);
        assertOpen(body, ["websocket"]);
      });

      it("fails with an invalid 'EIO' query parameter", options, async () => {
        assert.equal((await request({ transport: "polling" })).status, 400);
        assert.equal((await request({ EIO: "abc", transport: "polling" })).status, 400);
      });

      it("fails with an invalid 'transport' query parameter", options, async () => {
        assert.equal((await request({ EIO: 4 })).status, 400);
        assert.equal((await request({ EIO: 4, transport: "abc" })).status, 400);
      });

      it("fails with an invalid request method", options, async () => {
        assert.equal((await request({ EIO: 4, transport: "polling" }, { method: "POST" })).status, 400);
        assert.equal((await request({ EIO: 4, transport: "polling" }, { method: "PUT" })).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("successfully opens a session", options, async () => {
        const wire = connect();
        assertOpen(await wire.next(), []);
        wire.close();
      });

      it("fails with an invalid 'EIO' query parameter", options, async () => {
        await assertRefused({ transport: "websocket" });
        await assertRefused({ EIO: "abc", transport: "websocket" });
      });

      it("fails with an invalid 'transport' query parameter", options, async () => {
        await assertRefused({ EIO: 4 });
        await assertRefused({ EIO: 4, transport: "abc" });
      });
    });
  });

  describe("message", () => {
    describe("HTTP long-polling", () => {
      async function assertEcho(payload) {
        const sid = await openPolling();
        assert.deepEqual(await post(sid, payload), { status: 200, body: "ok" });
        assert.deepEqual(await poll(sid), { status: 200, body: payload });
      }

      it("sends and receives a payload containing one plain text packet", options, () => assertEcho("4hello"));

      it("sends and receives a payload containing several plain text packets", options, () =>
        assertEcho("4test1\x1e4test2\x1e4test3"));

      it("sends and receives a payload containing plain text and binary packets", options, () =>
        assertEcho("4hello\x1ebAQIDBA=="));

      it("closes the session upon invalid packet format", options, async () => {
        const sid = await openPolling();
        assert.equal((await post(sid, "abc")).status, 400);
        assert.equal((await poll(sid)).status, 400);
      });

      it("closes the session upon duplicate poll requests", options, async () => {
        const sid = await openPolling();
        const [first, second] = await Promise.all([poll(sid), sleep(20).then(() => poll(sid))]);
        assert.deepEqual(first, { status: 200, body: "1" });
        assert.equal(second.status, 400);
        assert.equal((await poll(sid)).status, 400);
      });

      it("closes the session upon cancelled polling request", options, async () => {
        const sid = await openPolling();
        const cancel = new AbortController();
        const cancelled = assert.rejects(poll(sid, { signal: cancel.signal }));
        await sleep(20);
        cancel.abort();
        await cancelled;
        assert.equal((await poll(sid)).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("sends and receives a plain text packet", options, async () => {
        const wire = connect();
        await wire.next();
        wire.send("4hello");
        assert.equal(await wire.next(), "4hello");
        wire.close();
      });

      it("sends and receives a binary packet", options, async () => {
        const wire = connect();
        await wire.next();
        wire.send(Buffer.from([1, 2, 3, 4]));
        assert.deepEqual(await wire.next(), Buffer.from([1, 2, 3, 4]));
        wire.close();
      });

      it("closes the session upon invalid packet format", options, async () => {
        const wire = connect();
        await wire.next();
        wire.send("abc");
        await wire.closed;
      });
    });
  });

  describe("heartbeat", () => {
    describe("HTTP long-polling", () => {
      it("sends ping/pong packets", options, async () => {
        const sid = await openPolling();
        for (let i = 0; i < 3; i++) {
          assert.deepEqual(await poll(sid), { status: 200, body: "2" });
          assert.equal((await post(sid, "3")).status, 200);
        }
      });

      it("closes the session upon ping timeout", options, async () => {
        const sid = await openPolling();
        await sleep(PING_INTERVAL + PING_TIMEOUT + 20);
        assert.equal((await poll(sid)).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("sends ping/pong packets", options, async () => {
        const wire = connect();
        await wire.next();
        for (let i = 0; i < 3; i++) {
          assert.equal(await wire.next(), "2");
          wire.send("3");
        }
        wire.close();
      });

      it("closes the session upon ping timeout", options, async () => {
        const began = performance.now();
        await connect().closed;
        assert.ok(performance.now() - began >= PING_INTERVAL + PING_TIMEOUT - 20);
      });
    });
  });

  describe("close", () => {
    describe("HTTP long-polling", () => {
      it("forcefully closes the session", options, async () => {
        const sid = await openPolling();
        const [ended, closed] = await Promise.all([poll(sid), post(sid, "1")]);
        assert.deepEqual(ended, { status: 200, body: "6" });
        assert.deepEqual(closed, { status: 200, body: "ok" });
        assert.equal((await poll(sid)).status, 400);
      });
    });

    describe("WebSocket", () => {
      it("forcefully closes the session", options, async () => {
        const wire = connect();
        await wire.next();
        const began = performance.now();
        wire.send("1");
        await wire.closed;
        assert.ok(performance.now() - began < PING_INTERVAL, "closed for silence, not for the CLOSE packet");
      });
    });
  });

  describe("upgrade", () => {
    it("successfully upgrades from HTTP long-polling to WebSocket", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      assert.deepEqual(await poll(sid), { status: 200, body: "6" });
      wire.send("5");
      wire.send("4hello");
      assert.equal(await wire.next(), "4hello");
      wire.close();
    });

    it("ignores HTTP requests with same sid after upgrade", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      wire.send("5");
      assert.equal((await poll(sid)).status, 400);
      wire.send("4hello");
      assert.equal(await wire.next(), "4hello");
      wire.close();
    });

    it("ignores WebSocket connection with same sid after upgrade", options, async () => {
      const sid = await openPolling();
      const wire = await probe(sid);
      wire.send("5");
      await connect(sid).closed;
      wire.send("4hello");
      assert.equal(await wire.next(), "4hello");
      wire.close();
    });
  });
});
